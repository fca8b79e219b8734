/* The prior precision lam (1 / variance of every parameter, mean 0).
 * evidence    log Z(lam) = LL - 1/2 lam |theta|^2 - 1/2 sum_l sum_ij log(1 + h_ij / lam), h_ij = l_i m_j / rows: its derivative by log lam,
 *             -1/2 lam |theta|^2 + 1/2 sum h / (h + lam), falls strictly, so its root is found by halving.
 * validation  the smallest negative log-likelihood of the sampled predictive on held-out batches: a coarse grid of log lam, then a fine one around its best
 *             point, each in one pass over the batches.
 * Source: Yang et al. 2024, arXiv:2308.13111, section 4.2; MacKay 1992, "A practical Bayesian framework for backpropagation networks". */
#include <math.h>
#include <string.h>

#include "posterior/posterior.h"

enum { GRID = 25, DRAWS = 256 };
static const double LOG_LEAST = -30, LOG_MOST = 30; /* of lam, natural */

void lora__prior_sums(const lora__matrix *w, double prior, double *logdet, double *used)
{
	double h, rows = w->seen > 0 ? (double)w->seen : 1;
	*logdet = *used = 0;
	for (int64_t i = 0; i < w->side[0].k; i++)
		for (int64_t j = 0; j < w->side[1].k; j++) {
			h = w->side[0].values[i] * w->side[1].values[j] / rows;
			*logdet += log1p(h / prior), *used += h / (h + prior);
		}
}

double lora__prior_evidence(const lora_posterior *p)
{
	double sum = 0, logdet, used;
	for (size_t i = 0; i < p->n; i++) {
		lora__prior_sums(&p->list[i], p->list[i].prior, &logdet, &used);
		sum -= (p->list[i].prior * p->list[i].norm2 + logdet) / 2;
	}
	return sum;
}

/* The best precision of matrices first .. first + n - 1 together. */
static double best(const lora_posterior *p, size_t first, size_t n)
{
	double low = LOG_LEAST, high = LOG_MOST;
	for (int step = 0; step < 100; step++) {
		double at = (low + high) / 2, slope = 0, logdet, used;
		for (size_t i = first; i < first + n; i++) {
			lora__prior_sums(&p->list[i], exp(at), &logdet, &used);
			slope += used - exp(at) * p->list[i].norm2;
		}
		if (slope > 0) low = at;
		else high = at;
	}
	return exp((low + high) / 2);
}

void lora__prior_by_evidence(lora_posterior *p, int per_matrix)
{
	double all = per_matrix ? 0 : best(p, 0, p->n);
	for (size_t i = 0; i < p->n; i++) p->list[i].prior = per_matrix ? best(p, i, 1) : all;
}

typedef struct search { lora_posterior *p; lora__variance v; int64_t first, n, labelled; lora_batch_fn get; void *user; double *noise, *room; double loss[GRID]; } search;

/* -log p of all examples in the probe at the precision exp(at). */
static double loss_at(search *s, double at)
{
	lora_posterior *p = s->p;
	double prior = exp(at), sum = 0, *prob = s->room, *cov = prob + p->classes, *scratch = cov + s->v.dirs * s->v.dirs;
	for (int64_t e = 0; e < p->probe.n; e++) {
		lora__variance_at(&s->v, e, &prior, cov);
		lora__gauss g = { .n = p->classes, .dirs = s->v.dirs, .basis = s->v.basis, .f = p->probe.logits + e * p->classes, .noise = s->noise, .samples = DRAWS,
			.cov = cov, .scratch = scratch };
		lora__predictive_sampled.run(&g, prob);
		sum -= log(fmax(prob[p->probe.label[e]], 1e-12));
	}
	return sum;
}

static lora_status scan(search *s, double low, double high, double *found)
{
	lora_status st = LORA_OK;
	memset(s->loss, 0, sizeof s->loss);
	s->labelled = 0;
	for (int64_t i = 0; i < s->n && st == LORA_OK; i++) {
		lora_batch batch;
		st = lora__posterior_get(s->p, s->get, s->user, s->first + i, &batch);
		if (st == LORA_OK) st = lora__variance_run(&s->v, &batch, 1);
		if (st == LORA_OK) s->labelled += s->p->probe.n;
		for (int k = 0; k < GRID && st == LORA_OK; k++) s->loss[k] += loss_at(s, low + (high - low) * k / (GRID - 1));
	}
	int least = 0;
	for (int k = 1; k < GRID; k++)
		if (s->loss[k] < s->loss[least]) least = k;
	*found = low + (high - low) * least / (GRID - 1);
	return st;
}

lora_status lora__prior_by_validation(lora_posterior *p, int64_t first, int64_t n, lora_batch_fn get, void *user)
{
	search s = { .p = p, .first = first, .n = n, .get = get, .user = user };
	double at = 0, step = 24.0 / (GRID - 1);
	lora__rng r;
	size_t c = (size_t)p->classes, draws = DRAWS / 2 * c;
	lora_status st = lora__variance_open(&s.v, p, 0);
	if (st == LORA_OK && !(s.noise = lora__calloc(p->ctx, draws + c * c + 6 * c, sizeof(double)))) st = LORA_E_MEMORY;
	if (st) goto done;
	s.room = s.noise + draws;
	lora__rng_init(&r, lora__rng_key(0, LORA__RNG_POSTERIOR, 1));
	for (size_t i = 0; i < draws; i++) s.noise[i] = lora__rng_normal(&r);
	st = scan(&s, -12, 12, &at);
	if (st == LORA_OK && !s.labelled) st = lora__fail_at(p->ctx, LORA_E_ARGUMENT, "posterior", "validation_batches", -1, "the validation batches have no labelled examples");
	if (st == LORA_OK) st = scan(&s, at - step, at + step, &at);
	for (size_t i = 0; i < p->n; i++) p->list[i].prior = exp(at);
done:
	lora__variance_free(&s.v);
	lora__free(p->ctx, s.noise);
	return st;
}
