/* The block product of naive_block.c in vector registers, for processors with AVX-512 but without tiles: 8 rows by 32 columns of sums at a time,
 * an element (F32) or pair of elements (BF16: VDPBF16PS, AMD64 manual volume 4, Intel SDM volume 2) of A spread over a vector. Operands lie as
 * the tile product reads them, so everything around it is shared; B in F32 as [k][32]. */
#include "backend/naive/naive_block.h"

#ifdef NAIVE_BLOCKS

enum { NEAR = 16 << 10 }; /* bytes of B that the rows of a block pass by together: they stay in the nearest cache, beside as many of A */

/* s[R][V vectors] += (fresh: =) steps of 32 along k, summed for themselves: in F32 (wide) or BF16; a_step: bytes between steps of A; last: words of 32
 * bits of the last step that count. */
AVX512_BF16 static inline __attribute__((always_inline)) void rows(const int R, const int V, const int wide, float *s, int64_t s_step, int fresh, const char *a, int64_t stride,
                                                                  int64_t a_step, const float *b, int64_t steps, int64_t last)
{
	__m512 c[16];
#pragma GCC unroll 16
	for (int i = 0; i < R * V; i++) c[i] = _mm512_setzero_ps();
	for (; steps > 0; steps--, a += a_step, b += wide ? BLOCK : BLOCK / 2)
		for (int64_t k = 0, n = steps > 1 ? (wide ? SIDE : SIDE / 2) : last; k < n; k++) {
			__m512 row[2];
#pragma GCC unroll 2
			for (int v = 0; v < V; v++) row[v] = _mm512_loadu_ps(b + (wide ? k * SIDE + v * 16 : k * 16 + v * TILE / 2));
#pragma GCC unroll 16
			for (int i = 0; i < R; i++) {
				float x; /* in BF16 a pair */
				memcpy(&x, a + i * stride + 4 * k, 4);
				__m512 spread = _mm512_set1_ps(x);
#pragma GCC unroll 2
				for (int v = 0; v < V; v++)
					c[i * V + v] = wide ? _mm512_fmadd_ps(spread, row[v], c[i * V + v]) : _mm512_dpbf16_ps(c[i * V + v], (__m512bh)spread, (__m512bh)row[v]);
			}
		}
#pragma GCC unroll 16
	for (int i = 0; i < R * V; i++) {
		float *to = s + i / V * s_step + i % V * 16;
		_mm512_storeu_ps(to, fresh ? c[i] : _mm512_add_ps(_mm512_loadu_ps(to), c[i]));
	}
}

AVX512_BF16 void lora__block_add(float *s, int64_t s_step, int fresh, const strip *t, int64_t a_step, int wide, int64_t height, int64_t width)
{
	int64_t most = NEAR / (wide ? 4 * BLOCK : 2 * BLOCK), words = wide ? SIDE : SIDE / 2;
	const char *a = t->a;
	const float *b = (const float *)(const void *)t->b;
	for (int64_t left = t->steps, n; left > 0; left -= n, a += n * a_step, b += n * (wide ? BLOCK : BLOCK / 2), fresh = 0) {
		n = left < most ? left : most;
		int64_t last = n < left || !t->odd ? words : wide ? t->odd : (t->odd + 1) / 2;
		for (int64_t y = 0; y < height; y += wide || width > 16 ? 8 : 16) {
			float *to = s + y * s_step;
			const char *from = a + y * t->stride;
			if (wide) rows(8, 2, 1, to, s_step, fresh, from, t->stride, a_step, b, n, last);
			else if (width <= 16) rows(16, 1, 0, to, s_step, fresh, from, t->stride, a_step, b, n, last);
			else rows(8, 2, 0, to, s_step, fresh, from, t->stride, a_step, b, n, last);
		}
	}
}
#endif
