/* The block types that models mostly come in, with AVX2: decoding with the bits of the portable code (no fused multiply-add there), and the dot
 * product of blocks with floats that decoding one token at a time needs (fused, eight sums by turns). Chosen at run time. */
#include "quant/quant.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#include <stdatomic.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define INLINE AVX2 static inline __attribute__((always_inline))

/* Where values go: to y, or times x into sum. */
typedef struct sink { float *y; const float *x; __m256 sum[4]; } sink;

INLINE void put8(sink *s, int at, __m256 v, int k)
{
	if (s->y) _mm256_storeu_ps(s->y + at, v);
	else s->sum[k & 3] = _mm256_fmadd_ps(v, _mm256_loadu_ps(s->x + at), s->sum[k & 3]);
}

/* 32 signed bytes times d, less m. */
INLINE void put32(sink *s, int at, __m256i q, __m256 d, __m256 m, int has_m)
{
	__m128i half[2] = { _mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1) };
	for (int k = 0; k < 4; k++) {
		__m128i eight = k & 1 ? _mm_srli_si128(half[k / 2], 8) : half[k / 2];
		__m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)), d);
		put8(s, at + 8 * k, has_m ? _mm256_sub_ps(v, m) : v, k);
	}
}

/* 16 signed bytes times d. */
INLINE void put16(sink *s, int at, __m128i q, __m256 d, int k)
{
	put8(s, at, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), d), k);
	put8(s, at + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(q, 8))), d), k + 1);
}

INLINE __m256 half_of(const uint8_t *p)
{
	return _mm256_set1_ps(_cvtsh_ss((uint16_t)(p[0] | p[1] << 8)));
}

INLINE void q8_0(const uint8_t *p, sink *s)
{
	put32(s, 0, _mm256_loadu_si256((const __m256i *)(const void *)(p + 2)), half_of(p), _mm256_setzero_ps(), 0);
}

INLINE void q4_0(const uint8_t *p, sink *s)
{
	__m128i b = _mm_loadu_si128((const __m128i *)(const void *)(p + 2)), mask = _mm_set1_epi8(15);
	__m256i q = _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(b, 4), mask), _mm_and_si128(b, mask));
	put32(s, 0, _mm256_sub_epi8(q, _mm256_set1_epi8(8)), half_of(p), _mm256_setzero_ps(), 0);
}

static inline void scale_of(const uint8_t *s, int g, unsigned *scale, unsigned *min)
{
	if (g < 4) *scale = s[g] & 63u, *min = s[g + 4] & 63u;
	else *scale = (s[g + 4] & 15u) | (unsigned)(s[g - 4] >> 6) << 4, *min = (unsigned)(s[g + 4] >> 4) | (unsigned)(s[g] >> 6) << 4;
}

INLINE void q4_k(const uint8_t *p, sink *s)
{
	float d = _cvtsh_ss((uint16_t)(p[0] | p[1] << 8)), dmin = _cvtsh_ss((uint16_t)(p[2] | p[3] << 8));
	__m256i mask = _mm256_set1_epi8(15);
	for (int g = 0; g < 8; g++) {
		unsigned a, b;
		scale_of(p + 4, g, &a, &b);
		__m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(p + 16 + 32 * (g / 2)));
		q = _mm256_and_si256(g & 1 ? _mm256_srli_epi16(q, 4) : q, mask);
		put32(s, 32 * g, q, _mm256_set1_ps(d * (float)a), _mm256_set1_ps(dmin * (float)b), 1);
	}
}

INLINE void q6_k(const uint8_t *p, sink *s)
{
	float d = _cvtsh_ss((uint16_t)(p[208] | p[209] << 8));
	const int8_t *scale = (const int8_t *)p + 192;
	const __m256i four = _mm256_set1_epi8(15), two = _mm256_set1_epi8(0x30), middle = _mm256_set1_epi8(32);
	for (int k = 0; k < 8; k++, scale += 2) { /* half k / 4, quarter k % 4 */
		__m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(p + 64 * (k / 4) + 32 * (k % 2)));
		__m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(p + 128 + 32 * (k / 4)));
		if (k % 4 >= 2) low = _mm256_srli_epi16(low, 4);
		high = k % 4 == 0 ? _mm256_slli_epi16(high, 4) : k % 4 == 1 ? _mm256_slli_epi16(high, 2) : k % 4 == 2 ? high : _mm256_srli_epi16(high, 2);
		__m256i q = _mm256_sub_epi8(_mm256_or_si256(_mm256_and_si256(low, four), _mm256_and_si256(high, two)), middle);
		put16(s, 32 * k, _mm256_castsi256_si128(q), _mm256_set1_ps(d * (float)scale[0]), 0);
		put16(s, 32 * k + 16, _mm256_extracti128_si256(q, 1), _mm256_set1_ps(d * (float)scale[1]), 2);
	}
}

AVX2 static float add_up(const __m256 *sum)
{
	__m256 v = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
	__m128 h = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	h = _mm_add_ps(h, _mm_movehl_ps(h, h));
	return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}

#define BLOCK(name, n_weights, bytes) \
	AVX2 static void name##_decode(const uint8_t *p, int64_t n, float *y) \
	{ \
		sink s = { .y = y }; \
		for (; n > 0; n--, p += bytes, s.y += n_weights) name(p, &s); \
	} \
	AVX2 static float name##_dot(const uint8_t *p, const float *x, int64_t n) \
	{ \
		const __m256 zero = _mm256_setzero_ps(); \
		sink s = { .x = x, .sum = { zero, zero, zero, zero } }; \
		for (; n > 0; n--, p += bytes, s.x += n_weights) name(p, &s); \
		return add_up(s.sum); \
	}
BLOCK(q8_0, 32, 34)
BLOCK(q4_0, 32, 18)
BLOCK(q4_k, 256, 144)
BLOCK(q6_k, 256, 210)

/* With AVX-512 the dot products take a group's scale once, behind the sum over the group. */
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,f16c")))
#define INLINE512 AVX512 static inline __attribute__((always_inline))

INLINE512 __m512 floats_of(__m128i q) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)); }

/* sum of q x over 32 signed bytes, in 16 parts */
INLINE512 __m512 times32(__m256i q, const float *x)
{
	__m512 low = _mm512_mul_ps(floats_of(_mm256_castsi256_si128(q)), _mm512_loadu_ps(x));
	return _mm512_fmadd_ps(floats_of(_mm256_extracti128_si256(q, 1)), _mm512_loadu_ps(x + 16), low);
}

INLINE512 float scale16(const uint8_t *p) { return _cvtsh_ss((uint16_t)(p[0] | p[1] << 8)); }

INLINE512 __m256i q4_0_bytes(const uint8_t *p)
{
	const __m128i mask = _mm_set1_epi8(15);
	__m128i b = _mm_loadu_si128((const __m128i *)(const void *)(p + 2));
	return _mm256_sub_epi8(_mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(b, 4), mask), _mm_and_si128(b, mask)), _mm256_set1_epi8(8));
}

AVX512 static float q4_k_dot512(const uint8_t *p, const float *x, int64_t n)
{
	const __m256i mask = _mm256_set1_epi8(15);
	__m512 sum[2] = { _mm512_setzero_ps(), _mm512_setzero_ps() };
	for (; n > 0; n--, p += 144) {
		float d = scale16(p), dmin = scale16(p + 2);
		for (int g = 0; g < 8; g++, x += 32) {
			unsigned a, b;
			scale_of(p + 4, g, &a, &b);
			__m256i q = _mm256_loadu_si256((const __m256i *)(const void *)(p + 16 + 32 * (g / 2)));
			q = _mm256_and_si256(g & 1 ? _mm256_srli_epi16(q, 4) : q, mask);
			sum[0] = _mm512_fmadd_ps(_mm512_set1_ps(d * (float)a), times32(q, x), sum[0]);
			sum[1] = _mm512_fmadd_ps(_mm512_set1_ps(dmin * (float)b), _mm512_add_ps(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)), sum[1]);
		}
	}
	return _mm512_reduce_add_ps(_mm512_sub_ps(sum[0], sum[1]));
}

/* Four rows share the loads of x and hide each other's latency. Hardware follows streams of a few hundred bytes too late: the next rows are asked for. */
INLINE512 __m512 q8_0_times(const uint8_t *w, const float *x)
{
	__m512 low = _mm512_mul_ps(floats_of(_mm_loadu_si128((const __m128i *)(const void *)(w + 2))), _mm512_loadu_ps(x));
	return _mm512_fmadd_ps(floats_of(_mm_loadu_si128((const __m128i *)(const void *)(w + 18))), _mm512_loadu_ps(x + 16), low);
}

INLINE512 __m512 q4_0_times(const uint8_t *w, const float *x) { return times32(q4_0_bytes(w), x); }

INLINE512 __m512 scale_all(const uint8_t *w)
{
	short d;
	memcpy(&d, w, sizeof d);
	return _mm512_cvtph_ps(_mm256_set1_epi16(d));
}

/* The four sums over lanes together: pairs, then fours, then the quarters. */
INLINE512 void put_sums(float *y, __m512 a, __m512 b, __m512 c, __m512 d)
{
	__m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)), cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
	__m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
	__m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
	_mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}

#define ADD_BLOCK(name, sum, w) _mm_prefetch((const char *)(w) + 4 * row, _MM_HINT_T0), sum = _mm512_fmadd_ps(scale_all(w), name##_times(w, x), sum)
#define DOTS512(name, size) \
	AVX512 static void name##_dots512(const uint8_t *p, size_t row, const float *x, int64_t n, float *y) \
	{ \
		__m512 a = _mm512_setzero_ps(), b = a, c = a, d = a; \
		for (; n > 0; n--, p += size, x += 32) { \
			ADD_BLOCK(name, a, p), ADD_BLOCK(name, b, p + row); \
			ADD_BLOCK(name, c, p + 2 * row), ADD_BLOCK(name, d, p + 3 * row); \
		} \
		put_sums(y, a, b, c, d); \
	}
DOTS512(q8_0, 34)
DOTS512(q4_0, 18)

/* Rows of floats: an adapter's, and the weight beside it. Lane i mod 32, then pairwise, not fused: the bits of the naive backend's columns4(), so
 * that an adapter that adds zero changes nothing. */
INLINE512 void put_lanes(float *y, __m512 a, __m512 b, __m512 c, __m512 d)
{
	__m512 all[4] = { a, b, c, d };
	__m128 q[4];
#pragma GCC unroll 4
	for (int k = 0; k < 4; k++) {
		__m256 half = _mm256_add_ps(_mm512_castps512_ps256(all[k]), _mm512_extractf32x8_ps(all[k], 1));
		q[k] = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
	}
	_MM_TRANSPOSE4_PS(q[0], q[1], q[2], q[3]);
	_mm_storeu_ps(y, _mm_add_ps(_mm_add_ps(q[0], q[2]), _mm_add_ps(q[1], q[3])));
}

INLINE512 __m512 load_f32(__mmask16 m, const uint8_t *p) { return _mm512_maskz_loadu_ps(m, p); }
INLINE512 __m512 load_f16(__mmask16 m, const uint8_t *p) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p)); }
INLINE512 __m512 load_bf16(__mmask16 m, const uint8_t *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16)); }

#define FLOATS512(name, size) \
	AVX512 static void name##_dots512(const uint8_t *p, size_t row, const float *x, int64_t n, float *y) \
	{ \
		__m512 low[4] = { _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps() }, high[4]; \
		memcpy(high, low, sizeof high); \
		for (; n > 0; n -= 32, p += 32 * size, x += 32) { \
			__mmask16 a = n < 16 ? (__mmask16)((1u << n) - 1) : (__mmask16)0xffff, b = n < 32 ? (__mmask16)((1u << (n < 16 ? 0 : n - 16)) - 1) : (__mmask16)0xffff; \
			__m512 v = _mm512_maskz_loadu_ps(a, x), w = _mm512_maskz_loadu_ps(b, x + 16); \
			_Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) { \
				const uint8_t *at = p + (size_t)k * row; \
				_mm_prefetch((const char *)at + 4 * row, _MM_HINT_T0); \
				if (size == 4) _mm_prefetch((const char *)at + 4 * row + 64, _MM_HINT_T0); \
				low[k] = _mm512_add_ps(_mm512_mul_ps(load_##name(a, at), v), low[k]); \
				if (b) high[k] = _mm512_add_ps(_mm512_mul_ps(load_##name(b, at + 16 * size), w), high[k]); \
			} \
		} \
		put_lanes(y, _mm512_add_ps(low[0], high[0]), _mm512_add_ps(low[1], high[1]), _mm512_add_ps(low[2], high[2]), _mm512_add_ps(low[3], high[3])); \
	}
FLOATS512(f32, 4)
FLOATS512(f16, 2)
FLOATS512(bf16, 2)

AVX512 static void f16_add512(const uint8_t *p, size_t row, const float *x, double f, int64_t rows, int64_t n, float *y)
{
	for (; n > 0; n -= 32, p += 64, y += 32) {
		__mmask16 a = n < 16 ? (__mmask16)((1u << n) - 1) : (__mmask16)0xffff, b = n < 32 ? (__mmask16)((1u << (n < 16 ? 0 : n - 16)) - 1) : (__mmask16)0xffff;
		__m512 low = _mm512_setzero_ps(), high = low;
		const uint8_t *at = p;
		for (int64_t k = 0; k < rows; k++, at += row) {
			__m512 v = _mm512_set1_ps(x[k]);
			low = _mm512_fmadd_ps(load_f16(a, at), v, low), high = _mm512_fmadd_ps(load_f16(b, at + 32), v, high);
		}
		_mm512_mask_storeu_ps(y, a, _mm512_fmadd_ps(_mm512_set1_ps((float)f), low, _mm512_maskz_loadu_ps(a, y)));
		_mm512_mask_storeu_ps(y + 16, b, _mm512_fmadd_ps(_mm512_set1_ps((float)f), high, _mm512_maskz_loadu_ps(b, y + 16)));
	}
}

static const lora__quant_fast table512[] = { { LORA_Q8_0, q8_0_decode, q8_0_dot, q8_0_dots512, NULL }, { LORA_Q4_0, q4_0_decode, q4_0_dot, q4_0_dots512, NULL },
	{ LORA_Q4_K, q4_k_decode, q4_k_dot512, NULL, NULL }, { LORA_Q6_K, q6_k_decode, q6_k_dot, NULL, NULL }, { LORA_F32, NULL, NULL, f32_dots512, NULL },
	{ LORA_F16, NULL, NULL, f16_dots512, f16_add512 }, { LORA_BF16, NULL, NULL, bf16_dots512, NULL } };
static const lora__quant_fast table[] = { { LORA_Q8_0, q8_0_decode, q8_0_dot, NULL, NULL }, { LORA_Q4_0, q4_0_decode, q4_0_dot, NULL, NULL }, { LORA_Q4_K, q4_k_decode, q4_k_dot, NULL, NULL },
	{ LORA_Q6_K, q6_k_decode, q6_k_dot, NULL, NULL } };

/* 0 none, 1 AVX2, 2 AVX-512. Asked once: CPUID is slow on virtual machines. Threads that ask at the same time find the same. */
static int level(void)
{
	static atomic_int known = 0; /* level + 1 */
	int now = atomic_load_explicit(&known, memory_order_relaxed);
	if (now) return now - 1;
	unsigned a = 0, b = 0, c = 0, d = 0;
	int f16c = __get_cpuid(1, &a, &b, &c, &d) && c >> 29 & 1;
	now = f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
	if (now && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) now = 2;
	atomic_store_explicit(&known, now + 1, memory_order_relaxed);
	return now;
}

const lora__quant_fast *lora__quant_best(lora_dtype d)
{
	int l = level();
	const lora__quant_fast *t = l == 2 ? table512 : table;
	for (size_t n = l == 2 ? sizeof table512 / sizeof *t : l ? sizeof table / sizeof *t : 0; n > 0; n--, t++)
		if (t->dtype == d) return t;
	return NULL;
}
#else
const lora__quant_fast *lora__quant_best(lora_dtype d) { return (void)d, NULL; }
#endif
