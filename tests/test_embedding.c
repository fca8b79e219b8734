/* LoRA on embeddings: what the golden cases (test_golden.c, test_gguf_model.c) do not show. Rows with and without, merging and saving with a tied head,
 * tables in blocks, wrong bases, and who takes an embedding and who does not. */
#include "faults.h"
#include "golden.h"

#define LLAMA "tests/golden/models/llama/model"
#define QWEN2 "tests/golden/models/qwen2/model"
enum { N = 7, MOST = 2 * N * 600 };

static const int32_t ids[2 * N] = { 5, 9, 9, 70, 23, 5, 1, 5, 9, 9, 70, 23, 5, 1 };
static scratch room;
static void setup(void) { golden_context("naive", 2), scratch_make(&room); }
static void teardown(void) { lora_context_destroy(golden_ctx), scratch_remove(&room); }

static lora_model *open_model(const char *path)
{
	lora_model *m;
	ck_ok(lora_model_open(golden_ctx, path, NULL, &m));
	return m;
}

static lora_status make(lora_model *m, const char *targets, const char *more, lora_adapter **a)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	if (targets) ck_ok(lora_settings_set_json(s, "target_modules", targets));
	if (more) ck_ok(lora_settings_set_json(s, more, "[\"embed_tokens\"]"));
	ck_ok(lora_settings_set_bool(s, "init_lora_weights", 0)); /* both factors random: it does something */
	lora_status st = lora_adapter_create(m, "lora", s, a);
	lora_settings_destroy(s);
	return st;
}

static size_t logits(lora_model *m, int64_t rows, const int32_t *assign, lora_adapter *a, float *out)
{
	lora_model_info info = { .struct_size = sizeof info };
	ck_ok(lora_model_get_info(m, &info));
	lora_batch b = { .struct_size = sizeof b, .n_sequences = rows, .length = N, .input_ids = ids, .adapter_rows = assign, .adapters = a ? &a : NULL, .n_adapters = a != NULL };
	size_t n = (size_t)(rows * N * info.vocab_size);
	ck_assert_uint_le(n, MOST);
	ck_ok(lora_model_forward(m, &b, out, n * sizeof *out));
	return n;
}

static double gap(const float *a, const float *b, size_t n)
{
	double most = 0;
	for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - b[i]));
	return most;
}

static float plain[MOST], with[MOST], got[MOST];

START_TEST(rows_choose)
{
	static const int32_t assign[2] = { 0, -1 };
	lora_adapter *a;
	lora_model *m = open_model(LLAMA);
	size_t n = logits(m, 1, NULL, NULL, plain);
	ck_ok(make(m, "[\"embed_tokens\",\"v_proj\"]", NULL, &a));
	ck_ok(lora_adapter_attach(a, 0.5));
	logits(m, 1, NULL, NULL, with);
	ck_assert_double_gt(gap(with, plain, n), 0.1);
	logits(m, 2, assign, a, got);
	ck_assert_double_le(gap(got, with, n), 2e-5);
	ck_assert_double_le(gap(got + n, plain, n), 2e-5);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
}
END_TEST

static const char *const bases[] = { LLAMA, QWEN2 }; /* the second has a tied head, which keeps the base weight as in PEFT before it merges */

START_TEST(merged_and_saved)
{
	lora_adapter *a;
	lora_model *m = open_model(bases[_i]), *saved;
	size_t n = logits(m, 1, NULL, NULL, plain);
	ck_ok(make(m, "[\"embed_tokens\",\"q_proj\"]", NULL, &a));
	ck_ok(lora_adapter_attach(a, 1.0));
	logits(m, 1, NULL, NULL, with);
	ck_ok(lora_adapter_merge(a, NULL));
	logits(m, 1, NULL, NULL, got);
	ck_assert_double_le(gap(got, with, n), 1e-4);
	ck_assert_double_gt(gap(got, plain, n), 0.1);
	/* what is saved, in either form, computes what the merged model computed, to the bit */
	static const char *const names[] = { "merged", "merged.gguf" };
	for (int k = 0; k < 2; k++) {
		ck_ok(lora_model_save(m, scratch_path(&room, names[k]), NULL));
		saved = open_model(scratch_path(&room, names[k]));
		logits(saved, 1, NULL, NULL, with);
		ck_assert_msg(memcmp(got, with, n * sizeof *got) == 0, "%s", names[k]);
		lora_model_destroy(saved);
	}
	ck_ok(lora_adapter_unmerge(a));
	ck_ok(lora_adapter_detach(a));
	logits(m, 1, NULL, NULL, got);
	ck_assert(memcmp(got, plain, n * sizeof *got) == 0);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
}
END_TEST

/* A table in blocks: the adapter acts and trains, and is not merged. */
START_TEST(in_blocks)
{
	lora_adapter *a;
	lora_model *m = open_model("tests/golden/gguf/tiny-llama.Q8_0.gguf");
	size_t n = logits(m, 1, NULL, NULL, plain);
	ck_ok(lora_adapter_open(m, "tests/golden/gguf/adapter-tiny-llama-embed.gguf", NULL, &a));
	ck_ok(lora_adapter_attach(a, 1.0));
	logits(m, 1, NULL, NULL, with);
	ck_assert_double_gt(gap(plain, with, n), 1e-3);
	lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = N, .input_ids = ids, .labels = ids };
	double loss;
	ck_ok(lora_model_backward(m, &b, NULL, 0, &loss, NULL));
	ck_assert_int_eq(lora_adapter_merge(a, NULL), LORA_E_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), "model.embed_tokens is an embedding in blocks"));
	logits(m, 1, NULL, NULL, got); /* nothing was changed */
	ck_assert(memcmp(got, with, n * sizeof *got) == 0);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
}
END_TEST

/* PEFT's file has the base's table as well: another one is another model. */
START_TEST(another_base)
{
	lora_adapter *a = NULL;
	lora_model *m = open_model("tests/golden/models/llama3/model");
	ck_assert_int_eq(lora_adapter_open(m, "tests/golden/peft/lora-embedding/adapter", NULL, &a), LORA_E_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), "base_layer.weight"));
	ck_assert_ptr_null(a);
	lora_model_destroy(m);
}
END_TEST

START_TEST(who_takes_it)
{
	lora_adapter *a;
	lora_model *m = open_model(LLAMA);
	int64_t site, count = lora_model_site_count(m);
	lora_site_info s = { .struct_size = sizeof s };
	ck_ok(lora_model_find_site(m, "model.embed_tokens", &site));
	ck_assert_int_ge(site, count);
	ck_ok(lora_model_site_info(m, site, &s));
	ck_assert(s.flags & LORA_SITE_EMBEDDING);
	ck_assert_int_eq(s.in, 131);
	ck_assert_int_eq(s.out, 48);
	lora_linear_args args = { .struct_size = sizeof args, .site = site };
	ck_assert_int_eq(lora_linear_forward(m, &args), LORA_E_ARGUMENT);
	/* "all-linear" and the default leave it alone */
	static const char *const targets[] = { "\"all-linear\"", NULL };
	for (int k = 0; k < 2; k++) {
		ck_ok(make(m, targets[k], NULL, &a));
		for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
			lora_tensor_info t;
			ck_ok(lora_adapter_tensor_info(a, i, &t));
			ck_assert_ptr_null(strstr(t.name, "embed"));
		}
		lora_adapter_destroy(a);
	}
	ck_assert_int_eq(make(m, NULL, "modules_to_save", &a), LORA_E_UNSUPPORTED);
	lora_model_destroy(m);
	m = open_model("tests/golden/models/t5/model");
	ck_assert_int_eq(make(m, "[\"shared\"]", NULL, &a), LORA_E_NOTFOUND); /* PEFT takes it, to no effect: nothing calls that module */
	ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), "near names: embed_tokens"));
	ck_ok(make(m, "[\"decoder.embed_tokens\"]", NULL, &a));
	ck_assert_int_eq(lora_adapter_tensor_count(a), 2);
	ck_ok(lora_adapter_attach(a, 1.0));
	ck_assert_int_eq(lora_adapter_merge(a, NULL), LORA_E_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), "decoder.embed_tokens is one of two"));
	lora_adapter_destroy(a);
	lora_model_destroy(m);
}
END_TEST

/* A fresh adapter does nothing, PEFT's way: A zero. */
START_TEST(fresh)
{
	lora_settings *s;
	lora_adapter *a;
	lora_model *m = open_model(LLAMA);
	size_t n = logits(m, 1, NULL, NULL, plain);
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_string(s, "target_modules", ".*embed_tokens"));
	ck_ok(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	ck_assert_int_eq(lora_adapter_tensor_count(a), 2);
	ck_ok(lora_adapter_attach(a, 1.0));
	logits(m, 1, NULL, NULL, got);
	ck_assert(memcmp(got, plain, n * sizeof *got) == 0);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("embedding");
	TCase *c = tcase_create("all");
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, rows_choose);
	tcase_add_loop_test(c, merged_and_saved, 0, 2);
	tcase_add_test(c, in_blocks);
	tcase_add_test(c, another_base);
	tcase_add_test(c, who_takes_it);
	tcase_add_test(c, fresh);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
