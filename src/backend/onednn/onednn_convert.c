/* Conversions of contiguous elements for the plug-in "onednn", which links to nothing of liblora: F32, BF16 and F16 to F32, F32 to BF16 (to nearest,
 * ties to even; NaN stays NaN). */
#include "backend/onednn/onednn.h"

#if defined(__x86_64__)
#define FAST __attribute__((target("avx2,f16c")))
#define HAS_FAST 1
#else
#define HAS_FAST 0
#endif

static inline void widen_bf16(float *d, const uint16_t *s, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		uint32_t u = (uint32_t)s[i] << 16;
		__builtin_memcpy(&d[i], &u, 4);
	}
}

static inline void widen_f16(float *d, const uint16_t *s, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		uint32_t em = s[i] & 0x7fffu, sign = (uint32_t)(s[i] & 0x8000u) << 16, u = (em << 13) + (112u << 23), small;
		float f = (float)(int32_t)em * 0x1p-24f;
		__builtin_memcpy(&small, &f, 4);
		u = em >= 0x7c00u ? (em << 13) | 0x7f800000u | (em > 0x7c00u ? 0x400000u : 0) : u;
		u = (em < 0x400u ? small : u) | sign;
		__builtin_memcpy(&d[i], &u, 4);
	}
}

static inline void narrow_bf16(uint16_t *d, const float *s, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		uint32_t u;
		__builtin_memcpy(&u, &s[i], 4);
		uint32_t even = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, nan = (u >> 16) | 0x40u;
		d[i] = (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? nan : even);
	}
}

static inline int convert(void *d, lora_dtype to, const void *s, lora_dtype from, int64_t n)
{
	if (to == LORA_F32 && from == LORA_BF16) return widen_bf16(d, s, n), 1;
	if (to == LORA_F32 && from == LORA_F16) return widen_f16(d, s, n), 1;
	if (to == LORA_BF16 && from == LORA_F32) return narrow_bf16(d, s, n), 1;
	return 0;
}

#if HAS_FAST
FAST static int convert_fast(void *d, lora_dtype to, const void *s, lora_dtype from, int64_t n) { return convert(d, to, s, from, n); }
#endif

int lora__onednn_convert(void *d, lora_dtype to, const void *s, lora_dtype from, int64_t n)
{
#if HAS_FAST
	if (__builtin_cpu_supports("avx2")) return convert_fast(d, to, s, from, n); /* every processor with AVX2 has F16C */
#endif
	return convert(d, to, s, from, n);
}
