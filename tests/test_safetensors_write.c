/* safetensors, the other half: the reference writer's bytes, refusals of the writer, digest, shards and model directories, failing allocations.
 * Golden files were written by the Python package safetensors 0.8.0. */
#include <check.h>

#include "room.h"
#include "stimage.h"

#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

/* --- writing --- */

/* Read a file of the reference writer in, lay it out again: the same bytes. */
static const char *const goldens[] = { "tests/golden/safetensors/all-types.safetensors", "tests/golden/safetensors/empty.safetensors",
	"tests/golden/safetensors/one.safetensors" };

START_TEST(writes_the_reference_bytes)
{
	lora__tensors t;
	lora__blob    want;
	lora__tensor  list[64];
	char          path[512];
	uint64_t      seed = check_seed(7);
	check_ok(ctx, lora__safetensors_read(ctx, goldens[_i], &t));
	check_ok(ctx, lora__blob_read(ctx, goldens[_i], 1 << 20, &want));
	for (size_t i = 0; i < t.n; i++) list[i] = t.list[i];
	for (size_t i = t.n; i > 1; i--) { /* whatever the order of the list */
		size_t       k = (size_t)(check_random(&seed) % i);
		lora__tensor x = list[k];
		list[k] = list[i - 1], list[i - 1] = x;
	}
	snprintf(path, sizeof path, "%s", scratch_path(&room, "out.safetensors"));
	check_ok(ctx, lora__safetensors_write(ctx, path, list, t.n, t.metadata));
	ck_assert_msg(scratch_is(path, want.data, want.n), "%s: other bytes", goldens[_i]);
	ck_assert(lora__tensors_digest(list, t.n) == lora__tensors_digest(t.list, t.n));
	lora__blob_close(ctx, &want);
	lora__tensors_close(&t);
}
END_TEST

static lora__tensor vec(const char *name, const void *data, int64_t n)
{
	return (lora__tensor){ .name = name, .dtype = LORA_U8, .rank = 1, .shape = { n }, .data = data, .bytes = (uint64_t)n };
}

START_TEST(writer_refuses)
{
	const char  *path = scratch_path(&room, "w");
	lora__tensor two[2] = { vec("a", "xy", 2), vec("a", "xyz", 3) };
	two[1].dtype = LORA_I8; /* two types: not neighbours in the file */
	check_fails(LORA_E_EXISTS, lora__safetensors_write(ctx, path, two, 2, NULL));
	ck_assert(strstr(lora_context_last_error(ctx), "'a'"));
	lora__tensor one = vec("a", "xy", 2);
	one.bytes = 3;
	check_fails(LORA_E_SHAPE, lora__safetensors_write(ctx, path, &one, 1, NULL));
	one = vec("a", "xy", 2), one.dtype = 99;
	check_fails(LORA_E_DTYPE, lora__safetensors_write(ctx, path, &one, 1, NULL));
	one = vec("a", "xy", 2), one.rank = 9;
	check_fails(LORA_E_SHAPE, lora__safetensors_write(ctx, path, &one, 1, NULL));
	one = vec("a\xff", "xy", 2);
	check_fails(LORA_E_ARGUMENT, lora__safetensors_write(ctx, path, &one, 1, NULL));
	one = vec("__metadata__", "xy", 2);
	check_fails(LORA_E_ARGUMENT, lora__safetensors_write(ctx, path, &one, 1, NULL));
	one = vec("a", "xy", 2);
	json_t *bad = json_pack("{s:i}", "k", 1);
	check_fails(LORA_E_ARGUMENT, lora__safetensors_write(ctx, path, &one, 1, bad));
	json_decref(bad);
	ck_assert_int_eq(scratch_count(room.dir), 0);
}
END_TEST

START_TEST(digest_sees_everything)
{
	lora__tensor a = vec("a", "xyz", 3), b = vec("b", "pq", 2);
	lora__tensor ab[2] = { a, b }, ba[2] = { b, a };
	uint64_t     d = lora__tensors_digest(ab, 2);
	ck_assert(d == lora__tensors_digest(ba, 2));
	ck_assert(d != lora__tensors_digest(ab, 1) && d != lora__tensors_digest(ab, 0));
	for (int i = 0; i < 5; i++) {
		lora__tensor c[2] = { a, b };
		if (i == 0) c[0].name = "c";
		if (i == 1) c[0].dtype = LORA_I8;
		if (i == 2) c[0].rank = 2, c[0].shape[1] = 1;
		if (i == 3) c[0].data = (const uint8_t *)"xyw";
		if (i == 4) c[0].name = "b", c[1].name = "a";
		ck_assert_msg(d != lora__tensors_digest(c, 2), "change %d is not seen", i);
	}
	/* across the 4 KiB steps */
	static uint8_t big[10000];
	lora__tensor   x = vec("x", big, sizeof big);
	uint64_t       zero = lora__tensors_digest(&x, 1);
	for (size_t at = 0; at < sizeof big; at += 1111) {
		big[at] = 1;
		ck_assert(zero != lora__tensors_digest(&x, 1));
		big[at] = 0;
	}
	ck_assert(zero == lora__tensors_digest(&x, 1));
}
END_TEST

/* --- shards --- */

static void put_shard(const char *name, const char *tensor, const char *more)
{
	char  header[400];
	image f;
	snprintf(header, sizeof header, "{\"%s\":" T("U8", "[2]", "[0,2]") "%s}", tensor, more ? more : "");
	f = make(header, more ? 4 : 2);
	scratch_write(scratch_path(&room, name), f.bytes, f.n);
	free(f.bytes);
}

static void put_index(const char *map)
{
	char text[600];
	snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":4},\"weight_map\":%s}", map);
	scratch_write(scratch_path(&room, "model.safetensors.index.json"), text, strlen(text));
}

static const struct shard_row { const char *id, *map; lora_status status; const char *text; } shard_rows[] = {
	{ "good", "{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}", LORA_OK, "" },
	{ "missing shard", "{\"a\":\"s1.safetensors\",\"b\":\"s3.safetensors\"}", LORA_E_NOTFOUND, "s3.safetensors: shard is missing" },
	{ "wrong shard", "{\"a\":\"s2.safetensors\",\"b\":\"s1.safetensors\"}", LORA_E_FORMAT, "holds tensor 'b', which the index puts into s1.safetensors" },
	{ "not in its shard", "{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\",\"c\":\"s2.safetensors\"}", LORA_E_FORMAT, "tensor 'c' is not in its shard s2.safetensors" },
	{ "not listed", "{\"a\":\"s1.safetensors\",\"c\":\"s2.safetensors\"}", LORA_E_FORMAT, "holds tensor 'b', which the index does not list" },
	{ "up", "{\"a\":\"../s1.safetensors\"}", LORA_E_FORMAT, "not a plain file name" },
	{ "absolute", "{\"a\":\"/etc/passwd\"}", LORA_E_FORMAT, "not a plain file name" },
	{ "dots", "{\"a\":\"..\"}", LORA_E_FORMAT, "not a plain file name" },
	{ "backslash", "{\"a\":\"x\\\\y\"}", LORA_E_FORMAT, "not a plain file name" },
	{ "empty", "{\"a\":\"\"}", LORA_E_FORMAT, "not a plain file name" },
	{ "number", "{\"a\":1}", LORA_E_FORMAT, "'a' has no shard name" },
	{ "list", "[]", LORA_E_FORMAT, "'weight_map' is missing or not an object" },
	{ "not JSON", "{", LORA_E_FORMAT, "not valid JSON" },
};

START_TEST(shards)
{
	const struct shard_row *r = &shard_rows[_i];
	lora__tensors           t;
	put_shard("s1.safetensors", "a", NULL);
	put_shard("s2.safetensors", "b", NULL);
	put_index(r->map);
	lora_status st = lora__safetensors_open_model(ctx, room.dir, &t);
	ck_assert_msg(st == r->status, "%s: %s (%s)", r->id, lora_status_name(st), lora_context_last_error(ctx));
	if (st) ck_assert_msg(strstr(lora_context_last_error(ctx), r->text), "%s: message \"%s\"", r->id, lora_context_last_error(ctx));
	else ck_assert(t.n == 2 && lora__tensors_find(&t, "a") && lora__tensors_find(&t, "b") && !lora__tensors_find(&t, "c"));
	lora__tensors_close(&t);
}
END_TEST

START_TEST(model_directory)
{
	lora__tensors t;
	check_fails(LORA_E_NOTFOUND, lora__safetensors_open_model(ctx, room.dir, &t));
	ck_assert(strstr(lora_context_last_error(ctx), "neither model.safetensors nor"));
	put_shard("s1.safetensors", "a", NULL);
	put_shard("s2.safetensors", "b", ",\"a\":" T("U8", "[2]", "[2,4]"));
	put_index("{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}");
	check_fails(LORA_E_FORMAT, lora__safetensors_open_model(ctx, room.dir, &t)); /* one name in two shards */
	put_shard("model.safetensors", "whole", NULL); /* goes before the index, as everywhere */
	check_ok(ctx, lora__safetensors_open_model(ctx, room.dir, &t));
	ck_assert(t.n == 1 && lora__tensors_find(&t, "whole"));
	lora__tensors_close(&t);
}
END_TEST

/* --- failing allocations --- */

static lora_status open_shards(void)
{
	lora__tensors t;
	lora_status   st = lora__safetensors_open_model(ctx, room.dir, &t);
	lora__tensors_close(&t);
	return st;
}

static lora_status open_and_write(void)
{
	lora__tensors t;
	lora_status   st = lora__safetensors_read(ctx, goldens[0], &t);
	if (st) return st;
	st = lora__safetensors_write(ctx, scratch_path(&room, "out"), t.list, t.n, t.metadata);
	lora__tensors_close(&t);
	return st;
}

START_TEST(allocations_fail)
{
	lora_status (*calls[])(void) = { open_shards, open_and_write };
	put_shard("s1.safetensors", "a", NULL);
	put_shard("s2.safetensors", "b", NULL);
	put_index("{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}");
	for (int forever = 0; forever < 2; forever++)
		for (long n = 1;; n++) {
			long live = ca.live;
			unlink(scratch_path(&room, "out"));
			check_alloc_arm(&ca, n, forever);
			lora_status st = calls[_i]();
			int         hit = ca.failures > 0;
			check_alloc_arm(&ca, 0, 0);
			ck_assert_msg(st == (hit ? LORA_E_MEMORY : LORA_OK), "allocation %ld: %s (%s)", n, lora_status_name(st), lora_context_last_error(ctx));
			ck_assert_int_eq(ca.live, live);
			ck_assert_int_eq(scratch_count(room.dir), 3 + (_i && !hit)); /* nothing half-written */
			if (!hit) break;
		}
	check_ok(ctx, calls[_i]());
}
END_TEST

int main(void)
{
	Suite *s = suite_create("safetensors_write");
	TCase *t = tcase_create("safetensors_write");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, writes_the_reference_bytes, 0, 3);
	tcase_add_test(t, writer_refuses);
	tcase_add_test(t, digest_sees_everything);
	tcase_add_loop_test(t, shards, 0, (int)(sizeof shard_rows / sizeof *shard_rows));
	tcase_add_test(t, model_directory);
	tcase_add_loop_test(t, allocations_fail, 0, 2);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
