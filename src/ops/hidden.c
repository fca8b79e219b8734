/* Hands rows to the caller when they are asked for: hidden states. in: x[n,d]; no output, no gradient. */
#include "ops/op.h"

static lora_status forward(lora__exec *e)
{
	int64_t d = e->in[0].size[1];
	size_t row = lora__dtype_size(e->real) * (size_t)d;
	for (int64_t r = 0; e->rows->hidden && r < e->rows->n; r++)
		if (e->rows->logit_row[r] >= 0) lora__convert(e->rows->hidden + e->rows->logit_row[r] * d, LORA_F32, (const char *)e->in[0].data + row * (size_t)r, e->real, (size_t)d);
	return LORA_OK;
}

const lora__op lora__op_hidden = { .m = { "hidden", "hidden states for the caller", "transformers' last_hidden_state", NULL }, .forward = forward };
