/* Checkpoints of bitsandbytes as bases: logits with an adapter and its gradients against references that were computed in float64 from the decoded
 * weights (PEFT, transformers), a merged model, and files that are wrong. One checkpoint is here; LORA_GOLDEN names a folder with more (nf4/). */
#include "golden.h"
#include "faults.h"

static const char *const cases[] = { "nf4-dq-bf16", "nf4-f32", "fp4-f16" };
static const int32_t ids[] = { 56, 161, 344, 78, 429, 174, 378, 69, 263, 506, 222, 431, 368, 437, 506, 324,
	351, 395, 289, 112, 351, 368, 104, 324, 419, 106, 32, 498, 178, 246, 253, 447 };
static const lora_batch batch = { .struct_size = sizeof batch, .n_sequences = 2, .length = 16, .input_ids = ids, .labels = ids };
enum { LOGITS = 32 * 512 };
static const char *root = "tests/golden";

static lora_model *open_base(const char *path)
{
	lora_settings *s;
	lora_model *m = NULL;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_string(s, "dtype", "f64"));
	ck_ok(lora_model_open(golden_ctx, path, s, &m));
	lora_settings_destroy(s);
	return m;
}

static lora_model *open_case(const char *name)
{
	char path[512];
	snprintf(path, sizeof path, "%s/nf4/tiny-llama-%s", root, name);
	return open_base(path);
}

static lora_adapter *open_adapter(lora_model *m)
{
	lora_adapter *a;
	ck_ok(lora_adapter_open(m, "tests/golden/nf4/adapter", NULL, &a));
	ck_ok(lora_adapter_attach(a, 1.0));
	return a;
}

static double gap(const float *got, const double *want, size_t n)
{
	double worst = 0;
	for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)got[i] - want[i]));
	return worst;
}

START_TEST(base)
{
	char key[512], path[512];
	lora__tensors io;
	size_t n;
	double loss;
	float *got = malloc(LOGITS * sizeof *got);
	if (_i && strcmp(root, "tests/golden") == 0) {
		free(got);
		return;
	}
	golden_context("naive", 2);
	snprintf(path, sizeof path, "%s/nf4/expected.safetensors", root);
	ck_ok(lora__safetensors_read(golden_ctx, path, &io));
	lora_model *m = open_case(cases[_i]);
	lora_adapter *a = open_adapter(m);
	ck_ok(lora_adapter_set_trainable(a, 1));
	ck_ok(lora_model_backward(m, &batch, got, LOGITS * sizeof *got, &loss, NULL));
	snprintf(key, sizeof key, "%s.logits_with_adapter", cases[_i]);
	double *want = golden_reals(&io, key, &n);
	ck_assert_uint_eq(n, LOGITS);
	ck_assert_msg(gap(got, want, n) < 1e-6, "logits differ by %g", gap(got, want, n)); /* they are given in F32 */
	free(want);
	ck_assert_int_eq(lora_adapter_tensor_count(a), 28);
	for (int64_t i = 0; i < 28; i++) {
		lora_tensor_info t;
		ck_ok(lora_adapter_tensor_info(a, i, &t));
		snprintf(key, sizeof key, "%s.grad.%s", cases[_i], t.name);
		want = golden_reals(&io, key, &n);
		float *gradient = malloc(t.bytes);
		double top = 0;
		ck_assert_uint_eq(n * sizeof *gradient, t.bytes);
		ck_ok(lora_adapter_gradient_read(a, i, gradient, t.bytes));
		for (size_t k = 0; k < n; k++) top = fmax(top, fabs(want[k]));
		ck_assert_msg(gap(gradient, want, n) < 2e-7 * top, "%s: %g of %g", key, gap(gradient, want, n), top);
		free(gradient);
		free(want);
	}
	lora__tensors_close(&io);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	free(got);
}
END_TEST

/* Decoded weights are weights like others: a merged model is saved whole, and nothing of the four bits is left. */
START_TEST(merged)
{
	scratch room;
	float *got = malloc(LOGITS * sizeof *got), *again = malloc(LOGITS * sizeof *again);
	scratch_make(&room);
	golden_context("naive", 1);
	lora_settings *s;
	const char *dir = scratch_path(&room, "merged");
	char path[512];
	lora_model *m = open_case(cases[0]);
	lora_adapter *a = open_adapter(m);
	ck_ok(lora_adapter_merge(a, NULL));
	ck_ok(lora_model_forward(m, &batch, got, LOGITS * sizeof *got));
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_model_save(m, dir, s));
	lora_settings_destroy(s);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	m = open_base(dir);
	ck_ok(lora_model_forward(m, &batch, again, LOGITS * sizeof *again));
	ck_assert(memcmp(got, again, LOGITS * sizeof *got) == 0);
	lora_model_destroy(m);
	lora__tensors t;
	snprintf(path, sizeof path, "%s/model.safetensors", dir);
	ck_ok(lora__safetensors_read(golden_ctx, path, &t));
	for (size_t i = 0; i < t.n; i++) ck_assert_msg(t.list[i].dtype == LORA_BF16 && !strstr(t.list[i].name, ".weight."), "%s is left", t.list[i].name);
	lora__tensors_close(&t);
	snprintf(path, sizeof path, "%s/config.json", dir);
	json_t *config = golden_json("%s", path);
	ck_assert(!json_object_get(config, "quantization_config"));
	json_decref(config);
	lora_context_destroy(golden_ctx);
	scratch_remove(&room);
	free(got), free(again);
}
END_TEST

/* One tensor of a weight in another form: dtype and bytes of 0 leave it out; text: what its state says. */
static const struct { const char *part, *text; lora_dtype dtype; uint64_t bytes; const char *says; } wrong[] = {
	{ ".quant_map", NULL, 0, 0, "16 numbers of type F32" },
	{ ".quant_map", NULL, LORA_F32, 60, "16 numbers of type F32" },
	{ ".absmax", NULL, LORA_U8, 63, "64 numbers of type U8" },
	{ ".absmax", NULL, LORA_F32, 64, "64 numbers of type U8" },
	{ ".nested_absmax", NULL, 0, 0, "1 numbers of type F32" },
	{ ".nested_quant_map", NULL, LORA_U8, 256, "256 numbers of type F32" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\": \"bfloat16\", ", 0, 0, "JSON" },
	{ ".quant_state.bitsandbytes__nf4", "[]", 0, 0, "is not that of the weight" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"int8\",\"blocksize\":64,\"shape\":[64,64]}", 0, 0, "is not that of the weight" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"float32\",\"blocksize\":0,\"shape\":[64,64]}", 0, 0, "is not that of the weight" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"float32\",\"blocksize\":-64,\"shape\":[64,64]}", 0, 0, "is not that of the weight" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"float32\",\"blocksize\":64,\"shape\":[64,65]}", 0, 0, "is not that of the weight" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"float32\",\"blocksize\":64,\"shape\":[4294967296,4294967296]}", 0, 0, "is not that of the weight" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"float32\",\"blocksize\":64,\"shape\":[64,64]}", 0, 0, "64 numbers of type F32" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"float32\",\"blocksize\":64,\"shape\":[32,128]}", 0, 0, "64 numbers of type F32" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"float32\",\"blocksize\":64,\"shape\":[64,64],\"nested_offset\":0.1,\"nested_blocksize\":0}", 0, 0, "0 numbers of type F32" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"float32\",\"blocksize\":64,\"shape\":[64,64],\"nested_offset\":0.1,\"nested_blocksize\":16}", 0, 0, "4 numbers of type F32" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"float32\",\"blocksize\":64,\"shape\":[64,64],\"nested_offset\":\"0.1\",\"nested_blocksize\":256}", 0, 0, "is not that of the weight" },
	{ ".quant_state.bitsandbytes__nf4", "{\"dtype\":\"float32\",\"blocksize\":1e3,\"shape\":[64,64]}", 0, 0, "is not that of the weight" },
};

START_TEST(refused)
{
	char name[256], path[512];
	scratch room;
	lora__tensors t;
	lora_model *m;
	scratch_make(&room);
	golden_context("naive", 1);
	snprintf(name, sizeof name, "model.layers.0.self_attn.q_proj.weight%s", wrong[_i].part);
	ck_ok(lora__safetensors_read(golden_ctx, "tests/golden/nf4/tiny-llama-nf4-dq-bf16/model.safetensors", &t));
	size_t n = 0, found = 0;
	for (size_t i = 0; i < t.n; i++) {
		lora__tensor x = t.list[i];
		if (strcmp(x.name, name) == 0) {
			found++;
			if (!wrong[_i].text && !wrong[_i].bytes) continue;
			x.rank = 1;
			if (wrong[_i].text) x.data = (const uint8_t *)wrong[_i].text, x.bytes = strlen(wrong[_i].text), x.shape[0] = (int64_t)x.bytes;
			else x.dtype = wrong[_i].dtype, x.bytes = wrong[_i].bytes, x.shape[0] = (int64_t)(x.bytes / lora__dtype_size(x.dtype));
		}
		t.list[n++] = x;
	}
	ck_assert_uint_eq(found, 1);
	snprintf(path, sizeof path, "%s/model.safetensors", room.dir);
	ck_ok(lora__safetensors_write(golden_ctx, path, t.list, n, NULL));
	lora__tensors_close(&t);
	json_t *config = golden_json("tests/golden/nf4/%s/config.json", "tiny-llama-nf4-dq-bf16");
	ck_assert_int_eq(json_dump_file(config, scratch_path(&room, "config.json"), 0), 0);
	json_decref(config);
	lora_status st = lora_model_open(golden_ctx, room.dir, NULL, &m);
	ck_assert_msg(st == LORA_E_FORMAT && strstr(lora_context_last_error(golden_ctx), wrong[_i].says), "%s: %s", lora_status_name(st), lora_context_last_error(golden_ctx));
	lora_context_destroy(golden_ctx);
	scratch_remove(&room);
}
END_TEST

int main(void)
{
	const char *more = getenv("LORA_GOLDEN");
	Suite *s = suite_create("four_bits");
	TCase *t = tcase_create("four_bits");
	if (more && *more) root = more;
	else fprintf(stderr, "skipped: two more checkpoints of bitsandbytes: LORA_GOLDEN is not set\n");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, base, 0, 3);
	tcase_add_test(t, merged);
	tcase_add_loop_test(t, refused, 0, (int)(sizeof wrong / sizeof *wrong));
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
