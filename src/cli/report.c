/* lora: what goes out: error lines, JSON lines, text, progress. Errors are exactly one line on stderr. */
#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static int quiet, json_mode;
static int output_errno; /* first error on stdout */
static int output_told;
static progress *shown; /* a bar now on the terminal */

void report_setup(const args *a)
{
	quiet = a->quiet;
	json_mode = a->json;
}

/* Escape what would break the line or the terminal. Bytes above 127 pass: they are UTF-8 or were meant so by whoever named the file. */
static void put_clean(FILE *to, const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p == '\n') fputs("\\n", to);
		else if (*p == '\t') fputs("\\t", to);
		else if (*p < 32 || *p == 127) fprintf(to, "\\x%02x", *p);
		else fputc(*p, to);
	}
}

static void clear_bar(void)
{
	if (shown && shown->drawn) fputs("\r\033[K", stderr);
}

static void put_line(const char *kind, const char *what, const char *message)
{
	clear_bar();
	flockfile(stderr);
	fprintf(stderr, "lora: %s: ", kind);
	/* a message of the library often begins with the path already, and one that was passed up through layers may do so twice */
	size_t n = what ? strlen(what) : 0;
	while (n && !strncmp(message, what, n) && message[n] == ':' && message[n + 1] == ' ' && message[n + 2]) message += n + 2;
	if (n && (strncmp(message, what, n) || message[n] != '/')) {
		put_clean(stderr, what);
		fputs(": ", stderr);
	}
	put_clean(stderr, message);
	fputc('\n', stderr);
	funlockfile(stderr);
}

int fail(int status, const char *what, const char *format, ...)
{
	char message[1024];
	va_list list;
	va_start(list, format);
	vsnprintf(message, sizeof message, format, list);
	va_end(list);
	put_line("error", what, message);
	return status;
}

int fail_system(const char *what, const char *doing) { return fail(FAILED, what, "%s: %s", doing, strerror(errno)); }

int fail_library(const lora_context *ctx, const char *what)
{
	const char *message = lora_context_last_error(ctx);
	return fail(FAILED, what, "%s", message && *message ? message : "failed");
}

int fail_memory(void) { return fail(FAILED, "memory", "not enough memory"); }

void warn(const char *what, const char *format, ...)
{
	char message[1024];
	va_list list;
	if (quiet) return;
	va_start(list, format);
	vsnprintf(message, sizeof message, format, list);
	va_end(list);
	put_line("warning", what, message);
}

/* ---- standard output ---- */

static void note_output_error(void)
{
	if (!output_errno) output_errno = errno ? errno : EIO;
}

int finish_output(void)
{
	if (fflush(stdout) || ferror(stdout)) note_output_error();
	if (!output_errno) return OK;
	if (output_told) return FAILED;
	output_told = 1;
	return fail(FAILED, "standard output", "cannot write: %s", strerror(output_errno));
}

int say(const char *format, ...)
{
	va_list list;
	if (json_mode) return OK;
	clear_bar();
	errno = 0;
	va_start(list, format);
	if (vprintf(format, list) < 0) note_output_error();
	va_end(list);
	return output_errno ? FAILED : OK;
}

int json_wanted(void) { return json_mode; }

int print_json(json_t *object)
{
	char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
	json_decref(object);
	if (!text) return fail_memory();
	errno = 0;
	if (puts(text) < 0 || fflush(stdout)) note_output_error();
	free(text);
	return finish_output();
}

/* Length of the UTF-8 character at p (at most n bytes), 0 when it is none. */
static size_t utf8_length(const unsigned char *p, size_t n)
{
	size_t m = p[0] < 0x80            ? 1
		: p[0] >= 0xC2 && p[0] < 0xE0 ? 2
		: (p[0] & 0xF0) == 0xE0       ? 3
		: p[0] >= 0xF0 && p[0] < 0xF5 ? 4
									  : 0;
	unsigned c = p[0];
	if (!m || m > n) return 0;
	c = m == 2 ? c & 31 : m == 3 ? c & 15 : m == 4 ? c & 7 : c;
	for (size_t i = 1; i < m; i++) {
		if ((p[i] & 0xC0) != 0x80) return 0;
		c = c << 6 | (p[i] & 63u);
	}
	if (m == 3 && (c < 0x800 || (c >= 0xD800 && c < 0xE000))) return 0;
	if (m == 4 && (c < 0x10000 || c > 0x10FFFF)) return 0;
	return m;
}

size_t utf8_whole(const char *text, size_t n)
{
	/* only a character that could still be completed is held back: at most three bytes */
	for (size_t back = 1; back <= 3 && back <= n; back++) {
		unsigned char c = (unsigned char)text[n - back];
		if ((c & 0xC0) == 0x80) continue;
		size_t need = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
		return need > back ? n - back : n;
	}
	return n;
}

json_t *json_text(const char *text, size_t n)
{
	const unsigned char *p = (const unsigned char *)text;
	json_t *whole = json_stringn(text, n);
	if (whole) return whole;
	char *clean = new_bytes(3 * n + 1);
	if (!clean) return NULL;
	size_t m = 0;
	for (size_t i = 0; i < n;) {
		size_t k = utf8_length(p + i, n - i);
		if (k) {
			memcpy(clean + m, p + i, k);
			m += k;
			i += k;
		} else {
			memcpy(clean + m, "\xEF\xBF\xBD", 3);
			m += 3;
			i++;
		}
	}
	whole = json_stringn(clean, m);
	free(clean);
	return whole;
}

json_t *json_path(const char *path) { return path ? json_text(path, strlen(path)) : json_null(); }

json_t *json_number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

/* ---- terminal ---- */

int is_terminal(FILE *f) { return isatty(fileno(f)); }

int is_utf8_terminal(void)
{
	const char *names[] = { "LC_ALL", "LC_CTYPE", "LANG" };
	for (size_t i = 0; i < 3; i++) {
		const char *v = getenv(names[i]);
		if (v && *v) return strstr(v, "UTF-8") || strstr(v, "utf8") || strstr(v, "utf-8") || strstr(v, "UTF8");
	}
	return 0;
}

static int width_of(int fd)
{
	struct winsize w;
	const char *columns = getenv("COLUMNS");
	int64_t n;
	if (!ioctl(fd, TIOCGWINSZ, &w) && w.ws_col >= 20) return w.ws_col;
	if (columns && parse_int(columns, &n) && n >= 20 && n <= 1000) return (int)n;
	return 80;
}

int terminal_width(void) { return width_of(STDOUT_FILENO); }

double seconds_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t peak_memory(void)
{
	struct rusage u;
	if (getrusage(RUSAGE_SELF, &u)) return 0;
	return (int64_t)u.ru_maxrss * 1024;
}

char *format_count(int64_t n, char *buf, size_t size)
{
	char digits[32];
	int len = snprintf(digits, sizeof digits, "%lld", (long long)n), j = 0;
	for (int i = 0; i < len && (size_t)j + 2 < size; i++) {
		buf[j++] = digits[i];
		if ((len - 1 - i) % 3 == 0 && i != len - 1 && digits[i] != '-') buf[j++] = ',';
	}
	buf[j] = 0;
	return buf;
}

void human_time(double s, char *buf, size_t size)
{
	if (!(s >= 0) || s > 3.6e8) snprintf(buf, size, "-");
	else if (s < 60) snprintf(buf, size, "%.0f s", s);
	else if (s < 3600) snprintf(buf, size, "%d:%02d min", (int)s / 60, (int)s % 60);
	else snprintf(buf, size, "%d:%02d h", (int)(s / 3600), (int)s % 3600 / 60);
}

/* ---- progress ---- */

void progress_start(progress *p, const char *label, int64_t first, int64_t total)
{
	memset(p, 0, sizeof *p);
	p->label = label;
	p->first = first;
	p->total = total;
	p->start = seconds_now();
	p->last = -1e9;
}

static void draw_bar(const progress *p, int64_t done, const char *tail)
{
	static const char *const parts[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
	char bar[128], line[512];
	size_t n = 0;
	int width = width_of(STDERR_FILENO), cells = width >= 100 ? 24 : width >= 70 ? 16 : 8, utf8 = is_utf8_terminal();
	double share = p->total > 0 ? (double)done / (double)p->total : 0;
	int eighths = (int)(share * cells * 8 + 0.5), column = 0;
	if (share > 1) eighths = cells * 8;
	for (int i = 0; i < cells; i++) {
		int fill = eighths - 8 * i;
		const char *s = utf8 ? (fill >= 8 ? "█" : fill > 0 ? parts[fill] : "·") : (fill >= 8 ? "#" : ".");
		n += (size_t)snprintf(bar + n, sizeof bar - n, "%s", s);
	}
	snprintf(line, sizeof line, "%s %s %lld/%lld  %s", p->label, bar, (long long)done, (long long)p->total, tail);
	/* cut to the width, counting characters */
	for (n = 0; line[n]; n++) {
		if (((unsigned char)line[n] & 0xC0) != 0x80 && ++column >= width) break;
	}
	line[n] = 0;
	fprintf(stderr, "\r\033[K%s", line);
	fflush(stderr);
}

void progress_show(progress *p, int64_t done, const char *detail)
{
	double now = seconds_now(), took = now - p->start;
	int terminal = is_terminal(stderr), last = done >= p->total;
	char left[32], tail[256];
	if (quiet || (now - p->last < (terminal ? 0.1 : 5.0) && !last)) return;
	int64_t n = done - p->first;
	double rate = took > 0 ? (double)n / took : 0;
	human_time(rate > 0 ? (double)(p->total - done) / rate : -1, left, sizeof left);
	p->last = now;
	snprintf(tail, sizeof tail, "%s%s%.3g/s  %s left", detail ? detail : "", detail && *detail ? "  " : "", rate, left);
	if (terminal) {
		shown = p;
		p->drawn = 1;
		draw_bar(p, done, tail);
	} else {
		fprintf(stderr, "lora: %s: %lld of %lld  %s\n", p->label, (long long)done, (long long)p->total, tail);
	}
}

void progress_end(progress *p)
{
	if (shown != p) return;
	clear_bar();
	fflush(stderr);
	shown = NULL;
}

/* ---- memory ---- */

void *new_bytes(size_t n)
{
	void *p = malloc(n ? n : 1);
	if (!p) fail_memory();
	return p;
}

void *new_array(size_t count, size_t size)
{
	void *p = calloc(count ? count : 1, size ? size : 1);
	if (!p) fail_memory();
	return p;
}

void *grow(void *old, size_t count, size_t size)
{
	void *p = size && count > SIZE_MAX / size ? NULL : realloc(old, count && size ? count * size : 1);
	if (!p) fail_memory();
	return p;
}

char *new_string(const char *s)
{
	char *p = new_bytes(strlen(s) + 1);
	if (p) memcpy(p, s, strlen(s) + 1);
	return p;
}

char *new_format(const char *format, ...)
{
	va_list list;
	va_start(list, format);
	int n = vsnprintf(NULL, 0, format, list);
	va_end(list);
	char *p = n < 0 ? NULL : new_bytes((size_t)n + 1);
	if (!p) return NULL;
	va_start(list, format);
	vsnprintf(p, (size_t)n + 1, format, list);
	va_end(list);
	return p;
}
