/* Durable, atomic replacement of one file: temp in the same folder (exclusive create), write, fsync, close, rename, fsync of the folder.
 * Order after Pillai et al. 2014 ("All file systems are not created equal", OSDI): nothing is renamed before it is on the disk.
 * fsync is never tried twice on a descriptor: after a failure the kernel may have dropped the pages and would report success. */
#include "format/file_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sys_open(void *user, const char *path, int flags, int mode) { return (void)user, open(path, flags, mode); }
static int64_t sys_write(void *user, int fd, const void *p, size_t n) { return (void)user, (int64_t)write(fd, p, n); }
static int sys_close(void *user, int fd) { return (void)user, close(fd); }
static int sys_rename(void *user, const char *from, const char *to) { return (void)user, rename(from, to); }
static int sys_unlink(void *user, const char *path) { return (void)user, unlink(path); }
static int sys_mkdir(void *user, const char *path, int mode) { return (void)user, mkdir(path, (mode_t)mode); }
static int sys_rmdir(void *user, const char *path) { return (void)user, rmdir(path); }

static int sys_fsync(void *user, int fd)
{
	(void)user;
#ifdef F_FULLFSYNC
	/* fsync alone stops at the drive's cache on this system */
	if (fcntl(fd, F_FULLFSYNC) == 0) return 0;
	if (errno != ENOTSUP && errno != EINVAL) return -1;
#endif
	return fsync(fd);
}

static int sys_exchange(void *user, const char *a, const char *b)
{
	(void)user;
#if defined(__linux__) && defined(SYS_renameat2)
	const unsigned exchange = 2; /* RENAME_EXCHANGE; not every C library has the name */
	return (int)syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, exchange);
#elif defined(__APPLE__)
	return renamex_np(a, b, RENAME_SWAP);
#else
	(void)a, (void)b;
	errno = ENOSYS;
	return -1;
#endif
}

static const lora__io system_io = { sys_open,  sys_write, sys_fsync, sys_close,    sys_rename,
	                                sys_unlink, sys_mkdir, sys_rmdir, sys_exchange, NULL };
const lora__io *lora__io_active = &system_io;

lora_status lora__write_failed(lora_context *ctx, const char *path, const char *what, int error)
{
	return lora__fail_at(ctx, LORA_E_IO, "file", path, -1, "%s: %s: %s", lora__quote(path).text, what, strerror(error));
}

void lora__unique_suffix(char out[LORA__SUFFIX])
{
	static atomic_uint serial;
	uint64_t t = (uint64_t)(lora__now() * 1e9);
	snprintf(out, LORA__SUFFIX, ".tmp.%lx.%x.%08x", (unsigned long)getpid(), atomic_fetch_add(&serial, 1), (unsigned)(t ^ (t >> 32)));
}

static int open_retry(const char *path, int flags, int mode)
{
	const lora__io *io = lora__io_active;
	int fd;
	do fd = io->open(io->user, path, flags, mode);
	while (fd < 0 && errno == EINTR);
	return fd;
}

/* Write all pieces. A write may be cut short by the system (signals, the 2 GiB bound of Linux, a full disk that then says so). */
static int write_all(int fd, const lora__piece *pieces, size_t n)
{
	const lora__io *io = lora__io_active;
	const size_t    step = (size_t)1 << 30;
	for (size_t i = 0; i < n; i++) {
		const uint8_t *p = pieces[i].data;
		size_t         left = pieces[i].n;
		while (left) {
			int64_t put = io->write(io->user, fd, p, left < step ? left : step);
			if (put < 0 && errno == EINTR) continue;
			if (put == 0) errno = ENOSPC;
			if (put <= 0) return -1;
			p += put;
			left -= (size_t)put;
		}
	}
	return 0;
}

lora_status lora__write_new(lora_context *ctx, const char *path, const lora__piece *pieces, size_t n)
{
	const lora__io *io = lora__io_active;
	const char     *what = "can't create";
	int             error = 0, fd = open_retry(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0666);
	if (fd < 0) return errno == EEXIST ? LORA_E_EXISTS : lora__write_failed(ctx, path, what, errno);
	if (write_all(fd, pieces, n)) what = "can't write", error = errno;
	else if (io->fsync(io->user, fd)) what = "can't sync to disk", error = errno;
	/* EINTR from close leaves the descriptor closed on every system we know, and the data is synced: not an error */
	if (io->close(io->user, fd) && errno != EINTR && !error) what = "can't close", error = errno;
	if (!error) return LORA_OK;
	io->unlink(io->user, path);
	return lora__write_failed(ctx, path, what, error);
}

lora_status lora__parent_open(lora_context *ctx, const char *path, int *fd)
{
	const char *slash = strrchr(path, '/');
	size_t      n = slash ? (slash == path ? 1 : (size_t)(slash - path)) : 1;
	char       *dir = lora__strndup(ctx, slash ? path : ".", n);
	if (!dir) return LORA_E_MEMORY;
	*fd = open_retry(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	lora_status st = *fd < 0 ? lora__write_failed(ctx, dir, "can't open the folder", errno) : LORA_OK;
	lora__free(ctx, dir);
	return st;
}

int lora__folder_sync(int fd)
{
	const lora__io *io = lora__io_active;
	/* some file systems have no sync for folders and say EINVAL: nothing more can be done there */
	return io->fsync(io->user, fd) && errno != EINVAL ? -1 : 0;
}

int lora__rename_retry(const char *from, const char *to)
{
	const lora__io *io = lora__io_active;
	int             bad;
	do bad = io->rename(io->user, from, to);
	while (bad && errno == EINTR);
	return bad;
}

lora_status lora__file_replace(lora_context *ctx, const char *path, const lora__piece *pieces, size_t n)
{
	const lora__io *io = lora__io_active;
	size_t          len = strlen(path);
	char           *temp = NULL;
	int             folder = -1;
	lora_status     st;
	if (!len) return lora__fail(ctx, LORA_E_ARGUMENT, "file", "empty path");
	if (path[len - 1] == '/' || lora__path_is_dir(path)) return lora__write_failed(ctx, path, "can't replace", EISDIR);
	temp = lora__alloc(ctx, len + LORA__SUFFIX);
	if (!temp) return LORA_E_MEMORY;
	memcpy(temp, path, len);
	st = lora__parent_open(ctx, path, &folder);
	if (st) goto done;
	for (int attempt = 0;; attempt++) {
		lora__unique_suffix(temp + len);
		st = lora__write_new(ctx, temp, pieces, n);
		if (st != LORA_E_EXISTS) break;
		if (attempt == 16) st = lora__write_failed(ctx, temp, "can't create", EEXIST);
		if (attempt == 16) break;
	}
	if (st) goto done;
	if (lora__rename_retry(temp, path)) {
		st = lora__write_failed(ctx, path, "can't rename the finished file into place", errno);
		io->unlink(io->user, temp);
		goto done;
	}
	if (lora__folder_sync(folder)) st = lora__write_failed(ctx, path, "written, but the folder can't be synced to disk", errno);
done:
	if (folder >= 0) io->close(io->user, folder);
	lora__free(ctx, temp);
	return st;
}
