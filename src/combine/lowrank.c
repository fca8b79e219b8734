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

enum { BLOCK = 128 };

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

/* t[n,n] = C C^T of c[n,len], strides rs and cs: half of it by blocks of rows, the other copied */
static lora_status gram(lora_context *ctx, const double *c, int64_t rs, int64_t cs, int64_t len, int64_t n, double *t)
{
	lora_status st = LORA_OK;
	for (int64_t i = 0, size; i < n && !st; i += size) {
		size = n - i < BLOCK ? n - i : BLOCK;
		st = lora__product(ctx, size, i + size, len, 1, c + i * rs, rs, cs, c, cs, rs, 0, t + i * n, n, 1);
	}
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < i; j++) t[j * n + i] = t[i * n + j];
	return st;
}

/* From the transpose c[n,len] of C, strides rs and cs; q[n,width]: reflection i in row i from element i, NULL = none (width = n). */
static lora_status finish(lora_context *ctx, const double *c, int64_t rs, int64_t cs, int64_t len, int64_t n, const double *q, int64_t width, int64_t k, int turned, float *low_a,
                          float *low_b)
{
	int64_t have = k < n ? k : n;
	double *t = lora__calloc(ctx, (size_t)n * (size_t)n, sizeof *t), *w = lora__calloc(ctx, (size_t)(n + 1) * (size_t)have, sizeof *w);
	double *v = lora__calloc(ctx, (size_t)k * (size_t)width, sizeof *v), *y = lora__calloc(ctx, (size_t)k * (size_t)len, sizeof *y);
	lora_status st = t && w && v && y ? LORA_OK : LORA_E_MEMORY;
	if (!st) st = gram(ctx, c, rs, cs, len, n, t);
	if (!st) st = lora__eigen_top(ctx, t, n, have, w + n * have, w);
	if (!st) st = lora__product(ctx, have, len, n, 1, w, 1, have, c, rs, cs, 0, y, len, 1);
	for (int64_t i = 0; i < have && !st; i++)
		for (int64_t j = 0; j < n; j++) v[i * width + j] = w[j * have + i];
	for (int64_t at = n; q && at > 0 && !st;) { /* v = H_0 H_1 ... w */
		int64_t size = at % LORA__PANEL ? at % LORA__PANEL : LORA__PANEL;
		at -= size;
		st = lora__reflect(ctx, q + at * width + at, width, size, width - at, 1, v + at, 1, width, have);
	}
	if (!st) lora__lowrank_put(v, width, y, len, k, turned, low_a, low_b);
	lora__free(ctx, t);
	lora__free(ctx, w);
	lora__free(ctx, v);
	lora__free(ctx, y);
	return st;
}

/* QR of the rows by panels: reflection i lies in row i from element i on, and l[r,n] gets the rest, lower triangular. */
static lora_status decompose(lora_context *ctx, double *a, int64_t n, int64_t r, double *l)
{
	double dots[LORA__PANEL];
	lora_status st = LORA_OK;
	for (int64_t i = 0, end = 0; i < r && !st; i++) {
		double *v = a + i * n + i;
		if (i == end) end = r - i < LORA__PANEL ? r : i + LORA__PANEL;
		memcpy(l + i * r, a + i * n, (size_t)i * sizeof *l);
		l[i * r + i] = lora__reflection(v, n - i);
		lora__rows_dot(v + n, n, end - i - 1, v, n - i, dots);
		lora__rows_rank2(v + n, n, end - i - 1, dots, v, NULL, NULL, n - i);
		int64_t first = end - LORA__PANEL; /* a whole panel when rows are left behind it */
		if (i + 1 == end && end < r) st = lora__reflect(ctx, a + first * n + first, n, LORA__PANEL, n - first, 0, a + end * n + first, 1, n, r - end);
	}
	return st;
}

lora_status lora__lowrank_product(lora_context *ctx, double *b, double *a, int64_t out, int64_t in, int64_t r, int64_t k, float *low_a, float *low_b)
{
	int turned = out < in, qr;
	double *x = turned ? b : a, *z = turned ? a : b;
	int64_t width = turned ? out : in, len = turned ? in : out, n = r < width ? r : width;
	qr = r < width;
	double *c = lora__calloc(ctx, (size_t)n * (size_t)len, sizeof *c), *l = qr ? lora__calloc(ctx, (size_t)r * (size_t)r, sizeof *l) : x;
	lora_status st = c && l ? LORA_OK : LORA_E_MEMORY;
	if (qr && !st) st = decompose(ctx, x, width, r, l);
	for (int64_t i = 0, size; i < n && !st; i += size) { /* c = l^T z, of l what is not zero */
		int64_t first = qr ? i : 0;
		size = n - i < BLOCK ? n - i : BLOCK;
		st = lora__product(ctx, size, len, r - first, 1, l + first * n + i, 1, n, z + first * len, len, 1, 0, c + i * len, len, 1);
	}
	if (!st) st = finish(ctx, c, len, 1, len, n, qr ? x : NULL, width, k, turned, low_a, low_b);
	if (qr) lora__free(ctx, l);
	lora__free(ctx, c);
	return st;
}

lora_status lora__lowrank_exact(lora_context *ctx, const float *d, int64_t out, int64_t in, int64_t k, float *low_a, float *low_b)
{
	int turned = out < in;
	int64_t n = turned ? out : in, len = turned ? in : out;
	double *c = lora__alloc(ctx, (size_t)n * (size_t)len * sizeof *c);
	if (!c) return LORA_E_MEMORY;
	lora__convert(c, LORA_F64, d, LORA_F32, (size_t)(n * len));
	lora_status st = finish(ctx, c, turned ? in : 1, turned ? 1 : in, len, n, NULL, n, k, turned, low_a, low_b);
	lora__free(ctx, c);
	return st;
}
