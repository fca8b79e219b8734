/* Token embedding: out[n,d] = factor * table[ids[n], :]. Frozen and first: no gradient.
 * w[0] table[vocab,d]; f[0] factor (1; sqrt(d) for Gemma). */
#include "ops/op.h"

static lora_status forward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_EMBED, 3);
	c.v[0] = e->out[0], c.v[1] = e->node->w[0];
	c.v[2] = lora__view1(e->rows->ids, LORA_I32, e->rows->n);
	c.f[0] = e->node->f[0];
	return lora__run(e->ctx, &c);
}

const lora__op lora__op_embed = { .m = { "embed", "token embedding", "table lookup", NULL }, .forward = forward };
