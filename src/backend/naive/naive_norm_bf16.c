/* RMSNORM in BF16 on AVX-512 with conversions to BF16: naive_norm.inc's formulas and order of sums on 16 elements at a
 * time, nothing fused: the same bits but for subnormals, which are taken for zero. */
#include <math.h>

#include "backend/naive/naive_norm.h"
#include "backend/naive/naive_x86.h"

#ifdef NAIVE_X86

AVX512_BF16 void lora__rmsnorm_bf16(void *arg, int64_t task, int32_t thread)
{
	const norm_job *j = arg;
	const lora_call *c = j->c;
	const float *w = j->w;
	int64_t r0, r1, c0, d;
	(void)thread;
	lora__naive_piece(&j->g, task, &r0, &r1, &c0, &d);
	for (int64_t r = r0; r < r1; r++) {
		const uint16_t *x = lora__at(&c->v[1], r, 0);
		uint16_t *y = lora__at(&c->v[0], r, 0);
		__m512 low = _mm512_setzero_ps(), high = low;
		for (int64_t i = 0; i < d; i += 32) {
			__m512 a = lora__load16(x + i, lora__first16(d - i)), b = lora__load16(x + i + 16, lora__first16(d - i - 16));
			low = _mm512_add_ps(low, _mm512_mul_ps(a, a)), high = _mm512_add_ps(high, _mm512_mul_ps(b, b));
		}
		float rstd = 1 / (float)sqrt((double)(_mm512_reduce_add_ps(_mm512_add_ps(low, high)) / (float)d) + c->f[0]);
		((float *)c->v[3].data)[r] = rstd;
		__m512 scale = _mm512_set1_ps(rstd);
		for (int64_t i = 0; i < d; i += 16) {
			__mmask16 in = lora__first16(d - i);
			lora__narrow16(y + i, in, _mm512_mul_ps(_mm512_mul_ps(lora__load16(x + i, in), scale), _mm512_maskz_loadu_ps(in, w + i)));
		}
	}
}

/* w dy x of the first n of 16. */
AVX512_BF16 static inline __m512 terms(const float *w, const uint16_t *dy, const uint16_t *x, int64_t n)
{
	__mmask16 in = lora__first16(n);
	return _mm512_mul_ps(_mm512_mul_ps(_mm512_maskz_loadu_ps(in, w), lora__load16(dy, in)), lora__load16(x, in));
}

AVX512_BF16 void lora__rmsnorm_bwd_bf16(void *arg, int64_t task, int32_t thread)
{
	const norm_job *j = arg;
	const lora_call *c = j->c;
	const float *w = j->w;
	const __m512 beta = _mm512_set1_ps((float)c->f[1]);
	int64_t r0, r1, c0, d;
	(void)thread;
	lora__naive_piece(&j->g, task, &r0, &r1, &c0, &d);
	for (int64_t r = r0; r < r1; r++) {
		const uint16_t *x = lora__at(&c->v[1], r, 0), *dy = lora__at(&c->v[4], r, 0);
		uint16_t *dx = lora__at(&c->v[0], r, 0);
		__m512 low = _mm512_setzero_ps(), high = low;
		for (int64_t i = 0; i < d; i += 32) low = _mm512_add_ps(low, terms(w + i, dy + i, x + i, d - i)), high = _mm512_add_ps(high, terms(w + i + 16, dy + i + 16, x + i + 16, d - i - 16));
		float rstd = ((const float *)c->v[3].data)[r];
		const __m512 scale = _mm512_set1_ps(rstd), s = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(low, high)) / (float)d * rstd * rstd * rstd);
		for (int64_t i = 0; i < d; i += 16) {
			__mmask16 in = lora__first16(d - i);
			__m512 g = _mm512_mul_ps(scale, _mm512_mul_ps(_mm512_maskz_loadu_ps(in, w + i), lora__load16(dy + i, in)));
			g = _mm512_sub_ps(g, _mm512_mul_ps(lora__load16(x + i, in), s));
			__m512 old = c->f[1] != 0 ? _mm512_mul_ps(beta, lora__load16(dx + i, in)) : _mm512_setzero_ps(); /* dx may hold anything when beta is 0 */
			lora__narrow16(dx + i, in, _mm512_add_ps(old, g));
		}
	}
}

#else

void lora__rmsnorm_bf16(void *arg, int64_t task, int32_t thread) { (void)arg, (void)task, (void)thread; }
void lora__rmsnorm_bwd_bf16(void *arg, int64_t task, int32_t thread) { (void)arg, (void)task, (void)thread; }
#endif
