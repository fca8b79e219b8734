/* See kernels.h. */
#include "combine/kernels.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif
#include <math.h>
#include <stddef.h>
#include <string.h>

typedef double vec __attribute__((vector_size(32), aligned(8), may_alias));
enum { VL = 4, WIDE = 8 };
typedef double wide __attribute__((vector_size(64), aligned(8), may_alias));

#define INLINE static inline __attribute__((always_inline))

#define FOLD(s) ((s)[0] + (s)[1] + ((s)[2] + (s)[3]))
#define AT(p) (*(const vec *)(p))

INLINE void dot_body(const int way, const double *m, int64_t ld, int64_t rows, const double *x, int64_t n, double *y)
{
	for (int64_t r = 0; r < rows; r += 4) {
		const double *a = m + r * ld, *b = r + 1 < rows ? a + ld : a, *c = r + 2 < rows ? b + ld : a, *d = r + 3 < rows ? c + ld : a;
		vec s0 = { 0 }, s1 = { 0 }, s2 = { 0 }, s3 = { 0 }, t0 = { 0 }, t1 = { 0 }, t2 = { 0 }, t3 = { 0 };
		int64_t j = 0;
		for (; way && j + 2 * VL <= n; j += 2 * VL) {
			vec v = AT(x + j), w = AT(x + j + VL);
			s0 += AT(a + j) * v, s1 += AT(b + j) * v, s2 += AT(c + j) * v, s3 += AT(d + j) * v;
			t0 += AT(a + j + VL) * w, t1 += AT(b + j + VL) * w, t2 += AT(c + j + VL) * w, t3 += AT(d + j + VL) * w;
		}
		s0 += t0, s1 += t1, s2 += t2, s3 += t3;
		double t[4] = { FOLD(s0), FOLD(s1), FOLD(s2), FOLD(s3) };
		for (; j < n; j++) t[0] += a[j] * x[j], t[1] += b[j] * x[j], t[2] += c[j] * x[j], t[3] += d[j] * x[j];
		for (int i = 0; i < 4 && r + i < rows; i++) y[r + i] = t[i];
	}
}

INLINE void add_body(const int way, double *y, const double *m, int64_t ld, int64_t rows, const double *c, int64_t step, int64_t n)
{
	int64_t r = 0;
	for (; way && r + 4 <= rows; r += 4) {
		const double *a = m + r * ld;
		double f[4] = { c[r * step], c[(r + 1) * step], c[(r + 2) * step], c[(r + 3) * step] };
		int64_t j = 0;
		for (; j + VL <= n; j += VL)
			*(vec *)(y + j) = AT(y + j) + ((AT(a + j) * f[0] + AT(a + ld + j) * f[1]) + (AT(a + 2 * ld + j) * f[2] + AT(a + 3 * ld + j) * f[3]));
		for (; j < n; j++) y[j] = y[j] + ((a[j] * f[0] + a[ld + j] * f[1]) + (a[2 * ld + j] * f[2] + a[3 * ld + j] * f[3]));
	}
	for (; r < rows; r++)
		for (int64_t j = 0; j < n; j++) y[j] += c[r * step] * m[r * ld + j];
}

INLINE void rank2_body(const int way, double *m, int64_t ld, int64_t rows, const double *p, const double *x, const double *q, const double *z, int64_t n)
{
	for (int64_t r = 0; r < rows; r++) {
		double *a = m + r * ld, f = p[r], g = q ? q[r] : 0;
		int64_t j = 0;
		for (; way && q && j + VL <= n; j += VL) *(vec *)(a + j) = AT(a + j) - (AT(x + j) * f + AT(z + j) * g);
		for (; way && j + VL <= n; j += VL) *(vec *)(a + j) = AT(a + j) - AT(x + j) * f;
		for (; j < n; j++) a[j] -= q ? x[j] * f + z[j] * g : x[j] * f;
	}
}

typedef uint32_t words __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint64_t halves __attribute__((vector_size(32), may_alias));
enum { WORDS = 8 };

/* Two vectors at a time; those with a value between the bounds are looked at one by one. */
INLINE void count_body(const int way, const float *v, int64_t n, uint32_t low, uint32_t high, int shift, uint32_t *bins, int64_t *above)
{
	const words *p = (const words *)(const void *)v;
	int64_t i = 0, sum = 0;
	words count = { 0 };
	for (; way && i + 2 * WORDS <= n; i += 2 * WORDS, p += 2) {
		words any = { 0 };
		for (int k = 0; k < 2; k++) {
			words m = p[k] & 0x7fffffffu;
			count -= (words)(m > high);
			any |= (words)((m >= low) & (m <= high));
		}
		halves h = (halves)any;
		for (int k = 0; (h[0] | h[1] | h[2] | h[3]) && k < 2 * WORDS; k++) {
			uint32_t m = ((const uint32_t *)(const void *)p)[k] & 0x7fffffffu;
			if (m - low <= high - low) bins[(m - low) >> shift]++;
		}
	}
	for (int k = 0; k < WORDS; k++) sum += count[k];
	for (; i < n; i++) {
		uint32_t m;
		memcpy(&m, v + i, sizeof m);
		m &= 0x7fffffffu, sum += m > high;
		if (m >= low && m <= high) bins[(m - low) >> shift]++;
	}
	*above = sum;
}

INLINE void clear_body(const int way, float *v, int64_t n, uint32_t limit)
{
	words *p = (words *)(void *)v;
	int64_t i = 0;
	for (; way && i + WORDS <= n; i += WORDS, p++) *p &= (words)((*p & 0x7fffffffu) >= limit);
	for (; i < n; i++) {
		uint32_t m;
		memcpy(&m, v + i, sizeof m);
		if ((m & 0x7fffffffu) < limit) v[i] = 0;
	}
}

LORA__TWICE(dot, (const double *m, int64_t ld, int64_t rows, const double *x, int64_t n, double *y), m, ld, rows, x, n, y)
LORA__TWICE(add, (double *y, const double *m, int64_t ld, int64_t rows, const double *c, int64_t step, int64_t n), y, m, ld, rows, c, step, n)
LORA__TWICE(rank2, (double *m, int64_t ld, int64_t rows, const double *p, const double *x, const double *q, const double *z, int64_t n), m, ld, rows, p, x, q, z, n)

void lora__rows_dot(const double *m, int64_t ld, int64_t rows, const double *x, int64_t n, double *y) { LORA__CALL(dot, m, ld, rows, x, n, y); }

void lora__rows_add(double *y, const double *m, int64_t ld, int64_t rows, const double *c, int64_t step, int64_t n)
{
	LORA__CALL(add, y, m, ld, rows, c, step, n);
}

void lora__rows_rank2(double *m, int64_t ld, int64_t rows, const double *p, const double *x, const double *q, const double *z, int64_t n)
{
	LORA__CALL(rank2, m, ld, rows, p, x, q, z, n);
}

INLINE void symmetric_body(const int way, double *y, const double *m, int64_t ld, const double *x, int64_t n)
{
	int64_t r = 0;
	for (; way && r + VL <= n; r += VL) { /* VL rows; y takes what stands below the diagonal a second time */
		const double *a = m + r * ld, *b = a + ld, *c = b + ld, *d = c + ld;
		vec s0 = { 0 }, s1 = { 0 }, s2 = { 0 }, s3 = { 0 };
		for (int64_t j = 0; j < r; j += VL) {
			vec e = AT(a + j), f = AT(b + j), g = AT(c + j), h = AT(d + j), z = AT(x + j);
			*(vec *)(y + j) = AT(y + j) + ((e * x[r] + f * x[r + 1]) + (g * x[r + 2] + h * x[r + 3]));
			s0 += e * z, s1 += f * z, s2 += g * z, s3 += h * z;
		}
		double t[VL] = { FOLD(s0), FOLD(s1), FOLD(s2), FOLD(s3) };
		for (int i = 0; i < VL; i++)
			for (int j = 0; j < VL; j++) t[i] += a[(i > j ? i : j) * ld + r + (i > j ? j : i)] * x[r + j];
		memcpy(y + r, t, sizeof t);
	}
	for (; r < n; r++) {
		double sum = 0;
		for (int64_t j = 0; j < r; j++) y[j] += m[r * ld + j] * x[r], sum += m[r * ld + j] * x[j];
		y[r] = sum + m[r * ld + r] * x[r];
	}
}

/* Row i stays in registers from its turn as the second to the one as the first. */
INLINE void turns_body(const int way, double *x, const lora__turn *t, int64_t n)
{
	enum { PARTS = LORA__TURNED / WIDE };
	for (; !way && n-- > 0; x += LORA__TURNED)
		for (double *p = x, *q = x + LORA__TURNED, b; p < x + LORA__TURNED; p++, q++) b = *q, *q = b * t[n].c - *p * t[n].s, *p = *p * t[n].c + b * t[n].s;
	if (!way) return;
	wide a[PARTS], *end;
#pragma GCC unroll 4
	for (int k = 0; k < PARTS; k++) a[k] = ((const wide *)(void *)x)[k];
	for (; n-- > 0; x += LORA__TURNED) {
		double c = t[n].c, s = t[n].s;
#pragma GCC unroll 4
		for (int k = 0; k < PARTS; k++) {
			wide b = *(const wide *)(x + LORA__TURNED + k * WIDE);
			*(wide *)(x + k * WIDE) = a[k] * c + b * s;
			a[k] = b * c - a[k] * s;
		}
	}
	end = (wide *)(void *)x;
#pragma GCC unroll 4
	for (int k = 0; k < PARTS; k++) end[k] = a[k];
}

LORA__TWICE(symmetric, (double *y, const double *m, int64_t ld, const double *x, int64_t n), y, m, ld, x, n)
LORA__TWICE(turns, (double *x, const lora__turn *t, int64_t n), x, t, n)
LORA__WIDE(turns, LORA__FUSED, (double *x, const lora__turn *t, int64_t n), x, t, n)
LORA__TWICE(count, (const float *v, int64_t n, uint32_t low, uint32_t high, int shift, uint32_t *bins, int64_t *above), v, n, low, high, shift, bins, above)
LORA__TWICE(clear, (float *v, int64_t n, uint32_t limit), v, n, limit)

#ifdef __x86_64__
/* Those between the bounds are gathered without a branch. */
static __attribute__((target("avx512f"))) void count_avx512(const float *v, int64_t n, uint32_t low, uint32_t high, int shift, uint32_t *bins, int64_t *above)
{
	enum { LIST = 1024, EACH = 16 };
	uint32_t list[LIST + 2 * EACH];
	__m512i mask = _mm512_set1_epi32(0x7fffffff), least = _mm512_set1_epi32((int)low), most = _mm512_set1_epi32((int)high), span = _mm512_sub_epi32(most, least);
	int64_t i = 0, found = 0, sum = 0;
	for (; i + EACH <= n; i += EACH) {
		__m512i m = _mm512_and_si512(_mm512_loadu_si512(v + i), mask), from = _mm512_sub_epi32(m, least);
		__mmask16 inside = _mm512_cmple_epu32_mask(from, span);
		sum += __builtin_popcount(_mm512_cmpgt_epu32_mask(m, most));
		_mm512_storeu_si512(list + found, _mm512_maskz_compress_epi32(inside, from));
		found += __builtin_popcount(inside);
		while (found > LIST || (found && i + 2 * EACH > n)) bins[list[--found] >> shift]++;
	}
	count_body(0, v + i, n - i, low, high, shift, bins, above);
	*above += sum;
}
#define COUNT(...) (__builtin_cpu_supports("avx512f") ? count_avx512(__VA_ARGS__) : LORA__CALL(count, __VA_ARGS__))
#else
#define COUNT(...) LORA__CALL(count, __VA_ARGS__)
#endif

int64_t lora__count_magnitudes(const float *v, int64_t n, uint32_t low, uint32_t high, int shift, uint32_t *bins)
{
	int64_t sum = 0;
	for (int64_t at = 0; at < n; at += 1 << 30) { /* the counters have 32 bits */
		int64_t above;
		COUNT(v + at, n - at < 1 << 30 ? n - at : 1 << 30, low, high, shift, bins, &above);
		sum += above;
	}
	return sum;
}

void lora__clear_below(float *v, int64_t n, uint32_t limit) { LORA__CALL(clear, v, n, limit); }

void lora__symmetric(double *y, const double *m, int64_t ld, const double *x, int64_t n) { LORA__CALL(symmetric, y, m, ld, x, n); }

void lora__turns(double *x, const lora__turn *t, int64_t n) { LORA__CALL_WIDE(turns, x, t, n); }

double lora__reflection(double *x, int64_t n)
{
	double most = 0, sum = 0;
	for (int64_t j = 0; j < n; j++) most = fmax(most, fabs(x[j]));
	if (most == 0) return 0;
	for (int64_t j = 0; j < n; j++) sum += x[j] / most * (x[j] / most);
	double norm = sqrt(sum), beta = -copysign(norm, x[0]), head = x[0] / most - beta;
	double scale = 1 / sqrt(norm * fabs(head)); /* |v|^2 = 2: v^T v / 2 = norm (norm + |x0|) */
	for (int64_t j = 1; j < n; j++) x[j] = x[j] / most * scale;
	x[0] = head * scale;
	return beta * most;
}
