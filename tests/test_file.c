/* Files and directories: what is read, what is refused, and that a save leaves the old or the new content whatever fails or dies. */
#include <check.h>

#include "room.h"

#define fails_with(status, text, call)                                                                                 \
	do {                                                                                                               \
		check_fails(status, call);                                                                                     \
		ck_assert_msg(strstr(lora_context_last_error(ctx), text), "message \"%s\" lacks \"%s\"", lora_context_last_error(ctx), text); \
	} while (0)

/* --- reading --- */

START_TEST(reads_map_and_heap)
{
	lora__blob  b;
	const char *path = scratch_path(&room, "a");
	scratch_write(path, "hello", 5);
	check_ok(ctx, lora__blob_map(ctx, path, &b));
	ck_assert(b.n == 5 && memcmp(b.data, "hello", 5) == 0);
	lora__blob_close(ctx, &b);
	check_ok(ctx, lora__blob_read(ctx, path, 5, &b));
	ck_assert(b.n == 5 && memcmp(b.data, "hello", 5) == 0);
	lora__blob_close(ctx, &b);
	fails_with(LORA_E_LIMIT, "5 bytes, the limit is 4", lora__blob_read(ctx, path, 4, &b));
	ck_assert(b.data == NULL && b.n == 0);
	scratch_write(path, "", 0);
	check_ok(ctx, lora__blob_map(ctx, path, &b));
	ck_assert(b.n == 0);
	lora__blob_close(ctx, &b);
	check_ok(ctx, lora__blob_read(ctx, path, 0, &b));
	ck_assert(b.n == 0);
	lora__blob_close(ctx, &b);
}
END_TEST

/* S39, for both readers; a FIFO that blocked would meet the test's time limit */
START_TEST(refuses_what_is_no_regular_file)
{
	lora__blob b;
	for (int heap = 0; heap < 2; heap++) {
#define read_it(p) (heap ? lora__blob_read(ctx, p, 100, &b) : lora__blob_map(ctx, p, &b))
		const char *fifo = scratch_path(&room, heap ? "fifo1" : "fifo0"), *dangling = scratch_path(&room, heap ? "d1" : "d0"),
		           *loop = scratch_path(&room, heap ? "l1" : "l0");
		ck_assert_int_eq(mkfifo(fifo, 0600), 0);
		ck_assert_int_eq(symlink("nowhere", dangling), 0);
		ck_assert_int_eq(symlink(strrchr(loop, '/') + 1, loop), 0);
		fails_with(LORA_E_IO, strerror(EISDIR), read_it(room.dir));
		fails_with(LORA_E_IO, "a FIFO", read_it(fifo));
		fails_with(LORA_E_IO, "a device", read_it("/dev/null"));
		fails_with(LORA_E_IO, strerror(ENOENT), read_it(dangling));
		fails_with(LORA_E_IO, strerror(ELOOP), read_it(loop));
		fails_with(LORA_E_NOTFOUND, strerror(ENOENT), read_it(scratch_path(&room, "none")));
		ck_assert_msg(strstr(lora_context_last_error(ctx), "none"), "the path is not named");
		const char *closed = scratch_path(&room, "closed");
		scratch_write(closed, "x", 1);
		chmod(closed, 0);
		if (geteuid() != 0) fails_with(LORA_E_IO, strerror(EACCES), read_it(closed));
		chmod(closed, 0600);
	}
}
END_TEST

START_TEST(joins_paths)
{
	static const char *const rows[][3] = { { "a", "b", "a/b" }, { "a/", "b", "a/b" }, { "", "b", "b" }, { "/", "b", "/b" } };
	for (size_t i = 0; i < 4; i++) {
		char *p = lora__path_join(ctx, rows[i][0], rows[i][1]);
		ck_assert_str_eq(p, rows[i][2]);
		lora__free(ctx, p);
	}
	ck_assert(lora__path_exists(room.dir) && lora__path_is_dir(room.dir));
	ck_assert(!lora__path_exists(scratch_path(&room, "no")) && !lora__path_is_dir("/dev/null"));
}
END_TEST

/* --- one file --- */

static char old_bytes[300], new_bytes[5000];

static void fill(void)
{
	for (size_t i = 0; i < sizeof old_bytes; i++) old_bytes[i] = (char)(i * 7);
	for (size_t i = 0; i < sizeof new_bytes; i++) new_bytes[i] = (char)(i * 11 + 3);
}

static const char *target; /* of the save under test */

/* A failing system call must fail the save; but not one that only cleans up, or closes a folder that was read. */
static int must_fail(const faults *f, int error)
{
	static const char *const fatal[] = { "open", "write", "fsync", "fsync folder", "close", "mkdir", "exchange" };
	if (f->kind != FAULT_ERRNO || !f->hit) return 0;
	if (error == EINTR) return !strncmp(f->hit, "fsync", 5);
	for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
		if (!strcmp(f->hit, fatal[i])) return 1;
	return 0;
}

/* A save with a table that does all but the real sync. */
static lora_status undisturbed(lora_status (*save)(void), int no_exchange)
{
	faults f;
	faults_on(&f, 0, FAULT_NONE, 0, 0);
	f.no_exchange = no_exchange;
	lora_status st = save();
	faults_off(&f);
	return st;
}

static lora_status save_file(void)
{
	lora__piece pieces[3] = { { new_bytes, 1000 }, { NULL, 0 }, { new_bytes + 1000, sizeof new_bytes - 1000 } };
	return lora__file_replace(ctx, target, pieces, 3);
}

static void save_file_void(void *arg)
{
	(void)arg;
	save_file();
}

static const struct disturbance { int kind, error, forever; } disturbances[] = {
	{ FAULT_ERRNO, EIO, 0 }, { FAULT_ERRNO, EIO, 1 }, { FAULT_ERRNO, ENOSPC, 0 }, { FAULT_ERRNO, ENOSPC, 1 },
	{ FAULT_SHORT, 0, 0 }, { FAULT_SHORT, 0, 1 }, { FAULT_ERRNO, EINTR, 0 },
};
enum { N_DISTURBANCES = sizeof disturbances / sizeof *disturbances };

START_TEST(file_survives_every_fault)
{
	struct disturbance d = disturbances[_i];
	faults             f;
	static char path[512];
	int                failed = 0;
	fill();
	snprintf(path, sizeof path, "%s", scratch_path(&room, "file"));
	target = path;
	for (long n = 1;; n++) {
		scratch_write(path, old_bytes, sizeof old_bytes);
		faults_on(&f, n, d.kind, d.error, d.forever);
		lora_status st = save_file();
		faults_off(&f);
		int is_old = scratch_is(path, old_bytes, sizeof old_bytes), is_new = scratch_is(path, new_bytes, sizeof new_bytes);
		ck_assert_msg(is_old || is_new, "call %ld (%s): neither old nor new", n, f.hit);
		if (must_fail(&f, d.error))
			ck_assert_msg(st, "call %ld (%s) failed, and the save says it went well", n, f.hit);
		ck_assert_msg(st ? st == LORA_E_IO : is_new, "call %ld (%s): status %s but content %s", n, f.hit, lora_status_name(st), is_old ? "old" : "new");
		/* after a failure the old file is there, save where only the folder's sync failed */
		if (st) ck_assert_msg(is_old || !strcmp(f.hit, "fsync folder") || d.forever, "call %ld (%s) failed, and the file is new", n, f.hit);
		if (st && !d.forever) ck_assert_msg(strstr(lora_context_last_error(ctx), strerror(d.error)), "message: %s", lora_context_last_error(ctx));
		if (!d.forever) ck_assert_msg(scratch_count(room.dir) == 1, "call %ld (%s): a temp is left", n, f.hit);
		if (d.kind == FAULT_SHORT || (d.error == EINTR && strncmp(f.hit ? f.hit : "", "fsync", 5)))
			ck_assert_msg(st == LORA_OK, "call %ld (%s): %s", n, f.hit, lora_context_last_error(ctx));
		failed += st != LORA_OK;
		scratch_remove_tree(room.dir);
		mkdir(room.dir, 0700);
		if (!f.hit) break;
		ck_assert_int_lt(n, 100);
	}
	if (d.kind == FAULT_ERRNO) ck_assert_int_ge(failed, 2);
}
END_TEST

START_TEST(file_survives_every_kill)
{
	faults f;
	static char path[512];
	int    seen_old = 0, seen_new = 0;
	fill();
	snprintf(path, sizeof path, "%s", scratch_path(&room, "file"));
	target = path;
	for (long n = 1;; n++) {
		scratch_write(path, old_bytes, sizeof old_bytes);
		faults_on(&f, n, FAULT_KILL, 0, 0);
		int killed = faults_in_child(save_file_void, NULL);
		faults_off(&f);
		int is_old = scratch_is(path, old_bytes, sizeof old_bytes), is_new = scratch_is(path, new_bytes, sizeof new_bytes);
		ck_assert_msg(is_old || is_new, "killed before call %ld: neither old nor new", n);
		seen_old += is_old, seen_new += is_new;
		check_ok(ctx, undisturbed(save_file, 0)); /* a temp left by the dead does not stand in the way */
		ck_assert(scratch_is(path, new_bytes, sizeof new_bytes));
		scratch_remove_tree(room.dir);
		mkdir(room.dir, 0700);
		if (!killed) break;
		ck_assert_int_lt(n, 100);
	}
	ck_assert_msg(seen_old >= 4 && seen_new >= 2, "old %d, new %d", seen_old, seen_new);
}
END_TEST

START_TEST(file_replace_refuses) /* P40 */
{
	lora__piece p = { "x", 1 };
	char        longest[600];
	memset(longest, 'n', sizeof longest - 1);
	longest[sizeof longest - 1] = 0;
	fails_with(LORA_E_IO, strerror(EISDIR), lora__file_replace(ctx, room.dir, &p, 1));
	fails_with(LORA_E_IO, strerror(ENAMETOOLONG), lora__file_replace(ctx, longest, &p, 1));
	fails_with(LORA_E_IO, strerror(ENOENT), lora__file_replace(ctx, scratch_path(&room, "no/file"), &p, 1));
	check_fails(LORA_E_ARGUMENT, lora__file_replace(ctx, "", &p, 1));
	if (geteuid() != 0) {
		const char *path = scratch_path(&room, "sub/file");
		mkdir(scratch_path(&room, "sub"), 0700);
		scratch_write(path, "old", 3);
		chmod(scratch_path(&room, "sub"), 0500);
		fails_with(LORA_E_IO, strerror(EACCES), lora__file_replace(ctx, path, &p, 1));
		chmod(scratch_path(&room, "sub"), 0700);
		ck_assert(scratch_is(path, "old", 3));
	}
	ck_assert_int_le(scratch_count(room.dir), 1);
}
END_TEST

START_TEST(mapped_source_survives_replace)
{
	lora__blob  b;
	static char path[512];
	lora__piece p = { "other", 5 };
	snprintf(path, sizeof path, "%s", scratch_path(&room, "file"));
	scratch_write(path, "mapped bytes", 12);
	check_ok(ctx, lora__blob_map(ctx, path, &b));
	check_ok(ctx, lora__file_replace(ctx, path, &p, 1));
	ck_assert(memcmp(b.data, "mapped bytes", 12) == 0);
	lora__piece self[2] = { { b.data, b.n }, { "!", 1 } };
	check_ok(ctx, lora__file_replace(ctx, path, self, 2)); /* written from its own old mapping */
	ck_assert(scratch_is(path, "mapped bytes!", 13));
	lora__blob_close(ctx, &b);
}
END_TEST

START_TEST(file_replace_allocations)
{
	fill();
	static char path[512];
	snprintf(path, sizeof path, "%s", scratch_path(&room, "file"));
	target = path;
	for (int forever = 0; forever < 2; forever++)
		for (long n = 1;; n++) {
			scratch_write(path, old_bytes, sizeof old_bytes);
			check_alloc_arm(&ca, n, forever);
			lora_status st = save_file();
			int         hit = ca.failures > 0;
			check_alloc_arm(&ca, 0, 0);
			ck_assert_int_eq(st, hit ? LORA_E_MEMORY : LORA_OK);
			ck_assert(scratch_is(path, hit ? old_bytes : new_bytes, hit ? sizeof old_bytes : sizeof new_bytes));
			ck_assert_int_eq(scratch_count(room.dir), 1);
			if (!hit) break;
		}
}
END_TEST

/* --- directories --- */

enum { NEITHER, OLD, NEW, ABSENT };

static lora_status save_dir(void)
{
	lora__dir   d;
	lora__piece config = { "new config", 10 }, weights[2] = { { new_bytes, 2000 }, { new_bytes + 2000, sizeof new_bytes - 2000 } };
	lora_status st = lora__dir_begin(ctx, target, &d);
	if (st) return st;
	st = lora__dir_file(&d, "config", &config, 1);
	if (!st) st = lora__dir_file(&d, "weights", weights, 2);
	if (!st) return lora__dir_commit(&d);
	lora__dir_abort(&d);
	return st;
}

static void save_dir_void(void *arg)
{
	(void)arg;
	save_dir();
}

static void make_old_dir(const char *path)
{
	char name[600];
	mkdir(path, 0700);
	snprintf(name, sizeof name, "%s/config", path);
	scratch_write(name, "old config", 10);
	snprintf(name, sizeof name, "%s/weights", path);
	scratch_write(name, old_bytes, sizeof old_bytes);
	snprintf(name, sizeof name, "%s/stale", path);
	scratch_write(name, "s", 1);
	snprintf(name, sizeof name, "%s/sub", path);
	mkdir(name, 0700);
}

/* What a reader would find. */
static int read_dir(const char *path)
{
	char  config[700], weights[700];
	char *now = lora__dir_current(ctx, path);
	if (!lora__path_exists(now)) {
		lora__free(ctx, now);
		return ABSENT;
	}
	snprintf(config, sizeof config, "%s/config", now);
	snprintf(weights, sizeof weights, "%s/weights", now);
	lora__free(ctx, now);
	if (scratch_is(config, "old config", 10) && scratch_is(weights, old_bytes, sizeof old_bytes)) return OLD;
	if (scratch_is(config, "new config", 10) && scratch_is(weights, new_bytes, sizeof new_bytes)) return NEW;
	return NEITHER;
}

/* three ways in which a directory takes its place: names exchanged, two renames, nothing there before */
enum { EXCHANGE, TWO_STEPS, FRESH, N_WAYS };

static void prepare_dir(char *path, size_t size, int way)
{
	scratch_remove_tree(room.dir);
	mkdir(room.dir, 0700);
	snprintf(path, size, "%s", scratch_path(&room, "dir"));
	target = path;
	if (way != FRESH) make_old_dir(path);
}

START_TEST(dir_survives_every_fault)
{
	int                way = _i / N_DISTURBANCES;
	struct disturbance d = disturbances[_i % N_DISTURBANCES];
	faults             f;
	static char path[512];
	int                failed = 0;
	fill();
	for (long n = 1;; n++) {
		prepare_dir(path, sizeof path, way);
		faults_on(&f, n, d.kind, d.error, d.forever);
		f.no_exchange = way == TWO_STEPS;
		lora_status st = save_dir();
		faults_off(&f);
		int found = read_dir(path);
		ck_assert_msg(found == NEW || found == (way == FRESH ? ABSENT : OLD), "call %ld (%s): found %d", n, f.hit, found);
		if (must_fail(&f, d.error))
			ck_assert_msg(st, "call %ld (%s) failed, and the save says it went well", n, f.hit);
		ck_assert_msg(st ? st == LORA_E_IO : found == NEW, "call %ld (%s): status %s but found %d", n, f.hit, lora_status_name(st), found);
		if (st && !d.forever) ck_assert_msg(found != NEW || !strcmp(f.hit, "fsync folder"), "call %ld (%s) failed, and the directory is new", n, f.hit);
		if (way != FRESH && !d.forever) ck_assert_msg(lora__path_is_dir(path), "call %ld (%s): the directory lost its name", n, f.hit);
		/* only what could not be removed, and the old directory when the sync after the switch failed, may be left beside */
		int may_leave = d.forever || !f.hit || !strcmp(f.hit, "unlink") || !strcmp(f.hit, "rmdir") || !strcmp(f.hit, "fsync folder") ||
			!strcmp(f.hit, "rename");
		int entries = scratch_count(room.dir);
		if (f.hit && !may_leave) ck_assert_msg(entries == (found != ABSENT), "call %ld (%s): %d entries", n, f.hit, entries);
		if (!f.hit) ck_assert_int_eq(entries, 1);
		if (d.kind == FAULT_SHORT || (d.error == EINTR && f.hit && strncmp(f.hit, "fsync", 5)))
			ck_assert_msg(st == LORA_OK, "call %ld (%s): %s", n, f.hit, lora_context_last_error(ctx));
		failed += st != LORA_OK;
		check_ok(ctx, undisturbed(save_dir, way == TWO_STEPS)); /* and the next save works */
		ck_assert_int_eq(read_dir(path), NEW);
		if (!f.hit) break;
		ck_assert_int_lt(n, 100);
	}
	if (d.kind == FAULT_ERRNO) ck_assert_int_ge(failed, 2);
}
END_TEST

START_TEST(dir_survives_every_kill)
{
	faults f;
	static char path[512], previous[600];
	int    seen_old = 0, seen_new = 0;
	fill();
	for (long n = 1;; n++) {
		prepare_dir(path, sizeof path, _i);
		faults_on(&f, n, FAULT_KILL, 0, 0);
		f.no_exchange = _i == TWO_STEPS;
		int killed = faults_in_child(save_dir_void, NULL);
		faults_off(&f);
		int found = read_dir(path);
		ck_assert_msg(found == NEW || found == (_i == FRESH ? ABSENT : OLD), "killed before call %ld: found %d", n, found);
		seen_new += found == NEW, seen_old += found != NEW;
		check_ok(ctx, undisturbed(save_dir, _i == TWO_STEPS));
		ck_assert_int_eq(read_dir(path), NEW);
		snprintf(previous, sizeof previous, "%s.lora-previous", path);
		ck_assert_msg(!lora__path_exists(previous), "killed before call %ld: the next save leaves the previous directory", n);
		if (!killed) break;
		ck_assert_int_lt(n, 100);
	}
	ck_assert_msg(seen_old >= 8 && seen_new >= 2, "old %d, new %d", seen_old, seen_new);
}
END_TEST

START_TEST(dir_without_exchange_when_nothing_fails)
{
	static char path[512], name[600];
	fill();
	prepare_dir(path, sizeof path, TWO_STEPS);
	check_ok(ctx, undisturbed(save_dir, 1));
	ck_assert_int_eq(read_dir(path), NEW);
	ck_assert_int_eq(scratch_count(room.dir), 1);
	snprintf(name, sizeof name, "%s/sub", path);
	ck_assert(lora__path_is_dir(name));
}
END_TEST

/* Files of the old directory go, or stay with keep; its folders always stay. */
START_TEST(dir_carries_over)
{
	static char path[512], name[600];
	lora__dir   d;
	lora__piece p = { "n", 1 };
	fill();
	prepare_dir(path, sizeof path, EXCHANGE);
	snprintf(name, sizeof name, "%s/sub/deep", path);
	scratch_write(name, "d", 1);
	check_ok(ctx, lora__dir_begin(ctx, path, &d));
	d.keep = _i;
	check_ok(ctx, lora__dir_file(&d, "config", &p, 1));
	check_ok(ctx, lora__dir_commit(&d));
	ck_assert(scratch_is(name, "d", 1));
	snprintf(name, sizeof name, "%s/config", path);
	ck_assert(scratch_is(name, "n", 1));
	snprintf(name, sizeof name, "%s/stale", path);
	ck_assert_int_eq(lora__path_exists(name), _i);
	ck_assert_int_eq(scratch_count(path), _i ? 4 : 2);
	ck_assert_int_eq(scratch_count(room.dir), 1);
}
END_TEST

START_TEST(dir_through_a_link)
{
	static char path[512], link[512];
	struct stat s;
	fill();
	prepare_dir(path, sizeof path, EXCHANGE);
	snprintf(link, sizeof link, "%s/", scratch_path(&room, "link"));
	link[strlen(link) - 1] = 0;
	ck_assert_int_eq(symlink("dir", link), 0);
	target = link;
	check_ok(ctx, save_dir());
	ck_assert_int_eq(read_dir(path), NEW);
	ck_assert(lstat(link, &s) == 0 && S_ISLNK(s.st_mode));
	memcpy(path + strlen(path), "///", 4); /* trailing slashes */
	target = path;
	check_ok(ctx, save_dir());
}
END_TEST

START_TEST(dir_refuses)
{
	lora__dir   d;
	lora__piece p = { "n", 1 };
	const char *file = scratch_path(&room, "file"), *dir = scratch_path(&room, "dir");
	scratch_write(file, "f", 1);
	fails_with(LORA_E_IO, strerror(ENOTDIR), lora__dir_begin(ctx, file, &d));
	check_fails(LORA_E_ARGUMENT, lora__dir_begin(ctx, "", &d));
	fails_with(LORA_E_IO, strerror(ENOENT), lora__dir_begin(ctx, scratch_path(&room, "no/dir"), &d));
	check_ok(ctx, lora__dir_begin(ctx, dir, &d));
	static const char *const names[] = { "", ".", "..", "a/b", "/a" };
	for (size_t i = 0; i < 5; i++) check_fails(LORA_E_ARGUMENT, lora__dir_file(&d, names[i], &p, 1));
	check_fails(LORA_E_ARGUMENT, lora__dir_commit(&d)); /* the first failure is kept */
	ck_assert_int_eq(scratch_count(room.dir), 1);
	check_ok(ctx, lora__dir_begin(ctx, dir, &d));
	check_ok(ctx, lora__dir_file(&d, "a", &p, 1));
	fails_with(LORA_E_IO, strerror(EEXIST), lora__dir_file(&d, "a", &p, 1));
	lora__dir_abort(&d);
	ck_assert_int_eq(scratch_count(room.dir), 1);
}
END_TEST

START_TEST(dir_allocations)
{
	static char path[512];
	fill();
	for (int forever = 0; forever < 2; forever++)
		for (long n = 1;; n++) {
			prepare_dir(path, sizeof path, EXCHANGE);
			check_alloc_arm(&ca, n, forever);
			lora_status st = save_dir();
			int         hit = ca.failures > 0;
			check_alloc_arm(&ca, 0, 0);
			ck_assert_int_eq(st, hit ? LORA_E_MEMORY : LORA_OK);
			ck_assert_int_eq(read_dir(path), hit ? OLD : NEW);
			ck_assert_int_eq(scratch_count(room.dir), 1);
			if (!hit) break;
		}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("file");
	TCase *t = tcase_create("file");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, reads_map_and_heap);
	tcase_add_test(t, refuses_what_is_no_regular_file);
	tcase_add_test(t, joins_paths);
	tcase_add_loop_test(t, file_survives_every_fault, 0, N_DISTURBANCES);
	tcase_add_test(t, file_survives_every_kill);
	tcase_add_test(t, file_replace_refuses);
	tcase_add_test(t, mapped_source_survives_replace);
	tcase_add_test(t, file_replace_allocations);
	tcase_add_loop_test(t, dir_survives_every_fault, 0, N_WAYS * N_DISTURBANCES);
	tcase_add_loop_test(t, dir_survives_every_kill, 0, N_WAYS);
	tcase_add_test(t, dir_without_exchange_when_nothing_fails);
	tcase_add_loop_test(t, dir_carries_over, 0, 2);
	tcase_add_test(t, dir_through_a_link);
	tcase_add_test(t, dir_refuses);
	tcase_add_test(t, dir_allocations);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
