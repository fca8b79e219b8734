/* Family "adapter": the list expanded to a table, and look-up. */
#include <string.h>

#include "adapter/adapter.h"

const lora__kind *const lora__kinds[] = {
#define LORA__KIND(name) &lora__kind_##name,
#include "adapter/list.h"
#undef LORA__KIND
	NULL
};

const lora__kind *lora__kind_find(const char *name)
{
	for (int i = 0; lora__kinds[i]; i++)
		if (strcmp(lora__kinds[i]->m.name, name) == 0) return lora__kinds[i];
	return NULL;
}

const lora__kind *lora__kind_of_peft(const char *peft_type)
{
	for (int i = 0; lora__kinds[i]; i++)
		if (strcmp(lora__kinds[i]->peft_type, peft_type) == 0) return lora__kinds[i];
	return NULL;
}
