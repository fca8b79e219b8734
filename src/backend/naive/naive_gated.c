/* GATED: h = act(gate) * up, or act(gate) alone, and its gradient. Shazeer 2020, arXiv:2002.05202; activations: SiLU x sigmoid(x)
 * (arXiv:1702.03118), GELU by erf and by tanh (arXiv:1606.08415), ReLU with derivative 0 at 0, as torch has them. */
#include "backend/naive/naive_gated.h"

#define NAIVE_NO_BF16
#define NAIVE_TEMPLATE "backend/naive/naive_gated.inc"
#include "backend/naive/naive_each.h"

static lora_status run(lora__naive *self, gated_job *j, lora_task_fn fn)
{
	if (j->c->i[0] < LORA_ACT_SILU || j->c->i[0] > LORA_ACT_TANH)
		return lora__naive_fail(self, LORA_E_UNSUPPORTED, "primitive gated: unknown activation %lld", (long long)j->c->i[0]);
	lora__naive_parallel(self, j->g.row_blocks * j->g.col_blocks, 8.0 * (double)j->g.n * (double)j->g.d, fn, j);
	return LORA_OK;
}

static const lora_view *given(const lora_call *c, int i) { return c->n_views > i && c->v[i].data ? &c->v[i] : NULL; }

static int silu_bf16(const lora__naive *self, const lora_call *c, lora_dtype real) { return self->isa >= 3 && real == LORA_BF16 && c->i[0] == LORA_ACT_SILU; }

lora_status lora__naive_gated(lora__naive *self, const lora_call *c, lora_dtype real)
{
	gated_job j = { c, lora__naive_split(c, 0, 2, 1), given(c, 2), NULL, real == LORA_BF16 };
	return run(self, &j, silu_bf16(self, c, real) ? lora__gated_silu_bf16 : PICK_WIDE(self, real, gated));
}

lora_status lora__naive_gated_bwd(lora__naive *self, const lora_call *c, lora_dtype real)
{
	gated_job j = { c, lora__naive_split(c, 0, 4, 1), given(c, 3), given(c, 1), real == LORA_BF16 };
	return run(self, &j, silu_bf16(self, c, real) ? lora__gated_silu_bwd_bf16 : PICK_WIDE(self, real, gated_bwd));
}
