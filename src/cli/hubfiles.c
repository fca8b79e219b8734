/* lora: the files of a hub: names that may become paths, copies that are hashed and synced, folders that come into place and go out of sight whole. */
#include "cli/hub.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_MOST 100

static const char *const kept[] = { "adapter_config.json", "adapter_model.safetensors", "README.md", "LICENSE" }; /* the first two must be there */
enum { N_KEPT = 4 };

/* ---- names and paths ---- */

int text_ok(const char *text, size_t n)
{
	json_t *s = json_stringn(text, n); /* jansson looks whether it is UTF-8 */
	json_decref(s);
	for (size_t i = 0; i < n && s; i++)
		if ((unsigned char)text[i] < 32 || text[i] == 127) return 0;
	return s != NULL;
}

const char *name_problem(const char *name, size_t n)
{
	if (!n) return "the name is empty";
	if (n > NAME_MOST) return "the name is longer than 100 bytes";
	if (!text_ok(name, n)) return "the name is not UTF-8, or has control characters in it";
	if (memchr(name, '/', n)) return "a name has no '/' in it";
	if (*name == '.' || *name == '-') return "a name does not begin with '.' or '-'";
	return NULL;
}

char *hub_path(const hub *h, const char *name) { return path_join(h->adapters, name); }

char *hub_adapter(const hub *h, const char *name)
{
	char *dir = hub_path(h, name), *file = dir ? path_join(dir, "adapter.gguf") : NULL;
	if (!file || !path_exists(file)) return free(file), dir;
	return free(dir), file;
}

int hub_lock(hub *h, int exclusive)
{
	if (exclusive < 0) return close(h->lock), h->lock = -1, OK;
	char *path = path_join(h->root, "lock");
	int status = path ? OK : FAILED, rc;
	if (!status && h->lock < 0) h->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
	if (!status && h->lock < 0) status = fail_system(path, "cannot open");
	while (!status && (rc = flock(h->lock, exclusive ? LOCK_EX : LOCK_SH)))
		if (errno != EINTR) status = fail_system(path, "cannot lock");
	free(path);
	return status;
}

static int sync_folder(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) return fail_system(path, "cannot open");
	int bad = fsync(fd) && errno != EINVAL && errno != EROFS; /* some file systems can't */
	if (bad) fail_system(path, "cannot sync");
	close(fd);
	return bad ? FAILED : OK;
}

/* ---- hashes ---- */

/* Read in from its start to its end, into out as well unless that is -1. */
static int pump(int in, int out, const char *path, const char *to, char text[SHA256_TEXT], int64_t *bytes)
{
	enum { ROOM = 1 << 16 };
	char *room = new_bytes(ROOM);
	sha256 sum;
	ssize_t n = 0;
	int status = room ? OK : FAILED;
	sha256_start(&sum);
	*bytes = 0;
	while (!status && (n = read(in, room, ROOM))) {
		if (n < 0 && errno == EINTR) continue;
		if (n < 0) return free(room), fail_system(path, "cannot read");
		sha256_add(&sum, room, (size_t)n);
		*bytes += n;
		for (ssize_t at = 0, m; out >= 0 && at < n && !status; at += m > 0 ? m : 0) {
			m = write(out, room + at, (size_t)(n - at));
			if (m < 0 && errno != EINTR) status = fail_system(to, "cannot write");
		}
	}
	sha256_end(&sum, text);
	free(room);
	return status;
}

static int open_plain(const char *path, int *fd)
{
	struct stat s;
	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
	if (*fd < 0) return fail_system(path, "cannot open");
	if (!fstat(*fd, &s) && S_ISREG(s.st_mode)) return OK;
	close(*fd);
	return fail(FAILED, path, "is not a regular file");
}

int file_sha256(const char *path, char text[SHA256_TEXT], int64_t *bytes)
{
	int fd, status = open_plain(path, &fd);
	if (status) return status;
	status = pump(fd, -1, path, NULL, text, bytes);
	close(fd);
	return status;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Names in a folder, sorted; those that end in suffix. */
static int names_in(const char *path, const char *suffix, char ***out, size_t *count)
{
	DIR *d = opendir(path);
	int status = OK;
	*out = NULL, *count = 0;
	if (!d) return fail_system(path, "cannot read");
	for (struct dirent *e; !status && (e = readdir(d));) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || !path_has_suffix(e->d_name, suffix)) continue;
		char **more = grow(*out, *count + 1, sizeof *more);
		if (!more || (*out = more, !(more[*count] = new_string(e->d_name)))) status = FAILED;
		else ++*count;
	}
	closedir(d);
	if (*count) qsort(*out, *count, sizeof **out, by_name);
	return status;
}

static void free_names(char **list, size_t n)
{
	for (size_t i = 0; i < n; i++) free(list[i]);
	free(list);
}

/* Of one file its SHA-256, of several that of the lines that sha256sum prints for them, in the order of their names. */
int model_sha256(const char *path, char text[SHA256_TEXT])
{
	char **list = NULL, line[SHA256_TEXT];
	size_t n = 0;
	int64_t bytes;
	sha256 all;
	if (!path_is_dir(path)) return file_sha256(path, text, &bytes);
	int status = names_in(path, ".safetensors", &list, &n);
	if (!status && !n) status = fail(FAILED, path, "has no .safetensors files to hash");
	sha256_start(&all);
	for (size_t i = 0; i < n && !status; i++) {
		char *file = path_join(path, list[i]);
		status = file ? file_sha256(file, line, &bytes) : FAILED;
		sha256_add(&all, line, 64), sha256_add(&all, "  ", 2), sha256_add(&all, list[i], strlen(list[i])), sha256_add(&all, "\n", 1);
		free(file);
	}
	if (n == 1) memcpy(text, line, SHA256_TEXT);
	else sha256_end(&all, text);
	free_names(list, n);
	return status;
}

/* ---- coming ---- */

static int copy_file(const char *from, const char *dir, const char *name, json_t *files, int64_t *total)
{
	char *to = path_join(dir, name), text[SHA256_TEXT];
	int64_t bytes = 0;
	int in, out = -1, status = to ? open_plain(from, &in) : FAILED;
	if (status) return free(to), status;
	out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
	if (out < 0) status = fail_system(to, "cannot write");
	else status = pump(in, out, from, to, text, &bytes);
	if (!status && fsync(out)) status = fail_system(to, "cannot sync");
	close(in);
	if (out >= 0 && close(out) && !status) status = fail_system(to, "cannot write");
	if (!status && json_object_set_new(files, name, json_pack("{s:s, s:I}", "sha256", text, "bytes", (json_int_t)bytes))) status = fail_memory();
	*total += bytes;
	free(to);
	return status;
}

/* hub.json beside the files says what the row says, and that the folder is the hub's own. */
static int write_card(const char *dir, json_t *row)
{
	char *to = path_join(dir, "hub.json"), *text = json_dumps(row, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
	int status = to && text ? OK : FAILED;
	FILE *f = status ? NULL : fopen(to, "wxb");
	if (!status && !f) status = fail_system(to, "cannot write");
	if (f) {
		int bad = fputs(text, f) < 0 || fputc('\n', f) < 0 || fflush(f) || fsync(fileno(f));
		if (fclose(f) || bad) status = fail_system(to, "cannot write");
	}
	free(to), free(text);
	return status;
}

int hub_stage(hub *h, const char *from, json_t *row, char **temp)
{
	int folder = path_is_dir(from), status = OK;
	int64_t total = 0;
	json_t *files = json_object();
	json_object_set_new(row, "files", files);
	*temp = path_join(h->adapters, ".new-XXXXXX");
	if (!*temp) return FAILED;
	if (!mkdtemp(*temp)) {
		status = fail_system(h->adapters, "cannot make a directory in it");
		return free(*temp), *temp = NULL, status;
	}
	if (chmod(*temp, 0777 & ~umask(umask(022)))) { /* mkdtemp leaves 0700, and a hub may be shared */ }
	for (int i = 0; i < (folder ? N_KEPT : 1) && !status; i++) {
		char *path = folder ? path_join(from, kept[i]) : new_string(from);
		if (!path) status = FAILED;
		else if (i < 2 || path_exists(path)) status = copy_file(path, *temp, folder ? kept[i] : "adapter.gguf", files, &total);
		free(path);
	}
	json_object_set_new(row, "bytes", json_integer(total));
	if (!status) status = write_card(*temp, row);
	return status ? status : sync_folder(*temp);
}

int hub_discard(hub *h, const char *name)
{
	char *path = hub_path(h, name);
	int status = path ? OK : FAILED;
	free(h->gone);
	h->gone = NULL;
	if (!status && path_exists(path)) {
		h->gone = path_join(h->adapters, ".gone-XXXXXX");
		/* a rename may replace an empty folder, so the new name is this process's own */
		if (!h->gone) status = FAILED;
		else if (!mkdtemp(h->gone) || rename(path, h->gone)) status = fail_system(path, "cannot be moved away");
	}
	free(path);
	return status;
}

int hub_forget(hub *h) { return h->gone ? remove_tree(h->gone) : OK; }

int hub_place(hub *h, const char *temp, const char *name)
{
	char *path = hub_path(h, name);
	int status = path ? OK : FAILED;
	if (!status && path_exists(path)) status = hub_discard(h, name); /* left by a process that was killed, or by a removal under way */
	if (!status && rename(temp, path)) status = fail_system(path, "cannot put the finished directory in place");
	if (!status) status = sync_folder(h->adapters);
	free(path);
	return status;
}

/* ---- going ---- */

int hub_sweep(hub *h)
{
	char **list;
	size_t n;
	int status = names_in(h->adapters, "", &list, &n);
	for (size_t i = 0; i < n && !status; i++) {
		char *path = *list[i] == '.' ? path_join(h->adapters, list[i]) : NULL;
		if (path) status = remove_tree(path);
		free(path);
	}
	free_names(list, n);
	return status;
}
