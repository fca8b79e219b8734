/* K-quants, decoding: super-blocks of 256 with scales that are quantised themselves.
 *   Q2_K: 16 groups of 16, value = d s q - dmin m, 4-bit s and m.      Q3_K: 16 groups of 16, value = d (s - 32) q, 6-bit s.
 *   Q4_K, Q5_K: 8 groups of 32, value = d s q - dmin m, 6-bit s and m. Q6_K: 16 groups of 16, value = d s q, 8-bit s.
 * Source: ggml-common.h (layout), ggml-quants.c (dequantize_row_*). The encoders are in quant_k_encode.c. */
#include "quant/quant_k.h"

/* Scale and minimum of group g of the twelve bytes of Q4_K and Q5_K. */
void lora__quant_k_scale(const uint8_t *s, int g, unsigned *scale, unsigned *min)
{
	if (g < 4) *scale = s[g] & 63u, *min = s[g + 4] & 63u;
	else *scale = (s[g + 4] & 15u) | (unsigned)(s[g - 4] >> 6) << 4, *min = (unsigned)(s[g + 4] >> 4) | (unsigned)(s[g] >> 6) << 4;
}

/* The sixteen 6-bit scales of Q3_K, less 32. */
void lora__quant_q3_scales(const uint8_t *s, int8_t *out)
{
	for (int g = 0; g < 16; g++) out[g] = (int8_t)(((g < 8 ? s[g] & 15 : s[g - 8] >> 4) | (s[8 + g % 4] >> (2 * (g / 4)) & 3) << 4) - 32);
}

static void q2_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 84) {
		float d = lora__quant_f16(p + 80), dmin = lora__quant_f16(p + 82);
		for (int g = 0; g < 16; g++) { /* half g / 8, bit pair g / 2 % 4, half of 32 bytes g % 2 */
			const uint8_t *q = p + 16 + 32 * (g / 8) + 16 * (g % 2);
			float scale = d * (float)(p[g] & 15), min = dmin * (float)(p[g] >> 4);
			int shift = 2 * (g / 2 % 4);
			for (int i = 0; i < 16; i++) *y++ = scale * (float)(q[i] >> shift & 3) - min;
		}
	}
}

static void q3_decode(const uint8_t *p, int64_t n, float *y)
{
	int8_t scale[16];
	for (; n > 0; n--, p += 110) {
		float d = lora__quant_f16(p + 108);
		lora__quant_q3_scales(p + 96, scale);
		for (int g = 0; g < 16; g++) {
			const uint8_t *q = p + 32 + 32 * (g / 8) + 16 * (g % 2), *top = p + 16 * (g % 2);
			float s = d * (float)scale[g];
			int shift = 2 * (g / 2 % 4), bit = g / 2;
			for (int i = 0; i < 16; i++) *y++ = s * (float)((q[i] >> shift & 3) - (top[i] >> bit & 1 ? 0 : 4));
		}
	}
}

static void q4_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 144) {
		float d = lora__quant_f16(p), dmin = lora__quant_f16(p + 2);
		const uint8_t *q = p + 16;
		for (int g = 0; g < 8; g += 2, q += 32, y += 64) {
			unsigned s0, m0, s1, m1;
			lora__quant_k_scale(p + 4, g, &s0, &m0);
			lora__quant_k_scale(p + 4, g + 1, &s1, &m1);
			float d0 = d * (float)s0, n0 = dmin * (float)m0, d1 = d * (float)s1, n1 = dmin * (float)m1;
			for (int i = 0; i < 32; i++) y[i] = d0 * (float)(q[i] & 15) - n0;
			for (int i = 0; i < 32; i++) y[i + 32] = d1 * (float)(q[i] >> 4) - n1;
		}
	}
}

static void q5_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 176) {
		float d = lora__quant_f16(p), dmin = lora__quant_f16(p + 2);
		const uint8_t *top = p + 16, *q = p + 48;
		for (int g = 0; g < 8; g++, y += 32) {
			unsigned s, m;
			lora__quant_k_scale(p + 4, g, &s, &m);
			float scale = d * (float)s, min = dmin * (float)m;
			const uint8_t *nibbles = q + 32 * (g / 2);
			int shift = 4 * (g % 2);
			for (int i = 0; i < 32; i++) y[i] = scale * (float)((nibbles[i] >> shift & 15) + (top[i] >> g & 1 ? 16 : 0)) - min;
		}
	}
}

static void q6_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 210) {
		float d = lora__quant_f16(p + 208);
		const int8_t *scale = (const int8_t *)p + 192;
		for (int k = 0; k < 8; k++, y += 32, scale += 2) { /* half k / 4, quarter k % 4 */
			const uint8_t *low = p + 64 * (k / 4) + 32 * (k % 2), *high = p + 128 + 32 * (k / 4);
			int nibble = 4 * (k % 4 / 2), pair = 2 * (k % 4);
			float s[2] = { d * (float)scale[0], d * (float)scale[1] };
			for (int i = 0; i < 32; i++) y[i] = s[i / 16] * (float)(((low[i] >> nibble & 15) | (high[i] >> pair & 3) << 4) - 32);
		}
	}
}

#define SOURCE "ggml-quants.c; k-quants of llama.cpp PR 1684"
const lora__quant lora__quant_q2_k = { .m = { "Q2_K", "2 bits, 4-bit scales and minima per 16 weights", SOURCE, NULL }, .dtype = LORA_Q2_K,
	.decode = q2_decode, .encode = lora__quant_q2_encode };
const lora__quant lora__quant_q3_k = { .m = { "Q3_K", "3 bits, 6-bit scales per 16 weights", SOURCE, NULL }, .dtype = LORA_Q3_K, .decode = q3_decode,
	.encode = lora__quant_q3_encode };
const lora__quant lora__quant_q4_k = { .m = { "Q4_K", "4 bits, 6-bit scales and minima per 32 weights", SOURCE, NULL }, .dtype = LORA_Q4_K,
	.decode = q4_decode, .encode = lora__quant_q4_encode };
const lora__quant lora__quant_q5_k = { .m = { "Q5_K", "5 bits, 6-bit scales and minima per 32 weights", SOURCE, NULL }, .dtype = LORA_Q5_K,
	.decode = q5_decode, .encode = lora__quant_q5_encode };
const lora__quant lora__quant_q6_k = { .m = { "Q6_K", "6 bits, 8-bit scales per 16 weights", SOURCE, NULL }, .dtype = LORA_Q6_K, .decode = q6_decode,
	.encode = lora__quant_q6_encode };
