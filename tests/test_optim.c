/* Optimizers and schedules against torch and transformers (tests/golden/optim, float64 references), the optimizer's state file, and what bad
 * input gets. */
#include <check.h>

#include "check_alloc.h"
#include "faults.h"
#include "golden.h"
#include "optim/optim.h"
#include "train/train.h"

/* ---- settings of a golden case in our names ---- */

static const struct { const char *theirs, *ours; } names[] = { { "lr", "learning_rate" }, { "weight_decay", "weight_decay" }, { "eps", "adam_epsilon" },
	{ "momentum", "momentum" }, { "dampening", "dampening" }, { "nesterov", "nesterov" } };

static lora_settings *settings_of(const json_t *c)
{
	lora_settings *s;
	const json_t *all = json_object_get(c, "settings"), *betas = json_object_get(all, "betas");
	ck_ok(lora_settings_create(golden_ctx, &s));
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		const json_t *v = json_object_get(all, names[i].theirs);
		if (json_is_boolean(v)) ck_ok(lora_settings_set_bool(s, names[i].ours, json_is_true(v)));
		else if (v) ck_ok(lora_settings_set_float(s, names[i].ours, json_number_value(v)));
	}
	if (betas) {
		ck_ok(lora_settings_set_float(s, "adam_beta1", json_number_value(json_array_get(betas, 0))));
		ck_ok(lora_settings_set_float(s, "adam_beta2", json_number_value(json_array_get(betas, 1))));
	}
	return s;
}

static size_t matrix(const json_t *m, double *out)
{
	size_t n = 0;
	for (size_t i = 0; i < json_array_size(m); i++)
		for (size_t j = 0; j < json_array_size(json_array_get(m, i)); j++) out[n++] = json_number_value(json_array_get(json_array_get(m, i), j));
	return n;
}

static const struct { const char *name, *kind; } cases[] = { { "adamw", "adamw" }, { "adam", "adam" }, { "adam-l2", "adam" }, { "sgd", "sgd" },
	{ "sgd-momentum", "sgd" }, { "sgd-nesterov", "sgd" } };
enum { N_CASES = sizeof cases / sizeof *cases };

/* Ten steps; gradients as F32, and as F64 with a factor that is taken out again, which the converting path and the factor both see. */
static void run_case(int which, lora_dtype type)
{
	json_t *all = golden_json("tests/golden/optim/%s.json", "optimizers"), *c = json_object_get(json_object_get(all, "cases"), cases[which].name);
	double grads[12], want[12], scaled[12];
	float p[12], g32[12];
	lora__opt *o;
	golden_context("naive", 1);
	lora_settings *s = settings_of(c);
	size_t n = matrix(json_object_get(all, "param0"), want);
	ck_assert_uint_eq(n, 12);
	lora__convert(p, LORA_F32, want, LORA_F64, n);
	ck_ok(lora__opt_create(golden_ctx, cases[which].kind, s, n, type, &o));
	for (size_t t = 0; t < 10; t++) {
		matrix(json_array_get(json_object_get(all, "grads"), t), grads);
		for (size_t i = 0; i < n; i++) scaled[i] = grads[i] * 8;
		lora__convert(g32, LORA_F32, scaled, LORA_F64, n);
		ck_ok(lora__opt_step(o, p, type == LORA_F64 ? (void *)scaled : (void *)g32, type, 1.0, 0.125));
		matrix(json_array_get(json_object_get(c, "params"), t), want);
		check_close(p, want, n, 2e-6 * (double)(t + 1));
	}
	ck_assert_int_eq(o->t, 10);
	lora__opt_destroy(o);
	lora_settings_destroy(s);
	lora_context_destroy(golden_ctx);
	json_decref(all);
}

START_TEST(golden_f32) { run_case(_i, LORA_F32); }
END_TEST
START_TEST(golden_f64) { run_case(_i, LORA_F64); }
END_TEST

/* Gradients that are longer than one converted piece: the pieces must join without a seam. */
START_TEST(pieces_join)
{
	enum { N = 200001 };
	golden_context("naive", 1);
	lora__opt *a, *b;
	float *p = calloc(N, sizeof *p), *q = calloc(N, sizeof *q), *g = calloc(N, sizeof *g);
	double *h = calloc(N, sizeof *h);
	uint64_t seed = 7;
	for (int i = 0; i < N; i++) p[i] = q[i] = (float)(check_random(&seed) >> 40) / 1e7f, h[i] = g[i] = (float)(check_random(&seed) >> 40) / 1e7f - 0.5f;
	ck_ok(lora__opt_create(golden_ctx, "adamw", NULL, N, LORA_F32, &a));
	ck_ok(lora__opt_create(golden_ctx, "adamw", NULL, N, LORA_F64, &b));
	for (int t = 0; t < 3; t++) {
		ck_ok(lora__opt_step(a, p, g, LORA_F32, 1.0, 0.5));
		ck_ok(lora__opt_step(b, q, h, LORA_F64, 1.0, 0.5));
	}
	ck_assert_mem_eq(p, q, N * sizeof *p);
	double x, y;
	ck_ok(lora__opt_sumsq(golden_ctx, g, LORA_F32, N, &x));
	ck_ok(lora__opt_sumsq(golden_ctx, h, LORA_F64, N, &y));
	ck_assert_double_eq_tol(x, y, 1e-9 * y);
	lora__opt_destroy(a);
	lora__opt_destroy(b);
	free(p), free(q), free(g), free(h);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* ---- schedules ---- */

static const struct { const char *golden, *name, *settings; } schedules[] = {
	{ "constant", "constant", "{}" },
	{ "constant_with_warmup", "constant_with_warmup", "{}" },
	{ "linear", "linear", "{}" },
	{ "cosine", "cosine", "{}" },
	{ "cosine_half_cycle_0.75", "cosine", "{\"num_cycles\":0.75}" },
	{ "cosine_with_restarts", "cosine_with_restarts", "{\"num_cycles\":3}" },
	{ "polynomial", "polynomial", "{\"lr_end\":1e-7,\"power\":2.0}" },
	{ "polynomial_power1", "polynomial", "{\"lr_end\":0.1}" },
	{ "inverse_sqrt", "inverse_sqrt", "{}" },
	{ "inverse_sqrt_timescale", "inverse_sqrt", "{\"timescale\":12}" },
	{ "cosine_with_min_lr", "cosine_with_min_lr", "{\"min_lr_rate\":0.1}" },
	{ "cosine_with_min_lr", "cosine_with_min_lr", "{\"min_lr\":0.1}" },
	{ "cosine_with_min_lr_warmup_rate", "cosine_warmup_with_min_lr", "{\"min_lr_rate\":0.1,\"warmup_lr_rate\":0.2}" },
	{ "warmup_stable_decay", "warmup_stable_decay", "{\"num_decay_steps\":10}" },
	{ "warmup_stable_decay_stable15_min0.1", "warmup_stable_decay", "{\"num_decay_steps\":12,\"num_stable_steps\":15,\"min_lr_ratio\":0.1}" },
	{ "warmup_stable_decay_linear_1-sqrt", "warmup_stable_decay", "{\"num_decay_steps\":10,\"num_stable_steps\":20,\"decay_type\":\"1-sqrt\"}" },
};
enum { N_SCHEDULES = sizeof schedules / sizeof *schedules };

static lora_settings *from_json(const char *text)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, text, strlen(text)));
	return s;
}

START_TEST(golden_schedule)
{
	json_t *all = golden_json("tests/golden/optim/%s.json", "schedules"), *want = json_object_get(json_object_get(all, "multiplier"), schedules[_i].golden);
	int64_t warmup = json_integer_value(json_object_get(all, "warmup")), total = json_integer_value(json_object_get(all, "total"));
	double lr = json_number_value(json_object_get(all, "base_lr"));
	lora__sched sched;
	golden_context("naive", 1);
	lora_settings *s = from_json(schedules[_i].settings);
	const lora__schedule *kind = lora__schedule_find(schedules[_i].name);
	ck_assert_ptr_nonnull(kind);
	ck_assert_uint_gt(json_array_size(want), 50);
	ck_ok(lora__settings_check(golden_ctx, s, "test", kind->m.params, NULL, NULL));
	ck_ok(lora__sched_create(golden_ctx, kind, s, warmup, total, lr, &sched));
	for (size_t k = 0; k < json_array_size(want); k++) {
		double got = lora__sched_factor(&sched, (int64_t)k), ref = json_number_value(json_array_get(want, k));
		ck_assert_msg(fabs(got - ref) <= 1e-12, "%s step %zu: %.17g, wanted %.17g", schedules[_i].golden, k, got, ref);
	}
	lora_settings_destroy(s);
	lora_context_destroy(golden_ctx);
	json_decref(all);
}
END_TEST

/* Every golden schedule is in the table above. */
START_TEST(every_schedule_is_tested)
{
	json_t *all = golden_json("tests/golden/optim/%s.json", "schedules"), *m = json_object_get(all, "multiplier");
	for (void *it = json_object_iter(m); it; it = json_object_iter_next(m, it)) {
		int found = 0;
		for (int i = 0; i < N_SCHEDULES; i++) found |= strcmp(schedules[i].golden, json_object_iter_key(it)) == 0;
		ck_assert_msg(found, "golden schedule %s is not tested", json_object_iter_key(it));
	}
	for (int i = 0; lora__schedules[i]; i++) {
		int found = 0;
		for (int k = 0; k < N_SCHEDULES; k++) found |= strcmp(schedules[k].name, lora__schedules[i]->m.name) == 0;
		ck_assert_msg(found, "schedule %s has no golden case", lora__schedules[i]->m.name);
	}
	json_decref(all);
}
END_TEST

static const struct { const char *name, *settings, *key; int64_t total; double lr; } bad_schedules[] = {
	{ "linear", "{}", "max_steps", 0, 1 },
	{ "cosine", "{}", "max_steps", 0, 1 },
	{ "polynomial", "{\"lr_end\":2}", "lr_end", 10, 1 },
	{ "cosine_with_min_lr", "{}", "min_lr_rate", 10, 1 },
	{ "cosine_with_min_lr", "{\"min_lr\":0.1,\"min_lr_rate\":0.1}", "min_lr", 10, 1 },
	{ "warmup_stable_decay", "{}", "num_decay_steps", 10, 1 },
	{ "warmup_stable_decay", "{\"num_decay_steps\":3}", "num_stable_steps", 0, 1 },
};

START_TEST(bad_schedule)
{
	lora__sched sched;
	lora_error e = { .struct_size = sizeof e };
	golden_context("naive", 1);
	lora_settings *s = from_json(bad_schedules[_i].settings);
	lora_status st = lora__sched_create(golden_ctx, lora__schedule_find(bad_schedules[_i].name), s, 0, bad_schedules[_i].total, bad_schedules[_i].lr, &sched);
	ck_assert_int_eq(st, LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_context_error(golden_ctx, &e), LORA_OK);
	ck_assert_str_eq(e.tensor, bad_schedules[_i].key);
	lora_settings_destroy(s);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* ---- the public optimizer ---- */

typedef struct world { lora_model *m; lora_adapter *a; lora_optimizer *o; lora_batch b; int32_t ids[24]; } world;

static void world_adapter(world *w, const char *settings)
{
	lora_settings *s = from_json(settings);
	ck_ok(lora_adapter_create(w->m, "lora", s, &w->a));
	ck_ok(lora_adapter_attach(w->a, 1.0));
	lora_settings_destroy(s);
}

static void world_make(world *w, const char *optimizer, const char *settings)
{
	golden_context("naive", 1);
	memset(w, 0, sizeof *w);
	ck_ok(lora_model_open(golden_ctx, "tests/golden/models/llama/model", NULL, &w->m));
	world_adapter(w, "{\"r\":3,\"init_lora_weights\":false,\"target_modules\":[\"q_proj\",\"v_proj\"]}");
	lora_settings *s = from_json(settings);
	ck_ok(lora_optimizer_create(w->a, optimizer, s, &w->o));
	lora_settings_destroy(s);
	for (int i = 0; i < 24; i++) w->ids[i] = (i * 37 + 11) % 131;
	w->b = (lora_batch){ .struct_size = sizeof w->b, .n_sequences = 2, .length = 12, .input_ids = w->ids, .labels = w->ids };
}

static void world_free(world *w)
{
	lora_optimizer_destroy(w->o);
	lora_adapter_destroy(w->a);
	lora_model_destroy(w->m);
	lora_context_destroy(golden_ctx);
}

static float *values(const lora_adapter *a, int gradients, size_t *n)
{
	float *all = NULL;
	*n = 0;
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
		lora_tensor_info t;
		memset(&t, 0, sizeof t);
		ck_ok(lora_adapter_tensor_info(a, i, &t));
		all = realloc(all, (*n * sizeof(float)) + t.bytes);
		if (gradients) ck_ok(lora_adapter_gradient_read(a, i, all + *n, t.bytes));
		else ck_ok(lora_adapter_tensor_read(a, i, all + *n, t.bytes));
		*n += t.bytes / sizeof(float);
	}
	return all;
}

static void one_step(world *w)
{
	double loss;
	ck_ok(lora_optimizer_zero_grad(w->o));
	ck_ok(lora_model_backward(w->m, &w->b, NULL, 0, &loss, NULL));
	ck_ok(lora_optimizer_step(w->o, 1.0));
}

static const struct { const char *name, *settings; } optimizers[] = { { "adamw", "{\"learning_rate\":0.01,\"weight_decay\":0.1}" },
	{ "adam", "{\"learning_rate\":0.01}" }, { "sgd", "{\"learning_rate\":0.1,\"momentum\":0.9}" }, { "sgd", "{\"learning_rate\":0.1}" } };
enum { N_OPTIMIZERS = sizeof optimizers / sizeof *optimizers };

/* k steps, save, load into a new optimizer, k steps: the same bits as 2k steps. And a load of what was just saved changes nothing. */
START_TEST(state_comes_back)
{
	world w;
	scratch d;
	size_t n;
	double loss0, loss1;
	scratch_make(&d);
	world_make(&w, optimizers[_i].name, optimizers[_i].settings);
	ck_ok(lora_model_loss(w.m, &w.b, &loss0, NULL));
	for (int k = 0; k < 3; k++) one_step(&w);
	ck_ok(lora_optimizer_save(w.o, scratch_path(&d, "state.safetensors")));
	float *middle = values(w.a, 0, &n);
	for (int k = 0; k < 3; k++) one_step(&w);
	ck_ok(lora_model_loss(w.m, &w.b, &loss1, NULL));
	ck_assert_double_lt(loss1, loss0);
	float *end = values(w.a, 0, &n);
	ck_assert_mem_ne(middle, end, n * sizeof *end);
	lora_optimizer_destroy(w.o);
	lora_settings *s = from_json(optimizers[_i].settings);
	ck_ok(lora_optimizer_create(w.a, optimizers[_i].name, s, &w.o));
	lora_settings_destroy(s);
	size_t at = 0;
	for (int64_t i = 0; i < lora_adapter_tensor_count(w.a); i++) {
		lora_tensor_info t;
		ck_ok(lora_adapter_tensor_info(w.a, i, &t));
		ck_ok(lora_adapter_tensor_write(w.a, i, middle + at, t.bytes));
		at += t.bytes / sizeof(float);
	}
	ck_ok(lora_optimizer_load(w.o, scratch_path(&d, "state.safetensors")));
	for (int k = 0; k < 3; k++) one_step(&w);
	float *again = values(w.a, 0, &n);
	ck_assert_mem_eq(again, end, n * sizeof *end);
	free(middle), free(end), free(again);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* P30: a gradient that is not finite changes nothing. */
START_TEST(not_finite)
{
	world w;
	size_t n;
	world_make(&w, optimizers[_i].name, optimizers[_i].settings);
	one_step(&w);
	float *before = values(w.a, 0, &n);
	float *grads = (float *)(void *)w.a->grads;
	const float bad[] = { NAN, INFINITY, -INFINITY };
	for (int k = 0; k < 3; k++) {
		float keep = grads[n - 1];
		grads[n - 1] = bad[k];
		check_fails(LORA_E_NUMERIC, lora_optimizer_step(w.o, 1.0));
		grads[n - 1] = keep;
		float *after = values(w.a, 0, &n);
		ck_assert_mem_eq(before, after, n * sizeof *after);
		free(after);
	}
	free(before);
	/* and the step count did not move: the next step is that of an optimizer that never saw them */
	one_step(&w);
	float *got = values(w.a, 0, &n);
	world_free(&w);
	world_make(&w, optimizers[_i].name, optimizers[_i].settings);
	one_step(&w);
	one_step(&w);
	float *want = values(w.a, 0, &n);
	ck_assert_mem_eq(got, want, n * sizeof *got);
	free(got), free(want);
	world_free(&w);
}
END_TEST

static const struct { const char *name, *settings, *key; lora_status status; } bad_settings[] = {
	{ "adamx", "{}", "adamx", LORA_E_NOTFOUND },
	{ "adamw", "{\"learning_rate\":-1}", "learning_rate", LORA_E_ARGUMENT },
	{ "adamw", "{\"learning_rate\":\"fast\"}", "learning_rate", LORA_E_ARGUMENT },
	{ "adamw", "{\"adam_epsilon\":0}", "adam_epsilon", LORA_E_ARGUMENT },
	{ "adamw", "{\"adam_beta1\":1}", "adam_beta1", LORA_E_ARGUMENT },
	{ "adamw", "{\"adam_beta2\":-0.1}", "adam_beta2", LORA_E_ARGUMENT },
	{ "adamw", "{\"weight_decay\":-0.1}", "weight_decay", LORA_E_ARGUMENT },
	{ "adamw", "{\"momentum\":0.9}", "momentum", LORA_E_ARGUMENT },
	{ "adam", "{\"adam_epsilon\":-1}", "adam_epsilon", LORA_E_ARGUMENT },
	{ "sgd", "{\"momentum\":1.5}", "momentum", LORA_E_ARGUMENT },
	{ "sgd", "{\"nesterov\":true}", "nesterov", LORA_E_ARGUMENT },
	{ "sgd", "{\"nesterov\":true,\"momentum\":0.9,\"dampening\":0.1}", "nesterov", LORA_E_ARGUMENT },
};

/* P07 and unknown names: the setting is named, nothing is made. */
START_TEST(bad_setting)
{
	world w;
	lora_error e = { .struct_size = sizeof e };
	lora_optimizer *o = (lora_optimizer *)&w;
	world_make(&w, "adamw", "{}");
	lora_settings *s = from_json(bad_settings[_i].settings);
	check_fails(bad_settings[_i].status, lora_optimizer_create(w.a, bad_settings[_i].name, s, &o));
	ck_assert_ptr_null(o);
	ck_assert_int_eq(lora_context_error(golden_ctx, &e), LORA_OK);
	ck_assert_str_eq(e.tensor, bad_settings[_i].key);
	lora_settings_destroy(s);
	world_free(&w);
}
END_TEST

START_TEST(misuse)
{
	world w;
	scratch d;
	size_t n;
	lora_optimizer *o;
	scratch_make(&d);
	world_make(&w, "adamw", "{\"learning_rate\":0.01}");
	check_fails(LORA_E_ARGUMENT, lora_optimizer_create(NULL, "adamw", NULL, &o));
	check_fails(LORA_E_ARGUMENT, lora_optimizer_create(w.a, NULL, NULL, &o));
	check_fails(LORA_E_ARGUMENT, lora_optimizer_create(w.a, "adamw", NULL, NULL));
	check_fails(LORA_E_ARGUMENT, lora_optimizer_step(NULL, 1.0));
	check_fails(LORA_E_ARGUMENT, lora_optimizer_step(w.o, -1.0));
	check_fails(LORA_E_ARGUMENT, lora_optimizer_step(w.o, NAN));
	check_fails(LORA_E_ARGUMENT, lora_optimizer_zero_grad(NULL));
	check_fails(LORA_E_ARGUMENT, lora_optimizer_save(w.o, NULL));
	check_fails(LORA_E_ARGUMENT, lora_optimizer_load(w.o, NULL));
	lora_optimizer_destroy(NULL);
	one_step(&w);
	float *before = values(w.a, 0, &n);
	ck_ok(lora_adapter_merge(w.a, NULL));
	check_fails(LORA_E_STATE, lora_optimizer_step(w.o, 1.0)); /* P25 */
	ck_ok(lora_adapter_unmerge(w.a));
	ck_ok(lora_optimizer_step(w.o, 0.0)); /* a factor of 0 moves nothing but the moments */
	float *after = values(w.a, 0, &n);
	ck_assert_mem_eq(before, after, n * sizeof *after);
	free(before), free(after);
	/* gradients are zeroed when asked */
	ck_ok(lora_optimizer_zero_grad(w.o));
	float *g = values(w.a, 1, &n);
	for (size_t i = 0; i < n; i++) ck_assert(g[i] == 0);
	free(g);
	/* other files, other optimizers, other adapters */
	check_fails(LORA_E_NOTFOUND, lora_optimizer_load(w.o, scratch_path(&d, "none")));
	scratch_write(scratch_path(&d, "text"), "no", 2);
	check_fails(LORA_E_FORMAT, lora_optimizer_load(w.o, scratch_path(&d, "text")));
	check_fails(LORA_E_FORMAT, lora_optimizer_load(w.o, "tests/golden/models/llama/model/model.safetensors"));
	ck_ok(lora_optimizer_save(w.o, scratch_path(&d, "adamw")));
	lora_optimizer_destroy(w.o);
	ck_ok(lora_optimizer_create(w.a, "adam", NULL, &w.o));
	check_fails(LORA_E_UNSUPPORTED, lora_optimizer_load(w.o, scratch_path(&d, "adamw")));
	lora_optimizer_destroy(w.o);
	lora_adapter_destroy(w.a);
	world_adapter(&w, "{\"r\":4,\"target_modules\":[\"q_proj\",\"v_proj\"]}");
	ck_ok(lora_optimizer_create(w.a, "adamw", NULL, &w.o));
	check_fails(LORA_E_SHAPE, lora_optimizer_load(w.o, scratch_path(&d, "adamw"))); /* P41 */
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* Any byte of the state file changed: refused, or (in the free space of the header) without effect; never half taken. */
START_TEST(damaged_file)
{
	world w;
	scratch d;
	scratch_make(&d);
	world_make(&w, "adamw", "{\"learning_rate\":0.01}");
	one_step(&w);
	ck_ok(lora_optimizer_save(w.o, scratch_path(&d, "s")));
	lora__blob b;
	ck_ok(lora__blob_read(golden_ctx, scratch_path(&d, "s"), 1 << 24, &b));
	one_step(&w);
	ck_ok(lora_optimizer_save(w.o, scratch_path(&d, "now")));
	lora__blob now;
	ck_ok(lora__blob_read(golden_ctx, scratch_path(&d, "now"), 1 << 24, &now));
	char *copy = malloc(b.n);
	int refused = 0, same = 0;
	for (size_t at = 0; at < b.n; at += 1 + b.n / 997) {
		memcpy(copy, b.data, b.n);
		copy[at] ^= 0x10;
		scratch_write(scratch_path(&d, "bad"), copy, b.n);
		lora_status st = lora_optimizer_load(w.o, scratch_path(&d, "bad"));
		if (st == LORA_OK) {
			same++; /* blanks of the header and settings that do not matter here are under the digest too: only padding may pass */
			ck_assert_msg(b.data[at] == ' ', "byte %zu was changed without being noticed", at);
			ck_ok(lora_optimizer_load(w.o, scratch_path(&d, "now")));
			continue;
		}
		refused++;
		ck_ok(lora_optimizer_save(w.o, scratch_path(&d, "after")));
		ck_assert(scratch_is(scratch_path(&d, "after"), now.data, now.n));
	}
	ck_assert_int_gt(refused, 900);
	ck_assert_int_lt(same, 20);
	free(copy);
	lora__blob_close(golden_ctx, &b);
	lora__blob_close(golden_ctx, &now);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* P40: every failing system call leaves the old file or the new one, and no temp. */
START_TEST(faulty_save)
{
	static const int errors[] = { EIO, ENOSPC };
	world w;
	scratch d;
	faults f;
	scratch_make(&d);
	world_make(&w, "adamw", "{\"learning_rate\":0.01}");
	one_step(&w);
	ck_ok(lora_optimizer_save(w.o, scratch_path(&d, "s")));
	lora__blob old, fresh;
	ck_ok(lora__blob_read(golden_ctx, scratch_path(&d, "s"), 1 << 24, &old));
	one_step(&w);
	mkdir(scratch_path(&d, "x"), 0777);
	ck_ok(lora_optimizer_save(w.o, scratch_path(&d, "x/new")));
	ck_ok(lora__blob_read(golden_ctx, scratch_path(&d, "x/new"), 1 << 24, &fresh));
	for (int e = 0; e < 2; e++)
		for (long at = 1;; at++) {
			scratch_write(scratch_path(&d, "s"), old.data, old.n);
			faults_on(&f, at, FAULT_ERRNO, errors[e], 0);
			lora_status st = lora_optimizer_save(w.o, scratch_path(&d, "s"));
			faults_off(&f);
			if (!f.hit) {
				ck_assert_int_eq(st, LORA_OK);
				break;
			}
			int is_old = scratch_is(scratch_path(&d, "s"), old.data, old.n), is_new = scratch_is(scratch_path(&d, "s"), fresh.data, fresh.n);
			ck_assert_msg(is_old || is_new, "%s failed and the file is neither old nor new", f.hit);
			if (st == LORA_OK) ck_assert(is_new);
			else ck_assert_int_eq(st, LORA_E_IO);
			ck_assert_int_eq(scratch_count(d.dir), 2);
		}
	check_fails(LORA_E_IO, lora_optimizer_save(w.o, d.dir));
	lora__blob_close(golden_ctx, &old);
	lora__blob_close(golden_ctx, &fresh);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* Objects may go in any order. */
START_TEST(any_order)
{
	world w;
	check_alloc ca;
	check_alloc_init(&ca);
	golden_ctx = check_context(&ca);
	memset(&w, 0, sizeof w);
	ck_ok(lora_model_open(golden_ctx, "tests/golden/models/llama/model", NULL, &w.m));
	world_adapter(&w, "{}");
	ck_ok(lora_optimizer_create(w.a, "adamw", NULL, &w.o));
	lora_context_destroy(golden_ctx);
	lora_model_destroy(w.m);
	lora_adapter_destroy(w.a);
	ck_assert_int_eq(lora_optimizer_zero_grad(w.o), LORA_OK);
	lora_optimizer_destroy(w.o);
	check_alloc_done(&ca);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("optim");
	TCase *t = tcase_create("optim");
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, golden_f32, 0, N_CASES);
	tcase_add_loop_test(t, golden_f64, 0, N_CASES);
	tcase_add_test(t, pieces_join);
	tcase_add_loop_test(t, golden_schedule, 0, N_SCHEDULES);
	tcase_add_test(t, every_schedule_is_tested);
	tcase_add_loop_test(t, bad_schedule, 0, sizeof bad_schedules / sizeof *bad_schedules);
	tcase_add_loop_test(t, state_comes_back, 0, N_OPTIMIZERS);
	tcase_add_loop_test(t, not_finite, 0, N_OPTIMIZERS);
	tcase_add_loop_test(t, bad_setting, 0, sizeof bad_settings / sizeof *bad_settings);
	tcase_add_test(t, misuse);
	tcase_add_test(t, damaged_file);
	tcase_add_test(t, faulty_save);
	tcase_add_test(t, any_order);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
