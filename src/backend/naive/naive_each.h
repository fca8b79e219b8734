/* Includes the file NAIVE_TEMPLATE once per (real, instruction set). No include guard: every primitive group includes this once.
 * Set for the template: REAL, the type of arithmetic; ACT, the type that activations are stored in, and ACT_TYPE, its dtype (they differ
 * for BF16 only; a group without BF16 copies defines NAIVE_NO_BF16, one whose speed never matters NAIVE_PORTABLE, one that
 * waits for memory, so that AVX2 is enough, NAIVE_AVX2); F(name), the suffixed
 * name; TARGET, the attribute of every function; VB, bytes of a vector; the register tile of GEMM, MR rows by NV vectors, such that
 * accumulators, one row of B and a product fit the registers. */

#define F(name) name##_f64
#define REAL double
#define ACT double
#define ACT_TYPE LORA_F64
#define ACT_IS_BF16 0
#define REAL_IS_DOUBLE 1
#ifdef NAIVE_X86
#define TARGET LORA__SMALL /* hardly any processor takes these */
#else
#define TARGET
#endif
#define VB 16
#define MR 4
#define NV 2
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F
#undef REAL
#undef ACT
#undef ACT_TYPE
#undef REAL_IS_DOUBLE

#define F(name) name##_f32
#define REAL float
#define ACT float
#define ACT_TYPE LORA_F32
#define REAL_IS_DOUBLE 0
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F

#ifndef NAIVE_NO_BF16
#undef ACT
#undef ACT_TYPE
#undef ACT_IS_BF16
#define F(name) name##_bf16
#define ACT uint16_t
#define ACT_TYPE LORA_BF16
#define ACT_IS_BF16 1
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F
#undef ACT
#undef ACT_TYPE
#undef ACT_IS_BF16
#define ACT float
#define ACT_TYPE LORA_F32
#define ACT_IS_BF16 0
#endif
#undef TARGET
#undef VB
#undef MR

#if defined(NAIVE_X86) && !defined(NAIVE_PORTABLE)
#define F(name) name##_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define VB 32
#define MR 6
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F
#undef TARGET
#undef VB
#undef MR

#ifndef NAIVE_AVX2
#define F(name) name##_avx512
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#define VB 64
#define MR 12
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F
#undef TARGET
#undef VB
#undef MR
#endif

#ifndef NAIVE_NO_BF16
#undef ACT
#undef ACT_TYPE
#undef ACT_IS_BF16
#define ACT uint16_t
#define ACT_TYPE LORA_BF16
#define ACT_IS_BF16 1

#define F(name) name##_bf16_avx2
#define TARGET __attribute__((target("avx2,fma")))
#define VB 32
#define MR 6
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F
#undef TARGET
#undef VB
#undef MR

#ifndef NAIVE_AVX2
#define F(name) name##_bf16_avx512
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#define VB 64
#define MR 12
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F
#undef TARGET
#undef VB
#undef MR
#endif
#endif
#endif

#undef REAL
#undef ACT
#undef ACT_TYPE
#undef ACT_IS_BF16
#undef REAL_IS_DOUBLE
#undef NV
#undef NAIVE_NO_BF16
#undef NAIVE_PORTABLE
#undef NAIVE_AVX2
