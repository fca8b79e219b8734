/* CMA-ES: x = m + sigma N(0, C), clipped into the box; the better half of each generation moves the mean, and its steps shape C and sigma.
 *
 *   m     += sum_i w_i (x_i - m),  w_i ~ ln((lambda + 1) / 2) - ln i, i = 1 .. lambda / 2
 *   p_s    = (1 - c_s) p_s + sqrt(c_s (2 - c_s) mu) C^(-1/2) y,   y = the mean's step / sigma,   mu = 1 / sum w_i^2
 *   sigma *= exp(c_s / d_s (|p_s| / E|N(0, I)| - 1))
 *   p_c    = (1 - c_c) p_c + h sqrt(c_c (2 - c_c) mu) y
 *   C      = (1 - c_1 - c_mu) C + c_1 (p_c p_c^T + (1 - h) c_c (2 - c_c) C) + c_mu sum_i w_i y_i y_i^T
 *
 * With covariance "diagonal" C stays diagonal and is learnt (n + 2) / 3 times faster. Points outside of the box are evaluated, and learnt from, where
 * they come to lie on its boundary. C is decomposed by Jacobi's rotations, every lambda / (10 n (c_1 + c_mu)) generations or so.
 * Source: Hansen 2016, arXiv:1604.00772, equations 5 to 52 without negative weights; diagonal: Ros and Hansen 2008; Jacobi: Golub and Van Loan 8.5. */
#include <math.h>
#include <string.h>

#include "search/search.h"

enum { FULL_MOST = 100 }; /* variables up to which "auto" learns the full matrix */

typedef struct point { double value; int64_t number; } point;

typedef struct cma {
	lora__hunt *h;
	int64_t n, lambda, mu, wait, generation; /* wait: generations between decompositions */
	int     full;
	double  mueff, cs, ds, cc, c1, cmu, expected;
	double *mean, *ps, *pc, *d, *y, *tmp; /* [n]; d = roots of the eigenvalues of C (diagonal: of its entries) */
	double *w;                            /* [mu] */
	double *x;                            /* [lambda,n] */
	double *c, *v, *work;                 /* [n,n]: C, its eigenvectors in columns; diagonal: c[n] */
	point  *order;                        /* [lambda] */
} cma;

/* Rotate rows and columns p and q of a so that a[p,q] becomes 0, and the columns of v with them. */
static void rotate(double *a, double *v, int64_t n, int64_t p, int64_t q)
{
	double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
	double t = copysign(1, theta) / (fabs(theta) + hypot(theta, 1)), c = 1 / hypot(t, 1), s = t * c;
	for (int64_t i = 0; i < n; i++) {
		double x = a[i * n + p], y = a[i * n + q];
		a[i * n + p] = c * x - s * y, a[i * n + q] = s * x + c * y;
		x = v[i * n + p], y = v[i * n + q];
		v[i * n + p] = c * x - s * y, v[i * n + q] = s * x + c * y;
	}
	for (int64_t i = 0; i < n; i++) {
		double x = a[p * n + i], y = a[q * n + i];
		a[p * n + i] = c * x - s * y, a[q * n + i] = s * x + c * y;
	}
}

/* C = V diag(d^2) V^T; 0 when C has no roots any more, and the search is at its end. */
static int decompose(cma *s)
{
	int64_t n = s->n;
	if (!s->full) {
		for (int64_t i = 0; i < n; i++) s->d[i] = sqrt(s->c[i]);
	} else {
		memcpy(s->work, s->c, (size_t)(n * n) * sizeof(double));
		memset(s->v, 0, (size_t)(n * n) * sizeof(double));
		for (int64_t i = 0; i < n; i++) s->v[i * n + i] = 1;
		for (int sweep = 0, left = 1; left && sweep < 60; sweep++) {
			left = 0;
			for (int64_t p = 0; p < n; p++)
				for (int64_t q = p + 1; q < n; q++)
					if (fabs(s->work[p * n + q]) > 1e-15 * sqrt(fabs(s->work[p * n + p] * s->work[q * n + q]))) rotate(s->work, s->v, n, p, q), left = 1;
		}
		for (int64_t i = 0; i < n; i++) s->d[i] = sqrt(s->work[i * n + i]);
	}
	double least = INFINITY, most = 0;
	for (int64_t i = 0; i < n; i++) {
		if (!(s->d[i] > 0) || !isfinite(s->d[i])) return 0;
		least = fmin(least, s->d[i]), most = fmax(most, s->d[i]);
	}
	return most < 1e7 * least;
}

static void constants(cma *s)
{
	double n = (double)s->n, sum = 0, squares = 0;
	for (int64_t i = 0; i < s->mu; i++) sum += s->w[i] = log(((double)s->lambda + 1) / 2) - log((double)i + 1);
	for (int64_t i = 0; i < s->mu; i++) s->w[i] /= sum, squares += s->w[i] * s->w[i];
	s->mueff = 1 / squares;
	s->cs = (s->mueff + 2) / (n + s->mueff + 5);
	s->ds = 1 + 2 * fmax(0, sqrt((s->mueff - 1) / (n + 1)) - 1) + s->cs;
	s->cc = (4 + s->mueff / n) / (n + 4 + 2 * s->mueff / n);
	s->c1 = 2 / ((n + 1.3) * (n + 1.3) + s->mueff);
	s->cmu = 2 * (s->mueff - 2 + 1 / s->mueff) / ((n + 2) * (n + 2) + s->mueff);
	if (!s->full) s->c1 *= (n + 2) / 3, s->cmu *= (n + 2) / 3;
	s->c1 = fmin(s->c1, 0.5), s->cmu = fmin(s->cmu, 1 - s->c1);
	s->expected = sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n));
	s->wait = s->full ? (int64_t)(1 / (10 * n * (s->c1 + s->cmu))) + 1 : 1;
}

/* y = V diag(d) z, or (back) V diag(1/d) V^T y */
static void colour(const cma *s, const double *z, double *out, int back)
{
	int64_t n = s->n;
	if (!s->full) {
		for (int64_t i = 0; i < n; i++) out[i] = back ? z[i] / s->d[i] : z[i] * s->d[i];
		return;
	}
	for (int64_t j = 0; j < n; j++) {
		s->tmp[j] = back ? 0 : z[j] * s->d[j];
		for (int64_t i = 0; back && i < n; i++) s->tmp[j] += s->v[i * n + j] * z[i];
		if (back) s->tmp[j] /= s->d[j];
	}
	for (int64_t i = 0; i < n; i++) {
		out[i] = 0;
		for (int64_t j = 0; j < n; j++) out[i] += s->v[i * n + j] * s->tmp[j];
	}
}

/* A generation, sorted: of equal ones the first drawn comes first. */
static lora_status generation(cma *s)
{
	lora__hunt *h = s->h;
	for (int64_t k = 0; k < s->lambda; k++) {
		double *x = s->x + k * s->n, value;
		for (int64_t i = 0; i < s->n; i++) s->y[i] = lora__rng_normal(&h->rng);
		colour(s, s->y, x, 0);
		for (int64_t i = 0; i < s->n; i++) x[i] = s->mean[i] + h->sigma * x[i];
		lora_status st = lora__hunt_try(h, x, &value);
		if (st || h->over) return st;
		int64_t at = k;
		for (; at > 0 && s->order[at - 1].value > value; at--) s->order[at] = s->order[at - 1];
		s->order[at] = (point){ value, k };
	}
	return LORA_OK;
}

static void learn_shape(cma *s, int held)
{
	int64_t n = s->n;
	double keep = 1 - s->c1 - s->cmu + (held ? s->c1 * s->cc * (2 - s->cc) : 0);
	for (int64_t i = 0; i < (s->full ? n * n : n); i++) s->c[i] *= keep;
	for (int64_t k = -1; k < s->mu; k++) { /* -1: the path */
		const double *y = k < 0 ? s->pc : s->x + s->order[k].number * n;
		double w = k < 0 ? s->c1 : s->cmu * s->w[k];
		for (int64_t i = 0; i < n; i++) {
			if (!s->full) s->c[i] += w * y[i] * y[i];
			for (int64_t j = 0; s->full && j < n; j++) s->c[i * n + j] += w * y[i] * y[j];
		}
	}
}

/* Move the mean, the paths, C and sigma by what the generation has shown. */
static void learn(cma *s)
{
	lora__hunt *h = s->h;
	int64_t n = s->n;
	double length = 0, h_limit;
	for (int64_t i = 0; i < n; i++) s->y[i] = 0;
	for (int64_t k = 0; k < s->lambda; k++)
		for (int64_t i = 0; i < n; i++) s->x[k * n + i] = (s->x[k * n + i] - s->mean[i]) / h->sigma;
	for (int64_t k = 0; k < s->mu; k++)
		for (int64_t i = 0; i < n; i++) s->y[i] += s->w[k] * s->x[s->order[k].number * n + i];
	for (int64_t i = 0; i < n; i++) s->mean[i] += h->sigma * s->y[i];
	double *white = s->work; /* free between decompositions */
	colour(s, s->y, white, 1);
	for (int64_t i = 0; i < n; i++) {
		s->ps[i] = (1 - s->cs) * s->ps[i] + sqrt(s->cs * (2 - s->cs) * s->mueff) * white[i];
		length += s->ps[i] * s->ps[i];
	}
	length = sqrt(length) / s->expected;
	h_limit = (1.4 + 2 / ((double)n + 1)) * sqrt(1 - pow(1 - s->cs, 2 * (double)++s->generation));
	int held = length >= h_limit;
	for (int64_t i = 0; i < n; i++) s->pc[i] = (1 - s->cc) * s->pc[i] + (held ? 0 : sqrt(s->cc * (2 - s->cc) * s->mueff)) * s->y[i];
	learn_shape(s, held);
	h->sigma = fmin(h->sigma * exp(fmin(1, s->cs / s->ds * (length - 1))), h->upper - h->lower);
}

static int at_end(const cma *s)
{
	double most = 0, size = 0;
	for (int64_t i = 0; i < s->n; i++) most = fmax(most, s->d[i]), size = fmax(size, fabs(s->mean[i]));
	return !(s->h->sigma * most > 1e-15 * fmax(size, 1e-150)) || !(s->h->sigma > 1e-150);
}

static lora_status run(lora__hunt *h, const double *x, double fx)
{
	cma s = { .h = h, .n = h->n };
	const char *how = lora__get_string(h->settings, h->params, "covariance");
	size_t n = (size_t)h->n;
	(void)fx;
	s.lambda = lora__get_int(h->settings, h->params, "population");
	if (s.lambda == 0) s.lambda = 4 + (int64_t)(3 * log((double)n));
	if (s.lambda < 4) return lora__fail_at(h->ctx, LORA_E_ARGUMENT, "search", "population", -1, "population is %lld, must be 0 (by itself) or at least 4", (long long)s.lambda);
	s.mu = s.lambda / 2;
	s.full = strcmp(how, "full") == 0 || (strcmp(how, "auto") == 0 && n <= FULL_MOST);
	size_t square = s.full ? n * n : n;
	double *room = lora__calloc(h->ctx, 6 * n + (size_t)s.mu + (size_t)s.lambda * n + 3 * square, sizeof *room);
	s.order = lora__calloc(h->ctx, (size_t)s.lambda, sizeof *s.order);
	lora_status st = room && s.order ? LORA_OK : LORA_E_MEMORY;
	if (!st) {
		s.mean = room, s.ps = room + n, s.pc = room + 2 * n, s.d = room + 3 * n, s.y = room + 4 * n, s.tmp = room + 5 * n, s.w = room + 6 * n;
		s.x = s.w + s.mu, s.c = s.x + s.lambda * h->n, s.v = s.c + square, s.work = s.v + square;
		memcpy(s.mean, x, n * sizeof *x);
		for (size_t i = 0; i < n; i++) s.c[s.full ? i * n + i : i] = 1;
		constants(&s);
	}
	while (!st && !h->over && (s.generation % s.wait || decompose(&s)) && !at_end(&s)) {
		st = generation(&s);
		if (!st && !h->over) learn(&s);
	}
	lora__free(h->ctx, s.order);
	lora__free(h->ctx, room);
	return st;
}

static const lora__param params[] = { LORA__SEARCH_SETTINGS, LORA__SEARCH_SIGMA,
	{ "population", LORA__INT, "0", 0, 1e6, NULL, "points of a generation, at least 4; 0 = 4 + floor(3 ln n)" },
	{ "covariance", LORA__STRING, "auto", 0, 0, "auto|full|diagonal", "what is learnt of the function's shape; auto: full for up to 100 weights" }, { 0 } };

const lora__search lora__search_cmaes = { { "cmaes", "evolution strategy that learns the covariance of good steps", "Hansen 2016, arXiv:1604.00772", params }, run };
