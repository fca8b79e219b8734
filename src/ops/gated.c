/* Gated activation: h = act(gate) * up. Shazeer 2020, arXiv:2002.05202, eq. 6 (SwiGLU with silu). in: gate[n,d], up[n,d]; out h[n,d].
 * i[0] activation (LORA_ACT_*). With one input: plain activation. */
#include "ops/op.h"

static uint32_t keeps(const lora__node *n) { return n->n_in == 2 ? LORA__KEEP_IN0 | LORA__KEEP_IN1 : LORA__KEEP_IN0; }

static lora_status forward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_GATED, 3);
	c.v[0] = e->out[0], c.v[1] = e->in[0];
	if (e->node->n_in == 2) c.v[2] = e->in[1];
	c.i[0] = e->node->i[0];
	return lora__run(e->ctx, &c);
}

static size_t scratch_bytes(const lora__node *n, lora_dtype real, int64_t rows)
{
	return lora__dtype_size(real) * (size_t)rows * (size_t)n->i[1] * 2;
}

static lora_status backward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_GATED_BWD, 5);
	size_t bytes = lora__dtype_size(e->real) * (size_t)(e->rows->n * e->node->i[1]);
	for (int k = 0; k < e->node->n_in; k++) {
		c.v[k] = e->din[k];
		if (!e->din[k].data || e->din_beta[k] != 0) c.v[k] = lora__view2(e->scratch + bytes * (size_t)k, e->real, e->rows->n, e->node->i[1], e->node->i[1]);
	}
	c.v[2] = e->in[0];
	if (e->node->n_in == 2) c.v[3] = e->in[1];
	c.v[4] = e->dout[0];
	c.i[0] = e->node->i[0];
	lora_status st = lora__run(e->ctx, &c);
	for (int k = 0; k < e->node->n_in && st == LORA_OK; k++)
		if (e->din[k].data && e->din_beta[k] != 0) st = lora__axpby(e->ctx, 1.0, c.v[k], 1.0, e->din[k]);
	return st;
}

const lora__op lora__op_gated = { .m = { "gated", "gated or plain activation", "arXiv:2002.05202 eq. 6", NULL }, .flags = LORA__OP_CHEAP, .keeps = keeps,
	.scratch_bytes = scratch_bytes, .forward = forward, .backward = backward };
