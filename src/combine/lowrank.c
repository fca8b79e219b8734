/* The best approximation of rank k of M[out,in].
 *
 * Say M = B A, in <= out (else all is transposed). QR of A^T = Q L^T (Householder) leaves C = M Q = B L [out,n]; the eigenvectors W of C^T C are
 * the right singular vectors of C, so V = Q W are those of M, and M V = C W needs no division: B' = C W, A' = V^T. Where A has no fewer rows than
 * columns, C = M and Q = I. Forming C before squaring keeps cancellation between the parts of B A out of the square.
 * Source: specification "thin SVD of a product"; Eckart and Young 1936; Golub and Van Loan 5.2, 8.6. */
#include <math.h>
#include <string.h>

#include "combine/kernels.h"
#include "combine/lowrank.h"

enum { NEAR = 256 }; /* NEAR columns of some hundred rows stay in the cache */

void lora__lowrank_put(const double *v, int64_t nv, double *y, int64_t ny, int64_t k, int turned, float *low_a, float *low_b)
{
	for (int64_t c = 0; c < k; c++) {
		const double *vc = v + c * nv, *yc = y + c * ny;
		double s = 0;
		for (int64_t j = 0; j < ny; j++) s += yc[j] * yc[j];
		s = sqrt(s);
		double one = turned && s > 0 ? 1 / s : 1, other = turned ? s : s > 0;
		for (int64_t j = 0; j < nv; j++) *(turned ? &low_b[j * k + c] : &low_a[c * nv + j]) = (float)(vc[j] * other);
		for (int64_t j = 0; j < ny; j++) *(turned ? &low_a[c * ny + j] : &low_b[j * k + c]) = (float)(yc[j] * one);
	}
}

void lora__lowrank_gram(const double *c, int64_t len, int64_t n, double *t)
{
	for (int64_t i = 0; i < n; i += 4) /* four rows stay near while the others pass */
		for (int64_t j = 0; j < n && j < i + 4; j++) {
			double four[4];
			lora__rows_dot(c + i * len, len, n - i < 4 ? n - i : 4, c + j * len, len, four);
			for (int64_t x = i; x < n && x < i + 4; x++) t[x * n + j] = t[j * n + x] = four[x - i];
		}
}

/* From C, row i of its transpose at c + i * len, n of them; q[n,width]: reflection i in row i from element i, NULL = none (width = n). */
static lora_status finish(lora_context *ctx, const double *c, int64_t len, int64_t n, const double *q, int64_t width, int64_t k, int turned, float *low_a,
                          float *low_b)
{
	int64_t have = k < n ? k : n;
	double *t = lora__calloc(ctx, (size_t)n * (size_t)n, sizeof *t), *w = lora__calloc(ctx, (size_t)(n + 1) * (size_t)have, sizeof *w);
	double *v = lora__calloc(ctx, (size_t)k * (size_t)width, sizeof *v), *y = lora__calloc(ctx, (size_t)k * (size_t)len, sizeof *y);
	lora_status st = t && w && v && y ? LORA_OK : LORA_E_MEMORY;
	if (!st) lora__lowrank_gram(c, len, n, t);
	if (!st) st = lora__eigen_top(ctx, t, n, have, w + n * have, w);
	for (int64_t i = 0; i < have && !st; i++) {
		lora__rows_add(y + i * len, c, len, n, w + i, have, len);
		for (int64_t j = 0; j < n; j++) v[i * width + j] = w[j * have + i];
	}
	for (int64_t i = n; q && i-- > 0 && !st;) { /* v = H_0 H_1 ... w; w is free now */
		lora__rows_dot(v + i, width, have, q + i * width + i, width - i, w);
		lora__rows_rank2(v + i, width, have, w, q + i * width + i, NULL, NULL, width - i);
	}
	if (!st) lora__lowrank_put(v, width, y, len, k, turned, low_a, low_b);
	lora__free(ctx, t);
	lora__free(ctx, w);
	lora__free(ctx, v);
	lora__free(ctx, y);
	return st;
}

/* QR of the rows: reflection i lies in row i from element i on, and l[r,n] gets the rest, lower triangular. */
static void decompose(double *a, int64_t n, int64_t r, double *l, double *dots)
{
	for (int64_t i = 0; i < r; i++) {
		double *v = a + i * n + i;
		memcpy(l + i * r, a + i * n, (size_t)i * sizeof *l);
		l[i * r + i] = lora__reflection(v, n - i);
		lora__rows_dot(v + n, n, r - i - 1, v, n - i, dots);
		lora__rows_rank2(v + n, n, r - i - 1, dots, v, NULL, NULL, n - i);
	}
}

lora_status lora__lowrank_product(lora_context *ctx, double *b, double *a, int64_t out, int64_t in, int64_t r, int64_t k, float *low_a, float *low_b)
{
	int turned = out < in, qr;
	double *x = turned ? b : a, *z = turned ? a : b;
	int64_t width = turned ? out : in, len = turned ? in : out, n = r < width ? r : width;
	qr = r < width;
	double *c = lora__calloc(ctx, (size_t)n * (size_t)len, sizeof *c), *l = qr ? lora__calloc(ctx, (size_t)(r + 1) * (size_t)r, sizeof *l) : x;
	lora_status st = c && l ? LORA_OK : LORA_E_MEMORY;
	if (!st) {
		if (qr) decompose(x, width, r, l, l + r * r);
		for (int64_t j = 0; j < len; j += NEAR)
			for (int64_t i = 0; i < n; i++) {
				int64_t first = qr ? i : 0;
				lora__rows_add(c + i * len + j, z + first * len + j, len, r - first, l + first * n + i, n, len - j < NEAR ? len - j : NEAR);
			}
		st = finish(ctx, c, len, n, qr ? x : NULL, width, k, turned, low_a, low_b);
	}
	if (qr) lora__free(ctx, l);
	lora__free(ctx, c);
	return st;
}

lora_status lora__lowrank_exact(lora_context *ctx, const float *d, int64_t out, int64_t in, int64_t k, float *low_a, float *low_b)
{
	int turned = out < in;
	int64_t n = turned ? out : in, len = turned ? in : out;
	double *c = lora__calloc(ctx, (size_t)n * (size_t)len, sizeof *c);
	if (!c) return LORA_E_MEMORY;
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < len; j++) c[i * len + j] = turned ? d[i * in + j] : d[j * in + i];
	lora_status st = finish(ctx, c, len, n, NULL, n, k, turned, low_a, low_b);
	lora__free(ctx, c);
	return st;
}
