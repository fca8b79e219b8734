/* XENT: loss_i = log sum_j exp(z_j) - z_label with the row's maximum taken out first, and the gradient f0 * (softmax - onehot) in place.
 * Rows with a negative label count nothing. With a soft cap z = cap * tanh(logits / cap) (Gemma 2, arXiv:2408.00118, section 2). */
#include "backend/naive/naive.h"

#define NAIVE_TEMPLATE "backend/naive/naive_loss.inc"
#include "backend/naive/naive_each.h"

lora_status lora__naive_xent(lora__naive *self, const lora_call *c, lora_dtype real)
{
	if (c->i[1] && real != LORA_F32) return lora__naive_fail(self, LORA_E_DTYPE, "primitive xent: only F32 logits have a gradient in BF16");
	lora_status st = lora__naive_check_ids(self, &c->v[1], c->v[0].size[1], 1, "label");
	if (st) return st;
	lora__naive_parallel(self, c->v[0].size[0], 8.0 * (double)c->v[0].size[0] * (double)c->v[0].size[1], PICK(self, real, xent), (void *)(uintptr_t)c);
	return LORA_OK;
}
