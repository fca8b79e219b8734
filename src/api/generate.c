/* Exported functions of generate.h: argument checks and the adapters of sequences. The work is in model/generate.c and model/sample.c. */
#include "adapter/adapter.h"
#include "model/generate.h"

static lora_status null(lora_generator *g, const char *function, const char *argument)
{
	return lora__fail_at(g->ctx, LORA_E_ARGUMENT, "generate", argument, -1, "%s: %s is NULL", function, argument);
}

static lora_status check_sequence(lora_generator *g, int64_t s)
{
	if (s >= 0 && s < g->slots) return LORA_OK;
	return lora__fail_at(g->ctx, LORA_E_ARGUMENT, "generate", "sequence", -1, "sequence %lld, there are %lld", (long long)s, (long long)g->slots);
}

static void reset(lora_generator *g, int64_t s)
{
	lora_adapter *a = g->seq[s].adapter;
	lora__generator_reset(g, s);
	if (a) lora__adapter_release(a);
}

lora_status lora_generator_create(lora_model *m, const lora_settings *settings, lora_generator **out)
{
	if (out) *out = NULL;
	if (!m) return LORA_E_ARGUMENT;
	if (!out) return lora__fail_at(m->s.ctx, LORA_E_ARGUMENT, "generate", "out", -1, "lora_generator_create: out is NULL");
	return lora__generator_create(m, settings, out);
}

/* An adapter that a sequence names must be attached as long as the sequence grows. */
static lora_status check_adapter(lora_generator *g, const lora_adapter *a)
{
	if (!a) return LORA_OK;
	if (a->sites != &g->m->s) return lora__fail(g->ctx, LORA_E_STATE, "generate", "the adapter is of another model");
	return a->attached ? LORA_OK : lora__fail(g->ctx, LORA_E_STATE, "generate", "the adapter is not attached");
}

lora_status lora_generator_feed(lora_generator *g, int64_t sequence, lora_adapter *adapter, const int32_t *tokens, int64_t n)
{
	if (!g) return LORA_E_ARGUMENT;
	if (!tokens) return null(g, "lora_generator_feed", "tokens");
	if (n <= 0) return lora__fail_at(g->ctx, LORA_E_ARGUMENT, "generate", "n", -1, "lora_generator_feed: n is %lld", (long long)n);
	lora_status st = check_sequence(g, sequence);
	if (st == LORA_OK) st = check_adapter(g, adapter);
	if (st) return st;
	lora__sequence *q = &g->seq[sequence];
	int fresh = q->length == 0;
	if (!fresh && adapter != q->adapter)
		return lora__fail(g->ctx, LORA_E_STATE, "generate", "sequence %lld was begun with another adapter; reset it first", (long long)sequence);
	q->adapter = adapter;
	if ((st = lora__generator_feed(g, sequence, tokens, n))) {
		if (fresh) q->adapter = NULL;
		return st;
	}
	if (fresh && adapter) lora__adapter_retain(adapter);
	return LORA_OK;
}

lora_status lora_generator_next(lora_generator *g, int32_t *tokens, float *logprobs)
{
	if (!g) return LORA_E_ARGUMENT;
	if (!tokens) return null(g, "lora_generator_next", "tokens");
	lora_status st = LORA_OK;
	for (int64_t s = 0; s < g->slots && st == LORA_OK; s++) st = check_adapter(g, g->seq[s].adapter);
	if (st == LORA_OK) st = lora__generator_next(g);
	if (st) return st;
	memcpy(tokens, g->chosen, sizeof *tokens * (size_t)g->slots);
	if (logprobs) memcpy(logprobs, g->logprob, sizeof *logprobs * (size_t)g->slots);
	return LORA_OK;
}

lora_status lora_generator_reset(lora_generator *g, int64_t sequence)
{
	if (!g) return LORA_E_ARGUMENT;
	if (sequence == -1) {
		for (int64_t s = 0; s < g->slots; s++) reset(g, s);
		return LORA_OK;
	}
	lora_status st = check_sequence(g, sequence);
	if (st == LORA_OK) reset(g, sequence);
	return st;
}

void lora_generator_destroy(lora_generator *g)
{
	if (!g) return;
	for (int64_t s = 0; s < g->slots; s++) reset(g, s);
	lora__generator_free(g);
}
