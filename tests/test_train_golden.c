/* The trainer against trainings recorded with PEFT in float64 (tests/golden/train). */
#include <check.h>

#include "trainwork.h"

static const char *const goldens[] = { "llama-qv-adamw", "llama-qv-adamw-clip", "llama-qv-adamw-cosine-warmup", "llama-qv-adamw-linear-warmup",
	"llama-qv-adamw-accum2", "llama-qv-adamw-accum2-tokens", "llama-qv-sgd-momentum", "llama-all-adamw", "llama-all-rslora" };
enum { N_GOLDENS = sizeof goldens / sizeof *goldens };

static double number(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }

static lora_settings *optimizer_settings(const json_t *c)
{
	lora_settings *s;
	const json_t *o = json_object_get(c, "optimizer"), *betas = json_object_get(o, "betas");
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_float(s, "learning_rate", number(o, "lr")));
	ck_ok(lora_settings_set_float(s, "weight_decay", number(o, "weight_decay")));
	if (betas) {
		ck_ok(lora_settings_set_float(s, "adam_beta1", json_number_value(json_array_get(betas, 0))));
		ck_ok(lora_settings_set_float(s, "adam_beta2", json_number_value(json_array_get(betas, 1))));
		ck_ok(lora_settings_set_float(s, "adam_epsilon", number(o, "eps")));
	} else {
		ck_ok(lora_settings_set_float(s, "momentum", number(o, "momentum")));
	}
	return s;
}

static lora_settings *trainer_settings(const json_t *c)
{
	lora_settings *s;
	const json_t *schedule = json_object_get(c, "schedule"), *clip = json_object_get(c, "max_grad_norm");
	const char *reduction = json_string_value(json_object_get(c, "reduction"));
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_float(s, "max_grad_norm", json_is_null(clip) ? 0 : json_number_value(clip)));
	ck_ok(lora_settings_set_int(s, "gradient_accumulation_steps", (int64_t)number(c, "accumulation")));
	ck_ok(lora_settings_set_string(s, "loss_average", strcmp(reduction, "mean_of_means") == 0 ? "micro_batches" : "tokens"));
	ck_ok(lora_settings_set_string(s, "lr_scheduler_type", json_is_null(schedule) ? "constant" : json_string_value(json_object_get(schedule, "name"))));
	if (!json_is_null(schedule)) {
		ck_ok(lora_settings_set_int(s, "max_steps", (int64_t)number(schedule, "num_training_steps")));
		ck_ok(lora_settings_set_int(s, "warmup_steps", (int64_t)number(schedule, "num_warmup_steps")));
	}
	return s;
}

typedef struct golden_data { int32_t *ids, *labels; int64_t slabs, rows, columns; } golden_data;

static golden_data read_data(const char *name)
{
	lora__tensors t;
	char path[256];
	snprintf(path, sizeof path, "tests/golden/train/%s/data.safetensors", name);
	ck_ok(lora__safetensors_open(golden_ctx, path, &t));
	const int64_t *shape = lora__tensors_find(&t, "input_ids")->shape;
	golden_data d = { golden_ints(&t, "input_ids"), golden_ints(&t, "labels"), shape[0], shape[1], shape[2] };
	lora__tensors_close(&t);
	return d;
}

static lora_batch slab(const golden_data *d, int64_t k)
{
	int64_t at = k * d->rows * d->columns;
	return (lora_batch){ .struct_size = sizeof(lora_batch), .n_sequences = d->rows, .length = d->columns, .input_ids = d->ids + at, .labels = d->labels + at };
}

static void near(const char *what, int step, double got, double want, double bound)
{
	ck_assert_msg(fabs(got - want) <= bound, "step %d: %s %.9g, wanted %.9g: off by %.3g, bound %.3g", step, what, got, want, fabs(got - want), bound);
}

/* No training has a suggested tolerance of its own; the rule for all cases is ten times what torch in float32 shows, at least 2e-5. In float64
 * the arithmetic is the reference's own, up to parameters and moments in F32. */
static void run_golden(const char *name, const char *dtype, int checkpointing)
{
	char path[256];
	lora_model *m;
	lora_adapter *a;
	lora_optimizer *o;
	lora_trainer *t;
	golden_context("auto", 2);
	json_t *c = golden_json("tests/golden/train/%s/case.json", name), *f32 = json_object_get(c, "float32_in_torch");
	lora_settings *sm, *so = optimizer_settings(c), *st = trainer_settings(c);
	ck_ok(lora_settings_set_bool(st, "gradient_checkpointing", checkpointing));
	ck_ok(lora_settings_create(golden_ctx, &sm));
	ck_ok(lora_settings_set_string(sm, "dtype", dtype));
	ck_ok(lora_model_open(golden_ctx, MODEL, sm, &m));
	snprintf(path, sizeof path, "tests/golden/train/%s/adapter-initial", name);
	ck_ok(lora_adapter_open(m, path, NULL, &a));
	ck_ok(lora_adapter_attach(a, 1.0));
	ck_ok(lora_optimizer_create(a, json_string_value(json_object_get(json_object_get(c, "optimizer"), "kind")), so, &o));
	ck_ok(lora_trainer_create(m, a, o, st, &t));
	golden_data d = read_data(name);
	int64_t accumulation = (int64_t)number(c, "accumulation");
	for (int64_t k = 0; k < d.slabs; k++) {
		lora_metrics x = { .struct_size = sizeof x };
		lora_batch b = slab(&d, k);
		ck_ok(lora_trainer_step(t, &b, &x));
		int last = (k + 1) % accumulation == 0, step = (int)(k / accumulation);
		ck_assert_int_eq(x.updated, last);
		ck_assert_int_eq(x.micro_step, last ? 0 : (k + 1) % accumulation);
		if (!last) continue;
		ck_assert_int_eq(x.step, step + 1);
		double norm = json_number_value(json_array_get(json_object_get(c, "grad_norm"), (size_t)step));
		near("loss", step, x.loss, json_number_value(json_array_get(json_object_get(c, "loss"), (size_t)step)), fmax(2e-5, 10 * number(f32, "loss_max_abs")));
		near("gradient norm", step, x.grad_norm, norm, norm * fmax(1e-4, 10 * number(f32, "grad_norm_max_rel")));
		near("learning rate", step, x.lr, json_number_value(json_array_get(json_array_get(json_object_get(c, "lr"), (size_t)step), 0)), 1e-14);
		ck_assert_int_eq(x.tokens, d.rows * d.columns * accumulation);
	}
	snprintf(path, sizeof path, "tests/golden/train/%s/final.safetensors", name);
	lora__tensors final;
	ck_ok(lora__safetensors_open(golden_ctx, path, &final));
	ck_assert_int_eq(lora_adapter_tensor_count(a), (int64_t)final.n);
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
		lora_tensor_info info;
		size_t n;
		ck_ok(lora_adapter_tensor_info(a, i, &info));
		double *want = golden_reals(&final, info.name, &n);
		float *got = malloc(info.bytes);
		ck_ok(lora_adapter_tensor_read(a, i, got, info.bytes));
		check_close(got, want, n, fmax(2e-5, 10 * number(f32, "final_adapter_max_abs")));
		free(want), free(got);
	}
	lora__tensors_close(&final);
	free(d.ids), free(d.labels);
	lora_trainer_destroy(t);
	lora_optimizer_destroy(o);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_settings_destroy(sm);
	lora_settings_destroy(so);
	lora_settings_destroy(st);
	json_decref(c);
	lora_context_destroy(golden_ctx);
}

START_TEST(golden_f32) { run_golden(goldens[_i], "f32", 0); }
END_TEST
START_TEST(golden_f64) { run_golden(goldens[_i], "f64", 0); }
END_TEST
START_TEST(golden_checkpointing) { run_golden(goldens[_i], "f32", 1); }
END_TEST

int main(void)
{
	Suite *s = suite_create("train_golden");
	TCase *t = tcase_create("train_golden");
	tcase_set_timeout(t, 300);
	tcase_add_loop_test(t, golden_f32, 0, N_GOLDENS);
	tcase_add_loop_test(t, golden_f64, 0, check_quick() ? 2 : N_GOLDENS);
	tcase_add_loop_test(t, golden_checkpointing, 0, check_quick() ? 1 : N_GOLDENS);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
