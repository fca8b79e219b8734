/* Saving when the system refuses, and when the process dies: every public call that writes (model, adapter, optimizer, checkpoint) runs
 * once for each system call that it makes, with that call failing, and once more with the process killed right before it. Afterwards the
 * old content or the new content loads, never neither; after an error without a kill it is the old one, and nothing is left lying about.
 *
 * System calls go through lora__io_active (format/file.h), which is replaced here. LORA_TORTURE=all takes every n, LORA_QUICK a few. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/file.h"
#include "torture/torture.h"

enum fault { NOTHING, FAIL, KILL, SHORT };
enum op { OPEN, WRITE, FSYNC, CLOSE, RENAME, UNLINK, MKDIR, RMDIR, EXCHANGE };

static struct {
	const lora__io *real;
	enum fault      fault;
	long            at, calls; /* the call that goes wrong, counted from 1 */
	enum op         hit;       /* which one it was */
	int             no_exchange; /* as on a file system that can't exchange names */
} plan;

/* 1 when this call must fail. */
static int wrong(enum op op)
{
	if (++plan.calls != plan.at) return 0;
	plan.hit = op;
	if (plan.fault == KILL) _exit(9);
	if (plan.fault != FAIL) return 0;
	errno = op == WRITE ? ENOSPC : EIO;
	return 1;
}

static int io_open(void *user, const char *path, int flags, int mode) { return wrong(OPEN) ? -1 : plan.real->open(user, path, flags, mode); }
static int64_t io_write(void *user, int fd, const void *p, size_t n)
{
	if (wrong(WRITE)) return -1;
	return plan.real->write(user, fd, p, plan.fault == SHORT && n > 64 ? n / 2 : n);
}
static int io_fsync(void *user, int fd) { return wrong(FSYNC) ? -1 : plan.real->fsync(user, fd); }
static int io_close(void *user, int fd)
{
	int bad = wrong(CLOSE), rc = plan.real->close(user, fd); /* a close that reports an error has closed all the same */
	return bad ? (errno = EIO, -1) : rc;
}
static int io_rename(void *user, const char *from, const char *to) { return wrong(RENAME) ? -1 : plan.real->rename(user, from, to); }
static int io_unlink(void *user, const char *path) { return wrong(UNLINK) ? -1 : plan.real->unlink(user, path); }
static int io_mkdir(void *user, const char *path, int mode) { return wrong(MKDIR) ? -1 : plan.real->mkdir(user, path, mode); }
static int io_rmdir(void *user, const char *path) { return wrong(RMDIR) ? -1 : plan.real->rmdir(user, path); }
static int io_exchange(void *user, const char *a, const char *b)
{
	if (wrong(EXCHANGE)) return -1;
	return plan.no_exchange ? (errno = ENOSYS, -1) : plan.real->exchange(user, a, b);
}

static lora__io faulty = { io_open, io_write, io_fsync, io_close, io_rename, io_unlink, io_mkdir, io_rmdir, io_exchange, NULL };

static void arm(enum fault fault, long at)
{
	if (!plan.real) plan.real = lora__io_active, faulty.user = plan.real->user;
	plan.fault = fault, plan.at = at, plan.calls = 0;
	lora__io_active = &faulty;
}

static void disarm(void) { lora__io_active = plan.real; }

/* What is saved, and what is seen when it is loaded again. */
typedef struct kind {
	const char *name;
	lora_status (*save)(world *w, const char *path);
	lora_status (*load)(world *w, const char *path, uint64_t *digest);
} kind;

static void mix(uint64_t *h, const void *data, size_t n)
{
	for (const unsigned char *p = data, *end = p + n; p < end; p++) *h = (*h ^ *p) * 1099511628211u;
}

static lora_status digest_adapter(lora_adapter *a, uint64_t *digest)
{
	static float values[4096];
	*digest = 14695981039346656037u;
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
		lora_tensor_info t;
		TRY_FIRST(lora_adapter_tensor_info(a, i, &t));
		TRY_FIRST(lora_adapter_tensor_read(a, i, values, (size_t)t.bytes));
		mix(digest, values, (size_t)t.bytes);
	}
	return LORA_OK;
}

static lora_status save_adapter(world *w, const char *path) { return lora_adapter_save(w->a, path, NULL); }
static lora_status load_adapter(world *w, const char *path, uint64_t *digest)
{
	lora_adapter *a = NULL;
	TRY_FIRST(lora_adapter_open(w->model, path, NULL, &a));
	lora_status st = digest_adapter(a, digest);
	lora_adapter_destroy(a);
	return st;
}

static lora_status save_model(world *w, const char *path) { return lora_model_save(w->model, path, w->settings); }
static lora_status load_model(world *w, const char *path, uint64_t *digest)
{
	lora_model *m = NULL;
	TRY_FIRST(lora_model_open(w->ctx, path, NULL, &m));
	*digest = 14695981039346656037u;
	for (int64_t i = 0; i < lora_model_site_count(m); i++) {
		lora_site_info s = { .struct_size = sizeof s };
		if (lora_model_site_info(m, i, &s) == LORA_OK) mix(digest, s.data, (size_t)(s.out * s.in) * 2);
	}
	lora_model_destroy(m);
	return LORA_OK;
}

static lora_status save_optimizer(world *w, const char *path) { return lora_optimizer_save(w->optimizer, path); }
static lora_status load_optimizer(world *w, const char *path, uint64_t *digest)
{
	char            again[160], buf[4096];
	lora_optimizer *o = NULL;
	TRY_FIRST(lora_optimizer_create(w->a, "adamw", NULL, &o));
	snprintf(again, sizeof again, "%s/again", w->dir);
	lora_status st = lora_optimizer_load(o, path);
	if (st == LORA_OK) st = lora_optimizer_save(o, again);
	*digest = 14695981039346656037u;
	FILE *f = st == LORA_OK ? fopen(again, "rb") : NULL;
	for (size_t n; f && (n = fread(buf, 1, sizeof buf, f)) > 0;) mix(digest, buf, n);
	if (f) fclose(f), remove(again);
	lora_optimizer_destroy(o);
	return st;
}

static lora_status save_trainer(world *w, const char *path) { return lora_trainer_save(w->trainer, path, 5); }

/* Into a twin of the world's trainer, so that the world itself stays as it is. */
static lora_status load_trainer(world *w, const char *path, uint64_t *digest)
{
	static world twin;
	int64_t      cursor = 0;
	lora_status  st = world_make(&twin, w->needs & ~(unsigned)WITH_DIR);
	if (st == LORA_OK) st = lora_trainer_resume(twin.trainer, path, &cursor);
	if (st == LORA_OK) st = cursor == 5 ? digest_adapter(twin.a, digest) : LORA_E_INTERNAL;
	if (st) fprintf(stderr, "resume: %s\n", lora_context_last_error(twin.ctx));
	world_free(&twin);
	return st;
}

static const kind kinds[] = { { "lora_adapter_save", save_adapter, load_adapter }, { "lora_model_save", save_model, load_model },
	{ "lora_optimizer_save", save_optimizer, load_optimizer }, { "lora_trainer_save", save_trainer, load_trainer } };
enum { N_KINDS = sizeof kinds / sizeof *kinds, NEEDS = WITH_LLAMA | WITH_ADAPTER | WITH_SECOND | WITH_OPTIMIZER | WITH_TRAINER | WITH_DIR };

static void shell(const char *format, ...)
{
	char    line[600];
	va_list args;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	ck_assert_msg(system(line) == 0, "%s", line);
}

/* Names in the world's folder that nobody put there on purpose. */
static int strays(world *w)
{
	int  n = 0;
	DIR *d = opendir(w->dir);
	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.' ? strcmp(e->d_name, "old") && strcmp(e->d_name, "out") : e->d_name[1] && strcmp(e->d_name, "..")) n++;
	if (d) closedir(d);
	return n;
}

/* One save over the old content with one call going wrong; then what is there must load. */
static void attempt(world *w, const kind *k, enum fault fault, long n, uint64_t old, uint64_t new)
{
	char        path[128];
	lora_status st = LORA_OK;
	uint64_t    seen = 0;
	int         killed = 0;
	snprintf(path, sizeof path, "%s/out", w->dir);
	shell("rm -rf %s/out* %s/.out* && cp -r %s/old %s", w->dir, w->dir, w->dir, path);
	if (fault == KILL) {
		fflush(NULL);
		pid_t child = fork();
		if (child == 0) {
			arm(KILL, n);
			_exit(k->save(w, path) == LORA_OK ? 0 : 1);
		}
		int status;
		ck_assert(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
		killed = WEXITSTATUS(status) == 9;
		ck_assert_msg(killed || WEXITSTATUS(status) == 0, "%s: failed although no call did", k->name);
	} else {
		arm(fault, n);
		st = k->save(w, path);
		disarm();
	}
	lora_status loaded = k->load(w, path, &seen);
	ck_assert_msg(loaded == LORA_OK, "%s, %s at call %ld: nothing loads any more: %s: %s", k->name, fault == KILL ? "killed" : "error", n,
		lora_status_name(loaded), lora_context_last_error(w->ctx));
	ck_assert_msg(seen == old || seen == new, "%s, call %ld: what loads is neither the old nor the new content", k->name, n);
	if (fault == SHORT) ck_assert_msg(st == LORA_OK && seen == new, "%s: short writes were not continued: %s", k->name, lora_status_name(st));
	if (fault == FAIL) {
		ck_assert_msg(st == LORA_OK || st == LORA_E_IO, "%s, call %ld: %s", k->name, n, lora_status_name(st));
		/* A failed sync of the folder after the switch is reported, but the new content is in place; tidying up may also fail after it. */
		int after = plan.hit == FSYNC || plan.hit == CLOSE || plan.hit == UNLINK || plan.hit == RMDIR;
		ck_assert_msg(st != LORA_OK || seen == new, "%s, call %ld: success, but the old content", k->name, n);
		ck_assert_msg(st == LORA_OK || seen == old || after, "%s, call %ld: an error, but the new content", k->name, n);
		ck_assert_msg(after || !strays(w), "%s, call %ld: %d temporary names were left", k->name, n, strays(w));
	}
	if (st != LORA_OK || killed) { /* the next save works, whatever the last one left behind */
		st = k->save(w, path);
		ck_assert_msg(st == LORA_OK, "%s, after a fault at call %ld: %s: %s", k->name, n, lora_status_name(st), lora_context_last_error(w->ctx));
		ck_assert(k->load(w, path, &seen) == LORA_OK && seen == new);
	}
}

static void all_calls(int i, enum fault fault, int no_exchange)
{
	static world w;
	const kind  *k = &kinds[i];
	char         path[128];
	uint64_t     old, new, seed = check_seed(3) + (uint64_t)i;
	const char  *mode = getenv("LORA_TORTURE");
	lora_status  st = world_make(&w, NEEDS);
	ck_assert_msg(st == LORA_OK, "the world could not be built: %s: %s", lora_status_name(st), lora_context_last_error(w.ctx));
	check_ok(w.ctx, world_settings(&w, "{\"force\": true}", &w.settings));
	plan.no_exchange = no_exchange;

	snprintf(path, sizeof path, "%s/old", w.dir);
	check_ok(w.ctx, lora_trainer_step(w.trainer, &w.batch, NULL));
	check_ok(w.ctx, k->save(&w, path));
	check_ok(w.ctx, k->load(&w, path, &old));
	check_ok(w.ctx, lora_trainer_step(w.trainer, &w.batch, NULL));
	if (k->save == save_model) check_ok(w.ctx, lora_adapter_merge(w.b, NULL));
	snprintf(path, sizeof path, "%s/out", w.dir);
	shell("cp -r %s/old %s", w.dir, path);
	arm(NOTHING, 0);
	check_ok(w.ctx, k->save(&w, path));
	disarm();
	long n_calls = plan.calls;
	check_ok(w.ctx, k->load(&w, path, &new));
	ck_assert_msg(old != new, "%s: both states are the same, so this shows nothing", k->name);
	ck_assert_msg(n_calls > 3, "%s: only %ld calls go through lora__io", k->name, n_calls);

	long most = mode && !strcmp(mode, "all") ? n_calls : check_quick() ? 4 : 40;
	if (fault == SHORT) most = 1;
	for (long j = 0; j < most && j < n_calls; j++)
		attempt(&w, k, fault, most >= n_calls ? j + 1 : 1 + (long)(check_random(&seed) % (uint64_t)n_calls), old, new);
	world_free(&w);
	ck_assert_msg(check_alloc_clean(&w.ca), "%s: %ld blocks leaked", k->name, w.ca.live);
}

START_TEST(refused) { all_calls(_i, FAIL, 0); }
END_TEST
START_TEST(killed) { all_calls(_i, KILL, 0); }
END_TEST
START_TEST(short_writes) { all_calls(_i, SHORT, 0); }
END_TEST
START_TEST(refused_without_exchange) { all_calls(_i, FAIL, 1); }
END_TEST
START_TEST(killed_without_exchange) { all_calls(_i, KILL, 1); }
END_TEST

int main(void)
{
	Suite *s = suite_create("faults");
	TCase *t = tcase_create("faults");
	tcase_set_timeout(t, 600);
	tcase_add_loop_test(t, refused, 0, N_KINDS);
	tcase_add_loop_test(t, killed, 0, N_KINDS);
	tcase_add_loop_test(t, short_writes, 0, N_KINDS);
	tcase_add_loop_test(t, refused_without_exchange, 0, N_KINDS);
	tcase_add_loop_test(t, killed_without_exchange, 0, N_KINDS);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
