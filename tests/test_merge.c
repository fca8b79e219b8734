/* Merge and unmerge: weights depend only on the base and the set of merged adapters; 1,000 random operations leave every byte as it was; all
 * sites change or none. F32, F16 and BF16; weights mapped from a file, built, and owned by the host, plain and transposed. */
#include "base/rng.h"
#include "golden.h"

enum { N_ADAPTERS = 4, OPERATIONS = 1000 };

static const char *const dtypes[] = { "F32", "F16", "BF16" };
static const lora_dtype types[] = { LORA_F32, LORA_F16, LORA_BF16 };

/* A model under test and a picture of its weights. */
typedef struct world {
	lora_model   *m;
	lora_adapter *a[N_ADAPTERS];
	char         *base;   /* all sites' bytes, one after another */
	size_t        bytes;
	char         *host;   /* the host's own memory, or NULL */
} world;

static size_t site_bytes(const lora_site_info *i) { return (size_t)(i->out * i->in) * lora__dtype_size(i->dtype); }

static char *picture(const lora_model *m, size_t *bytes)
{
	char *out = NULL;
	*bytes = 0;
	for (int64_t i = 0; i < lora_model_site_count(m); i++) {
		lora_site_info s = { .struct_size = sizeof s };
		ck_ok(lora_model_site_info(m, i, &s));
		out = realloc(out, *bytes + site_bytes(&s));
		memcpy(out + *bytes, s.data, site_bytes(&s));
		*bytes += site_bytes(&s);
	}
	return out;
}

static void same_as_base(const world *w, const char *when)
{
	size_t n;
	char *now = picture(w->m, &n);
	ck_assert_uint_eq(n, w->bytes);
	ck_assert_msg(memcmp(now, w->base, n) == 0, "weights differ from the base %s", when);
	free(now);
}

static lora_adapter *random_adapter(lora_model *m, int k, double size)
{
	lora_settings *s;
	lora_adapter *a;
	char name[16];
	snprintf(name, sizeof name, "a%d", k);
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_int(s, "r", 2 + k));
	ck_ok(lora_settings_set_int(s, "seed", 77 + k));
	ck_ok(lora_settings_set_string(s, "name", name));
	ck_ok(lora_settings_set_string(s, "target_modules", "all-linear"));
	ck_ok(lora_settings_set_bool(s, "init_lora_weights", 0));
	ck_ok(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) { /* spread the sizes, so that halves round in every way */
		lora_tensor_info t;
		ck_ok(lora_adapter_tensor_info(a, i, &t));
		float *v = malloc(t.bytes);
		ck_ok(lora_adapter_tensor_read(a, i, v, t.bytes));
		for (size_t j = 0; j < t.bytes / sizeof *v; j++) v[j] *= (float)size;
		ck_ok(lora_adapter_tensor_write(a, i, v, t.bytes));
		free(v);
	}
	return a;
}

static lora_model *tiny(const char *dtype)
{
	lora_settings *s;
	lora_model *m;
	char json[512];
	snprintf(json, sizeof json, "{\"vocab_size\":61,\"hidden_size\":24,\"intermediate_size\":40,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
		"\"num_key_value_heads\":2,\"weight_dtype\":\"%s\",\"seed\":5,\"initializer_range\":0.2}", dtype);
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, json, strlen(json)));
	ck_ok(lora_model_build(golden_ctx, "llama", s, &m));
	lora_settings_destroy(s);
	return m;
}

static void host_sites(world *w, lora_dtype type)
{
	enum { SITES = 3 };
	static const int64_t shape[SITES][2] = { { 31, 17 }, { 64, 64 }, { 7, 130 } };
	size_t each = lora__dtype_size(type), at = 0, total = 0;
	for (int i = 0; i < SITES; i++) total += (size_t)(shape[i][0] * shape[i][1]) * each;
	w->host = malloc(total);
	lora__rng r;
	lora__rng_init(&r, 99);
	for (size_t i = 0; i < total / each; i++) {
		double v = lora__rng_normal(&r) * 0.1;
		lora__convert(w->host + i * each, type, &v, LORA_F64, 1);
	}
	ck_ok(lora_model_create(golden_ctx, &w->m));
	for (int i = 0; i < SITES; i++) {
		char name[32];
		snprintf(name, sizeof name, "layers.%d.fc", i);
		lora_site_info d = { .struct_size = sizeof d, .dtype = type, .name = name, .out = shape[i][0], .in = shape[i][1], .data = w->host + at, .layer = -1,
			.flags = i == 1 ? LORA_SITE_TRANSPOSED : 0 };
		ck_ok(lora_model_add_site(w->m, &d, NULL));
		at += (size_t)(shape[i][0] * shape[i][1]) * each;
	}
}

/* kind: 0 built, 1 mapped, 2 host-owned */
static world make_world(int kind, int type)
{
	world w = { 0 };
	golden_context("auto", 2);
	if (kind == 2) host_sites(&w, types[type]);
	else if (kind == 0) w.m = tiny(dtypes[type]);
	else {
		lora_settings *s;
		char path[64];
		lora_model *m = tiny(dtypes[type]);
		snprintf(path, sizeof path, "build/tmp-merge-%d", type);
		ck_ok(lora_settings_create(golden_ctx, &s));
		ck_ok(lora_settings_set_bool(s, "force", 1));
		ck_ok(lora_model_save(m, path, s));
		lora_settings_destroy(s);
		lora_model_destroy(m);
		ck_ok(lora_model_open(golden_ctx, path, NULL, &w.m));
	}
	w.base = picture(w.m, &w.bytes);
	for (int k = 0; k < N_ADAPTERS; k++) w.a[k] = random_adapter(w.m, k, k == 3 ? 8.0 : k == 2 ? 0.01 : 1.0);
	return w;
}

static void end_world(world *w)
{
	for (int k = 0; k < N_ADAPTERS; k++) lora_adapter_destroy(w->a[k]);
	same_as_base(w, "after the adapters are gone");
	lora_model_destroy(w->m);
	uint64_t now;
	ck_ok(lora_context_memory(golden_ctx, &now, NULL));
	free(w->base);
	free(w->host);
	lora_context_destroy(golden_ctx);
}

START_TEST(random_operations)
{
	world w = make_world(_i / 3, _i % 3);
	char *seen[1 << N_ADAPTERS] = { 0 }; /* the weights of each set, as first met */
	int set = 0, changed = 0;
	lora__rng r;
	lora__rng_init(&r, (uint64_t)_i + 1);
	for (int op = 0; op < OPERATIONS; op++) {
		int k = (int)lora__rng_below(&r, N_ADAPTERS);
		if (set >> k & 1) ck_ok(lora_adapter_unmerge(w.a[k]));
		else ck_ok(lora_adapter_merge(w.a[k], NULL));
		set ^= 1 << k;
		size_t n;
		char *now = picture(w.m, &n);
		if (!seen[set]) seen[set] = now;
		else {
			ck_assert_msg(memcmp(now, seen[set], n) == 0, "the weights of set %d depend on history (operation %d)", set, op);
			free(now);
		}
		changed += set && memcmp(seen[set], w.base, n) != 0;
	}
	for (int k = 0; k < N_ADAPTERS; k++)
		if (set >> k & 1) ck_ok(lora_adapter_unmerge(w.a[k]));
	ck_assert_int_gt(changed, OPERATIONS / 2);
	same_as_base(&w, "after all operations");
	for (int i = 0; i < 1 << N_ADAPTERS; i++) free(seen[i]);
	end_world(&w);
}
END_TEST

/* merged = round(base + sum of deltas): against a double-precision sum. */
START_TEST(value)
{
	world w = make_world(_i / 3, _i % 3);
	lora_merge_options o;
	ck_ok(lora_merge_options_init(&o, sizeof o));
	o.scale = 0.5;
	ck_ok(lora_adapter_merge(w.a[0], NULL));
	ck_ok(lora_adapter_merge(w.a[1], &o));
	size_t at = 0;
	for (int64_t i = 0; i < lora_model_site_count(w.m); i++) {
		lora_site_info s = { .struct_size = sizeof s };
		ck_ok(lora_model_site_info(w.m, i, &s));
		size_t n = (size_t)(s.out * s.in), each = lora__dtype_size(s.dtype);
		float *d0 = malloc(n * sizeof *d0), *d1 = malloc(n * sizeof *d1);
		if (lora_adapter_delta(w.a[0], i, d0, n * sizeof *d0) == LORA_OK) {
			ck_ok(lora_adapter_delta(w.a[1], i, d1, n * sizeof *d1));
			for (int64_t row = 0; row < s.out; row++)
				for (int64_t col = 0; col < s.in; col++) {
					size_t k = (size_t)(row * s.in + col), where = s.flags & LORA_SITE_TRANSPOSED ? (size_t)(col * s.out + row) : k;
					double base, got, want;
					lora__convert(&base, LORA_F64, w.base + at + where * each, s.dtype, 1);
					lora__convert(&got, LORA_F64, (const char *)s.data + where * each, s.dtype, 1);
					want = base + d0[k] + 0.5 * d1[k];
					/* one rounding to the type, and F32 rounding of the sum */
					double ulp = s.dtype == LORA_BF16 ? 1.0 / 256 : s.dtype == LORA_F16 ? 1.0 / 2048 : 0, sum = fabs(base) + fabs(d0[k]) + fabs(d1[k]);
					ck_assert_msg(fabs(got - want) <= ulp * fabs(want) + 5e-7 * sum + 1e-7, "site %lld: %g, expected %g", (long long)i, got, want);
				}
		}
		free(d0), free(d1);
		at += n * each;
	}
	end_world(&w); /* destroys adapters that are still merged */
}
END_TEST

START_TEST(states)
{
	world w = make_world(_i, 0);
	ck_assert_int_eq(lora_adapter_unmerge(w.a[0]), LORA_E_STATE);
	ck_ok(lora_adapter_merge(w.a[0], NULL));
	size_t n;
	char *once = picture(w.m, &n);
	ck_assert_int_eq(lora_adapter_merge(w.a[0], NULL), LORA_E_STATE);
	char *twice = picture(w.m, &n);
	ck_assert(memcmp(once, twice, n) == 0);
	float v[4] = { 0 };
	ck_assert_int_eq(lora_adapter_tensor_write(w.a[0], 0, v, sizeof v), LORA_E_SHAPE);
	ck_ok(lora_adapter_unmerge(w.a[0]));
	ck_assert_int_eq(lora_adapter_unmerge(w.a[0]), LORA_E_STATE);
	same_as_base(&w, "after wrong calls");
	free(once), free(twice);
	end_world(&w);
}
END_TEST

/* P29: a sum that is not finite, or beyond F16, is refused and nothing has changed. */
START_TEST(out_of_range)
{
	world w = make_world(_i, 1);
	lora_merge_options o;
	ck_ok(lora_merge_options_init(&o, sizeof o));
	o.scale = 1e9;
	ck_assert_int_eq(lora_adapter_merge(w.a[3], &o), LORA_E_NUMERIC);
	ck_assert(strstr(lora_context_last_error(golden_ctx), "not finite") != NULL);
	same_as_base(&w, "after a refused merge");
	ck_ok(lora_adapter_merge(w.a[0], NULL));
	ck_assert_int_eq(lora_adapter_merge(w.a[3], &o), LORA_E_NUMERIC);
	ck_ok(lora_adapter_unmerge(w.a[0]));
	same_as_base(&w, "after a refused second merge");
	end_world(&w);
}
END_TEST

/* P22: the host writes to a merged weight: the next change is refused. P28: read-only weights. */
START_TEST(host_changes)
{
	world w = make_world(2, 0);
	ck_ok(lora_adapter_merge(w.a[0], NULL));
	float *p = (float *)(void *)w.host, keep = p[3];
	p[3] += 1.0f;
	ck_assert_int_eq(lora_adapter_unmerge(w.a[0]), LORA_E_STATE);
	ck_assert(strstr(lora_context_last_error(golden_ctx), "changed by the host") != NULL);
	p[3] = keep;
	ck_ok(lora_adapter_unmerge(w.a[0]));
	same_as_base(&w, "after the host put its value back");
	end_world(&w);

	golden_context("naive", 1);
	lora_model *m;
	static const float fixed[6] = { 1, 2, 3, 4, 5, 6 };
	lora_site_info d = { .struct_size = sizeof d, .dtype = LORA_F32, .name = "fc", .out = 2, .in = 3, .data = (void *)(uintptr_t)fixed, .layer = -1,
		.flags = LORA_SITE_READONLY };
	ck_ok(lora_model_create(golden_ctx, &m));
	ck_ok(lora_model_add_site(m, &d, NULL));
	lora_adapter *a = random_adapter(m, 0, 1.0);
	ck_assert_int_eq(lora_adapter_merge(a, NULL), LORA_E_UNSUPPORTED);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* P24: a merged adapter does not act a second time, and merged equals unmerged forward. */
START_TEST(forward_once)
{
	golden_context("naive", 1);
	lora_model *m = tiny("F32");
	lora_adapter *a = random_adapter(m, 1, 0.3);
	int32_t ids[5] = { 1, 7, 3, 60, 22 };
	lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = 5, .input_ids = ids };
	enum { N = 5 * 61 };
	float plain[N], attached[N], merged[N], both[N], after[N];
	ck_ok(lora_model_forward(m, &b, plain, sizeof plain));
	ck_ok(lora_adapter_attach(a, 0.7));
	ck_ok(lora_model_forward(m, &b, attached, sizeof attached));
	ck_ok(lora_adapter_merge(a, NULL));
	ck_ok(lora_model_forward(m, &b, merged, sizeof merged));
	double loss;
	b.labels = ids;
	ck_assert_int_eq(lora_model_backward(m, &b, NULL, 0, &loss, NULL), LORA_E_STATE);
	b.labels = NULL;
	ck_assert_int_eq(lora_adapter_detach(a), LORA_E_STATE);
	ck_ok(lora_adapter_unmerge(a));
	ck_ok(lora_model_forward(m, &b, both, sizeof both));
	ck_ok(lora_adapter_detach(a));
	ck_ok(lora_model_forward(m, &b, after, sizeof after));
	double moved = 0;
	for (int i = 0; i < N; i++) {
		ck_assert_double_eq_tol(attached[i], merged[i], 2e-5);
		moved = fmax(moved, fabs(attached[i] - plain[i]));
	}
	ck_assert_double_gt(moved, 1e-2);
	ck_assert(memcmp(both, attached, sizeof both) == 0);
	ck_assert(memcmp(after, plain, sizeof after) == 0);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* A saved merged model opens again with the merged weights; a merged tied head is saved apart. */
START_TEST(save_merged)
{
	golden_context("naive", 1);
	lora_settings *s;
	lora_model *m, *n;
	lora_adapter *a;
	ck_ok(lora_model_open(golden_ctx, "tests/golden/models/llama-tied/model", NULL, &m));
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_json(s, "target_modules", "[\"lm_head\",\"q_proj\"]"));
	ck_ok(lora_settings_set_bool(s, "init_lora_weights", 0));
	ck_ok(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	ck_ok(lora_adapter_merge(a, NULL));
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_bool(s, "force", 1));
	ck_ok(lora_settings_set_int(s, "max_shard_bytes", 20000));
	ck_ok(lora_model_save(m, "build/tmp-merged", s));
	lora_settings_destroy(s);
	ck_ok(lora_model_open(golden_ctx, "build/tmp-merged", NULL, &n));
	int32_t ids[4] = { 1, 7, 3, 60 };
	lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = 4, .input_ids = ids };
	lora_model_info i = { .struct_size = sizeof i };
	ck_ok(lora_model_get_info(m, &i));
	size_t bytes = sizeof(float) * 4 * (size_t)i.vocab_size;
	float *x = malloc(bytes), *y = malloc(bytes);
	ck_ok(lora_model_forward(m, &b, x, bytes));
	ck_ok(lora_model_forward(n, &b, y, bytes));
	ck_assert(memcmp(x, y, bytes) == 0);
	free(x), free(y);
	lora_model_destroy(n);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* A built model with a tied head has one embedding, and comes back from the disk as it was. */
START_TEST(save_tied)
{
	golden_context("naive", 1);
	lora_settings *s;
	lora_model *m, *n;
	const char *json = "{\"vocab_size\":31,\"hidden_size\":16,\"intermediate_size\":20,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"tie_word_embeddings\":true}";
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, json, strlen(json)));
	ck_ok(lora_model_build(golden_ctx, "llama", s, &m));
	lora_settings_destroy(s);
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_set_bool(s, "force", 1));
	ck_ok(lora_model_save(m, "build/tmp-tied", s));
	lora_settings_destroy(s);
	ck_ok(lora_model_open(golden_ctx, "build/tmp-tied", NULL, &n));
	int32_t ids[4] = { 1, 7, 3, 30 };
	lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = 4, .input_ids = ids };
	float x[4 * 31], y[4 * 31];
	ck_ok(lora_model_forward(m, &b, x, sizeof x));
	ck_ok(lora_model_forward(n, &b, y, sizeof y));
	ck_assert(memcmp(x, y, sizeof x) == 0);
	lora_model_destroy(m);
	lora_model_destroy(n);
	lora_context_destroy(golden_ctx);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("merge");
	TCase *t = tcase_create("merge");
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, random_operations, 0, 9);
	tcase_add_loop_test(t, value, 0, 9);
	tcase_add_loop_test(t, states, 0, 3);
	tcase_add_loop_test(t, out_of_range, 0, 3);
	tcase_add_test(t, host_changes);
	tcase_add_test(t, forward_once);
	tcase_add_test(t, save_merged);
	tcase_add_test(t, save_tied);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
