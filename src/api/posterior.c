/* Exported functions of posterior.h. */
#include "posterior/posterior.h"

#include <math.h>
#include <string.h>

static lora_status check(lora_model *m, const lora_adapter *a, const void *out, const char *what)
{
	if (!m) return LORA_E_ARGUMENT;
	return a && out ? LORA_OK : lora__fail(m->s.ctx, LORA_E_ARGUMENT, "posterior", "%s: %s is NULL", what, a ? "out" : "a");
}

lora_status lora_posterior_fit(lora_model *m, lora_adapter *a, int64_t n, lora_batch_fn get, void *user, const lora_settings *settings, lora_posterior **out)
{
	lora_posterior *p;
	if (out) *out = NULL;
	lora_status st = check(m, a, out, "lora_posterior_fit");
	if (st) return st;
	if (!get || n < 1) return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "posterior", "lora_posterior_fit: %s", get ? "n is less than 1" : "get is NULL");
	if ((st = lora__posterior_new(m, a, settings, &p))) return st;
	st = lora__posterior_fit(p, n, get, user);
	if (st) lora__posterior_free(p);
	else *out = p;
	return st;
}

lora_status lora_posterior_estimate(lora_model *m, lora_adapter *a, int64_t n_sequences, int64_t length, const lora_settings *settings, lora_posterior_memory *out)
{
	lora_posterior *p;
	lora_status st = check(m, a, out, "lora_posterior_estimate");
	if (st) return st;
	if (out->struct_size < sizeof *out) return lora__fail(m->s.ctx, LORA_E_ARGUMENT, "posterior", "lora_posterior_estimate: struct_size is not set");
	if ((st = lora__posterior_new(m, a, settings, &p))) return st;
	st = lora__posterior_estimate(p, n_sequences, length, out);
	lora__posterior_free(p);
	return st;
}

lora_status lora_posterior_predict(lora_posterior *p, const lora_batch *batch, const lora_settings *settings, double *probability, double *logits, double *covariance,
                                   int64_t count)
{
	int64_t n;
	if (!p) return LORA_E_ARGUMENT;
	if (!batch || batch->n_sequences < 0 || !lora__mul_i64(batch->n_sequences, p->classes, &n))
		return lora__fail(p->ctx, LORA_E_ARGUMENT, "posterior", "lora_posterior_predict: batch is NULL or has impossible sizes");
	if (count != n) return lora__fail(p->ctx, LORA_E_SHAPE, "posterior", "count is %lld, %lld sequences x %lld classes are needed", (long long)count, (long long)batch->n_sequences,
		(long long)p->classes);
	return lora__posterior_predict(p, batch, settings, probability, logits, covariance);
}

lora_status lora_posterior_get_info(const lora_posterior *p, lora_posterior_info *out)
{
	if (!p) return LORA_E_ARGUMENT;
	if (!out || out->struct_size < sizeof *out) return lora__fail(p->ctx, LORA_E_ARGUMENT, "posterior", "lora_posterior_get_info: out is NULL or its struct_size is not set");
	lora_posterior_info r = { .struct_size = sizeof r, .n_matrices = (int32_t)p->n, .n_classes = p->classes, .n_examples = p->examples, .log_likelihood = p->log_likelihood,
		.log_evidence = p->evidence };
	double logs = 0;
	for (size_t i = 0; i < p->n; i++) {
		const lora__matrix *w = &p->list[i];
		double logdet, used;
		lora__prior_sums(w, w->prior, &logdet, &used);
		r.n_parameters += w->out * w->in, r.effective += used, logs += log(w->prior) / (double)p->n;
	}
	r.prior_precision = exp(logs);
	*out = r;
	return LORA_OK;
}

lora_status lora_posterior_save(const lora_posterior *p, const char *path)
{
	if (!p) return LORA_E_ARGUMENT;
	return path ? lora__posterior_save(p, path) : lora__fail(p->ctx, LORA_E_ARGUMENT, "posterior", "lora_posterior_save: path is NULL");
}

lora_status lora_posterior_load(lora_model *m, lora_adapter *a, const char *path, lora_posterior **out)
{
	if (out) *out = NULL;
	lora_status st = check(m, a, out, "lora_posterior_load");
	if (st) return st;
	return path ? lora__posterior_load(m, a, path, out) : lora__fail(m->s.ctx, LORA_E_ARGUMENT, "posterior", "lora_posterior_load: path is NULL");
}

void lora_posterior_destroy(lora_posterior *p)
{
	if (p) lora__posterior_free(p);
}
