/* Fitting: one forward over each batch, and backward passes whose gradients at the logits f[C] make up the Fisher information of p = softmax(f).
 * exact    Lam = diag(p) - p p^T = sum_j l_j l_j^T, with l_j the columns of its Cholesky factor, C - 1 of them: a pass for each
 * sampled  one pass, of y - p with a class y drawn from p: the same on average
 * Then the factors are brought to eigenvalues, and the prior precision is chosen. Data is streamed: nothing grows with its amount. */
#include <math.h>
#include <string.h>

#include "posterior/posterior.h"

/* Column j of the Cholesky factor of diag(p) - p p^T, with s_j = p_j + .. + p_(C-1): L_jj = sqrt(p_j s_(j+1) / s_j), L_ij = -p_i sqrt(p_j / (s_j s_(j+1))).
 * Source: Tanabe and Sagae 1992, "An exact Cholesky decomposition and the generalized inverse of the variance-covariance matrix of the multinomial". */
static void exact_direction(void *self, int64_t example, int64_t pass, const double *f, double *g)
{
	const lora_posterior *p = self;
	(void)example;
	double after = 0;
	lora__softmax(f, p->classes, g);
	for (int64_t i = pass + 1; i < p->classes; i++) after += g[i];
	double pj = g[pass], with = after + pj, below = after > 0 && with > 0 ? sqrt(pj / (with * after)) : 0;
	for (int64_t i = 0; i < p->classes; i++) g[i] = i < pass ? 0 : i == pass ? with > 0 ? sqrt(pj * after / with) : 0 : -g[i] * below;
}

static void sampled_direction(void *self, int64_t example, int64_t pass, const double *f, double *g)
{
	const lora_posterior *p = self;
	lora__rng r;
	(void)pass;
	lora__rng_init(&r, lora__rng_key((uint64_t)lora__get_int(p->settings, lora__posterior_fit_member.params, "seed"), LORA__RNG_POSTERIOR, (uint64_t)(p->examples + example)));
	double u = lora__rng_uniform(&r);
	int64_t y = 0;
	lora__softmax(f, p->classes, g);
	while (y + 1 < p->classes && u >= g[y]) u -= g[y++];
	for (int64_t i = 0; i < p->classes; i++) g[i] = (i == y) - g[i];
}

static lora_status take(lora__tap *t, lora__slot *slot, int role, double f, lora_view left, lora_view right, int64_t first_row)
{
	lora_posterior *p = (lora_posterior *)(void *)((char *)t - offsetof(lora_posterior, tap));
	lora__matrix *w = lora__posterior_matrix(p, slot, role);
	lora_dtype wide = lora__wide(p->m->s.real);
	if (!w || !left.size[0]) return LORA_OK;
	lora_status st = w->side[0].kind->add(p->ctx, &w->side[0], left, f * f, wide);
	if (st || p->probe.pass) return st;
	lora_view inputs; /* they are the same in all passes and copies */
	char *own;
	int64_t once = (w->head ? p->probe.n : p->probe.stride[w->space]) - first_row;
	if (once <= 0) return LORA_OK;
	if (once < right.size[0]) right.size[0] = once;
	w->seen += right.size[0];
	st = lora__posterior_inputs(p->ctx, w, right, &inputs, &own);
	if (st == LORA_OK) st = w->side[1].kind->add(p->ctx, &w->side[1], inputs, 1, wide);
	lora__free(p->ctx, own);
	return st;
}

static const lora__factor_kind *side_kind(const lora_posterior *p, const lora__factor_kind *large, int64_t d)
{
	const lora__param *t = lora__posterior_fit_member.params;
	int64_t rank = lora__get_int(p->settings, t, "factor_rank");
	return d <= lora__get_int(p->settings, t, "full_up_to") || rank >= d ? &lora__factor_full : large;
}

static lora_status start(lora_posterior *p)
{
	const lora__param *t = lora__posterior_fit_member.params;
	const lora__factor_kind *large;
	uint64_t seed = (uint64_t)lora__get_int(p->settings, t, "seed");
	lora_status st = lora__factor_find(p->ctx, lora__get_string(p->settings, t, "factor"), &large);
	for (size_t i = 0; i < p->n && st == LORA_OK; i++)
		for (int k = 0; k < 2 && st == LORA_OK; k++) {
			int64_t d = k ? p->list[i].in : p->list[i].out;
			st = lora__factor_start(p->ctx, &p->list[i].side[k], side_kind(p, large, d), d, lora__get_int(p->settings, t, "factor_rank"),
				lora__rng_key(seed ^ 0x5eed, LORA__RNG_POSTERIOR, 2 * i + (uint64_t)k), lora__wide(p->m->s.real));
		}
	return st;
}

lora_status lora__posterior_get(const lora_posterior *p, lora_batch_fn get, void *user, int64_t i, lora_batch *out)
{
	*out = (lora_batch){ .struct_size = sizeof *out };
	if (get(user, i, out)) return lora__fail(p->ctx, LORA_E_CALLBACK, "posterior", "the callback gave no batch %lld", (long long)i);
	return LORA_OK;
}

static lora_status accumulate(lora_posterior *p, const lora_batch *batch)
{
	lora__probe *q = &p->probe;
	int exact = strcmp(lora__get_string(p->settings, lora__posterior_fit_member.params, "fisher"), "exact") == 0;
	int64_t passes = exact ? p->classes - 1 : 1, cells = 0;
	p->tap.take = take;
	q->tap = &p->tap, q->direction = exact ? exact_direction : sampled_direction;
	q->directions = passes;
	q->copies = lora__mul_i64(batch->n_sequences, batch->length, &cells) ? lora__probe_copies(p->m, cells, passes) : 1;
	lora_status st = lora__probe_forward(q, batch, 1);
	while (q->pass < passes && q->n && st == LORA_OK) st = lora__probe_backward(q, p->last);
	if (st) return st;
	for (int64_t e = 0; e < q->n; e++) {
		lora__softmax(q->logits + e * p->classes, p->classes, q->grad);
		p->log_likelihood += log(fmax(q->grad[q->label[e]], 1e-300));
	}
	p->examples += q->n;
	return LORA_OK;
}

static lora_status finish(lora_posterior *p)
{
	int64_t rank = lora__get_int(p->settings, lora__posterior_fit_member.params, "factor_rank");
	lora_status st = LORA_OK;
	for (size_t i = 0; i < p->n; i++)
		for (int k = 0; k < 2 && st == LORA_OK; k++) st = lora__factor_finish(p->ctx, &p->list[i].side[k], rank, lora__wide(p->m->s.real));
	for (size_t i = 0; i < p->n && strcmp(lora__get_string(p->settings, lora__posterior_fit_member.params, "divide_by"), "examples") == 0; i++) p->list[i].seen = p->examples;
	return st;
}

static lora_status choose_prior(lora_posterior *p, int64_t first, int64_t n, lora_batch_fn get, void *user)
{
	const lora__param *t = lora__posterior_fit_member.params;
	const char *how = lora__get_string(p->settings, t, "prior");
	double fixed = lora__get_float(p->settings, t, "prior_precision");
	lora_status st = LORA_OK;
	for (size_t i = 0; i < p->n; i++) p->list[i].prior = fixed;
	if (strcmp(how, "evidence") == 0) lora__prior_by_evidence(p, strcmp(lora__get_string(p->settings, t, "prior_per"), "matrix") == 0);
	else if (strcmp(how, "validation") == 0) st = lora__prior_by_validation(p, first, n, get, user);
	p->evidence = p->log_likelihood + lora__prior_evidence(p);
	return st;
}

lora_status lora__posterior_fit(lora_posterior *p, int64_t n, lora_batch_fn get, void *user)
{
	const lora__param *t = lora__posterior_fit_member.params;
	int64_t held = lora__get_int(p->settings, t, "validation_batches");
	if ((strcmp(lora__get_string(p->settings, t, "prior"), "validation") == 0) != (held > 0))
		return lora__fail_at(p->ctx, LORA_E_ARGUMENT, "posterior", "validation_batches", -1, "validation_batches and prior \"validation\" go together");
	if (n - held < 1)
		return lora__fail_at(p->ctx, LORA_E_ARGUMENT, "posterior", "n", -1, "%lld batches, of which %lld are for validation: none is left", (long long)n, (long long)held);
	lora_status st = lora__posterior_usable(p);
	if (st == LORA_OK) st = start(p);
	p->scale = p->a->scale;
	for (int64_t i = 0; i < n - held && st == LORA_OK; i++) {
		lora_batch batch;
		st = lora__posterior_get(p, get, user, i, &batch);
		if (st == LORA_OK) st = accumulate(p, &batch);
	}
	if (st == LORA_OK && !p->examples) st = lora__fail_at(p->ctx, LORA_E_ARGUMENT, "posterior", "labels", -1, "the data has no labelled examples");
	if (st == LORA_OK) st = finish(p);
	return st ? st : choose_prior(p, n - held, held, get, user);
}

/* From the plan that will run, and the sizes that the factors will have. */
lora_status lora__posterior_estimate(lora_posterior *p, int64_t n_sequences, int64_t length, lora_posterior_memory *out)
{
	const lora__param *t = lora__posterior_fit_member.params;
	const lora__factor_kind *large;
	const lora__plan *plan;
	int64_t rank = lora__get_int(p->settings, t, "factor_rank"), cells = 0;
	lora_dtype wide = lora__wide(p->m->s.real);
	size_t each = lora__dtype_size(wide);
	if (n_sequences < 1 || length < 1 || !lora__mul_i64(n_sequences, length, &cells) || cells > INT32_MAX)
		return lora__fail(p->ctx, LORA_E_ARGUMENT, "posterior", "a batch of %lld x %lld", (long long)n_sequences, (long long)length);
	lora_status st = lora__posterior_usable(p);
	if (st == LORA_OK) st = lora__factor_find(p->ctx, lora__get_string(p->settings, t, "factor"), &large);
	int64_t copies = lora__probe_copies(p->m, cells, p->classes);
	int encoder = p->m->form == LORA__FORM_ENCODER;
	if (st == LORA_OK) st = lora__model_find_plan(p->m, LORA__PLAN_REPEAT, copies * (encoder ? n_sequences : cells), encoder ? copies * cells : 0, &plan);
	if (st) return st;
	*out = (lora_posterior_memory){ .struct_size = sizeof *out, .activations = plan->arena_bytes };
	for (size_t i = 0; i < p->n; i++) {
		const lora__matrix *w = &p->list[i];
		uint64_t most = 0, ranks = 1;
		for (int k = 0; k < 2; k++) {
			uint64_t summing, kept;
			int64_t d = k ? w->in : w->out, rows = w->head ? n_sequences : cells;
			const lora__factor_kind *kind = side_kind(p, large, d);
			lora__factor_bytes(kind, d, rank, wide, &summing, &kept);
			out->factors += summing, out->kept += kept;
			uint64_t piece = (uint64_t)(d + rows) * (uint64_t)kind->width(d, rank) * each; /* of one call */
			if (piece > most) most = piece;
			ranks *= (uint64_t)(kind == &lora__factor_full ? d : rank);
		}
		if (most > out->scratch) out->scratch = most;
		out->predict += (uint64_t)(n_sequences * p->classes) * ((uint64_t)(w->out * w->in) * each + (ranks + (uint64_t)p->classes) * sizeof(double));
	}
	out->peak = out->activations + (out->factors + out->scratch > out->kept + out->predict ? out->factors + out->scratch : out->kept + out->predict);
	return LORA_OK;
}
