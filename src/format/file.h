/* Files: mapped reading and durable, atomic writing. */
#ifndef LORA_FORMAT_FILE_H
#define LORA_FORMAT_FILE_H

#include "base/text.h"

/* A whole file in memory: mapped read-only (private), or a heap copy. */
typedef struct lora__blob { const uint8_t *data; size_t n; int mapped; } lora__blob;

/* Map a regular file. Missing: LORA_E_NOTFOUND. Directories, FIFOs, devices, dangling links: LORA_E_IO without blocking. An empty file gives
 * n = 0. A mapped file must not be shortened by anyone while it is open (SIGBUS); writers that replace by rename, as ours, never do that. */
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

/* Write one file atomically and durably: temp beside it, fsync, close, rename, fsync of the folder. On any error the old file stays and the temp
 * is removed; the one exception is a failed fsync of the folder after the rename: LORA_E_IO, and path is the new file.
 * A link at path is replaced, not followed. Files that are mapped keep their content. */
lora_status lora__file_replace(lora_context *ctx, const char *path, const lora__piece *pieces, size_t n);

/* Write a directory of files atomically: all is written into "<path>.tmp.<unique>", synced, then put in place of path by one rename, or by an
 * exchange of names when path is there; then the old directory is removed. At every moment path is the old or the new directory.
 *   begin -> file* -> commit, or abort at any time.
 * Of an old directory the files that the new one does not have are removed, or carried over when keep is set; its sub-directories are always
 * carried over (they are never ours to delete). A link at path is followed, so that the link stays.
 * Where the system has no exchange of names (old kernels, some network file systems) the old directory is first renamed to
 * "<path>.lora-previous" and the new one then takes its place. A process killed between the two renames leaves path missing and the old
 * directory whole under that name: lora__dir_current() finds it for readers, and the next lora__dir_begin() puts it back.
 * When the folder above can't be synced after the switch, commit fails with LORA_E_IO, path is the new directory and the old one is left under
 * the temp name on purpose: which of the two survives a power cut is then unknown, so neither may be deleted. */
typedef struct lora__dir {
	lora_context *ctx;
	char         *path, *temp, *previous;
	char         *from, *to;  /* scratch for names, so that commit and abort need no memory */
	int           folder;     /* descriptor of the folder above */
	int           keep;       /* set after begin: carry over files that the new directory does not have */
	lora_status   status;     /* first failure of lora__dir_file(); commit then aborts and returns it */
} lora__dir;
lora_status lora__dir_begin(lora_context *ctx, const char *path, lora__dir *out);
/* name: one path component. */
lora_status lora__dir_file(lora__dir *d, const char *name, const lora__piece *pieces, size_t n);
lora_status lora__dir_commit(lora__dir *d); /* releases d, also on failure */
void        lora__dir_abort(lora__dir *d);
/* The path to read from: path, or "<path>.lora-previous" when only that is there. On the heap; NULL = LORA_E_MEMORY recorded. */
char *lora__dir_current(lora_context *ctx, const char *path);

/* "dir/name" on the heap. */
char *lora__path_join(lora_context *ctx, const char *dir, const char *name);
int   lora__path_exists(const char *path);
int   lora__path_is_dir(const char *path);

#endif
