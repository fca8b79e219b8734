/* The rules of the trainer. Recorded trainings: test_train_golden.c; resuming: test_resume.c. */
#include <check.h>

#include "trainwork.h"

/* ---- rules of the step ---- */

static int32_t on_progress(void *user, const lora_metrics *m)
{
	int64_t *seen = user;
	*seen = m->step;
	return m->step == 2 ? 41 : 0;
}

START_TEST(cancel)
{
	world w;
	int64_t seen = 0;
	lora_metrics x;
	lora_error e = { .struct_size = sizeof e };
	world_make(&w, "{\"gradient_accumulation_steps\":2}");
	ck_ok(lora_trainer_set_progress(w.t, on_progress, &seen));
	ck_ok(step(&w, 0, &x));
	ck_assert_int_eq(seen, 0); /* only after an optimizer step */
	ck_ok(step(&w, 1, &x));
	ck_assert_int_eq(seen, 1);
	ck_ok(step(&w, 2, &x));
	check_fails(LORA_E_CANCELLED, step(&w, 3, &x));
	ck_assert_int_eq(seen, 2);
	ck_assert_int_eq(x.step, 2);
	ck_assert_int_eq(x.updated, 1);
	ck_ok(lora_context_error(golden_ctx, &e));
	ck_assert_int_eq(e.value, 41);
	for (int k = 4; k < 8; k++) ck_ok(step(&w, k, &x)); /* it goes on */
	lora__text a = snapshot(&w);
	char *want = malloc(a.n);
	size_t n = a.n;
	memcpy(want, a.data, n);
	lora__text_free(&a);
	world_free(&w);
	world_make(&w, "{\"gradient_accumulation_steps\":2}");
	for (int k = 0; k < 8; k++) ck_ok(step(&w, k, &x));
	a = snapshot(&w);
	ck_assert(a.n == n && memcmp(a.data, want, n) == 0); /* and no bit tells that it was cancelled */
	lora__text_free(&a);
	free(want);
	world_free(&w);
}
END_TEST

typedef struct reenter { world *w; lora_status st[5]; int calls; } reenter;

static int32_t call_back(void *user, const lora_metrics *m)
{
	reenter *r = user;
	double loss;
	lora_batch b = batch_of(r->w, 0);
	(void)m;
	r->calls++;
	r->st[0] = lora_trainer_step(r->w->t, &b, NULL);
	r->st[1] = lora_trainer_evaluate(r->w->t, &b, 1, &loss, NULL);
	r->st[2] = lora_trainer_save(r->w->t, "nowhere", 0);
	r->st[3] = lora_trainer_resume(r->w->t, "nowhere", NULL);
	r->st[4] = lora_trainer_set_progress(r->w->t, NULL, NULL);
	return 0;
}

static int32_t destroy_inside(void *user, const lora_metrics *m)
{
	(void)m;
	lora_trainer_destroy(((world *)user)->t);
	return 0;
}

/* P37 */
START_TEST(callback_reenters)
{
	world w;
	world_make(&w, "{}");
	reenter r = { .w = &w };
	ck_ok(lora_trainer_set_progress(w.t, call_back, &r));
	ck_ok(step(&w, 0, NULL));
	ck_assert_int_eq(r.calls, 1);
	for (int i = 0; i < 5; i++) ck_assert_int_eq(r.st[i], LORA_E_STATE);
	ck_assert_int_eq(w.t->step, 1);
	ck_ok(lora_trainer_set_progress(w.t, destroy_inside, &w));
	ck_ok(step(&w, 1, NULL));
	w.t = NULL;
	world_free(&w);
}
END_TEST

/* P30: a gradient or loss that is not finite. */
START_TEST(skipped_step)
{
	world w;
	lora_metrics x;
	int accumulation = _i + 1;
	world_make(&w, accumulation == 1 ? "{}" : "{\"gradient_accumulation_steps\":2}");
	for (int k = 0; k < 2 * accumulation; k++) ck_ok(step(&w, k, &x));
	lora__text before = snapshot(&w);
	poison(&w, 1);
	ck_ok(step(&w, 2 * accumulation, &x));
	poison(&w, 0);
	if (accumulation == 2) {
		ck_assert_int_eq(x.skipped, 0);
		ck_ok(step(&w, 5, &x)); /* the good half does not save the step */
	}
	ck_assert_int_eq(x.updated, 0);
	ck_assert_int_eq(x.skipped, 1);
	ck_assert_int_eq(x.step, 2);
	ck_assert_int_eq(x.micro_step, 0);
	ck_assert(!isfinite(x.loss) || !isfinite(x.grad_norm));
	w.t->skipped = w.t->skipped_in_row = 0, w.t->micro_total -= accumulation;
	check_unchanged(&w, &before, "a skipped step");
	w.t->skipped = w.t->skipped_in_row = 1, w.t->micro_total += accumulation;
	for (int k = 0; k < accumulation; k++) ck_ok(step(&w, 7 + k, &x));
	ck_assert_int_eq(x.updated, 1);
	ck_assert_int_eq(x.step, 3);
	ck_assert_int_eq(x.skipped, 1);
	ck_assert_int_eq(w.t->skipped_in_row, 0);
	ck_assert(isfinite(x.loss) && isfinite(x.grad_norm));
	lora__text_free(&before);
	world_free(&w);
}
END_TEST

START_TEST(too_many_skips)
{
	world w;
	lora_metrics x;
	world_make(&w, "{}");
	ck_ok(step(&w, 0, &x));
	lora__text before = snapshot(&w);
	for (int k = 0; k < 23; k++) {
		poison(&w, 1);
		lora_status st = step(&w, k, &x);
		poison(&w, 0);
		ck_assert_int_eq(st, k < 19 ? LORA_OK : LORA_E_NUMERIC);
	}
	ck_assert_int_eq(w.t->skipped, 23);
	w.t->skipped = w.t->skipped_in_row = 0, w.t->micro_total -= 23;
	check_unchanged(&w, &before, "skipping");
	w.t->skipped_in_row = 23;
	ck_ok(step(&w, 1, &x)); /* one good step ends it */
	ck_assert_int_eq(w.t->skipped_in_row, 0);
	lora__text_free(&before);
	world_free(&w);
}
END_TEST

/* A batch that is refused in the middle of an accumulation leaves it as it was. */
START_TEST(refused_batch)
{
	world w;
	lora_metrics x = { .struct_size = sizeof x };
	world_make(&w, "{\"gradient_accumulation_steps\":3}");
	for (int k = 0; k < 4; k++) ck_ok(step(&w, k, &x));
	lora__text before = snapshot(&w);
	lora_batch b = batch_of(&w, 4);
	w.ids[4 * CELLS + 5] = 131;
	check_fails(LORA_E_SHAPE, lora_trainer_step(w.t, &b, &x));
	check_unchanged(&w, &before, "a token out of range");
	w.ids[4 * CELLS + 5] = 1;
	b.labels = NULL;
	check_fails(LORA_E_ARGUMENT, lora_trainer_step(w.t, &b, &x));
	b = batch_of(&w, 4);
	b.struct_size = 0;
	check_fails(LORA_E_ARGUMENT, lora_trainer_step(w.t, &b, &x));
	check_fails(LORA_E_ARGUMENT, lora_trainer_step(w.t, NULL, &x));
	check_fails(LORA_E_ARGUMENT, lora_trainer_step(NULL, &b, &x));
	b = batch_of(&w, 4);
	x.struct_size = 0;
	check_fails(LORA_E_ARGUMENT, lora_trainer_step(w.t, &b, &x));
	ck_ok(lora_adapter_merge(w.a, NULL));
	check_fails(LORA_E_STATE, lora_trainer_step(w.t, &b, NULL)); /* P25 */
	ck_ok(lora_adapter_unmerge(w.a));
	ck_ok(lora_adapter_set_trainable(w.a, 0));
	check_fails(LORA_E_STATE, lora_trainer_step(w.t, &b, NULL));
	ck_ok(lora_adapter_set_trainable(w.a, 1));
	ck_ok(lora_adapter_detach(w.a));
	check_fails(LORA_E_STATE, lora_trainer_step(w.t, &b, NULL));
	ck_ok(lora_adapter_attach(w.a, 1.0));
	check_unchanged(&w, &before, "a refused call");
	lora__text_free(&before);
	ck_ok(lora_trainer_step(w.t, &b, NULL)); /* metrics are optional */
	world_free(&w);
}
END_TEST

/* An older caller's shorter metrics are filled as far as they go. */
START_TEST(short_metrics)
{
	world w;
	lora_metrics x;
	world_make(&w, "{}");
	memset(&x, 0x5a, sizeof x);
	x.struct_size = offsetof(lora_metrics, grad_norm);
	lora_batch b = batch_of(&w, 0);
	ck_ok(lora_trainer_step(w.t, &b, &x));
	ck_assert_int_eq(x.step, 1);
	ck_assert_uint_eq(x.struct_size, offsetof(lora_metrics, grad_norm));
	ck_assert_int_eq(((unsigned char *)&x)[offsetof(lora_metrics, grad_norm)], 0x5a);
	world_free(&w);
}
END_TEST

/* P43: nothing to learn from is no update, and after 20 times in a row it is said. */
START_TEST(no_labels)
{
	world w;
	lora_metrics x;
	world_make(&w, "{}");
	ck_ok(step(&w, 0, &x));
	lora__text before = snapshot(&w);
	for (int i = 0; i < CELLS; i++) w.labels[CELLS + i] = -100;
	ck_ok(step(&w, 1, &x));
	ck_assert_int_eq(x.updated, 0);
	ck_assert_int_eq(x.skipped, 1);
	ck_assert_int_eq(x.loss_tokens, 0);
	ck_assert(x.loss == 0);
	lora_batch empty = { .struct_size = sizeof empty, .labels = w.labels, .input_ids = w.ids };
	x.struct_size = sizeof x;
	ck_ok(lora_trainer_step(w.t, &empty, &x));
	ck_assert_int_eq(x.tokens, 0);
	w.t->skipped = w.t->skipped_in_row = 0, w.t->micro_total -= 2;
	check_unchanged(&w, &before, "an empty step");
	lora__text_free(&before);
	world_free(&w);
}
END_TEST

START_TEST(evaluates)
{
	world w;
	lora_batch b[5];
	double loss, sum = 0, one;
	int64_t tokens, total = 0, n;
	world_make(&w, "{\"gradient_accumulation_steps\":3}");
	ck_ok(step(&w, 0, NULL));
	lora__text before = snapshot(&w);
	for (int k = 0; k < 5; k++) {
		b[k] = batch_of(&w, 10 + k);
		ck_ok(lora_model_loss(w.m, &b[k], &one, &n));
		sum += one * (double)n, total += n;
	}
	ck_ok(lora_trainer_evaluate(w.t, b, 5, &loss, &tokens));
	ck_assert_int_eq(tokens, total);
	ck_assert_double_eq_tol(loss, sum / (double)total, 1e-12);
	ck_ok(lora_trainer_evaluate(w.t, b, 5, &one, NULL));
	ck_assert(loss == one); /* no dropout */
	ck_ok(lora_trainer_evaluate(w.t, NULL, 0, &one, &tokens));
	ck_assert(one == 0 && tokens == 0);
	check_unchanged(&w, &before, "evaluating");
	check_fails(LORA_E_ARGUMENT, lora_trainer_evaluate(w.t, b, -1, &loss, NULL));
	check_fails(LORA_E_ARGUMENT, lora_trainer_evaluate(w.t, NULL, 1, &loss, NULL));
	check_fails(LORA_E_ARGUMENT, lora_trainer_evaluate(w.t, b, 1, NULL, NULL));
	b[1].labels = NULL;
	check_fails(LORA_E_ARGUMENT, lora_trainer_evaluate(w.t, b, 5, &loss, NULL));
	b[0].struct_size = 4;
	check_fails(LORA_E_ARGUMENT, lora_trainer_evaluate(w.t, b, 1, &loss, NULL));
	lora__text_free(&before);
	world_free(&w);
}
END_TEST

/* Two micro-batches averaged over tokens are one batch of both: padding rows apart, the same update. */
START_TEST(accumulation_is_one_batch)
{
	world w;
	lora_metrics x, y;
	static float got[1 << 16];
	const char *plain = "{\"r\":3,\"init_lora_weights\":false,\"target_modules\":[\"q_proj\",\"v_proj\"]}";
	golden_context("naive", 1);
	world_fill(&w, plain, "adamw", "{\"learning_rate\":0.001}", "{\"gradient_accumulation_steps\":2}");
	ck_ok(step(&w, 0, &x));
	ck_ok(step(&w, 1, &x));
	size_t n = w.a->n_params;
	memcpy(got, w.a->params, n * sizeof(float));
	world_free(&w);
	golden_context("naive", 1);
	world_fill(&w, plain, "adamw", "{\"learning_rate\":0.001}", "{}");
	lora_batch b = batch_of(&w, 0);
	b.n_sequences = 2 * ROWS;
	y.struct_size = sizeof y;
	ck_ok(lora_trainer_step(w.t, &b, &y));
	ck_assert_double_eq_tol(x.loss, y.loss, 1e-6);
	ck_assert_double_eq_tol(x.grad_norm, y.grad_norm, 1e-5 * y.grad_norm);
	check_close(got, w.a->params, n, 1e-5);
	world_free(&w);
}
END_TEST

/* After the first step of a shape nothing is allocated, with dropout, accumulation, clipping and evaluation. */
START_TEST(steps_allocate_nothing)
{
	world w;
	check_alloc ca;
	double loss;
	check_alloc_init(&ca);
	golden_ctx = check_context(&ca);
	world_fill(&w, ADAPTER, "adamw", OPTIMIZER, _i ? "{\"gradient_accumulation_steps\":3,\"gradient_checkpointing\":true}" : ACCUMULATE);
	lora_batch b = batch_of(&w, 0);
	for (int k = 0; k < 3; k++) ck_ok(step(&w, k, NULL));
	ck_ok(lora_trainer_evaluate(w.t, &b, 1, &loss, NULL));
	check_alloc_arm(&ca, 0, 0);
	for (int k = 3; k < 12; k++) {
		ck_ok(step(&w, k, NULL));
		ck_ok(lora_trainer_evaluate(w.t, &b, 1, &loss, NULL));
	}
	ck_assert_int_eq(ca.calls, 0);
	world_free(&w);
	check_alloc_done(&ca);
}
END_TEST

/* Out of memory at every allocation of the calls that allocate: an error, nothing changed, nothing leaked. */
START_TEST(out_of_memory)
{
	world w;
	check_alloc ca;
	scratch d;
	scratch_make(&d);
	for (int forever = 0; forever < 2; forever++) {
		check_alloc_init(&ca);
		golden_ctx = check_context(&ca);
		world_fill(&w, ADAPTER, "adamw", OPTIMIZER, ACCUMULATE);
		lora_status st = LORA_E_MEMORY;
		for (long n = 1; st; n++) { /* the first step */
			check_alloc_arm(&ca, n, forever);
			st = step(&w, 0, NULL);
			check_alloc_arm(&ca, 0, 0);
			ck_assert(st == LORA_OK || st == LORA_E_MEMORY);
			ck_assert_int_eq(w.t->micro, st == LORA_OK);
			ck_assert_int_lt(n, 1000);
		}
		lora__text before = snapshot(&w);
		st = LORA_E_MEMORY;
		for (long n = 1; st; n++) {
			check_alloc_arm(&ca, n, forever);
			st = lora_trainer_save(w.t, d.dir, n);
			check_alloc_arm(&ca, 0, 0);
			ck_assert(st == LORA_OK || st == LORA_E_MEMORY);
			check_unchanged(&w, &before, "saving");
		}
		lora__text_free(&before);
		ck_ok(step(&w, 1, NULL));
		before = snapshot(&w);
		st = LORA_E_MEMORY;
		for (long n = 1; st; n++) {
			check_alloc_arm(&ca, n, forever);
			st = lora_trainer_resume(w.t, d.dir, NULL);
			check_alloc_arm(&ca, 0, 0);
			ck_assert_msg(st == LORA_OK || st == LORA_E_MEMORY, "%s: %s", lora_status_name(st), lora_context_last_error(golden_ctx));
			if (st) check_unchanged(&w, &before, "a failed resume");
		}
		lora__text_free(&before);
		world_free(&w);
		check_alloc_done(&ca);
		scratch_remove(&d);
		scratch_make(&d);
	}
	scratch_remove(&d);
}
END_TEST

/* The same bits for 1, 2 and 3 threads on naive, dropout on (P42, and the promise of docs/determinism.md). */
START_TEST(any_threads)
{
	static float first[1 << 16];
	for (int threads = 1; threads < 4; threads++) {
		world w;
		golden_context("naive", threads);
		world_fill(&w, ADAPTER, "adamw", OPTIMIZER, ACCUMULATE);
		for (int k = 0; k < 9; k++) ck_ok(step(&w, k, NULL));
		if (threads == 1) memcpy(first, w.a->params, w.a->n_params * sizeof(float));
		else ck_assert_mem_eq(first, w.a->params, w.a->n_params * sizeof(float));
		world_free(&w);
	}
}
END_TEST

/* ---- creation ---- */

static const struct { const char *settings, *key; } bad_settings[] = {
	{ "{\"lr_scheduler_type\":\"cosinus\",\"max_steps\":10}", "lr_scheduler_type" },
	{ "{\"lr_scheduler_type\":3}", "lr_scheduler_type" },
	{ "{\"lr_scheduler_type\":\"cosine\"}", "max_steps" },
	{ "{\"lr_scheduler_type\":\"linear\",\"max_steps\":10,\"num_cycles\":1}", "num_cycles" },
	{ "{\"max_steps\":1.5}", "max_steps" },
	{ "{\"warmup_ratio\":0.1}", "warmup_ratio" },
	{ "{\"warmup_ratio\":1.1,\"max_steps\":10}", "warmup_ratio" },
	{ "{\"warmup_steps\":-1}", "warmup_steps" },
	{ "{\"max_grad_norm\":-1}", "max_grad_norm" },
	{ "{\"gradient_accumulation_steps\":0}", "gradient_accumulation_steps" },
	{ "{\"loss_average\":\"rows\"}", "loss_average" },
	{ "{\"seed\":-1}", "seed" },
	{ "{\"save_total_limit\":0}", "save_total_limit" },
	{ "{\"learning_rate\":1}", "learning_rate" },
};

START_TEST(bad_setting)
{
	world w;
	lora_trainer *t = (lora_trainer *)&w;
	lora_error e = { .struct_size = sizeof e };
	world_make(&w, "{}");
	lora_settings *s = from_json(bad_settings[_i].settings);
	check_fails(LORA_E_ARGUMENT, lora_trainer_create(w.m, w.a, w.o, s, &t));
	ck_assert_ptr_null(t);
	ck_ok(lora_context_error(golden_ctx, &e));
	ck_assert_str_eq(e.tensor, bad_settings[_i].key);
	lora_settings_destroy(s);
	world_free(&w);
}
END_TEST

START_TEST(schedule_settings)
{
	world w;
	lora_metrics x;
	world_make(&w, "{\"max_steps\":10,\"warmup_ratio\":0.25}"); /* linear, ceil(2.5) steps of warm-up */
	const double want[] = { 0, 1.0 / 3, 2.0 / 3, 1, 6.0 / 7, 5.0 / 7 };
	for (int k = 0; k < 6; k++) {
		ck_ok(step(&w, k, &x));
		ck_assert_double_eq_tol(x.lr, 0.01 * want[k], 1e-15);
	}
	world_free(&w);
	world_make(&w, "{\"lr_scheduler_type\":\"warmup_stable_decay\",\"num_decay_steps\":2,\"num_stable_steps\":1,\"min_lr_ratio\":0.5}");
	const double wsd[] = { 1, 1, 0.75, 0.5 };
	for (int k = 0; k < 4; k++) {
		ck_ok(step(&w, k, &x));
		ck_assert_double_eq_tol(x.lr, 0.01 * wsd[k], 1e-15);
	}
	world_free(&w);
}
END_TEST

START_TEST(bad_objects)
{
	world w;
	lora_trainer *t;
	lora_model *other;
	lora_adapter *stranger;
	lora_optimizer *so;
	world_make(&w, "{}");
	lora_settings *s = from_json("{\"name\":\"stranger\"}");
	ck_ok(lora_model_open(golden_ctx, MODEL, NULL, &other));
	ck_ok(lora_adapter_create(other, "lora", s, &stranger));
	ck_ok(lora_optimizer_create(stranger, "sgd", NULL, &so));
	check_fails(LORA_E_ARGUMENT, lora_trainer_create(NULL, w.a, w.o, NULL, &t));
	check_fails(LORA_E_ARGUMENT, lora_trainer_create(w.m, NULL, w.o, NULL, &t));
	check_fails(LORA_E_ARGUMENT, lora_trainer_create(w.m, w.a, NULL, NULL, &t));
	check_fails(LORA_E_ARGUMENT, lora_trainer_create(w.m, w.a, w.o, NULL, NULL));
	check_fails(LORA_E_STATE, lora_trainer_create(w.m, stranger, so, NULL, &t)); /* P32: of another model */
	check_fails(LORA_E_STATE, lora_trainer_create(w.m, w.a, so, NULL, &t));
	check_fails(LORA_E_STATE, lora_trainer_create(other, stranger, so, NULL, &t)); /* not attached */
	ck_assert_ptr_null(t);
	lora_trainer_destroy(NULL);
	check_fails(LORA_E_ARGUMENT, lora_trainer_save(w.t, NULL, 0));
	check_fails(LORA_E_ARGUMENT, lora_trainer_save(w.t, "", 0));
	check_fails(LORA_E_ARGUMENT, lora_trainer_resume(w.t, NULL, NULL));
	check_fails(LORA_E_ARGUMENT, lora_trainer_set_progress(NULL, NULL, NULL));
	/* the trainer keeps the others alive */
	lora_optimizer_destroy(so);
	lora_adapter_destroy(stranger);
	lora_model_destroy(other);
	lora_settings_destroy(s);
	lora_optimizer_destroy(w.o);
	lora_model_destroy(w.m);
	ck_ok(step(&w, 0, NULL));
	lora_adapter_destroy(w.a);
	ck_ok(step(&w, 1, NULL));
	lora_trainer_destroy(w.t);
	lora_context_destroy(golden_ctx);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("train");
	TCase *t = tcase_create("train");
	tcase_set_timeout(t, 300);
	tcase_add_test(t, cancel);
	tcase_add_test(t, callback_reenters);
	tcase_add_loop_test(t, skipped_step, 0, 2);
	tcase_add_test(t, too_many_skips);
	tcase_add_test(t, refused_batch);
	tcase_add_test(t, short_metrics);
	tcase_add_test(t, no_labels);
	tcase_add_test(t, evaluates);
	tcase_add_test(t, accumulation_is_one_batch);
	tcase_add_loop_test(t, steps_allocate_nothing, 0, 2);
	tcase_add_test(t, out_of_memory);
	tcase_add_test(t, any_threads);
	tcase_add_loop_test(t, bad_setting, 0, sizeof bad_settings / sizeof *bad_settings);
	tcase_add_test(t, schedule_settings);
	tcase_add_test(t, bad_objects);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
