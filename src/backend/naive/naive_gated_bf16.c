/* GATED in BF16 with SiLU on AVX-512 with conversions to BF16: naive_gated.inc's formulas on 16 elements at a time, without the passes over blocks that the template
 * needs for every activation and type; this one waits for memory. 1 / (1 + e) by an approximate reciprocal and one step of Newton, relative error 2^-27. */
#include "backend/naive/naive_gated.h"
#include "backend/naive/naive_x86.h"

#ifdef NAIVE_X86

/* sigmoid(x); exp(80) instead of what would become infinity. */
AVX512_BF16 static inline __m512 sigmoid(__m512 x)
{
	const __m512 two = _mm512_set1_ps(2.0f), most = _mm512_set1_ps(80.0f);
	__m512 d = _mm512_add_ps(_mm512_set1_ps(1.0f), lora__exp16(_mm512_min_ps(most, _mm512_sub_ps(_mm512_setzero_ps(), x))));
	__m512 q = _mm512_rcp14_ps(d);
	return _mm512_mul_ps(q, _mm512_fnmadd_ps(d, q, two));
}

AVX512_BF16 void lora__gated_silu_bf16(void *arg, int64_t task, int32_t thread)
{
	const gated_job *j = arg;
	int64_t r0, r1, c0, c1;
	(void)thread;
	lora__naive_piece(&j->g, task, &r0, &r1, &c0, &c1);
	for (int64_t r = r0; r < r1; r++) {
		const uint16_t *gate = lora__at(&j->c->v[1], r, c0), *up = j->up ? lora__at(j->up, r, c0) : NULL;
		uint16_t *out = lora__at(&j->c->v[0], r, c0);
		for (int64_t i = 0; i < c1 - c0; i += 16) {
			__mmask16 in = lora__first16(c1 - c0 - i);
			__m512 x = lora__load16(gate + i, in), y = _mm512_mul_ps(x, sigmoid(x));
			lora__narrow16(out + i, in, up ? _mm512_mul_ps(y, lora__load16(up + i, in)) : y);
		}
	}
}

AVX512_BF16 void lora__gated_silu_bwd_bf16(void *arg, int64_t task, int32_t thread)
{
	const gated_job *j = arg;
	const __m512 one = _mm512_set1_ps(1.0f);
	int64_t r0, r1, c0, c1;
	(void)thread;
	lora__naive_piece(&j->g, task, &r0, &r1, &c0, &c1);
	for (int64_t r = r0; r < r1; r++) {
		const uint16_t *gate = lora__at(&j->c->v[2], r, c0), *dout = lora__at(&j->c->v[4], r, c0), *up = j->up ? lora__at(j->up, r, c0) : NULL;
		uint16_t *dgate = lora__at(&j->c->v[0], r, c0), *dup = j->dup ? lora__at(j->dup, r, c0) : NULL;
		for (int64_t i = 0; i < c1 - c0; i += 16) {
			__mmask16 in = lora__first16(c1 - c0 - i);
			__m512 x = lora__load16(gate + i, in), dy = lora__load16(dout + i, in), u = up ? lora__load16(up + i, in) : one;
			__m512 s = sigmoid(x), h = _mm512_mul_ps(x, s), grad = _mm512_fmadd_ps(h, _mm512_sub_ps(one, s), s);
			if (dup) lora__narrow16(dup + i, in, _mm512_mul_ps(dy, h));
			lora__narrow16(dgate + i, in, _mm512_mul_ps(_mm512_mul_ps(dy, u), grad));
		}
	}
}

#else

void lora__gated_silu_bf16(void *arg, int64_t task, int32_t thread) { (void)arg, (void)task, (void)thread; }
void lora__gated_silu_bwd_bf16(void *arg, int64_t task, int32_t thread) { (void)arg, (void)task, (void)thread; }
#endif
