/* Inner loops of the eigenproblem and the QR decomposition, in double. Sums are in an order that does not depend on the processor. */
#ifndef LORA_COMBINE_KERNELS_H
#define LORA_COMBINE_KERNELS_H

#include <stdint.h>

/* y[i] = m_i . x for rows of n elements, ld apart */
void lora__rows_dot(const double *m, int64_t ld, int64_t rows, const double *x, int64_t n, double *y);
/* y += sum_i c[i * step] m_i */
void lora__rows_add(double *y, const double *m, int64_t ld, int64_t rows, const double *c, int64_t step, int64_t n);
/* m_i -= p[i] x + q[i] z; q NULL = the first part alone */
void lora__rows_rank2(double *m, int64_t ld, int64_t rows, const double *p, const double *x, const double *q, const double *z, int64_t n);
/* (x, y) = (c x + s y, c y - s x) */
void lora__turn(double *x, double *y, double c, double s, int64_t n);
/* Make x the vector v of the reflection I - v v^T that takes it to (beta, 0, ...); beta. x = 0 gives v = 0. */
double lora__reflection(double *x, int64_t n);
/* How many of n values have a magnitude (the bits without the sign) above high; bins[(magnitude - low) >> shift] counts those from low to high. */
int64_t lora__count_magnitudes(const float *v, int64_t n, uint32_t low, uint32_t high, int shift, uint32_t *bins);
void lora__clear_below(float *v, int64_t n, uint32_t limit); /* magnitudes below it become 0 */

/* name_body compiled a second time for processors with AVX2. */
#if defined(__x86_64__)
#ifdef __clang__
#define LORA__SMALL
#else
#define LORA__SMALL __attribute__((optimize("Os"))) /* hardly any processor takes these */
#endif
#define LORA__TWICE(name, list, ...) \
	static __attribute__((target("avx2"))) void name##_avx2 list { name##_body(__VA_ARGS__); } \
	static LORA__SMALL void name##_plain list { name##_body(__VA_ARGS__); }
#define LORA__CALL(name, ...) (__builtin_cpu_supports("avx2") ? name##_avx2(__VA_ARGS__) : name##_plain(__VA_ARGS__))
#else
#define LORA__TWICE(name, list, ...)
#define LORA__CALL(name, ...) name##_body(__VA_ARGS__)
#endif

#endif
