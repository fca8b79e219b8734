/* Block types with a table of values or of three values, decoding only.
 *   IQ4_NL: 32 weights, d and sixteen values of a table.     IQ4_XS: 256 weights, the same table, 6-bit scales per 32.
 *   MXFP4: 32 weights, E2M1 numbers and a power of two (OCP microscaling 1.0).  NVFP4: 64 weights, E2M1 and an E4M3 scale per 16.
 *   TQ1_0, TQ2_0: 256 weights of -1, 0, 1 in base 3 and in bit pairs, one scale.
 * Source: ggml-common.h (kvalues_iq4nl, kvalues_mxfp4), ggml-quants.c. */
#include <math.h>

#include "quant/quant.h"

static const int8_t uneven[16] = { -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113 };
static const int8_t twice_e2m1[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 }; /* halved by the scale */

/* n bytes of nibbles: the low ones are elements 0..n-1, the high ones n..2n-1. */
static void look_up(const int8_t *table, const uint8_t *q, int n, float d, float *y)
{
	for (int i = 0; i < n; i++) y[i] = d * (float)table[q[i] & 15];
	for (int i = 0; i < n; i++) y[i + n] = d * (float)table[q[i] >> 4];
}

static void iq4_nl_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 18, y += 32) look_up(uneven, p + 2, 16, lora__quant_f16(p), y);
}

static void iq4_xs_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 136) {
		float d = lora__quant_f16(p);
		uint32_t high = lora__quant_u16(p + 2);
		for (int g = 0; g < 8; g++, y += 32) {
			int scale = (p[4 + g / 2] >> (4 * (g % 2)) & 15) | (int)(high >> (2 * g) & 3) << 4;
			look_up(uneven, p + 8 + 16 * g, 16, d * (float)(scale - 32), y);
		}
	}
}

static void mxfp4_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 17, y += 32) look_up(twice_e2m1, p + 1, 16, ldexpf(1.0f, (int)p[0] - 128), y);
}

/* Unsigned E4M3 without infinities, halved; the two codes of NaN count as zero, as ggml's. */
static float half_e4m3(uint8_t b)
{
	int e = b >> 3 & 15, m = b & 7;
	if ((b & 127) == 0 || b == 127) return 0;
	return e ? ldexpf((float)(8 + m), e - 11) : ldexpf((float)m, -10);
}

static void nvfp4_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 36)
		for (int g = 0; g < 4; g++, y += 16) look_up(twice_e2m1, p + 4 + 8 * g, 8, half_e4m3(p[g]), y);
}

/* Digit k of n bytes that hold base-3 fractions of 256. */
static float *digits(const uint8_t *q, int n, int k, float d, float *y)
{
	static const uint8_t power[5] = { 1, 3, 9, 27, 81 };
	for (int i = 0; i < n; i++) {
		uint8_t shifted = (uint8_t)(q[i] * power[k]);
		*y++ = (float)((shifted * 3 >> 8) - 1) * d;
	}
	return y;
}

static void tq1_0_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 54) {
		float d = lora__quant_f16(p + 52);
		for (int k = 0; k < 5; k++) y = digits(p, 32, k, d, y);
		for (int k = 0; k < 5; k++) y = digits(p + 32, 16, k, d, y);
		for (int k = 0; k < 4; k++) y = digits(p + 48, 4, k, d, y);
	}
}

static void tq2_0_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 66) {
		float d = lora__quant_f16(p + 64);
		for (int k = 0; k < 8; k++)
			for (int i = 0; i < 32; i++) *y++ = (float)((p[32 * (k / 4) + i] >> (2 * (k % 4)) & 3) - 1) * d;
	}
}

#define SOURCE "ggml-quants.c"
const lora__quant lora__quant_iq4_nl = { .m = { "IQ4_NL", "4 bits of an uneven table and a scale per 32 weights", SOURCE, NULL }, .dtype = LORA_IQ4_NL,
	.decode = iq4_nl_decode };
const lora__quant lora__quant_iq4_xs = { .m = { "IQ4_XS", "4 bits of an uneven table, 6-bit scales per 32 weights", SOURCE, NULL },
	.dtype = LORA_IQ4_XS, .decode = iq4_xs_decode };
const lora__quant lora__quant_mxfp4 = { .m = { "MXFP4", "E2M1 numbers and a power of two per 32 weights", SOURCE, NULL }, .dtype = LORA_MXFP4,
	.decode = mxfp4_decode };
const lora__quant lora__quant_nvfp4 = { .m = { "NVFP4", "E2M1 numbers and an E4M3 scale per 16 weights", SOURCE, NULL }, .dtype = LORA_NVFP4,
	.decode = nvfp4_decode };
const lora__quant lora__quant_tq1_0 = { .m = { "TQ1_0", "three values in base 3, a scale per 256 weights", SOURCE, NULL }, .dtype = LORA_TQ1_0,
	.decode = tq1_0_decode };
const lora__quant lora__quant_tq2_0 = { .m = { "TQ2_0", "three values in bit pairs, a scale per 256 weights", SOURCE, NULL }, .dtype = LORA_TQ2_0,
	.decode = tq2_0_decode };
