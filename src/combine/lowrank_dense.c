/* The best approximation of low rank of a dense matrix D[out,in], when few of its vectors are wanted: the largest eigenvectors of S = D^T D (or D D^T, whichever
 * is smaller) by subspace iteration. Each round takes the Ritz vectors of a block of rows X, and then X p(S) for a Chebyshev polynomial p that is small up to the
 * smallest Ritz value, where what is not wanted lies, and rises fast above. Products are by the backend in F32, everything else is in double.
 * S is formed when it is small enough to pay. At the end D itself decides: u = orth(D X^T), v = u^T D, and the thin SVD of u v.
 * Source: Halko, Martinsson and Tropp 2011, arXiv:0909.4061; Zhou and Saad 2007, "A Chebyshev-Davidson algorithm", algorithm 3.1 (scaled filter). */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "combine/kernels.h"
#include "combine/lowrank.h"

enum { SMALL = 160, SHARE = 6, FORM = 1536, EXTRA = 8, ROUNDS = 40, DEGREE = 12 };
#define SPREAD 1e4 /* the filter may raise the largest component over the smallest wanted by this much: Gram-Schmidt must still see the latter in F32 */

typedef struct dense {
	lora_context *ctx;
	lora_view     m, mt;     /* D with its short side last: [long,n], and its transpose */
	int64_t       n, len, b; /* short side, long side, rows of the block */
	float        *s;         /* S[n,n] or NULL */
	float        *x, *y, *z; /* [b,n] each */
	float        *wide;      /* [b,len] */
	double       *q;         /* [b,max(n,len)] */
	double       *h, *w, *ritz, *dots, *y64; /* [b,b], [b,b], [b], [b], [b,n] */
} dense;

static lora_view block(const dense *d, float *at, int64_t width) { return lora__view2(at, LORA_F32, d->b, width, width); }

/* Orthonormal rows from those of x[n,width], twice Gram-Schmidt; rows that depend on the ones before become zero. */
static void orthogonal(double *x, int64_t n, int64_t width, double *dots)
{
	for (int64_t i = 0; i < n; i++) {
		double *row = x + i * width, before, after;
		lora__rows_dot(row, width, 1, row, width, &before);
		for (int twice = 0; twice < 2; twice++) {
			lora__rows_dot(x, width, i, row, width, dots);
			for (int64_t j = 0; j < i; j++) dots[j] = -dots[j];
			lora__rows_add(row, x, width, i, dots, 1, width);
		}
		lora__rows_dot(row, width, 1, row, width, &after);
		double scale = after > 1e-20 * before ? 1 / sqrt(after) : 0;
		for (int64_t j = 0; j < width; j++) row[j] *= scale;
	}
}

/* to = f from S + beta to */
static lora_status apply(const dense *d, double f, float *from, double beta, float *to)
{
	if (d->s) return lora__gemm(d->ctx, f, block(d, from, d->n), lora__view2(d->s, LORA_F32, d->n, d->n, d->n), beta, block(d, to, d->n));
	lora_status st = lora__gemm(d->ctx, 1.0, block(d, from, d->n), d->mt, 0.0, block(d, d->wide, d->len));
	return st ? st : lora__gemm(d->ctx, f, block(d, d->wide, d->len), d->m, beta, block(d, to, d->n));
}

/* Ritz values and vectors of the orthonormal rows q: x = the vectors, y = x S. */
static lora_status rayleigh(dense *d)
{
	int64_t n = d->n, b = d->b;
	lora__convert(d->x, LORA_F32, d->q, LORA_F64, (size_t)(b * n));
	lora_status st = apply(d, 1.0, d->x, 0.0, d->y);
	lora__convert(d->y64, LORA_F64, d->y, LORA_F32, (size_t)(b * n));
	if (!st) st = lora__product(d->ctx, b, b, n, 1, d->q, n, 1, d->y64, 1, n, 0, d->h, b, 1);
	for (int64_t i = 0; i < b; i++)
		for (int64_t j = 0; j < i; j++) d->h[i * b + j] = d->h[j * b + i];
	if (!st) st = lora__eigen_top(d->ctx, d->h, b, b, d->ritz, d->w);
	/* turn both by the eigenvectors, the columns of w */
	for (int64_t c = 0; c < b * b && !st; c++) d->h[c] = d->w[c];
	lora_view turn = lora__view_t(lora__view2(d->z, LORA_F32, b, b, b));
	if (!st) lora__convert(d->z, LORA_F32, d->h, LORA_F64, (size_t)(b * b));
	if (!st) st = lora__gemm(d->ctx, 1.0, turn, block(d, d->x, n), 0.0, block(d, d->wide, n));
	if (!st) memcpy(d->x, d->wide, (size_t)(b * n) * sizeof *d->x);
	if (!st) st = lora__gemm(d->ctx, 1.0, turn, block(d, d->y, n), 0.0, block(d, d->wide, n));
	if (!st) memcpy(d->y, d->wide, (size_t)(b * n) * sizeof *d->y);
	return st;
}

/* y (x S on entry) = x p(S), with p(largest) = 1. x and z are used up. */
static lora_status filter(dense *d)
{
	double top = d->ritz[0], cut = d->ritz[d->b - 1], half = cut / 2, rise = cut > 0 ? acosh(fmax(2 * top / cut - 1, 1 + 1e-6)) : INFINITY;
	double degree = floor(acosh(SPREAD) / rise), sigma = half / (top - half), tau = 2 / sigma;
	int64_t size = d->b * d->n;
	lora_status st = LORA_OK;
	if (!(degree >= 2)) return LORA_OK; /* a plain step is all that F32 can hold */
	for (int64_t i = 0; i < size; i++) d->y[i] = (float)((d->y[i] - half * d->x[i]) * (sigma / half));
	for (int k = 2; k <= DEGREE && k <= degree && !st; k++) {
		double next = 1 / (tau - sigma), f = 2 * next / half;
		for (int64_t i = 0; i < size; i++) d->z[i] = (float)(-f * half * d->y[i] - sigma * next * d->x[i]);
		st = apply(d, f, d->y, 1.0, d->z);
		float *old = d->x;
		d->x = d->y, d->y = d->z, d->z = old, sigma = next;
	}
	return st;
}

static lora_status iterate(dense *d, int64_t k, double total)
{
	lora__rng g;
	lora__rng_init(&g, lora__rng_key(0, LORA__RNG_COMBINE, 0));
	lora__rng_uniforms(&g, d->q, d->b * d->n);
	for (int64_t i = 0; i < d->b * d->n; i++) d->q[i] -= 0.5;
	lora_status st = LORA_OK;
	double caught = -1;
	for (int round = 0; round < ROUNDS && !st; round++) {
		orthogonal(d->q, d->b, d->n, d->dots);
		st = rayleigh(d);
		double energy = 0;
		for (int64_t i = 0; i < k && !st; i++) energy += d->ritz[i];
		if (st || energy - caught <= 1e-6 * (total - energy) + 1e-8 * total) break;
		caught = energy;
		st = filter(d);
		if (!st) lora__convert(d->q, LORA_F64, d->y, LORA_F32, (size_t)(d->b * d->n));
	}
	return st;
}

static lora_status run(dense *d, const float *from, int64_t out, int64_t in, int64_t k, float *low_a, float *low_b)
{
	int turned = out < in;
	int64_t n = d->n, b = d->b, len = d->len;
	double total = 0;
	lora_status st = d->s ? lora__gemm(d->ctx, 1.0, d->mt, d->m, 0.0, lora__view2(d->s, LORA_F32, n, n, n)) : LORA_OK;
	for (int64_t i = 0; d->s && i < n; i++) total += d->s[i * n + i];
	for (int64_t i = 0; !d->s && i < out * in; i++) total += (double)from[i] * from[i];
	if (!st) st = iterate(d, k, total);
	/* u = orth(D x^T), v = u^T D: rows of q, and of behind */
	if (!st) st = lora__gemm(d->ctx, 1.0, block(d, d->x, n), d->mt, 0.0, block(d, d->wide, len));
	if (st) return st;
	lora__convert(d->q, LORA_F64, d->wide, LORA_F32, (size_t)(b * len));
	orthogonal(d->q, b, len, d->dots);
	lora__convert(d->wide, LORA_F32, d->q, LORA_F64, (size_t)(b * len));
	double *v = lora__calloc(d->ctx, (size_t)(b * n), sizeof *v);
	st = v ? lora__gemm(d->ctx, 1.0, block(d, d->wide, len), d->m, 0.0, block(d, d->y, n)) : LORA_E_MEMORY;
	if (!st) lora__convert(v, LORA_F64, d->y, LORA_F32, (size_t)(b * n));
	if (!st) st = lora__lowrank_product(d->ctx, turned ? v : d->q, turned ? d->q : v, out, in, b, k, low_a, low_b);
	lora__free(d->ctx, v);
	return st;
}

/* D is wanted whole: its short side's unit vectors. */
static void whole(const float *from, int64_t out, int64_t in, int64_t k, float *low_a, float *low_b)
{
	memset(low_a, 0, (size_t)(k * in) * sizeof *low_a), memset(low_b, 0, (size_t)(k * out) * sizeof *low_b);
	for (int64_t i = 0; i < out; i++) {
		const float *row = from + i * in;
		double s = 0;
		if (out >= in) memcpy(low_b + i * k, row, (size_t)in * sizeof *row);
		if (out >= in && i < in) low_a[i * in + i] = 1;
		for (int64_t j = 0; j < in && out < in; j++) s += (double)row[j] * row[j];
		for (int64_t j = 0; j < in && s > 0; j++) low_a[i * in + j] = (float)(row[j] / sqrt(s));
		if (out < in) low_b[i * k + i] = (float)sqrt(s);
	}
}

lora_status lora__lowrank_dense(lora_context *ctx, const float *from, int64_t out, int64_t in, int64_t k, float *low_a, float *low_b)
{
	dense d = { .ctx = ctx, .n = out < in ? out : in, .len = out < in ? in : out, .b = k + EXTRA };
	lora_view m = lora__view2(from, LORA_F32, out, in, in);
	int64_t n = d.n, b = d.b, wide = b * d.len;
	if (k >= n) return whole(from, out, in, k, low_a, low_b), LORA_OK;
	if (n <= SMALL || SHARE * b > n) return lora__lowrank_exact(ctx, from, out, in, k, low_a, low_b);
	d.m = out < in ? lora__view_t(m) : m, d.mt = lora__view_t(d.m);
	float *room = lora__calloc(ctx, (size_t)(3 * b * n + wide + (n <= FORM ? n * n : 0)), sizeof *room);
	double *more = lora__calloc(ctx, (size_t)(wide + 2 * b * b + 2 * b + b * n), sizeof *more);
	lora_status st = room && more ? LORA_OK : LORA_E_MEMORY;
	d.x = room, d.y = d.x + b * n, d.z = d.y + b * n, d.wide = d.z + b * n, d.s = n <= FORM ? d.wide + wide : NULL;
	d.q = more, d.h = d.q + wide, d.w = d.h + b * b, d.ritz = d.w + b * b, d.dots = d.ritz + b, d.y64 = d.dots + b;
	if (!st) st = run(&d, from, out, in, k, low_a, low_b);
	lora__free(ctx, room);
	lora__free(ctx, more);
	return st;
}
