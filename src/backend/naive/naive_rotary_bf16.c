/* ROPE in BF16 on AVX-512 with conversions to BF16: naive_rotary.inc's formulas on 16 pairs at a time, nothing fused: the
 * same bits but for subnormals, which are taken for zero. */
#include "backend/naive/naive_rotary.h"
#include "backend/naive/naive_x86.h"

#ifdef NAIVE_X86

AVX512_BF16 void lora__rope_bf16(void *arg, int64_t task, int32_t thread)
{
	const rope_job *j = arg;
	const lora_call *c = j->c;
	int64_t heads = c->i[0], d = c->i[1], half = c->i[2] / 2, r0, r1, c0, c1;
	const __m512 sign = _mm512_set1_ps(c->i[3] ? -1.0f : 1.0f);
	(void)thread;
	lora__naive_piece(&j->g, task, &r0, &r1, &c0, &c1);
	for (int64_t r = r0; r < r1; r++) {
		int32_t pos = ((const int32_t *)c->v[3].data)[r];
		const float *cs = lora__at(&c->v[1], pos, 0), *sn = lora__at(&c->v[2], pos, 0);
		for (int64_t k = 0; k < half; k += 16) {
			__mmask16 in = lora__first16(half - k);
			__m512 co = _mm512_maskz_loadu_ps(in, cs + k), si = _mm512_mul_ps(sign, _mm512_maskz_loadu_ps(in, sn + k));
			uint16_t *a = lora__at(&c->v[0], r, k);
			for (int64_t h = 0; h < heads; h++, a += d) {
				__m512 x = lora__load16(a, in), y = lora__load16(a + half, in);
				lora__narrow16(a, in, _mm512_sub_ps(_mm512_mul_ps(x, co), _mm512_mul_ps(y, si)));
				lora__narrow16(a + half, in, _mm512_add_ps(_mm512_mul_ps(y, co), _mm512_mul_ps(x, si)));
			}
		}
	}
}

#else

void lora__rope_bf16(void *arg, int64_t task, int32_t thread) { (void)arg, (void)task, (void)thread; }
#endif
