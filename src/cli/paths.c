/* lora: paths, whole files, and files that appear whole or not at all (written beside, synced, renamed). Also what happens on SIGINT and
 * SIGTERM, because a half-written file must go then. */
#include "cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 4096
static char pending[PATH_BYTES]; /* temporary file to remove when a signal ends the program */
static volatile sig_atomic_t is_pending, polite, asked;

/* ---- signals ---- */

static void on_signal(int number)
{
	if (polite && !asked) {
		asked = number;
		return;
	}
	if (is_pending) unlink(pending);
	signal(number, SIG_DFL);
	raise(number);
}

void signals_setup(void)
{
	struct sigaction act;
	memset(&act, 0, sizeof act);
	act.sa_handler = on_signal;
	sigemptyset(&act.sa_mask);
	act.sa_flags = SA_RESTART;
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGTERM, &act, NULL);
	act.sa_handler = SIG_IGN; /* a reader that went away shows as an error of write() */
	sigaction(SIGPIPE, &act, NULL);
}

void stop_politely(void) { polite = 1; }

int stop_asked(void) { return asked ? 128 + (int)asked : 0; }

/* ---- paths ---- */

int path_exists(const char *path)
{
	struct stat s;
	return !lstat(path, &s);
}

int path_is_dir(const char *path)
{
	struct stat s;
	return !stat(path, &s) && S_ISDIR(s.st_mode);
}

int path_is_empty_dir(const char *path)
{
	int empty = 1;
	DIR *d = opendir(path);
	if (!d) return 0;
	for (struct dirent *e; (e = readdir(d));)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) empty = 0;
	closedir(d);
	return empty;
}

int path_holds(const char *outer, const char *inner)
{
	char *out = realpath(outer, NULL), *in = realpath(inner, NULL);
	size_t n = out ? strlen(out) : 0;
	int holds = out && in && !strncmp(in, out, n) ? (!in[n] ? 2 : in[n] == '/' || (n && out[n - 1] == '/')) : 0;
	struct stat a, b;
	if (!holds && out && in && !stat(out, &a) && !stat(in, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino) holds = 2; /* a hard link */
	free(out);
	free(in);
	return holds;
}

int path_has_suffix(const char *path, const char *suffix)
{
	size_t n = strlen(path), m = strlen(suffix);
	return n >= m && !strcmp(path + n - m, suffix);
}

char *path_join(const char *dir, const char *name)
{
	size_t n = strlen(dir);
	return new_format("%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

char *path_dir(const char *path)
{
	const char *slash = strrchr(path, '/');
	if (!slash) return new_string(".");
	if (slash == path) return new_string("/");
	return new_format("%.*s", (int)(slash - path), path);
}

const char *path_base(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash && slash[1] ? slash + 1 : path;
}

int make_dir(const char *path)
{
	if (!mkdir(path, 0777) || (errno == EEXIST && path_is_dir(path))) return OK;
	return fail_system(path, "cannot make the directory");
}

/* Relative to the open parent, so a path can't grow too long and no link is followed out of the tree. Takes the descriptor. */
static int empty_dir(int fd)
{
	int bad = 0;
	DIR *d = fdopendir(fd);
	if (!d) {
		close(fd);
		return 1;
	}
	for (struct dirent *e; !bad && (e = readdir(d));) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
		if (!unlinkat(fd, e->d_name, 0)) continue;
		int below = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		bad = below < 0 || empty_dir(below) || unlinkat(fd, e->d_name, AT_REMOVEDIR);
	}
	closedir(d);
	return bad;
}

int remove_tree(const char *path)
{
	struct stat s;
	if (lstat(path, &s)) return errno == ENOENT ? OK : fail_system(path, "cannot remove");
	if (S_ISDIR(s.st_mode)) {
		int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0 || empty_dir(fd) || rmdir(path)) return fail_system(path, "cannot remove");
	} else if (unlink(path)) {
		return fail_system(path, "cannot remove");
	}
	return OK;
}

/* ---- whole files ---- */

int read_file(const char *path, uint64_t limit, char **out, size_t *n)
{
	struct stat s;
	char *bytes = NULL;
	size_t have = 0;
	int status = FAILED;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */

	if (fd < 0) return fail_system(path, "cannot open");
	if (fstat(fd, &s)) {
		fail_system(path, "cannot read");
		goto done;
	}
	if (!S_ISREG(s.st_mode)) {
		fail(FAILED, path, S_ISDIR(s.st_mode) ? "is a directory, expected a file" : "is not a regular file");
		goto done;
	}
	if (limit && (uint64_t)s.st_size > limit) {
		fail(FAILED, path, "%lld bytes are more than the limit of %llu", (long long)s.st_size, (unsigned long long)limit);
		goto done;
	}
	bytes = new_bytes((size_t)s.st_size + 1);
	if (!bytes) goto done;
	while (have < (size_t)s.st_size) {
		ssize_t got = read(fd, bytes + have, (size_t)s.st_size - have);
		if (got < 0 && errno == EINTR) continue;
		if (got < 0) {
			fail_system(path, "cannot read");
			goto done;
		}
		if (!got) {
			fail(FAILED, path, "became shorter while it was read");
			goto done;
		}
		have += (size_t)got;
	}
	bytes[have] = 0;
	*out = bytes;
	*n = have;
	bytes = NULL;
	status = OK;
done:
	free(bytes);
	close(fd);
	return status;
}

int open_regular(const char *path, FILE **out)
{
	struct stat s;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
	if (fd < 0) return fail_system(path, "cannot open");
	int bad = fstat(fd, &s);
	if (bad) fail_system(path, "cannot read");
	else if (!S_ISREG(s.st_mode)) bad = fail(FAILED, path, S_ISDIR(s.st_mode) ? "is a directory, expected a file" : "is not a regular file");
	if (!bad && !(*out = fdopen(fd, "rb"))) bad = fail_system(path, "cannot read");
	if (bad) close(fd);
	return bad ? FAILED : OK;
}

/* ---- files that appear whole ---- */

int outfile_open(outfile *o, const char *path)
{
	memset(o, 0, sizeof *o);
	if (path_is_dir(path)) return fail(FAILED, path, "is a directory, expected a file name");
	o->path = new_string(path);
	o->temp = new_format("%s.tmp-%ld", path, (long)getpid());
	if (!o->path || !o->temp) {
		outfile_abort(o);
		return FAILED;
	}
	int fd = open(o->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0 || !(o->f = fdopen(fd, "wb"))) {
		int status = fail_system(path, "cannot write");
		if (fd >= 0) {
			close(fd);
			unlink(o->temp);
		}
		free(o->path);
		free(o->temp);
		memset(o, 0, sizeof *o);
		return status;
	}
	if (strlen(o->temp) < PATH_BYTES) {
		memcpy(pending, o->temp, strlen(o->temp) + 1);
		is_pending = 1;
	}
	return OK;
}

static void sync_dir(const char *path)
{
	char *dir = path_dir(path);
	int fd = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (fd >= 0) {
		(void)!fsync(fd); /* some file systems can't; the rename has happened all the same */
		close(fd);
	}
	free(dir);
}

int outfile_commit(outfile *o)
{
	int status = OK;
	errno = 0;
	if (fflush(o->f) || ferror(o->f) || fsync(fileno(o->f))) status = fail_system(o->path, "cannot write");
	if (fclose(o->f) && !status) status = fail_system(o->path, "cannot write");
	o->f = NULL;
	if (!status && rename(o->temp, o->path)) status = fail_system(o->path, "cannot put the finished file in place");
	if (!status) {
		is_pending = 0;
		sync_dir(o->path);
		free(o->temp);
		o->temp = NULL;
	}
	outfile_abort(o);
	return status;
}

void outfile_abort(outfile *o)
{
	if (o->f) fclose(o->f);
	if (o->temp) unlink(o->temp);
	is_pending = 0;
	free(o->temp);
	free(o->path);
	memset(o, 0, sizeof *o);
}
