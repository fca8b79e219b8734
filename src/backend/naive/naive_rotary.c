/* ROPE: rotate pairs (x_j, x_{j + rot/2}) of each head by the angle of the row's position, in place; inverse = the transposed rotation, which is
 * the backward. Su et al. 2021, arXiv:2104.09864, equation 34, with the halves paired as in GPT-NeoX and LLaMA (transformers' rotate_half). */
#include "backend/naive/naive_rotary.h"

#define NAIVE_AVX2
#define NAIVE_TEMPLATE "backend/naive/naive_rotary.inc"
#include "backend/naive/naive_each.h"

lora_status lora__naive_rope(lora__naive *self, const lora_call *c, lora_dtype real)
{
	int64_t heads = c->i[0], d = c->i[1], rot = c->i[2];
	if (heads < 0 || d < 0 || rot < 0 || rot > d || rot % 2 || rot / 2 != c->v[1].size[1] || (d && heads > c->v[0].size[1] / d) ||
	    heads * d != c->v[0].size[1])
		return lora__naive_fail(self, LORA_E_SHAPE, "primitive rope: heads, head size and rotated part do not fit the views");
	lora_status st = lora__naive_check_ids(self, &c->v[3], c->v[1].size[0], 0, "position");
	if (st) return st;
	rope_job j = { c, lora__naive_split(c, 0, 0, 0) };
	lora__naive_parallel(self, j.g.row_blocks * j.g.col_blocks, (double)j.g.n * (double)j.g.d,
	                     self->isa >= 3 && real == LORA_BF16 ? lora__rope_bf16 : PICK_AVX2(self, real, rope), &j);
	return LORA_OK;
}
