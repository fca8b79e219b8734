/* Memory of training: the estimate against what is taken, exactly where the context counts and loosely where the system does. */
#include <check.h>
#include <stdio.h>
#include <unistd.h>

#include "check_alloc.h"
#include "golden.h"
#include "train/train.h"

#define DEMO "examples/demo/model"
#define SMALL_15M "{\"hidden_size\":288,\"intermediate_size\":768,\"num_hidden_layers\":6,\"num_attention_heads\":6,\"num_key_value_heads\":6," \
	"\"vocab_size\":32000,\"tie_word_embeddings\":true,\"max_position_embeddings\":1024,\"dtype\":\"%s\",\"weight_dtype\":\"BF16\"}"

static const struct { const char *model, *backend, *dtype, *trainer; int sequences, length; } cases[] = {
	{ DEMO, "naive", "f32", "{}", 4, 128 },
	{ DEMO, "naive", "bf16", "{\"gradient_accumulation_steps\":2}", 4, 128 },
	{ DEMO, "naive", "f32", "{\"gradient_checkpointing\":true}", 4, 128 },
	{ DEMO, "auto", "bf16", "{}", 4, 128 },
	{ NULL, "auto", "f32", "{\"gradient_checkpointing\":true}", 2, 128 },
	{ NULL, "auto", "bf16", "{}", 4, 256 },
};
enum { N_CASES = sizeof cases / sizeof *cases };

typedef struct work { lora_model *m; lora_adapter *a; lora_optimizer *o; lora_trainer *t; int32_t *ids; lora_batch b; } work;

static lora_settings *from_json(const char *text)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, text, strlen(text)));
	return s;
}

static void make(work *w, int i)
{
	char json[400];
	lora_model_info info = { .struct_size = sizeof info };
	snprintf(json, sizeof json, SMALL_15M, cases[i].dtype);
	lora_settings *open = cases[i].model ? from_json("{}") : from_json(json), *adapter = from_json("{\"r\":16,\"target_modules\":\"all-linear\"}");
	lora_settings *trainer = from_json(cases[i].trainer);
	if (cases[i].model) ck_ok(lora_settings_set_string(open, "dtype", cases[i].dtype));
	if (cases[i].model) ck_ok(lora_model_open(golden_ctx, cases[i].model, open, &w->m));
	else ck_ok(lora_model_build(golden_ctx, "llama", open, &w->m));
	ck_ok(lora_adapter_create(w->m, "lora", adapter, &w->a));
	ck_ok(lora_adapter_attach(w->a, 1.0));
	ck_ok(lora_optimizer_create(w->a, "adamw", NULL, &w->o));
	ck_ok(lora_trainer_create(w->m, w->a, w->o, trainer, &w->t));
	lora_settings_destroy(open), lora_settings_destroy(adapter), lora_settings_destroy(trainer);
	ck_ok(lora_model_get_info(w->m, &info));
	int64_t n = (int64_t)cases[i].sequences * cases[i].length;
	uint64_t seed = 7;
	w->ids = malloc((size_t)n * sizeof *w->ids);
	for (int64_t k = 0; k < n; k++) w->ids[k] = (int32_t)(check_random(&seed) % (uint64_t)info.vocab_size);
	w->b = (lora_batch){ .struct_size = sizeof w->b, .n_sequences = cases[i].sequences, .length = cases[i].length, .input_ids = w->ids, .labels = w->ids };
}

static void end(work *w)
{
	lora_trainer_destroy(w->t), lora_optimizer_destroy(w->o), lora_adapter_destroy(w->a), lora_model_destroy(w->m);
	free(w->ids);
	lora_context_destroy(golden_ctx);
}

/* A line of /proc/self/status in bytes; -1 where there is none. */
static double status_of(const char *key)
{
	char line[256];
	double value = -1;
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, key, strlen(key))) value = strtod(line + strlen(key) + 1, NULL) * 1024;
	if (f) fclose(f);
	return value;
}

/* Start the peak of resident memory anew; 0 when this system can't. */
static int forget_peak(void)
{
	FILE *f = fopen("/proc/self/clear_refs", "w");
	int ok = f && fputs("5", f) >= 0;
	return f && !fclose(f) && ok && status_of("VmHWM") > 0;
}

static void close_to(const char *what, double told, double taken, double share, double slack)
{
	ck_assert_msg(fabs(told - taken) <= share * taken + slack, "%s: told %.2f MiB, taken %.2f MiB", what, told / 1048576, taken / 1048576);
}

START_TEST(estimates)
{
	work w;
	uint64_t now, peak;
	lora_memory_estimate e = { .struct_size = sizeof e }, after = e;
	int resident = forget_peak();
	double start = status_of("VmRSS");
	golden_context(cases[_i].backend, 2);
	make(&w, _i);
	ck_ok(lora_trainer_estimate(w.t, cases[_i].sequences, cases[_i].length, 0, &e));
	for (int k = 0; k < 4; k++) ck_ok(lora_trainer_step(w.t, &w.b, NULL));
	double taken = status_of("VmHWM") - start;
	ck_ok(lora_context_memory(golden_ctx, &now, &peak));
	ck_ok(lora_trainer_estimate(w.t, cases[_i].sequences, cases[_i].length, 0, &after));
	ck_assert_uint_eq(e.tokens, cases[_i].sequences * cases[_i].length);
	/* what the trainer decides is told to the byte; packed forms and scratch are the backend's */
	ck_assert_uint_eq(e.activations + e.scratch, lora__block_size(w.m->arena));
	ck_assert_uint_eq(after.activations, e.activations);
	ck_assert_uint_eq(after.adapter, e.adapter);
	ck_assert_uint_eq(after.optimizer, e.optimizer);
	ck_assert_uint_eq(after.weights, e.weights);
	close_to("packed", (double)e.packed, (double)w.m->s.pack_bytes, 0.1, 0);
	if (!w.m->s.pack_bytes) ck_assert(now >= e.allocated && now - e.allocated <= e.backend);
	ck_assert_msg((double)now >= 0.98 * (double)e.allocated && now <= e.allocated + e.backend, "allocated: told %.2f and %.2f MiB, taken %.2f MiB",
		(double)e.allocated / 1048576, (double)e.backend / 1048576, (double)now / 1048576);
	close_to("the context's peak", (double)peak, (double)now, 0.01, 0);
	if (resident) close_to("resident memory", (double)e.peak, taken, 0.1, 4e6);
	end(&w);
}
END_TEST

/* After reserving, no step allocates, not even the first, whatever smaller batch comes. The backend's own scratch is warm. */
START_TEST(reserved)
{
	work w, warm;
	check_alloc ca;
	check_alloc_init(&ca);
	golden_ctx = check_context(&ca);
	make(&warm, _i);
	ck_ok(lora_trainer_step(warm.t, &warm.b, NULL));
	make(&w, _i);
	ck_ok(lora_trainer_reserve(w.t, cases[_i].sequences, cases[_i].length, 0));
	check_alloc_arm(&ca, 0, 0);
	for (int k = 0; k < 4; k++) {
		lora_batch b = w.b;
		b.length = cases[_i].length >> (k % 3), b.n_sequences -= k == 3;
		ck_ok(lora_trainer_step(w.t, &b, NULL));
	}
	ck_assert_int_eq(ca.calls, 0);
	lora_trainer_destroy(warm.t), lora_optimizer_destroy(warm.o), lora_adapter_destroy(warm.a), lora_model_destroy(warm.m);
	free(warm.ids);
	end(&w);
	check_alloc_done(&ca);
}
END_TEST

START_TEST(bad_arguments)
{
	work w;
	lora_memory_estimate e = { .struct_size = sizeof e };
	golden_context("naive", 1);
	make(&w, 0);
	check_fails(LORA_E_ARGUMENT, lora_trainer_estimate(NULL, 1, 8, 0, &e));
	check_fails(LORA_E_ARGUMENT, lora_trainer_estimate(w.t, 1, 8, 0, NULL));
	check_fails(LORA_E_ARGUMENT, lora_trainer_estimate(w.t, 0, 8, 0, &e));
	check_fails(LORA_E_ARGUMENT, lora_trainer_estimate(w.t, 1, -8, 0, &e));
	check_fails(LORA_E_ARGUMENT, lora_trainer_estimate(w.t, 1, 8, 9, &e));
	check_fails(LORA_E_ARGUMENT, lora_trainer_estimate(w.t, INT64_MAX / 2, 8, 0, &e));
	check_fails(LORA_E_ARGUMENT, lora_trainer_reserve(w.t, 1 << 20, 1 << 20, 0));
	check_fails(LORA_E_ARGUMENT, lora_trainer_reserve(NULL, 1, 8, 0));
	e.struct_size = 4;
	check_fails(LORA_E_ARGUMENT, lora_trainer_estimate(w.t, 1, 8, 0, &e));
	/* fewer real tokens take less */
	lora_memory_estimate full = { .struct_size = sizeof full }, half = full;
	ck_ok(lora_trainer_estimate(w.t, 4, 64, 256, &full));
	ck_ok(lora_trainer_estimate(w.t, 4, 64, 128, &half));
	ck_assert_uint_lt(half.tokens, full.tokens);
	ck_ok(lora_adapter_set_trainable(w.a, 0));
	e.struct_size = sizeof e;
	check_fails(LORA_E_STATE, lora_trainer_estimate(w.t, 1, 8, 0, &e));
	check_fails(LORA_E_STATE, lora_trainer_reserve(w.t, 1, 8, 0));
	end(&w);
}
END_TEST

/* An estimate takes nothing large, also of a batch that would never fit. */
START_TEST(estimate_is_cheap)
{
	work w;
	uint64_t before, now;
	lora_memory_estimate e = { .struct_size = sizeof e };
	golden_context("naive", 1);
	make(&w, 0);
	ck_ok(lora_context_memory(golden_ctx, &before, NULL));
	ck_ok(lora_trainer_estimate(w.t, 1 << 12, 256, 0, &e));
	ck_ok(lora_context_memory(golden_ctx, &now, NULL));
	ck_assert_uint_gt(e.activations, (uint64_t)10 << 30);
	ck_assert_uint_lt(now - before, (uint64_t)64 << 20);
	end(&w);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("memory");
	TCase *t = tcase_create("memory");
	tcase_set_timeout(t, 300);
	tcase_add_loop_test(t, estimates, 0, N_CASES);
	tcase_add_loop_test(t, reserved, 0, 3);
	tcase_add_test(t, bad_arguments);
	tcase_add_test(t, estimate_is_cheap);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
