/* LAYERNORM: y = (x - mean) / sqrt(var + eps) * w + b with the biased variance about the mean (two passes), and its gradient with w and b frozen.
 * Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 3. Sums run over LANES lanes in the type of arithmetic. Rows in BF16 are widened to
 * rows of their own first, so the loops exist for the types of arithmetic only. */
#include "backend/naive/naive.h"

/* w, b: in the type of arithmetic, b zeros when there is none. rows: of each thread, x, dy and the result. */
typedef struct layer_job { const lora_call *c; lora__naive_grid g; const void *w, *b; char *rows; size_t row; int backward; } layer_job;

#define NAIVE_NO_BF16
#define NAIVE_TEMPLATE "backend/naive/naive_layernorm.inc"
#include "backend/naive/naive_each.h"

static lora_status run(lora__naive *self, const lora_call *c, lora_dtype real, int backward)
{
	layer_job j = { .c = c, .g = lora__naive_split(c, 0, 0, 0), .backward = backward };
	lora_dtype wide = lora__wide(real);
	if (!j.g.n || !j.g.d) return LORA_OK;
	j.row = ((size_t)j.g.d * lora__dtype_size(wide) + 63) & ~(size_t)63;
	char *w = lora__naive_scratch(self, (2 + 3 * (size_t)(real == wide ? 0 : self->host.threads)) * j.row);
	if (!w) return LORA_E_MEMORY;
	j.w = w, j.b = w + j.row, j.rows = w + 2 * j.row;
	lora__convert(w, wide, c->v[2].data, c->v[2].dtype, (size_t)j.g.d);
	memset(w + j.row, 0, j.row);
	if (!backward && c->v[3].data) lora__convert(w + j.row, wide, c->v[3].data, c->v[3].dtype, (size_t)j.g.d);
	lora__naive_parallel(self, j.g.row_blocks * j.g.col_blocks, (double)j.g.n * (double)j.g.d, PICK_WIDE(self, wide, layernorm), &j);
	lora__naive_release(self, w);
	return LORA_OK;
}

lora_status lora__naive_layernorm(lora__naive *self, const lora_call *c, lora_dtype real) { return run(self, c, real, 0); }
lora_status lora__naive_layernorm_bwd(lora__naive *self, const lora_call *c, lora_dtype real) { return run(self, c, real, 1); }
