/* Ids of a text, and which of them lie in spans of it. Tokens do not say where they come from; but between added tokens a text is a stretch of its
 * own, and of a stretch that a span begins or ends in, the part before the border is encoded by itself: the ids that both have in common stand
 * before the border. One id that is neither before nor behind it holds the border, and belongs to the span.
 * The reference (transformers, char_to_token) says the same wherever encoding a part does not change tokens further to the left. */
#include "tokenizer/chat.h"

typedef struct stretch { size_t start, end, id; int added, first; } stretch; /* bytes of the text; first id */
typedef struct stretches { stretch *list; size_t n, cap; } stretches;

static lora_status add(lora__tok_call *c, stretches *w, size_t start, size_t end, int added, int first)
{
	lora_status st = w->n < w->cap ? LORA_OK : lora__grow(c->ctx, &w->list, &w->cap, w->n + 1, sizeof *w->list);
	if (!st) w->list[w->n++] = (stretch){ start, end, c->n_ids, added, first };
	return st;
}

/* As encode_text() in tok_core.c, with notes of what came from where. */
static lora_status walk(lora__tok_call *c, const char *s, size_t n, stretches *w)
{
	const lora__tok_added *a = &c->t->added;
	const lora__tok_trie *trie = a->control.n > 1 ? &a->control : &a->raw;
	const lora__tok_added_token *t;
	size_t at = 0, done = 0, start, end;
	lora_status st = LORA_OK;
	while (!st && (t = lora__tok_added_find(a, trie, s, n, &at, done, &start, &end))) {
		if (start > done && !(st = add(c, w, done, start, 0, !done))) st = lora__tok_gap(c, s + done, start - done, !done);
		if (!st && end > start && !(st = add(c, w, start, end, 1, 0))) st = lora__tok_emit(c, t->id);
		done = end;
	}
	if (!st && n > done && !(st = add(c, w, done, n, 0, !done))) st = lora__tok_gap(c, s + done, n - done, !done);
	return st ? st : add(c, w, n, n, 1, 0);
}

/* Ids from the stretch k on that stand wholly before byte p. */
static lora_status before(const lora__tok_call *c, const stretches *w, const char *s, size_t k, size_t p, size_t *out)
{
	const stretch *d = &w->list[k];
	size_t from = d->id, to = w->list[k + 1].id, n = 0;
	*out = from;
	if (p <= d->start || d->added) return LORA_OK;
	lora__tok_call part;
	lora_status st = lora__tok_call_begin(c->t, &part);
	if (!st) st = lora__tok_gap(&part, s + d->start, p - d->start, d->first);
	while (!st && n < part.n_ids && from + n < to && part.ids[n] == c->ids[from + n]) n++;
	*out = from + n;
	lora__tok_call_end(&part);
	return st;
}

/* Ids that hold a byte of the span. */
static lora_status mark(const lora__tok_call *c, const stretches *w, const char *s, lora__chat_span span, size_t *from, uint8_t *mask)
{
	lora_status st = LORA_OK;
	while (*from + 1 < w->n && w->list[*from].end <= span.start) ++*from;
	for (size_t k = *from; k + 1 < w->n && w->list[k].start < span.end && !st; k++) {
		const stretch *d = &w->list[k];
		size_t first = d->id, last = w->list[k + 1].id;
		if (span.start > d->start) st = before(c, w, s, k, span.start, &first);
		if (!st && span.end < d->end) {
			st = before(c, w, s, k, span.end, &last);
			/* the id that goes on from the last common one holds the border, when the part had one there */
			lora__tok_call part;
			if (!st && !(st = lora__tok_call_begin(c->t, &part))) {
				st = lora__tok_gap(&part, s + d->start, span.end - d->start, d->first);
				if (!st && d->id + part.n_ids > last && last < w->list[k + 1].id) last++;
				lora__tok_call_end(&part);
			}
		}
		for (size_t i = first; i < last && !st; i++) mask[i] = 1;
	}
	return st;
}

lora_status lora__tokenizer_encode_spans(const lora_tokenizer *t, const char *text, size_t n, const lora__chat_span *spans, size_t n_spans, int32_t *ids,
                                         uint8_t *mask, size_t capacity, size_t *count)
{
	lora__tok_call c;
	stretches w = { 0 };
	size_t from = 0, bad;
	if (!lora__utf8_valid(text, n, &bad))
		return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "text", (int64_t)bad, "text is not UTF-8 at byte %zu", bad);
	lora_status st = lora__tok_call_begin(t, &c);
	if (!st) st = walk(&c, text, n, &w);
	if (!st) *count = c.n_ids;
	if (!st && c.n_ids > capacity) {
		st = LORA_E_LIMIT;
		if (capacity) st = lora__fail(t->ctx, st, "tokenizer", "%zu ids, room for %zu", c.n_ids, capacity);
	} else if (!st) {
		if (c.n_ids) memcpy(ids, c.ids, c.n_ids * sizeof *ids);
		if (mask && c.n_ids) memset(mask, 0, c.n_ids);
		for (size_t i = 0; i < n_spans && mask && !st; i++) st = mark(&c, &w, text, spans[i], &from, mask);
	}
	lora__free(t->ctx, w.list);
	lora__tok_call_end(&c);
	return st;
}
