/* Test support: system calls of writing that fail, stop half-way, are interrupted, or kill the process, at the n-th one; and scratch folders.
 * Include it after <check.h>.
 *
 *     faults f;
 *     faults_on(&f, 3, FAULT_ERRNO, EIO, 0);   // the third call fails with EIO; last argument 1: all later ones too
 *     lora__file_replace(...);
 *     faults_off(&f);                          // f.calls: how many there were; f.hit: name of the call that was hit, or NULL */
#ifndef LORA_TESTS_FAULTS_H
#define LORA_TESTS_FAULTS_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/file.h"

enum { FAULT_NONE, FAULT_ERRNO, FAULT_SHORT, FAULT_KILL };

typedef struct faults {
	lora__io        table;
	const lora__io *real;
	long            calls, at;
	int             kind, error, forever, no_exchange;
	const char     *hit; /* first call that was hit */
} faults;

/* 1 when this call is to be disturbed. A kill does not come back. */
static inline int faults_here(faults *f, const char *name)
{
	f->calls++;
	if (!f->at || (f->forever ? f->calls < f->at : f->calls != f->at)) return 0;
	if (f->kind == FAULT_KILL) raise(SIGKILL);
	if (!f->hit) f->hit = name;
	errno = f->error;
	return f->kind == FAULT_ERRNO;
}

static inline int faults_open(void *u, const char *p, int flags, int mode)
{
	faults *f = u;
	return faults_here(f, "open") ? -1 : f->real->open(f->real->user, p, flags, mode);
}
static inline int64_t faults_write(void *u, int fd, const void *p, size_t n)
{
	faults *f = u;
	if (faults_here(f, "write")) return -1;
	if (f->kind == FAULT_SHORT && f->at && (f->forever ? f->calls >= f->at : f->calls == f->at) && n > 1) n /= 2;
	return f->real->write(f->real->user, fd, p, n);
}
static inline int faults_is_folder(int fd)
{
	struct stat s;
	return fstat(fd, &s) == 0 && S_ISDIR(s.st_mode);
}
static inline int faults_fsync(void *u, int fd)
{
	return faults_here(u, faults_is_folder(fd) ? "fsync folder" : "fsync") ? -1 : 0; /* no real sync: nobody cuts the power here */
}
static inline int faults_close(void *u, int fd)
{
	faults *f = u;
	int     bad = faults_here(f, faults_is_folder(fd) ? "close folder" : "close"), error = errno;
	f->real->close(f->real->user, fd); /* a failed close closes too */
	errno = error;
	return bad ? -1 : 0;
}
static inline int faults_rename(void *u, const char *a, const char *b)
{
	faults *f = u;
	return faults_here(f, "rename") ? -1 : f->real->rename(f->real->user, a, b);
}
static inline int faults_unlink(void *u, const char *p)
{
	faults *f = u;
	return faults_here(f, "unlink") ? -1 : f->real->unlink(f->real->user, p);
}
static inline int faults_mkdir(void *u, const char *p, int mode)
{
	faults *f = u;
	return faults_here(f, "mkdir") ? -1 : f->real->mkdir(f->real->user, p, mode);
}
static inline int faults_rmdir(void *u, const char *p)
{
	faults *f = u;
	return faults_here(f, "rmdir") ? -1 : f->real->rmdir(f->real->user, p);
}
static inline int faults_exchange(void *u, const char *a, const char *b)
{
	faults *f = u;
	if (faults_here(f, "exchange")) return -1;
	if (!f->no_exchange) return f->real->exchange(f->real->user, a, b);
	errno = ENOSYS;
	return -1;
}

static inline void faults_on(faults *f, long at, int kind, int error, int forever)
{
	memset(f, 0, sizeof *f);
	f->table = (lora__io){ faults_open,   faults_write, faults_fsync, faults_close,    faults_rename,
		                   faults_unlink, faults_mkdir, faults_rmdir, faults_exchange, f };
	f->real = lora__io_active;
	f->at = at, f->kind = kind, f->error = error, f->forever = forever;
	lora__io_active = &f->table;
}

static inline void faults_off(faults *f) { lora__io_active = f->real; }

/* Run fn(arg) in a child. Returns 1 when a signal killed it, 0 when it ran to its end. */
static inline int faults_in_child(void (*fn)(void *), void *arg)
{
	int   status;
	pid_t pid = fork();
	if (pid == 0) {
		fn(arg);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) return -1;
	return WIFSIGNALED(status);
}

/* --- scratch folders --- */

typedef struct scratch { char dir[256]; int next; } scratch;

static inline void scratch_make(scratch *s)
{
	const char *base = getenv("TMPDIR");
	memset(s, 0, sizeof *s);
	snprintf(s->dir, sizeof s->dir, "%s/lora-test-XXXXXX", base && *base ? base : P_tmpdir);
	if (!mkdtemp(s->dir)) perror(s->dir), abort();
}

/* "dir/name"; good for four more calls. */
static inline const char *scratch_path(scratch *s, const char *name)
{
	static char text[4][512];
	char       *out = text[s->next++ & 3];
	snprintf(out, sizeof text[0], "%s/%s", s->dir, name);
	return out;
}

static inline void scratch_remove_tree(const char *path)
{
	struct stat s;
	char        name[4096];
	if (lstat(path, &s)) return;
	DIR *d = S_ISDIR(s.st_mode) ? opendir(path) : NULL;
	for (struct dirent *e; d && (e = readdir(d));) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
		if (snprintf(name, sizeof name, "%s/%s", path, e->d_name) >= (int)sizeof name) continue;
		scratch_remove_tree(name);
	}
	if (d) closedir(d);
	if (S_ISDIR(s.st_mode)) rmdir(path);
	else unlink(path);
}

static inline void scratch_remove(scratch *s) { scratch_remove_tree(s->dir); }

/* Number of entries of a folder. */
static inline int scratch_count(const char *path)
{
	int  n = 0;
	DIR *d = opendir(path);
	for (struct dirent *e; d && (e = readdir(d));) n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	if (d) closedir(d);
	return d ? n : -1;
}

static inline void scratch_write(const char *path, const void *bytes, size_t n)
{
	FILE *f = fopen(path, "wb");
	if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) perror(path), abort();
}

/* 1 when the file holds exactly these bytes. */
static inline int scratch_is(const char *path, const void *bytes, size_t n)
{
	char *have = malloc(n + 1);
	FILE *f = fopen(path, "rb");
	int   same = f && fread(have, 1, n + 1, f) == n && memcmp(have, bytes, n) == 0;
	if (f) fclose(f);
	free(have);
	return same;
}

#endif
