/* RMSNorm: y = x * rstd * (offset + w), rstd = 1 / sqrt(mean(x^2) + eps). Zhang, Sennrich 2019, arXiv:1910.07467, eq. 4.
 * w[0] weight[d]; f[0] eps; f[1] offset (0; 1 for Gemma). i[0] groups: each row is that many vectors of d, normalised on their own (norms
 * of single heads); 0 = 1. Saved: rstd[n * groups] in the wide type. */
#include "ops/op.h"

static int64_t groups(const lora__node *n) { return n->i[0] > 1 ? n->i[0] : 1; }

static uint32_t keeps(const lora__node *n) { return (void)n, LORA__KEEP_IN0; }

static size_t saved_bytes(const lora__node *n, lora_dtype real, int64_t rows) { return lora__dtype_size(lora__wide(real)) * (size_t)(rows * groups(n)); }

/* [n, groups * d] as [n * groups, d]; values of the graph are dense. */
static lora_view each(const lora__exec *e, lora_view v)
{
	int64_t g = groups(e->node), d = v.size[1] / g;
	return g == 1 || !v.data ? v : lora__view2(v.data, v.dtype, v.size[0] * g, d, d);
}

static lora_view rstd(const lora__exec *e) { return lora__view1(e->saved, lora__wide(e->real), e->in[0].size[0] * groups(e->node)); }

static lora_status forward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_RMSNORM, 4);
	c.v[0] = each(e, e->out[0]), c.v[1] = each(e, e->in[0]), c.v[2] = e->node->w[0], c.v[3] = rstd(e);
	c.f[0] = e->node->f[0], c.f[1] = e->node->f[1];
	return lora__run(e->ctx, &c);
}

static lora_status backward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_RMSNORM_BWD, 5);
	c.v[0] = each(e, e->din[0]), c.v[1] = each(e, e->in[0]), c.v[2] = e->node->w[0], c.v[3] = rstd(e), c.v[4] = each(e, e->dout[0]);
	c.f[0] = e->node->f[1], c.f[1] = e->din_beta[0];
	return lora__run(e->ctx, &c);
}

const lora__op lora__op_rmsnorm = { .m = { "rmsnorm", "root mean square norm", "arXiv:1910.07467 eq. 4", NULL }, .flags = LORA__OP_CHEAP, .keeps = keeps,
	.saved_bytes = saved_bytes, .forward = forward, .backward = backward };
