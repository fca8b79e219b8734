/* Exported functions of tokenizer.h: argument checks. */
#include "api/tokenfiles.h"

lora_status lora_tokenizer_open(lora_context *ctx, const char *path, lora_tokenizer **out)
{
	if (out) *out = NULL;
	if (!ctx) return LORA_E_ARGUMENT;
	if (!path || !*path) return lora__fail_at(ctx, LORA_E_ARGUMENT, "tokenizer", "path", -1, "path is NULL or empty");
	if (!out) return lora__fail_at(ctx, LORA_E_ARGUMENT, "tokenizer", "out", -1, "out is NULL");
	return lora__tokenizer_open(ctx, path, out);
}

lora_status lora_tokenizer_encode(const lora_tokenizer *t, const char *text, size_t n, uint32_t flags, int32_t *ids, size_t capacity,
                                  size_t *count)
{
	size_t found = 0;
	if (!t) return LORA_E_ARGUMENT;
	if (!text && n) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "text", -1, "text is NULL, n is %zu", n);
	if (flags & ~(uint32_t)(LORA_TOKENIZE_SPECIAL | LORA_TOKENIZE_CONTROL))
		return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "flags", -1, "unknown bits in flags 0x%x", (unsigned)flags);
	if (!ids && capacity) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "ids", -1, "ids is NULL, capacity is %zu", capacity);
	if (!count) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "count", -1, "count is NULL");
	lora_status st = lora__tokenizer_encode(t, text ? text : "", n, flags, ids, capacity, &found);
	if (st == LORA_OK || found > capacity) *count = found;
	return st;
}

lora_status lora_tokenizer_decode(const lora_tokenizer *t, const int32_t *ids, size_t count, char *buf, size_t size, size_t *needed)
{
	size_t found = SIZE_MAX;
	if (!t) return LORA_E_ARGUMENT;
	if (!ids && count) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "ids", -1, "ids is NULL, count is %zu", count);
	if (!buf && size) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "buf", -1, "buf is NULL, size is %zu", size);
	if (!needed) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "needed", -1, "needed is NULL");
	lora_status st = lora__tokenizer_decode(t, ids, count, buf, size, &found);
	if (found != SIZE_MAX) *needed = found;
	return st;
}

lora_status lora_tokenizer_stream(const lora_tokenizer *t, uint64_t state[2], const int32_t *ids, size_t count, int32_t last, char *buf, size_t size,
                                  size_t *needed)
{
	size_t found = SIZE_MAX;
	if (!t) return LORA_E_ARGUMENT;
	if (!state || state[0] > state[1] || state[1] > count)
		return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "state", -1, "state is NULL or is none of a stream of these %zu ids", count);
	if (!ids && count) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "ids", -1, "ids is NULL, count is %zu", count);
	if (!buf && size) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "buf", -1, "buf is NULL, size is %zu", size);
	if (!needed) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "needed", -1, "needed is NULL");
	lora_status st = lora__tokenizer_stream(t, state, ids, count, last != 0, buf, size, &found);
	if (found != SIZE_MAX) *needed = found;
	return st;
}

int64_t lora_tokenizer_size(const lora_tokenizer *t) { return t ? t->size : 0; }

int32_t lora_tokenizer_id(const lora_tokenizer *t, const char *token) { return t && token ? lora__tokenizer_id(t, token) : -1; }

void lora_tokenizer_destroy(lora_tokenizer *t) { lora__tokenizer_destroy(t); }
