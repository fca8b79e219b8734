/* Files: mapped reading and durable, atomic writing. */
#ifndef LORA_FORMAT_FILE_H
#define LORA_FORMAT_FILE_H

#include "base/text.h"

/* A whole file in memory: mapped read-only (private), or a heap copy. */
typedef struct lora__blob { const uint8_t *data; size_t n; int mapped; } lora__blob;

/* Map a regular file. Directories, FIFOs, devices: LORA_E_IO without blocking. An empty file gives n = 0. */
lora_status lora__blob_map(lora_context *ctx, const char *path, lora__blob *out);
/* Read a whole regular file to the heap, at most max bytes (LORA_E_LIMIT). */
lora_status lora__blob_read(lora_context *ctx, const char *path, uint64_t max, lora__blob *out);
void        lora__blob_close(lora_context *ctx, lora__blob *b);

/* Every system call of writing goes through this table, so that tests can make the n-th one fail or kill the process before it. */
typedef struct lora__io {
	int (*open)(void *user, const char *path, int flags, int mode);
	int64_t (*write)(void *user, int fd, const void *p, size_t n);
	int (*fsync)(void *user, int fd);
	int (*close)(void *user, int fd);
	int (*rename)(void *user, const char *from, const char *to);
	int (*unlink)(void *user, const char *path);
	int (*mkdir)(void *user, const char *path, int mode);
	int (*rmdir)(void *user, const char *path);
	int (*exchange)(void *user, const char *a, const char *b); /* renameat2 RENAME_EXCHANGE; -1 with ENOSYS/EINVAL where there is none */
	void *user;
} lora__io;
extern const lora__io *lora__io_active; /* tests replace it; the default calls the system */

/* Pieces that a file is written from; data may be mapped or on the heap. */
typedef struct lora__piece { const void *data; size_t n; } lora__piece;

/* Write one file atomically and durably: temp beside it, fsync, close, rename, fsync of the folder. The old file stays on any error. */
lora_status lora__file_replace(lora_context *ctx, const char *path, const lora__piece *pieces, size_t n);

/* Write a directory of files atomically: all is written into "<path>.tmp.<unique>", synced, then put in place of path by one rename (or by
 * an exchange of names when path is there; the old directory is then removed). At every moment path is the old or the new directory.
 *   begin -> file* -> commit, or abort at any time. */
typedef struct lora__dir { lora_context *ctx; char *path, *temp; } lora__dir;
lora_status lora__dir_begin(lora_context *ctx, const char *path, lora__dir *out);
lora_status lora__dir_file(lora__dir *d, const char *name, const lora__piece *pieces, size_t n);
lora_status lora__dir_commit(lora__dir *d); /* releases d, also on failure */
void        lora__dir_abort(lora__dir *d);

/* "dir/name" on the heap. */
char *lora__path_join(lora_context *ctx, const char *dir, const char *name);
int   lora__path_exists(const char *path);
int   lora__path_is_dir(const char *path);

#endif
