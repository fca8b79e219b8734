/* lora: growing bytes, in memory or in a temporary file. The file has no name, so it goes with the program, and its space is allocated before it is
 * mapped, so a full disk is an error and not a signal. */
#include "cli/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FIRST 4096
#define AROUND ((size_t)64 << 10) /* what the system maps around a page that is asked for */
#define MAPPED_MOST ((size_t)4 << 20)

static int open_temp(void)
{
	const char *dirs[] = { getenv("TMPDIR"), "/var/tmp", "/tmp" };
	for (size_t i = 0; i < 3; i++) {
		if (!dirs[i] || !*dirs[i]) continue;
		char *path = path_join(dirs[i], "lora-data-XXXXXX");
		int fd = path ? mkstemp(path) : -1;
		if (fd >= 0) unlink(path);
		free(path);
		if (fd >= 0) return fd;
	}
	return -1;
}

/* Room for cap bytes in the file; the first time what is in memory moves there. */
static int grow_file(store *s, size_t cap)
{
	int fresh = !s->mapped, bad;
	if (fresh && (s->fd = open_temp()) < 0) return fail_system("temporary file", "cannot be made");
	bad = posix_fallocate(s->fd, 0, (off_t)cap);
	if (bad) {
		errno = bad;
		if (fresh) close(s->fd);
		return fail_system("temporary file", "no room for the data (TMPDIR says where)");
	}
	void *p = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	if (p == MAP_FAILED) {
		if (fresh) close(s->fd);
		return fail_system("temporary file", "cannot be mapped");
	}
	if (fresh) {
		if (s->n) memcpy(p, s->p, s->n);
		free(s->p);
	} else {
		munmap(s->p, s->cap);
	}
	s->p = p;
	s->cap = cap;
	s->mapped = 1;
	return OK;
}

/* The mapping is shared, so what was written stays in the file. */
static void let_go(store *s)
{
	if (s->mapped) madvise(s->p, s->cap, MADV_DONTNEED);
	s->touched = 0;
}

int store_put(store *s, const void *data, size_t bytes)
{
	if (s->n + bytes > s->cap) {
		size_t cap = s->cap ? s->cap : FIRST;
		while (cap < s->n + bytes) cap *= 2;
		if (s->mapped || cap > s->limit) {
			if (grow_file(s, cap)) return FAILED;
		} else {
			void *more = grow(s->p, cap, 1);
			if (!more) return FAILED;
			s->p = more;
			s->cap = cap;
		}
	}
	if (data) memcpy((char *)s->p + s->n, data, bytes);
	else memset((char *)s->p + s->n, 0, bytes);
	s->n += bytes;
	s->touched += bytes;
	if (s->touched > MAPPED_MOST) let_go(s);
	return OK;
}

void store_used(store *s, size_t bytes)
{
	s->touched += bytes + AROUND;
	if (s->touched > MAPPED_MOST) let_go(s);
}

void store_free(store *s)
{
	if (s->mapped) {
		munmap(s->p, s->cap);
		close(s->fd);
	} else {
		free(s->p);
	}
	memset(s, 0, sizeof *s);
}
