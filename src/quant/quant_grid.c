/* Block types whose groups of four or eight weights are entries of a code book: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1_S, IQ1_M. Decoding only.
 * Signs are one bit per weight; where seven bits are stored for eight weights the eighth makes the number of minus signs even.
 * Source: ggml-common.h (layouts, code books), ggml-quants.c (dequantize_row_iq*). */
#include "quant/quant_grid.h"

#include "quant/quant.h"

static unsigned eight_signs(unsigned seven) { return seven | (unsigned)(__builtin_popcount(seven) & 1) << 7; }

static float *put_iq2(unsigned entry, unsigned signs, float d, float *y)
{
	static const float value[4] = { 8, 25, 43, 0 };
	for (int i = 0; i < 8; i++) {
		float v = d * value[entry >> (2 * i) & 3];
		*y++ = signs >> i & 1 ? -v : v;
	}
	return y;
}

static float *put_iq3(const float *value, unsigned entry, unsigned signs, float d, float *y)
{
	for (int i = 0; i < 4; i++) {
		float v = d * value[entry >> (4 * i) & 15];
		*y++ = signs >> i & 1 ? -v : v;
	}
	return y;
}

static float *put_iq1(unsigned entry, float delta, float d, float *y)
{
	for (int i = 0; i < 8; i++) *y++ = d * ((float)(int)(entry >> (2 * i) & 3) - 1.0f + delta);
	return y;
}

static void iq2_xxs_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 66) {
		float d = lora__quant_f16(p);
		for (int g = 0; g < 8; g++) {
			const uint8_t *q = p + 2 + 8 * g;
			uint32_t bits = lora__quant_u32(q + 4);
			float scale = d * (0.5f + (float)(bits >> 28)) * 0.25f;
			for (int k = 0; k < 4; k++) y = put_iq2(iq2_xxs[q[k]], eight_signs(bits >> (7 * k) & 127), scale, y);
		}
	}
}

static float nibble_scale(float d, const uint8_t *scales, int g, int k) { return d * (0.5f + (float)(scales[g] >> (4 * (k / 2)) & 15)) * 0.25f; }

static void iq2_xs_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 74) {
		float d = lora__quant_f16(p);
		for (int g = 0; g < 8; g++)
			for (int k = 0; k < 4; k++) {
				uint32_t q = lora__quant_u16(p + 2 + 8 * g + 2 * k);
				y = put_iq2(iq2_xs[q & 511], eight_signs(q >> 9), nibble_scale(d, p + 66, g, k), y);
			}
	}
}

static void iq2_s_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 82) {
		float d = lora__quant_f16(p);
		const uint8_t *q = p + 2, *signs = p + 34, *high = p + 66;
		for (int g = 0; g < 8; g++)
			for (int k = 0; k < 4; k++)
				y = put_iq2(iq2_s[q[4 * g + k] | (unsigned)(high[g] >> (2 * k) & 3) << 8], signs[4 * g + k], nibble_scale(d, p + 74, g, k), y);
	}
}

static void iq3_xxs_decode(const uint8_t *p, int64_t n, float *y)
{
	static const float value[16] = { 4, 12, 20, 28, 36, 44, 52, 62 };
	for (; n > 0; n--, p += 98) {
		float d = lora__quant_f16(p);
		for (int g = 0; g < 8; g++) {
			uint32_t bits = lora__quant_u32(p + 66 + 4 * g);
			float scale = d * (0.5f + (float)(bits >> 28)) * 0.5f;
			for (int k = 0; k < 8; k++) y = put_iq3(value, iq3_xxs[p[2 + 8 * g + k]], eight_signs(bits >> (7 * (k / 2)) & 127) >> (4 * (k % 2)), scale, y);
		}
	}
}

static void iq3_s_decode(const uint8_t *p, int64_t n, float *y)
{
	static const float value[16] = { 1, 3, 5, 7, 9, 11, 13, 15 };
	for (; n > 0; n--, p += 110) {
		float d = lora__quant_f16(p);
		const uint8_t *high = p + 66, *signs = p + 74, *scales = p + 106;
		for (int g = 0; g < 8; g++) {
			float scale = d * (float)(1 + 2 * (scales[g / 2] >> (4 * (g % 2)) & 15));
			for (int k = 0; k < 8; k++)
				y = put_iq3(value, iq3_s[p[2 + 8 * g + k] | (unsigned)(high[g] >> k & 1) << 8], (unsigned)signs[4 * g + k / 2] >> (4 * (k % 2)), scale, y);
		}
	}
}

static void iq1_s_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 50) {
		float d = lora__quant_f16(p);
		for (int g = 0; g < 8; g++) {
			uint32_t high = lora__quant_u16(p + 34 + 2 * g);
			float scale = d * (float)(2 * (high >> 12 & 7) + 1), delta = high & 0x8000 ? -0.125f : 0.125f;
			for (int k = 0; k < 4; k++) y = put_iq1(iq1_s[p[2 + 4 * g + k] | (high >> (3 * k) & 7) << 8], delta, scale, y);
		}
	}
}

static void iq1_m_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 56) {
		uint32_t s[4], half = 0;
		for (int i = 0; i < 4; i++) s[i] = lora__quant_u16(p + 48 + 2 * i), half |= (s[i] >> 12) << (4 * i); /* the scale lies in their top bits */
		float d = lora__f16_to_f32((uint16_t)half);
		for (int g = 0; g < 8; g++)
			for (int k = 0; k < 4; k++) {
				unsigned high = (unsigned)p[32 + 2 * g + k / 2] >> (4 * (k % 2)) & 15;
				float scale = d * (float)(2 * (s[g / 2] >> (6 * (g % 2) + 3 * (k / 2)) & 7) + 1);
				y = put_iq1(iq1_s[p[4 * g + k] | (high & 7) << 8], high & 8 ? -0.125f : 0.125f, scale, y);
			}
	}
}

#define SOURCE "ggml-quants.c"
const lora__quant lora__quant_iq2_xxs = { .m = { "IQ2_XXS", "code book of 256, 2.06 bits a weight", SOURCE, NULL }, .dtype = LORA_IQ2_XXS, .decode = iq2_xxs_decode };
const lora__quant lora__quant_iq2_xs = { .m = { "IQ2_XS", "code book of 512, 2.31 bits a weight", SOURCE, NULL }, .dtype = LORA_IQ2_XS, .decode = iq2_xs_decode };
const lora__quant lora__quant_iq2_s = { .m = { "IQ2_S", "code book of 1024, 2.56 bits a weight", SOURCE, NULL }, .dtype = LORA_IQ2_S, .decode = iq2_s_decode };
const lora__quant lora__quant_iq3_xxs = { .m = { "IQ3_XXS", "code book of 256, 3.06 bits a weight", SOURCE, NULL }, .dtype = LORA_IQ3_XXS, .decode = iq3_xxs_decode };
const lora__quant lora__quant_iq3_s = { .m = { "IQ3_S", "code book of 512, 3.44 bits a weight", SOURCE, NULL }, .dtype = LORA_IQ3_S, .decode = iq3_s_decode };
const lora__quant lora__quant_iq1_s = { .m = { "IQ1_S", "code book of 2048, 1.56 bits a weight", SOURCE, NULL }, .dtype = LORA_IQ1_S, .decode = iq1_s_decode };
const lora__quant lora__quant_iq1_m = { .m = { "IQ1_M", "code book of 2048, 1.75 bits a weight", SOURCE, NULL }, .dtype = LORA_IQ1_M, .decode = iq1_m_decode };
