/* The table of block types, and conversion of rows through it. */
#include "quant/quant.h"

const lora__quant *const lora__quants[] = {
#define LORA__QUANT(name) &lora__quant_##name,
#include "quant/list.h"
#undef LORA__QUANT
	NULL,
};

const lora__quant *lora__quant_of(lora_dtype d)
{
	for (int i = 0; lora__quants[i]; i++)
		if (lora__quants[i]->dtype == d) return lora__quants[i];
	return NULL;
}

void lora__dequant(void *dst, lora_dtype to, const void *src, lora_dtype from, int64_t n)
{
	enum { STEP = 4 * LORA__QUANT_MAX };
	const lora__quant *q = lora__quant_of(from);
	float   block[STEP];
	int64_t each = 1;
	if (!q) {
		lora__convert(dst, to, src, from, (size_t)n);
		return;
	}
	lora__dtype_block(from, &each, NULL);
	const lora__quant_fast *fast = lora__quant_best(from);
	void (*decode)(const uint8_t *, int64_t, float *) = fast ? fast->decode : q->decode;
	if (to == LORA_F32) {
		decode(src, n / each, dst);
		return;
	}
	for (int64_t at = 0; at < n; at += STEP) {
		int64_t m = n - at < STEP ? n - at : STEP;
		decode((const uint8_t *)src + lora__dtype_row(from, at), m / each, block);
		lora__convert((char *)dst + (size_t)at * lora__dtype_size(to), to, block, LORA_F32, (size_t)m);
	}
}

void lora__enquant(void *dst, lora_dtype to, const float *src, int64_t n)
{
	const lora__quant *q = lora__quant_of(to);
	int64_t each = 1;
	lora__dtype_block(to, &each, NULL);
	if (q) q->encode(src, n / each, dst);
	else lora__convert(dst, to, src, LORA_F32, (size_t)n);
}
