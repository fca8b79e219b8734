/* A trie over bytes in one array: the children of a node lie side by side, sorted by label, as a breadth-first walk meets them. */
#include <stdlib.h>

#include "tokenizer/tok.h"

typedef struct span { size_t lo, hi, depth; } span;

static int compare(const void *x, const void *y)
{
	const lora__tok_key *a = x, *b = y;
	int d = memcmp(a->s, b->s, a->n < b->n ? a->n : b->n);
	if (d) return d;
	if (a->n != b->n) return a->n < b->n ? -1 : 1;
	return a->order < b->order ? -1 : a->order > b->order;
}

static lora_status grow_nodes(lora_context *ctx, lora__tok_trie *t, span **spans, size_t *cap_spans)
{
	lora_status st;
	if (t->n >= INT32_MAX - 1) return lora__fail(ctx, LORA_E_LIMIT, "tokenizer", "vocabulary too large for a prefix tree");
	if ((st = lora__grow(ctx, &t->nodes, &t->cap_nodes, t->n + 1, sizeof *t->nodes))) return st;
	if ((st = lora__grow(ctx, &t->labels, &t->cap_labels, t->n + 1, 1))) return st;
	return lora__grow(ctx, spans, cap_spans, t->n + 1, sizeof **spans);
}

lora_status lora__tok_trie_build(lora_context *ctx, lora__tok_key *keys, size_t n, lora__tok_trie *t)
{
	span *spans = NULL;
	size_t cap_spans = 0;
	*t = (lora__tok_trie){ 0 };
	memset(t->root, 0xff, sizeof t->root);
	for (size_t i = 0; i < n; i++) keys[i].order = i;
	if (n) qsort(keys, n, sizeof *keys, compare);
	lora_status st = grow_nodes(ctx, t, &spans, &cap_spans);
	if (st) goto done;
	spans[0] = (span){ 0, n, 0 };
	t->nodes[0] = (lora__tok_node){ 0, 0, -1 }, t->labels[0] = 0, t->n = 1;
	for (size_t at = 0; at < t->n; at++) {
		span s = spans[at];
		size_t lo = s.lo;
		if (lo < s.hi && keys[lo].n == s.depth) t->nodes[at].value = keys[lo].value;
		while (lo < s.hi && keys[lo].n == s.depth) lo++;
		t->nodes[at].first = (uint32_t)t->n;
		while (lo < s.hi) {
			uint8_t label = (uint8_t)keys[lo].s[s.depth];
			size_t hi = lo + 1;
			while (hi < s.hi && (uint8_t)keys[hi].s[s.depth] == label) hi++;
			if ((st = grow_nodes(ctx, t, &spans, &cap_spans))) goto done;
			if (!at) t->root[label] = (int32_t)t->n;
			spans[t->n] = (span){ lo, hi, s.depth + 1 };
			t->labels[t->n] = label;
			t->nodes[t->n++] = (lora__tok_node){ 0, 0, -1 };
			t->nodes[at].n++;
			lo = hi;
		}
	}
done:
	lora__free(ctx, spans);
	if (st) lora__tok_trie_free(ctx, t);
	return st;
}

void lora__tok_trie_free(lora_context *ctx, lora__tok_trie *t)
{
	lora__free(ctx, t->nodes);
	lora__free(ctx, t->labels);
	*t = (lora__tok_trie){ 0 };
}

int32_t lora__tok_trie_step(const lora__tok_trie *t, int32_t node, uint8_t label)
{
	const lora__tok_node *d = &t->nodes[node];
	uint32_t lo = d->first, hi = d->first + d->n;
	while (hi - lo > 8) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (t->labels[mid] <= label) lo = mid;
		else hi = mid;
	}
	for (; lo < hi; lo++)
		if (t->labels[lo] == label) return (int32_t)lo;
	return -1;
}

int32_t lora__tok_trie_longest(const lora__tok_trie *t, const char *s, size_t n, size_t *used)
{
	int32_t best = -1, node = n && t->n > 1 ? t->root[(uint8_t)s[0]] : -1;
	for (size_t k = 1; node >= 0; k++) {
		if (t->nodes[node].value >= 0) best = t->nodes[node].value, *used = k;
		node = k < n ? lora__tok_trie_step(t, node, (uint8_t)s[k]) : -1;
	}
	return best;
}
