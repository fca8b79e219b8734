/* Family "search": the list expanded to a table, and look-up. */
#include <string.h>

#include "search/search.h"

const lora__search *const lora__searches[] = {
#define LORA__SEARCH(name) &lora__search_##name,
#include "search/list.h"
#undef LORA__SEARCH
	NULL
};

const lora__search *lora__search_find(const char *name)
{
	for (int i = 0; lora__searches[i]; i++)
		if (strcmp(lora__searches[i]->m.name, name) == 0) return lora__searches[i];
	return NULL;
}
