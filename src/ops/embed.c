/* Token embedding: out[n,d] = factor * table[ids[n], :]. Frozen and first: no gradient.
 * w[0] table[vocab,d]; f[0] factor (1; sqrt(d) for Gemma). */
#include "ops/op.h"
#include "quant/quant.h"

/* A table in blocks: the rows that are asked for are decoded. */
static lora_status decode_rows(lora__exec *e)
{
	enum { CHUNK = 1024 }; /* whole blocks of every type */
	const lora_view *table = &e->node->w[0], *out = &e->out[0];
	float chunk[CHUNK];
	for (int64_t r = 0; r < e->rows->n; r++) {
		int32_t id = e->rows->ids[r];
		if (id < 0 || id >= table->size[0]) return lora__fail(e->ctx, LORA_E_SHAPE, "embed", "token %d is out of range", (int)id);
		const char *from = (const char *)table->data + (size_t)id * lora__dtype_row(table->dtype, table->size[1]);
		char *to = (char *)out->data + r * out->stride[0] * (int64_t)lora__dtype_size(out->dtype);
		for (int64_t at = 0; at < table->size[1]; at += CHUNK) {
			int64_t n = table->size[1] - at < CHUNK ? table->size[1] - at : CHUNK;
			lora__dequant(chunk, LORA_F32, from + lora__dtype_row(table->dtype, at), table->dtype, n);
			for (int64_t i = 0; i < n && e->node->f[0] != 1.0; i++) chunk[i] *= (float)e->node->f[0];
			lora__convert(to + (size_t)at * lora__dtype_size(out->dtype), out->dtype, chunk, LORA_F32, (size_t)n);
		}
	}
	return LORA_OK;
}

static lora_status forward(lora__exec *e)
{
	if (lora__dtype_block(e->node->w[0].dtype, NULL, NULL)) return decode_rows(e);
	lora_call c = lora__prim(LORA_PRIM_EMBED, 3);
	c.v[0] = e->out[0], c.v[1] = e->node->w[0];
	c.v[2] = lora__view1(e->rows->ids, LORA_I32, e->rows->n);
	c.f[0] = e->node->f[0];
	return lora__run(e->ctx, &c);
}

const lora__op lora__op_embed = { .m = { "embed", "token embedding", "table lookup", NULL }, .forward = forward };
