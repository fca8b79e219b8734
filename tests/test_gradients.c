/* Gradients of the whole model in double against central differences of the loss, along random directions and for single coordinates; and what
 * must not change them: recomputation, padding, the way rows are dealt to adapters, threads. */
#include "adapter/adapter.h"
#include "golden.h"

typedef struct setup { const char *config; const char *adapter; } setup;

static const setup setups[] = {
	{ "{}", "{\"target_modules\":\"all-linear\"}" },
	{ "{\"attention_bias\":true,\"mlp_bias\":true}", "{\"target_modules\":\"all-linear\",\"use_rslora\":true}" },
	{ "{\"tie_word_embeddings\":true}", "{\"target_modules\":[\"q_proj\",\"lm_head\"]}" },
	{ "{\"num_key_value_heads\":1,\"hidden_act\":\"gelu\"}", "{\"target_modules\":[\"down_proj\",\"k_proj\"],\"layers_to_transform\":[1]}" },
	{ "{\"hidden_act\":\"gelu_pytorch_tanh\",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":3.0}}", "{\"target_modules\":\"all-linear\",\"lora_alpha\":-3}" },
	{ "{\"num_hidden_layers\":3,\"head_dim\":10}", "{\"target_modules\":[\"v_proj\",\"up_proj\"],\"rank_pattern\":{\"up_proj\":1}}" },
};
enum { N_SETUPS = sizeof setups / sizeof *setups, B = 3, T = 9 };

static int32_t ids[B * T], mask[B * T], labels[B * T];

static void make_batch(lora_batch *b)
{
	lora__rng r;
	lora__rng_init(&r, 4);
	for (int i = 0; i < B * T; i++) {
		int s = i / T, t = i % T;
		ids[i] = (int32_t)lora__rng_below(&r, 37);
		mask[i] = s == 0 ? 1 : s == 1 ? t < 6 : t >= 4; /* full, right-padded, left-padded */
		labels[i] = mask[i] && t > 1 && lora__rng_below(&r, 5) ? ids[i] : -100;
	}
	*b = (lora_batch){ .struct_size = sizeof *b, .n_sequences = B, .length = T, .input_ids = ids, .attention_mask = mask, .labels = labels };
}

static lora_settings *settings_of(const char *json, const char *more)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, json, strlen(json)));
	if (more) ck_ok(lora_settings_from_json(s, more, strlen(more)));
	return s;
}

static lora_model *make_model(const char *config, const char *dtype)
{
	lora_model *m;
	lora_settings *s = settings_of("{\"vocab_size\":37,\"hidden_size\":16,\"intermediate_size\":28,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
		"\"num_key_value_heads\":2,\"seed\":11,\"initializer_range\":0.25}", config);
	ck_ok(lora_settings_set_string(s, "dtype", dtype));
	ck_ok(lora_model_build(golden_ctx, "llama", s, &m));
	lora_settings_destroy(s);
	return m;
}

static lora_adapter *make_adapter(lora_model *m, const char *json, int seed)
{
	lora_adapter *a;
	lora_settings *s = settings_of("{\"r\":3,\"init_lora_weights\":false}", json);
	ck_ok(lora_settings_set_int(s, "seed", seed));
	ck_ok(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	return a;
}

static double loss_of(lora_model *m, const lora_batch *b)
{
	double loss;
	ck_ok(lora_model_loss(m, b, &loss, NULL));
	return loss;
}

/* Slope of the loss along direction d (over all parameters), 4-point central difference. */
static double slope(lora_model *m, const lora_batch *b, lora_adapter *a, const float *d, float h)
{
	static const int at[4] = { -2, -1, 1, 2 };
	static const double weight[4] = { 1.0 / 12, -8.0 / 12, 8.0 / 12, -1.0 / 12 };
	float *keep = malloc(a->n_params * sizeof *keep);
	double sum = 0;
	memcpy(keep, a->params, a->n_params * sizeof *keep);
	for (int k = 0; k < 4; k++) {
		for (size_t i = 0; i < a->n_params; i++) a->params[i] = keep[i] + (float)at[k] * h * d[i];
		sum += weight[k] * loss_of(m, b) / h;
	}
	memcpy(a->params, keep, a->n_params * sizeof *keep);
	free(keep);
	return sum;
}

START_TEST(central_differences)
{
	lora_batch b;
	golden_context("naive", 2);
	lora_model *m = make_model(setups[_i].config, "f64");
	lora_adapter *a = make_adapter(m, setups[_i].adapter, 3);
	ck_ok(lora_adapter_attach(a, 0.9));
	make_batch(&b);
	/* parameters on a grid of 2^-16, so that steps are exact in F32 */
	for (size_t i = 0; i < a->n_params; i++) a->params[i] = roundf(a->params[i] * 65536) / 65536;
	double loss, top = 0;
	ck_ok(lora_model_backward(m, &b, NULL, 0, &loss, NULL));
	const double *g = (const double *)(void *)a->grads;
	for (size_t i = 0; i < a->n_params; i++) top = fmax(top, fabs(g[i]));
	ck_assert_double_gt(top, 1e-4);
	float *d = calloc(a->n_params, sizeof *d);
	lora__rng r;
	lora__rng_init(&r, 21);
	for (int k = 0; k < 4; k++) {
		double want = 0;
		for (size_t i = 0; i < a->n_params; i++) want += g[i] * (d[i] = lora__rng_below(&r, 2) ? 1.0f : -1.0f);
		double got = slope(m, &b, a, d, 1.0f / 65536);
		ck_assert_msg(fabs(got - want) <= 1e-6 * (fabs(want) + top), "direction %d: slope %.10g, gradient %.10g", k, got, want);
	}
	for (int k = 0; k < 24; k++) {
		size_t i = lora__rng_below(&r, a->n_params);
		memset(d, 0, a->n_params * sizeof *d);
		d[i] = 1;
		double got = slope(m, &b, a, d, 1.0f / 8192);
		ck_assert_msg(fabs(got - g[i]) <= 1e-6 * (fabs(g[i]) + top), "parameter %zu: slope %.10g, gradient %.10g", i, got, g[i]);
	}
	free(d);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Recomputing blocks gives the same bits as keeping everything; so does another number of threads; dropout on. */
START_TEST(recomputation_and_threads)
{
	float *first = NULL;
	lora_batch b;
	make_batch(&b);
	for (int variant = 0; variant < 5; variant++) {
		static const int threads[] = { 1, 1, 2, 7, 3 };
		golden_context("naive", threads[variant]);
		lora_model *m = make_model(setups[_i].config, "f32");
		lora_settings *s = settings_of(setups[_i].adapter, "{\"lora_dropout\":0.3,\"r\":3,\"init_lora_weights\":false}");
		lora_adapter *a;
		ck_ok(lora_adapter_create(m, "lora", s, &a));
		lora_settings_destroy(s);
		ck_ok(lora_adapter_attach(a, 1.0));
		lora__pass p = { .batch = &b, .backward = 1, .train = 1, .key = 77, .grad_scale = 1, .mean = 1, .checkpoint = variant & 1 };
		ck_ok(lora__model_pass(m, &p));
		size_t bytes = a->n_params * sizeof(float);
		if (!first) {
			first = malloc(bytes + sizeof(double));
			memcpy(first, a->grads, bytes);
		} else ck_assert_msg(memcmp(first, a->grads, bytes) == 0, "gradients of variant %d differ", variant);
		lora_adapter_destroy(a);
		lora_model_destroy(m);
		lora_context_destroy(golden_ctx);
	}
	free(first);
}
END_TEST

/* Dropout: another key gives another loss; the expectation of the output is that without dropout. */
START_TEST(dropout_keys)
{
	lora_batch b;
	make_batch(&b);
	golden_context("naive", 1);
	lora_model *m = make_model("{}", "f32");
	lora_settings *s = settings_of("{\"target_modules\":\"all-linear\",\"lora_dropout\":0.5,\"init_lora_weights\":false}", NULL);
	lora_adapter *a;
	ck_ok(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	ck_ok(lora_adapter_attach(a, 0.1));
	double plain = loss_of(m, &b), sum = 0, previous = 0;
	enum { N = 200 };
	for (uint64_t k = 0; k < N; k++) {
		lora__pass p = { .batch = &b, .train = 1, .key = k };
		ck_ok(lora__model_pass(m, &p));
		double loss = p.loss_sum / (double)p.n_labels;
		ck_assert(loss != previous);
		previous = loss;
		sum += loss / N;
	}
	ck_assert_double_eq_tol(sum, plain, 0.05);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* A padded batch gives the same logits and gradients as its sequences one by one. */
START_TEST(padding_is_free)
{
	enum { V = 37 };
	lora_batch b;
	make_batch(&b);
	golden_context("naive", 1);
	lora_model *m = make_model("{}", "f64");
	lora_adapter *a = make_adapter(m, "{\"target_modules\":\"all-linear\"}", 1);
	ck_ok(lora_adapter_attach(a, 1.0));
	float *all = malloc(sizeof(float) * B * T * V), one[T * V];
	lora__pass p = { .batch = &b, .backward = 1, .grad_scale = 1, .logits = all };
	ck_ok(lora__model_pass(m, &p));
	double *g = malloc(a->n_params * sizeof *g);
	memcpy(g, a->grads, a->n_params * sizeof *g);
	ck_ok(lora_adapter_zero_grad(a));
	for (int s = 0; s < B; s++) {
		int first = s == 2 ? 4 : 0, n = s == 0 ? T : s == 1 ? 6 : T - 4;
		lora_batch c = { .struct_size = sizeof c, .n_sequences = 1, .length = n, .input_ids = ids + s * T + first, .labels = labels + s * T + first };
		lora__pass q = { .batch = &c, .backward = 1, .grad_scale = 1, .logits = one };
		ck_ok(lora__model_pass(m, &q));
		for (int i = 0; i < n * V; i++) ck_assert_double_eq_tol(one[i], all[(s * T + first) * V + i], 1e-6);
	}
	for (int i = 0; i < B * T; i++)
		for (int j = 0; j < V && !mask[i]; j++) ck_assert(all[i * V + j] == 0.0f);
	for (size_t i = 0; i < a->n_params; i++) ck_assert_double_eq_tol(((double *)(void *)a->grads)[i], g[i], 1e-12);
	free(g), free(all);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* adapter_rows: a mixed batch equals each sequence with its adapter alone, logits and gradients; -1 is the base. */
START_TEST(mixed_batch)
{
	enum { V = 37 };
	lora_batch b;
	make_batch(&b);
	golden_context("naive", 2);
	lora_model *m = make_model("{}", "f64");
	lora_adapter *a[2] = { make_adapter(m, "{\"target_modules\":\"all-linear\"}", 1), make_adapter(m, "{\"target_modules\":[\"q_proj\",\"lm_head\"],\"r\":5}", 2) };
	int32_t rows[B] = { 1, -1, 0 };
	ck_ok(lora_adapter_attach(a[0], 1.0));
	ck_ok(lora_adapter_attach(a[1], 0.5));
	float *mixed = malloc(sizeof(float) * B * T * V), *alone = malloc(sizeof(float) * B * T * V);
	b.adapter_rows = rows, b.adapters = a, b.n_adapters = 2;
	double loss, sum = 0;
	int64_t tokens, total = 0;
	ck_ok(lora_model_backward(m, &b, mixed, sizeof(float) * B * T * V, &loss, &total));
	double *g[2];
	for (int k = 0; k < 2; k++) {
		g[k] = malloc(a[k]->n_params * sizeof(double));
		memcpy(g[k], a[k]->grads, a[k]->n_params * sizeof(double));
		ck_ok(lora_adapter_zero_grad(a[k]));
		ck_ok(lora_adapter_detach(a[k]));
	}
	for (int s = 0; s < B; s++) {
		if (rows[s] >= 0) ck_ok(lora_adapter_attach(a[rows[s]], rows[s] ? 0.5 : 1.0));
		lora_batch c = { .struct_size = sizeof c, .n_sequences = 1, .length = T, .input_ids = ids + s * T, .labels = labels + s * T, .attention_mask = mask + s * T };
		lora__pass q = { .batch = &c, .backward = 1, .grad_scale = 1.0 / (double)total, .logits = alone };
		ck_ok(lora__model_pass(m, &q));
		sum += q.loss_sum;
		for (int i = 0; i < T * V; i++) ck_assert_double_eq_tol(alone[i], mixed[s * T * V + i], 1e-6);
		if (rows[s] >= 0) ck_ok(lora_adapter_detach(a[rows[s]]));
	}
	ck_assert_double_eq_tol(sum / (double)total, loss, 1e-12);
	for (int k = 0; k < 2; k++)
		for (size_t i = 0; i < a[k]->n_params; i++) ck_assert_double_eq_tol(((double *)(void *)a[k]->grads)[i], g[k][i], 1e-12);
	rows[0] = 2;
	ck_assert_int_eq(lora_model_loss(m, &b, &loss, &tokens), LORA_E_ARGUMENT);
	free(g[0]), free(g[1]), free(mixed), free(alone);
	lora_adapter_destroy(a[0]);
	lora_adapter_destroy(a[1]);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* A fresh adapter leaves every output bit as it is; the output of one layer is linear in the scale; frozen adapters get no gradient. */
START_TEST(properties)
{
	lora_batch b;
	make_batch(&b);
	enum { N = B * T * 37 };
	static float plain[N], with[N];
	golden_context("auto", 2);
	lora_model *m = make_model("{}", "f32");
	ck_ok(lora_model_forward(m, &b, plain, sizeof plain));
	lora_adapter *a;
	ck_ok(lora_adapter_create(m, "lora", NULL, &a));
	ck_ok(lora_adapter_attach(a, 1.0));
	ck_ok(lora_model_forward(m, &b, with, sizeof with));
	ck_assert(memcmp(plain, with, sizeof plain) == 0);
	lora_adapter *c = make_adapter(m, "{\"target_modules\":\"all-linear\"}", 9);
	ck_ok(lora_adapter_attach(c, 0.0));
	ck_ok(lora_model_forward(m, &b, with, sizeof with));
	ck_assert(memcmp(plain, with, sizeof plain) == 0);
	ck_ok(lora_adapter_set_scale(c, 1.0));
	ck_ok(lora_adapter_set_trainable(c, 0));
	double loss;
	ck_ok(lora_model_backward(m, &b, NULL, 0, &loss, NULL));
	for (size_t i = 0; i < c->n_params; i++) ck_assert(((float *)(void *)c->grads)[i] == 0.0f);
	double moved = 0;
	for (size_t i = 0; i < a->n_params; i++) moved += fabs(((float *)(void *)a->grads)[i]);
	ck_assert_double_gt(moved, 0);
	lora_adapter_destroy(c);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("gradients");
	TCase *t = tcase_create("gradients");
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, central_differences, 0, N_SETUPS);
	tcase_add_loop_test(t, recomputation_and_threads, 0, N_SETUPS);
	tcase_add_test(t, dropout_keys);
	tcase_add_test(t, padding_is_free);
	tcase_add_test(t, mixed_batch);
	tcase_add_test(t, properties);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
