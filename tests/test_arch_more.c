/* Mixtures of experts, encoders and encoder-decoder models on fresh tiny models: gradients against central differences, recomputation, BF16, saving
 * and opening, merging, adapters by sequence, generation against full passes; what configurations must be refused, by the name of the key. The
 * numbers themselves are held to transformers and PEFT in test_golden_more.c. */
#include <unistd.h>

#include "archwork.h"

#define SIZES "\"vocab_size\":61,\"hidden_size\":24,\"intermediate_size\":20,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"max_position_embeddings\":64"
#define T5 "\"vocab_size\":61,\"d_model\":24,\"d_kv\":5,\"d_ff\":40,\"num_layers\":2,\"num_heads\":4,\"relative_attention_num_buckets\":8,\"relative_attention_max_distance\":9"
#define MOE_MODULES "\"target_modules\":[\"q_proj\",\"o_proj\",\"gate\",\"w1\",\"w2\",\"w3\"]"
#define MOE_PARAMETERS "\"target_modules\":[\"v_proj\"],\"target_parameters\":[\"experts.gate_up_proj\",\"experts.down_proj\",\"gate.weight\"]"

/* adapter: settings of an adapter that reaches what is particular. */
static const struct row { const char *arch, *settings, *adapter; } rows[] = {
	{ "mixtral", SIZES ",\"num_key_value_heads\":2,\"num_local_experts\":5,\"num_experts_per_tok\":2", MOE_MODULES },
	{ "mixtral", SIZES ",\"num_key_value_heads\":2,\"num_local_experts\":4,\"num_experts_per_tok\":3,\"sliding_window\":4", MOE_PARAMETERS },
	{ "qwen3_moe", SIZES ",\"num_key_value_heads\":2,\"head_dim\":8,\"num_experts\":6,\"num_experts_per_tok\":2,\"moe_intermediate_size\":12", MOE_PARAMETERS },
	{ "qwen3_moe", SIZES ",\"num_key_value_heads\":2,\"head_dim\":8,\"num_experts\":6,\"num_experts_per_tok\":2,\"moe_intermediate_size\":12,\"norm_topk_prob\":true,"
	  "\"mlp_only_layers\":[0]", "\"target_modules\":[\"gate_proj\",\"down_proj\",\"k_proj\",\"gate\"]" },
	{ "bert", SIZES ",\"num_labels\":3", "\"target_modules\":[\"query\",\"dense\"],\"task_type\":\"SEQ_CLS\"" },
	{ "roberta", SIZES ",\"num_labels\":4", "\"target_modules\":\"all-linear\",\"task_type\":\"SEQ_CLS\"" },
	{ "t5", T5, "\"target_modules\":\"all-linear\"" },
	{ "t5", T5 ",\"feed_forward_proj\":\"gated-gelu\",\"tie_word_embeddings\":false,\"num_decoder_layers\":3",
	  "\"target_modules\":[\"q\",\"k\",\"wi_1\"],\"modules_to_save\":[\"lm_head\"]" },
	{ "mixtral", SIZES ",\"num_key_value_heads\":2,\"num_local_experts\":3,\"num_experts_per_tok\":2", "\"target_modules\":\"all-linear\"" },
};
enum { N_ROWS = sizeof rows / sizeof *rows, B = 3, T = 11, D = 6, VOCAB = 61 };

static lora_model *build(const struct row *r, const char *dtype)
{
	char text[1024];
	lora_model *m;
	snprintf(text, sizeof text, "{%s,\"dtype\":\"%s\",\"seed\":9,\"initializer_range\":0.25}", r->settings, dtype);
	lora_settings *s = from_json(text);
	ck_ok(lora_model_build(golden_ctx, r->arch, s, &m));
	lora_settings_destroy(s);
	return m;
}

/* Both factors random, so that the adapter acts; seed tells adapters apart. */
static lora_adapter *adapter(const struct row *r, lora_model *m, int seed)
{
	char text[512];
	lora_adapter *a;
	snprintf(text, sizeof text, "{\"r\":2,\"lora_alpha\":2,\"init_lora_weights\":false,\"seed\":%d,\"name\":\"a%d\",%s}", seed, seed, r->adapter);
	lora_settings *s = from_json(text);
	ck_ok(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	return a;
}

static int32_t ids[B * T], mask[B * T], types[B * T], labels[B * T], decoder[B * D];
static lora_batch batch;
static lora_model_info info;
static size_t n_logits; /* of the batch */
enum { LOGITS = B * T * VOCAB };
static float logits[LOGITS], other[LOGITS], merged[LOGITS];

/* Row 1 is left-padded, row 2 right-padded. */
static void make_batch(const lora_model *m)
{
	uint64_t seed = 11;
	info = (lora_model_info){ .struct_size = sizeof info };
	ck_ok(lora_model_get_info(m, &info));
	batch = (lora_batch){ .struct_size = sizeof batch, .n_sequences = B, .length = T, .input_ids = ids, .attention_mask = mask, .labels = labels };
	for (int i = 0; i < B * T; i++) {
		ids[i] = (int32_t)(check_random(&seed) % VOCAB), types[i] = i % T > 5;
		mask[i] = i / T == 1 ? i % T >= 2 : i / T == 2 ? i % T < 7 : 1;
		labels[i] = mask[i] ? ids[i] : -100;
	}
	n_logits = B * T * VOCAB;
	if (info.n_labels) {
		for (int i = 0; i < B; i++) labels[i] = i == 1 ? -100 : (int32_t)(i % info.n_labels);
		n_logits = (size_t)(B * info.n_labels);
		if (strcmp(info.architecture, "bert") == 0) batch.token_type_ids = types;
	}
	if (info.has_decoder) {
		for (int i = 0; i < B * D; i++) decoder[i] = (int32_t)(check_random(&seed) % VOCAB), labels[i] = i % D == 1 ? -100 : (int32_t)(check_random(&seed) % VOCAB);
		batch.decoder_input_ids = decoder, batch.decoder_length = D;
		n_logits = B * D * VOCAB;
	}
}

static double loss_of(lora_model *m)
{
	double loss;
	ck_ok(lora_model_loss(m, &batch, &loss, NULL));
	return loss;
}

static void forward(lora_model *m, float *out) { ck_ok(lora_model_forward(m, &batch, out, n_logits * sizeof *out)); }

/* The gradient of the loss along random directions, in F64. */
START_TEST(slopes)
{
	golden_context("naive", 2);
	lora_model *m = build(&rows[_i], "f64");
	lora_adapter *a = adapter(&rows[_i], m, 4);
	double loss;
	int64_t n;
	make_batch(m);
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
	lora_adapter *a = adapter(&rows[_i], m, 4);
	int64_t n;
	float *g[2];
	make_batch(m);
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

/* BF16 activations stay near F32. A token near a tie between experts may go elsewhere, and T5 does not scale its scores down: these get more room. */
START_TEST(half_activations)
{
	double loss[2], dot = 0, size[2] = { 0, 0 };
	float *g[2];
	int64_t n = 0;
	for (int k = 0; k < 2; k++) {
		golden_context("naive", 2);
		lora_model *m = build(&rows[_i], k ? "bf16" : "f32");
		lora_adapter *a = adapter(&rows[_i], m, 4);
		make_batch(m);
		ck_ok(lora_adapter_attach(a, 1.0));
		ck_ok(lora_model_backward(m, &batch, NULL, 0, &loss[k], NULL));
		g[k] = gather(a, &n, lora_adapter_gradient_read);
		lora_adapter_destroy(a);
		lora_model_destroy(m);
		lora_context_destroy(golden_ctx);
	}
	for (int64_t i = 0; i < n; i++) dot += (double)g[0][i] * g[1][i], size[0] += (double)g[0][i] * g[0][i], size[1] += (double)g[1][i] * g[1][i];
	free(g[0]), free(g[1]);
	double least = _i < 4 || _i > 5 ? 0.95 : 0.99;
	ck_assert_msg(fabs(loss[0] - loss[1]) < 0.03 * loss[0], "%s: loss %g in BF16, %g in F32", rows[_i].arch, loss[1], loss[0]);
	ck_assert_msg(dot > least * sqrt(size[0] * size[1]), "%s: cosine of the gradients %g", rows[_i].arch, dot / sqrt(size[0] * size[1]));
}
END_TEST

static lora_model *saved_and_opened(lora_model *m, char *dir, size_t size)
{
	lora_model *again;
	snprintf(dir, size, "build/tmp-more-%d", (int)getpid());
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

/* Saved and opened again: the same logits, of model and adapter; merged: those of the adapter beside the weights; unmerged: the bits of before. */
START_TEST(saving_and_merging)
{
	char dir[64], where[80];
	golden_context("auto", 2);
	lora_model *m = build(&rows[_i], "f32"), *again;
	lora_adapter *a = adapter(&rows[_i], m, 4), *b;
	int64_t n;
	make_batch(m);
	forward(m, logits);
	again = saved_and_opened(m, dir, sizeof dir);
	forward(again, other);
	ck_assert_msg(memcmp(logits, other, n_logits * sizeof *other) == 0, "%s: saving changes the model", rows[_i].arch);
	ck_ok(lora_adapter_attach(a, 1.0));
	if (info.n_labels || info.has_decoder) { /* modules trained as a whole begin as copies: change them */
		float *p = gather(a, &n, lora_adapter_tensor_read);
		move(a, p, p, 0.05, 77);
		free(p);
	}
	forward(m, other);
	snprintf(where, sizeof where, "%s-adapter", dir);
	ck_ok(lora_adapter_save(a, where, NULL));
	ck_ok(lora_adapter_open(again, where, NULL, &b));
	ck_ok(lora_adapter_attach(b, 1.0));
	forward(again, merged);
	for (size_t i = 0; i < n_logits; i++) ck_assert_double_eq_tol(merged[i], other[i], 1e-5);
	lora_adapter_destroy(b);
	lora_model_destroy(again);
	clean(where);
	ck_ok(lora_adapter_merge(a, NULL));
	forward(m, merged);
	double gap = 0, change = 0;
	for (size_t i = 0; i < n_logits; i++) gap = fmax(gap, fabs((double)merged[i] - other[i])), change = fmax(change, fabs((double)logits[i] - other[i]));
	ck_assert_msg(gap < 1e-4 && change > 0.05, "%s: merging is off by %g, the adapter changes logits by %g", rows[_i].arch, gap, change);
	again = saved_and_opened(m, dir, sizeof dir);
	forward(again, other);
	for (size_t i = 0; i < n_logits; i++) ck_assert_double_eq_tol(merged[i], other[i], 1e-5);
	lora_model_destroy(again);
	ck_ok(lora_adapter_unmerge(a));
	ck_ok(lora_adapter_detach(a));
	forward(m, other);
	ck_assert(memcmp(logits, other, n_logits * sizeof *other) == 0);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	clean(dir);
}
END_TEST

/* Adapters by sequence: each row as in a pass with its adapter alone; gradients go to the adapter of the row only. */
START_TEST(by_sequence)
{
	golden_context("naive", 2);
	lora_model *m = build(&rows[_i], "f32");
	lora_adapter *a[2] = { adapter(&rows[_i], m, 4), adapter(&rows[_i], m, 5) };
	const int32_t who[B] = { 1, -1, 0 };
	int64_t n;
	double loss;
	make_batch(m);
	for (int k = 0; k < 2; k++) {
		float *p = gather(a[k], &n, lora_adapter_tensor_read);
		move(a[k], p, p, 0.05, 77 + (uint64_t)k); /* so that what is trained as a whole differs too */
		free(p);
	}
	for (int k = 0; k < 2; k++) ck_ok(lora_adapter_attach(a[k], 1.0));
	batch.adapter_rows = who, batch.adapters = a, batch.n_adapters = 2;
	ck_ok(lora_model_backward(m, &batch, logits, n_logits * sizeof *logits, &loss, NULL));
	float *g0 = gather(a[0], &n, lora_adapter_gradient_read), *g1 = gather(a[1], &n, lora_adapter_gradient_read);
	for (int k = 0; k < 2; k++) ck_ok(lora_adapter_detach(a[k]));
	batch.adapter_rows = NULL;
	size_t row = n_logits / B;
	for (int s = 0; s < B; s++) {
		if (who[s] >= 0) ck_ok(lora_adapter_attach(a[who[s]], 1.0));
		forward(m, other);
		for (size_t i = 0; i < row; i++) ck_assert_double_eq_tol(logits[(size_t)s * row + i], other[(size_t)s * row + i], 2e-5);
		if (who[s] >= 0) ck_ok(lora_adapter_detach(a[who[s]]));
	}
	double size[2] = { 0, 0 };
	for (int64_t i = 0; i < n; i++) size[0] += fabs((double)g0[i]), size[1] += fabs((double)g1[i]);
	ck_assert(size[0] > 0 && size[1] > 0);
	free(g0), free(g1);
	for (int k = 0; k < 2; k++) lora_adapter_destroy(a[k]);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* The caches of generation against passes over everything; encoders refuse. */
START_TEST(generating)
{
	int32_t tokens[40], next[2];
	float lp[2], *all = malloc(sizeof(float) * 40 * VOCAB);
	golden_context("naive", 1);
	lora_model *m = build(&rows[_i], "f64");
	lora_generator *g = NULL;
	lora_settings *s = from_json("{\"temperature\":1.5,\"seed\":3,\"batch_size\":2,\"max_length\":40}");
	make_batch(m);
	lora_status st = lora_generator_create(m, s, &g);
	lora_settings_destroy(s);
	if (info.n_labels) ck_assert_int_eq(st, LORA_E_UNSUPPORTED);
	else ck_ok(st);
	int64_t first = info.has_decoder ? 1 : 7;
	if (info.has_decoder) tokens[0] = 0;
	else memcpy(tokens, ids, 7 * sizeof *ids);
	if (g) ck_ok(lora_generator_feed(g, 1, NULL, ids, 7));
	for (int64_t n = first; g && n < 40; n++) {
		lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = n, .input_ids = tokens };
		if (info.has_decoder) b.input_ids = ids, b.length = 7, b.decoder_input_ids = tokens, b.decoder_length = n;
		if (n == first + 2) ck_ok(lora_generator_feed(g, 0, NULL, ids + 3, 80 / 8)); /* another sequence does not disturb */
		ck_ok(lora_generator_next(g, next, lp));
		ck_ok(lora_model_forward(m, &b, all, sizeof(float) * (size_t)(n * VOCAB)));
		const float *z = all + (n - 1) * VOCAB;
		double sum = 0;
		for (int i = 0; i < VOCAB; i++) sum += exp(z[i]);
		ck_assert_msg(fabs(z[next[1]] - log(sum) - lp[1]) < 2e-6, "%s: token %d has log-probability %g, by a full pass %g", rows[_i].arch, (int)n, lp[1], z[next[1]] - log(sum));
		tokens[n] = next[1];
	}
	free(all);
	lora_generator_destroy(g);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Take the tensors whose name begins with "classifier" out of a saved model. */
static void without_classifier(const char *dir)
{
	char path[100];
	lora__tensors file;
	lora__tensor list[64];
	size_t n = 0;
	snprintf(path, sizeof path, "%s/model.safetensors", dir);
	ck_ok(lora__safetensors_read(golden_ctx, path, &file));
	for (size_t i = 0; i < file.n; i++)
		if (strncmp(file.list[i].name, "classifier", 10)) list[n++] = file.list[i];
	ck_assert_uint_lt(n, file.n);
	lora__text header;
	lora__piece pieces[65];
	lora__text_init(&header, golden_ctx);
	ck_ok(lora__safetensors_layout(golden_ctx, list, n, NULL, &header, pieces));
	FILE *f = fopen(path, "wb");
	for (size_t i = 0; i <= n; i++) ck_assert_uint_eq(fwrite(pieces[i].data, 1, pieces[i].n, f), pieces[i].n);
	ck_assert_int_eq(fclose(f), 0);
	lora__text_free(&header);
	lora__tensors_close(&file);
}

/* An encoder without a head: hidden states only; num_labels makes it a classifier, whose adapter carries the head. */
START_TEST(headless)
{
	char dir[64], path[100];
	golden_context("naive", 1);
	const struct row *r = &rows[4 + _i];
	lora_model *m = build(r, "f32"), *again;
	make_batch(m);
	static float hidden[B * T * 24], second[B * T * 24];
	ck_ok(lora_model_hidden(m, &batch, hidden, sizeof hidden));
	ck_assert_int_eq(lora_model_hidden(m, &batch, hidden, sizeof hidden - 4), LORA_E_SHAPE);
	lora_model_destroy(saved_and_opened(m, dir, sizeof dir));
	snprintf(path, sizeof path, "%s/config.json", dir);
	json_t *c = golden_json("%s", path);
	json_object_set_new(c, "architectures", json_pack("[s]", _i ? "RobertaModel" : "BertModel"));
	json_object_del(c, "num_labels");
	without_classifier(dir);
	ck_assert_int_eq(json_dump_file(c, path, 0), 0);
	json_decref(c);
	ck_ok(lora_model_open(golden_ctx, dir, NULL, &again));
	ck_ok(lora_model_hidden(again, &batch, second, sizeof second));
	ck_assert(memcmp(hidden, second, sizeof hidden) == 0);
	ck_assert_int_eq(lora_model_forward(again, &batch, logits, sizeof logits), LORA_E_UNSUPPORTED);
	ck_assert(strstr(lora_context_last_error(golden_ctx), "num_labels") != NULL);
	lora_model_destroy(again);
	lora_settings *s = from_json("{\"num_labels\":5}");
	ck_ok(lora_model_open(golden_ctx, dir, s, &again));
	lora_settings_destroy(s);
	ck_ok(lora_model_get_info(again, &info));
	ck_assert_int_eq((int)info.n_labels, 5);
	lora_adapter *a = adapter(r, again, 4), *b;
	n_logits = B * 5;
	ck_ok(lora_adapter_attach(a, 1.0));
	forward(again, logits);
	snprintf(path, sizeof path, "%s-adapter", dir);
	ck_ok(lora_adapter_save(a, path, NULL));
	lora_adapter_destroy(a);
	ck_ok(lora_adapter_open(again, path, NULL, &b));
	ck_ok(lora_adapter_attach(b, 1.0));
	forward(again, other);
	ck_assert(memcmp(logits, other, n_logits * sizeof *other) == 0);
	lora_adapter_destroy(b);
	clean(path);
	lora_model_destroy(again);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	clean(dir);
}
END_TEST

/* ---- what must be refused, by name ---- */

static const struct { int row; const char *key, *value; lora_status status; } wrong[] = {
	{ 0, "num_experts_per_tok", "6", LORA_E_UNSUPPORTED }, { 0, "num_local_experts", "0", LORA_E_LIMIT }, { 0, "hidden_act", "\"mish\"", LORA_E_UNSUPPORTED },
	{ 2, "mlp_only_layers", "\"0\"", LORA_E_UNSUPPORTED }, { 2, "decoder_sparse_step", "0", LORA_E_LIMIT }, { 2, "norm_topk_prob", "1", LORA_E_FORMAT },
	{ 4, "position_embedding_type", "\"relative_key\"", LORA_E_UNSUPPORTED }, { 4, "is_decoder", "true", LORA_E_UNSUPPORTED },
	{ 4, "problem_type", "\"regression\"", LORA_E_UNSUPPORTED }, { 4, "hidden_act", "\"mish\"", LORA_E_UNSUPPORTED }, { 5, "type_vocab_size", "0", LORA_E_LIMIT },
	{ 5, "num_attention_heads", "5", LORA_E_UNSUPPORTED }, { 6, "feed_forward_proj", "\"gated-mish\"", LORA_E_UNSUPPORTED },
	{ 6, "relative_attention_max_distance", "2", LORA_E_UNSUPPORTED }, { 6, "d_kv", "0", LORA_E_LIMIT },
};
enum { N_WRONG = sizeof wrong / sizeof *wrong };

START_TEST(refusals)
{
	char dir[64], path[100];
	golden_context("naive", 1);
	const struct row *r = &rows[wrong[_i].row];
	lora_model *m = build(r, "f32");
	lora_model_destroy(saved_and_opened(m, dir, sizeof dir));
	lora_model_destroy(m);
	snprintf(path, sizeof path, "%s/config.json", dir);
	json_t *c = golden_json("%s", path);
	ck_assert_int_eq(json_object_set_new(c, wrong[_i].key, json_loads(wrong[_i].value, JSON_DECODE_ANY, NULL)), 0);
	ck_assert_int_eq(json_dump_file(c, path, 0), 0);
	json_decref(c);
	lora_status st = lora_model_open(golden_ctx, dir, NULL, &m);
	ck_assert_msg(st == wrong[_i].status, "%s, %s: %s: %s", r->arch, wrong[_i].key, lora_status_name(st), lora_context_last_error(golden_ctx));
	ck_assert_msg(strstr(lora_context_last_error(golden_ctx), wrong[_i].key) != NULL, "%s is not named: %s", wrong[_i].key, lora_context_last_error(golden_ctx));
	lora_context_destroy(golden_ctx);
	clean(dir);
}
END_TEST

/* Batches with something out of range, and the pieces of their messages. */
START_TEST(bad_batches)
{
	golden_context("naive", 1);
	lora_model *bert = build(&rows[4], "f32"), *t5 = build(&rows[6], "f32");
	make_batch(bert);
	types[3] = 2;
	ck_assert_int_eq(lora_model_forward(bert, &batch, logits, sizeof logits), LORA_E_SHAPE);
	ck_assert(strstr(lora_context_last_error(golden_ctx), "token_type_ids[0,3]") != NULL);
	make_batch(bert);
	labels[2] = 3;
	double loss;
	ck_assert_int_eq(lora_model_loss(bert, &batch, &loss, NULL), LORA_E_SHAPE);
	ck_assert(strstr(lora_context_last_error(golden_ctx), "labels[2] is 3") != NULL);
	batch.decoder_input_ids = decoder;
	ck_assert_int_eq(lora_model_forward(bert, &batch, logits, sizeof logits), LORA_E_UNSUPPORTED);
	make_batch(t5);
	decoder[7] = VOCAB;
	ck_assert_int_eq(lora_model_forward(t5, &batch, logits, sizeof logits), LORA_E_SHAPE);
	ck_assert(strstr(lora_context_last_error(golden_ctx), "decoder_input_ids[1,1]") != NULL);
	make_batch(t5);
	batch.decoder_input_ids = NULL; /* then the labels make them */
	double shifted;
	ck_ok(lora_model_loss(t5, &batch, &shifted, NULL));
	for (int i = 0; i < B * D; i++) decoder[i] = i % D == 0 ? 0 : labels[i - 1] < 0 ? 0 : labels[i - 1];
	batch.decoder_input_ids = decoder;
	ck_ok(lora_model_loss(t5, &batch, &loss, NULL));
	ck_assert(loss == shifted);
	batch.decoder_input_ids = NULL, batch.labels = NULL;
	ck_assert_int_eq(lora_model_forward(t5, &batch, logits, sizeof logits), LORA_E_ARGUMENT);
	lora_model_destroy(bert);
	lora_model_destroy(t5);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Everything that allocates, from building to generating, with memory from ctx; stops at the first failure and releases what there is. */
static lora_status whole_life(lora_context *ctx, const struct row *r, const char *dir)
{
	lora_settings *s = NULL, *t = NULL;
	lora_model *m = NULL;
	lora_adapter *a = NULL, *b = NULL;
	lora_generator *g = NULL;
	char text[1024], where[80];
	double loss;
	int32_t next;
	snprintf(text, sizeof text, "{%s,\"initializer_range\":0.25}", r->settings);
	lora_status st = lora_settings_create(ctx, &s);
	if (st == LORA_OK) st = lora_settings_from_json(s, text, strlen(text));
	if (st == LORA_OK) st = lora_model_build(ctx, r->arch, s, &m);
	snprintf(text, sizeof text, "{\"r\":2,%s}", r->adapter);
	if (st == LORA_OK) st = lora_settings_create(ctx, &t);
	if (st == LORA_OK) st = lora_settings_from_json(t, text, strlen(text));
	if (st == LORA_OK) st = lora_adapter_create(m, "lora", t, &a);
	if (st == LORA_OK) st = lora_adapter_attach(a, 1.0);
	if (st == LORA_OK) st = lora_model_backward(m, &batch, NULL, 0, &loss, NULL);
	snprintf(where, sizeof where, "%s-adapter", dir);
	if (st == LORA_OK) st = lora_adapter_save(a, where, NULL);
	if (st == LORA_OK) st = lora_adapter_open(m, where, NULL, &b);
	if (st == LORA_OK) st = lora_adapter_merge(a, NULL);
	if (st == LORA_OK && strcmp(r->arch, "bert")) st = lora_generator_create(m, NULL, &g);
	if (st == LORA_OK && g) st = lora_generator_feed(g, 0, NULL, ids, 5);
	for (int i = 0; i < 3 && st == LORA_OK && g; i++) st = lora_generator_next(g, &next, NULL);
	lora_generator_destroy(g);
	lora_adapter_destroy(b);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_settings_destroy(t);
	lora_settings_destroy(s);
	return st;
}

/* Out of memory anywhere: said so, and nothing is left behind. */
START_TEST(out_of_memory)
{
	static const int which[] = { 8, 4, 7 };
	const struct row *r = &rows[which[_i]];
	char dir[64];
	snprintf(dir, sizeof dir, "build/tmp-memory-%d", (int)getpid());
	golden_context("naive", 1);
	lora_model *m = build(r, "f32");
	make_batch(m);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	long total = 1, tried = 0;
	for (long n = 0; n <= total; n += n < 40 ? 1 : 1 + total / 150) {
		check_alloc ca;
		check_alloc_init(&ca);
		golden_ctx = check_context(&ca);
		check_alloc_arm(&ca, n, 0);
		lora_status st = whole_life(golden_ctx, r, dir);
		if (!n) total = ca.calls;
		if (!n) ck_ok(st);
		else if (ca.failures) ck_assert_msg(st == LORA_E_MEMORY || st == LORA_OK, "%s, allocation %ld: %s: %s", r->arch, n, lora_status_name(st), lora_context_last_error(golden_ctx));
		check_alloc_arm(&ca, 0, 0);
		lora_context_destroy(golden_ctx);
		check_alloc_done(&ca);
		tried++;
	}
	ck_assert_int_gt(tried, 100);
	snprintf(dir + strlen(dir), sizeof dir - strlen(dir), "-adapter");
	clean(dir);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("arch_more");
	TCase *t = tcase_create("arch_more");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, slopes, 0, N_ROWS);
	tcase_add_loop_test(t, recomputed, 0, N_ROWS);
	tcase_add_loop_test(t, half_activations, 0, N_ROWS);
	tcase_add_loop_test(t, saving_and_merging, 0, N_ROWS);
	tcase_add_loop_test(t, by_sequence, 0, N_ROWS);
	tcase_add_loop_test(t, generating, 0, N_ROWS);
	tcase_add_loop_test(t, headless, 0, 2);
	tcase_add_loop_test(t, refusals, 0, N_WRONG);
	tcase_add_test(t, bad_batches);
	tcase_add_loop_test(t, out_of_memory, 0, 3);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
