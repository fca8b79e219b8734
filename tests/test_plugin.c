/* Choosing and loading backends: every way a plug-in can be wrong gives LORA_E_BACKEND with a message, and naive still works. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check_alloc.h"

#include "backend/plugin.h"
#include "backend/backend.h"

static char folder[900], fakes[800];
static int  warnings;

static void on_log(void *user, int32_t level, const char *module, const char *message)
{
	(void)user, (void)module, (void)message;
	if (level == LORA_LOG_WARN) warnings++;
}

static void copy_file(const char *from, const char *name)
{
	char path[1000], buf[65536];
	snprintf(path, sizeof path, "%s/liblora_%s.so", folder, name);
	FILE *in = fopen(from, "rb"), *out = fopen(path, "wb");
	ck_assert_msg(in && out, "can't copy %s to %s", from, path);
	for (size_t n; (n = fread(buf, 1, sizeof buf, in)) > 0;) fwrite(buf, 1, n, out);
	fclose(in), fclose(out);
}

static void fake(const char *name)
{
	char from[1200];
	snprintf(from, sizeof from, "%s/plugin.so", fakes);
	copy_file(from, name);
}

static void setup(void)
{
	ssize_t n = readlink("/proc/self/exe", fakes, sizeof fakes - 100);
	ck_assert(n > 0);
	fakes[n] = 0;
	memcpy(strrchr(fakes, '/'), "/fake", 6);
	snprintf(folder, sizeof folder, "%s/run-XXXXXX", fakes);
	ck_assert(mkdtemp(folder) != NULL);
	warnings = 0;
}

static void teardown(void)
{
	char command[1000];
	snprintf(command, sizeof command, "rm -rf '%s'", folder);
	ck_assert_int_eq(system(command), 0);
}

static lora_status create(const char *backend, lora_context **ctx, lora_error *e)
{
	lora_context_options o;
	lora_context_options_init(&o, sizeof o);
	memset(e, 0, sizeof *e);
	e->struct_size = sizeof *e;
	o.backend = backend, o.plugin_dir = folder, o.error = e, o.log = on_log;
	return lora_context_create(LORA_ABI, &o, ctx);
}

/* 1 + 2 through lora__run: 3 from naive, 104 + from a fake. */
static float sum(lora_context *ctx, lora_status want)
{
	float x = 1, y = 2, z = -1;
	lora_call c = { .struct_size = sizeof c, .prim = LORA_PRIM_ADD, .n_views = 3,
		.v = { lora__view2(&z, LORA_F32, 1, 1, 1), lora__view2(&x, LORA_F32, 1, 1, 1), lora__view2(&y, LORA_F32, 1, 1, 1) } };
	ck_assert_int_eq(lora__run(ctx, &c), want);
	return z;
}

static const struct { const char *name, *says; } broken[] = {
	{ "short", "table is too short" },          { "abi", "another LORA_BACKEND_ABI" },   { "version", "another LORA_BACKEND_ABI" },
	{ "renamed", "another name than its file" }, { "null_run", "is NULL" },              { "null_open", "is NULL" },
	{ "half_pack", "only one of" },             { "no_table", "returned no table" },     { "entry_fails", "lora_backend_entry failed" },
	{ "open_fails", "can't be opened" },        { "cannot", "can't run on this machine" }, { "info_fails", "tells nothing" },
	{ "empty", "does not export" },             { "text", "can't be loaded" },           { "folder", "is not a regular file" },
	{ "missing", "no liblora_missing.so in" },  { "../good", "unknown backend" },        { "", "unknown backend" },
	{ "Good", "unknown backend" },              { "a_name_that_is_longer_than_any_backend", "unknown backend" },
};
enum { N_BROKEN = sizeof broken / sizeof *broken };

static void make_broken(const char *name)
{
	char path[1200];
	FILE *f;
	if (strchr(name, '/') || !strcmp(name, "missing") || !*name) return;
	snprintf(path, sizeof path, "%s/liblora_%s.so", folder, name);
	if (!strcmp(name, "folder")) {
		ck_assert_int_eq(mkdir(path, 0700), 0);
	} else if (!strcmp(name, "text")) {
		ck_assert((f = fopen(path, "w")) != NULL);
		fputs("no object\n", f);
		fclose(f);
	} else if (!strcmp(name, "empty")) {
		snprintf(path, sizeof path, "%s/empty.so", fakes);
		copy_file(path, name);
	} else {
		fake(name);
	}
}

START_TEST(each_failure)
{
	lora_context *ctx = NULL;
	lora_error e;
	make_broken(broken[_i].name);
	check_fails(LORA_E_BACKEND, create(broken[_i].name, &ctx, &e));
	ck_assert_ptr_null(ctx);
	ck_assert_int_eq(e.status, LORA_E_BACKEND);
	ck_assert_msg(strstr(e.message, broken[_i].says) != NULL, "'%s' does not say '%s'", e.message, broken[_i].says);
	/* A context that has naive keeps it. */
	check_ok(NULL, create("naive", &ctx, &e));
	check_fails(LORA_E_BACKEND, lora__backend_select(ctx, broken[_i].name));
	ck_assert_str_eq(lora_context_backend_name(ctx), "naive");
	ck_assert(sum(ctx, LORA_OK) == 3);
	lora_context_destroy(ctx);
}
END_TEST

START_TEST(open_without_memory)
{
	lora_context *ctx;
	lora_error e;
	fake("open_memory");
	check_fails(LORA_E_MEMORY, create("open_memory", &ctx, &e));
}
END_TEST

START_TEST(automatic)
{
	lora_context *ctx;
	lora_error e;
	check_ok(NULL, create("auto", &ctx, &e)); /* nothing there: naive */
	ck_assert_str_eq(lora_context_backend_name(ctx), "naive");
	lora_context_destroy(ctx);
	for (int i = 0; i < N_BROKEN; i++)
		if (strcmp(broken[i].name, "Good") && strlen(broken[i].name) < 20) make_broken(broken[i].name);
	fake("good"), fake("best"), fake("old");
	check_ok(NULL, create("auto", &ctx, &e));
	ck_assert_str_eq(lora_context_backend_name(ctx), "best");
	ck_assert_msg(warnings >= 12, "%d warnings", warnings);
	ck_assert_str_eq(lora_context_last_error(ctx), "");
	ck_assert(sum(ctx, LORA_OK) == 104);
	lora_context_destroy(ctx);
}
END_TEST

/* One instance for each context; what a fake does not take runs on naive; the family lists what was loaded. */
START_TEST(instances)
{
	lora_context *a, *b;
	lora_error e;
	float x[4] = { 1, 2, 3, 4 }, y[4] = { 0 };
	int before = lora__backend_count(); /* with CK_FORK=no other tests have been here */
	fake("good"), fake("old");
	check_ok(NULL, create("good", &a, &e));
	check_ok(NULL, create("good", &b, &e));
	ck_assert_ptr_ne(a->backend_self, b->backend_self);
	ck_assert_ptr_eq(a->backend, b->backend);
	ck_assert(sum(a, LORA_OK) == 104 && sum(a, LORA_OK) == 105 && sum(b, LORA_OK) == 104);
	check_ok(a, lora__axpby(a, 2, lora__view1(x, LORA_F32, 4), 0, lora__view1(y, LORA_F32, 4)));
	ck_assert(y[3] == 8);
	check_ok(a, lora__backend_select(a, "old"));
	ck_assert_str_eq(lora_context_backend_name(a), "old");
	ck_assert(a->backend->weight_pack == NULL && sum(a, LORA_OK) == 104);
	check_ok(a, lora__backend_select(a, "naive"));
	ck_assert(sum(a, LORA_OK) == 3 && sum(b, LORA_OK) == 105);
	ck_assert_int_eq(lora__backend_count(), before + 2);
	ck_assert_str_eq(lora__backend_member(0)->name, "naive");
	ck_assert_str_eq(lora__backend_member(before)->name, "good");
	ck_assert_ptr_null(lora__backend_member(before + 2));
	lora_context_destroy(a), lora_context_destroy(b);
}
END_TEST

START_TEST(run_failures)
{
	static const struct { const char *name; lora_status status; const char *says; } cases[] = {
		{ "run_fails", LORA_E_BACKEND, "backend 'run_fails' failed in primitive 4" },
		{ "run_tells", LORA_E_BACKEND, "backend 'run_tells': the moon is full" },
		{ "run_memory", LORA_E_MEMORY, "run_memory" },
	};
	lora_context *ctx;
	lora_error e;
	fake(cases[_i].name);
	check_ok(NULL, create(cases[_i].name, &ctx, &e));
	sum(ctx, cases[_i].status);
	ck_assert_msg(strstr(lora_context_last_error(ctx), cases[_i].says) != NULL, "'%s'", lora_context_last_error(ctx));
	e.struct_size = sizeof e;
	check_ok(ctx, lora_context_error(ctx, &e));
	ck_assert_int_eq(e.status, cases[_i].status);
	check_ok(ctx, lora__backend_select(ctx, "naive"));
	ck_assert(sum(ctx, LORA_OK) == 3);
	lora_context_destroy(ctx);
}
END_TEST

/* A backend whose memory is its own: naive can't stand in. */
START_TEST(device_memory)
{
	lora_context *ctx;
	lora_error e;
	float x[2] = { 1, 2 };
	fake("device");
	check_ok(NULL, create("device", &ctx, &e));
	check_fails(LORA_E_UNSUPPORTED, lora__axpby(ctx, 1, lora__view1(x, LORA_F32, 1), 0, lora__view1(x + 1, LORA_F32, 1)));
	ck_assert(strstr(lora_context_last_error(ctx), "fakes add only") != NULL);
	lora_context_destroy(ctx);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("plugin");
	TCase *c = tcase_create("plugin");
	tcase_set_timeout(c, 60);
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_loop_test(c, each_failure, 0, N_BROKEN);
	tcase_add_test(c, open_without_memory);
	tcase_add_test(c, automatic);
	tcase_add_test(c, instances);
	tcase_add_loop_test(c, run_failures, 0, 3);
	tcase_add_test(c, device_memory);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
