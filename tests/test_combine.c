/* Combination of adapters and extraction: PEFT's own results (tests/golden/peft/combine-*; more where LORA_GOLDEN has them), the exact mode against
 * sums computed here in double, and the properties that the formulas promise. */
#include <check.h>

#include "check_alloc.h"
#include "combine/combine.h"
#include "faults.h"
#include "golden.h"

#define MODEL "tests/golden/models/llama/model"

/* Those in the source tree come first. */
static const char *const goldens[] = { "combine-linear", "combine-svd-missing-site", "combine-ties-total", "combine-ties_svd-frequency",
	"combine-cat-first-rslora", "combine-cat", "combine-cat-missing-site", "combine-linear-rslora", "combine-linear-two", "combine-magnitude_prune", "combine-magnitude_prune_svd",
	"combine-svd", "combine-svd-rank2", "combine-ties-frequency", "combine-ties-positive", "combine-ties_svd-total" };
enum { N_GOLDENS = sizeof goldens / sizeof *goldens, N_OWN = 5, MOST = 8 };

static lora_settings *settings(const char *json)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, json, strlen(json)));
	return s;
}

static lora_status combine(lora_adapter *const *a, const double *w, int64_t n, const char *type, const char *json, lora_adapter **out)
{
	lora_settings *s = settings(json);
	lora_status st = lora_adapter_combine(a, w, n, type, s, out);
	lora_settings_destroy(s);
	return st;
}

/* Deltas of all sites of an adapter in one array, zero where it does not act. */
static float *deltas(lora_model *m, lora_adapter *a, int64_t *n)
{
	int64_t total = 0, at = 0;
	lora_site_info i = { .struct_size = sizeof i };
	for (int64_t s = 0; s < lora_model_site_count(m); s++) {
		ck_ok(lora_model_site_info(m, s, &i));
		total += i.out * i.in;
	}
	float *d = calloc((size_t)total, sizeof *d);
	for (int64_t s = 0; s < lora_model_site_count(m); s++) {
		ck_ok(lora_model_site_info(m, s, &i));
		lora_status st = lora_adapter_delta(a, s, d + at, (size_t)(i.out * i.in) * sizeof *d);
		ck_assert(st == LORA_OK || st == LORA_E_NOTFOUND);
		at += i.out * i.in;
	}
	*n = total;
	return d;
}

static double gap(const float *x, const float *y, int64_t n)
{
	double worst = 0, most = 0;
	for (int64_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)x[i] - (double)y[i])), most = fmax(most, fabs((double)y[i]));
	return most > 0 ? worst / most : worst;
}

static double distance(const float *x, const float *y, int64_t n)
{
	double s = 0;
	for (int64_t i = 0; i < n; i++) s += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
	return sqrt(s);
}

/* --- PEFT's results --- */

typedef struct inputs { lora_model *m; lora_adapter *a[MOST]; double w[MOST]; int64_t n; json_t *json; char root[300]; } inputs;

static inputs open_inputs(const char *root, const char *name)
{
	inputs in = { 0 };
	char path[512];
	snprintf(in.root, sizeof in.root, "%s/peft/%s", root, name);
	snprintf(path, sizeof path, "%s/case.json", in.root);
	in.json = golden_json("%s", path);
	ck_ok(lora_model_open(golden_ctx, MODEL, NULL, &in.m));
	json_t *list = json_object_get(in.json, "adapters");
	for (size_t i = 0; i < json_array_size(list); i++) {
		json_t *x = json_array_get(list, i);
		snprintf(path, sizeof path, "%s/%s", in.root, json_string_value(json_object_get(x, "dir")));
		ck_ok(lora_adapter_open(in.m, path, NULL, &in.a[i]));
		in.w[in.n++] = json_number_value(json_object_get(x, "weight"));
	}
	return in;
}

static void close_inputs(inputs *in)
{
	for (int64_t i = 0; i < in->n; i++) lora_adapter_destroy(in->a[i]);
	lora_model_destroy(in->m);
	json_decref(in->json);
}

/* Settings of the case in PEFT's call. */
static const char *case_settings(const inputs *in, json_t **o, char *buf, size_t size)
{
	*o = json_deep_copy(json_object_get(in->json, "add_weighted_adapter"));
	static char type[64];
	snprintf(type, sizeof type, "%s", json_string_value(json_object_get(*o, "combination_type")));
	json_object_del(*o, "combination_type");
	json_object_set_new(*o, "mode", json_string("peft"));
	char *text = json_dumps(*o, 0);
	snprintf(buf, size, "%s", text);
	free(text);
	json_decref(*o);
	return type;
}

static void check_tensors(inputs *in, lora_adapter *got, const char *what, double tolerance)
{
	lora__tensors io;
	char path[512], name[300];
	int64_t seen = 0;
	snprintf(path, sizeof path, "%s/io.safetensors", in->root);
	ck_ok(lora__safetensors_open(golden_ctx, path, &io));
	for (int64_t s = 0; s < lora_model_site_count(in->m); s++) {
		lora_site_info i = { .struct_size = sizeof i };
		ck_ok(lora_model_site_info(in->m, s, &i));
		snprintf(name, sizeof name, "%s.%s", what, i.name);
		const lora__tensor *want = lora__tensors_find(&io, name);
		float *d = calloc((size_t)(i.out * i.in), sizeof *d);
		lora_status st = lora_adapter_delta(got, s, d, (size_t)(i.out * i.in) * sizeof *d);
		ck_assert_msg((st == LORA_OK) == (want != NULL), "%s: %s", name, lora_status_name(st));
		if (want) {
			double g = gap(d, (const float *)(const void *)want->data, i.out * i.in);
			ck_assert_msg(g <= tolerance, "%s: %s: off by %g of the largest", in->root, name, g);
			seen++;
		}
		free(d);
	}
	ck_assert_int_gt(seen, 0);
	lora__tensors_close(&io);
}

START_TEST(peft_results)
{
	const char *root = _i < N_OWN ? "tests/golden" : getenv("LORA_GOLDEN");
	char        text[512];
	json_t     *o;
	if (!root) {
		if (_i == N_OWN) check_skip("more combinations: LORA_GOLDEN is not set");
		return;
	}
	golden_context("naive", 2);
	inputs in = open_inputs(root, goldens[_i]);
	const char *type = case_settings(&in, &o, text, sizeof text);
	double tolerance = json_number_value(json_object_get(json_object_get(in.json, "suggested_tolerance"), "delta_rel_to_max"));
	lora_adapter *got;
	ck_ok(combine(in.a, in.w, in.n, type, text, &got));
	check_tensors(&in, got, "delta", tolerance);
	int64_t r = json_integer_value(json_object_get(in.json, "result_rank"));
	ck_assert_int_eq(lora__get_int(got->settings, got->kind->m.params, "r"), r);
	ck_assert_int_eq(lora__get_bool(got->settings, got->kind->m.params, "use_rslora"), json_is_true(json_object_get(in.json, "result_use_rslora")));
	lora_adapter_destroy(got);
	/* the exact mode gives the weighted sum of the deltas, where PEFT has something else */
	ck_ok(combine(in.a, in.w, in.n, "linear", "{}", &got));
	check_tensors(&in, got, "expected", 1e-5);
	lora_adapter_destroy(got);
	close_inputs(&in);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- properties, on adapters of a host's sites --- */

static float weights[64 * 64];
typedef struct world { lora_model *m; lora_adapter *a[MOST]; } world;

/* n adapters with random factors of ranks 2, 3, 4, ...; each lacks the site with its own number. */
static world make_world(int n)
{
	static const int64_t shape[][2] = { { 12, 20 }, { 20, 12 }, { 9, 9 }, { 1, 7 } };
	uint64_t seed = check_seed(11);
	world w = { 0 };
	ck_ok(lora_model_create(golden_ctx, &w.m));
	for (int i = 0; i < 4; i++) {
		char name[32];
		snprintf(name, sizeof name, "model.layers.%d.q_proj", i);
		lora_site_info d = { .struct_size = sizeof d, .dtype = LORA_F32, .name = name, .out = shape[i][0], .in = shape[i][1], .data = weights, .layer = -1 };
		ck_ok(lora_model_add_site(w.m, &d, NULL));
	}
	for (int k = 0; k < n; k++) {
		char text[160];
		snprintf(text, sizeof text, "{\"r\": %d, \"lora_alpha\": %d, \"init_lora_weights\": false, \"exclude_modules\": [\"%d.q_proj\"]}", 2 + k, 3 + 2 * k, k);
		lora_settings *s = settings(text);
		ck_ok(lora_adapter_create(w.m, "lora", s, &w.a[k]));
		lora_settings_destroy(s);
		for (size_t i = 0; i < w.a[k]->n_params; i++) w.a[k]->params[i] = (float)((double)(check_random(&seed) >> 11) * 0x1p-52 - 1.0);
	}
	return w;
}

static void free_world(world *w)
{
	for (int k = 0; k < MOST; k++) lora_adapter_destroy(w->a[k]);
	lora_model_destroy(w->m);
}

static float *weighted_sum(world *w, const double *f, int n, int64_t *count)
{
	float *sum = NULL;
	for (int k = 0; k < n; k++) {
		float *d = deltas(w->m, w->a[k], count);
		if (!sum) sum = calloc((size_t)*count, sizeof *sum);
		for (int64_t i = 0; i < *count; i++) sum[i] = (float)(sum[i] + f[k] * d[i]);
		free(d);
	}
	return sum;
}

static const double three[] = { 0.5, -1.25, 0.75 };

START_TEST(exact_sums)
{
	static const struct { const char *type, *settings; } all[] = { { "linear", "{}" }, { "cat", "{}" }, { "svd", "{\"svd_rank\": 64}" }, { "linear", "{\"svd_rank\": 9}" },
		{ "dare_linear", "{\"density\": 1}" }, { "magnitude_prune", "{\"density\": 1.0}" }, { "dare_linear_svd", "{\"density\": 1, \"svd_rank\": 30}" } };
	golden_context("naive", 1 + _i % 2);
	world w = make_world(3);
	int64_t n;
	lora_adapter *got;
	float *want = weighted_sum(&w, three, 3, &n);
	ck_ok(combine(w.a, three, 3, all[_i].type, all[_i].settings, &got));
	float *d = deltas(w.m, got, &n);
	ck_assert_msg(gap(d, want, n) < 3e-6, "%s: %g", all[_i].type, gap(d, want, n));
	/* it is an adapter like any other: saved and opened again it is the same, ranks that differ by site too */
	scratch dir;
	lora_adapter *back;
	scratch_make(&dir);
	ck_ok(lora_adapter_save(got, scratch_path(&dir, "made"), NULL));
	ck_ok(lora_adapter_open(w.m, scratch_path(&dir, "made"), NULL, &back));
	float *again = deltas(w.m, back, &n);
	ck_assert_mem_eq(d, again, (size_t)n * sizeof *d);
	scratch_remove(&dir);
	free(d), free(want), free(again);
	lora_adapter_destroy(got), lora_adapter_destroy(back);
	free_world(&w);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Eckart and Young: what is left has the norm of the discarded singular values, whatever they are; here against more ranks one by one. */
START_TEST(best_rank)
{
	golden_context("naive", 2);
	world w = make_world(3);
	int64_t n;
	double before = INFINITY, energy = 0;
	float *want = weighted_sum(&w, three, 3, &n);
	for (int64_t i = 0; i < n; i++) energy += (double)want[i] * (double)want[i];
	for (int r = 1; r <= 9; r++) {
		char text[64];
		lora_adapter *got;
		snprintf(text, sizeof text, "{\"svd_rank\": %d}", r);
		ck_ok(combine(w.a, three, 3, "svd", text, &got));
		float *d = deltas(w.m, got, &n);
		double left = distance(d, want, n), kept = 0;
		for (int64_t i = 0; i < n; i++) kept += (double)d[i] * (double)d[i];
		ck_assert_msg(left <= before, "rank %d leaves %g, the one before %g", r, left, before);
		ck_assert_msg(fabs(energy - kept - left * left) < 1e-4 * energy, "rank %d is no projection", r);
		before = left;
		lora_adapter_destroy(got);
		free(d);
	}
	ck_assert(before < 1e-5 * sqrt(energy));
	free(want);
	free_world(&w);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* A rule's delta is cut to the sum of the ranks where that saves something, and left whole elsewhere. */
START_TEST(uncut)
{
	static const double ones[MOST] = { 1, 1, 1, 1, 1, 1, 1, 1 };
	golden_context("naive", 2);
	world w = make_world(MOST);
	int64_t n;
	for (int many = 0; many < 2; many++) {
		lora_adapter *got, *whole;
		ck_ok(combine(w.a, ones, many ? MOST : 2, "ties", "{\"density\": 0.5}", &got));
		ck_ok(combine(w.a, ones, many ? MOST : 2, "ties", "{\"density\": 0.5, \"svd_rank\": 4096}", &whole));
		float *x = deltas(w.m, got, &n), *y = deltas(w.m, whole, &n);
		ck_assert_int_eq(memcmp(x, y, (size_t)n * sizeof *x) == 0, many);
		free(x), free(y);
		lora_adapter_destroy(got), lora_adapter_destroy(whole);
	}
	free_world(&w);
	lora_context_destroy(golden_ctx);
}
END_TEST

START_TEST(order)
{
	static const char *const types[] = { "linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune_svd" };
	golden_context("naive", 2);
	world w = make_world(3);
	int64_t n;
	lora_adapter *turned[3] = { w.a[2], w.a[0], w.a[1] }, *one, *two, *again;
	double f[3] = { three[2], three[0], three[1] };
	int random = strncmp(types[_i], "dare", 4) == 0, density = random || _i == 2;
	const char *text = density ? "{\"density\": 0.5}" : "{}";
	ck_ok(combine(w.a, three, 3, types[_i], text, &one));
	ck_ok(combine(turned, f, 3, types[_i], text, &two));
	ck_ok(combine(w.a, three, 3, types[_i], text, &again));
	float *x = deltas(w.m, one, &n), *y = deltas(w.m, two, &n), *z = deltas(w.m, again, &n);
	ck_assert_msg(gap(x, y, n) < 1e-5, "%s: order matters by %g", types[_i], gap(x, y, n));
	ck_assert_int_eq(memcmp(x, z, (size_t)n * sizeof *x), 0);
	lora_adapter_destroy(again);
	if (random) {
		ck_ok(combine(w.a, three, 3, types[_i], "{\"density\": 0.5, \"seed\": 1}", &again));
		free(z), z = deltas(w.m, again, &n);
		ck_assert_msg(gap(x, z, n) > 1e-2, "%s: the seed does not matter", types[_i]);
		lora_adapter_destroy(again);
	}
	free(x), free(y), free(z);
	lora_adapter_destroy(one), lora_adapter_destroy(two);
	free_world(&w);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* (A,B) and (-A,-B) have the same delta: their mean is it, but PEFT's linear gives zero. */
START_TEST(cross_terms)
{
	golden_context("naive", 1);
	world w = make_world(1);
	int64_t n;
	lora_settings *s = settings("{\"r\": 2, \"lora_alpha\": 3, \"exclude_modules\": [\"0.q_proj\"]}");
	ck_ok(lora_adapter_create(w.m, "lora", s, &w.a[1]));
	for (size_t i = 0; i < w.a[0]->n_params; i++) w.a[1]->params[i] = -w.a[0]->params[i];
	const double half[] = { 0.5, 0.5 };
	lora_adapter *exact, *theirs;
	ck_ok(combine(w.a, half, 2, "linear", "{}", &exact));
	ck_ok(combine(w.a, half, 2, "linear", "{\"mode\": \"peft\"}", &theirs));
	float *x = deltas(w.m, exact, &n), *y = deltas(w.m, theirs, &n), *want = deltas(w.m, w.a[0], &n);
	ck_assert(gap(x, want, n) < 1e-6);
	for (int64_t i = 0; i < n; i++) ck_assert(y[i] == 0);
	lora_settings_destroy(s);
	free(x), free(y), free(want);
	lora_adapter_destroy(exact), lora_adapter_destroy(theirs);
	free_world(&w);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- extraction --- */

START_TEST(extract)
{
	static const char *const how[] = { "{\"r\": 3}", "{\"r\": 8, \"lora_alpha\": 5, \"use_rslora\": true}", "{\"r\": 2, \"rank_pattern\": {\"q_proj\": 4}}" };
	static const int64_t rank[] = { 3, 8, 2 };
	golden_context("naive", 2);
	lora_model *base, *tuned;
	lora_adapter *a, *got, *none;
	ck_ok(lora_model_open(golden_ctx, MODEL, NULL, &base));
	ck_ok(lora_model_open(golden_ctx, MODEL, NULL, &tuned));
	lora_settings *s = settings("{\"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"q_proj\", \"down_proj\"], \"init_lora_weights\": false}");
	ck_ok(lora_adapter_create(tuned, "lora", s, &a));
	ck_ok(lora_adapter_merge(a, NULL));
	lora_settings_destroy(s);
	int64_t n = lora_model_site_count(base), count, other;
	double *norms = calloc((size_t)n, sizeof *norms), *errors = calloc((size_t)n, sizeof *errors);
	s = settings(how[_i]);
	ck_ok(lora_adapter_extract(base, tuned, s, norms, errors, n, &got));
	float *want = deltas(tuned, a, &count), *d = deltas(base, got, &other);
	double total = 0, left = distance(d, want, count), all = 0;
	for (int64_t i = 0; i < n; i++) total += errors[i] * errors[i], all += norms[i] * norms[i];
	ck_assert_msg(fabs(sqrt(total) - left) < 1e-5 * sqrt(all), "errors say %g, it is %g", sqrt(total), left);
	if (rank[_i] >= 4) ck_assert_msg(left < 1e-5 * sqrt(all), "%g of %g is left", left, sqrt(all));
	else ck_assert(left > 1e-3 * sqrt(all) && left < sqrt(all));
	ck_assert_int_eq(lora_adapter_extract(base, tuned, s, norms, errors, n - 1, &none), LORA_E_ARGUMENT);
	lora_settings_destroy(s);
	free(want), free(d), free(norms), free(errors);
	lora_adapter_destroy(got);
	lora_adapter_destroy(a);
	lora_model_destroy(tuned), lora_model_destroy(base);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- refusals --- */

START_TEST(refusals)
{
	static const struct { const char *type, *settings; double weight; lora_status st; const char *says; } all[] = {
		{ "linaer", "{}", 1, LORA_E_NOTFOUND, "linear" }, { "linear", "{\"density\": 0.5}", 1, LORA_E_ARGUMENT, "density" },
		{ "ties", "{\"density\": 1.5}", 1, LORA_E_ARGUMENT, "density" }, { "svd", "{\"svd_rank\": 0}", 1, LORA_E_ARGUMENT, "svd_rank" },
		{ "ties", "{\"majority_sign_method\": \"most\"}", 1, LORA_E_ARGUMENT, "majority_sign_method" }, { "linear", "{\"mode\": \"torch\"}", 1, LORA_E_ARGUMENT, "mode" },
		{ "linear", "{\"mode\": \"peft\"}", 1, LORA_E_ARGUMENT, "rank" }, { "cat", "{}", NAN, LORA_E_ARGUMENT, "weight 0" }, { "cat", "{}", INFINITY, LORA_E_ARGUMENT, "weight 0" },
		{ "cat", "{}", 1e300, LORA_E_NUMERIC, "not finite" }, { "ties", "{}", 1e300, LORA_E_NUMERIC, "not finite" } };
	golden_context("naive", 2);
	world w = make_world(2);
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		double f[] = { all[i].weight, 1 };
		lora_adapter *got = (lora_adapter *)w.m;
		ck_assert_msg(combine(w.a, f, 2, all[i].type, all[i].settings, &got) == all[i].st, "%s %s: %s", all[i].type, all[i].settings, lora_context_last_error(golden_ctx));
		ck_assert_ptr_null(got);
		ck_assert_msg(strstr(lora_context_last_error(golden_ctx), all[i].says) != NULL, "%s", lora_context_last_error(golden_ctx));
	}
	world other = make_world(1);
	lora_adapter *mixed[] = { w.a[0], other.a[0] }, *none[] = { w.a[0], NULL }, *got;
	ck_assert_int_eq(combine(mixed, three, 2, "cat", "{}", &got), LORA_E_ARGUMENT);
	ck_assert_int_eq(combine(none, three, 2, "cat", "{}", &got), LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_adapter_combine(NULL, three, 1, "cat", NULL, &got), LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_adapter_combine(w.a, three, 0, "cat", NULL, &got), LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_adapter_combine(w.a, NULL, 2, "cat", NULL, &got), LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_adapter_combine(w.a, three, 2, NULL, NULL, &got), LORA_E_ARGUMENT);
	ck_assert_int_eq(lora_adapter_combine(w.a, three, 2, "cat", NULL, NULL), LORA_E_ARGUMENT);
	w.a[1]->params[3] = NAN;
	ck_assert_int_eq(combine(w.a, three, 2, "cat", "{}", &got), LORA_E_NUMERIC);
	free_world(&other);
	free_world(&w);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Every allocation fails once: LORA_E_MEMORY, nothing leaks, nothing is changed. */
START_TEST(memory)
{
	static const struct { const char *type, *settings; } all[] = { { "cat", "{}" }, { "svd", "{}" }, { "ties", "{}" }, { "dare_ties_svd", "{}" } };
	check_alloc ca;
	check_alloc_init(&ca);
	ck_assert_int_eq(check_context_create(&ca, 1, &golden_ctx), LORA_OK);
	world w = make_world(2);
	lora_settings *s = settings(all[_i].settings);
	lora_status st = LORA_E_MEMORY;
	for (long n = 1; st == LORA_E_MEMORY; n++) {
		lora_adapter *got = NULL;
		check_alloc_arm(&ca, n, (int)(n & 1));
		st = lora_adapter_combine(w.a, three, 2, all[_i].type, s, &got);
		long refused = ca.failures;
		check_alloc_arm(&ca, 0, 0);
		ck_assert_msg(st == LORA_OK || (st == LORA_E_MEMORY && refused && !got), "allocation %ld: %s", n, lora_status_name(st));
		lora_adapter_destroy(got);
		ck_assert_int_lt(n, 500);
	}
	lora_settings_destroy(s);
	free_world(&w);
	lora_context_destroy(golden_ctx);
	ck_assert(check_alloc_clean(&ca));
}
END_TEST

TCase *numbers(void); /* combine/numbers.c */

int main(void)
{
	Suite *s = suite_create("combine");
	TCase *t = tcase_create("combine");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, peft_results, 0, N_GOLDENS);
	tcase_add_loop_test(t, exact_sums, 0, 7);
	tcase_add_test(t, best_rank);
	tcase_add_test(t, uncut);
	tcase_add_loop_test(t, order, 0, 6);
	tcase_add_test(t, cross_terms);
	tcase_add_loop_test(t, extract, 0, 3);
	tcase_add_test(t, refusals);
	tcase_add_loop_test(t, memory, 0, 4);
	suite_add_tcase(s, t);
	suite_add_tcase(s, numbers());
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
