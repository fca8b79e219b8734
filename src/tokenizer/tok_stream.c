/* Text of a growing list of ids. A character may be spread over ids, and how an id reads may depend on the one before it: so the ids since the last
 * settled place are decoded twice, without and with the new ones, and the difference is what is new. */
#include "tokenizer/tok.h"

enum { PATIENCE = 16 }; /* ids that may be waited for: no character takes that many, so these are none */

static lora_status decode(const lora_tokenizer *t, const int32_t *ids, size_t n, char **text, size_t *bytes)
{
	size_t room = 16 * n + 64;
	*text = NULL, *bytes = 0;
	if (!n) return LORA_OK;
	for (int pass = 0; pass < 2; pass++) {
		if (!(*text = lora__alloc(t->ctx, room))) return LORA_E_MEMORY;
		lora_status st = lora__tokenizer_decode(t, ids, n, *text, room, bytes);
		if (!st) return st;
		lora__free(t->ctx, *text);
		*text = NULL;
		if (st != LORA_E_LIMIT || *bytes < room) return st;
		room = *bytes + 1;
	}
	return LORA_E_INTERNAL;
}

/* Does a text end with what a decoder shows for a character that is not complete? */
static int is_open(const char *s, size_t n) { return n >= 3 && !memcmp(s + n - 3, "\xEF\xBF\xBD", 3); }

lora_status lora__tokenizer_stream(const lora_tokenizer *t, uint64_t state[2], const int32_t *ids, size_t count, int last, char *buf, size_t size, size_t *needed)
{
	char *before = NULL, *after = NULL;
	size_t from = (size_t)state[0], settled = (size_t)state[1], n_before = 0, n_after = 0, n = 0;
	lora_status st = decode(t, ids + from, settled - from, &before, &n_before);
	if (!st) st = decode(t, ids + from, count - from, &after, &n_after);
	if (st) goto done;
	if (n_after > n_before && (last || !is_open(after, n_after) || count - settled >= PATIENCE)) n = n_after - n_before;
	*needed = n;
	if (n && size < n + 1) {
		st = LORA_E_LIMIT;
		if (size) st = lora__fail(t->ctx, st, "tokenizer", "%zu bytes of text and a NUL, room for %zu", n, size);
		goto done;
	}
	if (size) {
		if (n) memcpy(buf, after + n_before, n);
		buf[n] = 0;
	}
	if (n) state[0] = settled, state[1] = count;
done:
	lora__free(t->ctx, before);
	lora__free(t->ctx, after);
	return st;
}
