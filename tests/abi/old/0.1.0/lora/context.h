/* liblora: the context: allocator, log, threads, backend, limits, last error.
 * Everything else hangs on one. Different contexts share nothing and may be used from different threads. */
#ifndef LORA_CONTEXT_H
#define LORA_CONTEXT_H

#include "lora/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Host allocator. All three functions get the same user pointer; free and realloc get the size that was asked for.
 * align is a power of two, at most 64. realloc may be NULL: alloc, copy, free is used instead.
 * The functions must be safe to call from the threads that the context was allowed to start. */
typedef struct lora_allocator {
	uint32_t struct_size; /* sizeof(lora_allocator) */
	uint32_t reserved;
	void *(*alloc)(void *user, size_t size, size_t align);
	void *(*realloc)(void *user, void *p, size_t old_size, size_t new_size, size_t align);
	void (*free)(void *user, void *p, size_t size, size_t align);
	void *user;
} lora_allocator;

enum { LORA_LOG_ERROR = 1, LORA_LOG_WARN = 2, LORA_LOG_INFO = 3, LORA_LOG_DEBUG = 4 };

/* Log callback; may be called from the context's worker threads and must not call back into the library. */
typedef void (*lora_log_fn)(void *user, int32_t level, const char *module, const char *message);

/* What went wrong in the last failed call on a context. All strings are terminated; text from files is escaped and cut. */
typedef struct lora_error {
	uint32_t    struct_size;
	lora_status status;
	char        module[16];
	char        message[512];
	char        tensor[136]; /* tensor, key or argument name, or empty */
	int64_t     offset;      /* byte offset in a file, or -1 */
	int64_t     value;       /* what a refusing callback returned, or 0 */
} lora_error;

/* Options of a context. Call lora_context_options_init() first, then change what you need. */
typedef struct lora_context_options {
	uint32_t              struct_size;
	int32_t               threads;     /* worker threads that the library may use, caller included; default 1, 0 = all cores */
	const lora_allocator *allocator;   /* copied; NULL = malloc */
	uint64_t              memory_limit; /* bytes of host memory at once; 0 = no limit */
	lora_log_fn           log;         /* NULL = silent */
	void                 *log_user;
	int32_t               log_level;   /* highest level passed on; default LORA_LOG_WARN */
	int32_t               reserved0;
	const char           *backend;     /* "auto" (default), "naive", "blis", ... */
	const char           *plugin_dir;  /* where plug-ins are; NULL = the directory set at build, or $LORA_PLUGIN_DIR */
	uint64_t              max_header_bytes; /* limits for untrusted files: safetensors header; default 100,000,000 */
	uint64_t              max_json_bytes;   /* any other JSON document; default 64 MiB */
	uint64_t              max_tensors;      /* tensors in one file; default 4,000,000 */
	lora_error           *error;       /* filled when creation fails; may be NULL */
	uint64_t              reserved[4]; /* zero */
} lora_context_options;

/* Fill opts with the defaults.
 * opts     caller's memory
 * size     sizeof(lora_context_options) as the caller knows it
 * Errors   LORA_E_ARGUMENT opts is NULL or size is too small
 * Thread   any
 * Since    0.1 */
LORA_API lora_status lora_context_options_init(lora_context_options *opts, size_t size);

/* Create a context. This is the only call that reads the environment (LORA_PLUGIN_DIR, ignored in set-uid programs).
 * abi      LORA_ABI as the caller was compiled with
 * opts     borrowed for the call; NULL = defaults
 * out      returned owned; set to NULL on failure
 * Errors   LORA_E_VERSION abi or opts is newer than the library; LORA_E_ARGUMENT a bad option;
 *          LORA_E_BACKEND the named backend can't be had; LORA_E_MEMORY
 * Thread   any
 * Since    0.1 */
LORA_API lora_status lora_context_create(uint32_t abi, const lora_context_options *opts, lora_context **out);

/* Release a context. Its memory goes when its last child goes. NULL is a no-op.
 * Thread   exclusive(context)
 * Since    0.1 */
LORA_API void lora_context_destroy(lora_context *ctx);

/* Message of the last failed call on this context, one line; "" before any error or for NULL.
 * Returns  returned borrowed from the context, until the next call on it or its children
 * Thread   exclusive(context)
 * Since    0.1 */
LORA_API const char *lora_context_last_error(const lora_context *ctx);

/* Copy the whole record of the last failed call.
 * out      caller's memory; out->struct_size must be set by the caller
 * Errors   LORA_E_ARGUMENT ctx or out is NULL, or struct_size is too small
 * Thread   exclusive(context)
 * Since    0.1 */
LORA_API lora_status lora_context_error(const lora_context *ctx, lora_error *out);

/* Name of the backend in use, such as "blis".
 * Returns  returned borrowed from the context; "" for NULL
 * Thread   any
 * Since    0.1 */
LORA_API const char *lora_context_backend_name(const lora_context *ctx);

/* Threads in use, caller included; 0 for NULL.
 * Thread   any
 * Since    0.1 */
LORA_API int32_t lora_context_threads(const lora_context *ctx);

/* Bytes of host memory now held through this context, and the most at any time.
 * now, peak  may be NULL
 * Errors   LORA_E_ARGUMENT ctx is NULL
 * Thread   any
 * Since    0.1 */
LORA_API lora_status lora_context_memory(const lora_context *ctx, uint64_t *now, uint64_t *peak);

/* Library version as one number: major * 1,000,000 + minor * 1,000 + patch.
 * Thread   any
 * Since    0.1 */
LORA_API uint32_t lora_version(void);

/* Library version as text, such as "0.1.0".
 * Returns  returned borrowed from the library, for ever
 * Thread   any
 * Since    0.1 */
LORA_API const char *lora_version_string(void);

/* The library's LORA_ABI, for callers that can't read macros.
 * Thread   any
 * Since    0.1 */
LORA_API uint32_t lora_abi(void);

/* Compiler, flags and built-in parts, one line.
 * Returns  returned borrowed from the library, for ever
 * Thread   any
 * Since    0.1 */
LORA_API const char *lora_build_info(void);

#ifdef __cplusplus
}
#endif
#endif
