/* Token types (segments A and B of BERT): out[n,d] = table[type[n], :]. Frozen and without input: no gradient. w[0] table[types,d].
 * Source: Devlin et al. 2018, arXiv:1810.04805, figure 2. */
#include "ops/op.h"

static lora_status forward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_EMBED, 3);
	c.v[0] = e->out[0], c.v[1] = e->node->w[0], c.v[2] = lora__view1(e->rows->types, LORA_I32, e->rows->n);
	c.f[0] = 1.0;
	return lora__run(e->ctx, &c);
}

const lora__op lora__op_types = { .m = { "types", "token type embedding", "arXiv:1810.04805 figure 2", NULL }, .forward = forward };
