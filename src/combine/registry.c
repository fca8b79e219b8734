/* Family "combination": the list expanded to a table, and look-up. */
#include <string.h>

#include "combine/combine.h"

const lora__combination *const lora__combinations[] = {
#define LORA__COMBINATION(name) &lora__combination_##name,
#include "combine/list.h"
#undef LORA__COMBINATION
	NULL
};

const lora__combination *lora__combination_find(const char *name)
{
	for (int i = 0; lora__combinations[i]; i++)
		if (strcmp(lora__combinations[i]->m.name, name) == 0) return lora__combinations[i];
	return NULL;
}
