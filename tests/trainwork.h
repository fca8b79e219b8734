/* Test support: a small llama with an adapter, an optimizer, a trainer and random batches, and its state as bytes. Include after <check.h>. */
#ifndef TESTS_TRAINWORK_H
#define TESTS_TRAINWORK_H

#include "check_alloc.h"
#include "faults.h"
#include "golden.h"
#include "train/train.h"

#define MODEL "tests/golden/models/llama/model"

static inline lora_settings *from_json(const char *text)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, text, strlen(text)));
	return s;
}

enum { ROWS = 3, COLUMNS = 11, BATCHES = 64, CELLS = ROWS * COLUMNS };

typedef struct world {
	lora_model     *m;
	lora_adapter   *a;
	lora_optimizer *o;
	lora_trainer   *t;
	int32_t         ids[BATCHES * CELLS], labels[BATCHES * CELLS];
} world;

#define ADAPTER "{\"r\":3,\"lora_dropout\":0.25,\"init_lora_weights\":false,\"target_modules\":[\"q_proj\",\"v_proj\",\"down_proj\"]}"
#define OPTIMIZER "{\"learning_rate\":0.01,\"weight_decay\":0.05}"
#define ACCUMULATE "{\"gradient_accumulation_steps\":3,\"max_steps\":12,\"warmup_steps\":2,\"lr_scheduler_type\":\"cosine\",\"seed\":5,\"max_grad_norm\":0.5}"

static inline void world_data(world *w)
{
	uint64_t seed = 99;
	for (int i = 0; i < BATCHES * CELLS; i++) {
		w->ids[i] = (int32_t)(check_random(&seed) % 131);
		w->labels[i] = check_random(&seed) % 4 ? w->ids[i] : -100; /* micro-batches differ in their number of labels */
	}
}

/* On the context that is current. */
static inline void world_fill(world *w, const char *adapter, const char *optimizer, const char *optimizer_settings_, const char *trainer)
{
	memset(w, 0, sizeof *w);
	world_data(w);
	lora_settings *sa = from_json(adapter), *so = from_json(optimizer_settings_), *st = from_json(trainer);
	ck_ok(lora_model_open(golden_ctx, MODEL, NULL, &w->m));
	ck_ok(lora_adapter_create(w->m, "lora", sa, &w->a));
	ck_ok(lora_adapter_attach(w->a, 1.0));
	ck_ok(lora_optimizer_create(w->a, optimizer, so, &w->o));
	ck_ok(lora_trainer_create(w->m, w->a, w->o, st, &w->t));
	lora_settings_destroy(sa);
	lora_settings_destroy(so);
	lora_settings_destroy(st);
}

static inline void world_make(world *w, const char *trainer)
{
	golden_context("naive", 1);
	world_fill(w, ADAPTER, "adamw", OPTIMIZER, trainer);
}

static inline void world_free(world *w)
{
	lora_trainer_destroy(w->t);
	lora_optimizer_destroy(w->o);
	lora_adapter_destroy(w->a);
	lora_model_destroy(w->m);
	lora_context_destroy(golden_ctx);
}

static inline lora_batch batch_of(const world *w, int64_t k)
{
	k %= BATCHES;
	return (lora_batch){ .struct_size = sizeof(lora_batch), .n_sequences = ROWS, .length = COLUMNS, .input_ids = w->ids + k * CELLS, .labels = w->labels + k * CELLS };
}

static inline lora_status step(world *w, int64_t k, lora_metrics *x)
{
	lora_batch b = batch_of(w, k);
	if (x) *x = (lora_metrics){ .struct_size = sizeof *x };
	return lora_trainer_step(w->t, &b, x);
}

/* Everything that decides how training goes on, as bytes. */
static inline lora__text snapshot(const world *w)
{
	lora__text s;
	const lora_trainer *t = w->t;
	int64_t numbers[] = { t->step, t->micro, t->micro_total, t->skipped, t->skipped_in_row, t->o->opt->t };
	lora__text_init(&s, golden_ctx);
	lora__text_add(&s, w->a->params, w->a->n_params * sizeof(float));
	for (int i = 0; i < t->o->opt->n_slots; i++) lora__text_add(&s, t->o->opt->slot[i], w->a->n_params * sizeof(float));
	if (t->micro) {
		lora__text_add(&s, w->a->grads, w->a->n_params * sizeof(float));
		lora__text_add(&s, &t->run.loss, sizeof t->run.loss);
		lora__text_add(&s, &t->run.labels, sizeof t->run.labels);
		lora__text_add(&s, &t->run.rows, sizeof t->run.rows);
	}
	lora__text_add(&s, numbers, sizeof numbers);
	ck_assert_int_eq(s.status, LORA_OK);
	return s;
}

static inline int same(const lora__text *a, const lora__text *b) { return a->n == b->n && memcmp(a->data, b->data, a->n) == 0; }

static inline void check_unchanged(const world *w, const lora__text *before, const char *what)
{
	lora__text now = snapshot(w);
	ck_assert_msg(same(&now, before), "%s changed the state", what);
	lora__text_free(&now);
}

/* Make a loss or gradient that is not finite: one parameter is bad for the time of a micro-batch. */
static inline void poison(world *w, int on)
{
	static float keep;
	float *scale = &w->a->parts[0].param[1][0];
	if (on) keep = *scale, *scale = INFINITY;
	else *scale = keep;
}

#endif
