/* Exported functions of context.h and status.h. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "backend/backend.h"

void lora__allocator_default(lora_allocator *a);

const char *lora_status_name(lora_status status)
{
	static const char *const names[] = { "LORA_OK", "LORA_E_MEMORY", "LORA_E_ARGUMENT", "LORA_E_STATE", "LORA_E_VERSION", "LORA_E_UNSUPPORTED",
		"LORA_E_FORMAT", "LORA_E_LIMIT", "LORA_E_SHAPE", "LORA_E_DTYPE", "LORA_E_NUMERIC", "LORA_E_NOTFOUND", "LORA_E_EXISTS", "LORA_E_IO",
		"LORA_E_BACKEND", "LORA_E_CALLBACK", "LORA_E_CANCELLED", "LORA_E_INTERNAL" };
	return status <= 0 && status > -(lora_status)(sizeof names / sizeof *names) ? names[-status] : "LORA_E_?";
}

lora_status lora_context_options_init(lora_context_options *opts, size_t size)
{
	if (!opts || size < sizeof(uint32_t) * 2) return LORA_E_ARGUMENT;
	lora_context_options o = { .struct_size = sizeof o, .threads = 1, .log_level = LORA_LOG_WARN, .max_header_bytes = 100000000u,
		.max_json_bytes = 64u << 20, .max_tensors = 4000000u };
	size_t n = size < sizeof o ? size : sizeof o;
	memset(opts, 0, size);
	memcpy(opts, &o, n);
	opts->struct_size = (uint32_t)size;
	return LORA_OK;
}

/* Read the caller's options: what is missing has its default, extra bytes must be zero. */
static lora_status read_options(const lora_context_options *in, lora_context_options *o, const char **why)
{
	lora_context_options_init(o, sizeof *o);
	if (!in) return LORA_OK;
	size_t n = in->struct_size;
	if (n < sizeof(uint32_t) * 2) return *why = "options: struct_size is not set; call lora_context_options_init()", LORA_E_ARGUMENT;
	for (size_t i = sizeof *o; i < n; i++)
		if (((const unsigned char *)in)[i]) return *why = "options: made for a newer library", LORA_E_VERSION;
	memcpy(o, in, n < sizeof *o ? n : sizeof *o);
	for (int i = 0; i < 4; i++)
		if (o->reserved[i]) return *why = "options: reserved members must be zero", LORA_E_ARGUMENT;
	if (o->threads < 0 || o->threads > 1024) return *why = "options: threads must be 0 to 1024", LORA_E_ARGUMENT;
	if (o->reserved0) return *why = "options: reserved members must be zero", LORA_E_ARGUMENT;
	const lora_allocator *a = o->allocator;
	if (a && (a->struct_size < sizeof *a || !a->alloc || !a->free)) return *why = "options: the allocator lacks alloc, free or struct_size", LORA_E_ARGUMENT;
	return LORA_OK;
}

static void creation_error(const lora_context_options *opts, lora_status st, const char *message, const lora_context *ctx)
{
	if (!opts || opts->struct_size < offsetof(lora_context_options, error) + sizeof opts->error || !opts->error) return;
	lora_error *e = opts->error;
	if (ctx) *e = ctx->error;
	else {
		memset(e, 0, sizeof *e);
		e->status = st, e->offset = -1;
		memcpy(e->module, "context", 8);
		size_t n = strlen(message);
		memcpy(e->message, message, n < sizeof e->message ? n + 1 : sizeof e->message - 1);
	}
	e->struct_size = sizeof *e;
}

static void read_plugin_dir(lora_context *ctx, const char *option)
{
	const char *dir = option;
	if (!dir && !getauxval(AT_SECURE)) dir = getenv("LORA_PLUGIN_DIR");
	size_t n = dir ? strlen(dir) : 0;
	if (n && n < sizeof ctx->plugin_dir) memcpy(ctx->plugin_dir, dir, n + 1);
}

lora_status lora_context_create(uint32_t abi, const lora_context_options *opts, lora_context **out)
{
	const char *why = "out is NULL";
	lora_context_options o;
	lora_context *ctx = NULL;
	if (out) *out = NULL;
	lora_status st = out ? read_options(opts, &o, &why) : LORA_E_ARGUMENT;
	if (st == LORA_OK && abi != LORA_ABI) why = "the header and the library have different LORA_ABI numbers", st = LORA_E_VERSION;
	if (st) goto fail;
	lora_allocator a;
	lora__allocator_default(&a);
	if (o.allocator) a = *o.allocator;
	ctx = a.alloc(a.user, sizeof *ctx, 64);
	if (!ctx) {
		why = "out of memory", st = LORA_E_MEMORY;
		goto fail;
	}
	memset(ctx, 0, sizeof *ctx);
	ctx->allocator = a;
	atomic_init(&ctx->refs, 1);
	ctx->memory_limit = o.memory_limit;
	ctx->log = o.log, ctx->log_user = o.log_user, ctx->log_level = o.log_level;
	ctx->limits = (lora__limits){ o.max_header_bytes, o.max_json_bytes, o.max_tensors };
	ctx->error.struct_size = sizeof ctx->error, ctx->error.offset = -1;
	ctx->threads = o.threads ? o.threads : (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
	if (ctx->threads < 1) ctx->threads = 1;
	read_plugin_dir(ctx, o.plugin_dir);
	if ((st = lora__pool_create(ctx, ctx->threads)) || (st = lora__backend_select(ctx, o.backend ? o.backend : "auto"))) {
		creation_error(opts, st, NULL, ctx);
		lora__context_release(ctx);
		return st;
	}
	*out = ctx;
	return LORA_OK;
fail:
	creation_error(opts, st, why, NULL);
	return st;
}

void lora__context_release(lora_context *ctx)
{
	if (atomic_fetch_sub(&ctx->refs, 1) != 1) return;
	lora__backend_close(ctx);
	lora__pool_destroy(ctx);
	lora_allocator a = ctx->allocator;
	a.free(a.user, ctx, sizeof *ctx, 64);
}

void lora_context_destroy(lora_context *ctx)
{
	if (ctx) lora__context_release(ctx);
}

const char *lora_context_last_error(const lora_context *ctx) { return ctx ? ctx->error.message : ""; }

lora_status lora_context_error(const lora_context *ctx, lora_error *out)
{
	if (!ctx || !out || out->struct_size < 8) return LORA_E_ARGUMENT;
	uint32_t size = out->struct_size;
	memcpy(out, &ctx->error, size < sizeof ctx->error ? size : sizeof ctx->error);
	out->struct_size = size;
	return LORA_OK;
}

const char *lora_context_backend_name(const lora_context *ctx) { return ctx && ctx->backend ? ctx->backend->name : ""; }

int32_t lora_context_threads(const lora_context *ctx) { return ctx ? ctx->threads : 0; }

lora_status lora_context_memory(const lora_context *ctx, uint64_t *now, uint64_t *peak)
{
	if (!ctx) return LORA_E_ARGUMENT;
	if (now) *now = atomic_load(&ctx->memory_now);
	if (peak) *peak = atomic_load(&ctx->memory_peak);
	return LORA_OK;
}

const char *lora_version_string(void) { return LORA_VERSION_TEXT; }

uint32_t lora_version(void)
{
	uint32_t part[3] = { 0, 0, 0 };
	int i = 0;
	for (const char *p = LORA_VERSION_TEXT; *p && i < 3; p++) {
		if (*p == '.') i++;
		else if (*p >= '0' && *p <= '9') part[i] = part[i] * 10 + (uint32_t)(*p - '0');
	}
	return part[0] * 1000000u + part[1] * 1000u + part[2];
}

uint32_t lora_abi(void) { return LORA_ABI; }

const char *lora_build_info(void)
{
	return "liblora " LORA_VERSION_TEXT ", " __VERSION__
#ifdef __OPTIMIZE__
	       ", optimised"
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	       ", big-endian"
#endif
	       ", jansson " JANSSON_VERSION;
}
