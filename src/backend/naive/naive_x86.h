/* What code written with AVX-512 intrinsics shares. Internal to this folder; for processors of isa 2 and above. */
#ifndef LORA_BACKEND_NAIVE_X86_H
#define LORA_BACKEND_NAIVE_X86_H

#include "backend/naive/naive.h"

#ifdef NAIVE_X86
#define AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
/* With conversions to BF16 in one step, which like the tile product take subnormals for zero: from isa 3 on, where BF16 is quick at all. */
#define AVX512_BF16 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))

/* The first n of 16 elements. */
static inline __mmask16 lora__first16(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

/* The first n of 32. */
static inline __mmask32 lora__first32(int64_t n) { return n >= 32 ? ~(__mmask32)0 : n <= 0 ? 0 : ((__mmask32)1 << n) - 1; }

/* exp(x) as naive_vec.inc computes it, but 0 from -87 down: no subnormal results, which cost a hundred cycles each. NaN stays NaN. */
AVX512 static inline __m512 lora__exp16(__m512 x)
{
	__mmask16 in = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLE_UQ);
	__m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
	__m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375f), x));
	__m512 p = _mm512_fmadd_ps(_mm512_set1_ps(1.98412698e-4f), r, _mm512_set1_ps(1.38888889e-3f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.33333333e-3f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.16666667e-2f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.66666667e-1f));
	p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
	p = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r), _mm512_set1_ps(1.0f));
	return _mm512_maskz_scalef_ps(in, p, n);
}

/* Those of 16 BF16 that count, as F32; zero for the others. */
AVX512 static inline __m512 lora__load16(const uint16_t *from, __mmask16 in)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(in, from)), 16));
}

/* Rounded to BF16 as lora__f32_to_bf16() does: to nearest, ties to even, NaN stays NaN. */
AVX512 static inline void lora__store16(uint16_t *to, __mmask16 in, __m512 v)
{
	__m512i u = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
	__m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
	r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
	_mm256_mask_storeu_epi16(to, in, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}

/* The same in one step. */
AVX512_BF16 static inline void lora__narrow16(uint16_t *to, __mmask16 in, __m512 v) { _mm256_mask_storeu_epi16(to, in, (__m256i)_mm512_cvtneps_pbh(v)); }
#endif
#endif
