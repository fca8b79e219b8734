/* Family "architecture": the list expanded to a table. */
#include "model/model.h"

const lora__arch *const lora__archs[] = {
#define LORA__ARCH(name) &lora__arch_##name,
#include "model/list.h"
#undef LORA__ARCH
	NULL
};
