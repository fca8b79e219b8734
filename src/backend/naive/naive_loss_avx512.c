/* XENT without a soft cap on AVX-512: naive_loss.inc's loss and gradient on 16 logits at a time. Sums are F32 within 512
 * logits and double from there on. A row in BF16 is widened into one of the thread's own, which the second-level cache holds. */
#include "backend/naive/naive_loss.h"
#include "backend/naive/naive_x86.h"

#ifdef NAIVE_X86

AVX512 static float row_top(const float *z, int64_t n)
{
	__m512 a = _mm512_set1_ps(z[0]), b = a;
	int64_t i = 0;
	for (; i + 32 <= n; i += 32) a = _mm512_max_ps(a, _mm512_loadu_ps(z + i)), b = _mm512_max_ps(b, _mm512_loadu_ps(z + i + 16));
	for (; i < n; i += 16) a = _mm512_mask_max_ps(a, lora__first16(n - i), a, _mm512_maskz_loadu_ps(lora__first16(n - i), z + i));
	return _mm512_reduce_max_ps(_mm512_max_ps(a, b));
}

/* The row as F32; its greatest element. */
AVX512 static float widen_row(float *z, const uint16_t *from, int64_t n)
{
	__m512 top = lora__load16(from, 1);
	top = _mm512_broadcastss_ps(_mm512_castps512_ps128(top));
	for (int64_t i = 0; i < n; i += 16) {
		__mmask16 in = lora__first16(n - i);
		__m512 x = lora__load16(from + i, in);
		top = _mm512_mask_max_ps(top, in, top, x);
		_mm512_mask_storeu_ps(z + i, in, x);
	}
	return _mm512_reduce_max_ps(top);
}

/* exp(z - top) in place where the gradient wants it; their sum. */
AVX512 static inline double row_sum(float *z, int64_t n, float top, const int keep)
{
	enum { PART = 512 };
	const __m512 from = _mm512_set1_ps(top);
	double sum = 0;
	for (int64_t at = 0; at < n; at += PART) {
		int64_t end = n - at < PART ? n : at + PART, i = at;
		__m512 a = _mm512_setzero_ps(), b = a;
		for (; i + 32 <= end; i += 32) {
			__m512 x = lora__exp16(_mm512_sub_ps(_mm512_loadu_ps(z + i), from)), y = lora__exp16(_mm512_sub_ps(_mm512_loadu_ps(z + i + 16), from));
			a = _mm512_add_ps(a, x), b = _mm512_add_ps(b, y);
			if (keep) _mm512_storeu_ps(z + i, x), _mm512_storeu_ps(z + i + 16, y);
		}
		for (; i < end; i += 16) {
			__mmask16 in = lora__first16(end - i);
			__m512 x = lora__exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(in, z + i), from));
			a = _mm512_mask_add_ps(a, in, a, x);
			if (keep) _mm512_mask_storeu_ps(z + i, in, x);
		}
		sum += (double)_mm512_reduce_add_ps(_mm512_add_ps(a, b));
	}
	return sum;
}

/* f z, in place or as BF16. */
AVX512 static void scale_row(float *z, uint16_t *half, int64_t n, float f)
{
	const __m512 factor = _mm512_set1_ps(f);
	for (int64_t i = 0; i < n; i += 16) {
		__mmask16 in = lora__first16(n - i);
		__m512 v = _mm512_mul_ps(factor, _mm512_maskz_loadu_ps(in, z + i));
		if (half) lora__store16(half + i, in, v);
		else _mm512_mask_storeu_ps(z + i, in, v);
	}
}

AVX512 void lora__xent_avx512(void *arg, int64_t task, int32_t thread)
{
	const lora__xent_job *j = arg;
	const lora_call *c = j->c;
	void *row = lora__at(&c->v[0], task, 0);
	uint16_t *half = j->rows ? row : NULL;
	float *z = half ? (float *)(void *)(j->rows + j->row * (size_t)thread) : row, scale = (float)c->f[0];
	int64_t n = c->v[0].size[1];
	int32_t label = ((const int32_t *)c->v[1].data)[task];
	double *loss = (double *)c->v[2].data + task;
	if (label < 0) {
		*loss = 0;
		if (c->i[0]) memset(row, 0, (size_t)n * (half ? sizeof *half : sizeof *z));
		return;
	}
	float top = half ? widen_row(z, half, n) : row_top(z, n), at_label = z[label];
	double sum = c->i[0] ? row_sum(z, n, top, 1) : row_sum(z, n, top, 0);
	*loss = log(sum) + ((double)top - (double)at_label);
	if (!c->i[0]) return;
	float f = (float)((double)scale / sum), g = (float)(exp((double)at_label - (double)top) * (double)f - (double)scale);
	scale_row(z, half, n, f);
	if (half) half[label] = lora__f32_to_bf16(g);
	else z[label] = g;
}

#else

void lora__xent_avx512(void *arg, int64_t task, int32_t thread) { (void)arg, (void)task, (void)thread; }
#endif
