/* Symmetric eigenproblem for the largest values: Householder's reduction to tridiagonal form by panels, QL with implicit shifts on the values alone while its
 * rotations are recorded, and then rotations and reflections applied to the wanted vectors only.
 * Within a panel the matrix stays as it was, and what its reflections have changed is added to the one product with it that each of them needs; at its end
 * all goes in by one product of matrices. Reflections come back in panels too: H_0 H_1 .. = I - V^T T V.
 * Source: Golub and Van Loan, Matrix Computations, 4th edition, 8.3; Bowdler, Martin, Reinsch and Wilkinson 1968 (tql2); Dongarra, Hammarling and Sorensen
 * 1989 (panels of the reduction); Schreiber and Van Loan 1989 (I - V^T T V); Van Zee, van de Geijn and Quintana-Orti 2014 (rotations by blocks of vectors). */
#include <float.h>
#include <math.h>
#include <string.h>

#include "combine/kernels.h"
#include "combine/lowrank.h"

typedef struct sweep { int64_t first; size_t end; } sweep; /* its rotations are turns .. end, of rows first + n and first + n - 1 down to first + 1 and first */

typedef struct eigen {
	lora_context *ctx;
	int64_t       n;
	double       *d, *e; /* diagonal, and what is beside it */
	lora__turn   *turns;
	sweep        *sweeps;
	size_t        n_turns, cap, n_sweeps, cap_sweeps;
} eigen;

lora_status lora__reflect(lora_context *ctx, const double *v, int64_t ld, int64_t n, int64_t m, int last_first, double *x, int64_t rs, int64_t cs, int64_t cols)
{
	double t[LORA__PANEL * LORA__PANEL] = { 0 }, dots[LORA__PANEL];
	double *room = lora__alloc(ctx, (size_t)(n * (m + 2 * cols)) * sizeof *room), *y = room + n * m, *z = y + n * cols;
	if (!room) return LORA_E_MEMORY;
	for (int64_t j = 0; j < n; j++) {
		memset(room + j * m, 0, (size_t)j * sizeof *room);
		memcpy(room + j * m + j, v + j * ld + j, (size_t)(m - j) * sizeof *room);
		lora__rows_dot(room, m, j, room + j * m, m, dots);
		for (int64_t r = 0; r < j; r++) /* T[.., j] = -T (V v_j) */
			for (int64_t c = r; c < j; c++) t[r * n + j] -= t[r * n + c] * dots[c];
		t[j * n + j] = 1;
	}
	lora_status st = lora__product(ctx, n, cols, m, 1, room, m, 1, x, rs, cs, 0, y, cols, 1);
	if (!st) st = lora__product(ctx, n, cols, n, 1, t, last_first ? n : 1, last_first ? 1 : n, y, cols, 1, 0, z, cols, 1);
	if (!st) st = lora__product(ctx, m, cols, n, -1, room, 1, m, z, cols, 1, 1, x, rs, cs);
	lora__free(ctx, room);
	return st;
}

/* Row i of t behind the diagonal becomes the vector of its reflection I - v v^T (v scaled so). buf[3 LORA__PANEL][n]: vectors v, w and v again of a panel, after
 * which A + V^T W + W^T V is due. */
static lora_status reduce(lora_context *ctx, double *t, int64_t n, double *d, double *e, double *p, double *buf)
{
	lora_status st = LORA_OK;
	for (int64_t at = 0, size; at + 1 < n && !st; at += size) {
		size = n - 1 - at < LORA__PANEL ? n - 1 - at : LORA__PANEL;
		double *ws = buf + size * n, *vs = t + at * n, dots[LORA__PANEL];
		for (int64_t i = at; i < at + size; i++) {
			double *v = t + i * n + i + 1, *w = ws + (i - at) * n + i + 1, half = 0;
			int64_t m = n - i - 1, done = i - at;
			lora__rows_add(v - 1, ws + i, n, done, vs + i, n, m + 1);
			lora__rows_add(v - 1, vs + i, n, done, ws + i, n, m + 1);
			d[i] = v[-1];
			e[i] = lora__reflection(v, m);
			lora__symmetric(w, v + n, n, v, m);
			lora__rows_dot(vs + i + 1, n, done, v, m, dots);
			lora__rows_dot(ws + i + 1, n, done, v, m, p);
			lora__rows_add(w, ws + i + 1, n, done, dots, 1, m);
			lora__rows_add(w, vs + i + 1, n, done, p, 1, m);
			for (int64_t j = 0; j < m; j++) half += w[j] * v[j];
			for (int64_t j = 0; j < m; j++) w[j] = half / 2 * v[j] - w[j];
		}
		int64_t next = at + size, m = n - next;
		for (int64_t j = 0; j < size; j++)
			for (int copy = 0; copy < 3; copy += 2) memcpy(buf + (copy * size + j) * n + next, vs + j * n + next, (size_t)m * sizeof *t);
		st = lora__product(ctx, m, m, 2 * size, 1, buf + next, 1, n, ws + next, n, 1, 1, t + next * n + next, n, 1);
	}
	d[n - 1] = t[n * n - 1];
	return st;
}

/* One implicit QL step on the block l .. m. */
static lora_status step(eigen *q, int64_t l, int64_t m)
{
	double *d = q->d, *e = q->e, g = (d[l + 1] - d[l]) / (2 * e[l]), r = sqrt(g * g + 1), s = 1, c = 1, p = 0;
	lora_status st = lora__grow(q->ctx, &q->turns, &q->cap, q->n_turns + (size_t)(m - l), sizeof *q->turns);
	if (!st) st = lora__grow(q->ctx, &q->sweeps, &q->cap_sweeps, q->n_sweeps + 1, sizeof *q->sweeps);
	if (st) return st;
	int64_t i = m - 1;
	g = d[m] - d[l] + e[l] / (g + copysign(r, g));
	for (; i >= l; i--) {
		double f = s * e[i], b = c * e[i];
		e[i + 1] = r = sqrt(f * f + g * g);
		if (r == 0) break; /* the block falls apart here */
		s = f / r, c = g / r;
		g = d[i + 1] - p;
		r = (d[i] - g) * s + 2 * c * b;
		p = s * r;
		d[i + 1] = g + p;
		g = c * r - b;
		q->turns[q->n_turns++] = (lora__turn){ c, s };
	}
	if (i >= l) d[i + 1] -= p, e[m] = 0;
	else d[l] -= p, e[l] = g, e[m] = 0;
	q->sweeps[q->n_sweeps++] = (sweep){ i + 1, q->n_turns };
	return LORA_OK;
}

/* The values are wanted to within the norm, so what is far below it may vanish: all is scaled to about 1, and squares need no care. */
static lora_status iterate(eigen *q)
{
	double *d = q->d, *e = q->e, most = 0;
	int scale;
	e[q->n - 1] = 0;
	for (int64_t i = 0; i < q->n; i++) most = fmax(most, fabs(d[i]) + fabs(e[i]));
	frexp(most, &scale);
	for (int64_t i = 0; i < q->n && isfinite(most); i++) d[i] = ldexp(d[i], -scale), e[i] = ldexp(e[i], -scale);
	for (int64_t l = 0; l < q->n; l++)
		for (int tries = 0;; tries++) {
			int64_t m = l;
			while (m + 1 < q->n && fabs(e[m]) > DBL_EPSILON / 8) m++;
			if (m == l) break;
			if (tries == 60 || !isfinite(d[l])) return lora__fail(q->ctx, LORA_E_NUMERIC, "combine", "the singular values of a difference do not converge");
			lora_status st = step(q, l, m);
			if (st) return st;
		}
	for (int64_t i = 0; i < q->n; i++) d[i] = ldexp(d[i], scale);
	return LORA_OK;
}

/* w = (rotations, then reflections) of the unit vectors of the k largest values. buf[n,LORA__TURNED]: some columns at a time, so that they stay near. */
static lora_status vectors(const eigen *q, const double *t, int64_t k, double *values, double *w, double *buf, int64_t *order)
{
	int64_t n = q->n;
	for (int64_t i = 0; i < n; i++) order[i] = i;
	for (int64_t c = 0; c < k; c++)
		for (int64_t i = c + 1, x; i < n; i++)
			if (q->d[order[i]] > q->d[order[c]]) x = order[i], order[i] = order[c], order[c] = x;
	for (int64_t c = 0; c < k; c += LORA__TURNED) {
		int64_t cols = k - c < LORA__TURNED ? k - c : LORA__TURNED;
		memset(buf, 0, (size_t)(n * LORA__TURNED) * sizeof *buf);
		for (int64_t j = 0; j < cols; j++) values[c + j] = q->d[order[c + j]], buf[order[c + j] * LORA__TURNED + j] = 1;
		for (size_t s = q->n_sweeps; s-- > 0;) {
			size_t first = s ? q->sweeps[s - 1].end : 0;
			lora__turns(buf + q->sweeps[s].first * LORA__TURNED, q->turns + first, (int64_t)(q->sweeps[s].end - first));
		}
		for (int64_t i = 0; i < n; i++) memcpy(w + i * k + c, buf + i * LORA__TURNED, (size_t)cols * sizeof *w);
	}
	lora_status st = LORA_OK;
	for (int64_t at = n - 1; at > 0 && !st;) {
		int64_t size = at % LORA__PANEL ? at % LORA__PANEL : LORA__PANEL;
		at -= size;
		st = lora__reflect(q->ctx, t + at * n + at + 1, n, size, n - at - 1, 1, w + (at + 1) * k, k, 1, k);
	}
	return st;
}

lora_status lora__eigen_top(lora_context *ctx, double *t, int64_t n, int64_t k, double *values, double *w)
{
	eigen q = { .ctx = ctx, .n = n };
	double *room = lora__alloc(ctx, (size_t)n * (4 + 3 * LORA__PANEL) * sizeof *room); /* order and p; buffers of both ends are about alike */
	if (!room) return LORA_E_MEMORY;
	q.d = room, q.e = room + n;
	lora_status st = reduce(ctx, t, n, q.d, q.e, room + 2 * n, room + 4 * n);
	if (!st) st = iterate(&q);
	if (!st) st = vectors(&q, t, k, values, w, room + 4 * n, (int64_t *)(void *)(room + 2 * n));
	lora__free(ctx, q.turns);
	lora__free(ctx, q.sweeps);
	lora__free(ctx, room);
	return st;
}
