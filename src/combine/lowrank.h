/* Best approximations of low rank (Eckart and Young 1936), in double: of a product of thin factors without forming it, and of a dense matrix. */
#ifndef LORA_COMBINE_LOWRANK_H
#define LORA_COMBINE_LOWRANK_H

#include "backend/backend.h"

/* The k largest eigenvalues of a symmetric matrix t[n,n] and their vectors, the columns of w[n,k]; t is destroyed. 1 <= k <= n.
 * Errors LORA_E_NUMERIC no convergence (values that are not finite), LORA_E_MEMORY */
lora_status lora__eigen_top(lora_context *ctx, double *t, int64_t n, int64_t k, double *values, double *w);

/* x[m,cols] (strides rs and cs) times n <= LORA__PANEL reflections I - v v^T, the one in row n - 1 first (last_first) or the one in row 0; v of row j of v[n,m], rows
 * ld apart, begins at element j. */
enum { LORA__PANEL = 32 };
lora_status lora__reflect(lora_context *ctx, const double *v, int64_t ld, int64_t n, int64_t m, int last_first, double *x, int64_t rs, int64_t cs, int64_t cols);

/* M[out,in] = B A with column i of B at b + i * out and row i of A at a + i * in, r of each; both are overwritten.
 * low_a[k,in] and low_b[out,k]: the closest matrix of rank k is low_b low_a, with orthonormal rows in low_a; what passes M's rank is zero. */
lora_status lora__lowrank_product(lora_context *ctx, double *b, double *a, int64_t out, int64_t in, int64_t r, int64_t k, float *low_a, float *low_b);

/* The same of a dense d[out,in] in F32. Small ones by lora__lowrank_exact(); of others, when many vectors are wanted, those of D^T D in double, and D v in
 * F32 (all of them: D itself, its rows of any angle in low_a); else by subspace iteration until the energy that is caught stands still to within some 1e-6 of
 * what is left (lowrank_dense.c). */
lora_status lora__lowrank_dense(lora_context *ctx, const float *d, int64_t out, int64_t in, int64_t k, float *low_a, float *low_b);
lora_status lora__lowrank_exact(lora_context *ctx, const float *d, int64_t out, int64_t in, int64_t k, float *low_a, float *low_b);
/* Rows of v[k,nv] (orthonormal) and y[k,ny] = (M v^T)^T, or with turned the other way round, to PEFT's form: A has the orthonormal rows. */
void lora__lowrank_put(const double *v, int64_t nv, double *y, int64_t ny, int64_t k, int turned, float *low_a, float *low_b);

#endif
