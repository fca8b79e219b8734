/* LayerNorm: y = (x - mean) * rstd * w + b, rstd = 1 / sqrt(var + eps). Ba, Kiros, Hinton 2016, arXiv:1607.06450, eq. 3.
 * w[0] weight[d]; w[1] bias[d] (data NULL: none); f[0] eps. Saved: mean[n], then rstd[n] in the wide type. */
#include "ops/op.h"

static uint32_t keeps(const lora__node *n) { return (void)n, LORA__KEEP_IN0; }

static size_t saved_bytes(const lora__node *n, lora_dtype real, int64_t rows) { return (void)n, 2 * lora__dtype_size(lora__wide(real)) * (size_t)rows; }

/* Statistic 0 (mean) or 1 (rstd) of the rows. */
static lora_view statistic(const lora__exec *e, int which)
{
	lora_dtype wide = lora__wide(e->real);
	return lora__view1(e->saved + (size_t)which * lora__dtype_size(wide) * (size_t)e->row_capacity, wide, e->in[0].size[0]);
}

static lora_status forward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_LAYERNORM, 6);
	c.v[0] = e->out[0], c.v[1] = e->in[0], c.v[2] = e->node->w[0], c.v[3] = e->node->w[1], c.v[4] = statistic(e, 0), c.v[5] = statistic(e, 1);
	c.f[0] = e->node->f[0];
	return lora__run(e->ctx, &c);
}

static lora_status backward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_LAYERNORM_BWD, 6);
	c.v[0] = e->din[0], c.v[1] = e->in[0], c.v[2] = e->node->w[0], c.v[3] = statistic(e, 0), c.v[4] = statistic(e, 1), c.v[5] = e->dout[0];
	c.f[0] = e->din_beta[0];
	return lora__run(e->ctx, &c);
}

const lora__op lora__op_layernorm = { .m = { "layernorm", "layer norm", "arXiv:1607.06450 eq. 3", NULL }, .flags = LORA__OP_CHEAP, .keeps = keeps,
	.saved_bytes = saved_bytes, .forward = forward, .backward = backward };
