/* One row per sequence: its first token's. out[s,d] in space 0, in[n,d] in space 1; the rows' ids are the numbers of those tokens.
 * Backward: the gradient goes to those rows, all others get none. Source: Devlin et al. 2018, arXiv:1810.04805, section 4.1 ([CLS]). */
#include <string.h>

#include "ops/op.h"

static lora_status forward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_EMBED, 3);
	c.v[0] = e->out[0], c.v[1] = e->in[0], c.v[2] = lora__view1(e->rows->ids, LORA_I32, e->rows->n);
	c.f[0] = 1.0;
	return lora__run(e->ctx, &c);
}

static lora_status backward(lora__exec *e)
{
	int64_t d = e->din[0].size[1];
	size_t row = lora__dtype_size(e->real) * (size_t)d;
	lora_status st = LORA_OK;
	if (e->din_beta[0] == 0) memset(e->din[0].data, 0, row * (size_t)e->din[0].size[0]);
	for (int64_t s = 0; s < e->rows->n && st == LORA_OK; s++) {
		lora_view from = lora__view2((char *)e->dout[0].data + row * (size_t)s, e->real, 1, d, d);
		lora_view to = lora__view2((char *)e->din[0].data + row * (size_t)e->rows->ids[s], e->real, 1, d, d);
		st = lora__axpby(e->ctx, 1.0, from, 1.0, to);
	}
	return st;
}

const lora__op lora__op_first = { .m = { "first", "first token of each sequence", "arXiv:1810.04805 section 4.1", NULL }, .forward = forward,
	.backward = backward };
