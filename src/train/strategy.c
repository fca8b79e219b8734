/* What all strategies share: the table, the layers of the adapter, and the update of those that took part. */
#include <string.h>

#include "train/strategy.h"

const lora__strategy lora__strategy_none = { .m = { "none", "every layer takes part in every step", "", NULL } };

#define LORA__STRATEGY(name) &lora__strategy_##name,
const lora__strategy *const lora__strategies[] = {
#include "train/list.h"
	NULL
};
#undef LORA__STRATEGY

lora_status lora__strategy_find(lora_context *ctx, const lora_settings *s, const lora__strategy **out)
{
	const json_t *v = lora__get_json(s, "strategy");
	const char *name = v ? json_string_value(v) : lora__strategies[0]->m.name, *names[64];
	size_t n = 0;
	*out = NULL;
	if (!name) return LORA_OK; /* not a string: the check of all settings says so */
	for (; lora__strategies[n] && n < 64; n++) {
		names[n] = lora__strategies[n]->m.name;
		if (strcmp(names[n], name) == 0) *out = lora__strategies[n];
	}
	if (*out) return LORA_OK;
	const char *near = lora__nearest(name, names, n);
	return lora__fail_at(ctx, LORA_E_ARGUMENT, "trainer", "strategy", -1, "strategy: there is no strategy \"%s\"%s%s%s", lora__quote(name).text,
		near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

lora_status lora__strat_create(lora_adapter *a, const lora__strategy *kind, const lora_settings *s, int64_t total, uint64_t seed, lora__strat *out)
{
	lora_context *ctx = a->ctx;
	*out = (lora__strat){ .kind = kind, .a = a, .total = total, .seed = seed };
	if ((kind->flags & LORA__STRATEGY_TOTAL) && total <= 0)
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "trainer", "strategy", -1, "strategy %s needs max_steps", kind->m.name);
	if (kind->read) kind->read(s, out->v);
	if (!(out->layer = lora__calloc(ctx, a->n_parts + 1, sizeof *out->layer))) return LORA_E_MEMORY;
	out->n = lora__adapter_layers(a, out->layer);
	if (kind->choose && !out->n)
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "trainer", "strategy", -1, "strategy %s needs an adapter with layers; kind %s has none", kind->m.name, a->kind->m.name);
	out->done = lora__calloc(ctx, (size_t)out->n + 1, sizeof *out->done + 1);
	if (!out->done) return LORA_E_MEMORY; /* the owner frees */
	out->active = (char *)(out->done + out->n + 1);
	lora__strat_seek(out, 0);
	return LORA_OK;
}

void lora__strat_free(lora__strat *s)
{
	if (!s->a) return;
	lora__free(s->a->ctx, s->layer);
	lora__free(s->a->ctx, s->done);
	*s = (lora__strat){ .n = 0 };
}

static void choose(lora__strat *s)
{
	memset(s->active, 1, (size_t)s->n);
	if (s->kind->choose) s->kind->choose(s, s->step, s->active);
	s->n_active = 0;
	for (int32_t i = 0; i < s->n; i++) s->n_active += s->active[i];
}

void lora__strat_seek(lora__strat *s, int64_t step)
{
	if (!s->kind->choose || step < s->step) s->step = s->kind->choose ? 0 : step;
	if (s->step == 0) memset(s->done, 0, (size_t)s->n * sizeof *s->done);
	for (choose(s); s->step < step; s->step++, choose(s))
		for (int32_t i = 0; i < s->n; i++) s->done[i] += s->active[i];
}

static void rest(lora__strat *s, int resting)
{
	for (size_t i = 0; i < s->a->n_parts && s->kind->choose; i++) {
		lora__slot *slot = &s->a->parts[i].slot;
		if (s->layer[i] < 0) continue;
		slot->idle &= ~LORA__IDLE_STRATEGY;
		if (resting && !s->active[s->layer[i]]) slot->idle |= LORA__IDLE_STRATEGY;
	}
}

void lora__strat_begin(lora__strat *s) { rest(s, 1); }
void lora__strat_end(lora__strat *s) { rest(s, 0); }

/* Number of the optimizer's step for a tensor, counted from 1; 0 = it rests. Steps done before this trainer counted for all. */
static int64_t turn_of(const lora__strat *s, const lora__opt *o, const lora__ptensor *t)
{
	int32_t i = s->layer[t->part];
	if (i < 0) return o->t + 1;
	return s->active[i] ? o->t - s->step + s->done[i] + 1 : 0;
}

lora_status lora__strat_update(lora__strat *s, lora__opt *o, double lr_scale, double grad_factor)
{
	lora_adapter *a = s->a;
	lora_dtype real = lora__wide(a->sites->real);
	lora__adapter_changed(a);
	if (!s->kind->choose) return lora__opt_step(o, a->params, a->grads, real, lr_scale, grad_factor);
	lora_status st = LORA_OK;
	for (size_t i = 0, next; i < a->n_tensors && st == LORA_OK; i = next) {
		int64_t turn = turn_of(s, o, &a->tensors[i]), first = (int64_t)a->tensors[i].offset, n = 0;
		for (next = i; next < a->n_tensors && turn_of(s, o, &a->tensors[next]) == turn; next++) n += (int64_t)a->tensors[next].n;
		if (turn > 0) st = lora__opt_range(o, a->params, a->grads, real, lr_scale, grad_factor, first, n, turn);
	}
	if (st == LORA_OK) o->t++;
	return st;
}

json_t *lora__strat_config(const lora__strat *s)
{
	if (!s->kind->choose) return NULL;
	json_t *v = json_array();
	for (int i = 0; i < LORA__STRATEGY_VALUES; i++) json_array_append_new(v, json_real(s->v[i]));
	return json_pack("{s:s, s:I, s:o}", "name", s->kind->m.name, "max_steps", (json_int_t)s->total, "values", v);
}
