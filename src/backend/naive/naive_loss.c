/* XENT: loss_i = log sum_j exp(z_j) - z_label with the row's maximum taken out first, and the gradient f0 * (softmax - onehot) in place.
 * Rows with a negative label count nothing. With a soft cap z = cap * tanh(logits / cap) (Gemma 2, arXiv:2408.00118, section 2).
 * Logits in BF16 are widened row by row into memory of the thread's own. */
#include "backend/naive/naive_loss.h"

#define NAIVE_NO_BF16
#define NAIVE_AVX2 /* AVX-512 has a file of its own; a soft cap is rare */
#define NAIVE_TEMPLATE "backend/naive/naive_loss.inc"
#include "backend/naive/naive_each.h"

static void half_row(void *arg, int64_t task, int32_t thread)
{
	const lora__xent_job *j = arg;
	const lora_view *v = &j->c->v[0];
	char *mine = j->rows + j->row * (size_t)thread;
	lora_call c = *j->c;
	c.v[0].data = mine, c.v[0].dtype = LORA_F32, c.v[0].stride[0] = 0; /* every row is this one */
	lora__convert(mine, LORA_F32, lora__at(v, task, 0), LORA_BF16, (size_t)v->size[1]);
	j->fn(&c, task, thread);
	if (c.i[0]) lora__convert(lora__at(v, task, 0), LORA_BF16, mine, LORA_F32, (size_t)v->size[1]);
}

lora_status lora__naive_xent(lora__naive *self, const lora_call *c, lora_dtype real)
{
	lora_status st = lora__naive_check_ids(self, &c->v[1], c->v[0].size[1], 1, "label");
	if (st) return st;
	lora__xent_job j = { c, NULL, ((size_t)c->v[0].size[1] * sizeof(float) + 63) & ~(size_t)63, PICK_WIDE_AVX2(self, lora__wide(real), xent) };
	int half = real == LORA_BF16, vector = self->isa >= 2 && lora__wide(real) == LORA_F32 && !(c->f[1] > 0);
	if (half && !(j.rows = lora__naive_scratch(self, j.row * (size_t)self->host.threads))) return LORA_E_MEMORY;
	lora__naive_parallel(self, c->v[0].size[0], 8.0 * (double)c->v[0].size[0] * (double)c->v[0].size[1], vector ? lora__xent_avx512 : half ? half_row : j.fn,
	                     vector || half ? (void *)&j : (void *)(uintptr_t)c);
	lora__naive_release(self, j.rows);
	return LORA_OK;
}
