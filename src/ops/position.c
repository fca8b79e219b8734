/* Learned positions: out[n,d] = table[position[n] + offset, :]. Frozen and without input: no gradient.
 * w[0] table[positions,d]; i[0] offset: rows at the table's head that no position uses (2 in OPT).
 * Source: Gehring et al. 2017, arXiv:1705.03122, section 3.1; transformers' GPT2Model and OPTLearnedPositionalEmbedding. */
#include "ops/op.h"

static lora_status forward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_EMBED, 3);
	lora_view t = e->node->w[0];
	t.data = (char *)t.data + (size_t)(e->node->i[0] * t.stride[0]) * lora__dtype_size(t.dtype), t.size[0] -= e->node->i[0];
	c.v[0] = e->out[0], c.v[1] = t, c.v[2] = lora__view1(e->rows->positions, LORA_I32, e->out[0].size[0]);
	c.f[0] = 1.0;
	return lora__run(e->ctx, &c);
}

const lora__op lora__op_position = { .m = { "position", "learned position embedding", "arXiv:1705.03122 section 3.1", NULL }, .forward = forward };
