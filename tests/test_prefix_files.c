/* Files of prefix tuning and prompt tuning, good and bad, and what is refused by name. */
#include <check.h>

#include "prefixwork.h"

/* ---- files ---- */

static char *folder(char *dir)
{
	ck_assert_ptr_nonnull(mkdtemp(dir));
	return dir;
}

START_TEST(saving)
{
	char dir[] = "/tmp/lora-prefix-XXXXXX", one[100], two[100], command[300];
	lora_batch b = fill_batch(31);
	folder(dir);
	snprintf(one, sizeof one, "%s/one", dir), snprintf(two, sizeof two, "%s/two", dir);
	lora_adapter *a = create(model, trained[_i].kind, trained[_i].json), *c;
	float *before = logits_of(model, &b);
	ck_ok(lora_adapter_save(a, one, NULL));
	ck_ok(lora_adapter_detach(a));
	ck_ok(lora_adapter_open(model, one, NULL, &c));
	ck_ok(lora_adapter_attach(c, 1.0));
	float *after = logits_of(model, &b);
	ck_assert(memcmp(before, after, 4 * T * V * sizeof *after) == 0);
	ck_ok(lora_adapter_save(c, two, NULL));
	snprintf(command, sizeof command, "diff -r %s %s", one, two);
	ck_assert_int_eq(system(command), 0);
	/* what PEFT reads is there, and is a plain adapter that does the same */
	lora__tensors t;
	snprintf(command, sizeof command, "%s/adapter_model.safetensors", one);
	ck_ok(lora__safetensors_open(golden_ctx, command, &t));
	const lora__tensor *flat = lora__tensors_find(&t, "prompt_embeddings");
	ck_assert_ptr_nonnull(flat);
	ck_ok(lora_adapter_detach(c));
	lora_adapter *plain = create(model, trained[_i].kind, "{\"num_virtual_tokens\":4}");
	float *x = malloc(flat->bytes);
	memcpy(x, flat->data, flat->bytes);
	ck_ok(lora_adapter_tensor_write(plain, 0, x, flat->bytes));
	float *same = logits_of(model, &b);
	ck_assert_double_le(gap_of(before, same, 4 * T * V), 1e-5);
	free(before), free(after), free(same), free(x);
	lora__tensors_close(&t);
	lora_adapter_destroy(plain), lora_adapter_destroy(a), lora_adapter_destroy(c);
	snprintf(command, sizeof command, "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}
END_TEST

static char *text_of(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	ck_assert_ptr_nonnull(f);
	char *x = calloc(1, 100000);
	*n = fread(x, 1, 100000 - 1, f);
	fclose(f);
	return x;
}

#define CONFIG(more) "{\"peft_type\":\"PREFIX_TUNING\",\"task_type\":\"CAUSAL_LM\"," more "}"
static const struct { const char *config; lora_status status; const char *says; } bad[] = {
	{ CONFIG("\"num_virtual_tokens\":5,\"num_layers\":2,\"token_dim\":24,\"num_attention_heads\":2"), LORA_OK, "" },
	{ CONFIG("\"num_virtual_tokens\":5"), LORA_OK, "" },
	{ CONFIG("\"num_virtual_tokens\":6"), LORA_E_SHAPE, "prompt_embeddings has shape [5,96]" },
	{ CONFIG("\"num_virtual_tokens\":5,\"num_layers\":3"), LORA_E_SHAPE, "num_layers is 3, the model (llama) has 2" },
	{ CONFIG("\"num_virtual_tokens\":5,\"token_dim\":48"), LORA_E_SHAPE, "token_dim is 48" },
	{ CONFIG("\"num_virtual_tokens\":5,\"num_attention_heads\":4"), LORA_E_SHAPE, "num_attention_heads is 4" },
	{ CONFIG("\"num_virtual_tokens\":5,\"num_transformer_submodules\":2"), LORA_E_SHAPE, "num_transformer_submodules is 2" },
	{ CONFIG("\"num_virtual_tokens\":0"), LORA_E_ARGUMENT, "num_virtual_tokens" },
	{ CONFIG("\"num_virtual_tokens\":-1"), LORA_E_ARGUMENT, "num_virtual_tokens" },
	{ CONFIG("\"num_virtual_tokens\":9223372036854775807"), LORA_E_ARGUMENT, "num_virtual_tokens" },
	{ CONFIG("\"num_virtual_tokens\":\"5\""), LORA_E_ARGUMENT, "num_virtual_tokens" },
	{ CONFIG("\"num_virtual_tokens\":65536,\"subspace_vertices\":64"), LORA_E_FORMAT, "prompt_embeddings_vertices" },
	{ CONFIG("\"num_virtual_tokens\":5,\"subspace_vertices\":65"), LORA_E_ARGUMENT, "subspace_vertices" },
	{ CONFIG("\"num_virtual_tokens\":5,\"subspace_vertices\":2"), LORA_E_FORMAT, "there is no tensor prompt_embeddings_vertices" },
	{ CONFIG("\"num_virtual_tokens\":5,\"subspace_vertices\":2,\"prefix_projection\":true"), LORA_E_UNSUPPORTED, "prefix_projection" },
	{ CONFIG("\"num_virtual_tokens\":5,\"modules_to_save\":[\"lm_head\"]"), LORA_E_UNSUPPORTED, "modules_to_save" },
	{ "{\"peft_type\":\"PROMPT_TUNING\",\"num_virtual_tokens\":5}", LORA_E_SHAPE, "[5,48] expected" },
	{ "{\"peft_type\":\"PROMPT_TUNING\",\"num_virtual_tokens\":5,\"token_dim\":96}", LORA_E_SHAPE, "token_dim is 96" },
	{ "{\"peft_type\":\"PROMPT_TUNING\",\"num_virtual_tokens\":5,\"prompt_tuning_init\":\"MAGIC\"}", LORA_E_ARGUMENT, "prompt_tuning_init" },
};
enum { N_BAD = sizeof bad / sizeof *bad };

START_TEST(bad_configs)
{
	size_t n;
	char *file = text_of("tests/golden/peft/prefix-tuning/adapter/adapter_model.safetensors", &n);
	lora_adapter *a = NULL;
	lora_status st = lora_adapter_open_memory(model, bad[_i].config, strlen(bad[_i].config), file, n, NULL, &a);
	if (bad[_i].status == LORA_OK) ck_ok(st);
	else must_say(bad[_i].status, st, bad[_i].says);
	lora_adapter_destroy(a);
	free(file);
}
END_TEST

START_TEST(bad_weights)
{
	size_t n;
	char *file = text_of("tests/golden/peft/prefix-tuning/adapter/adapter_model.safetensors", &n), *other;
	lora_adapter *a = NULL;
	for (size_t cut = 0; cut < n; cut += 1 + cut / 16) ck_assert_int_ne(lora_adapter_open_memory(model, bad[0].config, strlen(bad[0].config), file, cut, NULL, &a), LORA_OK);
	ck_assert_ptr_null(a);
	other = strstr(file + 8, "prompt_embeddings");
	memcpy(other, "prompt_embeddimgs", 17);
	must_say(LORA_E_FORMAT, lora_adapter_open_memory(model, bad[0].config, strlen(bad[0].config), file, n, NULL, &a), "there is no tensor prompt_embeddings");
	free(file);
	/* a tensor too many, unless it is to be ignored */
	lora__tensors io;
	read_case("prefix-tuning-projection", "adapter/adapter_model.safetensors", &io);
	lora__tensors more = io;
	lora__tensor list[2] = { io.list[0], io.list[0] };
	list[1].name = "base_model.model.lm_head.weight";
	more.list = list, more.n = 2;
	lora__peft_config c;
	ck_ok(lora__peft_parse(golden_ctx, bad[0].config, strlen(bad[0].config), "config", &c));
	must_say(LORA_E_NOTFOUND, lora__adapter_load(&model->s, &c, &more, NULL, &a), "lm_head.weight is no part of a prefix_tuning adapter");
	lora_settings *s = from_json("{\"ignore_extra\":true}");
	ck_ok(lora__adapter_load(&model->s, &c, &more, s, &a));
	lora_adapter_destroy(a);
	lora_settings_destroy(s);
	lora__peft_close(&c);
	lora__tensors_close(&io);
}
END_TEST

/* ---- refusals ---- */

START_TEST(refusals)
{
	lora_adapter *a = NULL;
	char path[] = "/tmp/lora-prefix-no.gguf";
	must_say(LORA_E_UNSUPPORTED, try_create(model, "prefix_tuning", "{\"subspace_vertices\":2,\"prefix_projection\":true}", &a), "prefix_projection");
	must_say(LORA_E_ARGUMENT, try_create(model, "prefix_tuning", "{\"subspace_vertices\":2,\"init_weights\":\"zero\"}", &a), "init_weights");
	must_say(LORA_E_ARGUMENT, try_create(model, "prompt_tuning", "{\"prompt_tuning_init\":\"TEXT\"}", &a), "prompt_tuning_init_text");
	must_say(LORA_E_ARGUMENT, try_create(model, "prefix_tuning", "{\"r\":4}", &a), "r");
	must_say(LORA_E_UNSUPPORTED, try_create(model, "prefix_tuning", "{\"modules_to_save\":[\"lm_head\"]}", &a), "modules_to_save");
	ck_assert_ptr_null(a);
	a = create(model, "prefix_tuning", "{\"num_virtual_tokens\":2}");
	lora_settings *gguf = from_json("{\"format\":\"gguf\"}");
	must_say(LORA_E_UNSUPPORTED, lora_adapter_merge(a, NULL), "prefix_tuning cannot be merged");
	must_say(LORA_E_UNSUPPORTED, lora_adapter_set_scale(a, 0.5), "scale");
	must_say(LORA_E_UNSUPPORTED, lora_adapter_save(a, path, gguf), "GGUF");
	must_say(LORA_E_NOTFOUND, lora_adapter_delta(a, 0, (float[1]){ 0 }, 4), "does not act");
	ck_assert_int_eq(lora_adapter_attach(a, 1.0), LORA_E_EXISTS);
	ck_ok(lora_adapter_detach(a));
	must_say(LORA_E_UNSUPPORTED, lora_adapter_attach(a, 2.0), "scale");
	lora_adapter *two[2] = { a, a }, *out;
	double w[2] = { 1, 1 };
	ck_assert_int_eq(lora_adapter_combine(two, w, 2, "linear", NULL, &out), LORA_E_UNSUPPORTED);
	/* a posterior runs the plain graph */
	lora_adapter *plain = create(model, "lora", "{}");
	lora_posterior_memory memory = { .struct_size = sizeof memory };
	lora_settings *classes = from_json("{\"classes\":[5,6]}");
	ck_ok(lora_adapter_attach(a, 1.0));
	must_say(LORA_E_UNSUPPORTED, lora_posterior_estimate(model, a, 2, T, classes, &memory), "prefix_tuning have no posterior");
	must_say(LORA_E_UNSUPPORTED, lora_posterior_estimate(model, plain, 2, T, classes, &memory), "virtual tokens");
	ck_ok(lora_adapter_detach(a));
	ck_ok(lora_posterior_estimate(model, plain, 2, T, classes, &memory));
	lora_settings_destroy(classes);
	lora_adapter_destroy(plain);
	lora_settings_destroy(gguf);
	lora_adapter_destroy(a);
	static const char *const others[] = { "bert", "roberta", "t5", "flan-t5" };
	for (size_t i = 0; i < 4; i++) {
		char where[200];
		snprintf(where, sizeof where, "tests/golden/models/%s/model", others[i]);
		lora_model *m = open_model(where, "f32");
		must_say(LORA_E_UNSUPPORTED, try_create(m, "prefix_tuning", "{}", &a), m->arch->m.name);
		must_say(LORA_E_UNSUPPORTED, try_create(m, "prompt_tuning", "{}", &a), "causal decoders");
		lora_model_destroy(m);
	}
	lora_model *m;
	ck_ok(lora_model_create(golden_ctx, &m));
	must_say(LORA_E_UNSUPPORTED, try_create(m, "prefix_tuning", "{}", &a), "host-owned");
	lora_model_destroy(m);
}
END_TEST

/* Positions that a learned table has not. */
START_TEST(too_long)
{
	lora_model *m = open_model("tests/golden/models/gpt2/model", "f32");
	char json[64];
	snprintf(json, sizeof json, "{\"num_virtual_tokens\":%d}", (int)m->table_positions - 4);
	lora_adapter *a = create(m, "prefix_tuning", json);
	lora_batch b = fill_batch(1);
	double loss;
	must_say(LORA_E_SHAPE, lora_model_loss(m, &b, &loss, NULL), "positions");
	lora_generator *g;
	ck_ok(lora_generator_create(m, NULL, &g));
	must_say(LORA_E_LIMIT, lora_generator_feed(g, 0, NULL, ids, T), "positions");
	ck_ok(lora_generator_feed(g, 0, NULL, ids, 3));
	lora_generator_destroy(g);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("prefix_files");
	TCase *t = tcase_create("llama");
	tcase_set_timeout(t, 60);
	tcase_add_checked_fixture(t, begin, end);
	tcase_add_loop_test(t, saving, 0, 4);
	tcase_add_loop_test(t, bad_configs, 0, N_BAD);
	tcase_add_test(t, bad_weights);
	tcase_add_test(t, refusals);
	tcase_add_test(t, too_long);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
