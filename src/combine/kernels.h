/* Inner loops of the eigenproblem and the QR decomposition, in double. */
#ifndef LORA_COMBINE_KERNELS_H
#define LORA_COMBINE_KERNELS_H

#include "base/small.h"
#include "lora/context.h"

/* c[m,n] = alpha a[m,depth] b[depth,n], or (add) what c holds and that; element i, j of a at a[i * ar + j * ac], and so on. The backend's product is for models,
 * its double for tests. Errors LORA_E_MEMORY */
lora_status lora__product(lora_context *ctx, int64_t m, int64_t n, int64_t depth, double alpha, const double *a, int64_t ar, int64_t ac, const double *b, int64_t br, int64_t bc,
                          int add, double *c, int64_t cr, int64_t cc);
/* y[i] = m_i . x for rows of n elements, ld apart */
void lora__rows_dot(const double *m, int64_t ld, int64_t rows, const double *x, int64_t n, double *y);
/* y += sum_i c[i * step] m_i */
void lora__rows_add(double *y, const double *m, int64_t ld, int64_t rows, const double *c, int64_t step, int64_t n);
/* m_i -= p[i] x + q[i] z; q NULL = the first part alone */
void lora__rows_rank2(double *m, int64_t ld, int64_t rows, const double *p, const double *x, const double *q, const double *z, int64_t n);
/* y = m x of a symmetric m[n,n], of which the rows from the diagonal on are read */
void lora__symmetric(double *y, const double *m, int64_t ld, const double *x, int64_t n);
/* Rows of LORA__TURNED elements, from x on: turn n - 1 takes rows 0 and 1 to (c x0 + s x1, c x1 - s x0), the one before it rows 1 and 2, and so on. */
enum { LORA__TURNED = 32 };
typedef struct lora__turn { double c, s; } lora__turn;
void lora__turns(double *x, const lora__turn *t, int64_t n);
/* Make x the vector v of the reflection I - v v^T that takes it to (beta, 0, ...); beta. x = 0 gives v = 0. */
double lora__reflection(double *x, int64_t n);
/* How many of n values have a magnitude (the bits without the sign) above high; bins[(magnitude - low) >> shift] counts those from low to high. */
int64_t lora__count_magnitudes(const float *v, int64_t n, uint32_t low, uint32_t high, int shift, uint32_t *bins);
void lora__clear_below(float *v, int64_t n, uint32_t limit); /* magnitudes below it become 0 */

/* name_body(way, ...) compiled for processors with AVX2 (way 1) and for others (way 0 on x86-64, where hardly any processor takes it: small, not fast);
 * LORA__WIDE: for AVX-512 too (way 2), with
 * LORA__FUSED where sums need not be those of the others. */
#if defined(__x86_64__)
#ifdef __clang__
#define LORA__FUSED
#else
#define LORA__FUSED , optimize("fp-contract=fast")
#endif
#define LORA__TWICE(name, list, ...) \
	static __attribute__((target("avx2"))) void name##_avx2 list { name##_body(1, __VA_ARGS__); } \
	static LORA__SMALL void name##_plain list { name##_body(0, __VA_ARGS__); }
#define LORA__WIDE(name, fused, list, ...) \
	static __attribute__((target("avx512f") fused)) void name##_avx512 list { name##_body(2, __VA_ARGS__); }
#define LORA__CALL(name, ...) (__builtin_cpu_supports("avx2") ? name##_avx2(__VA_ARGS__) : name##_plain(__VA_ARGS__))
#define LORA__CALL_WIDE(name, ...) (__builtin_cpu_supports("avx512f") ? name##_avx512(__VA_ARGS__) : LORA__CALL(name, __VA_ARGS__))
#else
#define LORA__TWICE(name, list, ...) static void name##_plain list { name##_body(1, __VA_ARGS__); }
#define LORA__WIDE(name, fused, list, ...)
#define LORA__CALL(name, ...) name##_plain(__VA_ARGS__)
#define LORA__CALL_WIDE(name, ...) name##_plain(__VA_ARGS__)
#endif

#endif
