/* Reading whole files: mapped read-only, or copied to the heap. Only regular files are read: stat() looks before open() so that a device or
 * FIFO is never opened, and O_NONBLOCK with a second look at the descriptor closes the gap between the two.
 * A mapped file that another process shortens raises SIGBUS on the next touch: the operating system offers no other answer. Small files and
 * files from strangers are therefore read with lora__blob_read(), which takes a copy; mapping is for model weights. */
#include "format/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static lora_status refuse(lora_context *ctx, const char *path, int error)
{
	return lora__fail_at(ctx, error == ENOENT ? LORA_E_NOTFOUND : LORA_E_IO, "file", path, -1, "%s: %s", lora__quote(path).text,
	                     strerror(error));
}

/* What a path is when it is no regular file; errno value that says the same. */
static lora_status refuse_kind(lora_context *ctx, const char *path, mode_t mode)
{
	if (S_ISDIR(mode))
		return lora__fail_at(ctx, LORA_E_IO, "file", path, -1, "%s: %s", lora__quote(path).text, strerror(EISDIR));
	const char *kind = S_ISFIFO(mode) ? "a FIFO" : S_ISSOCK(mode) ? "a socket" : S_ISCHR(mode) || S_ISBLK(mode) ? "a device" : "special";
	return lora__fail_at(ctx, LORA_E_IO, "file", path, -1, "%s: not a regular file (%s): %s", lora__quote(path).text, kind,
	                     strerror(EINVAL));
}

/* Open a regular file and tell its size. */
static lora_status open_regular(lora_context *ctx, const char *path, int *fd, size_t *n)
{
	struct stat s;
	if (stat(path, &s)) {
		int error = errno;
		struct stat link;
		if (error == ENOENT && lstat(path, &link) == 0)
			return lora__fail_at(ctx, LORA_E_IO, "file", path, -1, "%s: dangling link: %s", lora__quote(path).text, strerror(error));
		return refuse(ctx, path, error);
	}
	if (!S_ISREG(s.st_mode)) return refuse_kind(ctx, path, s.st_mode);
	int f;
	do f = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	while (f < 0 && errno == EINTR);
	if (f < 0) return refuse(ctx, path, errno);
	lora_status st = LORA_OK;
	if (fstat(f, &s)) st = refuse(ctx, path, errno);
	else if (!S_ISREG(s.st_mode)) st = refuse_kind(ctx, path, s.st_mode);
	else if (s.st_size < 0 || (uint64_t)s.st_size > SIZE_MAX / 2)
		st = lora__fail_at(ctx, LORA_E_LIMIT, "file", path, -1, "%s: file too large for this machine's address space",
		                   lora__quote(path).text);
	if (st) {
		close(f);
		return st;
	}
	*fd = f;
	*n = (size_t)s.st_size;
	return LORA_OK;
}

lora_status lora__blob_map(lora_context *ctx, const char *path, lora__blob *out)
{
	*out = (lora__blob){ 0 };
	int fd;
	size_t n;
	lora_status st = open_regular(ctx, path, &fd, &n);
	if (st) return st;
	if (n) {
		void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED) st = refuse(ctx, path, errno);
		else *out = (lora__blob){ p, n, 1 };
	}
	close(fd);
	return st;
}

lora_status lora__blob_read(lora_context *ctx, const char *path, uint64_t max, lora__blob *out)
{
	*out = (lora__blob){ 0 };
	int fd;
	size_t n, have = 0;
	lora_status st = open_regular(ctx, path, &fd, &n);
	if (st) return st;
	uint8_t *data = NULL;
	if (n > max) {
		st = lora__fail_at(ctx, LORA_E_LIMIT, "file", path, -1, "%s: %zu bytes, the limit is %llu", lora__quote(path).text, n,
		                   (unsigned long long)max);
		goto done;
	}
	if (!n) goto done;
	data = lora__alloc(ctx, n);
	if (!data) {
		st = LORA_E_MEMORY;
		goto done;
	}
	while (have < n) {
		ssize_t got = read(fd, data + have, n - have);
		if (got < 0 && errno == EINTR) continue;
		if (got < 0) {
			st = refuse(ctx, path, errno);
			goto done;
		}
		if (got == 0) {
			st = lora__fail_at(ctx, LORA_E_IO, "file", path, (int64_t)have, "%s: became shorter while it was read", lora__quote(path).text);
			goto done;
		}
		have += (size_t)got;
	}
	*out = (lora__blob){ data, n, 0 };
	data = NULL;
done:
	lora__free(ctx, data);
	close(fd);
	return st;
}

void lora__blob_close(lora_context *ctx, lora__blob *b)
{
	if (b->mapped) munmap((void *)(uintptr_t)b->data, b->n);
	else lora__free(ctx, (void *)(uintptr_t)b->data);
	*b = (lora__blob){ 0 };
}

char *lora__path_join(lora_context *ctx, const char *dir, const char *name)
{
	size_t a = strlen(dir), b = strlen(name), total;
	int slash = a > 0 && dir[a - 1] != '/';
	if (!lora__add_size(a, b, &total) || !lora__add_size(total, 2, &total)) {
		lora__fail(ctx, LORA_E_MEMORY, "file", "path too long");
		return NULL;
	}
	char *p = lora__alloc(ctx, total);
	if (!p) return NULL;
	memcpy(p, dir, a);
	if (slash) p[a++] = '/';
	memcpy(p + a, name, b + 1);
	return p;
}

int lora__path_exists(const char *path)
{
	struct stat s;
	return stat(path, &s) == 0;
}

int lora__path_is_dir(const char *path)
{
	struct stat s;
	return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}
