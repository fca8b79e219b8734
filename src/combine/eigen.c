/* Symmetric eigenproblem for the largest values: Householder's reduction to tridiagonal form, QL with implicit shifts on the values alone while its
 * rotations are recorded, and then rotations and reflections applied to the wanted vectors only.
 * Source: Golub and Van Loan, Matrix Computations, 4th edition, 8.3; Bowdler, Martin, Reinsch and Wilkinson 1968 (tql2). */
#include <float.h>
#include <math.h>

#include "combine/kernels.h"
#include "combine/lowrank.h"

typedef struct turn { double c, s; int64_t i; } turn;

typedef struct eigen {
	lora_context *ctx;
	int64_t       n;
	double       *d, *e; /* diagonal, and what is beside it */
	turn         *turns;
	size_t        n_turns, cap;
} eigen;

/* Row i of t behind the diagonal becomes the vector of its reflection I - v v^T (v scaled so). */
static void reduce(double *t, int64_t n, double *d, double *e, double *p)
{
	for (int64_t i = 0; i + 1 < n; i++) {
		double *v = t + i * n + i + 1;
		int64_t m = n - i - 1;
		d[i] = t[i * n + i];
		e[i] = lora__reflection(v, m);
		double *rest = t + (i + 1) * n + i + 1, half = 0;
		lora__rows_dot(rest, n, m, v, m, p);
		for (int64_t j = 0; j < m; j++) half += p[j] * v[j];
		for (int64_t j = 0; j < m; j++) p[j] -= half / 2 * v[j];
		lora__rows_rank2(rest, n, m, v, p, p, v, m);
	}
	d[n - 1] = t[n * n - 1];
}

/* One implicit QL step on the block l .. m. */
static lora_status step(eigen *q, int64_t l, int64_t m)
{
	double *d = q->d, *e = q->e, g = (d[l + 1] - d[l]) / (2 * e[l]), r = hypot(g, 1), s = 1, c = 1, p = 0;
	lora_status st = lora__grow(q->ctx, &q->turns, &q->cap, q->n_turns + (size_t)(m - l), sizeof *q->turns);
	if (st) return st;
	g = d[m] - d[l] + e[l] / (g + copysign(r, g));
	for (int64_t i = m - 1; i >= l; i--) {
		double f = s * e[i], b = c * e[i];
		e[i + 1] = r = hypot(f, g);
		if (r == 0) { /* the block falls apart here */
			d[i + 1] -= p, e[m] = 0;
			return LORA_OK;
		}
		s = f / r, c = g / r;
		g = d[i + 1] - p;
		r = (d[i] - g) * s + 2 * c * b;
		p = s * r;
		d[i + 1] = g + p;
		g = c * r - b;
		q->turns[q->n_turns++] = (turn){ c, s, i };
	}
	d[l] -= p, e[l] = g, e[m] = 0;
	return LORA_OK;
}

static lora_status iterate(eigen *q)
{
	double *d = q->d, *e = q->e, most = 0;
	e[q->n - 1] = 0;
	for (int64_t i = 0; i < q->n; i++) most = fmax(most, fabs(d[i]) + fabs(e[i])); /* values are wanted to within the norm */
	for (int64_t l = 0; l < q->n; l++)
		for (int tries = 0;; tries++) {
			int64_t m = l;
			while (m + 1 < q->n && fabs(e[m]) > DBL_EPSILON / 4 * most) m++;
			if (m == l) break;
			if (tries == 60 || !isfinite(d[l])) return lora__fail(q->ctx, LORA_E_NUMERIC, "combine", "the singular values of a difference do not converge");
			lora_status st = step(q, l, m);
			if (st) return st;
		}
	return LORA_OK;
}

/* w = (rotations, then reflections) of the unit vectors of the k largest values. */
static void vectors(const eigen *q, const double *t, int64_t k, double *values, double *w, double *used, double *p)
{
	int64_t n = q->n;
	for (int64_t i = 0; i < n; i++) used[i] = 0;
	for (int64_t i = 0; i < n * k; i++) w[i] = 0;
	for (int64_t c = 0; c < k; c++) {
		int64_t best = -1;
		for (int64_t i = 0; i < n; i++)
			if (!used[i] && (best < 0 || q->d[i] > q->d[best])) best = i;
		used[best] = 1, values[c] = q->d[best], w[best * k + c] = 1;
	}
	for (size_t j = q->n_turns; j-- > 0;) lora__turn(w + q->turns[j].i * k, w + (q->turns[j].i + 1) * k, q->turns[j].c, q->turns[j].s, k);
	for (int64_t i = n - 1; i-- > 0;) { /* x -= v (v^T x) */
		const double *v = t + i * n + i + 1;
		for (int64_t c = 0; c < k; c++) p[c] = 0;
		lora__rows_add(p, w + (i + 1) * k, k, n - i - 1, v, 1, k);
		lora__rows_rank2(w + (i + 1) * k, k, n - i - 1, v, p, NULL, NULL, k);
	}
}

lora_status lora__eigen_top(lora_context *ctx, double *t, int64_t n, int64_t k, double *values, double *w)
{
	eigen q = { .ctx = ctx, .n = n };
	double *room = lora__calloc(ctx, (size_t)n * 4, sizeof *room);
	if (!room) return LORA_E_MEMORY;
	q.d = room, q.e = room + n;
	reduce(t, n, q.d, q.e, room + 2 * n);
	lora_status st = iterate(&q);
	if (st == LORA_OK) vectors(&q, t, k, values, w, room + 3 * n, room + 2 * n);
	lora__free(ctx, q.turns);
	lora__free(ctx, room);
	return st;
}
