/* Checkpoints: resuming bit for bit at every micro-batch, damage, other runs, and saves that fail or are killed. */
#include <check.h>

#include "trainwork.h"

enum { MICRO_STEPS = 12 };

static const struct { const char *adapter, *optimizer, *settings, *trainer, *dtype; } runs[] = {
	{ ADAPTER, "adamw", OPTIMIZER, ACCUMULATE, "f32" },
	{ ADAPTER, "adamw", OPTIMIZER, "{\"gradient_accumulation_steps\":4,\"loss_average\":\"micro_batches\",\"seed\":1}", "f32" },
	{ ADAPTER, "sgd", "{\"learning_rate\":0.1,\"momentum\":0.9,\"dampening\":0.1}", "{\"seed\":3}", "f32" },
	{ ADAPTER, "adam", "{\"learning_rate\":0.01}", "{\"gradient_accumulation_steps\":2,\"gradient_checkpointing\":true}", "f64" },
};
enum { N_RUNS = sizeof runs / sizeof *runs };

static void run_make(world *w, int which)
{
	lora_settings *sm;
	golden_context("naive", which == 1 ? 2 : 1);
	memset(w, 0, sizeof *w);
	world_data(w);
	ck_ok(lora_settings_create(golden_ctx, &sm));
	ck_ok(lora_settings_set_string(sm, "dtype", runs[which].dtype));
	lora_settings *sa = from_json(runs[which].adapter), *so = from_json(runs[which].settings), *st = from_json(runs[which].trainer);
	ck_ok(lora_model_open(golden_ctx, MODEL, sm, &w->m));
	ck_ok(lora_adapter_create(w->m, "lora", sa, &w->a));
	ck_ok(lora_adapter_attach(w->a, 1.0));
	ck_ok(lora_optimizer_create(w->a, runs[which].optimizer, so, &w->o));
	ck_ok(lora_trainer_create(w->m, w->a, w->o, st, &w->t));
	lora_settings_destroy(sm);
	lora_settings_destroy(sa);
	lora_settings_destroy(so);
	lora_settings_destroy(st);
}

/* k micro-batches, save, a new process' worth of objects, resume, the rest: for every k the bits and the metrics of the run that never stopped. */
START_TEST(resume_at_every_k)
{
	world w;
	scratch d;
	lora_metrics want[MICRO_STEPS], x;
	scratch_make(&d);
	run_make(&w, _i);
	for (int k = 0; k < MICRO_STEPS; k++) ck_ok(step(&w, k, &want[k]));
	lora__text end = snapshot(&w);
	char *final = malloc(end.n);
	size_t n = end.n;
	memcpy(final, end.data, n);
	lora__text_free(&end);
	world_free(&w);
	ck_assert_int_gt(want[MICRO_STEPS - 1].step, 2);
	for (int at = 0; at <= MICRO_STEPS; at++) {
		int64_t cursor = 0;
		char name[16];
		snprintf(name, sizeof name, "at%d", at);
		run_make(&w, _i);
		for (int k = 0; k < at; k++) ck_ok(step(&w, k, NULL));
		ck_ok(lora_trainer_save(w.t, scratch_path(&d, name), 1000 + at));
		world_free(&w);
		run_make(&w, _i);
		for (int k = 0; k < at % 5; k++) ck_ok(step(&w, 40 + k, NULL)); /* what the trainer did before the resume is forgotten */
		ck_ok(lora_trainer_resume(w.t, scratch_path(&d, name), &cursor));
		ck_assert_int_eq(cursor, 1000 + at);
		for (int k = at; k < MICRO_STEPS; k++) {
			ck_ok(step(&w, k, &x));
			x.seconds = want[k].seconds;
			ck_assert_msg(memcmp(&x, &want[k], sizeof x) == 0, "saved at %d: micro-batch %d has loss %.17g, wanted %.17g", at, k, x.loss, want[k].loss);
		}
		end = snapshot(&w);
		ck_assert_msg(end.n == n && memcmp(end.data, final, n) == 0, "saved at %d: the end differs", at);
		lora__text_free(&end);
		world_free(&w);
	}
	free(final);
	scratch_remove(&d);
}
END_TEST

/* The negative of the test above: with another number of micro-batches done, dropout draws otherwise and the results differ. */
START_TEST(dropout_key_matters)
{
	world w;
	scratch d;
	lora_metrics good, bad;
	scratch_make(&d);
	world_make(&w, ACCUMULATE);
	for (int k = 0; k < 4; k++) ck_ok(step(&w, k, NULL));
	ck_ok(lora_trainer_save(w.t, scratch_path(&d, "c"), 0));
	ck_ok(step(&w, 4, &good));
	lora__text a = snapshot(&w);
	ck_ok(lora_trainer_resume(w.t, scratch_path(&d, "c"), NULL));
	w.t->micro_total++;
	ck_ok(step(&w, 4, &bad));
	w.t->micro_total--;
	lora__text b = snapshot(&w);
	ck_assert(good.loss != bad.loss);
	ck_assert(!same(&a, &b));
	lora__text_free(&b);
	ck_ok(lora_trainer_resume(w.t, scratch_path(&d, "c"), NULL));
	w.t->seed++;
	ck_ok(step(&w, 4, &bad));
	ck_assert(good.loss != bad.loss);
	w.t->seed--;
	ck_ok(lora_trainer_resume(w.t, scratch_path(&d, "c"), NULL));
	ck_ok(step(&w, 4, &bad));
	b = snapshot(&w);
	ck_assert(good.loss == bad.loss && same(&a, &b));
	lora__text_free(&a);
	lora__text_free(&b);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* A checkpoint changed in any byte is passed over for the older one; a forged micro-step count is seen by the digest. */
START_TEST(damaged_checkpoint)
{
	world w;
	scratch d;
	lora__blob b;
	int64_t cursor;
	scratch_make(&d);
	world_make(&w, "{\"seed\":5}");
	ck_ok(step(&w, 0, NULL));
	ck_ok(lora_trainer_save(w.t, d.dir, 11));
	lora__text first = snapshot(&w);
	ck_ok(step(&w, 1, NULL));
	ck_ok(lora_trainer_save(w.t, d.dir, 22));
	const char *name = "step-00000002/state.safetensors";
	ck_ok(lora__blob_read(golden_ctx, scratch_path(&d, name), 1 << 24, &b));
	char *copy = malloc(b.n);
	for (size_t at = 8; at < b.n; at += 1 + b.n / 211) {
		memcpy(copy, b.data, b.n);
		copy[at] ^= 1;
		scratch_write(scratch_path(&d, name), copy, b.n);
		cursor = 0;
		ck_ok(lora_trainer_resume(w.t, d.dir, &cursor));
		if (cursor == 22) ck_assert_msg(b.data[at] == ' ' || b.data[at] == '!', "byte %zu was changed without being noticed", at);
		else {
			ck_assert_int_eq(cursor, 11);
			check_unchanged(&w, &first, "resuming");
		}
	}
	char *found = NULL;
	memcpy(copy, b.data, b.n);
	for (size_t i = 0; i + 20 < b.n && !found; i++)
		if (memcmp(copy + i, "micro_total\\\":2", 15) == 0) found = copy + i + 14;
	ck_assert_ptr_nonnull(found);
	*found = '3';
	scratch_write(scratch_path(&d, name), copy, b.n);
	ck_ok(lora_trainer_resume(w.t, d.dir, &cursor));
	ck_assert_int_eq(cursor, 11);
	/* cut short, and gone altogether */
	scratch_write(scratch_path(&d, name), b.data, b.n / 2);
	ck_ok(lora_trainer_resume(w.t, d.dir, &cursor));
	ck_assert_int_eq(cursor, 11);
	unlink(scratch_path(&d, name));
	ck_ok(lora_trainer_resume(w.t, d.dir, &cursor));
	ck_assert_int_eq(cursor, 11);
	scratch_write(scratch_path(&d, "step-00000001/state.safetensors"), b.data, 100);
	check_fails(LORA_E_FORMAT, lora_trainer_resume(w.t, d.dir, &cursor));
	check_unchanged(&w, &first, "a failed resume");
	lora__blob_close(golden_ctx, &b);
	lora__text_free(&first);
	free(copy);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* The two newest stay; a new run in an old folder counts as newer. */
START_TEST(two_newest)
{
	world w;
	scratch d;
	int64_t cursor;
	scratch_make(&d);
	world_make(&w, "{}");
	const char *folder = scratch_path(&d, "new/"); /* made by the first save */
	check_fails(LORA_E_NOTFOUND, lora_trainer_resume(w.t, folder, NULL));
	for (int k = 0; k < 12; k++) {
		ck_ok(step(&w, k, NULL));
		ck_ok(lora_trainer_save(w.t, scratch_path(&d, "new"), k));
		ck_assert_int_eq(scratch_count(scratch_path(&d, "new")), k ? 2 : 1);
	}
	ck_assert_int_eq(lora__path_is_dir(scratch_path(&d, "new/step-00000012")), 1);
	ck_assert_int_eq(lora__path_is_dir(scratch_path(&d, "new/step-00000011")), 1);
	ck_ok(lora_trainer_resume(w.t, scratch_path(&d, "new"), &cursor));
	ck_assert_int_eq(cursor, 11);
	world_free(&w);
	world_make(&w, "{}");
	ck_ok(step(&w, 0, NULL));
	ck_ok(lora_trainer_save(w.t, scratch_path(&d, "new"), 77));
	ck_assert_int_eq(scratch_count(scratch_path(&d, "new")), 2);
	ck_ok(lora_trainer_resume(w.t, scratch_path(&d, "new"), &cursor));
	ck_assert_int_eq(cursor, 77);
	ck_ok(lora_trainer_save(w.t, scratch_path(&d, "new"), 78)); /* the same step once more: replaced */
	ck_assert_int_eq(scratch_count(scratch_path(&d, "new")), 2);
	ck_ok(lora_trainer_resume(w.t, scratch_path(&d, "new"), &cursor));
	ck_assert_int_eq(cursor, 78);
	check_fails(LORA_E_IO, lora_trainer_save(w.t, scratch_path(&d, "no/such/folder"), 0));
	scratch_write(scratch_path(&d, "file"), "x", 1);
	check_fails(LORA_E_IO, lora_trainer_save(w.t, scratch_path(&d, "file"), 0));
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

static const struct { const char *adapter, *optimizer, *settings, *trainer; lora_status status; const char *named; } others[] = {
	{ "{\"r\":4,\"lora_dropout\":0.25,\"target_modules\":[\"q_proj\",\"v_proj\",\"down_proj\"]}", "adamw", OPTIMIZER, ACCUMULATE, LORA_E_SHAPE, "lora_A" },
	{ "{\"r\":3,\"lora_dropout\":0.25,\"target_modules\":[\"q_proj\",\"k_proj\",\"down_proj\"]}", "adamw", OPTIMIZER, ACCUMULATE, LORA_E_SHAPE, "k_proj" },
	{ "{\"r\":3,\"lora_dropout\":0.2,\"target_modules\":[\"q_proj\",\"v_proj\",\"down_proj\"]}", "adamw", OPTIMIZER, ACCUMULATE, LORA_E_STATE, "adapter_parts" },
	{ "{\"r\":3,\"lora_alpha\":9,\"lora_dropout\":0.25,\"target_modules\":[\"q_proj\",\"v_proj\",\"down_proj\"]}", "adamw", OPTIMIZER, ACCUMULATE, LORA_E_STATE,
	  "adapter_parts" },
	{ ADAPTER, "adam", OPTIMIZER, ACCUMULATE, LORA_E_STATE, "optimizer" },
	{ ADAPTER, "sgd", "{\"momentum\":0.9}", ACCUMULATE, LORA_E_STATE, "optimizer" },
	{ ADAPTER, "adamw", "{\"learning_rate\":0.02,\"weight_decay\":0.05}", ACCUMULATE, LORA_E_STATE, "learning_rate" },
	{ ADAPTER, "adamw", OPTIMIZER, "{\"gradient_accumulation_steps\":3,\"max_steps\":13,\"warmup_steps\":2,\"lr_scheduler_type\":\"cosine\",\"seed\":5,"
	  "\"max_grad_norm\":0.5}", LORA_E_STATE, "schedule" },
	{ ADAPTER, "adamw", OPTIMIZER, "{\"gradient_accumulation_steps\":3,\"max_steps\":12,\"warmup_steps\":2,\"lr_scheduler_type\":\"cosine\",\"seed\":6,"
	  "\"max_grad_norm\":0.5}", LORA_E_STATE, "seed" },
	{ ADAPTER, "adamw", OPTIMIZER, "{\"gradient_accumulation_steps\":2,\"max_steps\":12,\"warmup_steps\":2,\"lr_scheduler_type\":\"cosine\",\"seed\":5,"
	  "\"max_grad_norm\":0.5}", LORA_E_STATE, "gradient_accumulation_steps" },
	{ ADAPTER, "adamw", OPTIMIZER, "{\"gradient_accumulation_steps\":3,\"max_steps\":12,\"warmup_steps\":2,\"lr_scheduler_type\":\"cosine\",\"seed\":5}",
	  LORA_E_STATE, "max_grad_norm" },
	/* what does not touch the arithmetic may differ */
	{ ADAPTER, "adamw", OPTIMIZER, "{\"gradient_accumulation_steps\":3,\"max_steps\":12,\"warmup_steps\":2,\"lr_scheduler_type\":\"cosine\",\"seed\":5,"
	  "\"max_grad_norm\":0.5,\"gradient_checkpointing\":true,\"save_total_limit\":5}", LORA_OK, NULL },
};
enum { N_OTHERS = sizeof others / sizeof *others };

/* P41: a checkpoint of another run is refused, the difference is named, nothing changes. */
START_TEST(another_run)
{
	world w;
	scratch d;
	lora_error e = { .struct_size = sizeof e };
	int64_t cursor = -5;
	scratch_make(&d);
	world_make(&w, ACCUMULATE);
	for (int k = 0; k < 4; k++) ck_ok(step(&w, k, NULL));
	ck_ok(lora_trainer_save(w.t, d.dir, 1));
	world_free(&w);
	golden_context("naive", 1);
	world_fill(&w, others[_i].adapter, others[_i].optimizer, others[_i].settings, others[_i].trainer);
	ck_ok(step(&w, 0, NULL));
	lora__text before = snapshot(&w);
	check_fails(others[_i].status, lora_trainer_resume(w.t, d.dir, &cursor));
	if (others[_i].status) {
		check_unchanged(&w, &before, "a refused resume");
		ck_assert_int_eq(cursor, -5);
		ck_ok(lora_context_error(golden_ctx, &e));
		ck_assert_msg(strstr(e.message, others[_i].named) || strstr(e.tensor, others[_i].named), "the message does not name %s: %s", others[_i].named, e.message);
	} else {
		ck_assert_int_eq(cursor, 1);
	}
	lora__text_free(&before);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* The same adapter on another base is refused too; so is another attached scale. */
START_TEST(another_base)
{
	world w;
	scratch d;
	scratch_make(&d);
	world_make(&w, "{}");
	ck_ok(step(&w, 0, NULL));
	ck_ok(lora_trainer_save(w.t, d.dir, 1));
	ck_ok(lora_adapter_set_scale(w.a, 0.5));
	check_fails(LORA_E_STATE, lora_trainer_resume(w.t, d.dir, NULL));
	ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), "adapter_scale"));
	ck_ok(lora_adapter_set_scale(w.a, 1.0));
	ck_ok(lora_trainer_resume(w.t, d.dir, NULL));
	lora_trainer_destroy(w.t);
	lora_optimizer_destroy(w.o);
	lora_adapter_destroy(w.a);
	lora_model_destroy(w.m);
	lora_settings *sa = from_json(ADAPTER), *so = from_json(OPTIMIZER);
	ck_ok(lora_model_open(golden_ctx, "tests/golden/models/llama/model-bf16", NULL, &w.m));
	ck_ok(lora_adapter_create(w.m, "lora", sa, &w.a));
	ck_ok(lora_adapter_attach(w.a, 1.0));
	ck_ok(lora_optimizer_create(w.a, "adamw", so, &w.o));
	ck_ok(lora_trainer_create(w.m, w.a, w.o, NULL, &w.t));
	check_fails(LORA_E_STATE, lora_trainer_resume(w.t, d.dir, NULL));
	ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), "base"));
	lora_settings_destroy(sa);
	lora_settings_destroy(so);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* ---- saving that fails or is killed ---- */

typedef struct kill_job { world *w; const char *dir; long at; } kill_job;

static void save_and_die(void *arg)
{
	kill_job *j = arg;
	faults f;
	faults_on(&f, j->at, FAULT_KILL, 0, 0);
	lora_trainer_save(j->w->t, j->dir, 2);
	faults_off(&f);
}

/* Killed before each system call: an old or the new checkpoint resumes, whole. */
START_TEST(killed_save)
{
	world w;
	scratch d;
	int64_t cursor;
	int seen_old = 0, seen_new = 0;
	scratch_make(&d);
	world_make(&w, "{}");
	for (long at = 1;; at++) {
		char name[32];
		snprintf(name, sizeof name, "k%ld", at);
		const char *dir = scratch_path(&d, name);
		lora__text old, now;
		ck_ok(step(&w, 0, NULL));
		ck_ok(lora_trainer_save(w.t, dir, 0));
		ck_ok(step(&w, 1, NULL));
		ck_ok(lora_trainer_save(w.t, dir, 1));
		old = snapshot(&w);
		ck_ok(step(&w, 2, NULL));
		now = snapshot(&w);
		kill_job job = { &w, dir, at };
		int killed = faults_in_child(save_and_die, &job);
		ck_assert_int_ge(killed, 0);
		ck_ok(lora_trainer_resume(w.t, dir, &cursor));
		ck_assert(cursor == 1 || cursor == 2);
		check_unchanged(&w, cursor == 1 ? &old : &now, "a kill");
		if (cursor == 1) seen_old++;
		else seen_new++;
		/* and the next save works, whatever was left behind */
		ck_ok(lora_trainer_save(w.t, dir, 3));
		ck_ok(lora_trainer_resume(w.t, dir, &cursor));
		ck_assert_int_eq(cursor, 3);
		lora__text_free(&old);
		lora__text_free(&now);
		if (!killed) break;
	}
	ck_assert_int_gt(seen_old, 3);
	ck_assert_int_gt(seen_new, 1);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* Each system call failing: LORA_E_IO or success, the state as it was, an old or the new checkpoint resumes. */
START_TEST(faulty_save)
{
	static const int errors[] = { EIO, ENOSPC };
	world w;
	scratch d;
	faults f;
	int64_t cursor;
	int failed = 0;
	scratch_make(&d);
	world_make(&w, "{\"gradient_accumulation_steps\":3}");
	for (int e = 0; e < 4; e++)
		for (long at = 1;; at++) {
			char name[32];
			snprintf(name, sizeof name, "f%d-%ld", e, at);
			const char *dir = scratch_path(&d, name);
			if (e % 2) ck_ok(lora_trainer_save(w.t, dir, 1)); /* else the folder itself is made under the faults */
			ck_ok(step(&w, at, NULL));
			lora__text before = snapshot(&w);
			faults_on(&f, at, FAULT_ERRNO, errors[e / 2], 0);
			lora_status st = lora_trainer_save(w.t, dir, 2);
			faults_off(&f);
			check_unchanged(&w, &before, "a failing save");
			lora__text_free(&before);
			if (st) {
				failed++;
				ck_assert_msg(st == LORA_E_IO, "%s failed: %s", f.hit, lora_status_name(st));
			}
			if (e % 2 || st == LORA_OK) {
				ck_ok(lora_trainer_resume(w.t, dir, &cursor));
				ck_assert(st == LORA_OK ? cursor == 2 : cursor == 1 || cursor == 2);
			}
			if (!f.hit) break;
		}
	ck_assert_int_gt(failed, 20);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

/* A resume in the middle of a step that will be skipped still skips it. */
START_TEST(skip_survives_resume)
{
	world w;
	scratch d;
	lora_metrics x;
	scratch_make(&d);
	world_make(&w, "{\"gradient_accumulation_steps\":2}");
	ck_ok(step(&w, 0, &x));
	ck_ok(step(&w, 1, &x));
	poison(&w, 1);
	ck_ok(step(&w, 2, &x));
	poison(&w, 0);
	ck_ok(lora_trainer_save(w.t, d.dir, 3));
	world_free(&w);
	world_make(&w, "{\"gradient_accumulation_steps\":2}");
	ck_ok(lora_trainer_resume(w.t, d.dir, NULL));
	ck_ok(step(&w, 3, &x));
	ck_assert_int_eq(x.updated, 0);
	ck_assert_int_eq(x.skipped, 1);
	ck_assert_int_eq(x.step, 1);
	world_free(&w);
	scratch_remove(&d);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("resume");
	TCase *t = tcase_create("resume");
	tcase_set_timeout(t, 300);
	tcase_add_loop_test(t, resume_at_every_k, 0, check_quick() ? 1 : N_RUNS);
	tcase_add_test(t, dropout_key_matters);
	tcase_add_test(t, damaged_checkpoint);
	tcase_add_test(t, two_newest);
	tcase_add_loop_test(t, another_run, 0, N_OTHERS);
	tcase_add_test(t, another_base);
	tcase_add_test(t, killed_save);
	tcase_add_test(t, faulty_save);
	tcase_add_test(t, skip_survives_resume);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
