/* Block types of 32 elements with one scale, or a scale and a minimum: Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.
 *   Q8_0, Q4_0, Q5_0: value = d (q - zero);  Q4_1, Q5_1: value = d q + m.
 * Nibbles: the low ones are elements 0..15, the high ones 16..31; fifth bits are one 32-bit word.
 * Encoding as ggml's reference: the scale comes from the element of largest size (or from the range), each element is rounded on its own.
 * Source: ggml-quants.c, quantize_row_*_ref and dequantize_row_*. */
#include <math.h>

#include "quant/quant.h"

enum { N = 32 };

/* The element of largest size, with its sign; the first of equal ones. */
static float largest(const float *x)
{
	float size = 0, value = 0;
	for (int i = 0; i < N; i++)
		if (fabsf(x[i]) > size) size = fabsf(x[i]), value = x[i];
	return value;
}

static void range(const float *x, float *low, float *high)
{
	*low = *high = x[0];
	for (int i = 1; i < N; i++) {
		if (x[i] < *low) *low = x[i];
		if (x[i] > *high) *high = x[i];
	}
}

static float inverse(float d) { return d != 0 ? 1.0f / d : 0.0f; }
static unsigned cut(float v, int top) { return v >= (float)top ? (unsigned)top : (unsigned)v; }

static void q8_0_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 34, y += N) {
		float d = lora__quant_f16(p);
		for (int i = 0; i < N; i++) y[i] = (float)(int8_t)p[2 + i] * d;
	}
}

static void q8_0_encode(const float *x, int64_t n, uint8_t *p)
{
	for (; n > 0; n--, p += 34, x += N) {
		float d = fabsf(largest(x)) / 127.0f, by = inverse(d);
		lora__quant_put_f16(p, d);
		for (int i = 0; i < N; i++) p[2 + i] = (uint8_t)(int8_t)roundf(x[i] * by);
	}
}

static void q4_0_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 18, y += N) {
		float d = lora__quant_f16(p);
		for (int i = 0; i < N / 2; i++) {
			y[i] = (float)((p[2 + i] & 15) - 8) * d;
			y[i + N / 2] = (float)((p[2 + i] >> 4) - 8) * d;
		}
	}
}

static void q4_0_encode(const float *x, int64_t n, uint8_t *p)
{
	for (; n > 0; n--, p += 18, x += N) {
		float d = largest(x) / -8.0f, by = inverse(d);
		lora__quant_put_f16(p, d);
		for (int i = 0; i < N / 2; i++) p[2 + i] = (uint8_t)(cut(x[i] * by + 8.5f, 15) | cut(x[i + N / 2] * by + 8.5f, 15) << 4);
	}
}

static void q4_1_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 20, y += N) {
		float d = lora__quant_f16(p), m = lora__quant_f16(p + 2);
		for (int i = 0; i < N / 2; i++) {
			y[i] = (float)(p[4 + i] & 15) * d + m;
			y[i + N / 2] = (float)(p[4 + i] >> 4) * d + m;
		}
	}
}

static void q4_1_encode(const float *x, int64_t n, uint8_t *p)
{
	for (; n > 0; n--, p += 20, x += N) {
		float low, high, d, by;
		range(x, &low, &high);
		d = (high - low) / 15.0f, by = inverse(d);
		lora__quant_put_f16(p, d);
		lora__quant_put_f16(p + 2, low);
		for (int i = 0; i < N / 2; i++) p[4 + i] = (uint8_t)(cut((x[i] - low) * by + 0.5f, 15) | cut((x[i + N / 2] - low) * by + 0.5f, 15) << 4);
	}
}

static int fifth(uint32_t bits, int i) { return (int)(bits >> i & 1) << 4; }

static void q5_0_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 22, y += N) {
		float d = lora__quant_f16(p);
		uint32_t top = lora__quant_u32(p + 2);
		for (int i = 0; i < N / 2; i++) {
			y[i] = (float)(((p[6 + i] & 15) | fifth(top, i)) - 16) * d;
			y[i + N / 2] = (float)((p[6 + i] >> 4 | fifth(top, i + N / 2)) - 16) * d;
		}
	}
}

static void q5_1_decode(const uint8_t *p, int64_t n, float *y)
{
	for (; n > 0; n--, p += 24, y += N) {
		float d = lora__quant_f16(p), m = lora__quant_f16(p + 2);
		uint32_t top = lora__quant_u32(p + 4);
		for (int i = 0; i < N / 2; i++) {
			y[i] = (float)((p[8 + i] & 15) | fifth(top, i)) * d + m;
			y[i + N / 2] = (float)(p[8 + i] >> 4 | fifth(top, i + N / 2)) * d + m;
		}
	}
}

/* 32 numbers of five bits at p: the word of fifth bits, then the nibbles. */
static void put_five(uint8_t *p, const unsigned *q)
{
	uint32_t top = 0;
	for (int i = 0; i < N; i++) top |= (q[i] >> 4 & 1) << i;
	for (int i = 0; i < 4; i++) p[i] = (uint8_t)(top >> (8 * i));
	for (int i = 0; i < N / 2; i++) p[4 + i] = (uint8_t)((q[i] & 15) | (q[i + N / 2] & 15) << 4);
}

static void q5_0_encode(const float *x, int64_t n, uint8_t *p)
{
	for (; n > 0; n--, p += 22, x += N) {
		float d = largest(x) / -16.0f, by = inverse(d);
		unsigned q[N];
		for (int i = 0; i < N; i++) q[i] = cut(x[i] * by + 16.5f, 31);
		lora__quant_put_f16(p, d);
		put_five(p + 2, q);
	}
}

static void q5_1_encode(const float *x, int64_t n, uint8_t *p)
{
	for (; n > 0; n--, p += 24, x += N) {
		float low, high, d, by;
		unsigned q[N];
		range(x, &low, &high);
		d = (high - low) / 31.0f, by = inverse(d);
		for (int i = 0; i < N; i++) q[i] = cut((x[i] - low) * by + 0.5f, 31);
		lora__quant_put_f16(p, d);
		lora__quant_put_f16(p + 2, low);
		put_five(p + 4, q);
	}
}

#define SOURCE "ggml-quants.c"
const lora__quant lora__quant_q8_0 = { .m = { "Q8_0", "8 bits and a scale per 32 weights", SOURCE, NULL }, .dtype = LORA_Q8_0, .decode = q8_0_decode,
	.encode = q8_0_encode };
const lora__quant lora__quant_q4_0 = { .m = { "Q4_0", "4 bits and a scale per 32 weights", SOURCE, NULL }, .dtype = LORA_Q4_0, .decode = q4_0_decode,
	.encode = q4_0_encode };
const lora__quant lora__quant_q4_1 = { .m = { "Q4_1", "4 bits, scale and minimum per 32 weights", SOURCE, NULL }, .dtype = LORA_Q4_1,
	.decode = q4_1_decode, .encode = q4_1_encode };
const lora__quant lora__quant_q5_0 = { .m = { "Q5_0", "5 bits and a scale per 32 weights", SOURCE, NULL }, .dtype = LORA_Q5_0, .decode = q5_0_decode,
	.encode = q5_0_encode };
const lora__quant lora__quant_q5_1 = { .m = { "Q5_1", "5 bits, scale and minimum per 32 weights", SOURCE, NULL }, .dtype = LORA_Q5_1,
	.decode = q5_1_decode, .encode = q5_1_encode };
