/* Covariance of the logits of a batch under the posterior, linearised: with J_c = d f_c / d W of matrix W[out,in] and t_c = U^T J_c Q in the eigenbases of its
 * two factors, V_cc' = sum over matrices of sum_ij t_c,ij t_c',ij / (h_ij + lam) + (<J_c, J_c'> - <t_c, t_c'>) / lam.
 * (The same as 1/lam (J J^T - sum t t' h / (h + lam)), without the cancellation where h is large; with two complete bases the last term is nothing.)
 * One direction of a backward pass per dimension of the space of logits; differences of logits are all that a softmax sees, C - 1 of them.
 * Source: Yang et al. 2024, arXiv:2308.13111, equation 16. */
#include <math.h>
#include <string.h>

#include "combine/kernels.h"
#include "posterior/posterior.h"

enum { SHORT = 1 << 17, PIECE = 64 };

static int complete(const lora__matrix *w) { return w->side[0].k == w->out && w->side[1].k == w->in; }
/* The side that is written as rows' columns in jac: an incomplete one, or the larger one. */
static int big_of(const lora__matrix *w)
{
	int open0 = w->side[0].k < w->out, open1 = w->side[1].k < w->in;
	return open0 != open1 ? open1 : w->in >= w->out;
}

/* The gradient of log p of the most likely class, of length 1. */
static void best_direction(const double *f, int64_t n, double *g)
{
	int64_t best = 0;
	double norm = 0;
	lora__softmax(f, n, g);
	for (int64_t c = 1; c < n; c++) best = f[c] > f[best] ? c : best;
	g[best] = 0;
	for (int64_t c = 0; c < n; c++) g[best] -= c == best ? 0 : g[c];
	for (int64_t c = 0; c < n; c++) norm += g[c] * g[c];
	for (int64_t c = 0; c < n; c++) g[c] = norm > 0 ? g[c] / sqrt(norm) : (c == best ? 1 : -1 / (double)(n - 1)) * sqrt((double)(n - 1) / (double)n);
}

static void direction(void *self, int64_t example, int64_t pass, const double *f, double *g)
{
	const lora__variance *v = self;
	(void)example;
	if (v->one) best_direction(f, v->p->classes, g);
	else for (int64_t c = 0; c < v->p->classes; c++) g[c] = v->basis[c * v->dirs + pass];
}

static lora_view rows_of(lora_view v, int64_t first, int64_t n)
{
	v.data = (char *)v.data + first * v.stride[0] * (int64_t)lora__dtype_size(v.dtype);
	v.size[0] = n;
	return v;
}

/* to[small,big] = f x^T y of a few rows: a call of the backend would take longer than the work. Two vectors of `count` rows of the result at a time. */
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));
enum { EIGHT = 8, SOME = 4 };

static inline __attribute__((always_inline)) void short_rows(const int count, float f, const lora_view *x, int64_t s, const lora_view *y, float *to)
{
	int64_t big = y->size[1], rows = x->size[0], as = x->stride[0], bs = y->stride[0], j = 0;
	for (; j + 2 * EIGHT <= big; j += 2 * EIGHT) {
		const float *a = (const float *)x->data + s, *b = (const float *)y->data + j;
		eight sum[SOME][2];
#pragma GCC unroll 4
		for (int i = 0; i < count; i++) sum[i][0] = sum[i][1] = (eight){ 0 };
		for (int64_t r = 0; r < rows; r++, a += as, b += bs) {
			eight left = *(const eight *)b, right = *(const eight *)(b + EIGHT);
#pragma GCC unroll 4
			for (int i = 0; i < count; i++) sum[i][0] += left * a[i], sum[i][1] += right * a[i];
		}
#pragma GCC unroll 4
		for (int i = 0; i < count; i++) *(eight *)(to + i * big + j) = sum[i][0] * f, *(eight *)(to + i * big + j + EIGHT) = sum[i][1] * f;
	}
	for (; j < big; j++)
		for (int i = 0; i < count; i++) {
			const float *a = (const float *)x->data + s + i, *b = (const float *)y->data + j;
			float sum = 0;
			for (int64_t r = 0; r < rows; r++) sum += b[r * bs] * a[r * as];
			to[i * big + j] = sum * f;
		}
}

static inline __attribute__((always_inline)) void short_body(const int way, float f, const lora_view *x, const lora_view *y, float *to)
{
	int64_t small = x->size[1], big = y->size[1], s = 0;
	for (; way && s + SOME <= small; s += SOME) short_rows(SOME, f, x, s, y, to + s * big);
	for (; s < small; s++) short_rows(1, f, x, s, y, to + s * big);
}

LORA__TWICE(short, (float f, const lora_view *x, const lora_view *y, float *to), f, x, y, to)

static void short_product(double f, lora_view x, lora_view y, float *to) { LORA__CALL(short, (float)f, &x, &y, to); }

static int is_short(lora_view x, lora_view y)
{
	return x.dtype == LORA_F32 && y.dtype == LORA_F32 && x.stride[1] == 1 && y.stride[1] == 1 && x.size[0] * x.size[1] * y.size[1] <= SHORT;
}

/* dirs columns of basis[classes,dirs]: unit vectors, or an orthonormal basis of what is orthogonal to (1, .., 1) (Helmert). */
lora_status lora__variance_open(lora__variance *v, lora_posterior *p, int every)
{
	int64_t c = p->classes;
	*v = (lora__variance){ .p = p, .dirs = every ? c : c - 1 };
	v->taken = lora__zalloc(p->ctx, p->n + 1);
	v->basis = lora__calloc(p->ctx, (size_t)(c * v->dirs), sizeof *v->basis);
	v->jac = lora__calloc(p->ctx, p->n, sizeof *v->jac);
	v->t = lora__calloc(p->ctx, p->n, sizeof *v->t);
	v->rest = lora__calloc(p->ctx, p->n, sizeof *v->rest);
	if (!v->taken || !v->basis || !v->jac || !v->t || !v->rest) return LORA_E_MEMORY;
	for (int64_t j = 0; j < v->dirs; j++)
		for (int64_t i = 0; i < c; i++) {
			double n = (double)(j + 1);
			v->basis[i * v->dirs + j] = every ? i == j : i <= j ? 1 / sqrt(n * (n + 1)) : i == j + 1 ? -n / sqrt(n * (n + 1)) : 0;
		}
	return LORA_OK;
}

static void free_batch(lora__variance *v)
{
	for (size_t i = 0; v->p && i < v->p->n; i++) {
		if (v->jac && v->jac[i] != v->shared) lora__free(v->p->ctx, v->jac[i]);
		if (v->jac) v->jac[i] = NULL;
		if (v->t) lora__free(v->p->ctx, v->t[i]), v->t[i] = NULL;
		if (v->rest) lora__free(v->p->ctx, v->rest[i]), v->rest[i] = NULL;
	}
	if (v->p) lora__free(v->p->ctx, v->shared);
	v->shared = NULL;
	v->cap = 0;
}

void lora__variance_free(lora__variance *v)
{
	if (!v->p) return;
	free_batch(v);
	void *all[] = { v->basis, v->jac, v->t, v->rest, v->taken };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) lora__free(v->p->ctx, all[i]);
}

lora_status lora__variance_keep(lora_posterior *p, int every, int one)
{
	int64_t dirs = one ? 1 : p->classes - !every;
	if (p->kept && p->kept->dirs == dirs && p->kept->one == one) return LORA_OK;
	lora__variance_drop(p);
	if (!(p->kept = lora__calloc(p->ctx, 1, sizeof *p->kept))) return LORA_E_MEMORY;
	lora_status st = lora__variance_open(p->kept, p, every);
	p->kept->one = one, p->kept->dirs = dirs;
	if (st) lora__variance_drop(p);
	return st;
}

void lora__variance_drop(lora_posterior *p)
{
	if (p->kept) lora__variance_free(p->kept);
	lora__free(p->ctx, p->kept);
	p->kept = NULL;
}

static lora_status reserve(lora__variance *v, int64_t n, int once)
{
	lora_posterior *p = v->p;
	size_t most = 0, cells = (size_t)(n * v->dirs), each = lora__dtype_size(lora__wide(p->m->s.real));
	if (n <= v->cap && (once || !v->shared)) return LORA_OK;
	free_batch(v);
	for (size_t i = 0; i < p->n; i++)
		if (once && !p->list[i].head && (size_t)(p->list[i].out * p->list[i].in) > most) most = (size_t)(p->list[i].out * p->list[i].in);
	if (most && !(v->shared = lora__calloc(p->ctx, cells * most, each))) return LORA_E_MEMORY;
	for (size_t i = 0; i < p->n; i++) {
		const lora__matrix *w = &p->list[i];
		v->jac[i] = once && !w->head ? v->shared : lora__calloc(p->ctx, cells * (size_t)(w->out * w->in), each);
		v->t[i] = lora__calloc(p->ctx, cells * (size_t)(w->side[0].k * w->side[1].k) + 1, sizeof(double));
		v->rest[i] = lora__calloc(p->ctx, cells * (size_t)v->dirs, sizeof(double));
		if (!v->jac[i] || !v->t[i] || !v->rest[i]) return LORA_E_MEMORY;
	}
	v->cap = n;
	return LORA_OK;
}

/* t[cells,k_small,k_big] of jac[cells,small,big]: all rows at once are multiplied with the large side's basis, what is left of each cell with the small one's. */
static lora_status to_bases(const lora__variance *v, size_t i)
{
	lora_posterior *p = v->p;
	const lora__matrix *w = &p->list[i];
	int64_t cells = p->probe.n * v->dirs;
	const lora__factor *big = &w->side[big_of(w)], *small = &w->side[!big_of(w)];
	lora_dtype wide = lora__wide(p->m->s.real);
	size_t each = lora__dtype_size(wide);
	int64_t rows = cells * small->d, out = cells * small->k;
	if (!out || !big->k) return LORA_OK;
	char *half = lora__calloc(p->ctx, (size_t)(rows + out), each * (size_t)big->k), *piece = half + each * (size_t)(rows * big->k);
	lora_status st = half ? lora__gemm(p->ctx, 1.0, lora__view2(v->jac[i], wide, rows, big->d, big->d), lora__view2(big->narrow, wide, big->d, big->k, big->k), 0.0,
		lora__view2(half, wide, rows, big->k, big->k)) : LORA_E_MEMORY;
	lora_view q = lora__view2(small->narrow, wide, small->d, small->k, small->k);
	for (int64_t c = 0; c < cells && st == LORA_OK; c++) {
		lora_view y = lora__view2(half + each * (size_t)(c * small->d * big->k), wide, small->d, big->k, big->k);
		char *to = piece + each * (size_t)(c * small->k * big->k);
		if (is_short(q, y)) short_product(1, q, y, (float *)(void *)to);
		else st = lora__gemm(p->ctx, 1.0, lora__view_t(q), y, 0.0, lora__view2(to, wide, small->k, big->k, big->k));
	}
	if (st == LORA_OK) lora__convert(v->t[i], LORA_F64, piece, wide, (size_t)(out * big->k));
	lora__free(p->ctx, half);
	return st;
}

/* rest[n,dirs,dirs] = <J_c, J_c'> - <t_c, t_c'> */
static lora_status left_over(const lora__variance *v, size_t i)
{
	lora_posterior *p = v->p;
	int64_t n = p->probe.n;
	const lora__matrix *w = &p->list[i];
	lora_dtype wide = lora__wide(p->m->s.real);
	int64_t dirs = v->dirs, size = w->out * w->in, k = w->side[0].k * w->side[1].k;
	size_t each = lora__dtype_size(wide);
	if (complete(w)) return LORA_OK;
	char *piece = lora__calloc(p->ctx, (size_t)(dirs * dirs), each);
	lora_status st = piece ? LORA_OK : LORA_E_MEMORY;
	for (int64_t e = 0; e < n && st == LORA_OK; e++) {
		lora_view j = lora__view2(v->jac[i] + each * (size_t)(e * dirs * size), wide, dirs, size, size);
		double *r = v->rest[i] + e * dirs * dirs;
		const double *t = v->t[i] + e * dirs * k;
		st = lora__gemm(p->ctx, 1.0, j, lora__view_t(j), 0.0, lora__view2(piece, wide, dirs, dirs, dirs));
		lora__convert(r, LORA_F64, piece, wide, (size_t)(dirs * dirs));
		for (int64_t a = 0; a < dirs; a++)
			for (int64_t b = 0; b < dirs; b++)
				for (int64_t x = 0; x < k; x++) r[a * dirs + b] -= t[a * k + x] * t[b * k + x];
		for (int64_t a = 0; a < dirs; a++) r[a * dirs + a] = fmax(r[a * dirs + a], 0);
	}
	lora__free(p->ctx, piece);
	return st;
}

static lora_status project(const lora__variance *v, size_t i)
{
	lora_status st = to_bases(v, i);
	return st ? st : left_over(v, i);
}

/* J of every example that has rows in a call of the tap. */
typedef struct take_job { const lora__variance *v; const lora__matrix *w; lora_view left, inputs; double f; int64_t first_row; } take_job;

/* Rows of example i of all copies' and where its J goes; 0 when they are not in this call. */
static int rows_at(const take_job *j, int64_t i, lora_view *l, lora_view *r, char **at)
{
	const lora_posterior *p = j->v->p;
	const lora__matrix *w = j->w;
	int64_t e = i % p->probe.n, copy = i / p->probe.n, n = w->head ? 1 : p->probe.rows[w->space][e];
	int64_t first = (w->head ? i : p->probe.first[w->space][e] + copy * p->probe.stride[w->space]) - j->first_row;
	if (first < 0 || first >= j->left.size[0]) return 0;
	*l = rows_of(j->left, first, n), *r = rows_of(j->inputs, first, n);
	*at = j->v->jac[w - p->list] + (size_t)((e * j->v->dirs + p->probe.pass + copy) * w->out * w->in) * lora__dtype_size(lora__wide(p->m->s.real));
	return 1;
}

static void short_task(void *arg, int64_t i, int32_t thread)
{
	const take_job *j = arg;
	lora_view l, r;
	char *at;
	(void)thread;
	if (rows_at(j, i, &l, &r, &at) && is_short(l, r)) short_product(j->f, big_of(j->w) ? l : r, big_of(j->w) ? r : l, (float *)(void *)at);
}

static lora_status take(lora__tap *t, lora__slot *slot, int role, double f, lora_view left, lora_view right, int64_t first_row)
{
	lora__variance *v = (lora__variance *)(void *)((char *)t - offsetof(lora__variance, tap));
	lora_posterior *p = v->p;
	lora__matrix *w = lora__posterior_matrix(p, slot, role);
	lora_dtype wide = lora__wide(p->m->s.real);
	if (!w || !left.size[0]) return LORA_OK;
	size_t which = (size_t)(w - p->list);
	v->taken[which] = 1;
	char *own, *at;
	take_job j = { .v = v, .w = w, .left = left, .f = f, .first_row = first_row };
	lora_status st = lora__posterior_inputs(p->ctx, w, right, &j.inputs, &own);
	if (st == LORA_OK) lora__parallel(p->ctx, p->probe.info.n_head_rows, short_task, &j);
	for (int64_t i = 0; i < p->probe.info.n_head_rows && st == LORA_OK; i++) {
		lora_view l, r;
		if (!rows_at(&j, i, &l, &r, &at) || is_short(l, r)) continue;
		if (big_of(w)) st = lora__gemm(p->ctx, f, lora__view_t(l), r, 0.0, lora__view2(at, wide, w->out, w->in, w->in));
		else st = lora__gemm(p->ctx, f, lora__view_t(r), l, 0.0, lora__view2(at, wide, w->in, w->out, w->out));
	}
	lora__free(p->ctx, own);
	return st || v->jac[which] != v->shared ? st : project(v, which);
}

lora_status lora__variance_run(lora__variance *v, const lora_batch *batch, int need_labels)
{
	lora_posterior *p = v->p;
	lora__probe *q = &p->probe;
	v->tap.take = take;
	q->tap = &v->tap, q->direction = direction, q->self = v, q->rounded = v->rounded;
	int64_t cells = 0;
	q->directions = v->dirs;
	q->copies = batch && lora__mul_i64(batch->n_sequences, batch->length, &cells) ? lora__probe_copies(p->m, cells, v->dirs) : 1;
	memset(v->taken, 0, p->n);
	lora_status st = lora__probe_forward(q, batch, need_labels);
	if (st == LORA_OK) st = reserve(v, q->n, q->copies >= v->dirs);
	while (q->pass < v->dirs && q->n && st == LORA_OK) st = lora__probe_backward(q, p->last);
	for (size_t i = 0; i < p->n && q->n && st == LORA_OK; i++) {
		size_t size = (size_t)(q->n * v->dirs * p->list[i].out * p->list[i].in) * lora__dtype_size(lora__wide(p->m->s.real));
		if (!v->taken[i]) memset(v->jac[i], 0, size); /* at rest now: what is there is of another batch */
		if (!v->taken[i] || v->jac[i] != v->shared) st = project(v, i);
	}
	q->self = p, q->rounded = 0;
	return st;
}

void lora__variance_at(const lora__variance *v, int64_t example, const double *prior, double *cov)
{
	int64_t dirs = v->dirs;
	memset(cov, 0, sizeof *cov * (size_t)(dirs * dirs));
	for (size_t i = 0; i < v->p->n; i++) {
		const lora__matrix *w = &v->p->list[i];
		const lora__factor *big = &w->side[big_of(w)], *small = &w->side[!big_of(w)];
		double lam = prior ? *prior : w->prior, rows = w->seen > 0 ? (double)w->seen : 1;
		int64_t k = big->k * small->k;
		const double *t = v->t[i] + example * dirs * k, *rest = v->rest[i] + example * dirs * dirs;
		for (int64_t s = 0; s < small->k; s++) /* a piece of the sum at a time */
			for (int64_t at = 0; at < big->k; at += PIECE) {
				double f[PIECE], x[PIECE], dots[PIECE];
				int64_t n = big->k - at < PIECE ? big->k - at : PIECE;
				const double *u = t + s * big->k + at;
				for (int64_t j = 0; j < n; j++) f[j] = 1 / (big->values[at + j] * small->values[s] / rows + lam);
				for (int64_t a = 0; a < dirs; a++)
					for (int64_t b = 0; b <= a; b += PIECE) {
						int64_t m = a + 1 - b < PIECE ? a + 1 - b : PIECE;
						for (int64_t j = 0; j < n; j++) x[j] = f[j] * u[a * k + j];
						lora__rows_dot(u + b * k, k, m, x, n, dots);
						for (int64_t j = 0; j < m; j++) cov[a * dirs + b + j] += dots[j];
					}
			}
		for (int64_t a = 0; a < dirs; a++)
			for (int64_t b = 0; b <= a; b++) cov[a * dirs + b] += rest[a * dirs + b] / lam;
	}
	for (int64_t a = 0; a < dirs; a++)
		for (int64_t b = 0; b < a; b++) cov[b * dirs + a] = cov[a * dirs + b];
}
