/* Host memory: every block of the library comes from the context's allocator, 64-byte aligned, with its size in front of it, so that
 * the host's free() gets the size back and the byte limit can be kept. Blocks may be taken and given back on worker threads. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/context.h"

enum { HEADER = 64, ALIGN = 64 };

typedef struct header { size_t bytes; } header;

/* Large blocks get huge pages where the system gives them on request: a page that is touched for the first time is dear, on virtual machines most. */
static void *default_alloc(void *user, size_t size, size_t align)
{
	enum { HUGE_PAGE = 2 << 20, LARGE = 4 * HUGE_PAGE };
	(void)user;
	void *p = NULL;
	if (posix_memalign(&p, size >= LARGE ? HUGE_PAGE : align, size)) return NULL;
#ifdef MADV_HUGEPAGE
	if (size >= LARGE) madvise(p, size, MADV_HUGEPAGE);
#endif
	return p;
}

static void default_free(void *user, void *p, size_t size, size_t align)
{
	(void)user, (void)size, (void)align;
	free(p);
}

void lora__allocator_default(lora_allocator *a)
{
	*a = (lora_allocator){ .struct_size = sizeof *a, .alloc = default_alloc, .free = default_free };
}

static int account(lora_context *ctx, size_t bytes)
{
	uint64_t now = atomic_fetch_add(&ctx->memory_now, bytes) + bytes;
	if (ctx->memory_limit && now > ctx->memory_limit) {
		atomic_fetch_sub(&ctx->memory_now, bytes);
		return 0;
	}
	uint64_t peak = atomic_load(&ctx->memory_peak);
	while (now > peak && !atomic_compare_exchange_weak(&ctx->memory_peak, &peak, now)) {}
	return 1;
}

static void *no_memory(lora_context *ctx, size_t bytes)
{
	lora__fail(ctx, LORA_E_MEMORY, "base", "out of memory: %zu bytes asked, %llu in use%s", bytes,
		(unsigned long long)atomic_load(&ctx->memory_now), ctx->memory_limit ? " (memory_limit is set)" : "");
	return NULL;
}

void *lora__alloc(lora_context *ctx, size_t bytes)
{
	size_t total;
	if (!lora__add_size(bytes, HEADER, &total) || !account(ctx, total)) return no_memory(ctx, bytes);
	uint8_t *raw = ctx->allocator.alloc(ctx->allocator.user, total, ALIGN);
	if (!raw || ((uintptr_t)raw & (ALIGN - 1))) {
		if (raw) ctx->allocator.free(ctx->allocator.user, raw, total, ALIGN);
		atomic_fetch_sub(&ctx->memory_now, total);
		return no_memory(ctx, bytes);
	}
	((header *)raw)->bytes = bytes;
	return raw + HEADER;
}

void *lora__zalloc(lora_context *ctx, size_t bytes)
{
	void *p = lora__alloc(ctx, bytes);
	if (p) memset(p, 0, bytes);
	return p;
}

void *lora__calloc(lora_context *ctx, size_t n, size_t each)
{
	size_t bytes;
	if (!lora__mul_size(n, each, &bytes)) return no_memory(ctx, SIZE_MAX);
	return lora__zalloc(ctx, bytes);
}

void lora__free(lora_context *ctx, void *p)
{
	if (!p) return;
	uint8_t *raw = (uint8_t *)p - HEADER;
	size_t total = ((header *)raw)->bytes + HEADER;
	ctx->allocator.free(ctx->allocator.user, raw, total, ALIGN);
	atomic_fetch_sub(&ctx->memory_now, total);
}

size_t lora__block_size(const void *p) { return p ? ((const header *)(const void *)((const uint8_t *)p - HEADER))->bytes + HEADER : 0; }
size_t lora__block_need(size_t bytes) { return bytes + HEADER; }

void *lora__realloc(lora_context *ctx, void *p, size_t bytes)
{
	if (!p) return lora__alloc(ctx, bytes);
	header *h = (header *)((uint8_t *)p - HEADER);
	size_t old = h->bytes, total;
	if (bytes == old) return p;
	if (ctx->allocator.realloc && bytes > old) {
		if (!lora__add_size(bytes, HEADER, &total) || !account(ctx, bytes - old)) return no_memory(ctx, bytes);
		uint8_t *raw = ctx->allocator.realloc(ctx->allocator.user, h, old + HEADER, total, ALIGN);
		if (!raw) {
			atomic_fetch_sub(&ctx->memory_now, bytes - old);
			return no_memory(ctx, bytes);
		}
		((header *)raw)->bytes = bytes;
		return raw + HEADER;
	}
	void *q = lora__alloc(ctx, bytes);
	if (!q) return NULL;
	memcpy(q, p, old < bytes ? old : bytes);
	lora__free(ctx, p);
	return q;
}

char *lora__strndup(lora_context *ctx, const char *s, size_t n)
{
	char *p = lora__alloc(ctx, n + 1);
	if (!p) return NULL;
	memcpy(p, s, n);
	p[n] = 0;
	return p;
}

char *lora__strdup(lora_context *ctx, const char *s) { return lora__strndup(ctx, s, strlen(s)); }

lora_status lora__grow(lora_context *ctx, void *array, size_t *cap, size_t need, size_t each)
{
	if (need <= *cap) return LORA_OK;
	size_t wanted = *cap ? *cap : 8, bytes;
	while (wanted < need) {
		if (!lora__mul_size(wanted, 2, &wanted)) wanted = need;
	}
	void *old, *p;
	memcpy(&old, array, sizeof old);
	if (!lora__mul_size(wanted, each, &bytes)) {
		no_memory(ctx, SIZE_MAX);
		return LORA_E_MEMORY;
	}
	if (!(p = lora__realloc(ctx, old, bytes))) return LORA_E_MEMORY;
	memcpy(array, &p, sizeof p);
	*cap = wanted;
	return LORA_OK;
}
