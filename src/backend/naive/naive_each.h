/* Includes the file NAIVE_TEMPLATE once per (real, instruction set). No include guard: every primitive group includes this once.
 * Set for the template: REAL; F(name), the suffixed name; TARGET, the attribute of every function; VB, bytes of a vector; the register
 * tile of GEMM, MR rows by NV vectors, such that accumulators, one row of B and a product fit the registers. */

#define F(name) name##_f64
#define REAL double
#define REAL_IS_DOUBLE 1
#define TARGET
#define VB 16
#define MR 4
#define NV 2
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F
#undef REAL
#undef REAL_IS_DOUBLE
#undef MR

#define F(name) name##_f32
#define REAL float
#define REAL_IS_DOUBLE 0
#define MR 4
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F
#undef TARGET
#undef VB
#undef MR

#ifdef NAIVE_X86
#define F(name) name##_avx2
#define TARGET __attribute__((target("avx2")))
#define VB 32
#define MR 6
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F
#undef TARGET
#undef VB
#undef MR

#define F(name) name##_avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define VB 64
#define MR 12
#include "backend/naive/naive_vec.inc"
#include NAIVE_TEMPLATE
#undef F
#undef TARGET
#undef VB
#undef MR
#endif

#undef REAL
#undef REAL_IS_DOUBLE
#undef NV
