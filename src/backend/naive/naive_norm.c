/* RMSNORM: y = x / sqrt(mean(x^2) + eps) * (offset + w), and its gradient with w frozen. Zhang and Sennrich 2019, arXiv:1910.07467,
 * equation 4; eps inside the root as in LLaMA; offset 1 is Gemma's form. Sums run over 32 lanes in the type of arithmetic. */
#include "backend/naive/naive_norm.h"

#define NAIVE_AVX2
#define NAIVE_TEMPLATE "backend/naive/naive_norm.inc"
#include "backend/naive/naive_each.h"

static void add_offset(void *w, lora_dtype wide, int64_t n, double offset)
{
	for (int64_t i = 0; i < n; i++)
		if (wide == LORA_F64) ((double *)w)[i] += offset;
		else ((float *)w)[i] += (float)offset;
}

static lora_status run(lora__naive *self, const lora_call *c, lora_dtype real, double offset, lora_task_fn fn)
{
	norm_job j = { c, lora__naive_split(c, 0, 0, 0), NULL };
	if (!j.g.n || !j.g.d) return LORA_OK;
	void *w = lora__naive_scratch(self, (size_t)j.g.d * lora__dtype_size(lora__wide(real)));
	if (!w) return LORA_E_MEMORY;
	lora__convert(w, lora__wide(real), c->v[2].data, c->v[2].dtype, (size_t)c->v[2].size[0]);
	if (offset != 0) add_offset(w, lora__wide(real), c->v[2].size[0], offset);
	j.w = w;
	lora__naive_parallel(self, j.g.row_blocks * j.g.col_blocks, (double)j.g.n * (double)j.g.d, fn, &j);
	lora__naive_release(self, w);
	return LORA_OK;
}

lora_status lora__naive_rmsnorm(lora__naive *self, const lora_call *c, lora_dtype real)
{
	return run(self, c, real, c->f[1], self->isa >= 3 && real == LORA_BF16 ? lora__rmsnorm_bf16 : PICK_AVX2(self, real, rmsnorm));
}

lora_status lora__naive_rmsnorm_bwd(lora__naive *self, const lora_call *c, lora_dtype real)
{
	return run(self, c, real, c->f[0], self->isa >= 3 && real == LORA_BF16 ? lora__rmsnorm_bwd_bf16 : PICK_AVX2(self, real, rmsnorm_bwd));
}
