/* Element types and conversions between the four float types.
 *
 * F32 -> F16, BF16: round to nearest even (IEEE 754-2019, 4.3.1); overflow gives infinity, NaN stays NaN, made quiet, with the top of its payload.
 * F64 -> F16, BF16: first to F32 by rounding to odd, then to nearest even. Rounding to odd keeps the sticky bit, and F32 has more than
 *   p + 2 bits for p = 11 and p = 8, so the result is the one of a single rounding (Boldo and Melquiond 2008, "Emulation of FMA and
 *   correctly rounded sums: proved algorithms using rounding to odd", theorem 1).
 * Halves widen exactly; an F16 NaN is made quiet, as the processor's instruction does.
 * dtype_x86.c holds faster forms of the bulk loops with the same bits; which one runs is chosen when it is called. */
#include "tensor/dtype_bulk.h"

static const struct { const char *name; uint8_t size, is_float; } table[] = {
	[LORA_DTYPE_NONE] = { "?", 0, 0 }, [LORA_F32] = { "F32", 4, 1 }, [LORA_F16] = { "F16", 2, 1 }, [LORA_BF16] = { "BF16", 2, 1 },
	[LORA_F64] = { "F64", 8, 1 },      [LORA_I64] = { "I64", 8, 0 }, [LORA_I32] = { "I32", 4, 0 }, [LORA_I16] = { "I16", 2, 0 },
	[LORA_I8] = { "I8", 1, 0 },        [LORA_U64] = { "U64", 8, 0 }, [LORA_U32] = { "U32", 4, 0 }, [LORA_U16] = { "U16", 2, 0 },
	[LORA_U8] = { "U8", 1, 0 },        [LORA_BOOL] = { "BOOL", 1, 0 },
};
#define N_TYPES ((lora_dtype)(sizeof table / sizeof *table))

/* ggml's block types, by its numbers; the codecs are in quant/. */
static const struct { const char *name; uint16_t n, bytes; } blocks[] = {
	[2] = { "Q4_0", 32, 18 },     [3] = { "Q4_1", 32, 20 },     [6] = { "Q5_0", 32, 22 },    [7] = { "Q5_1", 32, 24 },    [8] = { "Q8_0", 32, 34 },
	[10] = { "Q2_K", 256, 84 },   [11] = { "Q3_K", 256, 110 },  [12] = { "Q4_K", 256, 144 }, [13] = { "Q5_K", 256, 176 }, [14] = { "Q6_K", 256, 210 },
	[16] = { "IQ2_XXS", 256, 66 }, [17] = { "IQ2_XS", 256, 74 }, [18] = { "IQ3_XXS", 256, 98 }, [19] = { "IQ1_S", 256, 50 }, [20] = { "IQ4_NL", 32, 18 },
	[21] = { "IQ3_S", 256, 110 }, [22] = { "IQ2_S", 256, 82 },  [23] = { "IQ4_XS", 256, 136 }, [29] = { "IQ1_M", 256, 56 },
	[34] = { "TQ1_0", 256, 54 },  [35] = { "TQ2_0", 256, 66 },  [39] = { "MXFP4", 32, 17 },  [40] = { "NVFP4", 64, 36 },
};
enum { FIRST_BLOCK = 64, N_BLOCKS = sizeof blocks / sizeof *blocks };
#define BLOCK 256 /* elements of an intermediate F32 block on the stack */

size_t lora__dtype_size(lora_dtype d) { return d > 0 && d < N_TYPES ? table[d].size : 0; }
int lora__dtype_is_float(lora_dtype d) { return d > 0 && d < N_TYPES && table[d].is_float; }

const char *lora__dtype_name(lora_dtype d)
{
	if (lora__dtype_block(d, NULL, NULL)) return blocks[d - FIRST_BLOCK].name;
	return d > 0 && d < N_TYPES ? table[d].name : "?";
}

int lora__dtype_block(lora_dtype d, int64_t *n, size_t *bytes)
{
	if (d < FIRST_BLOCK || d >= FIRST_BLOCK + N_BLOCKS || !blocks[d - FIRST_BLOCK].n) return 0;
	if (n) *n = blocks[d - FIRST_BLOCK].n;
	if (bytes) *bytes = blocks[d - FIRST_BLOCK].bytes;
	return 1;
}

size_t lora__dtype_row(lora_dtype d, int64_t n)
{
	int64_t each;
	size_t  bytes;
	if (!lora__dtype_block(d, &each, &bytes)) return (size_t)n * lora__dtype_size(d);
	return n % each ? 0 : (size_t)(n / each) * bytes;
}

lora_dtype lora__dtype_parse(const char *name)
{
	if (!name) return LORA_DTYPE_NONE;
	for (lora_dtype d = 1; d < N_TYPES; d++)
		if (!strcmp(name, table[d].name)) return d;
	for (int i = 0; i < N_BLOCKS; i++)
		if (blocks[i].n && !strcmp(name, blocks[i].name)) return FIRST_BLOCK + i;
	return LORA_DTYPE_NONE;
}

float    lora__f16_to_f32(uint16_t h) { return lora__f16_widen(h); }
uint16_t lora__f32_to_f16(float f) { return lora__f16_narrow(f); }

/* F64 to F32, rounding to odd: what is inexact gets an odd last bit. */
static inline float round_to_odd(double d)
{
	float f = (float)d;
	uint32_t u;
	double back = f;
	memcpy(&u, &f, 4);
	if (back != d && d == d) {
		if ((back < 0 ? -back : back) > (d < 0 ? -d : d)) u--; /* one step towards zero; infinity becomes the largest number */
		u |= 1;
	}
	memcpy(&f, &u, 4);
	return f;
}

static void f16_to_f32(float *d, const uint16_t *s, size_t n)
{
	for (size_t i = 0; i < n; i++) d[i] = lora__f16_widen(s[i]);
}
static void f32_to_f16(uint16_t *d, const float *s, size_t n)
{
	for (size_t i = 0; i < n; i++) d[i] = lora__f16_narrow(s[i]);
}
static void bf16_to_f32(float *d, const uint16_t *s, size_t n)
{
	for (size_t i = 0; i < n; i++) d[i] = lora__bf16_to_f32(s[i]);
}
static void f32_to_bf16(uint16_t *d, const float *s, size_t n)
{
	for (size_t i = 0; i < n; i++) d[i] = lora__f32_to_bf16(s[i]);
}
const lora__bulk lora__bulk_portable = { f16_to_f32, f32_to_f16, bf16_to_f32, f32_to_bf16 };

static void any_to_f32(float *d, const void *s, lora_dtype type, size_t n)
{
	switch (type) {
	case LORA_F16: lora__bulk_best()->f16_to_f32(d, s, n); break;
	case LORA_BF16: lora__bulk_best()->bf16_to_f32(d, s, n); break;
	case LORA_F64:
		for (size_t i = 0; i < n; i++) d[i] = (float)((const double *)s)[i];
		break;
	default: memcpy(d, s, n * 4); break;
	}
}

static void f32_to_any(void *d, lora_dtype type, const float *s, size_t n)
{
	switch (type) {
	case LORA_F16: lora__bulk_best()->f32_to_f16(d, s, n); break;
	case LORA_BF16: lora__bulk_best()->f32_to_bf16(d, s, n); break;
	case LORA_F64:
		for (size_t i = 0; i < n; i++) ((double *)d)[i] = s[i];
		break;
	default: memcpy(d, s, n * 4); break;
	}
}

static int is_half(lora_dtype t) { return t == LORA_F16 || t == LORA_BF16; }

void lora__convert(void *dst, lora_dtype dst_type, const void *src, lora_dtype src_type, size_t n)
{
	float block[BLOCK];
	size_t ds = lora__dtype_size(dst_type), ss = lora__dtype_size(src_type);
	if (!n) return;
	if (dst_type == src_type) {
		memmove(dst, src, n * ds);
	} else if (src_type == LORA_F32) {
		f32_to_any(dst, dst_type, src, n);
	} else if (dst_type == LORA_F32) {
		any_to_f32(dst, src, src_type, n);
	} else {
		for (size_t at = 0; at < n; at += BLOCK) {
			size_t m = n - at < BLOCK ? n - at : BLOCK;
			const char *s = (const char *)src + at * ss;
			if (src_type == LORA_F64 && is_half(dst_type))
				for (size_t i = 0; i < m; i++) block[i] = round_to_odd(((const double *)(const void *)s)[i]);
			else
				any_to_f32(block, s, src_type, m);
			f32_to_any((char *)dst + at * ds, dst_type, block, m);
		}
	}
}

/* An element is not finite when all bits of its exponent are one: adding the lowest of them then carries into the sign. A word at a time. */
static uint64_t any_special(const void *src, size_t bytes, uint64_t exponent, uint64_t lowest, uint64_t sign)
{
	const char *p = src;
	uint64_t bad = 0, w = 0;
	size_t i = 0;
	for (; i + 32 <= bytes; i += 32) {
		uint64_t v[4];
		memcpy(v, p + i, sizeof v);
		bad |= ((v[0] & exponent) + lowest) | ((v[1] & exponent) + lowest) | ((v[2] & exponent) + lowest) | ((v[3] & exponent) + lowest);
	}
	for (; i < bytes; i += 8, w = 0) {
		memcpy(&w, p + i, bytes - i < 8 ? bytes - i : 8);
		bad |= (w & exponent) + lowest;
	}
	return bad & sign;
}

int lora__all_finite(const void *src, lora_dtype type, size_t n)
{
	switch (type) {
	case LORA_F32: return !any_special(src, 4 * n, 0x7f8000007f800000u, 0x0080000000800000u, 0x8000000080000000u);
	case LORA_F64: return !any_special(src, 8 * n, 0x7ff0000000000000u, 0x0010000000000000u, 0x8000000000000000u);
	case LORA_F16: return !any_special(src, 2 * n, 0x7c007c007c007c00u, 0x0400040004000400u, 0x8000800080008000u);
	case LORA_BF16: return !any_special(src, 2 * n, 0x7f807f807f807f80u, 0x0080008000800080u, 0x8000800080008000u);
	default: return 1;
	}
}
