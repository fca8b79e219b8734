/* What a checkpoint says beside its tensors: the trainer's state and the settings that decide the arithmetic, as one JSON text. Reals of the
 * state are kept as the bits of the double, so that they come back exactly, also when they are not finite. */
#include <stdio.h>

#include "train/train.h"

static json_t *bits(double v)
{
	uint64_t u;
	char text[17];
	memcpy(&u, &v, sizeof u);
	snprintf(text, sizeof text, "%016llx", (unsigned long long)u);
	return json_string(text);
}

static int read_hex(const json_t *v, uint64_t *out)
{
	const char *s = json_string_value(v);
	if (!s || strlen(s) != 16) return 0;
	*out = 0;
	for (; *s; s++) {
		int digit = *s >= '0' && *s <= '9' ? *s - '0' : *s >= 'a' && *s <= 'f' ? *s - 'a' + 10 : -1;
		if (digit < 0) return 0;
		*out = *out << 4 | (uint64_t)digit;
	}
	return 1;
}

static json_t *hex(uint64_t u)
{
	char text[17];
	snprintf(text, sizeof text, "%016llx", (unsigned long long)u);
	return json_string(text);
}

/* Rank, scale and dropout of every part, in order: what the adapter's settings come to. */
static uint64_t parts_digest(const lora_adapter *a)
{
	uint64_t h = 0;
	for (size_t i = 0; i < a->n_parts; i++) {
		const lora__part *p = &a->parts[i];
		double v[3] = { (double)p->rank, p->scaling, p->dropout };
		h = lora__hash64(p->slot.site->name, strlen(p->slot.site->name), h);
		h = lora__hash64(v, sizeof v, h);
	}
	if (a->tokens) h = lora__hash64(&a->tokens->vertices, sizeof a->tokens->vertices, h);
	return h;
}

static json_t *schedule(const lora__sched *s)
{
	json_t *v = json_array();
	for (int i = 0; i < LORA__SCHEDULE_VALUES; i++) json_array_append_new(v, json_real(s->v[i]));
	json_t *o = json_pack("{s:s, s:o}", "name", s->kind->m.name, "values", v);
	if (o && (s->kind->flags & LORA__SCHEDULE_WARMUP)) json_object_set_new(o, "warmup_steps", json_integer(s->warmup));
	if (o && (s->kind->flags & LORA__SCHEDULE_TOTAL)) json_object_set_new(o, "max_steps", json_integer(s->total));
	return o;
}

json_t *lora__trainer_config(lora_trainer *t)
{
	json_t *o = json_pack("{s:s, s:O, s:o, s:I, s:s, s:f, s:I, s:s, s:s, s:f, s:o}", "optimizer", t->o->opt->kind->m.name, "optimizer_settings",
		t->o->opt->settings, "schedule", schedule(&t->sched), "gradient_accumulation_steps", (json_int_t)t->accumulation, "loss_average",
		t->by_tokens ? "tokens" : "micro_batches", "max_grad_norm", t->max_norm, "seed", (json_int_t)t->seed, "dtype", lora__dtype_name(t->m->s.real),
		"adapter_kind", t->a->kind->m.name, "adapter_scale", t->a->scale, "adapter_parts", hex(parts_digest(t->a)));
	json_t *strategy = lora__strat_config(&t->strat);
	if (o && t->strat.kind->choose && json_object_set_new(o, "strategy", strategy)) json_decref(o), o = NULL;
	if (!o) lora__fail(t->ctx, LORA_E_MEMORY, "trainer", "out of memory");
	return o;
}

lora_status lora__trainer_state_text(lora_trainer *t, int64_t sequence, int64_t cursor, lora__text *out)
{
	json_t *config = lora__trainer_config(t);
	if (!config) return LORA_E_MEMORY;
	json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:I, s:I, s:b, s:o, s:o, s:s}", "sequence", (json_int_t)sequence, "cursor",
		(json_int_t)cursor, "step", (json_int_t)t->step, "micro_step", (json_int_t)t->micro, "micro_total", (json_int_t)t->micro_total, "skipped",
		(json_int_t)t->skipped, "skipped_in_row", (json_int_t)t->skipped_in_row, "optimizer_step", (json_int_t)t->o->opt->t, "loss", bits(t->run.loss),
		"seconds", bits(t->run.seconds), "loss_tokens", (json_int_t)t->run.labels, "tokens", (json_int_t)t->run.rows, "poisoned", t->run.poisoned,
		"base", hex(lora__model_digest(t->m)), "config", config, "library", lora_version_string());
	if (!o) return lora__fail(t->ctx, LORA_E_MEMORY, "trainer", "out of memory");
	lora_status st = lora__json_dump(t->ctx, o, 0, out);
	json_decref(o);
	return st ? st : out->status;
}

/* ---- reading ---- */

typedef struct reader { lora_context *ctx; const json_t *o; lora_status status; } reader;

static void get_int(reader *r, const char *key, int64_t min, int64_t max, int64_t *out)
{
	const json_t *v = json_object_get(r->o, key);
	if (r->status) return;
	if (json_is_integer(v) && json_integer_value(v) >= min && json_integer_value(v) <= max) *out = json_integer_value(v);
	else r->status = lora__fail_at(r->ctx, LORA_E_FORMAT, "trainer", key, -1, "%s of the checkpoint is missing or out of range", key);
}

static void get_bits(reader *r, const char *key, double *out)
{
	uint64_t u;
	if (r->status) return;
	if (read_hex(json_object_get(r->o, key), &u)) memcpy(out, &u, sizeof u);
	else r->status = lora__fail_at(r->ctx, LORA_E_FORMAT, "trainer", key, -1, "%s of the checkpoint is missing or malformed", key);
}

static lora_status differs(lora_context *ctx, const char *key, const json_t *theirs, const json_t *ours)
{
	lora__text a, b;
	lora__text_init(&a, ctx);
	lora__text_init(&b, ctx);
	if (theirs) lora__json_dump(ctx, theirs, 0, &a);
	if (ours) lora__json_dump(ctx, ours, 0, &b);
	lora_status st = lora__fail_at(ctx, LORA_E_STATE, "trainer", key, -1, "%s differs: %s in the checkpoint, %s here", key,
		a.data ? lora__quote(a.data).text : "not set", b.data ? lora__quote(b.data).text : "not set");
	lora__text_free(&a);
	lora__text_free(&b);
	return st;
}

static lora_status compare_config(lora_trainer *t, const json_t *theirs)
{
	json_t *ours = lora__trainer_config(t);
	lora_status st = ours ? LORA_OK : LORA_E_MEMORY;
	for (void *it = json_object_iter(ours); it && st == LORA_OK; it = json_object_iter_next(ours, it)) {
		const char *key = json_object_iter_key(it);
		const json_t *their = json_object_get(theirs, key);
		if (!their || !json_equal(their, json_object_iter_value(it))) st = differs(t->ctx, key, their, json_object_iter_value(it));
	}
	if (st == LORA_OK && json_object_get(theirs, "strategy") && !json_object_get(ours, "strategy")) st = differs(t->ctx, "strategy", json_object_get(theirs, "strategy"), NULL);
	json_decref(ours);
	return st;
}

lora_status lora__trainer_state_read(lora_trainer *t, const char *text, lora__trainer_state *out)
{
	enum { MAX = 62 };
	const int64_t most = (int64_t)1 << MAX;
	json_t *o = NULL;
	lora__trainer_state s = { .step = 0 };
	uint64_t base = 0;
	lora_status st = lora__json_parse(t->ctx, text, strlen(text), "state of the checkpoint", &o);
	if (st) return st;
	reader r = { .ctx = t->ctx, .o = o };
	get_int(&r, "sequence", 0, most, &s.sequence);
	get_int(&r, "cursor", INT64_MIN, INT64_MAX, &s.cursor);
	get_int(&r, "step", 0, most, &s.step);
	get_int(&r, "micro_step", 0, most, &s.micro);
	get_int(&r, "micro_total", 0, most, &s.micro_total);
	get_int(&r, "skipped", 0, most, &s.skipped);
	get_int(&r, "skipped_in_row", 0, most, &s.skipped_in_row);
	get_int(&r, "optimizer_step", 0, most, &s.optimizer_step);
	get_int(&r, "loss_tokens", 0, most, &s.run.labels);
	get_int(&r, "tokens", 0, most, &s.run.rows);
	get_bits(&r, "loss", &s.run.loss);
	get_bits(&r, "seconds", &s.run.seconds);
	s.run.poisoned = json_is_true(json_object_get(o, "poisoned"));
	st = r.status;
	if (st == LORA_OK && !read_hex(json_object_get(o, "base"), &base)) st = lora__fail(t->ctx, LORA_E_FORMAT, "trainer", "base of the checkpoint is missing");
	if (st == LORA_OK && base != lora__model_digest(t->m))
		st = lora__fail(t->ctx, LORA_E_STATE, "trainer", "the checkpoint was made on another base model (digest %016llx, here %016llx)",
			(unsigned long long)base, (unsigned long long)lora__model_digest(t->m));
	if (st == LORA_OK) st = compare_config(t, json_object_get(o, "config"));
	if (st == LORA_OK && s.micro >= t->accumulation)
		st = lora__fail_at(t->ctx, LORA_E_FORMAT, "trainer", "micro_step", -1, "micro_step of the checkpoint is out of range");
	if (st == LORA_OK) *out = s;
	json_decref(o);
	return st;
}
