/* Merge rules from scores, as SentencePiece's BPE works: of all neighbours whose text together is a token the pair of the highest score is joined
 * first, the leftmost among equals. So each way to cut a token into two tokens is a rule, and the order of the scores is the rank.
 * Source: sentencepiece, bpe_model.cc (SampleEncode). What it also does and a file of our time does not have, joins that go by way of an
 * UNUSED token, is refused. */
#include <stdlib.h>

#include "tokenizer/bpe.h"

typedef struct scored { float score; int32_t id; } scored;

static int better(const void *x, const void *y)
{
	const scored *a = x, *b = y;
	if (a->score != b->score) return a->score > b->score ? -1 : 1;
	return a->id < b->id ? -1 : a->id > b->id;
}

/* A part of a join: a normal token. User tokens are never joined. */
static int64_t part(const lora__tok_build *b, const char *s, size_t n)
{
	int64_t id = lora__tok_vocab_find(&b->t->vocab, s, n);
	if (id < 0) return -1;
	uint8_t type = b->source->entries[id].type;
	return type == LORA__TOK_NORMAL || type == LORA__TOK_UNUSED ? id : -1;
}

/* The rules that make token id; r NULL: only count them. */
static size_t rules_of(const lora__tok_build *b, int32_t id, uint32_t rank, lora__bpe_rules *r)
{
	const lora__tok_entry *e = &b->source->entries[id];
	size_t count = 0;
	for (size_t at = lora__tok_char_bytes(e->s); at < e->n; at += lora__tok_char_bytes(e->s + at)) {
		int64_t left = part(b, e->s, at), right = left < 0 ? -1 : part(b, e->s + at, e->n - at);
		if (right < 0) continue;
		count++;
		if (r) lora__bpe_rules_set(r, (int32_t)left, (int32_t)right, rank, id);
	}
	return count;
}

lora_status lora__bpe_rules_from_scores(lora__tok_build *b, lora__bpe_rules *r, lora__tok_trie *user, int *by_mark)
{
	const lora__tok_source *src = b->source;
	size_t n = 0, n_rules = 0;
	uint32_t rank = 0;
	scored *list = lora__calloc(b->ctx, src->n + 1, sizeof *list);
	lora_status st = list ? lora__tok_source_user(b, user) : LORA_E_MEMORY;
	for (size_t i = 0; i < src->n && !st; i++) {
		const lora__tok_entry *e = &src->entries[i];
		if (!lora__tok_is_piece(e)) continue;
		if (*by_mark && lora__bpe_mark_inside(e->s, e->n)) *by_mark = 0;
		if (e->n > UINT16_MAX) st = lora__tok_fail(b, LORA_E_LIMIT, "vocab", "token %zu has %zu bytes", i, e->n);
		size_t count = st ? 0 : rules_of(b, (int32_t)i, 0, NULL);
		if (count && e->type == LORA__TOK_UNUSED)
			st = lora__tok_fail(b, LORA_E_UNSUPPORTED, "vocab", "token %zu (%s) is unused, but joins make it", i, lora__quote_n(e->s, e->n).text);
		if (count) list[n++] = (scored){ e->score, (int32_t)i };
		n_rules += count;
	}
	if (!st && n_rules >= UINT32_MAX / 4) st = lora__tok_fail(b, LORA_E_LIMIT, "vocab", "%zu joins", n_rules);
	if (!st) st = lora__bpe_rules_init(b->ctx, r, n_rules, b->t->vocab.by_text.seed);
	if (!st && n) qsort(list, n, sizeof *list, better);
	for (size_t i = 0; i < n && !st; i++) {
		if (i && list[i].score != list[i - 1].score) rank++;
		rules_of(b, list[i].id, rank, r);
	}
	lora__free(b->ctx, list);
	return st;
}
