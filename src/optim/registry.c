/* Tables of the families "optimizer" and "schedule". */
#include "optim/optim.h"

#define LORA__OPTIM(name) &lora__optim_##name,
const lora__optim *const lora__optims[] = {
#include "optim/list.h"
	NULL
};
#undef LORA__OPTIM

#define LORA__SCHEDULE(name) &lora__schedule_##name,
const lora__schedule *const lora__schedules[] = {
#include "optim/list.h"
	NULL
};
#undef LORA__SCHEDULE

const lora__schedule *lora__schedule_find(const char *name)
{
	for (int i = 0; name && lora__schedules[i]; i++)
		if (strcmp(lora__schedules[i]->m.name, name) == 0) return lora__schedules[i];
	return NULL;
}
