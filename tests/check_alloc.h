/* Test support: an allocator that counts, fences and poisons every block, and fails where it is told to; and comparisons that say what
 * they saw. Include it after <check.h>.
 *
 *     check_alloc ca;
 *     check_alloc_init(&ca);
 *     lora_context *ctx = check_context(&ca);          // a context on naive, whose memory all comes from ca
 *     ca.fail_at = 3;                                  // the third allocation from now on returns NULL (fail_forever: and all later ones)
 *     ...
 *     check_alloc_done(&ca);                           // nothing leaked, no fence broken, every size given back right
 *
 * Fresh memory is filled with 0xA5 and freed memory with 0xDD, so that reading either is seen. After each block stands a fence of 32 bytes
 * and before it a header with its size; both are verified at free. Blocks may be taken on worker threads. */
#ifndef LORA_TESTS_CHECK_ALLOC_H
#define LORA_TESTS_CHECK_ALLOC_H

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lora/lora.h"

typedef struct check_alloc {
	lora_allocator  table;
	pthread_mutex_t lock;
	long            fail_at;      /* countdown to the failing allocation; 0 = never */
	int             fail_forever; /* every allocation after that one fails too */
	long            calls;        /* allocations asked for since the last reset */
	long            failures;     /* allocations refused */
	long            live;         /* blocks not yet freed */
	size_t          live_bytes;
	size_t          byte_limit;   /* refuse when live_bytes would pass it; 0 = none */
	int             broken;       /* a fence or a size was wrong */
} check_alloc;

enum { CHECK_ALLOC_FENCE = 32, CHECK_ALLOC_HEAD = 64 };

static inline void *check_alloc_take(void *user, size_t size, size_t align)
{
	check_alloc *ca = user;
	void        *raw = NULL;
	pthread_mutex_lock(&ca->lock);
	ca->calls++;
	int fail = ca->byte_limit && ca->live_bytes + size > ca->byte_limit;
	if (ca->fail_at > 0 && --ca->fail_at == 0) {
		fail = 1;
		if (ca->fail_forever) ca->fail_at = 1;
	}
	if (align > CHECK_ALLOC_HEAD || size > SIZE_MAX - CHECK_ALLOC_HEAD - CHECK_ALLOC_FENCE) fail = 1;
	if (!fail && posix_memalign(&raw, CHECK_ALLOC_HEAD, CHECK_ALLOC_HEAD + size + CHECK_ALLOC_FENCE) == 0) {
		memcpy(raw, &size, sizeof size);
		memset((char *)raw + CHECK_ALLOC_HEAD, 0xA5, size);
		memset((char *)raw + CHECK_ALLOC_HEAD + size, 0xFE, CHECK_ALLOC_FENCE);
		ca->live++, ca->live_bytes += size;
	} else {
		ca->failures++;
	}
	pthread_mutex_unlock(&ca->lock);
	return raw ? (char *)raw + CHECK_ALLOC_HEAD : NULL;
}

static inline void check_alloc_give(void *user, void *p, size_t size, size_t align)
{
	check_alloc *ca = user;
	char        *raw = (char *)p - CHECK_ALLOC_HEAD;
	size_t       real;
	(void)align;
	if (!p) return;
	memcpy(&real, raw, sizeof real);
	pthread_mutex_lock(&ca->lock);
	if (real != size) ca->broken = 1, fprintf(stderr, "check_alloc: block of %zu bytes freed as %zu\n", real, size);
	for (int i = 0; i < CHECK_ALLOC_FENCE; i++) {
		if ((unsigned char)raw[CHECK_ALLOC_HEAD + real + (size_t)i] == 0xFE) continue;
		ca->broken = 1, fprintf(stderr, "check_alloc: block of %zu bytes was written %d bytes past its end\n", real, i + 1);
		break;
	}
	ca->live--, ca->live_bytes -= real;
	pthread_mutex_unlock(&ca->lock);
	memset(raw, 0xDD, CHECK_ALLOC_HEAD + real);
	free(raw);
}

static inline void check_alloc_init(check_alloc *ca)
{
	memset(ca, 0, sizeof *ca);
	pthread_mutex_init(&ca->lock, NULL);
	ca->table.struct_size = sizeof ca->table;
	ca->table.alloc = check_alloc_take;
	ca->table.free = check_alloc_give; /* no realloc: a growing block always moves, so a stale pointer is seen */
	ca->table.user = ca;
}

/* Start counting anew; the n-th allocation fails (0 = none). */
static inline void check_alloc_arm(check_alloc *ca, long n, int forever)
{
	ca->calls = ca->failures = 0;
	ca->fail_at = n, ca->fail_forever = forever;
}

/* 1 when nothing is left over and nothing was broken. */
static inline int check_alloc_clean(const check_alloc *ca) { return ca->live == 0 && !ca->broken; }

static inline lora_status check_context_create(check_alloc *ca, int threads, lora_context **out)
{
	lora_context_options o;
	lora_context_options_init(&o, sizeof o);
	o.allocator = ca ? &ca->table : NULL;
	o.threads = threads;
	o.backend = "naive";
	return lora_context_create(LORA_ABI, &o, out);
}

/* Print why a test did nothing; the runner counts and shows it. Follow it with return. */
#define check_skip(...) (printf("SKIP "), printf(__VA_ARGS__), printf("\n"), fflush(stdout))

/* 1 when the quick set was asked for (make check-quick): tests may then do less. */
static inline int check_quick(void) { return getenv("LORA_QUICK") != NULL; }

/* Seed of random tests: $LORA_SEED, or the default; print it with a failure. */
static inline uint64_t check_seed(uint64_t standard)
{
	const char *text = getenv("LORA_SEED");
	return text && *text ? (uint64_t)strtoull(text, NULL, 0) : standard;
}

/* A small generator of its own, so that tests do not lean on what they test (splitmix64). */
static inline uint64_t check_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9E3779B97F4A7C15u);
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
	return z ^ (z >> 31);
}

#ifdef CHECK_H
/* A call that must succeed; the message of the context (may be NULL) is shown when it does not. */
#define check_ok(ctx, call)                                                                                            \
	do {                                                                                                               \
		lora_status check_st = (call);                                                                                 \
		ck_assert_msg(check_st == LORA_OK, "%s: %s: %s", #call, lora_status_name(check_st), lora_context_last_error(ctx)); \
	} while (0)

/* A call that must fail with this status. */
#define check_fails(status, call)                                                                                      \
	do {                                                                                                               \
		lora_status check_st = (call);                                                                                 \
		ck_assert_msg(check_st == (status), "%s: %s instead of %s", #call, lora_status_name(check_st), lora_status_name(status)); \
	} while (0)

/* got[i] within bound of want[i] for i < n; infinities must be equal and NaN meet NaN. */
#define check_close(got, want, n, bound)                                                                               \
	do {                                                                                                               \
		for (size_t check_i = 0; check_i < (size_t)(n); check_i++) {                                                   \
			double check_g = (double)(got)[check_i], check_w = (double)(want)[check_i], check_b = (bound);             \
			if (check_g == check_w || (isnan(check_g) && isnan(check_w))) continue;                                    \
			ck_assert_msg(fabs(check_g - check_w) <= check_b, "%s[%zu] = %.9g, wanted %.9g: off by %.3g, bound %.3g", #got, check_i, \
				check_g, check_w, fabs(check_g - check_w), check_b);                                                   \
		}                                                                                                              \
	} while (0)

#define check_alloc_done(ca)                                                                                           \
	do {                                                                                                               \
		ck_assert_msg((ca)->live == 0, "%ld blocks (%zu bytes) leaked", (ca)->live, (ca)->live_bytes);                 \
		ck_assert_msg(!(ca)->broken, "a block was damaged (see stderr)");                                              \
	} while (0)

static inline lora_context *check_context(check_alloc *ca)
{
	lora_context *ctx = NULL;
	lora_status   st = check_context_create(ca, 1, &ctx);
	ck_assert_msg(st == LORA_OK, "no context: %s", lora_status_name(st));
	return ctx;
}
#endif
#endif
