/* Every decoder architecture on a fresh tiny model: gradients against central differences, recomputation, BF16, saving and opening, merging,
 * generation against full passes; what configurations must be refused, by the name of the key; default targets. The numbers themselves are
 * held to transformers and PEFT in test_golden.c. */
#include <unistd.h>

#include "archwork.h"

#define SIZES "\"vocab_size\":61,\"hidden_size\":24,\"intermediate_size\":40,\"num_hidden_layers\":3,\"num_attention_heads\":4,\"max_position_embeddings\":64"
#define KV SIZES ",\"num_key_value_heads\":2"

/* linear: sites besides the head; defaults: those that target_modules = null takes, 0 = it must be given. */
static const struct row { const char *arch, *settings; int linear, defaults; } rows[] = {
	{ "llama", KV ",\"attention_bias\":true,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0}", 21, 6 },
	{ "mistral", KV ",\"sliding_window\":4,\"head_dim\":10", 21, 6 },
	{ "qwen2", KV ",\"use_sliding_window\":true,\"sliding_window\":4,\"max_window_layers\":1,\"tie_word_embeddings\":true", 21, 6 },
	{ "qwen3", KV ",\"head_dim\":8,\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\"],\"use_sliding_window\":true,\"sliding_window\":3", 21, 6 },
	{ "gemma", KV ",\"head_dim\":8", 21, 6 },
	{ "gemma2", KV ",\"head_dim\":8,\"sliding_window\":4,\"attn_logit_softcapping\":2.0,\"final_logit_softcapping\":3.0,\"query_pre_attn_scalar\":12", 21, 6 },
	{ "gemma3_text", KV ",\"head_dim\":8,\"sliding_window\":4,\"sliding_window_pattern\":2,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2.0}", 21, 6 },
	{ "phi3", KV ",\"original_max_position_embeddings\":8,\"rope_scaling\":{\"type\":\"su\",\"short_factor\":[1,1.5,2],\"long_factor\":[1,2,4]}", 12, 0 },
	{ "gpt2", "\"vocab_size\":61,\"n_embd\":24,\"n_layer\":3,\"n_head\":4,\"n_positions\":64,\"scale_attn_by_inverse_layer_idx\":true", 12, 3 },
	{ "gpt_neox", SIZES ",\"rotary_pct\":0.5", 12, 3 },
	{ "gpt_neox", SIZES ",\"use_parallel_residual\":false,\"attention_bias\":false,\"rotary_pct\":0.9,\"tie_word_embeddings\":true", 12, 3 },
	{ "opt", "\"vocab_size\":61,\"hidden_size\":24,\"ffn_dim\":40,\"num_hidden_layers\":3,\"num_attention_heads\":4,\"max_position_embeddings\":64", 18, 6 },
	{ "opt", "\"vocab_size\":61,\"hidden_size\":24,\"ffn_dim\":40,\"num_hidden_layers\":3,\"num_attention_heads\":4,\"max_position_embeddings\":64,"
	         "\"do_layer_norm_before\":false,\"word_embed_proj_dim\":16,\"enable_bias\":false", 20, 6 },
	{ "olmo2", KV, 21, 0 },
	{ "smollm3", KV ",\"no_rope_layers\":[1,0,1],\"use_sliding_window\":true,\"sliding_window\":4", 21, 0 },
	{ "starcoder2", KV ",\"sliding_window\":5", 18, 0 },
};
enum { N_ROWS = sizeof rows / sizeof *rows, B = 2, T = 11 };

static lora_model *build(const struct row *r, const char *dtype)
{
	char text[1024];
	lora_model *m;
	const char *range = strcmp(r->arch, "opt") ? "initializer_range" : "init_std";
	snprintf(text, sizeof text, "{%s,\"dtype\":\"%s\",\"seed\":9,\"%s\":0.25}", r->settings, dtype, range);
	lora_settings *s = from_json(text);
	ck_ok(lora_model_build(golden_ctx, r->arch, s, &m));
	lora_settings_destroy(s);
	return m;
}

/* Both factors random, so that the adapter acts. */
static lora_adapter *adapter(lora_model *m)
{
	lora_adapter *a;
	lora_settings *s = from_json("{\"r\":2,\"lora_alpha\":2,\"init_lora_weights\":false,\"seed\":4,\"target_modules\":\"all-linear\"}");
	ck_ok(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	return a;
}

static int32_t ids[B * T], mask[B * T], labels[B * T];
static lora_batch batch = { .struct_size = sizeof batch, .n_sequences = B, .length = T, .input_ids = ids, .attention_mask = mask, .labels = labels };
enum { LOGITS = B * T * 61 };
static float logits[LOGITS], other[LOGITS];

static void make_batch(void)
{
	uint64_t seed = 11;
	for (int i = 0; i < B * T; i++) {
		ids[i] = (int32_t)(check_random(&seed) % 61);
		mask[i] = i < T || i >= T + 2; /* the second row is left-padded */
		labels[i] = mask[i] ? ids[i] : -100;
	}
}

static double loss_of(lora_model *m)
{
	double loss;
	ck_ok(lora_model_loss(m, &batch, &loss, NULL));
	return loss;
}

static void forward(lora_model *m, float *out) { ck_ok(lora_model_forward(m, &batch, out, sizeof logits)); }

/* The gradient of the loss along random directions, in F64. */
START_TEST(slopes)
{
	golden_context("naive", 2);
	lora_model *m = build(&rows[_i], "f64");
	lora_adapter *a = adapter(m);
	double loss;
	int64_t n;
	ck_assert_int_eq((int)lora_model_site_count(m) - 1, rows[_i].linear);
	ck_ok(lora_adapter_attach(a, 1.0));
	ck_ok(lora_model_backward(m, &batch, NULL, 0, &loss, NULL));
	ck_assert_double_eq_tol(loss, loss_of(m), 1e-13);
	float *g = gather(a, &n, lora_adapter_gradient_read), *p = gather(a, &n, lora_adapter_tensor_read);
	check_slopes(rows[_i].arch, m, a, g, p, loss_of);
	free(g), free(p);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Blocks run again in backward: the same gradients, bit for bit. */
START_TEST(recomputed)
{
	golden_context("naive", 1);
	lora_model *m = build(&rows[_i], "f32");
	lora_adapter *a = adapter(m);
	int64_t n;
	float *g[2];
	ck_ok(lora_adapter_attach(a, 1.0));
	for (int k = 0; k < 2; k++) {
		lora__pass p = { .batch = &batch, .backward = 1, .checkpoint = k, .grad_scale = 1.0, .mean = 1 };
		ck_ok(lora_adapter_zero_grad(a));
		ck_ok(lora__model_pass(m, &p));
		g[k] = gather(a, &n, lora_adapter_gradient_read);
	}
	ck_assert_msg(memcmp(g[0], g[1], (size_t)n * sizeof *g[0]) == 0, "%s: recomputation changes gradients", rows[_i].arch);
	free(g[0]), free(g[1]);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* BF16 activations stay near F32. */
START_TEST(half_activations)
{
	double loss[2], dot = 0, size[2] = { 0, 0 };
	float *g[2];
	int64_t n = 0;
	for (int k = 0; k < 2; k++) {
		golden_context("naive", 2);
		lora_model *m = build(&rows[_i], k ? "bf16" : "f32");
		lora_adapter *a = adapter(m);
		ck_ok(lora_adapter_attach(a, 1.0));
		ck_ok(lora_model_backward(m, &batch, NULL, 0, &loss[k], NULL));
		g[k] = gather(a, &n, lora_adapter_gradient_read);
		lora_adapter_destroy(a);
		lora_model_destroy(m);
		lora_context_destroy(golden_ctx);
	}
	for (int64_t i = 0; i < n; i++) dot += (double)g[0][i] * g[1][i], size[0] += (double)g[0][i] * g[0][i], size[1] += (double)g[1][i] * g[1][i];
	free(g[0]), free(g[1]);
	ck_assert_msg(fabs(loss[0] - loss[1]) < 0.02 * loss[0], "%s: loss %g in BF16, %g in F32", rows[_i].arch, loss[1], loss[0]);
	ck_assert_msg(dot > 0.99 * sqrt(size[0] * size[1]), "%s: cosine of the gradients %g", rows[_i].arch, dot / sqrt(size[0] * size[1]));
}
END_TEST

static lora_model *saved_and_opened(lora_model *m, char *dir, size_t size)
{
	lora_model *again;
	snprintf(dir, size, "build/tmp-arch-%d", (int)getpid());
	lora_settings *s = from_json("{\"force\":true}");
	ck_ok(lora_model_save(m, dir, s));
	lora_settings_destroy(s);
	ck_ok(lora_model_open(golden_ctx, dir, NULL, &again));
	return again;
}

static void clean(const char *dir)
{
	char command[200];
	snprintf(command, sizeof command, "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}

/* Saved and opened again: the same logits; merged: those of the adapter beside the weights; unmerged: the bits of before. */
START_TEST(saving_and_merging)
{
	char dir[64];
	golden_context("auto", 2);
	lora_model *m = build(&rows[_i], "f32"), *again;
	forward(m, logits);
	again = saved_and_opened(m, dir, sizeof dir);
	forward(again, other);
	ck_assert_msg(memcmp(logits, other, sizeof logits) == 0, "%s: saving changes the model", rows[_i].arch);
	lora_model_destroy(again);
	lora_adapter *a = adapter(m);
	ck_ok(lora_adapter_attach(a, 1.0));
	forward(m, other);
	ck_ok(lora_adapter_merge(a, NULL));
	static float merged[LOGITS];
	forward(m, merged);
	double gap = 0, change = 0;
	for (int i = 0; i < LOGITS; i++) gap = fmax(gap, fabs((double)merged[i] - other[i])), change = fmax(change, fabs((double)logits[i] - other[i]));
	ck_assert_msg(gap < 1e-4 && change > 0.05, "%s: merging is off by %g, the adapter changes logits by %g", rows[_i].arch, gap, change);
	again = saved_and_opened(m, dir, sizeof dir);
	forward(again, other);
	for (int i = 0; i < LOGITS; i++) ck_assert_double_eq_tol(merged[i], other[i], 1e-5);
	lora_model_destroy(again);
	ck_ok(lora_adapter_unmerge(a));
	ck_ok(lora_adapter_detach(a));
	forward(m, other);
	ck_assert(memcmp(logits, other, sizeof logits) == 0);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	clean(dir);
}
END_TEST

/* The cache, windows and positions of generation against passes over everything. */
START_TEST(generating)
{
	int32_t tokens[40], next;
	float lp, *all = malloc(sizeof(float) * 40 * 61);
	golden_context("naive", 1);
	lora_model *m = build(&rows[_i], "f64");
	lora_generator *g;
	lora_settings *s = from_json("{\"temperature\":1.5,\"seed\":3}");
	ck_ok(lora_generator_create(m, s, &g));
	lora_settings_destroy(s);
	memcpy(tokens, ids, 7 * sizeof *ids);
	ck_ok(lora_generator_feed(g, 0, NULL, tokens, 3));
	ck_ok(lora_generator_feed(g, 0, NULL, tokens + 3, 4));
	int64_t cut = strcmp(rows[_i].arch, "phi3") ? 40 : 8; /* beyond, LongRoPE turns new keys in another way than cached ones */
	for (int64_t n = 7; n < cut; n++) {
		lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = n, .input_ids = tokens };
		ck_ok(lora_generator_next(g, &next, &lp));
		ck_ok(lora_model_forward(m, &b, all, sizeof(float) * (size_t)(n * 61)));
		const float *z = all + (n - 1) * 61;
		double sum = 0;
		for (int i = 0; i < 61; i++) sum += exp(z[i]);
		ck_assert_msg(fabs(z[next] - log(sum) - lp) < 2e-6, "%s: token %d has log-probability %g, by a full pass %g", rows[_i].arch, (int)n, lp, z[next] - log(sum));
		tokens[n] = next;
	}
	free(all);
	lora_generator_destroy(g);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* target_modules = null is PEFT's default for the architecture, or asks for one. */
START_TEST(default_targets)
{
	golden_context("naive", 1);
	lora_model *m = build(&rows[_i], "f32");
	lora_adapter *a = NULL;
	lora_status st = lora_adapter_create(m, "lora", NULL, &a);
	if (!rows[_i].defaults) {
		ck_assert_int_eq(st, LORA_E_ARGUMENT);
		ck_assert(strstr(lora_context_last_error(golden_ctx), "target_modules") != NULL);
	} else {
		lora_adapter_info info = { .struct_size = sizeof info };
		ck_ok(st);
		ck_ok(lora_adapter_get_info(a, &info));
		ck_assert_int_eq((int)info.n_sites, rows[_i].defaults);
		lora_adapter_destroy(a);
	}
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* ---- configurations that must be refused, by name ---- */

static const struct { int row; const char *key, *value; lora_status status; } wrong[] = {
	{ 0, "hidden_act", "\"quick_gelu\"", LORA_E_UNSUPPORTED }, { 0, "hidden_act", "3", LORA_E_FORMAT }, { 0, "pretraining_tp", "2", LORA_E_UNSUPPORTED },
	{ 0, "rope_scaling", "\"linear\"", LORA_E_UNSUPPORTED }, { 0, "rope_parameters", "[1]", LORA_E_UNSUPPORTED }, { 0, "num_key_value_heads", "3", LORA_E_UNSUPPORTED },
	{ 0, "num_attention_heads", "5", LORA_E_UNSUPPORTED }, { 0, "num_hidden_layers", "0", LORA_E_LIMIT }, { 0, "hidden_size", "24.5", LORA_E_FORMAT },
	{ 0, "attention_bias", "1", LORA_E_FORMAT }, { 0, "head_dim", "7", LORA_E_UNSUPPORTED }, { 0, "rms_norm_eps", "-1", LORA_E_LIMIT },
	{ 0, "rms_norm_eps", "\"1e-5\"", LORA_E_FORMAT }, { 0, "model_type", "\"llama9\"", LORA_E_UNSUPPORTED }, { 0, "quantization_config", "{\"a\":1}", LORA_E_UNSUPPORTED },
	{ 0, "tie_word_embeddings", "\"no\"", LORA_E_FORMAT }, { 1, "sliding_window", "0", LORA_E_LIMIT }, { 1, "sliding_window", "2.5", LORA_E_FORMAT },
	{ 1, "layer_types", "[\"full_attention\",\"full_attention\",\"full_attention\"]", LORA_E_UNSUPPORTED }, { 2, "layer_types", "[\"full_attention\"]", LORA_E_FORMAT },
	{ 2, "layer_types", "[\"full_attention\",\"chunked_attention\",\"full_attention\"]", LORA_E_UNSUPPORTED }, { 2, "layer_types", "\"full_attention\"", LORA_E_FORMAT },
	{ 4, "use_bidirectional_attention", "true", LORA_E_UNSUPPORTED }, { 5, "use_bidirectional_attention", "true", LORA_E_UNSUPPORTED },
	{ 5, "attn_logit_softcapping", "-2", LORA_E_LIMIT }, { 5, "query_pre_attn_scalar", "0", LORA_E_LIMIT }, { 6, "attn_logit_softcapping", "9", LORA_E_UNSUPPORTED },
	{ 6, "sliding_window_pattern", "0", LORA_E_LIMIT }, { 8, "activation_function", "\"mish\"", LORA_E_UNSUPPORTED }, { 8, "add_cross_attention", "true", LORA_E_UNSUPPORTED },
	{ 8, "n_head", "7", LORA_E_UNSUPPORTED }, { 9, "rotary_pct", "1.5", LORA_E_LIMIT }, { 9, "use_parallel_residual", "null2", LORA_E_FORMAT },
	{ 11, "layer_norm_elementwise_affine", "false", LORA_E_UNSUPPORTED }, { 14, "no_rope_layers", "[1,0]", LORA_E_UNSUPPORTED },
	{ 14, "no_rope_layers", "\"all\"", LORA_E_UNSUPPORTED },
};
/* The same for members of the rotary settings. */
static const struct { const char *scaling, *key; } wrong_rope[] = {
	{ "{\"type\":\"dynamic\",\"factor\":2}", "rope_type" }, { "{\"rope_type\":\"mrope\",\"mrope_section\":[1,2]}", "rope_type" }, { "{\"rope_type\":7}", "rope_type" },
	{ "{\"rope_type\":\"linear\",\"factor\":\"2\"}", "factor" }, { "{\"rope_type\":\"longrope\"}", "short_factor" },
	{ "{\"rope_type\":\"longrope\",\"short_factor\":[1,1,1],\"long_factor\":[1,1]}", "long_factor" },
	{ "{\"rope_type\":\"longrope\",\"short_factor\":[1,0,1],\"long_factor\":[1,1,1]}", "short_factor" },
	{ "{\"rope_type\":\"yarn\",\"factor\":0}", "factor" }, { "{\"rope_type\":\"yarn\",\"factor\":2,\"beta_fast\":-1}", "beta_fast" },
	{ "{\"rope_type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":0}", "original_max_position_embeddings" },
	{ "{\"rope_type\":\"llama3\",\"factor\":2,\"low_freq_factor\":4,\"high_freq_factor\":4}", "high_freq_factor" },
	{ "{\"rope_type\":\"default\",\"rope_theta\":-5}", "rope_theta" }, { "{\"full_attention\":{\"rope_type\":\"default\"}}", "rope_parameters" }, { "{\"rope_type\":\"default\",\"partial_rotary_factor\":2}", "partial_rotary_factor" },
};
enum { N_WRONG = sizeof wrong / sizeof *wrong, N_WRONG_ROPE = sizeof wrong_rope / sizeof *wrong_rope };

static void refused(const struct row *r, const char *key, json_t *value, const char *named, lora_status status)
{
	char dir[64], path[100];
	lora_model *m = build(r, "f32");
	lora_model_destroy(saved_and_opened(m, dir, sizeof dir));
	lora_model_destroy(m);
	snprintf(path, sizeof path, "%s/config.json", dir);
	json_t *c = golden_json("%s", path);
	ck_assert_int_eq(json_object_set_new(c, key, value), 0);
	if (strcmp(key, "rope_parameters") == 0) json_object_del(c, "rope_scaling");
	ck_assert_int_eq(json_dump_file(c, path, 0), 0);
	json_decref(c);
	lora_status st = lora_model_open(golden_ctx, dir, NULL, &m);
	ck_assert_msg(st == status, "%s, %s: %s, not %s: %s", r->arch, key, lora_status_name(st), lora_status_name(status), lora_context_last_error(golden_ctx));
	ck_assert_msg(strstr(lora_context_last_error(golden_ctx), named) != NULL, "%s is not named: %s", named, lora_context_last_error(golden_ctx));
	clean(dir);
}

START_TEST(refusals)
{
	golden_context("naive", 1);
	json_t *v = json_loads(wrong[_i].value, JSON_DECODE_ANY, NULL);
	refused(&rows[wrong[_i].row], wrong[_i].key, v ? v : json_string(wrong[_i].value), wrong[_i].key, wrong[_i].status);
	lora_context_destroy(golden_ctx);
}
END_TEST

START_TEST(rope_refusals)
{
	golden_context("naive", 1);
	if (!_i) { /* the message says that it is the value */
		refused(&rows[0], "hidden_act", json_string("swo\nosh"), "hidden_act: \"swo\\x0aosh\" is not supported", LORA_E_UNSUPPORTED);
		refused(&rows[0], "rope_parameters", json_loads("{\"rope_type\":\"magic\"}", 0, NULL), "\"magic\" is not supported", LORA_E_UNSUPPORTED);
	}
	refused(&rows[0], "rope_parameters", json_loads(wrong_rope[_i].scaling, 0, NULL), wrong_rope[_i].key, LORA_E_UNSUPPORTED);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* null is not absent: no window, no soft cap. */
START_TEST(null_keys)
{
	static const struct { int row; const char *key, *set; int same; } cases[] = { { 1, "sliding_window", "null", 0 }, { 1, "sliding_window", "64", 0 },
		{ 5, "final_logit_softcapping", "null", 0 }, { 5, "attn_logit_softcapping", "null", 0 }, { 0, "hidden_act", "null", 1 } };
	char dir[64], path[100];
	golden_context("naive", 1);
	lora_model *m = build(&rows[cases[_i].row], "f32"), *again;
	forward(m, logits);
	lora_model_destroy(saved_and_opened(m, dir, sizeof dir));
	snprintf(path, sizeof path, "%s/config.json", dir);
	json_t *c = golden_json("%s", path);
	ck_assert_int_eq(json_object_set_new(c, cases[_i].key, json_loads(cases[_i].set, JSON_DECODE_ANY, NULL)), 0);
	ck_assert_int_eq(json_dump_file(c, path, 0), 0);
	json_decref(c);
	ck_ok(lora_model_open(golden_ctx, dir, NULL, &again));
	forward(again, other);
	ck_assert_int_eq(memcmp(logits, other, sizeof logits) == 0, cases[_i].same);
	lora_model_destroy(m);
	lora_model_destroy(again);
	lora_context_destroy(golden_ctx);
	clean(dir);
}
END_TEST

/* A learned position table ends: the batch says which position, generation stops. */
START_TEST(position_table)
{
	golden_context("naive", 1);
	lora_model *m = build(&rows[_i ? 11 : 8], "f32");
	int32_t one[65] = { 0 }, at[B * T] = { 0 };
	float *out = malloc(sizeof(float) * 65 * 61);
	lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = 64, .input_ids = one };
	ck_ok(lora_model_forward(m, &b, out, sizeof(float) * 65 * 61));
	b.length = 65;
	ck_assert_int_eq(lora_model_forward(m, &b, out, sizeof(float) * 65 * 61), LORA_E_SHAPE);
	ck_assert(strstr(lora_context_last_error(golden_ctx), "64 positions") != NULL);
	at[3] = 64;
	lora_batch c = batch;
	c.position_ids = at;
	ck_assert_int_eq(lora_model_forward(m, &c, logits, sizeof logits), LORA_E_SHAPE);
	lora_generator *g;
	lora_settings *s = from_json("{\"max_length\":100}");
	ck_ok(lora_generator_create(m, s, &g));
	lora_settings_destroy(s);
	ck_ok(lora_generator_feed(g, 0, NULL, one, 64));
	ck_assert_int_eq(lora_generator_feed(g, 0, NULL, one, 1), LORA_E_LIMIT);
	lora_generator_destroy(g);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	free(out);
}
END_TEST

/* Files of the model without its head leave the first part of every name out. */
START_TEST(bare_names)
{
	static const int which[] = { 2, 8, 10 };
	char dir[64], path[100];
	golden_context("naive", 1);
	lora_model *m = build(&rows[which[_i]], "f32"), *again;
	if (which[_i] == 8) ck_assert_int_gt((int)lora_model_site_count(m), 1);
	forward(m, logits);
	lora_model_destroy(saved_and_opened(m, dir, sizeof dir));
	lora__tensors t;
	snprintf(path, sizeof path, "%s/model.safetensors", dir);
	ck_ok(lora__safetensors_read(golden_ctx, path, &t));
	for (size_t i = 0; i < t.n; i++) {
		const char *dot = strchr(t.list[i].name, '.');
		t.list[i].name = dot + 1;
	}
	ck_ok(lora__safetensors_write(golden_ctx, path, t.list, t.n, NULL));
	lora__tensors_close(&t);
	ck_ok(lora_model_open(golden_ctx, dir, NULL, &again));
	forward(again, other);
	ck_assert(memcmp(logits, other, sizeof logits) == 0);
	lora_model *third = saved_and_opened(again, dir, sizeof dir);
	forward(third, other);
	ck_assert(memcmp(logits, other, sizeof logits) == 0);
	lora_model_destroy(third);
	lora_model_destroy(again);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	clean(dir);
}
END_TEST

/* A tied head with an adapter merged into it is saved apart; a copy of the head that was in the file and not used gives way. */
START_TEST(untied_head)
{
	static const struct { int row; const char *head; } which[] = { { 2, "lm_head" }, { 8, "lm_head" }, { 10, "embed_out" } };
	char dir[64], path[100], text[200], name[64];
	golden_context("naive", 1);
	lora_model *m = build(&rows[which[_i].row], "f32"), *with, *again;
	lora_model_destroy(saved_and_opened(m, dir, sizeof dir));
	lora__tensors t;
	snprintf(path, sizeof path, "%s/model.safetensors", dir);
	snprintf(name, sizeof name, "%s.weight", which[_i].head);
	ck_ok(lora__safetensors_read(golden_ctx, path, &t));
	lora__tensor *list = malloc((t.n + 1) * sizeof *list);
	memcpy(list, t.list, t.n * sizeof *list);
	for (size_t i = 0; i < t.n; i++)
		if (t.list[i].rank == 2 && t.list[i].shape[0] == 61) list[t.n] = t.list[i]; /* the embedding */
	list[t.n].name = name;
	ck_ok(lora__safetensors_write(golden_ctx, path, list, t.n + 1, NULL));
	free(list);
	lora__tensors_close(&t);
	ck_ok(lora_model_open(golden_ctx, dir, NULL, &with));
	lora_adapter *a;
	snprintf(text, sizeof text, "{\"r\":2,\"init_lora_weights\":false,\"target_modules\":[\"%s\"]}", which[_i].head);
	lora_settings *s = from_json(text);
	ck_ok(lora_adapter_create(with, "lora", s, &a));
	lora_settings_destroy(s);
	ck_ok(lora_adapter_attach(a, 1.0));
	ck_ok(lora_adapter_merge(a, NULL));
	forward(with, logits);
	again = saved_and_opened(with, dir, sizeof dir);
	forward(again, other);
	ck_assert(memcmp(logits, other, sizeof logits) == 0);
	forward(m, other);
	ck_assert(memcmp(logits, other, sizeof logits) != 0);
	lora_model_destroy(again);
	lora_adapter_destroy(a);
	lora_model_destroy(with);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	clean(dir);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("arch");
	TCase *t = tcase_create("arch");
	tcase_set_timeout(t, 60);
	make_batch();
	tcase_add_loop_test(t, slopes, 0, N_ROWS);
	tcase_add_loop_test(t, recomputed, 0, N_ROWS);
	tcase_add_loop_test(t, half_activations, 0, N_ROWS);
	tcase_add_loop_test(t, saving_and_merging, 0, N_ROWS);
	tcase_add_loop_test(t, generating, 0, N_ROWS);
	tcase_add_loop_test(t, default_targets, 0, N_ROWS);
	tcase_add_loop_test(t, refusals, 0, N_WRONG);
	tcase_add_loop_test(t, rope_refusals, 0, N_WRONG_ROPE);
	tcase_add_loop_test(t, null_keys, 0, 5);
	tcase_add_loop_test(t, position_table, 0, 2);
	tcase_add_loop_test(t, bare_names, 0, 3);
	tcase_add_loop_test(t, untied_head, 0, 3);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
