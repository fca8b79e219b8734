/* Atomic replacement of a whole directory (an adapter is two files that belong together). The steps and what a crash leaves at each are in
 * file.h. Reading partner: file_write.c. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "format/file_write.h"

#define PREVIOUS ".lora-previous"

enum { NAME_ROOM = 256 + 2 }; /* slash, longest name of a directory entry, terminator */

static int is_dir(const char *path) /* links not followed */
{
	struct stat s;
	return lstat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static int is_there(const char *path)
{
	struct stat s;
	return lstat(path, &s) == 0;
}

static void put_name(char *dst, const char *dir, const char *name)
{
	size_t n = strlen(dir), k = strlen(name);
	memcpy(dst, dir, n);
	dst[n] = '/';
	memcpy(dst + n + 1, name, k + 1);
}

/* Next entry of a directory that is not "." or ".." and whose name fits our scratch; NULL at the end. */
static const char *next_entry(DIR *dir)
{
	for (struct dirent *e; (e = readdir(dir));)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strlen(e->d_name) < 256) return e->d_name;
	return NULL;
}

/* Remove an old directory after the switch. Failures leave it and are no error: the new directory is in place and synced. */
static void remove_old(lora__dir *d, const char *old)
{
	const lora__io *io = lora__io_active;
	DIR            *dir = opendir(old);
	int             left = 0;
	if (!dir) left = 1;
	for (const char *name; dir && (name = next_entry(dir));) {
		put_name(d->from, old, name);
		put_name(d->to, d->path, name);
		int folder = is_dir(d->from);
		if (!is_there(d->to) && (folder || d->keep)) left |= lora__rename_retry(d->from, d->to) != 0;
		else if (folder) left = 1;
		else left |= io->unlink(io->user, d->from) != 0;
	}
	if (dir) closedir(dir);
	if (left || io->rmdir(io->user, old))
		lora__log(d->ctx, LORA_LOG_WARN, "file", "%s: what was replaced is left there, it can't be removed: %s", lora__quote(old).text,
		          strerror(errno));
}

/* Remove the unfinished temp directory, in which are only files of ours. */
static void remove_temp(lora__dir *d)
{
	const lora__io *io = lora__io_active;
	DIR            *dir = opendir(d->temp);
	for (const char *name; dir && (name = next_entry(dir));) {
		put_name(d->from, d->temp, name);
		io->unlink(io->user, d->from);
	}
	if (dir) closedir(dir);
	io->rmdir(io->user, d->temp);
}

static void release(lora__dir *d)
{
	const lora__io *io = lora__io_active;
	if (d->folder >= 0) io->close(io->user, d->folder);
	lora__free(d->ctx, d->path);
	lora__free(d->ctx, d->temp);
	lora__free(d->ctx, d->previous);
	lora__free(d->ctx, d->from);
	lora__free(d->ctx, d->to);
	*d = (lora__dir){ .folder = -1 };
}

/* Copy of path without trailing slashes, a link at its end resolved. */
static lora_status clean_path(lora_context *ctx, const char *path, char **out)
{
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/') n--;
	if (!n) return lora__fail(ctx, LORA_E_ARGUMENT, "file", "empty path");
	char *p = lora__strndup(ctx, path, n);
	if (!p) return LORA_E_MEMORY;
	struct stat s;
	if (lstat(p, &s) == 0 && S_ISLNK(s.st_mode)) {
		char       *real = realpath(p, NULL);
		lora_status st = LORA_OK;
		char       *copy = NULL;
		if (!real) st = lora__write_failed(ctx, p, "can't follow the link", errno);
		else if (!(copy = lora__strdup(ctx, real))) st = LORA_E_MEMORY;
		free(real);
		lora__free(ctx, p);
		p = copy;
		if (st) return st;
	}
	if (is_there(p) && !is_dir(p)) {
		lora_status st = lora__write_failed(ctx, p, "can't replace with a directory", ENOTDIR);
		lora__free(ctx, p);
		return st;
	}
	*out = p;
	return LORA_OK;
}

static char *previous_of(lora_context *ctx, const char *path)
{
	size_t n = strlen(path);
	char  *p = lora__alloc(ctx, n + sizeof PREVIOUS);
	if (!p) return NULL;
	memcpy(p, path, n);
	memcpy(p + n, PREVIOUS, sizeof PREVIOUS);
	return p;
}

char *lora__dir_current(lora_context *ctx, const char *path)
{
	size_t n = strlen(path);
	while (n > 1 && path[n - 1] == '/') n--;
	char *p = lora__strndup(ctx, path, n);
	if (!p || is_there(p)) return p;
	char *old = previous_of(ctx, p);
	int   found = old && is_dir(old);
	if (old) lora__free(ctx, found ? p : old);
	else lora__free(ctx, p), p = NULL;
	return found ? old : p;
}

lora_status lora__dir_begin(lora_context *ctx, const char *path, lora__dir *out)
{
	const lora__io *io = lora__io_active;
	lora__dir       d = { .ctx = ctx, .folder = -1 };
	lora_status     st = clean_path(ctx, path, &d.path);
	if (st) goto done;
	size_t n = strlen(d.path);
	size_t room = n + LORA__SUFFIX + sizeof PREVIOUS + NAME_ROOM;
	d.temp = lora__alloc(ctx, n + LORA__SUFFIX);
	d.from = lora__alloc(ctx, room);
	d.to = lora__alloc(ctx, room);
	d.previous = previous_of(ctx, d.path);
	st = LORA_E_MEMORY;
	if (!d.temp || !d.from || !d.to || !d.previous) goto done;
	st = lora__parent_open(ctx, d.path, &d.folder);
	if (st) goto done;
	if (!is_there(d.path) && is_dir(d.previous) && lora__rename_retry(d.previous, d.path)) {
		st = lora__write_failed(ctx, d.previous, "can't restore after an interrupted save", errno);
		goto done;
	}
	memcpy(d.temp, d.path, n);
	for (int attempt = 0;; attempt++) {
		lora__unique_suffix(d.temp + n);
		if (!io->mkdir(io->user, d.temp, 0777)) break;
		if (errno == EINTR || (errno == EEXIST && attempt < 16)) continue;
		st = lora__write_failed(ctx, d.temp, "can't create", errno);
		goto done;
	}
	*out = d;
	st = LORA_OK;
done:
	if (st) release(&d);
	return st;
}

lora_status lora__dir_file(lora__dir *d, const char *name, const lora__piece *pieces, size_t n)
{
	lora_status st;
	if (!*name || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, "..") || strlen(name) > 255) {
		st = lora__fail(d->ctx, LORA_E_ARGUMENT, "file", "%s is not a plain file name", lora__quote(name).text);
	} else {
		put_name(d->from, d->temp, name);
		st = lora__write_new(d->ctx, d->from, pieces, n);
		if (st == LORA_E_EXISTS) st = lora__write_failed(d->ctx, d->from, "can't create", EEXIST);
	}
	if (st && !d->status) d->status = st;
	return st;
}

/* Without an exchange of names: move the old directory aside, then the new one in. On failure path is the old directory again. */
static int switch_in_two(lora__dir *d)
{
	if (is_there(d->previous)) remove_old(d, d->previous); /* of a save that was killed after its second rename */
	if (lora__rename_retry(d->path, d->previous)) return -1;
	if (!lora__rename_retry(d->temp, d->path)) return 0;
	int error = errno;
	lora__rename_retry(d->previous, d->path); /* if this fails too, lora__dir_current() still finds the old directory */
	errno = error;
	return -1;
}

/* Put the temp directory in the place of path. *old is where the old directory is now, or NULL. */
static lora_status switch_names(lora__dir *d, const char **old)
{
	const lora__io *io = lora__io_active;
	int             bad;
	if (!is_there(d->path)) {
		bad = lora__rename_retry(d->temp, d->path);
	} else {
		*old = d->temp;
		do bad = io->exchange(io->user, d->temp, d->path);
		while (bad && errno == EINTR);
		if (bad && (errno == ENOSYS || errno == EINVAL || errno == ENOTSUP || errno == EOPNOTSUPP)) {
			*old = d->previous;
			bad = switch_in_two(d);
		}
	}
	return bad ? lora__write_failed(d->ctx, d->path, "can't put the finished directory into place", errno) : LORA_OK;
}

static int sync_temp(lora__dir *d)
{
	const lora__io *io = lora__io_active;
	int             fd;
	do fd = io->open(io->user, d->temp, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	while (fd < 0 && errno == EINTR);
	if (fd < 0) return -1;
	int bad = lora__folder_sync(fd), error = errno;
	io->close(io->user, fd);
	errno = error;
	return bad;
}

lora_status lora__dir_commit(lora__dir *d)
{
	const char *old = NULL;
	lora_status st = d->status;
	if (!st && sync_temp(d)) st = lora__write_failed(d->ctx, d->temp, "can't sync to disk", errno);
	if (!st) st = switch_names(d, &old);
	if (st) {
		lora__dir_abort(d);
		return st;
	}
	if (lora__folder_sync(d->folder))
		st = lora__write_failed(d->ctx, d->path, "written, but the folder above can't be synced to disk; what was there before is kept beside",
		                        errno);
	else if (old) remove_old(d, old);
	release(d);
	return st;
}

void lora__dir_abort(lora__dir *d)
{
	if (!d->path) return;
	remove_temp(d);
	release(d);
}
