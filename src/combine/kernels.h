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

#endif
