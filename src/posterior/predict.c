/* Predicting: logits and their covariance by variance.c, probabilities by a member of family "predictive". */
#include <string.h>

#include "posterior/posterior.h"

static const lora__param params[] = {
	{ "form", LORA__STRING, "sampled", 0, 0, NULL, "member of family predictive" },
	{ "directions", LORA__STRING, "all", 0, 0, "all|one", "all: a backward pass per class but one; one: the variance of the best class's log-odds stands for all (form sampled)" },
	{ "jacobian", LORA__STRING, "auto", 0, 0, "auto|exact|rounded", "products of its backward passes (F32): exact; rounded: of numbers rounded to BF16; auto: rounded for form sampled without covariance" },
	{ "samples", LORA__INT, "1000", 1, 1e9, NULL, "draws of form sampled" },
	{ "prior_precision", LORA__FLOAT, NULL, 1e-300, 1e300, NULL, "in place of what the fit has found" },
	{ "seed", LORA__INT, "0", 0, 9e15, NULL, "seed of the draws" },
	{ 0 }
};
const lora__member lora__posterior_predict_member = { "posterior_predict", "predictions of a posterior", "arXiv:2308.13111", params };

/* The same draws for every example: what is predicted does not depend on the batch. */
static lora_status make_noise(lora_context *ctx, const lora_settings *s, int64_t dirs, int64_t samples, double **out)
{
	size_t n = (size_t)((samples + 1) / 2) * (size_t)dirs;
	lora__rng r;
	if (!(*out = lora__calloc(ctx, n, sizeof **out))) return LORA_E_MEMORY;
	lora__rng_init(&r, lora__rng_key((uint64_t)lora__get_int(s, params, "seed"), LORA__RNG_POSTERIOR, 0));
	for (size_t i = 0; i < n; i++) (*out)[i] = lora__rng_normal(&r);
	return LORA_OK;
}

/* Sequences without tokens get zeros. */
static void give(lora_posterior *p, const lora__variance *v, const lora__predictive *form, const lora_settings *s, const double *noise, double *room, double *probability,
                 double *logits, double *covariance)
{
	int64_t c = p->classes;
	double prior = lora__has(s, "prior_precision") ? lora__get_float(s, params, "prior_precision") : 0, *cov = room, *scratch = room + c * c;
	for (int64_t e = 0; e < p->probe.n; e++) {
		int64_t at = p->probe.sequence[e];
		const double *f = p->probe.logits + e * c;
		int64_t dirs = v->one ? c - 1 : v->dirs;
		lora__variance_at(v, e, prior > 0 ? &prior : NULL, cov);
		for (int64_t i = v->one ? dirs * dirs : 0; i-- > 1;) /* the one variance, cov[0], for every direction */
			cov[i] = i % (dirs + 1) ? 0 : cov[0];
		if (logits) memcpy(logits + at * c, f, sizeof *f * (size_t)c);
		if (covariance) memcpy(covariance + at * c * c, cov, sizeof *cov * (size_t)(c * c));
		lora__gauss g = { .n = c, .dirs = dirs, .basis = v->basis, .f = f, .noise = noise, .samples = lora__get_int(s, params, "samples"), .cov = cov, .scratch = scratch };
		if (probability) form->run(&g, probability + at * c);
	}
}

lora_status lora__posterior_predict(lora_posterior *p, const lora_batch *batch, const lora_settings *settings, double *probability, double *logits, double *covariance)
{
	lora_context *ctx = p->ctx;
	const lora__predictive *form = NULL;
	double *noise = NULL, *room = NULL;
	size_t c = (size_t)p->classes;
	lora_status st = lora__settings_check(ctx, settings, "posterior", params, NULL, NULL);
	if (st == LORA_OK) st = lora__predictive_find(ctx, lora__get_string(settings, params, "form"), &form);
	if (st == LORA_OK) st = lora__posterior_usable(p);
	if (st == LORA_OK && p->a->scale != p->scale)
		st = lora__fail_at(ctx, LORA_E_STATE, "posterior", "scale", -1, "the adapter is attached with scale %g, the posterior was fitted with %g", p->a->scale, p->scale);
	const char *how = st == LORA_OK ? lora__get_string(settings, params, "jacobian") : "";
	int one = st == LORA_OK && strcmp(lora__get_string(settings, params, "directions"), "one") == 0;
	if (one && (form->every || covariance))
		st = lora__fail_at(ctx, LORA_E_ARGUMENT, "posterior", "directions", -1, "directions: one has no covariance and is for form sampled only");
	if (st == LORA_OK) st = lora__variance_keep(p, form->every || covariance, one);
	if (st == LORA_OK) p->kept->rounded = *how == 'r' || (*how == 'a' && form->draws && !covariance);
	if (st == LORA_OK) st = make_noise(ctx, settings, one ? (int64_t)c - 1 : p->kept->dirs, lora__get_int(settings, params, "samples"), &noise);
	if (st == LORA_OK && !(room = lora__calloc(ctx, c * c + 4 * c, sizeof *room))) st = LORA_E_MEMORY;
	if (st == LORA_OK) st = lora__variance_run(p->kept, batch, 0);
	if (st == LORA_OK) {
		size_t n = (size_t)batch->n_sequences * c;
		if (probability) memset(probability, 0, n * sizeof *probability);
		if (logits) memset(logits, 0, n * sizeof *logits);
		if (covariance) memset(covariance, 0, n * c * sizeof *covariance);
		give(p, p->kept, form, settings, noise, room, probability, logits, covariance);
	}
	lora__free(ctx, noise);
	lora__free(ctx, room);
	return st;
}
