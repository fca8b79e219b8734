/* lora hub, driven as a user does: what it keeps and tells, names and indexes from strangers, several processes at once, and processes that are killed
 * before each system call that changes something. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/run.h"

#define SMALL GOLDEN "peft/combine-ties_svd-frequency/a"
#define OTHER GOLDEN "peft/combine-ties_svd-frequency/b"

static int hub(const char *what, const char *rest) { return run_lora("hub %s '%s' %s", what, in_scratch("hub"), rest); }

static json_t *row_named(const char *name)
{
	ck_assert_int_eq(hub("list", "--json"), 0);
	for (int i = 0; i < out_lines(); i++) {
		json_t *o = out_json(i);
		if (!strcmp(json_string_value(json_object_get(o, "name")), name)) return o;
		json_decref(o);
	}
	return NULL;
}

static const char *text_in(json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

/* --- what is kept --- */

START_TEST(facts)
{
	ck_assert_int_eq(run_shell("cp -r " SMALL " '%s' && printf abc >'%s/README.md'", in_scratch("src"), in_scratch("src")), 0);
	expect_error(hub("list", ""), 1, "no such directory");
	ck_assert_int_eq(run_lora("hub add '%s' '%s/' -m " MODEL " -s task='counts 100%% of_it' -s license=MIT -s note=short -s metric.accuracy=0.75 -s metric.loss=1e-3 --json", in_scratch("hub"),
						 in_scratch("src")), 0);
	ck_assert_int_eq(hub("add", OTHER " -s name='Zwölf ö' -s base=elsewhere --quiet"), 0);
	json_t *o = row_named("src"), *files = json_object_get(o, "files"), *v;
	const char *file;
	ck_assert_str_eq(text_in(o, "task"), "counts 100% of_it");
	ck_assert_str_eq(text_in(o, "license"), "MIT");
	ck_assert_str_eq(text_in(o, "method"), "lora");
	ck_assert_int_eq(json_integer_value(json_object_get(o, "rank")), 2);
	ck_assert(json_number_value(json_object_get(json_object_get(o, "metrics"), "accuracy")) == 0.75 && json_number_value(json_object_get(json_object_get(o, "metrics"), "loss")) == 0.001);
	ck_assert(strlen(text_in(o, "base_sha256")) == 64 && strlen(text_in(o, "added")) == 20 && json_integer_value(json_object_get(o, "parameters")) > 0);
	ck_assert(json_object_size(files) == 3 && json_object_get(files, "README.md"));
	json_object_foreach(files, file, v)
	{
		ck_assert_int_eq(run_shell("printf '%%s  %%s\\n' %s '%s/%s' | sha256sum -c", text_in(v, "sha256"), text_in(o, "path"), file), 0);
		ck_assert_int_eq(run_shell("cmp '%s/%s' '%s/%s'", in_scratch("src"), file, text_in(o, "path"), file), 0);
	}
	ck_assert_int_eq(run_shell("printf '%%s  " MODEL "/model.safetensors\\n' %s | sha256sum -c", text_in(o, "base_sha256")), 0);
	ck_assert_int_eq(run_lora("score -m " MODEL " -a '%s' -i " IO, text_in(o, "path")), 0);
	json_decref(o);
	/* words are found as they are: % and _ mean themselves; all of them must be there */
	static const struct { const char *words; int n; } searches[] = { { "100%", 1 }, { "f_i", 1 }, { "fxi", 0 }, { "lora", 2 }, { "MIT COUNTS", 1 }, { "MIT elsewhere", 0 }, { "elsewhere", 1 }, { "\"'\" ", 0 },
		{ "\\\\", 0 }, { "Zw", 1 } };
	for (size_t i = 0; i < sizeof searches / sizeof *searches; i++) {
		char words[100];
		snprintf(words, sizeof words, "--json %s", searches[i].words);
		ck_assert_int_eq(hub("search", words), 0);
		ck_assert_msg(out_lines() == searches[i].n, "%s: %d", words, out_lines());
	}
	ck_assert_int_eq(hub("list", ""), 0);
	ck_assert(out_lines() == 3 && strstr(run_out, "accuracy 0.75") && strstr(run_out, "Zw"));
	expect_error(hub("add", OTHER " -s name=src"), 1, "already");
	ck_assert_int_eq(hub("remove", "src --json"), 0);
	expect_error(hub("remove", "src"), 1, "not in the hub");
	ck_assert_int_eq(hub("verify", "--json"), 0);
	o = out_json(0);
	ck_assert(json_is_true(json_object_get(o, "ok")) && json_integer_value(json_object_get(o, "adapters")) == 1 && files_in(in_scratch("hub/adapters")) == 1);
	json_decref(o);
	ck_assert_int_eq(run_lora("hub add '%s' '%s'", in_scratch("hub"), in_scratch("src")), 0); /* the name is free again */
}
END_TEST

/* FIPS 180-4 by NIST's examples: what the index says of a file that holds the message. */
START_TEST(nist)
{
	static const struct { const char *make, *sum; } cases[] = {
		{ "printf ''", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
		{ "printf abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
		{ "printf abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
		{ "printf abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
			"cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1" },
		{ "head -c 1000000 /dev/zero | tr '\\0' a", "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0" },
	};
	ck_assert_int_eq(run_shell("cp -r " SMALL " '%s'", in_scratch("nist")), 0);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		ck_assert_int_eq(run_shell("%s >'%s/README.md'", cases[i].make, in_scratch("nist")), 0);
		ck_assert_int_eq(run_lora("hub add '%s' '%s' -s name=n%zu --json", in_scratch("nisthub"), in_scratch("nist"), i), 0);
		json_t *o = out_json(0);
		ck_assert_str_eq(text_in(json_object_get(json_object_get(o, "files"), "README.md"), "sha256"), cases[i].sum);
		json_decref(o);
	}
}
END_TEST

/* --- what strangers bring --- */

START_TEST(names)
{
	static const char *const bad[] = { "''", "..", ".", "a/b", "../../x", ".new-x", "-x", "\"$(printf 'a\\377b')\"", "\"$(printf 'a\\nb')\"", "\"$(printf 'a\\033[2Jb')\"",
		"\"$(printf '%0101d' 0)\"", "/etc/passwd" };
	static const char *const odd[] = { "\"x'; DROP TABLE adapters;--\"", "\"%\"", "\"a b\"", "\"\\\"\"", "\"$(printf '%0100d' 0)\"", "NULL", "\"ümläut\"" };
	char line[300];
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		snprintf(line, sizeof line, SMALL " -s name=%s", bad[i]);
		if (strcmp(bad[i], "''")) expect_error(hub("add", line), 2, "name");
		snprintf(line, sizeof line, "-- %s", bad[i]);
		ck_assert_msg(!exists(in_scratch("hub")) || hub("remove", line) == 2, "removed %s: %s", bad[i], run_err);
	}
	ck_assert(!exists(in_scratch("hub"))); /* refused before anything is made */
	for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
		snprintf(line, sizeof line, SMALL " -s name=%s", odd[i]);
		ck_assert_msg(hub("add", line) == 0, "%s: %s", odd[i], run_err);
	}
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		snprintf(line, sizeof line, "-- %s", bad[i]);
		expect_error(hub("remove", line), 2, "name");
	}
	ck_assert_int_eq(hub("list", "--json"), 0);
	ck_assert_int_eq(out_lines(), 7);
	for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) ck_assert_msg(hub("remove", odd[i]) == 0, "%s: %s", odd[i], run_err);
	ck_assert(files_in(in_scratch("hub/adapters")) == 0);
	expect_error(hub("add", SMALL " -s taks=1"), 2, "did you mean task");
	expect_error(hub("add", SMALL " -s metric.x=abc"), 2, "not a number");
	expect_error(hub("add", SMALL " -s note=\"$(printf 'a\\033b')\""), 2, "control");
	expect_error(hub("add", MODEL), 1, "adapter_config.json");
	expect_error(hub("add", "README.md"), 1, "neither");
	expect_error(hub("ad", ""), 2, "did you mean add");
	expect_error(hub("add", ""), 2, "usage");
	expect_error(hub("add", SMALL " -m examples/demo/model"), 1, "lora"); /* it does not fit that model */
	ck_assert(files_in(in_scratch("hub/adapters")) == 0);
}
END_TEST

static void patch(const char *path, long at, const char *bytes, size_t n)
{
	int fd = open(path, O_RDWR);
	ck_assert(fd >= 0 && pwrite(fd, bytes, n, at) == (ssize_t)n);
	close(fd);
}

static void replace_all(const char *path, const char *from, const char *to)
{
	size_t n, m = strlen(from), hits = 0;
	char *text = read_text(path, &n);
	for (size_t i = 0; i + m <= n; i++)
		if (!memcmp(text + i, from, m)) patch(path, (long)i, to, m), hits++;
	free(text);
	ck_assert(hits > 0);
}

START_TEST(foreign_indexes)
{
	char index[700];
	snprintf(index, sizeof index, "%s", in_scratch("hub/index.sqlite"));
	ck_assert_int_eq(hub("add", SMALL), 0);
	ck_assert_int_eq(run_shell("cp '%s' '%s'", index, in_scratch("good")), 0);
	static const struct { const char *make, *says; } cases[] = {
		{ "echo this is no database, whatever its name may be >'%s'", "not an SQLite database" },
		{ "head -c 5000 /dev/urandom >'%s'", "not an SQLite database" },
		{ "truncate -s 4096 '%s'", "damaged" },
		{ "printf 'zzzz' | dd of='%s' bs=1 seek=68 conv=notrunc", "not the index of a hub" },
		{ "printf '\\0\\0\\0\\7' | dd of='%s' bs=1 seek=60 conv=notrunc", "version 7" },
		{ "head -c 4096 /dev/zero | tr '\\0' x | dd of='%s' bs=4096 seek=1 conv=notrunc", "damaged" },
		{ "sed -i 's/CREATE TABLE adapters(name/CREATE TABLE abapters(name/' '%s'", "damaged" },
		{ "rm '%s'", "no hub" },
		{ "rm '%s'; mkdir \"$(readlink -f '%1$s' || echo '%1$s')\"", "directory" },
	};
	for (size_t i = 0; i + 1 < sizeof cases / sizeof *cases; i++) {
		ck_assert_int_eq(run_shell("cp '%s' '%s'", in_scratch("good"), index), 0);
		char command[800];
		snprintf(command, sizeof command, "%s", cases[i].make);
		ck_assert_int_eq(run_shell(command, index), 0);
		int got = hub("list", "");
		ck_assert_msg(got == 1, "case %zu: %s", i, cases[i].says);
		expect_error(got, 1, cases[i].says);
		expect_error(hub("verify", ""), 1, cases[i].says);
		ck_assert(strstr(cases[i].make, "rm") || hub("add", OTHER) == 1);
	}
	ck_assert_int_eq(run_shell("rm -f '%s'; mkdir '%s'", index, index), 0);
	expect_error(hub("list", ""), 1, "directory");
	/* a folder with other things in it is nobody's hub */
	ck_assert_int_eq(run_shell("mkdir '%s' && echo x >'%s/x'", in_scratch("full"), in_scratch("full")), 0);
	expect_error(run_lora("hub add '%s' " SMALL, in_scratch("full")), 1, "other things");
	expect_error(run_lora("hub add '%s/x' " SMALL, in_scratch("full")), 1, "directory");
	ck_assert(files_in(in_scratch("full")) == 1);
}
END_TEST

/* Names in an index that somebody else has written lead nowhere. */
START_TEST(tampered)
{
	ck_assert_int_eq(hub("add", SMALL " -s name=0123456789ab"), 0);
	ck_assert_int_eq(hub("add", OTHER " -s name=sound"), 0);
	write_text(in_scratch("victim"), "x");
	replace_all(in_scratch("hub/index.sqlite"), "0123456789ab", "../../victim");
	ck_assert_int_eq(hub("list", "--json"), 0);
	json_t *o = out_json(0);
	ck_assert(json_is_null(json_object_get(o, "path")));
	json_decref(o);
	ck_assert_int_eq(hub("verify", ""), 1);
	ck_assert(strstr(run_out, "../../victim"));
	ck_assert_int_eq(hub("verify", "--force"), 0);
	ck_assert(exists(in_scratch("victim")) && exists(in_scratch("hub/adapters/sound/hub.json")));
	ck_assert_int_eq(hub("list", "--json"), 0);
	ck_assert_int_eq(out_lines(), 1);
	replace_all(in_scratch("hub/index.sqlite"), "adapter_config.json", "../../../../x_y_z_w");
	ck_assert_int_eq(hub("verify", ""), 1);
	ck_assert(strstr(run_out, "none that a hub keeps"));
}
END_TEST

START_TEST(damage)
{
	for (int i = 0; i < 4; i++) ck_assert_int_eq(run_lora("hub add '%s' " SMALL " -s name=a%d", in_scratch("hub"), i), 0);
	ck_assert_int_eq(hub("verify", ""), 0);
	patch(in_scratch("hub/adapters/a1/adapter_model.safetensors"), 700, "?", 1);
	ck_assert_int_eq(run_shell("rm -r '%s' && rm '%s' && mkdir '%s' && cp -r '%s' '%s' && mkdir '%s'", in_scratch("hub/adapters/a2"), in_scratch("hub/adapters/a3/adapter_config.json"),
						 in_scratch("hub/adapters/mine"), in_scratch("hub/adapters/a0"), in_scratch("hub/adapters/left"), in_scratch("hub/adapters/.new-abc")), 0);
	ck_assert_int_eq(hub("verify", "--json --quiet"), 1);
	json_t *o = out_json(0), *bad = json_object_get(o, "damaged");
	ck_assert(json_is_false(json_object_get(o, "ok")) && json_array_size(bad) == 3);
	ck_assert(strstr(text_in(json_array_get(bad, 0), "problem"), "changed") && strstr(text_in(json_array_get(bad, 1), "problem"), "missing"));
	ck_assert(json_array_size(json_object_get(o, "orphans_removed")) == 1 && json_array_size(json_object_get(o, "foreign")) == 1);
	json_decref(o);
	ck_assert(exists(in_scratch("hub/adapters/mine")) && !exists(in_scratch("hub/adapters/left")) && !exists(in_scratch("hub/adapters/.new-abc")));
	ck_assert_int_eq(hub("verify", "--force"), 0);
	ck_assert_int_eq(hub("verify", "--quiet"), 0);
	ck_assert_int_eq(hub("list", "--json"), 0);
	ck_assert_int_eq(out_lines(), 1);
	ck_assert(files_in(in_scratch("hub/adapters")) == 2); /* a0 and mine */
}
END_TEST

/* --- several at once, and killed --- */

static pid_t start(char *const *arguments)
{
	char *argv[12] = { (char *)(uintptr_t)"lora", (char *)(uintptr_t)"hub", (char *)(uintptr_t)"--threads", (char *)(uintptr_t)"1" };
	for (int i = 0; i < 7 && arguments[i]; i++) argv[4 + i] = arguments[i];
	return start_lora("log", argv);
}

#define WORDS(...) (char *[]) { __VA_ARGS__, NULL }
#define WORD(text) ((char *)(uintptr_t)(text))

START_TEST(at_once)
{
	enum { PROCESSES = 6, EACH = 6 };
	static char name[PROCESSES][32];
	int won = 0, status;
	char place[700];
	snprintf(place, sizeof place, "%s", in_scratch("hub"));
	for (int round = 0; round < EACH; round++) {
		pid_t all[PROCESSES];
		for (int p = 0; p < PROCESSES; p++) { /* in the last round all want the same name */
			snprintf(name[p], sizeof name[p], "name=p%d-%d", round == EACH - 1 ? 9 : p, round);
			all[p] = start(WORDS(WORD("add"), place, WORD(SMALL), WORD("-s"), name[p]));
		}
		for (int p = 0; p < PROCESSES; p++) {
			ck_assert(waitpid(all[p], &status, 0) == all[p] && WIFEXITED(status));
			ck_assert_msg(round == EACH - 1 || WEXITSTATUS(status) == 0, "process %d of round %d failed", p, round);
			won += round == EACH - 1 && WEXITSTATUS(status) == 0;
		}
	}
	ck_assert_int_eq(won, 1);
	ck_assert_int_eq(hub("list", "--json"), 0);
	ck_assert_int_eq(out_lines(), PROCESSES * (EACH - 1) + 1);
	/* adding, removing and verifying side by side */
	for (int round = 0; round < 4; round++) {
		pid_t all[4] = { start(WORDS(WORD("add"), place, WORD(SMALL), WORD("-s"), WORD("name=back"))), start(WORDS(WORD("remove"), place, WORD("back"))),
			start(WORDS(WORD("verify"), place)), start(WORDS(WORD("list"), place)) };
		for (int p = 0; p < 4; p++) {
			ck_assert(waitpid(all[p], &status, 0) == all[p] && WIFEXITED(status));
			ck_assert_msg(p < 2 || WEXITSTATUS(status) == 0, "verify or list failed beside others");
		}
	}
	ck_assert_int_eq(hub("verify", "--json"), 0);
	json_t *o = out_json(0);
	ck_assert(!json_array_size(json_object_get(o, "orphans_removed")));
	json_decref(o);
	ck_assert_int_eq(files_in(in_scratch("hub/adapters")) - exists(in_scratch("hub/adapters/back")), PROCESSES * (EACH - 1) + 1);
}
END_TEST

static int changes_something(uint64_t nr)
{
	static const long calls[] = { SYS_write, SYS_pwrite64, SYS_fsync, SYS_fdatasync, SYS_ftruncate, SYS_openat, SYS_renameat2, SYS_unlinkat, SYS_mkdirat, SYS_renameat,
#ifdef SYS_rename
		SYS_rename, SYS_unlink, SYS_mkdir, SYS_rmdir, SYS_chmod, SYS_open,
#endif
	};
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
		if (nr == (uint64_t)calls[i]) return 1;
	return 0;
}

/* Run lora and kill it before its n-th system call that may change something; 1 killed, 0 it came to its end, -1 there is no tracing here. */
static int run_killed(long n, char *const *arguments)
{
	int status, log;
	pid_t pid = fork();
	if (!pid) {
		char *argv[12] = { WORD("lora"), WORD("hub"), WORD("--threads"), WORD("1") };
		for (int i = 0; i < 7 && arguments[i]; i++) argv[4 + i] = arguments[i];
		log = open("/dev/null", O_RDWR);
		dup2(log, 0), dup2(log, 1), dup2(log, 2);
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) _exit(99);
		execv(lora_program(), argv);
		_exit(127);
	}
	ck_assert(waitpid(pid, &status, 0) == pid);
	if (!WIFSTOPPED(status)) return -1;
	if (ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)(uintptr_t)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL))) {
		kill(pid, SIGKILL), waitpid(pid, &status, 0);
		return -1;
	}
	for (int signal = 0; !ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(uintptr_t)signal) && waitpid(pid, &status, 0) == pid;) {
		struct __ptrace_syscall_info info;
		if (WIFEXITED(status) || WIFSIGNALED(status)) return 0;
		signal = WSTOPSIG(status) == (SIGTRAP | 0x80) || WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
		if (WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
		if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, (void *)sizeof info, &info) <= 0) break;
		if (info.op != PTRACE_SYSCALL_INFO_ENTRY || !changes_something(info.entry.nr) || --n > 0) continue;
		kill(pid, SIGKILL);
		ck_assert(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
		return 1;
	}
	kill(pid, SIGKILL), waitpid(pid, &status, 0);
	return -1;
}

static const char *const killing[] = { "add to a new hub", "add", "remove", "verify" };

/* After each kill the index opens, nothing half-added is seen, verify finds all in order and clears up, and the same command then does its work. */
START_TEST(killed)
{
	int there = 0, had = 0, rc;
	long step = getenv("LORA_QUICK") ? 7 : 1, kills = 0;
	char place[700];
	snprintf(place, sizeof place, "%s", in_scratch("hub")); /* in_scratch() uses its room again */
	char *const *what = _i < 2 ? WORDS(WORD("add"), place, WORD(SMALL), WORD("-s"), WORD("name=new")) :
		_i == 2                ? WORDS(WORD("remove"), place, WORD("new")) :
								 WORDS(WORD("verify"), place);
	if (_i) ck_assert_int_eq(hub("add", OTHER " -s name=old"), 0);
	for (long n = 1;; n += step) {
		if (_i == 2 && !there) ck_assert_int_eq(hub("add", SMALL " -s name=new"), 0);
		if (_i == 3) ck_assert_int_eq(run_shell("cp -r '%s' '%s' && mkdir '%s'", in_scratch("hub/adapters/old"), in_scratch("hub/adapters/orphan"), in_scratch("hub/adapters/.gone-x")), 0);
		had = _i == 2;
		rc = run_killed(n, what);
		if (rc < 0) {
			fprintf(stderr, "SKIP killed, %s: no tracing of system calls here\n", killing[_i]);
			return;
		}
		int listed = hub("list", "--json");
		if (_i == 0 && listed) { /* killed before there was a hub */
			ck_assert_msg(rc == 1 && (strstr(run_err, "no such directory") || strstr(run_err, "no hub")), "call %ld: %s", n, run_err);
			there = 0;
		} else {
			json_t *o = listed ? NULL : row_named("new");
			ck_assert_msg(listed == 0, "%s, call %ld: list: %s", killing[_i], n, run_err);
			there = o != NULL;
			json_decref(o);
			ck_assert_msg(hub("verify", "") == 0, "%s, call %ld: verify: %s", killing[_i], n, run_err);
			ck_assert_msg(files_in(in_scratch("hub/adapters")) == there + (_i > 0), "%s, call %ld: something is left", killing[_i], n);
		}
		if (!rc) break; /* it came to its end */
		kills++;
		if (there && _i < 2) ck_assert_int_eq(hub("remove", "new"), 0);
		if (_i == 0) ck_assert_int_eq(run_shell("rm -rf '%s'", in_scratch("hub")), 0);
		if (_i == 1) { /* and without a verify in between the next add does its work, too */
			run_killed(n, what);
			ck_assert_msg(hub("add", SMALL " -s name=new") == 0 || strstr(run_err, "already"), "call %ld: %s", n, run_err);
			ck_assert_int_eq(hub("remove", "new"), 0);
		}
	}
	ck_assert(_i == 3 || there == (_i < 2));
	ck_assert_msg(kills * step > 20, "only %ld kills", kills);
	(void)had;
}
END_TEST

/* --- composing --- */

static void write_data(const char *path)
{
	int32_t ids[2 * 3 * 10];
	uint32_t x = 7;
	for (int i = 0; i < 60; i++) x = x * 1664525u + 1013904223u, ids[i] = (int32_t)(x >> 24) % 90 + 3;
	write_ids(path, "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[2,3,10],\"data_offsets\":[0,240]}}", ids, 60);
}

static double number(json_t *o, const char *key)
{
	json_t *v = json_object_get(o, key);
	ck_assert_msg(json_is_number(v), "no number %s", key);
	return json_number_value(v);
}

START_TEST(composed)
{
	write_data(in_scratch("d.safetensors"));
	ck_assert_int_eq(hub("add", SMALL " -s name=a -m " MODEL), 0);
	ck_assert_int_eq(hub("add", GOLDEN "peft/combine-ties_svd-frequency/c -s name=c"), 0);
	ck_assert_int_eq(run_lora("hub compose '%s' a c -m " MODEL " -d '%s' -o '%s' --type linear -s budget=60 -s l1=0 --seed 3 --json --quiet", in_scratch("hub"), in_scratch("d.safetensors"),
						 in_scratch("made")), 0);
	json_t *o = out_json(0), *w = json_object_get(o, "weights");
	double loss = number(o, "loss"), wa = json_number_value(json_object_get(json_array_get(w, 0), "weight")), wc = json_number_value(json_object_get(json_array_get(w, 1), "weight"));
	ck_assert(loss < number(o, "start_loss") && number(o, "evaluations") == 60 && number(o, "adapters") == 2 && json_array_size(w) == 2);
	ck_assert_str_eq(text_in(o, "search"), "cmaes");
	json_decref(o);
	/* the adapter that was written has that loss, and is what combine makes of these weights */
	ck_assert_int_eq(run_lora("eval -m " MODEL " -a '%s' -d '%s' --json --quiet", in_scratch("made"), in_scratch("d.safetensors")), 0);
	o = out_json(0);
	ck_assert_msg(fabs(number(o, "loss") - loss) < 1e-6, "%.9g, not %.9g", number(o, "loss"), loss);
	json_decref(o);
	ck_assert_int_eq(run_lora("combine -a " SMALL "=%.17g -a " GOLDEN "peft/combine-ties_svd-frequency/c=%.17g -m " MODEL " -o '%s'", wa, wc, in_scratch("same")), 0);
	ck_assert_int_eq(run_shell("cmp '%s/adapter_model.safetensors' '%s/adapter_model.safetensors'", in_scratch("same"), in_scratch("made")), 0);
	/* combine -d searches the same way; the seed decides */
	ck_assert_int_eq(run_lora("combine -a " SMALL " -a " GOLDEN "peft/combine-ties_svd-frequency/c -m " MODEL " -d '%s' -o '%s' --type linear -s budget=60 -s l1=0 --seed 3 --quiet",
						 in_scratch("d.safetensors"), in_scratch("same2")), 0);
	ck_assert_int_eq(run_shell("cmp '%s/adapter_model.safetensors' '%s/adapter_model.safetensors'", in_scratch("same2"), in_scratch("made")), 0);
}
END_TEST

/* Adapters of another base are left out, or refused where they are named; so are those that cannot be added up. */
START_TEST(chosen)
{
	write_data(in_scratch("d.safetensors"));
	ck_assert_int_eq(run_lora("merge -m " MODEL " -a " SMALL " -o '%s'", in_scratch("base2")), 0);
	ck_assert_int_eq(hub("add", SMALL " -s name=a -m " MODEL), 0);
	ck_assert_int_eq(run_lora("hub add '%s' " SMALL " -s name=b -m '%s'", in_scratch("hub"), in_scratch("base2")), 0);
	ck_assert_int_eq(hub("add", SMALL " -s name=unknown"), 0);
	/* one that cannot be opened here */
	ck_assert_int_eq(run_shell("sed 's/\"r\": 2/\"r\": 2, \"use_dora\": 1.5/' " SMALL "/adapter_config.json >'%s'; cp -r " SMALL " '%s' && cp '%s' '%s/adapter_config.json'", in_scratch("config"),
						 in_scratch("odd"), in_scratch("config"), in_scratch("odd")), 0);
	ck_assert_int_eq(run_lora("hub add '%s' '%s'", in_scratch("hub"), in_scratch("odd")), 0);
	ck_assert_int_eq(run_lora("hub compose '%s' -m " MODEL " -d '%s' -o '%s' -s budget=9 --json --quiet", in_scratch("hub"), in_scratch("d.safetensors"), in_scratch("made")), 0);
	json_t *o = out_json(0), *skipped = json_object_get(o, "skipped");
	ck_assert(json_array_size(json_object_get(o, "weights")) == 2 && json_array_size(skipped) == 2 && !strcmp(json_string_value(json_array_get(skipped, 0)), "b") &&
			  !strcmp(json_string_value(json_array_get(skipped, 1)), "odd"));
	expect_error(run_lora("hub compose '%s' a odd -m " MODEL " -d '%s' -o '%s'", in_scratch("hub"), in_scratch("d.safetensors"), in_scratch("no")), 1, "odd");
	ck_assert_str_eq(text_in(o, "type"), "lorahub");
	json_decref(o);
	expect_error(run_lora("hub compose '%s' a b -m " MODEL " -d '%s' -o '%s'", in_scratch("hub"), in_scratch("d.safetensors"), in_scratch("no")), 1, "another base");
	expect_error(run_lora("hub compose '%s' a a -m " MODEL " -d '%s' -o '%s'", in_scratch("hub"), in_scratch("d.safetensors"), in_scratch("no")), 2, "twice");
	expect_error(run_lora("hub compose '%s' nobody -m " MODEL " -d '%s' -o '%s'", in_scratch("hub"), in_scratch("d.safetensors"), in_scratch("no")), 1, "not in the hub");
	expect_error(run_lora("hub compose '%s' -m " MODEL " -d '%s' -o '%s' -s bugdet=9", in_scratch("hub"), in_scratch("d.safetensors"), in_scratch("no")), 2, "did you mean budget");
	expect_error(run_lora("hub compose '%s' -m " MODEL " -d '%s' -o '%s' -s search=cmeas", in_scratch("hub"), in_scratch("d.safetensors"), in_scratch("no")), 2, "cmaes");
	expect_error(run_lora("hub compose '%s' -m " MODEL " -o '%s'", in_scratch("hub"), in_scratch("no")), 2, "-d");
	expect_error(run_lora("combine -a " SMALL "=2 -m " MODEL " -d '%s' -o '%s'", in_scratch("d.safetensors"), in_scratch("no")), 2, "searched");
	ck_assert_int_eq(run_lora("hub compose '%s' a b --force -m " MODEL " -d '%s' -o '%s' -s budget=9 --quiet", in_scratch("hub"), in_scratch("d.safetensors"), in_scratch("no")), 0);
	ck_assert_int_eq(run_lora("hub compose '%s' -s adapters=1 --seed 4 -m " MODEL " -d '%s' -o '%s' -s budget=9 --quiet --json", in_scratch("hub"), in_scratch("d.safetensors"), in_scratch("no")), 0);
	o = out_json(0);
	ck_assert(json_array_size(json_object_get(o, "weights")) == 1 && json_array_size(json_object_get(o, "weights")) == 1 && json_array_size(json_object_get(o, "skipped")) == 3);
	json_decref(o);
}
END_TEST

static void fresh(void)
{
	char command[600];
	snprintf(command, sizeof command, "rm -rf '%s'/*", scratch);
	ck_assert_int_eq(system(command), 0);
}

int main(void)
{
	scratch_make();
	Suite *s = suite_create("hub");
	TCase *t = tcase_create("hub");
	tcase_set_timeout(t, 240);
	tcase_add_checked_fixture(t, fresh, NULL);
	tcase_add_test(t, facts);
	tcase_add_test(t, nist);
	tcase_add_test(t, names);
	tcase_add_test(t, foreign_indexes);
	tcase_add_test(t, tampered);
	tcase_add_test(t, damage);
	tcase_add_test(t, at_once);
	tcase_add_loop_test(t, killed, 0, 4);
	tcase_add_test(t, composed);
	tcase_add_test(t, chosen);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	scratch_remove();
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
