/* Shapley values: games whose values are known, the sum rule in every order, errors, and the layers of a real adapter. */
#include <check.h>

#include "check_alloc.h"
#include "combine/combine.h"
#include "faults.h"
#include "golden.h"

enum { MOST = 40 };

typedef struct toy { int kind; int64_t calls, fail_at; double value[MOST]; } toy;

/* 0: additive; 1: one layer of {0, 1} suffices, beside an additive rest; 2: a glove game (0 left, others right); 3: a square of the number. */
static int32_t worth(void *user, const uint8_t *active, int64_t n, double *out)
{
	toy *t = user;
	double sum = 0;
	int64_t count = 0;
	for (int64_t i = 0; i < n; i++) sum += active[i] ? t->value[i] : 0, count += active[i] == 1;
	if (t->kind == 1) sum -= active[0] && active[1] ? 1 : 0;
	if (t->kind == 2) sum = active[0] && count > 1;
	if (t->kind == 3) sum = (double)(count * count);
	*out = t->kind == 4 ? NAN : sum;
	return ++t->calls == t->fail_at ? 77 : 0;
}

static lora_status values(toy *t, int64_t n, const char *json, double *v, double *e, int64_t *calls)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, json, strlen(json)));
	lora_status st = lora_shapley_values(golden_ctx, n, worth, t, s, v, e, calls);
	lora_settings_destroy(s);
	return st;
}

/* Few players go by all coalitions, many by orders; an additive game has its own values either way, without error. */
START_TEST(additive)
{
	static const int64_t sizes[] = { 1, 2, 5, 6, 13, 40 };
	double v[MOST], e[MOST];
	golden_context("naive", 1);
	for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
		toy t = { .kind = 0 };
		int64_t n = sizes[k], calls = 0;
		for (int64_t i = 0; i < n; i++) t.value[i] = (double)((i * 7) % 11) - 3.25;
		ck_ok(values(&t, n, "{\"permutations\":10,\"seed\":3}", v, e, &calls));
		ck_assert_int_eq(calls, t.calls);
		ck_assert_int_eq(calls, n <= 5 ? 1 << n : 10 * (n - 1) + 2);
		for (int64_t i = 0; i < n; i++) ck_assert_msg(fabs(v[i] - t.value[i]) < 1e-12 && fabs(e[i]) < 1e-7, "n %d, player %d: %g, not %g", (int)n, (int)i, v[i], t.value[i]);
	}
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Values worked out by hand. */
START_TEST(exact)
{
	double v[MOST], e[MOST];
	golden_context("naive", 1);
	toy twins = { .kind = 1, .value = { 1, 1, 0.5, -2 } };
	ck_ok(values(&twins, 4, "{}", v, e, NULL));
	ck_assert(fabs(v[0] - 0.5) < 1e-12 && fabs(v[1] - 0.5) < 1e-12 && fabs(v[2] - 0.5) < 1e-12 && fabs(v[3] + 2) < 1e-12); /* the twins share 1 */
	toy gloves = { .kind = 2 };
	ck_ok(values(&gloves, 3, "{}", v, e, NULL));
	ck_assert(fabs(v[0] - 2.0 / 3) < 1e-12 && fabs(v[1] - 1.0 / 6) < 1e-12 && fabs(v[2] - 1.0 / 6) < 1e-12 && e[0] == 0);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* One order alone, and any number of them: the contributions sum to v(all) - v(none); sampled values come near the exact ones within their errors. */
START_TEST(sampled)
{
	double v[MOST], e[MOST], exact_v[MOST];
	golden_context("naive", 1);
	for (int p = 1; p <= 9; p++) {
		for (int kind = 1; kind <= 3; kind++) {
			toy t = { .kind = kind, .value = { 1, 1, 0.5, -2 } };
			char json[64];
			double sum = 0;
			snprintf(json, sizeof json, "{\"permutations\":%d,\"seed\":%d}", p, p);
			ck_ok(values(&t, 20, json, v, e, NULL));
			for (int i = 0; i < 20; i++) sum += v[i];
			ck_assert_msg(fabs(sum - (kind == 3 ? 400 : kind == 2 ? 1 : -0.5)) < 1e-12 * 400, "kind %d, %d orders: sum %.17g", kind, p, sum);
			if (p <= 2) ck_assert(isnan(e[0]));
		}
	}
	toy gloves = { .kind = 2 }; /* exact for 12 players: the left one has 1 - 1/12 */
	ck_ok(values(&gloves, 12, "{\"permutations\":1000}", exact_v, e, NULL));
	ck_assert(fabs(exact_v[0] - 11.0 / 12) < 1e-12 && fabs(exact_v[5] - 1.0 / 132) < 1e-12);
	ck_ok(values(&gloves, 12, "{\"permutations\":300,\"seed\":8}", v, e, NULL));
	for (int i = 0; i < 12; i++) ck_assert_msg(fabs(v[i] - exact_v[i]) <= 5 * e[i] + 0.02, "player %d: %g +- %g, exact %g", i, v[i], e[i], exact_v[i]);
	toy square = { .kind = 3 }; /* an order and its reverse: i-th and (n+1-i)-th sum to 2n for everyone */
	ck_ok(values(&square, 30, "{\"permutations\":2}", v, e, NULL));
	for (int i = 0; i < 30; i++) ck_assert(fabs(v[i] - 30) < 1e-9);
	double again[MOST];
	ck_ok(values(&gloves, 20, "{\"permutations\":4,\"seed\":1}", v, e, NULL));
	ck_ok(values(&gloves, 20, "{\"permutations\":4,\"seed\":1}", again, e, NULL));
	ck_assert(!memcmp(v, again, 20 * sizeof *v));
	lora_context_destroy(golden_ctx);
}
END_TEST

START_TEST(refusals)
{
	double v[MOST] = { 42 }, e[MOST];
	int64_t calls = 9;
	golden_context("naive", 1);
	for (int at = 1; at < 6; at++) {
		toy t = { .kind = 3, .fail_at = at };
		ck_assert_int_eq(values(&t, 20, "{}", v, e, &calls), LORA_E_CALLBACK);
		ck_assert_int_eq(t.calls, at);
		ck_assert(v[0] == 42 && calls == 9); /* nothing is given out */
	}
	toy nan = { .kind = 4 };
	ck_assert_int_eq(values(&nan, 3, "{}", v, e, NULL), LORA_E_NUMERIC);
	ck_assert_int_eq(values(&nan, 0, "{}", v, e, NULL), LORA_E_ARGUMENT);
	ck_assert_int_eq(values(&nan, 3, "{\"permutations\":0}", v, e, NULL), LORA_E_ARGUMENT);
	ck_assert_int_eq(values(&nan, 3, "{\"permutation\":5}", v, e, NULL), LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_shapley_values(golden_ctx, 3, NULL, NULL, NULL, v, e, NULL), LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_shapley_values(golden_ctx, 3, worth, &nan, NULL, NULL, e, NULL), LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_shapley_values(NULL, 3, worth, &nan, NULL, v, e, NULL), LORA_E_ARGUMENT);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* ---- layers of an adapter ---- */

typedef struct layered { lora_model *m; lora_adapter *a; lora_batch batch; } layered;

static int32_t loss_saved(void *user, const uint8_t *active, int64_t n, double *value)
{
	layered *l = user;
	double loss;
	if (lora_adapter_set_layers(l->a, active, n) || lora_model_loss(l->m, &l->batch, &loss, NULL)) return 1;
	*value = -loss;
	return 0;
}

START_TEST(of_layers)
{
	static const char shape[] = "{\"hidden_size\":16,\"intermediate_size\":24,\"num_hidden_layers\":7,\"num_attention_heads\":2,\"num_key_value_heads\":2,\"vocab_size\":61,"
		"\"max_position_embeddings\":32,\"seed\":3,\"initializer_range\":0.2}";
	static const char on[] = "{\"r\":2,\"init_lora_weights\":false,\"target_modules\":[\"v_proj\",\"up_proj\"]}";
	int32_t ids[24];
	uint64_t seed = 5;
	double exact_v[7], v[7], e[7], sum = 0, all, none;
	uint8_t mask[7] = { 0 };
	int64_t n;
	lora_settings *s;
	layered l;
	golden_context("naive", 1);
	for (int i = 0; i < 24; i++) ids[i] = (int32_t)(check_random(&seed) % 61);
	l.batch = (lora_batch){ .struct_size = sizeof l.batch, .n_sequences = 2, .length = 12, .input_ids = ids, .labels = ids };
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, shape, strlen(shape)));
	ck_ok(lora_model_build(golden_ctx, "llama", s, &l.m));
	lora_settings_destroy(s);
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, on, strlen(on)));
	ck_ok(lora_adapter_create(l.m, "lora", s, &l.a));
	ck_ok(lora_adapter_attach(l.a, 1.0));
	ck_ok(lora_adapter_layers(l.a, NULL, 0, &n));
	ck_assert_int_eq(n, 7);
	ck_assert_int_eq(loss_saved(&l, mask, n, &none), 0);
	memset(mask, 1, sizeof mask);
	ck_assert_int_eq(loss_saved(&l, mask, n, &all), 0);
	lora_settings_destroy(s);
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, "{\"permutations\":30}", 19));
	ck_ok(lora_shapley_values(golden_ctx, n, loss_saved, &l, s, exact_v, e, NULL));
	ck_ok(lora_settings_from_json(s, "{\"permutations\":20}", 19));
	ck_ok(lora_shapley_values(golden_ctx, n, loss_saved, &l, s, v, e, NULL));
	for (int i = 0; i < 7; i++) {
		sum += exact_v[i];
		ck_assert_msg(e[i] > 0 && fabs(v[i] - exact_v[i]) < 10 * e[i], "layer %d: %g +- %g, exact %g", i, v[i], e[i], exact_v[i]);
	}
	ck_assert(fabs(sum - (all - none)) < 1e-12);
	lora_settings_destroy(s);
	lora_adapter_destroy(l.a);
	lora_model_destroy(l.m);
	lora_context_destroy(golden_ctx);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("shapley");
	TCase *t = tcase_create("shapley");
	suite_add_tcase(s, t);
	tcase_add_test(t, additive);
	tcase_add_test(t, exact);
	tcase_add_test(t, sampled);
	tcase_add_test(t, refusals);
	tcase_add_test(t, of_layers);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
