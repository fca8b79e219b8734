/* Training with BF16 activations: gradients beside those of F32, the loss curve of a recorded training, the same bits every time, no allocation. */
#include <check.h>
#include <stdio.h>

#include "check_alloc.h"
#include "golden.h"
#include "train/train.h"

#define TINY "tests/golden/models/llama/model"
#define DEMO "examples/demo/model"
#define TEXT "examples/demo/pirate.txt"

enum { MAX_TOKENS = 4096 };

typedef struct work { lora_model *m; lora_adapter *a; lora_optimizer *o; lora_trainer *t; int32_t ids[MAX_TOKENS]; lora_batch b; } work;

static lora_settings *from_json(const char *text)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, text, strlen(text)));
	return s;
}

static void open_model(work *w, const char *path, const char *dtype, const char *adapter)
{
	lora_settings *open = from_json("{}"), *s = from_json(adapter);
	memset(w, 0, sizeof *w);
	ck_ok(lora_settings_set_string(open, "dtype", dtype));
	ck_ok(lora_model_open(golden_ctx, path, open, &w->m));
	ck_ok(lora_adapter_create(w->m, "lora", s, &w->a));
	ck_ok(lora_adapter_attach(w->a, 1.0));
	lora_settings_destroy(open), lora_settings_destroy(s);
}

static void add_trainer(work *w, const char *optimizer, const char *trainer)
{
	lora_settings *so = from_json(optimizer), *st = from_json(trainer);
	ck_ok(lora_optimizer_create(w->a, "adamw", so, &w->o));
	ck_ok(lora_trainer_create(w->m, w->a, w->o, st, &w->t));
	lora_settings_destroy(so), lora_settings_destroy(st);
}

static void close_all(work *w)
{
	lora_trainer_destroy(w->t), lora_optimizer_destroy(w->o), lora_adapter_destroy(w->a), lora_model_destroy(w->m);
}

/* Tokens of real text where the model has a tokenizer, else random ones. */
static void add_batch(work *w, const char *model, int sequences, int length)
{
	lora_model_info info = { .struct_size = sizeof info };
	uint64_t seed = 11;
	int64_t n = 0, cells = (int64_t)sequences * length;
	ck_assert(cells <= MAX_TOKENS);
	ck_ok(lora_model_get_info(w->m, &info));
	if (!strcmp(model, DEMO)) {
		static char text[20000];
		lora_tokenizer *t;
		size_t needed = 0;
		static int32_t all[20000];
		FILE *f = fopen(TEXT, "rb");
		ck_assert(f != NULL);
		size_t bytes = fread(text, 1, sizeof text, f);
		fclose(f);
		while (bytes && ((unsigned char)text[bytes - 1] & 0x80)) bytes--;
		ck_ok(lora_tokenizer_open(golden_ctx, model, &t));
		ck_ok(lora_tokenizer_encode(t, text, bytes, 0, all, 20000, &needed));
		lora_tokenizer_destroy(t);
		for (; n < cells && n < (int64_t)needed; n++) w->ids[n] = all[n];
	}
	for (; n < cells; n++) w->ids[n] = (int32_t)(check_random(&seed) % (uint64_t)info.vocab_size);
	w->b = (lora_batch){ .struct_size = sizeof w->b, .n_sequences = sequences, .length = length, .input_ids = w->ids, .labels = w->ids };
}

/* ---- gradients ---- */

static const struct { const char *model, *adapter; int sequences, length; } models[] = {
	{ TINY, "{\"r\":4,\"init_lora_weights\":false,\"target_modules\":\"all-linear\",\"lora_alpha\":4}", 6, 40 },
	{ DEMO, "{\"r\":8,\"init_lora_weights\":false,\"target_modules\":\"all-linear\",\"lora_alpha\":4}", 8, 128 },
	{ DEMO, "{\"r\":8,\"target_modules\":\"all-linear\"}", 8, 128 }, /* B = 0, as a training begins */
	{ TINY, "{\"r\":4,\"init_lora_weights\":false,\"target_modules\":\"all-linear\",\"lora_alpha\":4}", 30, 40 }, /* the head in several chunks in BF16 too */
};
static const char *const backends[] = { "naive", "auto" };

static double cosine(const float *a, const float *b, size_t n)
{
	double ab = 0, aa = 0, bb = 0;
	for (size_t i = 0; i < n; i++) ab += (double)a[i] * b[i], aa += (double)a[i] * a[i], bb += (double)b[i] * b[i];
	return aa == 0 && bb == 0 ? 1 : ab / sqrt(aa * bb);
}

START_TEST(gradients)
{
	static float want[1 << 20], got[1 << 20];
	const char *model = models[_i / 2].model;
	double loss[2];
	size_t n = 0;
	for (int half = 0; half < 2; half++) {
		work w;
		golden_context(backends[_i % 2], 2);
		open_model(&w, model, half ? "bf16" : "f32", models[_i / 2].adapter);
		add_batch(&w, model, models[_i / 2].sequences, models[_i / 2].length);
		ck_ok(lora_model_backward(w.m, &w.b, NULL, 0, &loss[half], NULL));
		n = w.a->n_params;
		ck_assert(n <= sizeof got / sizeof *got);
		memcpy(half ? got : want, w.a->grads, n * sizeof(float));
		if (half) {
			double all = cosine(got, want, n);
			ck_assert_msg(all >= 0.999, "cosine of all gradients %.6f", all);
			for (size_t i = 0; i < w.a->n_tensors; i++) {
				double one = cosine(got + w.a->tensors[i].offset, want + w.a->tensors[i].offset, w.a->tensors[i].n);
				ck_assert_msg(one >= 0.99, "cosine of %s %.6f", w.a->tensors[i].name, one);
			}
		}
		close_all(&w);
		lora_context_destroy(golden_ctx);
	}
	ck_assert_msg(fabs(loss[1] - loss[0]) <= 0.01 * loss[0], "loss %.6f, in F32 %.6f", loss[1], loss[0]);
	ck_assert(memcmp(got, want, n * sizeof(float)) != 0); /* it is another arithmetic */
}
END_TEST

/* ---- the same bits ---- */

START_TEST(same_bits)
{
	static float first[1 << 16];
	size_t n = 0;
	for (int run = 0; run < 2; run++) {
		work w;
		golden_context(backends[_i % 2], 1 + _i / 2);
		open_model(&w, DEMO, "bf16", "{\"r\":8,\"lora_dropout\":0.1,\"target_modules\":[\"q_proj\",\"v_proj\",\"down_proj\"]}");
		add_trainer(&w, "{\"learning_rate\":0.003}", "{\"gradient_accumulation_steps\":2,\"seed\":3}");
		add_batch(&w, DEMO, 8, 96);
		for (int k = 0; k < 8; k++) ck_ok(lora_trainer_step(w.t, &w.b, NULL));
		n = w.a->n_params;
		ck_assert(n <= sizeof first / sizeof *first);
		if (run) ck_assert_mem_eq(first, w.a->params, n * sizeof(float));
		else memcpy(first, w.a->params, n * sizeof(float));
		close_all(&w);
		lora_context_destroy(golden_ctx);
	}
}
END_TEST

/* ---- no allocation ---- */

static const struct { const char *dtype, *trainer; } quiet[] = {
	{ "bf16", "{}" },
	{ "bf16", "{\"gradient_checkpointing\":true}" },
	{ "bf16", "{\"gradient_accumulation_steps\":2}" },
	{ "bf16", "{\"gradient_checkpointing\":true,\"gradient_accumulation_steps\":2,\"max_grad_norm\":0.1}" },
	{ "f32", "{\"gradient_checkpointing\":true,\"gradient_accumulation_steps\":2}" },
};
enum { N_QUIET = sizeof quiet / sizeof *quiet };

START_TEST(no_allocation)
{
	work w;
	check_alloc ca;
	lora_context_options o;
	check_alloc_init(&ca);
	lora_context_options_init(&o, sizeof o);
	o.allocator = &ca.table, o.threads = 2, o.backend = backends[_i / N_QUIET];
	ck_assert_int_eq(lora_context_create(LORA_ABI, &o, &golden_ctx), LORA_OK);
	open_model(&w, DEMO, quiet[_i % N_QUIET].dtype, "{\"r\":8,\"lora_dropout\":0.1,\"target_modules\":\"all-linear\"}");
	add_trainer(&w, "{}", quiet[_i % N_QUIET].trainer);
	add_batch(&w, DEMO, 4, 64);
	for (int k = 0; k < 2; k++) ck_ok(lora_trainer_step(w.t, &w.b, NULL)); /* the first step, also when two micro-batches make one */
	check_alloc_arm(&ca, 0, 0);
	for (int k = 0; k < 6; k++) ck_ok(lora_trainer_step(w.t, &w.b, NULL));
	ck_assert_int_eq(ca.calls, 0);
	close_all(&w);
	lora_context_destroy(golden_ctx);
	check_alloc_done(&ca);
}
END_TEST

/* ---- a recorded training ---- */

/* 200 steps of stories260K, recorded in float64 ($LORA_GOLDEN/stories260K-hf, stories260K-train): every loss within 1 % in BF16, 1e-4 in F32. */
START_TEST(recorded_training)
{
	const char *root = getenv("LORA_GOLDEN");
	char path[600];
	lora__tensors data;
	json_error_t e;
	if (!root || !*root) {
		check_skip("the recorded training of stories260K: LORA_GOLDEN is not set");
		return;
	}
	int half = _i % 2 == 0;
	golden_context(backends[_i / 2], 2);
	snprintf(path, sizeof path, "%s/stories260K-train/reference.json", root);
	json_t *reference = json_load_file(path, 0, &e), *losses = json_object_get(json_object_get(reference, "float64"), "loss");
	ck_assert_msg(json_array_size(losses) == 200, "%s: %s", path, e.text);
	work w = { 0 };
	lora_settings *open = from_json(half ? "{\"dtype\":\"bf16\"}" : "{\"dtype\":\"f32\"}");
	snprintf(path, sizeof path, "%s/stories260K-hf", root);
	ck_ok(lora_model_open(golden_ctx, path, open, &w.m));
	snprintf(path, sizeof path, "%s/stories260K-train/adapter_init", root);
	ck_ok(lora_adapter_open(w.m, path, NULL, &w.a));
	ck_ok(lora_adapter_attach(w.a, 1.0));
	ck_ok(lora_adapter_set_trainable(w.a, 1));
	add_trainer(&w, "{\"learning_rate\":0.003,\"weight_decay\":0}", "{\"max_grad_norm\":0,\"lr_scheduler_type\":\"constant\"}");
	snprintf(path, sizeof path, "%s/stories260K-train/train.safetensors", root);
	ck_ok(lora__safetensors_open(golden_ctx, path, &data));
	int32_t *ids = golden_ints(&data, "input_ids");
	double worst = 0;
	for (int k = 0; k < 200; k++) {
		lora_metrics x = { .struct_size = sizeof x };
		lora_batch b = { .struct_size = sizeof b, .n_sequences = 8, .length = 128, .input_ids = ids + k * 1024, .labels = ids + k * 1024 };
		ck_ok(lora_trainer_step(w.t, &b, &x));
		double want = json_number_value(json_array_get(losses, (size_t)k)), off = fabs(x.loss - want) / want;
		worst = fmax(worst, off);
		ck_assert_msg(off <= (half ? 0.01 : 1e-4), "step %d: loss %.6f, recorded %.6f", k + 1, x.loss, want);
	}
	printf("stories260K, %s, %s: largest difference of a loss %.2g\n", half ? "bf16" : "f32", lora_context_backend_name(golden_ctx), worst);
	free(ids);
	lora__tensors_close(&data);
	lora_settings_destroy(open);
	json_decref(reference);
	close_all(&w);
	lora_context_destroy(golden_ctx);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("bf16");
	TCase *t = tcase_create("bf16");
	tcase_set_timeout(t, 300);
	tcase_add_loop_test(t, gradients, 0, 2 * (int)(sizeof models / sizeof *models));
	tcase_add_loop_test(t, same_bits, 0, 4);
	tcase_add_loop_test(t, no_allocation, 0, 2 * N_QUIET);
	tcase_add_loop_test(t, recorded_training, 0, 4);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
