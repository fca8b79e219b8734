/* Weights of a combination by search: f(w) = loss of the model with the combination of weights w, on a few batches. One adapter is made, attached, and
 * filled anew for each w: the forward's plan and memory stay, nothing is written, and the weights of the model are not touched.
 * Source: Huang et al. 2023, arXiv:2307.13269, section 3.3. */
#include <math.h>

#include "combine/combine.h"
#include "model/model.h"
#include "search/search.h"

typedef struct trial {
	lora_model             *m;
	lora__combining        *c;
	const lora__search_job *job;
} trial;

static lora_status loss_of(void *user, const double *w, int64_t n, double *loss)
{
	const trial *t = user;
	const lora_batch *first = t->job->batches;
	double sum = 0;
	int64_t labels = 0;
	(void)n;
	lora_status st = lora__combining_fill(t->c, w);
	for (int64_t i = 0; i < t->job->n_batches && !st; i++) {
		/* the caller's batches may be of an older, shorter layout */
		lora__pass p = { .batch = (const lora_batch *)(const void *)((const char *)first + (size_t)i * first->struct_size) };
		if (!p.batch->labels) return lora__fail_at(t->m->s.ctx, LORA_E_ARGUMENT, "search", "labels", -1, "batch %lld has no labels", (long long)i);
		st = lora__model_pass(t->m, &p);
		sum += p.loss_sum, labels += p.n_labels;
	}
	if (st == LORA_E_NUMERIC) return *loss = INFINITY, LORA_OK;
	if (!st && !labels) return lora__fail_at(t->m->s.ctx, LORA_E_ARGUMENT, "search", "labels", -1, "no token of the batches has a label");
	if (!st) *loss = sum / (double)labels;
	return st;
}

lora_status lora__combine_search(lora_adapter *const *adapters, size_t n, const lora__search_job *job, double *weights, lora_search_result *result)
{
	lora_context *ctx = adapters[0]->ctx;
	trial t = { .m = (lora_model *)(void *)adapters[0]->sites, .job = job };
	for (size_t k = 0; k < n; k++)
		if (adapters[k]->attached || adapters[k]->merged)
			return lora__fail_at(ctx, LORA_E_STATE, "search", adapters[k]->name, -1, "adapter %zu is %s: it would act beside the combination", k, adapters[k]->merged ? "merged" : "attached");
	lora_status st = lora__combining_start(adapters, weights, n, job->type, job->opts->type_settings, &t.c);
	if (st) return st;
	lora_adapter *a = lora__combining_adapter(t.c);
	a->trainable = 0;
	for (size_t i = 0; i < a->n_parts; i++) a->parts[i].slot.trainable = 0;
	st = lora__adapter_attach(a, 1.0);
	if (!st) {
		st = lora__search_run(ctx, job->method, job->opts->settings, (int64_t)n, loss_of, &t, job->opts->progress, job->opts->user, weights, result);
		lora__adapter_detach(a);
	}
	lora__combining_end(t.c);
	return st;
}
