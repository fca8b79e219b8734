/* Family "op": the list expanded to a table. */
#include "ops/op.h"

const lora__op *const lora__ops[] = {
#define LORA__OP(name) &lora__op_##name,
#include "ops/list.h"
#undef LORA__OP
	NULL
};
