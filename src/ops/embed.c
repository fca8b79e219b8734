/* Looking up rows of a token table: out[n,d] = factor * table[ids[n], :], also where the table is in blocks. The op is in graph/embed_op.c, because
 * adapters may act there. */
#include "ops/op.h"
#include "quant/quant.h"

/* A table in blocks: the rows that are asked for are decoded. */
static lora_status decode_rows(const lora__exec *e, const lora_view *table)
{
	enum { CHUNK = 1024 }; /* whole blocks of every type */
	const lora_view *out = &e->out[0];
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

lora_status lora__embed_look_up(lora__exec *e, lora_view table)
{
	if (lora__dtype_block(table.dtype, NULL, NULL)) return decode_rows(e, &table);
	lora_call c = lora__prim(LORA_PRIM_EMBED, 3);
	c.v[0] = e->out[0], c.v[1] = table;
	c.v[2] = lora__view1(e->rows->ids, LORA_I32, e->rows->n);
	c.f[0] = e->node->f[0];
	return lora__run(e->ctx, &c);
}
