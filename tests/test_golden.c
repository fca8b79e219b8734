/* The library against transformers and PEFT: models and adapters of tests/golden, logits, loss, every gradient and merged weights, in F32 on
 * every backend and in F64 on naive. References were computed in float64. LORA_GOLDEN names a folder with more of them (models/, peft/). */
#include <unistd.h>

#include "golden.h"

static const char *const backends[] = { "naive", "auto" };
static const char *const models[] = { "llama/model", "llama/model-bf16", "llama/model-f16", "llama/model-sharded", "llama-bias/model",
	"llama-linear-rope/model", "llama-tied/model", "llama-yarn/model", "llama3/model", "qwen2/model", "qwen3/model", "gemma2/model", "gemma3_text/model",
	"phi3/model", "gpt2/model", "gpt_neox/model", "opt/model", "olmo2/model", "smollm3/model", "starcoder2/model" };
static const char *const adapters[] = { "lora-default", "lora-all-linear", "lora-regex", "lora-rslora", "lora-rank-alpha-pattern",
	"lora-layers-to-transform", "lora-exclude-modules", "lora-dropout", "lora-negative-alpha", "lora-bf16-adapter", "lora-arch-llama-bias",
	"lora-arch-llama-linear-rope", "lora-arch-llama-tied", "lora-arch-llama-yarn", "lora-arch-llama3", "lora-gemma2", "lora-phi3", "lora-gpt2-conv1d",
	"lora-gpt_neox", "lora-embedding", "lora-embedding-tied" };
/* Only where LORA_GOLDEN has them. */
static const char *const more_models[] = { "mistral/model", "mistral/model-bf16", "qwen2/model-bf16", "gemma/model", "gpt2/model-bf16", "gpt_neox-serial/model" };
static const char *const more_adapters[] = { "lora-arch-gemma", "lora-arch-gemma3_text", "lora-arch-gpt_neox-serial", "lora-arch-mistral", "lora-arch-olmo2",
	"lora-arch-opt", "lora-arch-qwen3", "lora-arch-smollm3", "lora-arch-starcoder2" };
enum { N_MORE_MODELS = sizeof more_models / sizeof *more_models, N_MORE_ADAPTERS = sizeof more_adapters / sizeof *more_adapters };
static const char *root = "tests/golden";
enum { N_MODELS = sizeof models / sizeof *models, N_ADAPTERS = sizeof adapters / sizeof *adapters, N_BACKENDS = 2 };

static lora_model *open_model(const char *path, const char *dtype)
{
	lora_settings *s;
	lora_model *m;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_string(s, "dtype", dtype));
	ck_ok(lora_model_open(golden_ctx, path, s, &m));
	lora_settings_destroy(s);
	return m;
}

static int64_t vocab_of(const lora_model *m)
{
	lora_model_info i = { .struct_size = sizeof i };
	ck_ok(lora_model_get_info(m, &i));
	return i.vocab_size;
}

/* Compare one pass of a model (with whatever is attached) on inputs to the logits of io. Returns the loss. */
static double check_pass(lora_model *m, const lora__tensors *inputs, const lora__tensors *io, double tolerance)
{
	golden_batch g = golden_read_batch(inputs);
	int64_t vocab = vocab_of(m), tokens;
	size_t n, bytes = sizeof(float) * (size_t)(g.b.n_sequences * g.b.length * vocab);
	double *want = golden_reals(io, "logits", &n), loss;
	float *got = malloc(bytes), *again = malloc(bytes);
	ck_ok(lora_model_forward(m, &g.b, got, bytes));
	double gap = golden_logits_gap(&g, got, want, vocab);
	ck_assert_msg(gap <= tolerance, "logits differ by %g, tolerance %g", gap, tolerance);
	ck_ok(lora_model_loss(m, &g.b, &loss, &tokens));
	ck_assert_int_gt(tokens, 0);
	double loss2;
	ck_ok(lora_model_backward(m, &g.b, again, bytes, &loss2, NULL));
	ck_assert(memcmp(got, again, bytes) == 0);
	ck_assert_double_eq_tol(loss, loss2, 1e-6);
	free(want), free(got), free(again);
	golden_free_batch(&g);
	return loss;
}

static void check_loss(double got, double want, double tolerance)
{
	ck_assert_msg(fabs(got - want) <= tolerance, "loss %.9f, expected %.9f, tolerance %g", got, want, tolerance);
}

static double text_number(const json_t *o, const char *key) { return atof(json_string_value(json_object_get(o, key))); }
static double tolerance_of(const json_t *c, const char *key) { return json_number_value(json_object_get(json_object_get(c, "suggested_tolerance"), key)); }

static void one_model(const char *which, const char *backend, const char *dtype)
{
	char name[64], path[512], *slash;
	snprintf(name, sizeof name, "%s", which);
	slash = strchr(name, '/');
	*slash = 0;
	const char *twin = slash + 1;
	snprintf(path, sizeof path, "%s/models/%s/case.json", root, name);
	json_t *c = golden_json("%s", path);
	json_t *t = json_object_get(json_object_get(c, "twins"), twin);
	const char *io_name = t ? json_string_value(json_object_get(t, "io")) : "io.safetensors";
	golden_context(backend, 2);
	snprintf(path, sizeof path, "%s/models/%s", root, which);
	lora_model *m = open_model(path, dtype);
	snprintf(path, sizeof path, "%s/models/%s/%s", root, name, io_name);
	lora__tensors io, inputs;
	ck_ok(lora__safetensors_open(golden_ctx, path, &io));
	snprintf(path, sizeof path, "%s/models/%s/io.safetensors", root, name); /* twins share its inputs */
	ck_ok(lora__safetensors_open(golden_ctx, path, &inputs));
	int f64 = strcmp(dtype, "f64") == 0;
	double loss = check_pass(m, &inputs, &io, f64 ? 1e-6 : tolerance_of(c, "logits_abs"));
	lora__tensors_close(&inputs);
	check_loss(loss, text_number(t ? t : c, "loss"), f64 ? 1e-11 : tolerance_of(c, "loss_abs"));
	lora__tensors_close(&io);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	json_decref(c);
}

START_TEST(model_f32) { one_model(models[_i % N_MODELS], backends[_i / N_MODELS], "f32"); }
END_TEST

START_TEST(model_f64) { one_model(models[_i], "naive", "f64"); }
END_TEST

/* The older spelling of config.json gives the same model. */
static void same_config(const char *which)
{
	char dir[128], command[3000], path[512];
	snprintf(dir, sizeof dir, "build/tmp-config-v4-%d", (int)getpid());
	char name[64];
	snprintf(name, sizeof name, "%s", which);
	*strchr(name, '/') = 0;
	snprintf(command, sizeof command, "rm -rf %s && mkdir -p %s && cp %s/models/%s/model.safetensors %s/ && cp %s/models/%s/config-v4.json %s/config.json", dir,
		dir, root, which, dir, root, name, dir);
	ck_assert_int_eq(system(command), 0);
	golden_context("naive", 1);
	snprintf(path, sizeof path, "%s/models/%s", root, which);
	lora_model *a = open_model(path, "f32"), *b = open_model(dir, "f32");
	int32_t ids[6] = { 5, 9, 13, 2, 40, 7 };
	lora_batch batch = { .struct_size = sizeof batch, .n_sequences = 1, .length = 6, .input_ids = ids };
	size_t bytes = sizeof(float) * 6 * (size_t)vocab_of(a);
	float *x = malloc(bytes), *y = malloc(bytes);
	ck_ok(lora_model_forward(a, &batch, x, bytes));
	ck_ok(lora_model_forward(b, &batch, y, bytes));
	ck_assert(memcmp(x, y, bytes) == 0);
	free(x), free(y);
	lora_model_destroy(a);
	lora_model_destroy(b);
	lora_context_destroy(golden_ctx);
	snprintf(command, sizeof command, "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

START_TEST(config_v4) { same_config(models[_i]); }
END_TEST

static void check_gradients(lora_adapter *a, const lora__tensors *io, double relative)
{
	double top = 0, worst = 0;
	char key[512];
	for (int pass = 0; pass < 2; pass++) {
		for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
			lora_tensor_info t;
			size_t n;
			ck_ok(lora_adapter_tensor_info(a, i, &t));
			snprintf(key, sizeof key, "grad.%s", t.name);
			double *want = golden_reals(io, key, &n);
			ck_assert_uint_eq(n * sizeof(float), t.bytes);
			float *got = malloc(t.bytes);
			ck_ok(lora_adapter_gradient_read(a, i, got, t.bytes));
			for (size_t k = 0; k < n; k++) {
				top = fmax(top, fabs(want[k]));
				double d = fabs((double)got[k] - want[k]);
				worst = fmax(worst, d);
				if (pass) ck_assert_msg(d <= relative * top, "%s[%zu]: gradient %g, expected %g (largest %g)", t.name, k, got[k], want[k], top);
			}
			free(want), free(got);
		}
	}
}

/* Merged weights at the stored sites, in the base's F32. */
static void check_merged(lora_model *m, lora_adapter *a, const lora__tensors *io, double tolerance)
{
	ck_ok(lora_adapter_merge(a, NULL));
	for (size_t i = 0; i < io->n; i++) {
		if (strncmp(io->list[i].name, "merged.", 7)) continue;
		char name[256];
		snprintf(name, sizeof name, "%s", io->list[i].name + 7);
		*strstr(name, ".weight") = 0;
		int64_t site;
		lora_site_info s = { .struct_size = sizeof s };
		size_t n;
		ck_ok(lora_model_find_site(m, name, &site));
		ck_ok(lora_model_site_info(m, site, &s));
		double *want = golden_reals(io, io->list[i].name, &n);
		ck_assert_int_eq(s.dtype, LORA_F32);
		for (size_t k = 0; k < n; k++) ck_assert_double_eq_tol(((const float *)s.data)[k], want[k], tolerance);
		free(want);
	}
	ck_ok(lora_adapter_unmerge(a));
}

static void one_adapter(const char *name, const char *backend, const char *dtype)
{
	char path[512];
	snprintf(path, sizeof path, "%s/peft/%s/case.json", root, name);
	json_t *c = golden_json("%s", path);
	golden_context(backend, 2);
	snprintf(path, sizeof path, "%s/%s/model", root, json_string_value(json_object_get(c, "base")));
	lora_model *m = open_model(path, dtype);
	lora_adapter *a;
	lora__tensors io;
	snprintf(path, sizeof path, "%s/peft/%s/adapter", root, name);
	ck_ok(lora_adapter_open(m, path, NULL, &a));
	ck_ok(lora_adapter_attach(a, 1.0));
	snprintf(path, sizeof path, "%s/peft/%s/io.safetensors", root, name);
	ck_ok(lora__safetensors_open(golden_ctx, path, &io));
	int f64 = strcmp(dtype, "f64") == 0;
	double loss = check_pass(m, &io, &io, f64 ? 1e-6 : tolerance_of(c, "logits_abs"));
	check_loss(loss, text_number(c, "loss"), f64 ? 1e-11 : 1e-5);
	check_gradients(a, &io, f64 ? 2e-7 : tolerance_of(c, "grad_rel_to_max"));
	if (!f64) check_merged(m, a, &io, tolerance_of(c, "merged_abs"));
	lora__tensors_close(&io);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	json_decref(c);
}

START_TEST(adapter_f32) { one_adapter(adapters[_i % N_ADAPTERS], backends[_i / N_ADAPTERS], "f32"); }
END_TEST

START_TEST(adapter_f64) { one_adapter(adapters[_i], "naive", "f64"); }
END_TEST

/* The whole set of references, when there is one on this machine. */
START_TEST(more)
{
	root = getenv("LORA_GOLDEN");
	if (!root || !*root) {
		if (_i == 0) fprintf(stderr, "skipped: more models and adapters: LORA_GOLDEN is not set\n");
		return;
	}
	for (int b = 0; b <= N_BACKENDS; b++) {
		const char *backend = b < N_BACKENDS ? backends[b] : "naive", *dtype = b < N_BACKENDS ? "f32" : "f64";
		if (_i < N_MORE_MODELS) one_model(more_models[_i], backend, dtype);
		else one_adapter(more_adapters[_i - N_MORE_MODELS], backend, dtype);
	}
	if (_i < N_MORE_MODELS && strstr(more_models[_i], "/model-") == NULL) same_config(more_models[_i]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("golden");
	TCase *t = tcase_create("golden");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, model_f32, 0, N_MODELS * N_BACKENDS);
	tcase_add_loop_test(t, model_f64, 0, N_MODELS);
	tcase_add_loop_test(t, config_v4, 4, N_MODELS);
	tcase_add_loop_test(t, adapter_f32, 0, N_ADAPTERS * N_BACKENDS);
	tcase_add_loop_test(t, adapter_f64, 0, N_ADAPTERS);
	tcase_add_loop_test(t, more, 0, N_MORE_MODELS + N_MORE_ADAPTERS);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
