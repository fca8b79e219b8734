/* Kronecker factors: S = sum x x^T over all rows x[d] that a matrix sees.
 * full     the sum itself, d x d.
 * sketch   Y = S P with fixed random vectors P[d,2 k + 8], and S ~ Y (P^T Y)^-1 Y^T cut to rank k. Y is a sum too, so the result does not depend on how the
 *          rows come in batches, and it is exact when S has no larger rank than P has columns.
 *          Source: Tropp, Yurtsever, Udell and Cevher 2017, arXiv:1706.05736, algorithm 3.
 * lowrank  B[d,k] with B B^T ~ S: the best rank-k part of [B X] in place of B, for some rows X at a time.
 *          Source: Yang et al. 2024, arXiv:2308.13111, appendix. Exact when S has no larger rank than k. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "combine/kernels.h"
#include "combine/lowrank.h"
#include "posterior/posterior.h"

enum { SPARE = 8, CHUNK = 64 };

static size_t count(int64_t a, int64_t b) { return (size_t)a * (size_t)b; }

/* sum += weight * piece[n] of the wide type */
static void add_up(double *sum, const char *piece, lora_dtype wide, size_t n, double weight)
{
	const float *f = (const float *)(const void *)piece;
	const double *d = (const double *)(const void *)piece;
	for (size_t i = 0; i < n; i++) sum[i] += weight * (wide == LORA_F64 ? d[i] : (double)f[i]);
}

/* ---- full ---- */

static int64_t full_width(int64_t d, int64_t rank) { return (void)rank, d; }

static lora_status full_add(lora_context *ctx, lora__factor *f, lora_view x, double weight, lora_dtype wide)
{
	char *piece = lora__calloc(ctx, count(f->d, f->d), lora__dtype_size(wide));
	if (!piece) return LORA_E_MEMORY;
	lora_status st = lora__gemm(ctx, 1.0, lora__view_t(x), x, 0.0, lora__view2(piece, wide, f->d, f->d, f->d));
	if (st == LORA_OK) add_up(f->sum, piece, wide, count(f->d, f->d), weight);
	lora__free(ctx, piece);
	return st;
}

/* Room for k columns of result. */
static lora_status make_result(lora_context *ctx, lora__factor *f, int64_t k)
{
	f->k = k;
	f->basis = lora__calloc(ctx, count(f->d, k), sizeof(double));
	f->values = lora__calloc(ctx, (size_t)k, sizeof(double));
	return f->basis && f->values ? LORA_OK : LORA_E_MEMORY;
}

static lora_status full_finish(lora_context *ctx, lora__factor *f, int64_t rank, lora_dtype wide)
{
	(void)rank, (void)wide;
	for (int64_t i = 0; i < f->d; i++)
		for (int64_t j = 0; j < i; j++) f->sum[i * f->d + j] = f->sum[j * f->d + i] = (f->sum[i * f->d + j] + f->sum[j * f->d + i]) / 2;
	lora_status st = make_result(ctx, f, f->d);
	if (st == LORA_OK) st = lora__eigen_top(ctx, f->sum, f->d, f->d, f->values, f->basis);
	for (int64_t i = 0; i < f->d && st == LORA_OK; i++) f->values[i] = fmax(f->values[i], 0);
	return st;
}

/* ---- from thin E[d,w], S = E E^T, to basis and values of at most rank columns ---- */

static lora_status from_thin(lora_context *ctx, lora__factor *f, const double *e, int64_t w, int64_t rank, double shift)
{
	int64_t d = f->d, k = 0;
	double *gram = lora__calloc(ctx, count(w, w) * 2 + (size_t)w, sizeof(double)), *vec = gram + w * w, *val = vec + w * w;
	lora_status st = gram ? LORA_OK : LORA_E_MEMORY;
	for (int64_t r = 0; r < d && st == LORA_OK; r++)
		for (int64_t i = 0; i < w; i++) lora__rows_add(gram + i * w, e + r * w, w, 1, e + r * w + i, 1, w);
	if (st == LORA_OK) st = lora__eigen_top(ctx, gram, w, w, val, vec);
	if (st == LORA_OK) {
		while (k < w && k < rank && val[k] - shift > 64 * DBL_EPSILON * (double)w * val[0]) k++;
		st = make_result(ctx, f, k);
	}
	for (int64_t j = 0; j < k && st == LORA_OK; j++) {
		double *b = f->basis + j, norm = 0;
		f->values[j] = val[j] - shift;
		for (int64_t r = 0; r < d; r++)
			for (int64_t i = 0; i < w; i++) b[r * k] += e[r * w + i] * vec[i * w + j];
		for (int64_t i = 0; i < 2 * j; i++) { /* orthogonal to those before, twice */
			double dot = 0;
			const double *c = f->basis + i % j;
			for (int64_t r = 0; r < d; r++) dot += b[r * k] * c[r * k];
			for (int64_t r = 0; r < d; r++) b[r * k] -= dot * c[r * k];
		}
		for (int64_t r = 0; r < d; r++) norm += b[r * k] * b[r * k];
		for (int64_t r = 0; r < d && norm > 0; r++) b[r * k] /= sqrt(norm);
	}
	lora__free(ctx, gram);
	return st;
}

/* ---- sketch ---- */

static int64_t sketch_width(int64_t d, int64_t rank) { return 2 * rank + SPARE < d ? 2 * rank + SPARE : d; }

static lora_status sketch_add(lora_context *ctx, lora__factor *f, lora_view x, double weight, lora_dtype wide)
{
	int64_t n = x.size[0], w = f->width;
	size_t each = lora__dtype_size(wide);
	char *piece = lora__calloc(ctx, count(f->d + n, w), each);
	if (!piece) return LORA_E_MEMORY;
	lora_view y = lora__view2(piece, wide, f->d, w, w), t = lora__view2(piece + count(f->d, w) * each, wide, n, w, w);
	lora_status st = lora__gemm(ctx, 1.0, x, lora__view2(f->probe, wide, f->d, w, w), 0.0, t);
	if (st == LORA_OK) st = lora__gemm(ctx, 1.0, lora__view_t(x), t, 0.0, y);
	if (st == LORA_OK) add_up(f->sum, piece, wide, count(f->d, w), weight);
	lora__free(ctx, piece);
	return st;
}

/* b[w,w] = L L^T in its lower half; 0 when it is not positive. */
static int cholesky(double *b, int64_t w)
{
	for (int64_t j = 0; j < w; j++) {
		for (int64_t i = j; i < w; i++) {
			double s = b[i * w + j];
			for (int64_t c = 0; c < j; c++) s -= b[i * w + c] * b[j * w + c];
			if (i == j && !(s > 0)) return 0;
			b[i * w + j] = i == j ? sqrt(s) : s / b[j * w + j];
		}
	}
	return 1;
}

static lora_status sketch_finish(lora_context *ctx, lora__factor *f, int64_t rank, lora_dtype wide)
{
	int64_t d = f->d, w = f->width;
	double *p = lora__calloc(ctx, count(d, w) + count(w, w), sizeof(double)), *core = p + count(d, w), norm = 0, shift;
	if (!p) return LORA_E_MEMORY;
	lora__convert(p, LORA_F64, f->probe, wide, count(d, w));
	for (size_t i = 0; i < count(d, w); i++) norm += f->sum[i] * f->sum[i];
	shift = sqrt((double)d) * DBL_EPSILON * sqrt(norm);
	int whole = 0;
	for (int tries = 0; !whole && tries < 20 && norm > 0; tries++, shift *= 10) { /* S + shift I is positive up to rounding */
		memset(core, 0, count(w, w) * sizeof *core);
		for (int64_t r = 0; r < d; r++)
			for (int64_t i = 0; i < w; i++)
				for (int64_t j = 0; j <= i; j++)
					core[i * w + j] += (p[r * w + i] * (f->sum[r * w + j] + shift * p[r * w + j]) + p[r * w + j] * (f->sum[r * w + i] + shift * p[r * w + i])) / 2;
		whole = cholesky(core, w);
		if (whole) break;
	}
	for (int64_t r = 0; r < d && whole; r++) /* rows of E = (Y + shift P) L^-T, in place of Y */
		for (int64_t i = 0; i < w; i++) {
			double s = f->sum[r * w + i] + shift * p[r * w + i];
			for (int64_t j = 0; j < i; j++) s -= core[i * w + j] * f->sum[r * w + j];
			f->sum[r * w + i] = s / core[i * w + i];
		}
	lora_status st = norm > 0 && !whole ? lora__fail(ctx, LORA_E_NUMERIC, "posterior", "a curvature factor is not finite") : LORA_OK;
	if (st == LORA_OK) st = whole ? from_thin(ctx, f, f->sum, w, rank, shift) : make_result(ctx, f, 0);
	lora__free(ctx, p);
	return st;
}

/* ---- lowrank ---- */

static int64_t low_width(int64_t d, int64_t rank) { return rank < d ? rank : d; }

/* sum, here B^T[width,d] by rows, becomes the best part of the rows of m[w,d]. */
static lora_status low_cut(lora_context *ctx, lora__factor *f, const double *m, int64_t w, double *gram)
{
	int64_t d = f->d, k = f->width < w ? f->width : w;
	double *vec = gram + w * w, *val = vec + w * w;
	for (int64_t i = 0; i < w; i++) lora__rows_dot(m, d, w, m + i * d, d, gram + i * w);
	lora_status st = lora__eigen_top(ctx, gram, w, k, val, vec);
	memset(f->sum, 0, count(f->width, d) * sizeof(double));
	for (int64_t j = 0; j < k && st == LORA_OK; j++) lora__rows_add(f->sum + j * d, m, d, w, vec + j, k, d);
	return st;
}

static lora_status low_add(lora_context *ctx, lora__factor *f, lora_view x, double weight, lora_dtype wide)
{
	int64_t d = f->d, most = f->width + CHUNK;
	double *m = lora__calloc(ctx, count(most, d) + 2 * count(most, most) + (size_t)most, sizeof(double));
	lora_status st = m ? LORA_OK : LORA_E_MEMORY;
	(void)wide;
	for (int64_t at = 0; at < x.size[0] && st == LORA_OK; at += CHUNK) {
		int64_t n = x.size[0] - at < CHUNK ? x.size[0] - at : CHUNK;
		memcpy(m, f->sum, count(f->width, d) * sizeof(double));
		for (int64_t r = 0; r < n; r++) {
			double *row = m + (f->width + r) * d;
			lora__convert(row, LORA_F64, (const char *)x.data + lora__dtype_size(x.dtype) * (size_t)((at + r) * x.stride[0]), x.dtype, (size_t)d);
			for (int64_t i = 0; i < d; i++) row[i] *= sqrt(weight);
		}
		st = low_cut(ctx, f, m, f->width + n, m + most * d);
	}
	lora__free(ctx, m);
	return st;
}

static lora_status low_finish(lora_context *ctx, lora__factor *f, int64_t rank, lora_dtype wide)
{
	(void)wide;
	double *e = lora__calloc(ctx, count(f->d, f->width), sizeof(double));
	if (!e) return LORA_E_MEMORY;
	for (int64_t r = 0; r < f->d; r++)
		for (int64_t i = 0; i < f->width; i++) e[r * f->width + i] = f->sum[i * f->d + r];
	lora_status st = from_thin(ctx, f, e, f->width, rank, 0);
	lora__free(ctx, e);
	return st;
}

/* ---- all ---- */

lora_status lora__factor_start(lora_context *ctx, lora__factor *f, const lora__factor_kind *kind, int64_t d, int64_t rank, uint64_t key, lora_dtype wide)
{
	*f = (lora__factor){ .kind = kind, .d = d, .width = kind->width(d, rank) };
	if (!(f->sum = lora__calloc(ctx, count(d, f->width), sizeof(double)))) return LORA_E_MEMORY;
	if (!kind->probes) return LORA_OK;
	if (!(f->probe = lora__calloc(ctx, count(d, f->width), lora__dtype_size(wide)))) return LORA_E_MEMORY;
	lora__rng r;
	lora__rng_init(&r, key);
	for (size_t i = 0; i < count(d, f->width); i++) {
		double z = lora__rng_normal(&r);
		lora__convert(f->probe + i * lora__dtype_size(wide), wide, &z, LORA_F64, 1);
	}
	return LORA_OK;
}

lora_status lora__factor_narrow(lora_context *ctx, lora__factor *f, lora_dtype wide)
{
	if (!(f->narrow = lora__calloc(ctx, count(f->d, f->k) + 1, lora__dtype_size(wide)))) return LORA_E_MEMORY;
	lora__convert(f->narrow, wide, f->basis, LORA_F64, count(f->d, f->k));
	return LORA_OK;
}

lora_status lora__factor_finish(lora_context *ctx, lora__factor *f, int64_t rank, lora_dtype wide)
{
	lora_status st = f->kind->finish(ctx, f, rank, wide);
	lora__free(ctx, f->sum);
	lora__free(ctx, f->probe);
	f->sum = NULL, f->probe = NULL;
	return st ? st : lora__factor_narrow(ctx, f, wide);
}

void lora__factor_free(lora_context *ctx, lora__factor *f)
{
	void *all[] = { f->sum, f->probe, f->basis, f->values, f->narrow };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) lora__free(ctx, all[i]);
}

void lora__factor_bytes(const lora__factor_kind *kind, int64_t d, int64_t rank, lora_dtype wide, uint64_t *summing, uint64_t *kept)
{
	uint64_t w = (uint64_t)kind->width(d, rank), k = kind == &lora__factor_full ? w : (uint64_t)rank < w ? (uint64_t)rank : w, each = lora__dtype_size(wide);
	*summing = (uint64_t)d * w * (sizeof(double) + (kind->probes ? each : 0));
	*kept = (uint64_t)d * k * (sizeof(double) + each) + k * sizeof(double);
}

const lora__factor_kind lora__factor_full = { .m = { "full", "the whole matrix", "arXiv:1503.05671", NULL }, .width = full_width, .add = full_add, .finish = full_finish };
const lora__factor_kind lora__factor_sketch = { .m = { "sketch", "low rank, from products with fixed random vectors", "arXiv:1706.05736 algorithm 3", NULL },
	.probes = 1, .width = sketch_width, .add = sketch_add, .finish = sketch_finish };
const lora__factor_kind lora__factor_lowrank = { .m = { "lowrank", "low rank, cut again after every few rows", "arXiv:2308.13111", NULL }, .width = low_width,
	.add = low_add, .finish = low_finish };
