/* K-quants, encoding: each group's scale (and minimum) is searched over a few candidate steps, weighted least squares giving the best scale for
 * each rounding; then the scales are quantised themselves and the weights rounded once more against what the scales became.
 * Candidates, weights and the order of sums follow ggml's reference encoders without importance matrix, so that the blocks are the same.
 * Source: ggml-quants.c, make_qkx2_quants, make_qx_quants, make_q3_quants, quantize_row_q{2,3,4,5,6}_K_ref. */
#include <math.h>
#include <string.h>

#include "quant/quant_k.h"

enum { N = 256 };
static const float TINY = 1e-15f; /* a group that is smaller counts as zero */

/* To the nearest integer, ties to even; |v| < 2^22. */
static int nearest(float v)
{
	float shifted = v + 12582912.0f;
	int32_t i;
	memcpy(&i, &shifted, 4);
	return (i & 0x007fffff) - 0x00400000;
}
static int clamp(int v, int low, int high) { return v < low ? low : v > high ? high : v; }

typedef struct search { int top; float first, step; int n_steps; int absolute; /* error measure |e|, else e^2 */ } search;

/* Scale and (negated) minimum of a group with levels 0 .. top. Each step rounds from the best minimum so far. */
static float fit_affine(int n, const float *x, const float *w, const search *s, uint8_t *level, float *min_out)
{
	float low = x[0], high = x[0], sum_w = w[0], sum_x = w[0] * x[0], best = 0;
	for (int i = 1; i < n; i++) {
		if (x[i] < low) low = x[i];
		if (x[i] > high) high = x[i];
		sum_w += w[i];
		sum_x += w[i] * x[i];
	}
	if (low > 0) low = 0;
	*min_out = -low;
	memset(level, 0, (size_t)n);
	if (high == low) return 0;
	float by = (float)s->top / (high - low), scale = 1 / by;
	for (int i = 0; i < n; i++) {
		level[i] = (uint8_t)clamp(nearest(by * (x[i] - low)), 0, s->top);
		float e = scale * (float)level[i] + low - x[i];
		best += w[i] * (s->absolute ? fabsf(e) : e * e);
	}
	for (int k = 0; k <= s->n_steps; k++) {
		uint8_t q[32];
		float sum_q = 0, sum_q2 = 0, sum_xq = 0, error = 0;
		by = (s->first + s->step * (float)k + (float)s->top) / (high - low);
		for (int i = 0; i < n; i++) {
			q[i] = (uint8_t)clamp(nearest(by * (x[i] - low)), 0, s->top);
			sum_q += w[i] * (float)q[i];
			sum_q2 += w[i] * (float)q[i] * (float)q[i];
			sum_xq += w[i] * (float)q[i] * x[i];
		}
		float det = sum_w * sum_q2 - sum_q * sum_q;
		if (!(det > 0)) continue;
		float this_scale = (sum_w * sum_xq - sum_x * sum_q) / det, this_low = (sum_q2 * sum_x - sum_q * sum_xq) / det;
		if (this_low > 0) this_low = 0, this_scale = sum_xq / sum_q2;
		for (int i = 0; i < n; i++) {
			float e = this_scale * (float)q[i] + this_low - x[i];
			error += w[i] * (s->absolute ? fabsf(e) : e * e);
		}
		if (!(error < best)) continue;
		best = error, scale = this_scale, low = this_low;
		memcpy(level, q, (size_t)n);
	}
	*min_out = -low;
	return scale;
}

static float largest(const float *x, int n)
{
	float size = 0, value = 0;
	for (int i = 0; i < n; i++)
		if (fabsf(x[i]) > size) size = fabsf(x[i]), value = x[i];
	return value;
}

/* Scale of a group of 16 with levels -top .. top - 1, error weighted by x^2. */
static float fit_scale(const float *x, int top, uint8_t *level)
{
	float max = largest(x, 16), scale = 0, best = 0;
	memset(level, 0, 16);
	if (fabsf(max) < TINY) return 0;
	for (int k = 0; k < 20; k++) { /* the plain step first, then those around it: -9 .. 9 tenths */
		uint8_t now[16];
		float   by = (k == 0 ? -(float)top : -((float)top + 0.1f * (float)(k - 10))) / max, xq = 0, q2 = 0;
		if (k == 10) continue;
		for (int i = 0; i < 16; i++) {
			int   to = clamp(nearest(by * x[i]), -top, top - 1);
			float q = (float)to, w = x[i] * x[i];
			now[i] = (uint8_t)(to + top);
			xq += w * x[i] * q;
			q2 += w * q * q;
		}
		if (k > 0 && !(q2 > 0 && xq * xq > best * q2)) continue;
		scale = q2 != 0 ? xq / q2 : 0, best = scale * xq;
		memcpy(level, now, 16);
	}
	return scale;
}

/* The same for levels -4 .. 3 by turns: one weight after the other moves to where it is best, up to five times round. */
static float fit_scale_q3(const float *x, uint8_t *level)
{
	enum { TOP = 4 };
	int   q[16];
	float max = largest(x, 16), xq = 0, q2 = 0;
	memset(level, 0, 16);
	if (fabsf(max) < TINY) return 0;
	for (int i = 0; i < 16; i++) {
		float w = x[i] * x[i];
		q[i] = clamp(nearest(-(float)TOP / max * x[i]), -TOP, TOP - 1);
		xq += w * x[i] * (float)q[i];
		q2 += w * (float)q[i] * (float)q[i];
	}
	for (int turn = 0, moved = 1; turn < 5 && moved; turn++) {
		moved = 0;
		for (int i = 0; i < 16; i++) {
			float w = x[i] * x[i], xr = xq - w * x[i] * (float)q[i];
			if (!(xr > 0)) continue;
			float r2 = q2 - w * (float)q[i] * (float)q[i];
			int   to = clamp(nearest(x[i] * r2 / xr), -TOP, TOP - 1);
			if (to == q[i]) continue;
			xr += w * x[i] * (float)to;
			r2 += w * (float)to * (float)to;
			if (r2 > 0 && xr * xr * q2 > xq * xq * r2) q[i] = to, xq = xr, q2 = r2, moved = 1;
		}
	}
	for (int i = 0; i < 16; i++) level[i] = (uint8_t)(q[i] + TOP);
	return q2 > 0 ? xq / q2 : 0;
}

/* level[i] = nearest((x + min) / scale) for a group; where the scale became zero the levels of the search stay. */
static void round_group(const float *x, int n, float scale, float min, int low, int high, uint8_t *level)
{
	for (int i = 0; i < n && scale != 0; i++) level[i] = (uint8_t)(clamp(nearest((x[i] + min) / scale), low, high) - low);
}

/* 2-bit numbers of 256 weights to 64 bytes. */
static void put_pairs(uint8_t *p, const uint8_t *level)
{
	for (int h = 0; h < 2; h++)
		for (int i = 0; i < 32; i++) {
			const uint8_t *l = level + 128 * h + i;
			p[32 * h + i] = (uint8_t)((l[0] & 3) | (l[32] & 3) << 2 | (l[64] & 3) << 4 | (l[96] & 3) << 6);
		}
}

void lora__quant_q2_encode(const float *x, int64_t n, uint8_t *p)
{
	static const search how = { .top = 3, .first = -0.5f, .step = 0.1f, .n_steps = 15, .absolute = 1 };
	for (; n > 0; n--, x += N, p += 84) {
		float   scale[16], min[16], w[16], top_scale = 0, top_min = 0;
		uint8_t level[N];
		for (int g = 0; g < 16; g++) {
			for (int i = 0; i < 16; i++) w[i] = fabsf(x[16 * g + i]);
			scale[g] = fit_affine(16, x + 16 * g, w, &how, level + 16 * g, &min[g]);
			if (scale[g] > top_scale) top_scale = scale[g];
			if (min[g] > top_min) top_min = min[g];
		}
		float by_scale = top_scale > 0 ? 15.0f / top_scale : 0, by_min = top_min > 0 ? 15.0f / top_min : 0;
		for (int g = 0; g < 16; g++) p[g] = (uint8_t)(clamp(nearest(by_scale * scale[g]), 0, 15) | clamp(nearest(by_min * min[g]), 0, 15) << 4);
		lora__quant_put_f16(p + 80, top_scale > 0 ? top_scale / 15.0f : 0);
		lora__quant_put_f16(p + 82, top_min > 0 ? top_min / 15.0f : 0);
		for (int g = 0; g < 16; g++)
			round_group(x + 16 * g, 16, lora__quant_f16(p + 80) * (float)(p[g] & 15), lora__quant_f16(p + 82) * (float)(p[g] >> 4), 0, 3, level + 16 * g);
		put_pairs(p + 16, level);
	}
}

void lora__quant_q3_encode(const float *x, int64_t n, uint8_t *p)
{
	for (; n > 0; n--, x += N, p += 110) {
		float   scale[16], max;
		int8_t  given[16];
		uint8_t level[N];
		for (int g = 0; g < 16; g++) scale[g] = fit_scale_q3(x + 16 * g, level + 16 * g);
		max = largest(scale, 16);
		memset(p, 0, 110);
		if (max != 0) {
			float by = -32.0f / max;
			for (int g = 0; g < 16; g++) {
				int s = clamp(nearest(by * scale[g]), -32, 31) + 32;
				p[96 + g % 8] = (uint8_t)(p[96 + g % 8] | (s & 15) << (4 * (g / 8)));
				p[104 + g % 4] = (uint8_t)(p[104 + g % 4] | (s >> 4) << (2 * (g / 4)));
			}
			lora__quant_put_f16(p + 108, 1 / by);
		}
		lora__quant_q3_scales(p + 96, given);
		for (int g = 0; g < 16; g++) round_group(x + 16 * g, 16, lora__quant_f16(p + 108) * (float)given[g], 0, -4, 3, level + 16 * g);
		for (int i = 0; i < N; i++) p[i % 32] = (uint8_t)(p[i % 32] | (level[i] >> 2) << (i / 32));
		put_pairs(p + 32, level);
	}
}

/* What Q4_K and Q5_K share: scales of eight groups to p[0..16), levels. */
static void affine_block(const float *x, const search *how, uint8_t *p, uint8_t *level)
{
	float scale[8], min[8], w[32], top_scale = 0, top_min = 0;
	for (int g = 0; g < 8; g++) {
		const float *v = x + 32 * g;
		float sum = 0;
		for (int i = 0; i < 32; i++) sum += v[i] * v[i];
		for (int i = 0; i < 32; i++) w[i] = sqrtf(sum / 32) + fabsf(v[i]);
		scale[g] = fit_affine(32, v, w, how, level + 32 * g, &min[g]);
		if (scale[g] > top_scale) top_scale = scale[g];
		if (min[g] > top_min) top_min = min[g];
	}
	float by_scale = top_scale > 0 ? 63.0f / top_scale : 0, by_min = top_min > 0 ? 63.0f / top_min : 0;
	uint8_t *s = p + 4;
	memset(s, 0, 12);
	for (int g = 0; g < 8; g++) {
		int a = clamp(nearest(by_scale * scale[g]), 0, 63), b = clamp(nearest(by_min * min[g]), 0, 63);
		if (g < 4) {
			s[g] = (uint8_t)a, s[g + 4] = (uint8_t)b;
		} else {
			s[g + 4] = (uint8_t)((a & 15) | (b & 15) << 4);
			s[g - 4] = (uint8_t)(s[g - 4] | (a >> 4) << 6);
			s[g] = (uint8_t)(s[g] | (b >> 4) << 6);
		}
	}
	lora__quant_put_f16(p, top_scale / 63.0f);
	lora__quant_put_f16(p + 2, top_min / 63.0f);
	for (int g = 0; g < 8; g++) {
		unsigned a, b;
		lora__quant_k_scale(s, g, &a, &b);
		round_group(x + 32 * g, 32, lora__quant_f16(p) * (float)a, lora__quant_f16(p + 2) * (float)b, 0, how->top, level + 32 * g);
	}
}

void lora__quant_q4_encode(const float *x, int64_t n, uint8_t *p)
{
	static const search how = { .top = 15, .first = -1.0f, .step = 0.1f, .n_steps = 20 };
	for (; n > 0; n--, x += N, p += 144) {
		uint8_t level[N];
		affine_block(x, &how, p, level);
		for (int k = 0; k < 4; k++)
			for (int i = 0; i < 32; i++) p[16 + 32 * k + i] = (uint8_t)(level[64 * k + i] | level[64 * k + i + 32] << 4);
	}
}

void lora__quant_q5_encode(const float *x, int64_t n, uint8_t *p)
{
	static const search how = { .top = 31, .first = -0.5f, .step = 0.1f, .n_steps = 15 };
	for (; n > 0; n--, x += N, p += 176) {
		uint8_t level[N];
		affine_block(x, &how, p, level);
		memset(p + 16, 0, 32);
		for (int i = 0; i < N; i++) p[16 + i % 32] = (uint8_t)(p[16 + i % 32] | (level[i] >> 4) << (i / 32));
		for (int k = 0; k < 4; k++)
			for (int i = 0; i < 32; i++) p[48 + 32 * k + i] = (uint8_t)((level[64 * k + i] & 15) | (level[64 * k + i + 32] & 15) << 4);
	}
}

void lora__quant_q6_encode(const float *x, int64_t n, uint8_t *p)
{
	for (; n > 0; n--, x += N, p += 210) {
		float   scale[16], max;
		uint8_t level[N];
		for (int g = 0; g < 16; g++) scale[g] = fit_scale(x + 16 * g, 32, level + 16 * g);
		max = largest(scale, 16);
		memset(p, 0, 210);
		if (fabsf(max) < TINY) continue;
		float by = -128.0f / max;
		lora__quant_put_f16(p + 208, 1 / by);
		for (int g = 0; g < 16; g++) {
			int s = nearest(by * scale[g]);
			p[192 + g] = (uint8_t)(int8_t)(s > 127 ? 127 : s);
			round_group(x + 16 * g, 16, lora__quant_f16(p + 208) * (float)(int8_t)p[192 + g], 0, -32, 31, level + 16 * g);
		}
		for (int h = 0; h < 2; h++)
			for (int i = 0; i < 32; i++) {
				const uint8_t *l = level + 128 * h + i;
				p[64 * h + i] = (uint8_t)((l[0] & 15) | (l[64] & 15) << 4);
				p[64 * h + i + 32] = (uint8_t)((l[32] & 15) | (l[96] & 15) << 4);
				p[128 + 32 * h + i] = (uint8_t)(l[0] >> 4 | l[32] >> 4 << 2 | l[64] >> 4 << 4 | l[96] >> 4 << 6);
			}
	}
}
