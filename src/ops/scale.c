/* A constant factor: out[n,d] = f[0] * in; din = f[0] * dout. */
#include "ops/op.h"

static lora_status forward(lora__exec *e) { return lora__axpby(e->ctx, e->node->f[0], e->in[0], 0.0, e->out[0]); }
static lora_status backward(lora__exec *e) { return lora__axpby(e->ctx, e->node->f[0], e->dout[0], e->din_beta[0], e->din[0]); }

const lora__op lora__op_scale = { .m = { "scale", "constant factor", "T5: arXiv:1910.10683; transformers T5ForConditionalGeneration", NULL }, .forward = forward,
	.backward = backward };
