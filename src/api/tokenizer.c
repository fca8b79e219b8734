/* Exported functions of tokenizer.h: argument checks, and which file a path means. */
#include <stdio.h>

#include "format/file.h"
#include "tokenizer/tok.h"

/* The tokenizer.json that a directory holds; when there is none, say what else is there. *file is on the heap. */
static lora_status file_of(lora_context *ctx, const char *path, char **file)
{
	static const char *const others[] = { "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer.bin" };
	lora_status st = LORA_OK;
	*file = lora__path_is_dir(path) ? lora__path_join(ctx, path, "tokenizer.json") : lora__strdup(ctx, path);
	if (!*file) return LORA_E_MEMORY;
	if (!lora__path_is_dir(path) || lora__path_exists(*file)) return LORA_OK;
	for (size_t i = 0; i < sizeof others / sizeof *others && !st; i++) {
		char *other = lora__path_join(ctx, path, others[i]);
		if (!other) return LORA_E_MEMORY;
		if (lora__path_exists(other))
			st = lora__fail_at(ctx, LORA_E_UNSUPPORTED, "tokenizer", path, -1, "%s: %s without tokenizer.json is not supported; convert it first",
				lora__quote(path).text, others[i]);
		lora__free(ctx, other);
	}
	return st ? st : lora__fail_at(ctx, LORA_E_NOTFOUND, "tokenizer", path, -1, "%s: no tokenizer.json in this directory", lora__quote(path).text);
}

lora_status lora_tokenizer_open(lora_context *ctx, const char *path, lora_tokenizer **out)
{
	lora__blob blob = { 0 };
	char *file = NULL;
	if (out) *out = NULL;
	if (!ctx) return LORA_E_ARGUMENT;
	if (!path || !*path) return lora__fail_at(ctx, LORA_E_ARGUMENT, "tokenizer", "path", -1, "path is NULL or empty");
	if (!out) return lora__fail_at(ctx, LORA_E_ARGUMENT, "tokenizer", "out", -1, "out is NULL");
	lora_status st = file_of(ctx, path, &file);
	if (!st) st = lora__blob_read(ctx, file, ctx->limits.json_bytes, &blob);
	if (!st) st = lora__tokenizer_from_json(ctx, (const char *)blob.data, blob.n, lora__quote(file).text, out);
	lora__blob_close(ctx, &blob);
	lora__free(ctx, file);
	return st;
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

int64_t lora_tokenizer_size(const lora_tokenizer *t) { return t ? t->size : 0; }

int32_t lora_tokenizer_id(const lora_tokenizer *t, const char *token) { return t && token ? lora__tokenizer_id(t, token) : -1; }

void lora_tokenizer_destroy(lora_tokenizer *t) { lora__tokenizer_destroy(t); }
