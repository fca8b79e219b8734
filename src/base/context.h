/* The context behind lora_context: memory, errors, log, threads, limits. Lowest layer: everything includes this, it includes nothing of ours. */
#ifndef LORA_BASE_CONTEXT_H
#define LORA_BASE_CONTEXT_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>

#include "base/checked.h"
#include "lora/backend.h"
#include "lora/context.h"

struct lora__pool;

/* Upper bounds for what files may ask for. */
typedef struct lora__limits {
	uint64_t header_bytes;
	uint64_t json_bytes;
	uint64_t tensors;
} lora__limits;

struct lora_context {
	atomic_int           refs;
	lora_allocator       allocator;
	uint64_t             memory_limit;
	atomic_uint_fast64_t memory_now, memory_peak;
	lora_log_fn          log;
	void                *log_user;
	int32_t              log_level;
	int32_t              threads;
	lora__limits         limits;
	lora_error           error;
	atomic_flag          error_busy; /* held while error is written */
	struct lora__pool   *pool;
	lora_host_services   host; /* what backends of this context get */
	const lora_backend_v1 *backend; /* chosen backend and its instance; naive beside it for what the chosen one can't do */
	void                *backend_self;
	const lora_backend_v1 *naive;
	void                *naive_self;
	char                 plugin_dir[1024];
	atomic_uint_fast64_t next_id; /* serial numbers for handles */
	int32_t              backend_host_memory; /* 1: the chosen backend takes host pointers, so naive can stand in */
};

/* Reference counting: every child holds one. release() frees the context at zero. */
void lora__context_retain(lora_context *ctx);
void lora__context_release(lora_context *ctx);

/* Memory: 64-byte aligned blocks that know their size. A failed call records LORA_E_MEMORY and returns NULL. free(NULL) is a no-op.
 * Safe from worker threads. */
void *lora__alloc(lora_context *ctx, size_t bytes);
void *lora__zalloc(lora_context *ctx, size_t bytes);
void *lora__calloc(lora_context *ctx, size_t n, size_t each); /* zeroed, checked product */
void *lora__realloc(lora_context *ctx, void *p, size_t bytes);
void  lora__free(lora_context *ctx, void *p);
/* Bytes that a block counts for in lora_context_memory(), its header included; 0 for NULL. And what a block of that many bytes would. */
size_t lora__block_size(const void *p);
size_t lora__block_need(size_t bytes);
char *lora__strdup(lora_context *ctx, const char *s);
char *lora__strndup(lora_context *ctx, const char *s, size_t n);
/* Make room for at least need elements in *array (of *cap elements); doubles. Returns LORA_OK or LORA_E_MEMORY. */
lora_status lora__grow(lora_context *ctx, void *array, size_t *cap, size_t need, size_t each);

/* Record an error and return its status, so that `return lora__fail(...)` reads well. ctx may be NULL.
 * Untrusted text in a message must go through lora__quote(). */
lora_status lora__fail(lora_context *ctx, lora_status status, const char *module, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* The same with a tensor, key or argument name and a file offset (-1 = none). */
lora_status lora__fail_at(lora_context *ctx, lora_status status, const char *module, const char *name, int64_t offset, const char *format,
                          ...) __attribute__((format(printf, 6, 7)));
/* Put text in front of the message of the last error ("<path>: "). */
lora_status lora__fail_prefix(lora_context *ctx, lora_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Escape untrusted bytes for a message: control characters and invalid UTF-8 as \xNN, cut at 128 bytes with "...".
 * Each call of a statement uses the next of four slots of caller-provided rings: here a struct by value. */
typedef struct lora__quoted { char text[136]; } lora__quoted;
lora__quoted lora__quote_n(const char *s, size_t n);
lora__quoted lora__quote(const char *s);

void lora__log(lora_context *ctx, int32_t level, const char *module, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* 1 when s[0..n) is valid UTF-8 (no overlong forms, no surrogates); else 0 and *bad is the offset of the first bad byte. */
int lora__utf8_valid(const char *s, size_t n, size_t *bad);

/* Parallel loop over n tasks: thread t of T begins with tasks t*n/T .. (t+1)*n/T and then takes what others have not begun.
 * Which thread runs a task must not change the result. Nested calls run serially. */
void lora__parallel(lora_context *ctx, int64_t n_tasks, lora_task_fn fn, void *arg);
int  lora__nested(void); /* this thread is running a task */

/* Thread pool behind lora__parallel (base/threads.c). */
lora_status lora__pool_create(lora_context *ctx, int32_t threads);
void        lora__pool_destroy(lora_context *ctx);

/* Monotonic clock in seconds. */
double lora__now(void);

#endif
