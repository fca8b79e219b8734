/* Searches: standard functions by their known least values, the box, noise, the budget, the seed; and LoraHub's combination by its formulas and on a
 * planted task. */
#include <check.h>

#include "check_alloc.h"
#include "combine/combine.h"
#include "golden.h"

static lora_settings *settings(const char *json)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, json, strlen(json)));
	return s;
}

/* --- functions --- */

typedef struct counter { int64_t calls; uint64_t noise; uint64_t digest; const char *name; } counter;

static lora_status function(void *user, const double *x, int64_t n, double *f)
{
	counter *c = user;
	c->calls++;
	for (const unsigned char *p = (const unsigned char *)x, *end = p + n * 8; p < end; p++) c->digest = (c->digest ^ *p) * 1099511628211u;
	double s = 0;
	for (int64_t i = 0; i < n; i++) {
		double t = n > 1 ? (double)i / (double)(n - 1) : 0, y = x[i] - 0.5;
		if (!strcmp(c->name, "sphere") || !strcmp(c->name, "noisy")) s += y * y;
		else if (!strcmp(c->name, "corner")) s += (x[i] - 3) * (x[i] - 3); /* its least value lies outside of the box */
		else if (!strcmp(c->name, "ellipsoid")) s += pow(1e6, t) * y * y;
		else if (!strcmp(c->name, "rastrigin")) s += 10 + y * y - 10 * cos(6.283185307179586 * y);
		else if (!strcmp(c->name, "rosenbrock") && i + 1 < n) s += 100 * pow(x[i + 1] - x[i] * x[i], 2) + pow(1 - x[i], 2);
	}
	if (!strcmp(c->name, "turned")) { /* an ellipsoid whose axes are not the coordinates' */
		double sum = 0;
		for (int64_t i = 0; i < n; i++) sum += x[i] - 0.5, s += (x[i] - 0.5) * (x[i] - 0.5);
		s += 1e4 * sum * sum;
	}
	if (!strcmp(c->name, "noisy")) s += 0.01 * ((double)(lora__rng_key(7, c->noise++, 0) >> 11) * 0x1p-53 - 0.5);
	*f = s;
	return LORA_OK;
}

static const struct { const char *method, *name, *settings; int n; double start, within; } cases[] = {
	{ "cmaes", "sphere", "{\"budget\":3500}", 10, -1, 1e-20 },
	{ "cmaes", "sphere", "{\"budget\":400}", 1, -1, 1e-20 },
	{ "cmaes", "sphere", "{\"budget\":12000,\"covariance\":\"diagonal\"}", 150, -1, 1e-3 },
	{ "cmaes", "ellipsoid", "{\"budget\":8000}", 10, -1, 1e-15 },
	{ "cmaes", "ellipsoid", "{\"budget\":6000,\"covariance\":\"diagonal\"}", 10, -1, 1e-15 },
	{ "cmaes", "turned", "{\"budget\":6000}", 8, -1, 1e-15 },
	{ "cmaes", "rosenbrock", "{\"budget\":8000}", 8, -1, 1e-15 },
	{ "cmaes", "rastrigin", "{\"budget\":30000,\"population\":300,\"sigma\":3,\"lower_bound\":-5,\"upper_bound\":5}", 3, -3, 1e-12 },
	{ "cmaes", "corner", "{\"budget\":2000}", 6, 0, 1e-9 },
	{ "cmaes", "noisy", "{\"budget\":1500,\"population\":30}", 5, -1, 0.02 },
	{ "one_plus_one", "sphere", "{\"budget\":2500}", 10, -1, 1e-12 },
	{ "one_plus_one", "corner", "{\"budget\":600}", 6, 0, 1e-9 },
	{ "random", "sphere", "{\"budget\":3000}", 2, -1, 0.02 },
};
enum { N_CASES = sizeof cases / sizeof *cases, WIDEST = 150 };

static void search(int i, const char *more, double *x, counter *c, lora_search_result *r)
{
	char json[300];
	lora_search_options o;
	ck_ok(lora_search_options_init(&o, sizeof o));
	snprintf(json, sizeof json, "{\"l1\":0,%s%s", more, cases[i].settings + 1);
	lora_settings *s = settings(json);
	o.method = cases[i].method, o.settings = s;
	*c = (counter){ .name = cases[i].name };
	for (int k = 0; k < cases[i].n; k++) x[k] = cases[i].start;
	r->struct_size = sizeof *r;
	ck_ok(lora_search_minimize(golden_ctx, function, c, cases[i].n, &o, x, r));
	lora_settings_destroy(s);
}

START_TEST(functions)
{
	static const char *const seeds[] = { "\"seed\":1,", "\"seed\":2,", "\"seed\":3," };
	golden_context("naive", 1);
	for (int k = 0; k < 3; k++) {
		double x[WIDEST], f, least = 0;
		counter c;
		lora_search_result r;
		search(_i, seeds[k], x, &c, &r);
		ck_ok(function(&c, x, cases[_i].n, &f));
		if (!strcmp(cases[_i].name, "corner")) least = cases[_i].n * 2.25;
		ck_assert_msg(r.loss - least <= cases[_i].within && r.objective == r.loss, "%s on %s: %g after %lld", cases[_i].method, cases[_i].name, r.loss - least, (long long)r.evaluations);
		ck_assert_msg(!strcmp(cases[_i].name, "noisy") || f == r.loss, "the point is not that of the value: %g, %g", f, r.loss);
		ck_assert(r.evaluations == c.calls - 1 && !r.cancelled && r.start_loss > r.loss);
		for (int j = 0; j < cases[_i].n; j++) ck_assert(x[j] >= -5 && x[j] <= (cases[_i].start == -3 ? 5 : 1.5));
	}
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Every point of a run is a function of the seed. */
START_TEST(reproducible)
{
	double x[WIDEST], y[WIDEST], z[WIDEST];
	counter a, b, c;
	lora_search_result r;
	golden_context("naive", 1);
	search(_i, "\"seed\":5,", x, &a, &r);
	search(_i, "\"seed\":5,", y, &b, &r);
	search(_i, "\"seed\":6,", z, &c, &r);
	ck_assert(a.digest == b.digest && a.calls == b.calls && !memcmp(x, y, (size_t)cases[_i].n * 8));
	ck_assert(a.digest != c.digest);
	lora_context_destroy(golden_ctx);
}
END_TEST

typedef struct watch { int64_t seen, stop; double best; } watch;

static int32_t watching(void *user, const lora_search_result *r)
{
	watch *w = user;
	ck_assert(r->struct_size == sizeof *r && r->evaluations == ++w->seen && r->objective <= w->best);
	w->best = r->objective;
	return w->seen == w->stop;
}

/* The defaults are LoraHub's: 40 evaluations, the start first, an L1 term; progress sees values that never rise, and can end it. */
START_TEST(budget)
{
	golden_context("naive", 1);
	for (int32_t m = 0; m < lora_family_count("search"); m++) {
		watch w = { .best = INFINITY };
		counter c = { .name = "sphere" };
		double x[20] = { 0 }, sum = 0;
		lora_search_options o;
		lora_search_result r = { .struct_size = sizeof r };
		ck_ok(lora_search_options_init(&o, sizeof o));
		o.method = lora_family_name("search", m), o.progress = watching, o.user = &w;
		ck_ok(lora_search_minimize(golden_ctx, function, &c, 20, &o, x, &r));
		for (int i = 0; i < 20; i++) sum += fabs(x[i]);
		ck_assert(r.evaluations == 40 && c.calls == 40 && w.seen == 40 && r.start_loss == 5);
		ck_assert(fabs(r.objective - r.loss - 0.05 * sum / 20) < 1e-15);
		w = (watch){ .best = INFINITY, .stop = 17 };
		memset(x, 0, sizeof x);
		ck_assert_int_eq(lora_search_minimize(golden_ctx, function, &c, 20, &o, x, &r), LORA_E_CANCELLED);
		ck_assert(r.cancelled == 1 && r.evaluations == 17 && r.objective == w.best);
	}
	lora_context_destroy(golden_ctx);
}
END_TEST

static lora_status hopeless(void *user, const double *x, int64_t n, double *loss)
{
	(void)x, (void)n;
	*loss = ++*(int *)user == 9 ? 0.25 : *(int *)user % 2 ? (double)NAN : (double)INFINITY;
	return *(int *)user == 30 ? LORA_E_IO : LORA_OK;
}

START_TEST(refused)
{
	lora_search_options o;
	lora_search_result r = { .struct_size = sizeof r };
	counter c = { .name = "sphere" };
	double x[3] = { 0 };
	int calls = 0;
	golden_context("naive", 1);
	ck_ok(lora_search_options_init(&o, sizeof o));
	o.method = "cmeas";
	ck_assert_int_eq(lora_search_minimize(golden_ctx, function, &c, 3, &o, x, NULL), LORA_E_NOTFOUND);
	o.method = "cmaes";
	const char *bad[] = { "{\"budget\":0}", "{\"bugdet\":9}", "{\"lower_bound\":2}", "{\"sigma\":0}", "{\"population\":2}", "{\"covariance\":\"none\"}", "{\"lower_bound\":0.1}" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		lora_settings *s = settings(bad[i]);
		o.settings = s;
		ck_assert_msg(lora_search_minimize(golden_ctx, function, &c, 3, &o, x, &r) == LORA_E_ARGUMENT, "%s", bad[i]);
		lora_settings_destroy(s);
	}
	o.settings = NULL;
	ck_assert_int_eq(lora_search_minimize(golden_ctx, function, &c, 0, &o, x, NULL), LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_search_minimize(golden_ctx, NULL, &c, 3, &o, x, NULL), LORA_E_ARGUMENT);
	o.flags = 1;
	ck_assert_int_eq(lora_search_minimize(golden_ctx, function, &c, 3, &o, x, NULL), LORA_E_ARGUMENT);
	/* values that are not finite are only bad; an error ends the search and leaves x */
	x[0] = 0.5;
	ck_assert_int_eq(lora_search_minimize(golden_ctx, hopeless, &calls, 3, NULL, x, &r), LORA_E_IO);
	ck_assert(x[0] == 0.5 && x[1] == 0);
	calls = 40;
	ck_assert_int_eq(lora_search_minimize(golden_ctx, hopeless, &calls, 3, NULL, x, &r), LORA_E_NUMERIC);
	calls = -40;
	ck_assert_int_eq(lora_search_minimize(golden_ctx, hopeless, &calls, 3, NULL, x, &r), LORA_E_NUMERIC);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- combinations --- */

enum { K = 5, B = 4, T = 12, VOCAB = 40 };
static const double alphas[K] = { 8, 8, 2, -6, 8 };

typedef struct family { lora_model *m; lora_adapter *a[K]; int32_t ids[B * T], labels[B * T]; lora_batch batch; } family;

static void make_family(family *f, int same, double strength)
{
	lora_settings *s = settings("{\"vocab_size\":40,\"hidden_size\":24,\"intermediate_size\":40,\"num_hidden_layers\":2,\"num_attention_heads\":2,"
								"\"num_key_value_heads\":1,\"max_position_embeddings\":32,\"seed\":3,\"initializer_range\":0.3}");
	memset(f, 0, sizeof *f);
	ck_ok(lora_model_build(golden_ctx, "llama", s, &f->m));
	lora_settings_destroy(s);
	for (int k = 0; k < K; k++) {
		char json[300];
		snprintf(json, sizeof json, "{\"r\":4,\"lora_alpha\":%g,\"seed\":%d,\"name\":\"a%d\",\"target_modules\":%s}", same ? 8 : alphas[k], k, k,
			k == 1 && !same ? "[\"q_proj\"]" : "[\"q_proj\",\"down_proj\"]");
		s = settings(json);
		ck_ok(lora_adapter_create(f->m, "lora", s, &f->a[k]));
		lora_settings_destroy(s);
		lora__rng r;
		lora__rng_init(&r, lora__rng_key(11, 1, (uint64_t)k));
		for (int64_t i = 0; i < lora_adapter_tensor_count(f->a[k]); i++) {
			lora_tensor_info t;
			float v[4096];
			ck_ok(lora_adapter_tensor_info(f->a[k], i, &t));
			for (size_t j = 0; j < t.bytes / 4; j++) v[j] = (float)(strength * lora__rng_normal(&r));
			ck_ok(lora_adapter_tensor_write(f->a[k], i, v, (size_t)t.bytes));
		}
	}
	for (int i = 0; i < B * T; i++) f->ids[i] = (int32_t)(lora__rng_key(5, 5, (uint64_t)i) % VOCAB);
	f->batch = (lora_batch){ .struct_size = sizeof f->batch, .n_sequences = B, .length = T, .input_ids = f->ids, .labels = f->labels };
}

static void free_family(family *f)
{
	for (int k = 0; k < K; k++) lora_adapter_destroy(f->a[k]);
	lora_model_destroy(f->m);
}

/* A site of the combination against the double sum over i and j of w_i w_j sqrt|s_i s_j| sgn(s_j) B_i A_j, over those that act there. */
static double formula_gap(family *f, const double *w, lora_adapter *made, const char *site, int64_t out, int64_t in)
{
	char name[2][200];
	int64_t index;
	static float got[4096];
	double *want = calloc((size_t)(out * in), sizeof *want), worst = 0, most = 0;
	static float a[K][4 * 64], b[K][4 * 64];
	int have[K] = { 0 };
	for (int k = 0; k < K; k++)
		for (int64_t i = 0; i < lora_adapter_tensor_count(f->a[k]); i++) {
			lora_tensor_info t;
			for (int q = 0; q < 2; q++) snprintf(name[q], sizeof name[q], "base_model.model.%s.lora_%c.weight", site, "AB"[q]);
			ck_ok(lora_adapter_tensor_info(f->a[k], i, &t));
			if (!strcmp(t.name, name[0])) {
				ck_ok(lora_adapter_tensor_read(f->a[k], i, a[k], (size_t)t.bytes));
				have[k] = 1;
			}
			if (!strcmp(t.name, name[1])) ck_ok(lora_adapter_tensor_read(f->a[k], i, b[k], (size_t)t.bytes));
		}
	for (int i = 0; i < K; i++)
		for (int j = 0; j < K; j++) {
			double s = sqrt(fabs(alphas[i] / 4 * alphas[j] / 4)) * (alphas[j] < 0 ? -1 : 1);
			for (int64_t y = 0; have[i] && have[j] && y < out; y++)
				for (int64_t x = 0; x < in; x++)
					for (int r = 0; r < 4; r++) want[y * in + x] += w[i] * w[j] * s * (double)b[i][y * 4 + r] * (double)a[j][r * in + x];
		}
	ck_ok(lora_model_find_site(f->m, site, &index));
	ck_ok(lora_adapter_delta(made, index, got, (size_t)(out * in) * sizeof *got));
	for (int64_t i = 0; i < out * in; i++) worst = fmax(worst, fabs((double)got[i] - want[i])), most = fmax(most, fabs(want[i]));
	free(want);
	return most > 0 ? worst / most : worst;
}

START_TEST(sums_of_factors)
{
	static const double w[][K] = { { 0.3, -0.7, 1.1, 0.4, -1.5 }, { 0, 0, 0, 1, 0 }, { 0, 1, 0, 0, 0 }, { 1, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0 } };
	family f;
	golden_context("naive", 1);
	make_family(&f, 0, 0.3);
	for (size_t i = 0; i < sizeof w / sizeof *w; i++) {
		lora_adapter *made;
		ck_ok(lora_adapter_combine(f.a, w[i], K, "lorahub", NULL, &made));
		double q = formula_gap(&f, w[i], made, "model.layers.1.self_attn.q_proj", 24, 24), d = formula_gap(&f, w[i], made, "model.layers.0.mlp.down_proj", 24, 40);
		ck_assert_msg(q < 2e-6 && d < 2e-6, "weights %zu: off by %g and %g", i, q, d);
		lora_adapter_destroy(made);
	}
	/* twice the weights, four times the delta */
	double twice[K];
	static float one[24 * 24], four[24 * 24];
	lora_adapter *x, *y;
	int64_t site;
	for (int k = 0; k < K; k++) twice[k] = 2 * w[0][k];
	ck_ok(lora_adapter_combine(f.a, w[0], K, "lorahub", NULL, &x));
	ck_ok(lora_adapter_combine(f.a, twice, K, "lorahub", NULL, &y));
	ck_ok(lora_model_find_site(f.m, "model.layers.1.self_attn.q_proj", &site));
	ck_ok(lora_adapter_delta(x, site, one, sizeof one));
	ck_ok(lora_adapter_delta(y, site, four, sizeof four));
	for (int i = 0; i < 24 * 24; i++) ck_assert(four[i] == 4 * one[i]);
	lora_adapter_destroy(x);
	lora_adapter_destroy(y);
	lora_settings *s = settings("{\"r\":3,\"target_modules\":[\"q_proj\"]}");
	lora_adapter *odd, *made = NULL;
	ck_ok(lora_adapter_create(f.m, "lora", s, &odd));
	lora_adapter *const two[] = { f.a[0], odd };
	ck_assert_int_eq(lora_adapter_combine(two, w[0], 2, "lorahub", NULL, &made), LORA_E_ARGUMENT);
	ck_assert(strstr(lora_context_last_error(golden_ctx), "q_proj") && strstr(lora_context_last_error(golden_ctx), "lorahub"));
	lora_settings_destroy(s);
	lora_adapter_destroy(odd);
	free_family(&f);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Labels: what the model says with adapter 3 on it. */
static void plant(family *f)
{
	static float logits[B * T * VOCAB];
	ck_ok(lora_adapter_attach(f->a[3], 1));
	ck_ok(lora_model_forward(f->m, &f->batch, logits, sizeof logits));
	for (int i = 0; i < B * T; i++) {
		int best = 0;
		for (int v = 1; v < VOCAB; v++)
			if (logits[i * VOCAB + v] > logits[i * VOCAB + best]) best = v;
		if (i % T + 1 < T) f->labels[i + 1] = best; /* label t+1 belongs to position t */
		if (i % T == 0) f->labels[i] = -100;
	}
	ck_ok(lora_adapter_detach(f->a[3]));
}

static double loss_with(family *f, const double *w, const char *type)
{
	lora_adapter *made;
	double loss;
	ck_ok(lora_adapter_combine(f->a, w, K, type, NULL, &made));
	ck_ok(lora_adapter_attach(made, 1));
	ck_ok(lora_model_loss(f->m, &f->batch, &loss, NULL));
	lora_adapter_destroy(made);
	return loss;
}

/* The task is adapter 3's: 200 evaluations find weights that are as good, for every method and both kinds of sum. */
START_TEST(planted)
{
	static const char *const types[] = { "lorahub", "linear" };
	const char *type = types[_i % 2], *method = _i / 2 ? "one_plus_one" : "cmaes";
	static float before[B * T * VOCAB], after[B * T * VOCAB];
	family f;
	golden_context("naive", 1);
	make_family(&f, 1, 0.35);
	plant(&f);
	ck_ok(lora_model_forward(f.m, &f.batch, before, sizeof before));
	const double alone[K] = { 0, 0, 0, 1, 0 }, none[K] = { 0 };
	double optimum = loss_with(&f, alone, type), zero = loss_with(&f, none, type);
	double w[2][K] = { { 0 } };
	lora_settings *s = settings("{\"budget\":200,\"l1\":0,\"seed\":1}");
	watch watcher = { .best = INFINITY };
	lora_search_options o;
	lora_search_result r = { .struct_size = sizeof r };
	ck_ok(lora_search_options_init(&o, sizeof o));
	o.method = method, o.settings = s, o.type = type, o.progress = watching, o.user = &watcher;
	ck_ok(lora_adapter_search(f.a, K, &f.batch, 1, &o, w[0], &r));
	ck_assert_msg(optimum < 0.8 * zero && r.start_loss == zero, "no task: %g, %g", optimum, zero);
	ck_assert_msg(r.loss <= 1.05 * optimum, "%s, %s: %g, planted %g, without %g; weights %g %g %g %g %g", method, type, r.loss, optimum, zero, w[0][0], w[0][1], w[0][2], w[0][3], w[0][4]);
	/* the adapter made of these weights has that loss, bit for bit; the model is as it was; and again is the same */
	ck_assert(loss_with(&f, w[0], type) == r.loss);
	ck_ok(lora_model_forward(f.m, &f.batch, after, sizeof after));
	ck_assert(!memcmp(before, after, sizeof before));
	watcher = (watch){ .best = INFINITY };
	ck_ok(lora_adapter_search(f.a, K, &f.batch, 1, &o, w[1], &r));
	ck_assert(!memcmp(w[0], w[1], sizeof w[0]));
	lora_settings_destroy(s);
	free_family(&f);
	lora_context_destroy(golden_ctx);
}
END_TEST

START_TEST(search_refused)
{
	family f;
	double w[K] = { 0 };
	lora_search_options o;
	golden_context("naive", 1);
	make_family(&f, 1, 0.1);
	ck_ok(lora_search_options_init(&o, sizeof o));
	ck_ok(lora_adapter_attach(f.a[2], 1));
	ck_assert_int_eq(lora_adapter_search(f.a, K, &f.batch, 1, &o, w, NULL), LORA_E_STATE);
	ck_ok(lora_adapter_detach(f.a[2]));
	o.type = "lorahbu";
	ck_assert_int_eq(lora_adapter_search(f.a, K, &f.batch, 1, &o, w, NULL), LORA_E_NOTFOUND);
	o.type = "lorahub";
	ck_assert_int_eq(lora_adapter_search(f.a, K, &f.batch, 0, &o, w, NULL), LORA_E_ARGUMENT);
	w[1] = 7;
	ck_assert_int_eq(lora_adapter_search(f.a, K, &f.batch, 1, &o, w, NULL), LORA_E_ARGUMENT);
	w[1] = 0;
	for (int i = 0; i < B * T; i++) f.labels[i] = -100;
	ck_assert_int_eq(lora_adapter_search(f.a, K, &f.batch, 1, &o, w, NULL), LORA_E_ARGUMENT);
	ck_assert(strstr(lora_context_last_error(golden_ctx), "label"));
	for (int i = 0; i < B * T; i++) f.labels[i] = 1;
	ck_ok(lora_adapter_search(f.a, K, &f.batch, 1, &o, w, NULL));
	free_family(&f);
	lora_context_destroy(golden_ctx);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("search");
	TCase *t = tcase_create("functions");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, functions, 0, N_CASES);
	tcase_add_loop_test(t, reproducible, 0, N_CASES);
	tcase_add_test(t, budget);
	tcase_add_test(t, refused);
	suite_add_tcase(s, t);
	t = tcase_create("adapters");
	tcase_set_timeout(t, 60);
	tcase_add_test(t, sums_of_factors);
	tcase_add_loop_test(t, planted, 0, 4);
	tcase_add_test(t, search_refused);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
