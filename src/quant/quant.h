/* Quantised weights: the descriptor of a block type and its family. A type is one entry in its file plus one line in list.h.
 * Rows are whole blocks; a block is decoded on its own, so any row of a weight can be had without the others. */
#ifndef LORA_QUANT_QUANT_H
#define LORA_QUANT_QUANT_H

#include "base/schema.h"
#include "tensor/dtype.h"

enum { LORA__QUANT_MAX = 256 }; /* elements of the longest block */

/* Member of family "quant". */
typedef struct lora__quant {
	lora__member m;
	lora_dtype   dtype;
	/* n blocks to floats and back. Values are those of the format's reference decoder, bit for bit. */
	void (*decode)(const uint8_t *in, int64_t n, float *out);
	void (*encode)(const float *in, int64_t n, uint8_t *out); /* NULL: this library reads the type and does not write it. in is finite */
} lora__quant;

/* Faster forms for this processor (quant_x86.c): decode with the same bits, and the sum of w[i] * x[i] over n blocks. NULL = none.
 * dots: the same of four rows that lie row bytes apart, while the next four are fetched; NULL = none.
 * Float types have dots alone (a block is an element): lane i mod 32, then pairwise. */
typedef struct lora__quant_fast {
	lora_dtype dtype;
	void (*decode)(const uint8_t *in, int64_t n, float *out);
	float (*dot)(const uint8_t *w, const float *x, int64_t n);
	void (*dots)(const uint8_t *w, size_t row, const float *x, int64_t n, float *y);
	void (*add)(const uint8_t *w, size_t row, const float *x, double f, int64_t rows, int64_t n, float *y); /* y[n] += f x[rows] w[rows,n]; F16 alone */
} lora__quant_fast;
const lora__quant_fast *lora__quant_best(lora_dtype d);

#define LORA__QUANT(name) extern const lora__quant lora__quant_##name;
#include "quant/list.h"
#undef LORA__QUANT
extern const lora__quant *const lora__quants[]; /* NULL-ended */
const lora__quant *lora__quant_of(lora_dtype d); /* NULL: no block type */

/* n elements (whole blocks) of type from, which may also be a float type, to F32, BF16 or F16. */
void lora__dequant(void *dst, lora_dtype to, const void *src, lora_dtype from, int64_t n);
/* n floats to blocks of a type that has an encoder. */
void lora__enquant(void *dst, lora_dtype to, const float *src, int64_t n);

/* Little-endian halves and bytes of a block. */
static inline float lora__quant_f16(const uint8_t *p) { return lora__f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }
static inline void lora__quant_put_f16(uint8_t *p, float v)
{
	uint16_t h = lora__f32_to_f16(v);
	p[0] = (uint8_t)h, p[1] = (uint8_t)(h >> 8);
}
static inline uint32_t lora__quant_u16(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }
static inline uint32_t lora__quant_u32(const uint8_t *p) { return lora__quant_u16(p) | lora__quant_u16(p + 2) << 16; }

#endif
