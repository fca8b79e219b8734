/* Running the lora program and looking at what comes out. */
#include "cli/run.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

char run_out[1 << 20], run_err[1 << 16];
char scratch[512];
static char program[1024];

void scratch_make(void)
{
	const char *base = getenv("TMPDIR");
	snprintf(scratch, sizeof scratch, "%s/lora-cli-XXXXXX", base && *base ? base : "/tmp");
	if (!mkdtemp(scratch)) perror("scratch folder");
}

void scratch_remove(void)
{
	char command[600];
	snprintf(command, sizeof command, "rm -rf '%s'", scratch);
	if (scratch[0] && system(command)) perror("scratch folder");
}

const char *in_scratch(const char *name)
{
	static char paths[8][700];
	static int next;
	char *p = paths[next++ % 8];
	snprintf(p, sizeof paths[0], "%s/%s", scratch, name);
	return p;
}

/* The program of the same build as this test: build/bin for the release flavour, build/<flavour>/bin for others. */
const char *lora_program(void)
{
	char self[512];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (program[0]) return program;
	ck_assert(n > 0);
	self[n] = 0;
	*strrchr(self, '/') = 0;
	static const char *const places[] = { "../bin/lora", "../../bin/lora" };
	for (size_t i = 0; i < 2; i++) {
		snprintf(program, sizeof program, "%s/%s", self, places[i]);
		if (!access(program, X_OK)) return program;
	}
	ck_abort_msg("no lora program beside %s", self);
	return NULL;
}

char *read_text(const char *path, size_t *n)
{
	struct stat s;
	int fd = open(path, O_RDONLY);
	ck_assert_msg(fd >= 0 && !fstat(fd, &s), "cannot open %s", path);
	char *text = calloc(1, (size_t)s.st_size + 1);
	size_t have = 0;
	for (ssize_t got; (got = read(fd, text + have, (size_t)s.st_size - have)) > 0;) have += (size_t)got;
	close(fd);
	if (n) *n = have;
	return text;
}

void write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "wb");
	ck_assert_msg(f != NULL, "cannot write %s", path);
	fputs(text, f);
	fclose(f);
}

static void take(const char *path, char *to, size_t size)
{
	char *text = read_text(path, NULL);
	snprintf(to, size, "%s", text);
	free(text);
}

static int status_of(int wait_status) { return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status); }

static int shell(const char *command)
{
	char whole[9000];
	snprintf(whole, sizeof whole, "{ %s ; } >'%s/out' 2>'%s/err' </dev/null", command, scratch, scratch);
	int status = status_of(system(whole));
	take(in_scratch("out"), run_out, sizeof run_out);
	take(in_scratch("err"), run_err, sizeof run_err);
	return status;
}

int run_shell(const char *format, ...)
{
	char command[4096];
	va_list list;
	va_start(list, format);
	vsnprintf(command, sizeof command, format, list);
	va_end(list);
	return shell(command);
}

int run_lora(const char *format, ...)
{
	char arguments[4096], command[6000];
	va_list list;
	va_start(list, format);
	vsnprintf(arguments, sizeof arguments, format, list);
	va_end(list);
	snprintf(command, sizeof command, "'%s' %s", lora_program(), arguments);
	return shell(command);
}

pid_t start_lora(const char *log, char *const argv[])
{
	const char *where = in_scratch(log), *what = lora_program();
	pid_t pid = fork();
	if (!pid) {
		int out = open(where, O_WRONLY | O_CREAT | O_TRUNC, 0666), null = open("/dev/null", O_RDWR);
		dup2(out, 1);
		dup2(null, 0);
		dup2(null, 2);
		execv(what, argv);
		_exit(127);
	}
	return pid;
}

void expect_error(int got, int status, const char *text)
{
	const char *end = strchr(run_err, '\n');
	ck_assert_msg(got == status, "exit status %d, expected %d; stderr: %s", got, status, run_err);
	ck_assert_msg(!strncmp(run_err, "lora: error: ", 13) && end && !end[1], "not exactly one error line: %s", run_err);
	ck_assert_msg(strstr(run_err, text) != NULL, "\"%s\" is not in: %s", text, run_err);
	ck_assert_msg(!run_out[0], "output on failure: %s", run_out);
}

int out_lines(void)
{
	int n = 0;
	for (const char *p = run_out; *p; p++) n += *p == '\n';
	return n;
}

json_t *out_json(int n)
{
	const char *p = run_out;
	for (; n > 0 && p; n--) p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL;
	if (!p || !*p) return NULL;
	json_error_t err;
	json_t *o = json_loadb(p, strcspn(p, "\n"), JSON_REJECT_DUPLICATES, &err);
	ck_assert_msg(json_is_object(o), "not a JSON object: %.*s", (int)strcspn(p, "\n"), p);
	return o;
}

int exists(const char *path) { return !access(path, F_OK); }

int same_file(const char *a, const char *b)
{
	size_t n, m;
	char *x = read_text(a, &n), *y = read_text(b, &m);
	int same = n == m && !memcmp(x, y, n);
	free(x);
	free(y);
	return same;
}

int files_in(const char *dir)
{
	int n = 0;
	DIR *d = opendir(dir);
	for (struct dirent *e; d && (e = readdir(d));) n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	if (d) closedir(d);
	return n;
}

/* ---- safetensors ---- */

void tensors_read(tensors *t, const char *path)
{
	size_t n;
	uint64_t length = 0;
	t->bytes = read_text(path, &n);
	ck_assert(n > 8);
	for (int i = 0; i < 8; i++) length |= (uint64_t)(unsigned char)t->bytes[i] << 8 * i;
	ck_assert(length <= n - 8);
	t->header = json_loadb(t->bytes + 8, (size_t)length, 0, NULL);
	ck_assert(t->header != NULL);
	t->data = t->bytes + 8 + length;
}

void tensors_free(tensors *t)
{
	json_decref(t->header);
	free(t->bytes);
}

int tensors_have(const tensors *t, const char *name) { return json_object_get(t->header, name) != NULL; }

int64_t tensors_count(const tensors *t, const char *name)
{
	json_t *n, *shape = json_object_get(json_object_get(t->header, name), "shape");
	size_t i;
	int64_t count = 1;
	json_array_foreach(shape, i, n) count *= json_integer_value(n);
	return count;
}

double tensors_at(const tensors *t, const char *name, int64_t i)
{
	json_t *o = json_object_get(t->header, name);
	ck_assert_msg(o != NULL, "no tensor %s", name);
	const char *dtype = json_string_value(json_object_get(o, "dtype"));
	const char *p = t->data + json_integer_value(json_array_get(json_object_get(o, "data_offsets"), 0));
	float f;
	double d;
	int64_t l;
	int32_t n;
	if (!strcmp(dtype, "F32")) return memcpy(&f, p + 4 * i, 4), f;
	if (!strcmp(dtype, "F64")) return memcpy(&d, p + 8 * i, 8), d;
	if (!strcmp(dtype, "I64")) return memcpy(&l, p + 8 * i, 8), (double)l;
	if (!strcmp(dtype, "I32")) return memcpy(&n, p + 4 * i, 4), n;
	ck_abort_msg("dtype %s", dtype);
	return 0;
}

void write_ids(const char *path, const char *header, const int32_t *values, size_t n)
{
	FILE *f = fopen(path, "wb");
	uint64_t length = strlen(header);
	ck_assert(f != NULL);
	for (int i = 0; i < 8; i++) fputc((int)(length >> 8 * i & 255), f);
	fputs(header, f);
	fwrite(values, sizeof *values, n, f);
	fclose(f);
}
