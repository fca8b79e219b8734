/* Prefix tuning, prompt tuning and prefix subspaces: PEFT's results, gradients by finite differences, the properties that define the methods,
 * mixed batches, decoding, training. */
#include <check.h>

#include "prefixwork.h"

/* ---- PEFT's results ---- */

static const struct { const char *backend, *dtype; } ways[] = { { "naive", "f32" }, { "auto", "f32" }, { "naive", "f64" } };
static const char *const cases[] = { "prefix-tuning", "prefix-tuning-projection", "prompt-tuning", "encoder" };

static void write_tensor(lora_adapter *a, int64_t i, const lora__tensors *io, const char *name)
{
	size_t n;
	double *v = golden_reals(io, name, &n);
	float *f = malloc((n + 1) * sizeof *f);
	for (size_t k = 0; k < n; k++) f[k] = (float)v[k];
	ck_ok(lora_adapter_tensor_write(a, i, f, n * sizeof *f));
	free(v), free(f);
}

static void check_gradient(const lora_adapter *a, int64_t i, const lora__tensors *io, double tolerance)
{
	lora_tensor_info info;
	char name[200];
	size_t n;
	double worst = 0, top = 0;
	ck_ok(lora_adapter_tensor_info(a, i, &info));
	snprintf(name, sizeof name, "grad.%s", info.name);
	double *want = golden_reals(io, name, &n);
	float *got = malloc(n * sizeof *got);
	ck_ok(lora_adapter_gradient_read(a, i, got, n * sizeof *got));
	for (size_t k = 0; k < n; k++) worst = fmax(worst, fabs((double)got[k] - want[k])), top = fmax(top, fabs(want[k]));
	ck_assert_msg(worst <= tolerance * top, "%s: off by %g of %g", name, worst, top);
	free(want), free(got);
}

START_TEST(golden)
{
	int own = strcmp(cases[_i / 3], "encoder") == 0, f64 = strcmp(ways[_i % 3].dtype, "f64") == 0;
	const char *name = own ? "prefix-tuning-projection" : cases[_i / 3];
	char path[512];
	golden_context(ways[_i % 3].backend, 2);
	snprintf(path, sizeof path, "tests/golden/peft/%s/case.json", name);
	json_t *c = golden_json("%s", path), *tolerance = json_object_get(c, "suggested_tolerance");
	int64_t skip = json_integer_value(json_object_get(c, "logit_columns_for_prompt"));
	lora__tensors io;
	lora_adapter *a;
	lora_model *m = open_model(LLAMA, ways[_i % 3].dtype);
	read_case(name, "io.safetensors", &io);
	snprintf(path, sizeof path, "tests/golden/peft/%s/adapter", name);
	if (own) { /* the encoder itself, not what it made */
		ck_ok(try_create(m, "prefix_tuning", "{\"num_virtual_tokens\":5,\"prefix_projection\":true,\"encoder_hidden_size\":20}", &a));
		ck_assert_int_eq(lora_adapter_tensor_count(a), 5);
		for (int64_t i = 0; i < 5; i++) {
			lora_tensor_info info;
			ck_ok(lora_adapter_tensor_info(a, i, &info));
			write_tensor(a, i, &io, info.name);
		}
	} else ck_ok(lora_adapter_open(m, path, NULL, &a));
	ck_ok(lora_adapter_attach(a, 1.0));
	golden_batch g = golden_read_batch(&io);
	size_t n, bytes = sizeof(float) * (size_t)(g.b.n_sequences * g.b.length * V);
	double *all = golden_reals(&io, "logits", &n), *want = malloc(2 * bytes), loss;
	for (int64_t s = 0; s < g.b.n_sequences; s++)
		memcpy(want + s * g.b.length * V, all + (s * (g.b.length + skip) + skip) * V, sizeof *all * (size_t)(g.b.length * V));
	float *got = malloc(bytes), *again = malloc(bytes);
	ck_ok(lora_model_forward(m, &g.b, got, bytes));
	ck_ok(lora_model_backward(m, &g.b, again, bytes, &loss, NULL));
	ck_assert(memcmp(got, again, bytes) == 0);
	double worst = golden_logits_gap(&g, got, want, V), limit = f64 ? own ? 3e-6 : 1e-6 : json_number_value(json_object_get(tolerance, "logits_abs"));
	ck_assert_msg(worst <= limit, "logits differ by %g, tolerance %g", worst, limit);
	ck_assert_double_eq_tol(loss, strtod(json_string_value(json_object_get(c, "loss")), NULL), f64 && !own ? 1e-11 : 1e-5);
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++)
		check_gradient(a, i, &io, f64 ? 2e-6 : json_number_value(json_object_get(tolerance, "grad_rel_to_max")));
	free(all), free(want), free(got), free(again);
	golden_free_batch(&g);
	lora__tensors_close(&io);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	json_decref(c);
}
END_TEST

/* ---- gradients ---- */

static double loss_of(lora_model *m, const lora_batch *b)
{
	double loss;
	ck_ok(lora_model_loss(m, b, &loss, NULL));
	return loss;
}

static const struct { const char *model, *kind, *json; int with_lora; } differentiated[] = {
	{ "llama", "prefix_tuning", "{\"num_virtual_tokens\":3}", 0 },
	{ "llama", "prefix_tuning", "{\"num_virtual_tokens\":3}", 1 },
	{ "llama", "prefix_tuning", "{\"num_virtual_tokens\":2,\"prefix_projection\":true,\"encoder_hidden_size\":7}", 0 },
	{ "llama", "prefix_tuning", "{\"num_virtual_tokens\":2,\"subspace_vertices\":3}", 0 },
	{ "llama", "prefix_tuning", "{\"num_virtual_tokens\":2,\"subspace_vertices\":3,\"subspace_inference\":\"sampled\",\"seed\":5}", 1 },
	{ "llama", "prompt_tuning", "{\"num_virtual_tokens\":3}", 1 },
	{ "llama", "prompt_tuning", "{\"num_virtual_tokens\":2,\"subspace_vertices\":2,\"subspace_inference\":\"sampled\"}", 0 },
	{ "llama", "prompt_tuning", "{\"num_virtual_tokens\":3}", 2 },
	{ "gpt2", "prefix_tuning", "{\"num_virtual_tokens\":3}", 1 },
	{ "gpt2", "prompt_tuning", "{\"num_virtual_tokens\":3}", 0 },
	{ "gemma2", "prefix_tuning", "{\"num_virtual_tokens\":4}", 1 },
	{ "gemma3_text", "prompt_tuning", "{\"num_virtual_tokens\":4}", 0 },
	{ "mixtral", "prefix_tuning", "{\"num_virtual_tokens\":3}", 0 },
	{ "qwen3", "prefix_tuning", "{\"num_virtual_tokens\":3}", 0 },
};
enum { N_DIFFERENTIATED = sizeof differentiated / sizeof *differentiated };

/* Attach anew: draws outside of training begin again. */
static void again(lora_adapter *a)
{
	ck_ok(lora_adapter_detach(a));
	ck_ok(lora_adapter_attach(a, 1.0));
}

/* Slope along a random direction of tensor i against its gradient. */
static void check_slope(lora_model *m, lora_adapter *a, lora_adapter *fresh, const lora_batch *b, int64_t i, uint64_t seed)
{
	lora_tensor_info info;
	ck_ok(lora_adapter_tensor_info(a, i, &info));
	size_t n = info.bytes / sizeof(float);
	float *x = malloc(info.bytes), *g = malloc(info.bytes), *u = malloc(info.bytes), *y = malloc(info.bytes);
	double at[4] = { -2, -1, 1, 2 }, value[4], got = 0, h = 1.0 / 16384, size = 0;
	ck_ok(lora_adapter_tensor_read(a, i, x, info.bytes));
	ck_ok(lora_adapter_gradient_read(a, i, g, info.bytes));
	for (size_t k = 0; k < n; k++) {
		u[k] = (float)((check_random(&seed) % 5) - 2.0); /* small integers: steps that F32 parameters take exactly, nearly always */
		x[k] = (float)(round((double)x[k] * 16384) / 16384);
		got += (double)g[k] * (double)u[k], size += fabs((double)g[k] * (double)u[k]);
	}
	for (int k = 0; k < 4; k++) {
		for (size_t j = 0; j < n; j++) y[j] = x[j] + (float)(at[k] * h) * u[j];
		ck_ok(lora_adapter_tensor_write(a, i, y, info.bytes));
		if (fresh) again(fresh);
		value[k] = loss_of(m, b);
	}
	ck_ok(lora_adapter_tensor_write(a, i, x, info.bytes));
	double want = (8 * (value[2] - value[1]) - (value[3] - value[0])) / (12 * h);
	ck_assert_msg(size > 0, "%s: the gradient is zero: nothing is tested", info.name);
	ck_assert_msg(fabs(got - want) <= 2e-6 * (size + fabs(want)), "%s: %.12g, by differences %.12g", info.name, got, want);
	free(x), free(g), free(u), free(y);
}

/* Parameters on the grid that check_slope() uses. */
static void round_parameters(lora_adapter *a)
{
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
		lora_tensor_info info;
		ck_ok(lora_adapter_tensor_info(a, i, &info));
		float *x = malloc(info.bytes);
		ck_ok(lora_adapter_tensor_read(a, i, x, info.bytes));
		for (size_t k = 0; k < info.bytes / sizeof *x; k++) x[k] = (float)(round((double)x[k] * 16384) / 16384);
		ck_ok(lora_adapter_tensor_write(a, i, x, info.bytes));
		free(x);
	}
}

START_TEST(differences)
{
	char path[200];
	golden_context("naive", 2);
	snprintf(path, sizeof path, "tests/golden/models/%s/model", differentiated[_i].model);
	lora_model *m = open_model(path, "f64");
	static const char *const loras[] = { "", "{\"init_lora_weights\":false,\"r\":2,\"lora_alpha\":16}",
		"{\"init_lora_weights\":false,\"r\":2,\"lora_alpha\":16,\"target_modules\":[\"embed_tokens\",\"q_proj\"]}" };
	lora_adapter *with = differentiated[_i].with_lora ? create(m, "lora", loras[differentiated[_i].with_lora]) : NULL;
	lora_adapter *a = create(m, differentiated[_i].kind, differentiated[_i].json);
	lora_batch b = fill_batch(7 + (uint64_t)_i);
	double loss;
	round_parameters(a);
	if (with) round_parameters(with);
	again(a);
	ck_ok(lora_model_backward(m, &b, NULL, 0, &loss, NULL));
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++)
		for (uint64_t k = 0; k < 3; k++) check_slope(m, a, a, &b, i, 100 * k + (uint64_t)i);
	for (int64_t i = 0; with && i < 4; i++) check_slope(m, with, a, &b, i, (uint64_t)i);
	lora_adapter_destroy(a);
	lora_adapter_destroy(with);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* ---- what defines the methods ---- */

/* A prompt made of the embeddings of real tokens is those tokens, bit for bit. */
START_TEST(hard_prompt)
{
	enum { P = 4 };
	lora_adapter *a = create(model, "prompt_tuning", "{\"num_virtual_tokens\":4}");
	int32_t all[P + T] = { 5, 77, 130, 5 };
	lora_batch b = fill_batch(3), whole = { .struct_size = sizeof whole, .n_sequences = 1, .length = P + T, .input_ids = all };
	b.n_sequences = 1, b.labels = b.attention_mask = NULL;
	memcpy(all + P, ids, T * sizeof *ids);
	const lora_view *table = &model->s.body.table;
	ck_assert_int_eq(table->dtype, LORA_F32);
	float *rows = malloc(P * (size_t)table->size[1] * sizeof *rows);
	for (int i = 0; i < P; i++) memcpy(rows + i * table->size[1], (const float *)table->data + all[i] * table->size[1], (size_t)table->size[1] * sizeof *rows);
	ck_ok(lora_adapter_tensor_write(a, 0, rows, P * (size_t)table->size[1] * sizeof *rows));
	float *soft = logits_of(model, &b);
	ck_ok(lora_adapter_detach(a));
	float *hard = logits_of(model, &whole);
	ck_assert(memcmp(soft, hard + P * V, T * V * sizeof *soft) == 0);
	free(rows), free(soft), free(hard);
	lora_adapter_destroy(a);
}
END_TEST

/* TEXT begins with the tokens of a text; SAMPLE_VOCAB with rows of the table. */
START_TEST(prompt_inits)
{
	lora_adapter *a = create(model, "prompt_tuning", "{\"num_virtual_tokens\":6,\"prompt_tuning_init\":\"SAMPLE_VOCAB\",\"seed\":3}");
	const lora_view *table = &model->s.body.table;
	int64_t d = table->size[1];
	for (int64_t t = 0; t < 6; t++) {
		int found = 0;
		for (int64_t id = 0; id < V; id++) found |= memcmp((const float *)table->data + id * d, a->params + t * d, (size_t)d * sizeof(float)) == 0;
		ck_assert_msg(found, "row %d is of no token", (int)t);
	}
	lora_adapter_destroy(a);
	lora_model *demo = open_model("examples/demo/model", "f32");
	lora_tokenizer *tok;
	int32_t want[32];
	size_t n;
	const char *text = "Arr, the sea";
	ck_ok(lora_tokenizer_open(golden_ctx, "examples/demo/model", &tok));
	ck_ok(lora_tokenizer_encode(tok, text, strlen(text), LORA_TOKENIZE_SPECIAL, want, 32, &n));
	lora_settings *s = from_json("{\"num_virtual_tokens\":20,\"prompt_tuning_init\":\"TEXT\",\"prompt_tuning_init_text\":\"Arr, the sea\"}");
	ck_ok(lora_adapter_create(demo, "prompt_tuning", s, &a));
	const lora__body *b = &demo->s.body;
	for (size_t t = 0; t < 20; t++) {
		float *row = malloc((size_t)b->width * sizeof *row);
		lora__convert(row, LORA_F32, (const char *)b->table.data + (size_t)(want[t % n] * b->width) * lora__dtype_size(b->table.dtype), b->table.dtype, (size_t)b->width);
		for (int64_t i = 0; i < b->width; i++) ck_assert_double_eq_tol(row[i] * b->factor, a->params[(int64_t)t * b->width + i], 1e-6);
		free(row);
	}
	lora_settings_destroy(s);
	lora_tokenizer_destroy(tok);
	lora_adapter_destroy(a);
	lora_model_destroy(demo);
}
END_TEST

/* Keys and values of real tokens, taken from a decoding cache, are a prefix that stands for those tokens. */
START_TEST(cached_prefix)
{
	enum { P = 4 };
	int32_t all[P + T] = { 5, 77, 130, 5 };
	lora_batch b = fill_batch(3), whole = { .struct_size = sizeof whole, .n_sequences = 1, .length = P + T, .input_ids = all };
	b.n_sequences = 1, b.labels = b.attention_mask = NULL;
	memcpy(all + P, ids, T * sizeof *ids);
	float *want = logits_of(model, &whole);
	lora_generator *g;
	ck_ok(lora_generator_create(model, NULL, &g));
	ck_ok(lora_generator_feed(g, 0, NULL, all, P));
	lora_adapter *a = create(model, "prefix_tuning", "{\"num_virtual_tokens\":4}");
	int64_t w = model->kv_width;
	for (int64_t t = 0; t < P; t++)
		for (int64_t l = 0; l < model->layers; l++)
			for (int k = 0; k < 2; k++)
				memcpy(a->params + (t * model->layers + l) * 2 * w + k * w, (k ? g->cache.v : g->cache.k)[l] + (size_t)(t * w) * sizeof(float), (size_t)w * sizeof(float));
	float *got = logits_of(model, &b);
	ck_assert_double_le(gap_of(got, want + P * V, T * V), 2e-5);
	free(want), free(got);
	lora_generator_destroy(g);
	lora_adapter_destroy(a);
}
END_TEST

/* Weights of Dirichlet(1, ..., 1): mean 1/m, variance (m-1)/(m^2 (m+1)); the same key gives the same ones. */
START_TEST(drawn_weights)
{
	enum { M = 4, DRAWS = 40000 };
	lora__virtual v = { .vertices = M, .trainable = 1 };
	double sum = 0, squares = 0, w[M], first[M];
	lora__virtual_weights(&v, 1, 11, 0, 0, first);
	for (int i = 0; i < DRAWS; i++) {
		double all = 0;
		lora__virtual_weights(&v, 1, 11, i, i % 3, w);
		for (int k = 0; k < M; k++) {
			ck_assert_double_ge(w[k], 0);
			all += w[k];
		}
		ck_assert_double_eq_tol(all, 1, 1e-12);
		sum += w[1], squares += w[1] * w[1];
	}
	ck_assert_double_eq_tol(sum / DRAWS, 1.0 / M, 0.005);
	ck_assert_double_eq_tol(squares / DRAWS - sum / DRAWS * sum / DRAWS, (M - 1.0) / (M * M * (M + 1.0)), 0.001);
	lora__virtual_weights(&v, 1, 11, 0, 0, w);
	ck_assert(memcmp(w, first, sizeof w) == 0);
	lora__virtual_weights(&v, 1, 12, 0, 0, w);
	ck_assert(memcmp(w, first, sizeof w) != 0);
	lora__virtual_weights(&v, 0, 11, 0, 0, w);
	for (int k = 0; k < M; k++) ck_assert_double_eq(w[k], 1.0 / M);
}
END_TEST

/* Equal vertices are one prefix, wherever the draw falls, and their gradients sum to its own. */
START_TEST(equal_vertices)
{
	lora_batch b = fill_batch(5);
	double loss, want;
	lora_adapter *one = create(model, "prefix_tuning", "{\"num_virtual_tokens\":3,\"seed\":2}");
	size_t n = one->n_params;
	float *grad = malloc(n * sizeof *grad), *grads = malloc(3 * n * sizeof *grads), *x = malloc(3 * n * sizeof *x);
	ck_ok(lora_model_backward(model, &b, NULL, 0, &want, NULL));
	ck_ok(lora_adapter_gradient_read(one, 0, grad, n * sizeof *grad));
	ck_ok(lora_adapter_detach(one));
	lora_adapter *all = create(model, "prefix_tuning", "{\"num_virtual_tokens\":3,\"subspace_vertices\":3,\"subspace_inference\":\"sampled\"}");
	for (int k = 0; k < 3; k++) memcpy(x + (size_t)k * n, one->params, n * sizeof *x);
	ck_ok(lora_adapter_tensor_write(all, 0, x, 3 * n * sizeof *x));
	ck_ok(lora_model_backward(model, &b, NULL, 0, &loss, NULL));
	ck_ok(lora_adapter_gradient_read(all, 0, grads, 3 * n * sizeof *grads));
	ck_assert_double_eq_tol(loss, want, 1e-6);
	double top = 0;
	for (size_t i = 0; i < n; i++) top = fmax(top, fabs(grad[i]));
	for (size_t i = 0; i < n; i++) ck_assert_double_eq_tol(grads[i] + grads[n + i] + grads[2 * n + i], grad[i], 1e-5 * top);
	ck_assert_msg(gap_of(grads, grads + n, n) > 1e-3 * top, "the vertices' shares do not differ: nothing was drawn");
	free(grad), free(grads), free(x);
	lora_adapter_destroy(one);
	lora_adapter_destroy(all);
}
END_TEST

/* Sequences with a prefix, a prompt, a LoRA and nothing in one batch are as each alone; gradients too. */
START_TEST(mixed)
{
	lora_batch b = fill_batch(9);
	lora_adapter *a[3] = { create(model, "prefix_tuning", "{\"num_virtual_tokens\":3}"), create(model, "prompt_tuning", "{\"num_virtual_tokens\":2}"),
		create(model, "lora", "{\"init_lora_weights\":false,\"lora_alpha\":32}") };
	int32_t rows[4] = { 1, 0, -1, 2 };
	b.adapter_rows = rows, b.adapters = a, b.n_adapters = 3;
	float *all = logits_of(model, &b);
	for (int s = 0; s < 4; s++) {
		lora_batch alone = b;
		alone.n_sequences = 1, alone.input_ids += s * T, alone.attention_mask += s * T, alone.labels += s * T, alone.adapter_rows += s;
		float *one = logits_of(model, &alone);
		ck_assert_msg(gap_of(all + s * T * V, one, T * V) <= 1e-5, "sequence %d differs by %g", s, gap_of(all + s * T * V, one, T * V));
		free(one);
	}
	/* two prefixes on every row follow one another */
	ck_ok(lora_adapter_detach(a[1]));
	ck_ok(lora_adapter_detach(a[2]));
	lora_adapter *second = create(model, "prefix_tuning", "{\"num_virtual_tokens\":2,\"seed\":8}");
	b.adapter_rows = NULL, b.adapters = NULL, b.n_adapters = 0;
	float *pair = logits_of(model, &b), *both = malloc((a[0]->n_params + second->n_params) * sizeof *both);
	ck_ok(lora_adapter_detach(a[0]));
	ck_ok(lora_adapter_detach(second));
	lora_adapter *joined = create(model, "prefix_tuning", "{\"num_virtual_tokens\":5}");
	memcpy(both, a[0]->params, a[0]->n_params * sizeof *both), memcpy(both + a[0]->n_params, second->params, second->n_params * sizeof *both);
	ck_ok(lora_adapter_tensor_write(joined, 0, both, joined->n_params * sizeof *both));
	float *once = logits_of(model, &b);
	ck_assert(memcmp(pair, once, 4 * T * V * sizeof *pair) == 0);
	free(all), free(pair), free(once), free(both);
	for (int i = 0; i < 3; i++) lora_adapter_destroy(a[i]);
	lora_adapter_destroy(second), lora_adapter_destroy(joined);
}
END_TEST

/* Decoding with a cache gives the logits of a full pass, for sequences with different adapters side by side, across a growing cache. */
static const char *const decoders[] = { "llama", "gpt2", "gemma2", "gemma3_text", "opt", "starcoder2", "mixtral" };

START_TEST(decoding)
{
	enum { N = 80, SLOTS = 3 };
	char path[200];
	golden_context("naive", 1);
	snprintf(path, sizeof path, "tests/golden/models/%s/model", decoders[_i]);
	lora_model *m = open_model(path, "f32");
	lora_adapter *a[SLOTS] = { create(m, "prefix_tuning", "{\"num_virtual_tokens\":6}"), create(m, "prompt_tuning", "{\"num_virtual_tokens\":3}"), NULL };
	a[2] = create(m, "lora", "{\"init_lora_weights\":false,\"target_modules\":\"all-linear\"}");
	int64_t vocab = m->vocab, limit = m->max_positions - 6 < N ? m->max_positions - 6 : N, past[SLOTS] = { 0 };
	lora_settings *s = from_json("{\"batch_size\":3}");
	lora_generator *g;
	int32_t tokens[SLOTS][N], next[SLOTS];
	uint64_t seed = 4;
	ck_ok(lora_generator_create(m, s, &g));
	lora_settings_destroy(s);
	for (int k = 0; k < SLOTS; k++) {
		past[k] = 3 + 2 * k;
		for (int64_t i = 0; i < past[k]; i++) tokens[k][i] = (int32_t)(check_random(&seed) % (uint64_t)vocab);
		ck_ok(lora_generator_feed(g, k, a[k], tokens[k], past[k]));
	}
	float *all = malloc(sizeof *all * (size_t)(N * vocab));
	for (int step = 0; past[SLOTS - 1] < limit; step++) {
		ck_ok(lora_generator_next(g, next, NULL));
		for (int k = 0; k < SLOTS && (step % 16 == 0 || past[SLOTS - 1] + 1 == limit); k++) {
			int32_t row = 0;
			lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = past[k], .input_ids = tokens[k], .adapter_rows = &row, .adapters = &a[k], .n_adapters = 1 };
			ck_ok(lora_model_forward(m, &b, all, sizeof *all * (size_t)(N * vocab)));
			ck_assert_msg(gap_of(g->logits + k * vocab, all + (past[k] - 1) * vocab, (size_t)vocab) < 2e-4, "sequence %d, token %d", k, (int)past[k]);
		}
		for (int k = 0; k < SLOTS; k++) tokens[k][past[k]++] = next[k];
	}
	free(all);
	lora_generator_destroy(g);
	for (int k = 0; k < SLOTS; k++) lora_adapter_destroy(a[k]);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* ---- training ---- */

static lora_trainer *trainer(lora_model *m, lora_adapter *a, lora_optimizer **o, const char *json)
{
	lora_settings *so = from_json("{\"learning_rate\":0.05}"), *st = from_json(json);
	lora_trainer *t;
	ck_ok(lora_optimizer_create(a, "adamw", so, o));
	ck_ok(lora_trainer_create(m, a, *o, st, &t));
	lora_settings_destroy(so), lora_settings_destroy(st);
	return t;
}


/* Loss falls; block-wise recomputation gives the same bits; a run that is saved and resumed is the run that was not. */
START_TEST(training)
{
	enum { STEPS = 12 };
	lora_batch b = fill_batch(21);
	lora_metrics metrics = { .struct_size = sizeof metrics };
	float *end_of[3];
	double first = 0, last = 0;
	size_t n = 0;
	char dir[] = "/tmp/lora-prefix-XXXXXX", command[64];
	ck_assert_ptr_nonnull(mkdtemp(dir));
	for (int run = 0; run < 3; run++) {
		lora_adapter *a = create(model, trained[_i].kind, trained[_i].json);
		lora_optimizer *o;
		const char *how = run == 1 ? "{\"seed\":3,\"gradient_checkpointing\":true}" : "{\"seed\":3}";
		lora_trainer *t = trainer(model, a, &o, how);
		for (int i = 0; i < STEPS; i++) {
			ck_ok(lora_trainer_step(t, &b, &metrics));
			if (i == 0) first = metrics.loss;
			last = metrics.loss;
			if (run < 2 || i != 4) continue;
			ck_ok(lora_trainer_save(t, dir, 77));
			lora_trainer_destroy(t), lora_optimizer_destroy(o), lora_adapter_destroy(a);
			int64_t cursor;
			a = create(model, trained[_i].kind, trained[_i].json);
			t = trainer(model, a, &o, how);
			ck_ok(lora_trainer_resume(t, dir, &cursor));
			ck_assert_int_eq(cursor, 77);
		}
		n = a->n_params;
		end_of[run] = malloc(n * sizeof(float));
		memcpy(end_of[run], a->params, n * sizeof(float));
		lora_trainer_destroy(t), lora_optimizer_destroy(o), lora_adapter_destroy(a);
	}
	ck_assert_msg(last < first - 0.2, "the loss went from %g to %g", first, last);
	for (int run = 1; run < 3; run++) ck_assert_msg(memcmp(end_of[0], end_of[run], n * sizeof(float)) == 0, "run %d ends elsewhere", run);
	for (int run = 0; run < 3; run++) free(end_of[run]);
	snprintf(command, sizeof command, "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
}
END_TEST

/* Every allocation fails once: the call says so, nothing leaks, and afterwards all is as before. */
START_TEST(out_of_memory)
{
	check_alloc ca;
	check_alloc_init(&ca);
	golden_ctx = check_context(&ca);
	lora_model *m = open_model(LLAMA, "f32");
	lora_batch b = fill_batch(2);
	double loss, want = 0;
	for (long at = 1, done = 0; !done; at++) {
		lora_adapter *a = NULL;
		lora_settings *s = from_json(_i ? trained[_i].json : "{\"num_virtual_tokens\":3}");
		ca.fail_at = at, ca.failures = 0;
		lora_status st = lora_adapter_create(m, trained[_i].kind, s, &a);
		if (st == LORA_OK) st = lora_adapter_attach(a, 1.0);
		if (st == LORA_OK) st = lora_model_backward(m, &b, NULL, 0, &loss, NULL);
		ca.fail_at = 0;
		ck_assert_msg(st == LORA_OK ? 1 : st == LORA_E_MEMORY, "allocation %ld: %s", at, lora_context_last_error(golden_ctx));
		if (st && a && a->attached) ck_ok(lora_model_backward(m, &b, NULL, 0, &loss, NULL));
		done = !ca.failures;
		if (st == LORA_OK && want == 0) want = loss;
		lora_adapter_destroy(a);
		lora_settings_destroy(s);
	}
	ck_assert_double_gt(want, 0);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
	check_alloc_done(&ca);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("prefix");
	TCase *t = tcase_create("own"), *u = tcase_create("llama");
	tcase_set_timeout(t, 120), tcase_set_timeout(u, 60);
	tcase_add_loop_test(t, golden, 0, 12);
	tcase_add_loop_test(t, differences, 0, N_DIFFERENTIATED);
	tcase_add_loop_test(t, decoding, 0, 7);
	tcase_add_loop_test(t, out_of_memory, 0, 4);
	tcase_add_checked_fixture(u, begin, end);
	tcase_add_test(u, hard_prompt);
	tcase_add_test(u, prompt_inits);
	tcase_add_test(u, cached_prefix);
	tcase_add_test(u, drawn_weights);
	tcase_add_test(u, equal_vertices);
	tcase_add_test(u, mixed);
	tcase_add_loop_test(u, training, 0, 4);
	suite_add_tcase(s, t), suite_add_tcase(s, u);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
