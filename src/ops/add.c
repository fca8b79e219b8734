/* Residual sum: out[n,d] = a + b. Both gradients are dout itself; the plan shares its buffer where that is safe. */
#include "ops/op.h"

static lora_status forward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_ADD, 3);
	c.v[0] = e->out[0], c.v[1] = e->in[0], c.v[2] = e->in[1];
	return lora__run(e->ctx, &c);
}

static lora_status backward(lora__exec *e)
{
	lora_status st = LORA_OK;
	for (int k = 0; k < 2 && st == LORA_OK; k++)
		if (e->din[k].data && e->din[k].data != e->dout[0].data) st = lora__axpby(e->ctx, 1.0, e->dout[0], e->din_beta[k], e->din[k]);
	return st;
}

const lora__op lora__op_add = { .m = { "add", "residual sum", "He et al. 2016, arXiv:1512.03385", NULL }, .flags = LORA__OP_SUM,
	.forward = forward, .backward = backward };
