/* Bulk half conversions with F16C, AVX2 and AVX-512, chosen at run time; same bits as the portable loops in dtype.c.
 * VCVTNEPS2BF16 is not used: it flushes subnormals. */
#include "tensor/dtype_bulk.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,f16c")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,f16c")))

AVX2 static void f16_to_f32_avx2(float *d, const uint16_t *s, size_t n)
{
	size_t i = 0;
	for (; i + 8 <= n; i += 8) _mm256_storeu_ps(d + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(s + i))));
	for (; i < n; i++) d[i] = lora__f16_widen(s[i]);
}
AVX2 static void f32_to_f16_avx2(uint16_t *d, const float *s, size_t n)
{
	size_t i = 0;
	for (; i + 8 <= n; i += 8)
		_mm_storeu_si128((__m128i *)(void *)(d + i), _mm256_cvtps_ph(_mm256_loadu_ps(s + i), _MM_FROUND_TO_NEAREST_INT));
	for (; i < n; i++) d[i] = lora__f16_narrow(s[i]);
}
AVX2 static void bf16_to_f32_avx2(float *d, const uint16_t *s, size_t n)
{
	size_t i = 0;
	for (; i + 8 <= n; i += 8) {
		__m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(s + i)));
		_mm256_storeu_si256((__m256i *)(void *)(d + i), _mm256_slli_epi32(w, 16));
	}
	for (; i < n; i++) d[i] = lora__bf16_to_f32(s[i]);
}
AVX2 static void f32_to_bf16_avx2(uint16_t *d, const float *s, size_t n)
{
	size_t i = 0;
	for (; i + 8 <= n; i += 8) {
		__m256i u = _mm256_loadu_si256((const __m256i *)(const void *)(s + i)), top = _mm256_srli_epi32(u, 16);
		__m256i odd = _mm256_and_si256(top, _mm256_set1_epi32(1));
		__m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
		__m256i nan = _mm256_cmpgt_epi32(_mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff)), _mm256_set1_epi32(0x7f800000));
		r = _mm256_blendv_epi8(r, _mm256_or_si256(top, _mm256_set1_epi32(0x40)), nan);
		_mm_storeu_si128((__m128i *)(void *)(d + i), _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
	}
	for (; i < n; i++) d[i] = lora__f32_to_bf16(s[i]);
}

AVX512 static void f16_to_f32_avx512(float *d, const uint16_t *s, size_t n)
{
	for (size_t i = 0; i < n; i += 16) {
		__mmask16 m = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
		_mm512_mask_storeu_ps(d + i, m, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, s + i)));
	}
}
AVX512 static void f32_to_f16_avx512(uint16_t *d, const float *s, size_t n)
{
	for (size_t i = 0; i < n; i += 16) {
		__mmask16 m = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
		_mm256_mask_storeu_epi16(d + i, m, _mm512_cvtps_ph(_mm512_maskz_loadu_ps(m, s + i), _MM_FROUND_TO_NEAREST_INT));
	}
}
AVX512 static void bf16_to_f32_avx512(float *d, const uint16_t *s, size_t n)
{
	for (size_t i = 0; i < n; i += 16) {
		__mmask16 m = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
		_mm512_mask_storeu_epi32(d + i, m, _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, s + i)), 16));
	}
}
AVX512 static void f32_to_bf16_avx512(uint16_t *d, const float *s, size_t n)
{
	for (size_t i = 0; i < n; i += 16) {
		__mmask16 m = n - i < 16 ? (__mmask16)((1u << (n - i)) - 1) : 0xffff;
		__m512i u = _mm512_maskz_loadu_epi32(m, s + i), top = _mm512_srli_epi32(u, 16);
		__m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
		__m512i r = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
		__mmask16 nan = _mm512_cmpgt_epi32_mask(_mm512_and_si512(u, _mm512_set1_epi32(0x7fffffff)), _mm512_set1_epi32(0x7f800000));
		r = _mm512_mask_or_epi32(r, nan, top, _mm512_set1_epi32(0x40));
		_mm256_mask_storeu_epi16(d + i, m, _mm512_cvtepi32_epi16(r));
	}
}

static const lora__bulk avx2 = { f16_to_f32_avx2, f32_to_f16_avx2, bf16_to_f32_avx2, f32_to_bf16_avx2 };
static const lora__bulk avx512 = { f16_to_f32_avx512, f32_to_f16_avx512, bf16_to_f32_avx512, f32_to_bf16_avx512 };

static int probe(void)
{
	unsigned a = 0, b = 0, c = 0, d = 0; /* clang has no name for F16C */
	if (!__builtin_cpu_supports("avx2") || !__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C)) return 0;
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
	       __builtin_cpu_supports("avx512vl") ? 2 : 1;
}

/* Asked once: CPUID traps on virtual machines and costs many microseconds there. Threads that race write the same number. */
static int level(void)
{
	static atomic_int known; /* level + 1 */
	int k = atomic_load_explicit(&known, memory_order_relaxed);
	if (!k) atomic_store_explicit(&known, k = probe() + 1, memory_order_relaxed);
	return k - 1;
}

const lora__bulk *lora__bulk_at(int i)
{
	if (i < 0 || i > level()) return NULL;
	return i == 2 ? &avx512 : i == 1 ? &avx2 : &lora__bulk_portable;
}
const lora__bulk *lora__bulk_best(void) { return lora__bulk_at(level()); }

#else

const lora__bulk *lora__bulk_at(int i) { return i == 0 ? &lora__bulk_portable : NULL; }
const lora__bulk *lora__bulk_best(void) { return &lora__bulk_portable; }

#endif
