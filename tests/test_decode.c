/* Decoding one row with an adapter: the fused loop of site/few.c against sums in double for every weight type, shape and way round; adapter parameters in
 * F16 (adapter/halves.c): a text's logits against full passes with the parameters as they are, two adapters, resting layers, fresh parameters,
 * parameters that change, no memory. */
#include "faults.h"
#include "golden.h"
#include "check_alloc.h"
#include "base/rng.h"
#include "combine/combine.h"
#include "model/generate.h"
#include "quant/quant.h"
#include "site/few.h"

/* ---- the loop ---- */

static void fill(float *p, size_t n, uint64_t seed)
{
	lora__rng r;
	lora__rng_init(&r, seed);
	for (size_t i = 0; i < n; i++) p[i] = (float)lora__rng_normal(&r);
}

/* Memory with n elements of type d in it, the same as floats in like. */
static char *stored(lora_dtype d, float *like, size_t n)
{
	char *p = malloc(lora__dtype_row(d, (int64_t)n) + 64);
	lora__enquant(p, d, like, (int64_t)n);
	lora__dequant(like, LORA_F32, p, d, (int64_t)n);
	return p;
}

enum { ROWS, HALF_ROWS, HALF_TILES, NO_PAIR, WAYS };

static void one_product(lora_dtype d, int64_t out, int64_t in, int64_t rank, int way, lora_dtype real, int64_t step)
{
	size_t wide = (size_t)(out * in);
	float *w = malloc(wide * 4), *a = malloc((size_t)(rank * in) * 4), *b = malloc((size_t)(out * rank) * 4), *turn = malloc((size_t)(out * rank) * 4), *x = malloc((size_t)in * 4);
	fill(w, wide, 1), fill(a, (size_t)(rank * in), 2), fill(b, (size_t)(out * rank), 3), fill(x, (size_t)in, 4);
	lora_dtype thin = way == ROWS ? LORA_F32 : LORA_F16;
	char *weight = stored(d, w, wide), *at = stored(thin, a, (size_t)(rank * in)), *bt = stored(thin, b, (size_t)(out * rank)), *xt = stored(real, x, (size_t)in);
	for (int64_t i = 0; i < out; i++) {
		int64_t tile = i - i % LORA__FEW_ROWS, high = out - tile < LORA__FEW_ROWS ? out - tile : LORA__FEW_ROWS;
		for (int64_t k = 0; k < rank; k++) turn[tile * rank + k * high + i - tile] = b[i * rank + k];
	}
	char *tt = stored(thin, turn, (size_t)(out * rank)), *y = calloc((size_t)(out * step) + 8, 8), *room = malloc((size_t)in * 4);
	lora__sites all = { .ctx = golden_ctx };
	lora__site s = { .name = "w", .out = out, .in = in, .dtype = d, .base = weight, .data = weight, .all = &all };
	lora__pair pair = { .b = lora__view2(at, thin, rank, in, in), .f = -0.75 };
	pair.a = way == HALF_TILES ? lora__view2(tt, thin, out, rank, 1) : lora__view2(bt, thin, out, rank, rank);
	if (way == HALF_TILES) pair.a.stride[1] = LORA__FEW_ROWS;
	lora__site_call c = { .ctx = golden_ctx, .real = real, .n = 1, .x = lora__view2(xt, real, 1, in, in), .y = lora__view2(y, real, 1, out, out * step), .scratch = room };
	c.y.stride[1] = step;
	if (way == NO_PAIR || lora__few_takes(&s, &c, &pair)) {
		lora__few(&s, &c, way == NO_PAIR ? NULL : &pair);
		for (int64_t i = 0; i < out; i++) {
			double want = 0, size = 0;
			float got;
			for (int64_t k = 0; k < in; k++) want += (double)w[i * in + k] * (double)x[k], size += fabs((double)w[i * in + k] * (double)x[k]);
			for (int64_t r = 0; way != NO_PAIR && r < rank; r++)
				for (int64_t k = 0; k < in; k++) {
					double more = pair.f * (double)b[i * rank + r] * (double)a[r * in + k] * (double)x[k];
					want += more, size += fabs(more);
				}
			lora__convert(&got, LORA_F32, y + (size_t)(i * step) * lora__dtype_size(real), real, 1);
			double bound = 32 * 1.2e-7 * size + (real == LORA_BF16 ? fabs(want) / 256 : 0);
			ck_assert_msg(fabs((double)got - want) <= bound, "%s [%d,%d] rank %d way %d, row %d: %g, need %g within %g", lora__dtype_name(d), (int)out, (int)in, (int)rank, way,
				(int)i, (double)got, want, bound);
		}
		for (int64_t i = 1; i < out * step; i++) /* between the elements nothing is written */
			if (i % step) ck_assert(y[(size_t)i * lora__dtype_size(real)] == 0 && y[(size_t)i * lora__dtype_size(real) + 1] == 0);
	} else ck_assert(rank > 256 || !lora__quant_best(thin) || !lora__quant_best(d));
	void *all_of[] = { w, a, b, turn, x, weight, at, bt, xt, tt, y, room };
	for (size_t i = 0; i < sizeof all_of / sizeof *all_of; i++) free(all_of[i]);
}

static const lora_dtype weights[] = { LORA_BF16, LORA_F16, LORA_Q8_0, LORA_Q4_0, LORA_Q4_K, LORA_Q6_K, LORA_Q5_1 };
enum { N_WEIGHTS = sizeof weights / sizeof *weights };

START_TEST(loop)
{
	static const int64_t outs[] = { 1, 3, 4, 31, 32, 33, 47, 65, 130 }, ranks[] = { 1, 3, 4, 7, 8, 15, 16, 17, 33, 48, 256, 257 };
	lora_dtype d = weights[_i];
	int64_t block = 1;
	lora__dtype_block(d, &block, NULL);
	for (int threads = 1; threads <= 3; threads++) {
		golden_context("naive", threads);
		for (size_t o = 0; o < sizeof outs / sizeof *outs; o++)
			for (size_t r = 0; r < sizeof ranks / sizeof *ranks; r++)
				for (int way = 0; way < WAYS; way++) {
					if (way == NO_PAIR && block == 1) continue; /* not its work: the backend's */
					int64_t in = block > 1 ? block * (block < 256 ? 3 : 1) : (int64_t[]){ 16, 40, 64, 1, 95 }[(o + r) % 5];
					one_product(d, outs[o], in, ranks[r], way, (o + r) % 4 ? LORA_F32 : LORA_BF16, o == 3 ? 2 : 1);
				}
		lora_context_destroy(golden_ctx);
	}
}
END_TEST

/* ---- texts ---- */

#define SMALL "{\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":90," \
	"\"max_position_embeddings\":64,\"initializer_range\":0.2,\"seed\":3,\"weight_dtype\":\"%s\",\"dtype\":\"%s\"}"
enum { TEXT = 9 };
static const int32_t text[TEXT] = { 5, 17, 88, 3, 42, 42, 60, 1, 29 };

static const struct { const char *weight, *real, *adapter; double bound; } cases[] = {
	{ "BF16", "f32", "{\"r\":16}", 8e-3 }, { "BF16", "f32", "{\"r\":5,\"use_rslora\":true}", 8e-3 }, { "BF16", "bf16", "{\"r\":8}", 8e-2 }, { "F16", "f32", "{\"r\":3}", 8e-3 },
	{ "BF16", "f32", "{\"r\":40,\"rank_pattern\":{\"q_proj\":1},\"alpha_pattern\":{\"v_proj\":-3}}", 8e-3 }, { "F16", "bf16", "{\"r\":300}", 8e-2 },
	{ "BF16", "f32", "{\"r\":4,\"target_modules\":[\"q_proj\",\"lm_head\",\"embed_tokens\"]}", 8e-3 }, { "Q8_0", "f32", "{\"r\":16}", 8e-3 }, { "Q8_0", "bf16", "{\"r\":6}", 8e-2 },
	{ "BF16", "f32", "{\"r\":4,\"modules_to_save\":[\"lm_head\"]}", 8e-3 }, { "F32", "f32", "{\"r\":16}", 1e-5 }, { "F32", "bf16", "{\"r\":16}", 8e-2 },
	{ "Q8_0", "f32", "{\"r\":4,\"target_modules\":[\"k_proj\",\"up_proj\"]}", 8e-3 }, { "Q8_0", "bf16", "{\"r\":300,\"rank_pattern\":{\"k_proj\":9,\"gate_proj\":1}}", 8e-2 },
};
enum { N_CASES = sizeof cases / sizeof *cases };

static lora_settings *from_json(const char *json)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, json, strlen(json)));
	return s;
}

static lora_model *model(const char *weight, const char *real)
{
	char json[500];
	lora_model *m;
	int gguf = weight[0] == 'Q';
	snprintf(json, sizeof json, gguf ? "{\"dtype\":\"%s\"}" : SMALL, gguf ? real : weight, real);
	lora_settings *s = from_json(json);
	if (gguf) ck_ok(lora_model_open(golden_ctx, "tests/golden/gguf/tiny-llama.Q8_0.gguf", s, &m));
	else ck_ok(lora_model_build(golden_ctx, "llama", s, &m));
	lora_settings_destroy(s);
	return m;
}

/* An adapter with values in both matrices, or (fresh) zero in the second. */
static lora_adapter *adapter(lora_model *m, const char *json, int seed, int fresh)
{
	lora_adapter *a;
	lora_settings *s = from_json(json);
	if (!strstr(json, "target_modules")) ck_ok(lora_settings_set_string(s, "target_modules", "all-linear"));
	ck_ok(lora_settings_set_int(s, "seed", seed));
	ck_ok(lora_settings_set_int(s, "lora_alpha", 16));
	ck_ok(lora_settings_set_bool(s, "init_lora_weights", fresh));
	ck_ok(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	return a;
}

/* Logits of every token of the text, one at a time with the cache. */
static float *decoded(lora_model *m, lora_adapter *who)
{
	float *all = malloc(sizeof(float) * (size_t)(TEXT * m->vocab));
	lora_generator *g;
	ck_ok(lora_generator_create(m, NULL, &g));
	for (int i = 0; i < TEXT; i++) {
		ck_ok(lora_generator_feed(g, 0, who, text + i, 1));
		memcpy(all + (int64_t)i * m->vocab, g->logits, sizeof(float) * (size_t)m->vocab);
	}
	lora_generator_destroy(g);
	return all;
}

/* The same in one pass over the text, by the parameters as they are. */
static float *passed(lora_model *m, lora_adapter *who)
{
	int32_t row = 0;
	float *all = malloc(sizeof(float) * (size_t)(TEXT * m->vocab));
	lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = TEXT, .input_ids = text };
	if (who) b.adapter_rows = &row, b.adapters = &who, b.n_adapters = 1;
	ck_ok(lora_model_forward(m, &b, all, sizeof(float) * (size_t)(TEXT * m->vocab)));
	return all;
}

static double apart(const float *a, const float *b, size_t n)
{
	double most = 0, size = 0;
	for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - (double)b[i])), size = fmax(size, fabs((double)b[i]));
	return most / size;
}

/* Decoding and a pass agree; how: for the message. */
static void agree(lora_model *m, lora_adapter *who, double bound, const char *how)
{
	float *one = decoded(m, who), *all = passed(m, who);
	double e = apart(one, all, (size_t)(TEXT * m->vocab));
	ck_assert_msg(e <= bound, "case %s: apart by %g of the largest logit, may be %g", how, e, bound);
	free(one), free(all);
}

static int same(float *a, float *b, size_t n)
{
	int equal = memcmp(a, b, n * sizeof *a) == 0;
	free(a), free(b);
	return equal;
}

static int fast(void) { return lora__quant_best(LORA_F16) != NULL; }

START_TEST(texts)
{
	golden_context("auto", 2);
	lora_model *m = model(cases[_i].weight, cases[_i].real);
	lora_adapter *a = adapter(m, cases[_i].adapter, 7, 0), *b = adapter(m, "{\"r\":2,\"target_modules\":[\"v_proj\",\"down_proj\"]}", 8, 0);
	double bound = cases[_i].bound;
	float *plain = decoded(m, NULL);
	ck_ok(lora_adapter_attach(a, 0.5));
	agree(m, NULL, bound, "one adapter");
	ck_assert(!fast() || (a->halves != NULL) == (cases[_i].weight[0] != 'F' || cases[_i].weight[1] == '1'));
	lora__adapter_changed(a), a->no_halves = 1; /* the same loop by the parameters as they are */
	agree(m, NULL, strcmp(cases[_i].real, "f32") ? bound : 1e-5, "one adapter in F32");
	lora__adapter_changed(a);
	ck_ok(lora_adapter_set_scale(a, -1.25));
	agree(m, NULL, bound, "another scale");
	ck_ok(lora_adapter_attach(b, 2.0));
	agree(m, NULL, bound, "two adapters");
	agree(m, a, bound, "two attached, the first acts");
	agree(m, b, bound, "two attached, the second acts");
	uint8_t rest[8] = { 1, 0, 1, 0 };
	ck_ok(lora__adapter_set_layers(a, rest));
	agree(m, NULL, bound, "resting layers");
	ck_ok(lora__adapter_set_layers(a, NULL));
	ck_ok(lora_adapter_detach(b));
	ck_ok(lora_adapter_merge(a, NULL));
	agree(m, NULL, bound, "merged");
	ck_ok(lora_adapter_unmerge(a));
	agree(m, NULL, bound, "unmerged");
	ck_ok(lora_adapter_detach(a));
	ck_assert_msg(same(plain, decoded(m, NULL), (size_t)(TEXT * m->vocab)), "the model was changed");
	lora_adapter_destroy(a), lora_adapter_destroy(b);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* A fresh adapter changes no bit of what is decoded. */
START_TEST(fresh)
{
	golden_context("auto", 2);
	lora_model *m = model(cases[_i].weight, cases[_i].real);
	lora_adapter *a = adapter(m, "{\"r\":16}", 7, 1);
	float *plain = decoded(m, NULL);
	ck_ok(lora_adapter_attach(a, 1.0));
	ck_assert(same(plain, decoded(m, NULL), (size_t)(TEXT * m->vocab)));
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* ---- parameters that change ---- */

static void copy(lora_adapter *to, const lora_adapter *from)
{
	for (int64_t i = 0; i < lora_adapter_tensor_count(from); i++) {
		const lora__ptensor *t = &from->tensors[i];
		ck_ok(lora_adapter_tensor_write(to, i, from->params + t->offset, t->n * sizeof(float)));
	}
}

START_TEST(changes)
{
	golden_context("naive", 1);
	lora_model *m = model("BF16", "f32");
	lora_adapter *a = adapter(m, "{\"r\":8}", 7, 0), *b = adapter(m, "{\"r\":8}", 8, 0);
	size_t n = (size_t)(TEXT * m->vocab);
	ck_ok(lora_adapter_attach(b, 1.0));
	float *want = decoded(m, NULL);
	ck_ok(lora_adapter_detach(b));
	ck_ok(lora_adapter_attach(a, 1.0));
	free(decoded(m, NULL));
	copy(a, b); /* written */
	ck_assert_msg(same(want, decoded(m, NULL), n), "old parameters were decoded with after a write");

	scratch room;
	double loss;
	scratch_make(&room);
	lora_batch batch = { .struct_size = sizeof batch, .n_sequences = 1, .length = TEXT, .input_ids = text, .labels = text };
	lora_optimizer *o;
	lora_trainer *t;
	lora_metrics now = { .struct_size = sizeof now };
	lora_settings *s = from_json("{\"learning_rate\":0.1}");
	ck_ok(lora_optimizer_create(a, "adamw", s, &o));
	ck_ok(lora_trainer_create(m, a, o, NULL, &t));
	lora_settings_destroy(s);
	ck_ok(lora_trainer_save(t, scratch_path(&room, "run"), 0));
	want = decoded(m, NULL);
	ck_ok(lora_trainer_step(t, &batch, &now));
	agree(m, NULL, 4e-3, "a step of the trainer");
	ck_ok(lora_model_backward(m, &batch, NULL, 0, &loss, NULL));
	ck_ok(lora_optimizer_step(o, 1.0));
	agree(m, NULL, 4e-3, "a step of the optimizer");
	ck_ok(lora_trainer_resume(t, scratch_path(&room, "run"), NULL));
	ck_assert_msg(same(want, decoded(m, NULL), n), "old parameters were decoded with after resuming");
	lora_trainer_destroy(t);
	lora_optimizer_destroy(o);
	scratch_remove(&room);
	lora_adapter_destroy(a), lora_adapter_destroy(b);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* An adapter of the library's own that is filled again and again, as a search does. */
START_TEST(refilled)
{
	golden_context("naive", 1);
	lora_model *m = model("BF16", "f32");
	lora_adapter *from[2] = { adapter(m, "{\"r\":8}", 7, 0), adapter(m, "{\"r\":8}", 8, 0) };
	double first[2] = { 1, 0 }, second[2] = { 0.25, 0.5 };
	const lora__combination *linear = NULL;
	lora__combining *c;
	for (int i = 0; lora__combinations[i]; i++)
		if (strcmp(lora__combinations[i]->m.name, "linear") == 0) linear = lora__combinations[i];
	ck_ok(lora__combining_start(from, first, 2, linear, NULL, &c));
	ck_ok(lora__combining_fill(c, first));
	lora_adapter *a = lora__combining_adapter(c);
	ck_ok(lora_adapter_attach(a, 1.0));
	agree(m, NULL, 4e-3, "filled");
	ck_ok(lora__combining_fill(c, second));
	agree(m, NULL, 4e-3, "filled again");
	ck_ok(lora_adapter_detach(a));
	lora__combining_end(c);
	lora_adapter_destroy(from[0]), lora_adapter_destroy(from[1]);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Values that F16 cannot hold as they are: far above its largest and below its smallest. */
START_TEST(extremes)
{
	golden_context("naive", 1);
	lora_model *m = model("BF16", "f32");
	lora_adapter *a = adapter(m, "{\"r\":8}", 7, 0), *b = adapter(m, "{\"r\":8}", 7, 0);
	for (int64_t i = 0; i < lora_adapter_tensor_count(b); i++) {
		float *w = b->params + b->tensors[i].offset;
		for (size_t k = 0; k < b->tensors[i].n; k++) w[k] = ldexpf(w[k], b->tensors[i].role ? -60 : 60);
	}
	copy(a, b);
	ck_ok(lora_adapter_attach(a, 1.0));
	agree(m, NULL, 4e-3, "large by small");
	lora_adapter_destroy(a), lora_adapter_destroy(b);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* No memory for the halves: the same text by the parameters as they are, without an error; all memory is given back. */
START_TEST(no_memory)
{
	for (int which = 0; which < 3; which++) { /* 0 all is there, else that allocation of a token fails */
		check_alloc ca;
		check_alloc_init(&ca);
		golden_ctx = check_context(&ca);
		lora_model *m = model("BF16", "f32");
		lora_adapter *a = adapter(m, "{\"r\":16}", 7, 0);
		ck_ok(lora_adapter_attach(a, 1.0));
		float *want = passed(m, NULL);
		lora_generator *g;
		ck_ok(lora_generator_create(m, NULL, &g));
		ck_ok(lora_generator_feed(g, 0, NULL, text, 2)); /* plans and cache; two rows need no halves */
		check_alloc_arm(&ca, 0, 0);
		ck_ok(lora_generator_feed(g, 0, NULL, text + 2, 1));
		ck_assert_msg(!fast() || ca.calls >= 2, "%ld allocations", ca.calls);
		lora_generator_reset(g, 0);
		lora__adapter_changed(a);
		ck_ok(lora_generator_feed(g, 0, NULL, text, 2));
		check_alloc_arm(&ca, which, 0);
		lora_status st = lora_generator_feed(g, 0, NULL, text + 2, 1);
		ck_assert_msg(st == LORA_OK, "allocation %d: %s", which, lora_context_last_error(golden_ctx));
		ck_assert_msg(apart(g->logits, want + 2 * m->vocab, (size_t)m->vocab) < 4e-3, "another result");
		ck_assert_int_eq(a->halves != NULL, fast() && !which);
		check_alloc_arm(&ca, 0, 0);
		free(want);
		lora_generator_destroy(g);
		lora_adapter_destroy(a);
		lora_model_destroy(m);
		lora_context_destroy(golden_ctx);
		check_alloc_done(&ca);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("decode");
	TCase *loops = tcase_create("loop"), *c = tcase_create("texts");
	tcase_set_timeout(loops, 120), tcase_set_timeout(c, 120);
	tcase_add_loop_test(loops, loop, 0, N_WEIGHTS);
	tcase_add_loop_test(c, texts, 0, N_CASES);
	tcase_add_loop_test(c, fresh, 0, N_CASES);
	tcase_add_test(c, changes);
	tcase_add_test(c, refilled);
	tcase_add_test(c, extremes);
	tcase_add_test(c, no_memory);
	suite_add_tcase(s, loops), suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
