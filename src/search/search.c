/* What all searches share: objective(x) = loss(x) + l1 mean|x|, the box, the budget, the best point so far, progress; and the two simple members.
 *
 *   one_plus_one  x' = x + sigma N(0, I); kept when not worse: then sigma *= 1.5, else sigma *= 1.5^(-1/4), so that one step in five succeeds
 *   random        x uniform in the box
 *
 * Source: Huang et al. 2023, arXiv:2307.13269 (LoraHub: objective, box, budget); Rechenberg 1973, one-fifth rule in the form of Kern et al. 2004. */
#include <math.h>
#include <string.h>

#include "search/search.h"

lora_status lora__hunt_try(lora__hunt *h, double *x, double *value)
{
	double loss = INFINITY, sum = 0;
	for (int64_t i = 0; i < h->n; i++) {
		x[i] = fmin(fmax(x[i], h->lower), h->upper);
		sum += fabs(x[i]);
	}
	lora_status st = h->fn(h->user, x, h->n, &loss);
	if (st) return st;
	*value = loss + h->l1 * sum / (double)h->n;
	if (isnan(*value)) *value = INFINITY;
	lora_search_result *r = &h->result;
	if (r->evaluations++ == 0) r->start_loss = loss;
	if (r->evaluations == 1 || *value < r->objective) {
		memcpy(h->best, x, (size_t)h->n * sizeof *x);
		r->objective = *value, r->loss = loss;
	}
	if (h->progress && h->progress(h->progress_user, r)) r->cancelled = 1;
	h->over = r->cancelled || r->evaluations >= h->budget;
	return LORA_OK;
}

static lora_status read_settings(lora__hunt *h)
{
	const lora_settings *s = h->settings;
	h->budget = lora__get_int(s, h->params, "budget");
	h->lower = lora__get_float(s, h->params, "lower_bound"), h->upper = lora__get_float(s, h->params, "upper_bound");
	h->l1 = lora__get_float(s, h->params, "l1");
	lora__rng_init(&h->rng, lora__rng_key((uint64_t)lora__get_int(s, h->params, "seed"), LORA__RNG_SEARCH, 0));
	if (!(h->lower < h->upper)) return lora__fail_at(h->ctx, LORA_E_ARGUMENT, "search", "lower_bound", -1, "lower_bound is not below upper_bound");
	for (const lora__param *p = h->params; p->name; p++)
		if (strcmp(p->name, "sigma") == 0) h->sigma = fmin(lora__get_float(s, h->params, "sigma"), h->upper - h->lower);
	return LORA_OK;
}

lora_status lora__search_run(lora_context *ctx, const lora__search *s, const lora_settings *settings, int64_t n, lora_search_fn fn, void *user,
                             lora_search_progress_fn progress, void *progress_user, double *x, lora_search_result *result)
{
	lora__hunt h = { .ctx = ctx, .settings = settings, .params = s->m.params, .n = n, .fn = fn, .user = user, .progress = progress, .progress_user = progress_user,
		.result = { .struct_size = sizeof h.result } };
	double value = 0, *room;
	lora_status st = read_settings(&h);
	if (st) return st;
	for (int64_t i = 0; i < n; i++)
		if (!(x[i] >= h.lower && x[i] <= h.upper))
			return lora__fail(ctx, LORA_E_ARGUMENT, "search", "weight %lld starts at %g, outside of %g to %g", (long long)i, x[i], h.lower, h.upper);
	room = lora__calloc(ctx, 2 * (size_t)n, sizeof *room);
	if (!room) return LORA_E_MEMORY;
	h.best = room;
	memcpy(room + n, x, (size_t)n * sizeof *x);
	st = lora__hunt_try(&h, room + n, &value);
	if (!st && !h.over) st = s->run(&h, room + n, value);
	if (!st && isinf(h.result.objective)) st = lora__fail(ctx, LORA_E_NUMERIC, "search", "none of %lld evaluations gave a finite loss", (long long)h.result.evaluations);
	if (!st) {
		memcpy(x, h.best, (size_t)n * sizeof *x);
		*result = h.result;
		if (h.result.cancelled) st = lora__fail(ctx, LORA_E_CANCELLED, "search", "cancelled after %lld evaluations", (long long)h.result.evaluations);
	}
	lora__free(ctx, room);
	return st;
}

static lora_status run_one_plus_one(lora__hunt *h, const double *x, double fx)
{
	double *at = lora__calloc(h->ctx, 2 * (size_t)h->n, sizeof *at), *next = at + h->n, value;
	lora_status st = at ? LORA_OK : LORA_E_MEMORY;
	if (at) memcpy(at, x, (size_t)h->n * sizeof *at);
	while (!st && !h->over && h->sigma > 1e-14) {
		for (int64_t i = 0; i < h->n; i++) next[i] = at[i] + h->sigma * lora__rng_normal(&h->rng);
		st = lora__hunt_try(h, next, &value);
		if (!st && value <= fx) {
			memcpy(at, next, (size_t)h->n * sizeof *at);
			fx = value, h->sigma = fmin(1.5 * h->sigma, h->upper - h->lower);
		} else h->sigma *= pow(1.5, -0.25);
	}
	lora__free(h->ctx, at);
	return st;
}

static lora_status run_random(lora__hunt *h, const double *x, double fx)
{
	double *at = lora__calloc(h->ctx, (size_t)h->n, sizeof *at);
	lora_status st = at ? LORA_OK : LORA_E_MEMORY;
	(void)x;
	while (!st && !h->over) {
		for (int64_t i = 0; i < h->n; i++) at[i] = h->lower + (h->upper - h->lower) * lora__rng_uniform(&h->rng);
		st = lora__hunt_try(h, at, &fx);
	}
	lora__free(h->ctx, at);
	return st;
}

static const lora__param steps[] = { LORA__SEARCH_SETTINGS, LORA__SEARCH_SIGMA, { 0 } };
static const lora__param plain[] = { LORA__SEARCH_SETTINGS, { 0 } };

const lora__search lora__search_one_plus_one = { { "one_plus_one", "(1+1) evolution strategy with the one-fifth success rule", "Rechenberg 1973; Kern et al. 2004, figure 2", steps }, run_one_plus_one };
const lora__search lora__search_random = { { "random", "points drawn uniformly in the box", "", plain }, run_random };
