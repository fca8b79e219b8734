/* Generation: the greedy continuations recorded with transformers, the cache against full forward passes, sampling, and misuse. */
#include <check.h>

#include "check_alloc.h"
#include "golden.h"
#include "model/generate.h"

static const char *const models[] = { "llama/model", "llama/model-bf16", "llama/model-f16", "llama-bias/model", "llama-linear-rope/model", "llama-tied/model",
	"llama-yarn/model", "llama3/model", "qwen2/model", "qwen3/model", "gemma2/model", "gemma3_text/model", "phi3/model", "gpt2/model", "gpt_neox/model",
	"opt/model", "olmo2/model", "smollm3/model", "starcoder2/model" };
static const char *const more_models[] = { "mistral/model", "gemma/model", "gpt_neox-serial/model" }; /* where LORA_GOLDEN has them */
static const char *root = "tests/golden";
enum { N_MORE_MODELS = sizeof more_models / sizeof *more_models };
enum { N_MODELS = sizeof models / sizeof *models };

static lora_settings *from_json(const char *text)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, text, strlen(text)));
	return s;
}

static lora_model *open_model(const char *which, const char *dtype)
{
	char path[512];
	lora_model *m;
	lora_settings *s;
	snprintf(path, sizeof path, "%s/models/%s", root, which);
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_string(s, "dtype", dtype));
	ck_ok(lora_model_open(golden_ctx, path, s, &m));
	lora_settings_destroy(s);
	return m;
}

static lora_generator *generator(lora_model *m, const char *settings)
{
	lora_generator *g;
	lora_settings *s = from_json(settings);
	ck_ok(lora_generator_create(m, s, &g));
	lora_settings_destroy(s);
	return g;
}

static lora_adapter *adapter(lora_model *m, const char *name, int seed)
{
	lora_adapter *a;
	char text[200];
	snprintf(text, sizeof text, "{\"name\":\"%s\",\"seed\":%d,\"init_lora_weights\":false,\"lora_alpha\":32,\"target_modules\":\"all-linear\"}", name, seed);
	lora_settings *s = from_json(text);
	ck_ok(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	ck_ok(lora_adapter_attach(a, 1.0));
	return a;
}

static int64_t vocab_of(const lora_model *m)
{
	lora_model_info i = { .struct_size = sizeof i };
	ck_ok(lora_model_get_info(m, &i));
	return i.vocab_size;
}

/* Logits of the last token by a full forward pass without cache; who: adapter of the sequence, NULL = every attached one. */
static void full(lora_model *m, const int32_t *tokens, int64_t n, lora_adapter *who, float *out)
{
	int64_t vocab = vocab_of(m);
	int32_t row = 0;
	size_t bytes = sizeof(float) * (size_t)(n * vocab);
	float *all = malloc(bytes);
	lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = n, .input_ids = tokens };
	if (who) b.adapter_rows = &row, b.adapters = &who, b.n_adapters = 1;
	ck_ok(lora_model_forward(m, &b, all, bytes));
	memcpy(out, all + (n - 1) * vocab, sizeof(float) * (size_t)vocab);
	free(all);
}

static int32_t best_of(const float *x, int64_t n)
{
	int64_t b = 0;
	for (int64_t i = 1; i < n; i++)
		if (x[i] > x[b]) b = i;
	return (int32_t)b;
}

/* ---- greedy against transformers ---- */

static void greedy_as_recorded(const char *which)
{
	char name[64], path[512];
	snprintf(name, sizeof name, "%s", which);
	*strchr(name, '/') = 0;
	int twin = strcmp(which + strlen(name), "/model") != 0; /* twins have rounded weights: their margins are others, so compare the first ten */
	snprintf(path, sizeof path, "%s/models/%s/case.json", root, name);
	json_t *c = golden_json("%s", path), *greedy = json_object_get(c, "greedy"), *want = json_object_get(greedy, "continuation");
	json_t *prompt = json_object_get(greedy, "prompt");
	for (int pass = 0; pass < 3; pass++) {
		golden_context(pass ? "naive" : "auto", 2);
		lora_model *m = open_model(which, pass == 2 ? "f64" : "f32");
		lora_generator *g = generator(m, "{}");
		for (size_t i = 0; i < json_array_size(prompt); i++) { /* token by token is the same as at once */
			int32_t id = (int32_t)json_integer_value(json_array_get(prompt, i));
			ck_ok(lora_generator_feed(g, 0, NULL, &id, 1));
		}
		ck_assert_uint_eq(json_array_size(want), 24);
		for (size_t i = 0; i < (twin ? 10 : 24); i++) {
			int32_t id = -7;
			float lp = 1;
			ck_ok(lora_generator_next(g, &id, &lp));
			ck_assert_msg(id == (int32_t)json_integer_value(json_array_get(want, i)), "%s: token %zu is %d", which, i, (int)id);
			ck_assert(lp <= 0 && isfinite(lp));
		}
		lora_generator_destroy(g);
		lora_model_destroy(m);
		lora_context_destroy(golden_ctx);
	}
	json_decref(c);
}

START_TEST(golden_greedy) { greedy_as_recorded(models[_i]); }
END_TEST

START_TEST(golden_greedy_more)
{
	root = getenv("LORA_GOLDEN");
	if (root && *root) greedy_as_recorded(more_models[_i]);
}
END_TEST

/* ---- the cache ---- */

enum { LONG = 700 };

/* Prompts longer than one piece, and growth of the cache: the logits are those of a pass over everything. */
START_TEST(cache_is_exact)
{
	static int32_t tokens[LONG + 40];
	golden_context("naive", 1);
	lora_model *m = open_model("llama/model", _i ? "f64" : "f32");
	int64_t vocab = vocab_of(m);
	float *want = malloc(sizeof(float) * (size_t)vocab);
	uint64_t seed = 3;
	for (int i = 0; i < LONG; i++) tokens[i] = (int32_t)(check_random(&seed) % (uint64_t)vocab);
	lora_generator *g = generator(m, "{\"max_length\":800}");
	int64_t n = 0;
	const int64_t cuts[] = { 1, 2, 63, 64, 65, 320, 321, 577, LONG };
	for (size_t k = 0; k < sizeof cuts / sizeof *cuts; k++) {
		ck_ok(lora_generator_feed(g, 0, NULL, tokens + n, cuts[k] - n));
		n = cuts[k];
		full(m, tokens, n, NULL, want);
		check_close(g->logits, want, vocab, 2e-5);
	}
	for (int k = 0; k < 20; k++) {
		int32_t id;
		float lp;
		ck_ok(lora_generator_next(g, &id, &lp));
		full(m, tokens, n, NULL, want);
		ck_assert_int_eq(id, best_of(want, vocab));
		double sum = 0;
		for (int64_t i = 0; i < vocab; i++) sum += exp((double)want[i] - (double)want[id]);
		ck_assert_double_eq_tol(lp, -log(sum), 1e-4);
		tokens[n++] = id;
	}
	/* tokens of the caller's after chosen ones */
	tokens[n] = 5, tokens[n + 1] = 6;
	ck_ok(lora_generator_feed(g, 0, NULL, tokens + n, 2));
	n += 2;
	full(m, tokens, n, NULL, want);
	check_close(g->logits, want, vocab, 2e-5);
	free(want);
	lora_generator_destroy(g);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Sequences of different lengths with different adapters in one pass: each as if it were alone. */
START_TEST(many_sequences)
{
	enum { S = 5, STEPS = 30 };
	int32_t text[S][80], ids[S];
	int64_t n[S] = { 3, 17, 1, 9, 30 };
	float lp[S];
	golden_context("naive", _i + 1);
	lora_model *m = open_model("llama/model", "f32");
	int64_t vocab = vocab_of(m);
	lora_adapter *a = adapter(m, "a", 1), *b = adapter(m, "b", 2), *who[S] = { a, b, NULL, a, b };
	lora_generator *g = generator(m, "{\"batch_size\":6,\"max_length\":64}");
	float *want = malloc(sizeof(float) * (size_t)vocab);
	uint64_t seed = 8;
	for (int s = 0; s < S; s++) {
		for (int64_t i = 0; i < n[s]; i++) text[s][i] = (int32_t)(check_random(&seed) % (uint64_t)vocab);
		ck_ok(lora_generator_feed(g, s, who[s], text[s], n[s]));
	}
	int32_t all[S + 1];
	float all_lp[S + 1];
	for (int k = 0; k < STEPS; k++) {
		ck_ok(lora_generator_next(g, all, all_lp));
		ck_assert_int_eq(all[S], -1); /* never fed */
		memcpy(ids, all, sizeof ids), memcpy(lp, all_lp, sizeof lp);
		for (int s = 0; s < S; s++) {
			full(m, text[s], n[s], who[s], want);
			check_close(g->logits + s * vocab, want, vocab, 1e-4);
			ck_assert_int_eq(ids[s], best_of(g->logits + s * vocab, vocab));
			text[s][n[s]++] = ids[s];
		}
		if (k == 10) { /* one starts anew in the middle, the others do not notice */
			ck_ok(lora_generator_reset(g, 1));
			n[1] = 4;
			who[1] = NULL;
			ck_ok(lora_generator_feed(g, 1, NULL, text[1], 4));
		}
	}
	free(want);
	lora_generator_destroy(g);
	lora_adapter_destroy(a);
	lora_adapter_destroy(b);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

START_TEST(max_length)
{
	int32_t tokens[16], id[2];
	golden_context("naive", 1);
	lora_model *m = open_model("llama/model", "f32");
	lora_generator *g = generator(m, "{\"max_length\":10,\"batch_size\":2}");
	for (int i = 0; i < 16; i++) tokens[i] = i + 3;
	check_fails(LORA_E_LIMIT, lora_generator_feed(g, 0, NULL, tokens, 11));
	check_fails(LORA_E_STATE, lora_generator_next(g, id, NULL)); /* the failed feed left nothing */
	ck_ok(lora_generator_feed(g, 0, NULL, tokens, 8));
	ck_ok(lora_generator_feed(g, 1, NULL, tokens, 5));
	ck_ok(lora_generator_next(g, id, NULL));
	ck_ok(lora_generator_next(g, id, NULL));
	ck_assert_int_ge(id[0], 0);
	for (int k = 0; k < 3; k++) {
		ck_ok(lora_generator_next(g, id, NULL));
		ck_assert_int_eq(id[0], -1); /* full */
		ck_assert_int_ge(id[1], 0);
	}
	ck_ok(lora_generator_next(g, id, NULL));
	ck_assert(id[0] == -1 && id[1] == -1);
	check_fails(LORA_E_LIMIT, lora_generator_feed(g, 0, NULL, tokens, 1));
	ck_ok(lora_generator_reset(g, -1));
	check_fails(LORA_E_STATE, lora_generator_next(g, id, NULL));
	ck_ok(lora_generator_feed(g, 0, NULL, tokens, 10));
	lora_generator_destroy(g);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* ---- sampling ---- */

static double probability(const float *logits, int64_t n, int64_t i, double temperature)
{
	double sum = 0;
	for (int64_t k = 0; k < n; k++) sum += exp(((double)logits[k] - (double)logits[i]) / temperature);
	return 1 / sum;
}

enum { V = 23 };

static void random_logits(float *x, uint64_t seed)
{
	for (int i = 0; i < V; i++) x[i] = (float)(check_random(&seed) % 6000) / 1000.0f - 3.0f;
}

static const struct { double temperature, top_p; int64_t top_k; } ways[] = { { 1, 1, 0 }, { 0.5, 1, 0 }, { 2, 1, 5 }, { 1, 0.7, 0 }, { 1.3, 0.6, 6 }, { 1, 1e-9, 0 },
	{ 3, 1, 1 }, { 1, 0.999999, V } };

/* Frequencies of many draws against the probabilities of the definition: chi-square. */
START_TEST(frequencies)
{
	enum { DRAWS = 40000 };
	float x[V], lp;
	int32_t order[V], id, rank[V];
	int64_t count[V] = { 0 };
	double p[V], total = 0, mass = 0, chi = 0, kept = 0;
	lora__sampling how = { ways[_i].temperature, ways[_i].top_p, ways[_i].top_k, 77, 1 };
	golden_context("naive", 1);
	random_logits(x, 5);
	x[4] = x[9]; /* a tie */
	for (int i = 0; i < V; i++) {
		rank[i] = 0;
		for (int k = 0; k < V; k++) rank[i] += x[k] > x[i] || (x[k] == x[i] && k < i);
	}
	int64_t k_limit = how.top_k ? how.top_k : V;
	for (int i = 0; i < V; i++) p[i] = rank[i] < k_limit ? probability(x, V, i, how.temperature) : 0, total += p[i];
	for (int r = 0; r < V; r++) /* top_p: the smallest set, best first */
		for (int i = 0; i < V; i++) {
			if (rank[i] != r) continue;
			double was = p[i];
			if (mass >= how.top_p * total && r) p[i] = 0;
			mass += was;
			kept += p[i];
		}
	for (int k = 0; k < DRAWS; k++) {
		ck_ok(lora__sample(golden_ctx, &how, 3, (uint64_t)k, x, V, order, &id, &lp));
		count[id]++;
		ck_assert_double_eq_tol(lp, log(probability(x, V, id, 1.0)), 1e-5); /* at temperature 1, whatever was drawn from */
	}
	int degrees = -1;
	for (int i = 0; i < V; i++) {
		double e = p[i] / kept * DRAWS;
		if (p[i] == 0) ck_assert_msg(count[i] == 0, "token %d is outside the set and was drawn", i);
		else chi += ((double)count[i] - e) * ((double)count[i] - e) / e, degrees++;
	}
	ck_assert_msg(chi <= degrees + 5 * sqrt(2.0 * degrees) + 1e-9, "chi-square %g with %d degrees", chi, degrees);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* The draw depends on seed, sequence and position, and on nothing else. */
START_TEST(draws_are_keyed)
{
	float x[V], lp;
	int32_t order[V], a, b;
	lora__sampling how = { 1, 1, 0, 1, 1 }, other = { 1, 1, 0, 2, 1 };
	int differ[3] = { 0 };
	golden_context("naive", 1);
	random_logits(x, 6);
	for (uint64_t k = 0; k < 64; k++) {
		ck_ok(lora__sample(golden_ctx, &how, 0, k, x, V, order, &a, &lp));
		ck_ok(lora__sample(golden_ctx, &how, 0, k, x, V, order, &b, &lp));
		ck_assert_int_eq(a, b);
		ck_ok(lora__sample(golden_ctx, &other, 0, k, x, V, order, &b, &lp));
		differ[0] += a != b;
		ck_ok(lora__sample(golden_ctx, &how, 1, k, x, V, order, &b, &lp));
		differ[1] += a != b;
		ck_ok(lora__sample(golden_ctx, &how, 0, k + 1, x, V, order, &b, &lp));
		differ[2] += a != b;
	}
	for (int i = 0; i < 3; i++) ck_assert_int_gt(differ[i], 20);
	x[7] = x[3] = x[20] = 9; /* greedy: the lowest id of the largest */
	how.temperature = 0;
	ck_ok(lora__sample(golden_ctx, &how, 0, 0, x, V, order, &a, &lp));
	ck_assert_int_eq(a, 3);
	const float bad[] = { NAN, INFINITY, -INFINITY };
	for (int i = 0; i < 3; i++) {
		x[11] = bad[i];
		check_fails(LORA_E_NUMERIC, lora__sample(golden_ctx, &how, 0, 0, x, V, order, &a, &lp));
	}
	lora_context_destroy(golden_ctx);
}
END_TEST

/* The same text whether a prompt came in one piece or many, alone or beside others; another text with another seed. */
START_TEST(same_text)
{
	int32_t prompt[] = { 5, 80, 33, 2, 19 }, alone[30], pieces[30], beside[2], other[30];
	int differ = 0;
	golden_context("naive", 1);
	lora_model *m = open_model("llama/model", "f32");
	lora_generator *g = generator(m, "{\"temperature\":0.9,\"top_k\":40,\"top_p\":0.95,\"seed\":12}");
	ck_ok(lora_generator_feed(g, 0, NULL, prompt, 5));
	for (int k = 0; k < 30; k++) ck_ok(lora_generator_next(g, &alone[k], NULL));
	ck_ok(lora_generator_reset(g, 0));
	for (int k = 0; k < 5; k++) ck_ok(lora_generator_feed(g, 0, NULL, prompt + k, 1));
	for (int k = 0; k < 30; k++) ck_ok(lora_generator_next(g, &pieces[k], NULL));
	ck_assert_mem_eq(alone, pieces, sizeof alone);
	lora_generator_destroy(g);
	g = generator(m, "{\"temperature\":0.9,\"top_k\":40,\"top_p\":0.95,\"seed\":12,\"batch_size\":2}");
	ck_ok(lora_generator_feed(g, 1, NULL, prompt + 1, 3));
	ck_ok(lora_generator_feed(g, 0, NULL, prompt, 5));
	for (int k = 0; k < 30; k++) {
		ck_ok(lora_generator_next(g, beside, NULL));
		ck_assert_int_eq(beside[0], alone[k]);
	}
	lora_generator_destroy(g);
	g = generator(m, "{\"temperature\":0.9,\"top_k\":40,\"top_p\":0.95,\"seed\":13}");
	ck_ok(lora_generator_feed(g, 0, NULL, prompt, 5));
	for (int k = 0; k < 30; k++) {
		ck_ok(lora_generator_next(g, &other[k], NULL));
		differ += other[k] != alone[k];
	}
	ck_assert_int_gt(differ, 5);
	lora_generator_destroy(g);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* ---- misuse ---- */

/* Repetition penalty: greedy choices are those of the formula over all tokens so far, of each sequence by itself, and again after a reset. */
START_TEST(repetition)
{
	enum { STEPS = 24 };
	static const double penalty = 1.7;
	golden_context("naive", 1);
	lora_model *m = open_model("llama/model", "f32");
	lora_generator *g = generator(m, "{\"batch_size\":2,\"repetition_penalty\":1.7,\"max_length\":64}"), *plain = generator(m, "{\"batch_size\":2,\"max_length\":64}");
	int64_t vocab = vocab_of(m);
	float *logits = malloc(sizeof *logits * (size_t)vocab);
	int32_t seq[2][64] = { { 5, 9, 5, 70 }, { 33, 2 } }, got[2], other[2];
	int64_t n[2] = { 4, 2 };
	int differ = 0;
	for (int round = 0; round < 2; round++) {
		ck_ok(lora_generator_reset(g, -1));
		for (int s = 0; s < 2; s++) ck_ok(lora_generator_feed(g, s, NULL, seq[s], s ? 2 : 4));
		if (!round) for (int s = 0; s < 2; s++) ck_ok(lora_generator_feed(plain, s, NULL, seq[s], n[s]));
		for (int k = 0; k < STEPS; k++) {
			ck_ok(lora_generator_next(g, got, NULL));
			if (!round) ck_ok(lora_generator_next(plain, other, NULL));
			for (int s = 0; s < 2; s++) {
				int64_t at = (s ? 2 : 4) + k;
				if (round) {
					ck_assert_int_eq(got[s], seq[s][at]);
					continue;
				}
				full(m, seq[s], at, NULL, logits);
				float *x = logits;
				for (int32_t id = 0; id < vocab; id++) {
					int seen = 0;
					for (int64_t i = 0; i < at; i++) seen |= seq[s][i] == id;
					if (seen) x[id] = x[id] < 0 ? x[id] * (float)penalty : x[id] / (float)penalty;
				}
				ck_assert_int_eq(got[s], best_of(x, vocab));
				differ += got[s] != other[s];
				seq[s][at] = got[s], n[s] = at + 1;
			}
		}
	}
	ck_assert_int_gt(differ, 0);
	free(logits);
	lora_generator_destroy(g);
	lora_generator_destroy(plain);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

static const struct { const char *settings, *key; } bad_settings[] = { { "{\"repetition_penalty\":0}", "repetition_penalty" }, { "{\"temperature\":-1}", "temperature" }, { "{\"top_p\":0}", "top_p" },
	{ "{\"top_p\":1.5}", "top_p" }, { "{\"top_k\":-2}", "top_k" }, { "{\"batch_size\":0}", "batch_size" }, { "{\"max_length\":0}", "max_length" },
	{ "{\"temprature\":1}", "temprature" }, { "{\"seed\":\"x\"}", "seed" } };

START_TEST(bad_setting)
{
	lora_generator *g = (lora_generator *)&g;
	lora_error e = { .struct_size = sizeof e };
	golden_context("naive", 1);
	lora_model *m = open_model("llama/model", "f32");
	lora_settings *s = from_json(bad_settings[_i].settings);
	check_fails(LORA_E_ARGUMENT, lora_generator_create(m, s, &g));
	ck_assert_ptr_null(g);
	ck_ok(lora_context_error(golden_ctx, &e));
	ck_assert_str_eq(e.tensor, bad_settings[_i].key);
	lora_settings_destroy(s);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

START_TEST(misuse)
{
	int32_t ok[] = { 1, 2, 3 }, out_of_range[] = { 1, 131, 2 }, negative[] = { -1 }, id;
	lora_generator *g;
	golden_context("naive", 1);
	lora_model *m = open_model("llama/model", "f32"), *other = open_model("llama/model", "f32"), *host;
	lora_adapter *a = adapter(m, "a", 1), *b = adapter(m, "b", 2), *stranger = adapter(other, "c", 3);
	ck_ok(lora_model_create(golden_ctx, &host));
	check_fails(LORA_E_STATE, lora_generator_create(host, NULL, &g));
	check_fails(LORA_E_ARGUMENT, lora_generator_create(NULL, NULL, &g));
	check_fails(LORA_E_ARGUMENT, lora_generator_create(m, NULL, NULL));
	ck_ok(lora_generator_create(m, NULL, &g));
	check_fails(LORA_E_ARGUMENT, lora_generator_feed(NULL, 0, NULL, ok, 3));
	check_fails(LORA_E_ARGUMENT, lora_generator_feed(g, 0, NULL, NULL, 3));
	check_fails(LORA_E_ARGUMENT, lora_generator_feed(g, 0, NULL, ok, 0));
	check_fails(LORA_E_ARGUMENT, lora_generator_feed(g, 0, NULL, ok, -1));
	check_fails(LORA_E_ARGUMENT, lora_generator_feed(g, 1, NULL, ok, 3));
	check_fails(LORA_E_ARGUMENT, lora_generator_feed(g, -1, NULL, ok, 3));
	check_fails(LORA_E_SHAPE, lora_generator_feed(g, 0, NULL, out_of_range, 3));
	check_fails(LORA_E_SHAPE, lora_generator_feed(g, 0, NULL, negative, 1));
	check_fails(LORA_E_STATE, lora_generator_feed(g, 0, stranger, ok, 3));
	check_fails(LORA_E_STATE, lora_generator_next(g, &id, NULL));
	check_fails(LORA_E_ARGUMENT, lora_generator_next(g, NULL, NULL));
	check_fails(LORA_E_ARGUMENT, lora_generator_reset(g, 1));
	check_fails(LORA_E_ARGUMENT, lora_generator_reset(NULL, 0));
	ck_ok(lora_generator_feed(g, 0, a, ok, 3));
	check_fails(LORA_E_STATE, lora_generator_feed(g, 0, b, ok, 3)); /* must be the same at every call */
	check_fails(LORA_E_STATE, lora_generator_feed(g, 0, NULL, ok, 3));
	ck_ok(lora_generator_next(g, &id, NULL));
	ck_ok(lora_adapter_detach(a));
	check_fails(LORA_E_STATE, lora_generator_next(g, &id, NULL));
	ck_ok(lora_adapter_attach(a, 1.0));
	ck_ok(lora_generator_next(g, &id, NULL));
	ck_ok(lora_generator_reset(g, 0));
	ck_ok(lora_generator_feed(g, 0, b, ok, 3));
	lora_generator_destroy(NULL);
	/* the generator keeps what it needs alive */
	lora_adapter_destroy(a);
	lora_adapter_destroy(stranger);
	lora_model_destroy(m);
	lora_model_destroy(other);
	lora_model_destroy(host);
	lora_adapter_destroy(b);
	ck_ok(lora_generator_next(g, &id, NULL));
	lora_generator_destroy(g);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Out of memory at every allocation: the text is the one that comes without. */
START_TEST(out_of_memory)
{
	int32_t prompt[90], id;
	check_alloc ca;
	for (int i = 0; i < 90; i++) prompt[i] = (i * 31 + 5) % 131;
	int32_t want[70];
	for (int forever = -1; forever < 2; forever++) { /* -1: the plain run */
		check_alloc_init(&ca);
		golden_ctx = check_context(&ca);
		lora_model *m = open_model("llama/model", "f32");
		lora_generator *g = generator(m, "{\"max_length\":300}");
		lora_status st = LORA_E_MEMORY;
		for (long n = forever < 0 ? 0 : 1; st; n++) {
			check_alloc_arm(&ca, n, forever > 0);
			st = lora_generator_feed(g, 0, NULL, prompt, 90);
			ck_assert(st == LORA_OK || st == LORA_E_MEMORY);
		}
		for (int k = 0; k < 70; k++) {
			st = LORA_E_MEMORY;
			for (long n = forever < 0 ? 0 : 1; st; n++) {
				check_alloc_arm(&ca, n, forever > 0);
				st = lora_generator_next(g, &id, NULL);
				ck_assert(st == LORA_OK || st == LORA_E_MEMORY);
			}
			if (forever < 0) want[k] = id;
			else ck_assert_int_eq(id, want[k]);
		}
		check_alloc_arm(&ca, 0, 0);
		lora_generator_destroy(g);
		lora_model_destroy(m);
		lora_context_destroy(golden_ctx);
		check_alloc_done(&ca);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("generate");
	TCase *t = tcase_create("generate");
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, golden_greedy, 0, N_MODELS);
	tcase_add_loop_test(t, golden_greedy_more, 0, N_MORE_MODELS);
	tcase_add_loop_test(t, cache_is_exact, 0, 2);
	tcase_add_loop_test(t, many_sequences, 0, 2);
	tcase_add_test(t, max_length);
	tcase_add_loop_test(t, frequencies, 0, sizeof ways / sizeof *ways);
	tcase_add_test(t, draws_are_keyed);
	tcase_add_test(t, repetition);
	tcase_add_test(t, same_text);
	tcase_add_loop_test(t, bad_setting, 0, sizeof bad_settings / sizeof *bad_settings);
	tcase_add_test(t, misuse);
	tcase_add_test(t, out_of_memory);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
