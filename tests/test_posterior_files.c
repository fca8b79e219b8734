/* Laplace posteriors: saving and loading, damaged files, what is refused, failing allocations. */
#include <unistd.h>
#include "posterior/random_net.h"

static void spoil(const char *from, const char *to, long at, int flip, long keep)
{
	FILE *f = fopen(from, "rb"), *g = fopen(to, "wb");
	ck_assert(f && g);
	for (long i = 0; keep < 0 || i < keep; i++) {
		int ch = fgetc(f);
		if (ch == EOF) break;
		fputc(i == at ? ch ^ flip : ch, g);
	}
	fclose(f), fclose(g);
}

static void expect_load(net *t, const char *path, lora_status want, const char *word)
{
	lora_posterior *p;
	lora_status st = lora_posterior_load(t->m, t->a, path, &p);
	ck_assert_msg(st == want && !p, "%s instead of %s: %s", lora_status_name(st), lora_status_name(want), lora_context_last_error(golden_ctx));
	ck_assert_msg(strstr(lora_context_last_error(golden_ctx), word) && strstr(lora_context_last_error(golden_ctx), path), "%s", lora_context_last_error(golden_ctx));
}

START_TEST(files)
{
	net t, other;
	char path[64], bad[64];
	int64_t c, n;
	snprintf(path, sizeof path, "test_posterior.%d.safetensors", (int)getpid());
	snprintf(bad, sizeof bad, "test_posterior.%d.bad", (int)getpid());
	golden_context("naive", 1);
	net_open(&t, _i, "f32");
	c = t.classes, n = t.n * c;
	lora_posterior *p = fit(&t, ",\"full_up_to\":4,\"factor_rank\":3"), *q;
	ck_ok(lora_posterior_save(p, path));
	ck_ok(lora_posterior_load(t.m, t.a, path, &q));
	double x[256], y[256];
	predict(p, &t, "{}", NULL, NULL, x), predict(q, &t, "{}", NULL, NULL, y);
	ck_assert_mem_eq(x, y, sizeof(double) * (size_t)(n * c)); /* the same bits */
	lora_posterior_info i = { .struct_size = sizeof i }, j = i;
	ck_ok(lora_posterior_get_info(p, &i));
	ck_ok(lora_posterior_get_info(q, &j));
	ck_assert_mem_eq(&i, &j, sizeof i);
	ck_assert(i.n_examples == t.n && i.n_classes == c && i.effective > 0 && i.prior_precision > 0);
	lora_posterior_destroy(q);
	/* damage */
	FILE *f = fopen(path, "rb");
	fseek(f, 0, SEEK_END);
	long size = ftell(f);
	fclose(f);
	for (long cut = 0; cut < size; cut += size / 13 + 1) {
		spoil(path, bad, -1, 0, cut);
		expect_load(&t, bad, LORA_E_FORMAT, "");
	}
	spoil(path, bad, size - 9, 1, -1);
	expect_load(&t, bad, LORA_E_FORMAT, "digest");
	remove(bad);
	expect_load(&t, bad, LORA_E_NOTFOUND, "");
	/* another scale, another adapter, another base */
	ck_ok(lora_adapter_set_scale(t.a, 2));
	lora_batch b = { .struct_size = sizeof b };
	get(&t, 0, &b);
	check_fails(LORA_E_STATE, lora_posterior_predict(p, &b, NULL, x, NULL, NULL, b.n_sequences * c));
	ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), "scale"));
	uint64_t seed = 3;
	ck_ok(lora_adapter_set_scale(t.a, 1.5));
	scramble(t.a, &seed, 0.1);
	expect_load(&t, path, LORA_E_STATE, "another adapter");
	net_open(&other, (_i + 1) % CASES, "f32");
	expect_load(&other, path, LORA_E_STATE, "another base");
	net_close(&other);
	remove(path);
	lora_posterior_destroy(p);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- what is refused, by name --- */

static void refuse(net *t, const char *json, lora_status want, const char *word)
{
	lora_posterior *p;
	char text[400];
	snprintf(text, sizeof text, "{%s}", json);
	lora_settings *s = settings(text);
	lora_status st = lora_posterior_fit(t->m, t->a, (t->n + t->batch - 1) / t->batch, get, t, s, &p);
	ck_assert_msg(st == want && !p, "%s: %s", json, lora_status_name(st));
	ck_assert_msg(strstr(lora_context_last_error(golden_ctx), word) != NULL, "%s: %s", json, lora_context_last_error(golden_ctx));
	lora_settings_destroy(s);
}

START_TEST(refusals)
{
	net t;
	golden_context("naive", 1);
	net_open(&t, 3, "f32");
	refuse(&t, "", LORA_E_ARGUMENT, "classes");
	refuse(&t, "\"classes\":4", LORA_E_ARGUMENT, "classes");
	refuse(&t, "\"classes\":[4,4]", LORA_E_ARGUMENT, "two classes");
	refuse(&t, "\"classes\":[4,9,30]", LORA_E_ARGUMENT, "token 30");
	refuse(&t, "\"classes\":[4,9]", LORA_E_SHAPE, "token 11");
	refuse(&t, "\"classes\":[4,9,11],\"layers\":\"last\"", LORA_E_ARGUMENT, "head");
	refuse(&t, "\"classes\":[4,9,11],\"factor\":\"skech\"", LORA_E_ARGUMENT, "sketch");
	refuse(&t, "\"classes\":[4,9,11],\"fischer\":\"exact\"", LORA_E_ARGUMENT, "fisher");
	refuse(&t, "\"classes\":[4,9,11],\"fisher\":\"none\"", LORA_E_ARGUMENT, "fisher");
	refuse(&t, "\"classes\":[4,9,11],\"factor_rank\":0", LORA_E_ARGUMENT, "factor_rank");
	refuse(&t, "\"classes\":[4,9,11],\"prior_precision\":-1", LORA_E_ARGUMENT, "prior_precision");
	refuse(&t, "\"classes\":[4,9,11],\"prior\":\"validation\"", LORA_E_ARGUMENT, "validation_batches");
	refuse(&t, "\"classes\":[4,9,11],\"validation_batches\":1", LORA_E_ARGUMENT, "validation_batches");
	refuse(&t, "\"classes\":[4,9,11],\"prior\":\"validation\",\"validation_batches\":3", LORA_E_ARGUMENT, "none is left");
	ck_ok(lora_adapter_set_trainable(t.a, 0));
	refuse(&t, "\"classes\":[4,9,11]", LORA_E_STATE, "frozen");
	ck_ok(lora_adapter_set_trainable(t.a, 1));
	ck_ok(lora_adapter_detach(t.a));
	refuse(&t, "\"classes\":[4,9,11]", LORA_E_STATE, "attached");
	ck_ok(lora_adapter_attach(t.a, 1));
	lora_settings *s = settings("{\"name\":\"second\",\"target_modules\":[\"k_proj\"]}");
	lora_adapter *second;
	ck_ok(lora_adapter_create(t.m, "lora", s, &second));
	lora_settings_destroy(s);
	ck_ok(lora_adapter_attach(second, 1));
	refuse(&t, "\"classes\":[4,9,11]", LORA_E_STATE, "another adapter");
	lora_adapter_destroy(second);
	lora_posterior *p = fit(&t, ""), *none = p;
	double x[64];
	lora_batch b = { .struct_size = sizeof b };
	get(&t, 0, &b);
	static const struct { const char *json, *word; lora_status st; } bad[] = { { "{\"form\":\"probits\"}", "probit", LORA_E_ARGUMENT }, { "{\"samples\":0}", "samples", LORA_E_ARGUMENT },
		{ "{\"sample\":5}", "samples", LORA_E_ARGUMENT }, { "{\"directions\":\"one\",\"form\":\"probit\"}", "sampled", LORA_E_ARGUMENT } };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		s = settings(bad[i].json);
		check_fails(bad[i].st, lora_posterior_predict(p, &b, s, x, NULL, NULL, b.n_sequences * t.classes));
		ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), bad[i].word));
		lora_settings_destroy(s);
	}
	check_fails(LORA_E_SHAPE, lora_posterior_predict(p, &b, NULL, x, NULL, NULL, 3));
	check_fails(LORA_E_ARGUMENT, lora_posterior_predict(p, NULL, NULL, x, NULL, NULL, 3));
	check_fails(LORA_E_ARGUMENT, lora_posterior_fit(t.m, t.a, 0, get, &t, NULL, &none));
	ck_assert_ptr_null(none);
	lora_posterior_memory mem = { .struct_size = sizeof mem };
	s = settings("{\"classes\":[4,9,11]}");
	ck_ok(lora_posterior_estimate(t.m, t.a, 4, 6, s, &mem));
	ck_assert(mem.factors > 0 && mem.kept > 0 && mem.activations > 0 && mem.predict > 0 && mem.peak >= mem.activations + mem.factors);
	lora_settings_destroy(s);
	lora_posterior_destroy(p);
	lora_posterior_destroy(NULL);
	net_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- memory: every allocation fails once, nothing leaks, gradients and hooks are left alone --- */

START_TEST(failing_allocations)
{
	check_alloc ca;
	net t;
	check_alloc_init(&ca);
	golden_ctx = check_context(&ca);
	net_open(&t, _i, "f32");
	t.n = 4;
	lora_posterior *p = fit(&t, ""); /* plans and arenas are there */
	double x[64];
	predict(p, &t, "{}", x, NULL, NULL);
	lora_posterior_destroy(p);
	char text[100];
	snprintf(text, sizeof text, "{\"seed\":1%s}", class_setting(&t));
	lora_settings *s = settings(text);
	long live = ca.live;
	for (long n = 1, done = 0; !done; n += n < 400 ? 1 : 37) {
		check_alloc_arm(&ca, n, 0);
		lora_status st = lora_posterior_fit(t.m, t.a, 1, get, &t, s, &p);
		done = !ca.failures;
		ck_assert_msg(st == (done ? LORA_OK : LORA_E_MEMORY), "allocation %ld: %s", n, lora_status_name(st));
		ck_assert_ptr_null(t.m->s.tap);
		check_alloc_arm(&ca, 0, 0);
		if (done) break;
		ck_assert_int_eq(ca.live, live);
	}
	lora_batch b = { .struct_size = sizeof b };
	get(&t, 0, &b);
	live = ca.live;
	for (long n = 1, done = 0; !done; n++) {
		check_alloc_arm(&ca, n, 0);
		lora_status st = lora_posterior_predict(p, &b, NULL, x, NULL, NULL, b.n_sequences * t.classes);
		done = !ca.failures;
		ck_assert_msg(st == (done ? LORA_OK : LORA_E_MEMORY), "allocation %ld: %s", n, lora_status_name(st));
		check_alloc_arm(&ca, 0, 0);
	}
	lora_posterior_destroy(p);
	lora_settings_destroy(s);
	net_close(&t);
	lora_context_destroy(golden_ctx);
	check_alloc_done(&ca);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("posterior_files");
	TCase *c = tcase_create("posterior_files");
	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, files, 0, CASES);
	tcase_add_test(c, refusals);
	tcase_add_loop_test(c, failing_allocations, 0, 4);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
