/* Byte pair encoding: while a rule applies to two neighbours, join those of the lowest rank, the leftmost first.
 * Source: Sennrich et al. 2016, arXiv:1508.07909, algorithm 1; order of merges as in huggingface/tokenizers, models/bpe/word.rs.
 *
 * Short words: scan the ranks of all pairs again after each merge. Long words (a text without pre-tokenizer is one) must not be quadratic:
 * every pair stands in the list of its rank, a heap holds the ranks, and a merge costs a few list operations. Lists are kept in the order
 * of the text: appended to, and sorted when needed. */
#include <stdlib.h>

#include "tokenizer/bpe.h"

enum { SHORT = 40 };
#define NONE UINT32_MAX

typedef struct lora__bpe_symbol { int32_t id; uint32_t prev, next, bucket, before, after; } symbol; /* before, after: in the list of the rank */
typedef struct lora__bpe_bucket { uint32_t rank, head, tail; uint8_t sorted, queued; } bucket;

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 32) * 0x9fb21c651e98df25u;
	return x ^ x >> 29;
}

lora_status lora__bpe_rules_init(lora_context *ctx, lora__bpe_rules *r, size_t n, uint64_t seed)
{
	size_t cap = 16;
	while (cap < n * 2) cap *= 2;
	r->cells = lora__calloc(ctx, cap, sizeof *r->cells);
	r->mask = cap - 1, r->seed = seed;
	if (!r->cells) return LORA_E_MEMORY;
	for (size_t i = 0; i < cap; i++) r->cells[i].pair = UINT64_MAX;
	return LORA_OK;
}

static size_t place(const lora__bpe_rules *r, uint64_t pair)
{
	size_t i = (size_t)mix(pair ^ r->seed) & r->mask;
	while (r->cells[i].pair != pair && r->cells[i].pair != UINT64_MAX) i = (i + 1) & r->mask;
	return i;
}

void lora__bpe_rules_set(lora__bpe_rules *r, int32_t a, int32_t b, uint32_t rank, int32_t id)
{
	uint64_t pair = (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
	r->cells[place(r, pair)] = (lora__bpe_rule){ pair, rank, id };
}

const lora__bpe_rule *lora__bpe_rules_find(const lora__bpe_rules *r, int32_t a, int32_t b)
{
	const lora__bpe_rule *c = &r->cells[place(r, (uint64_t)(uint32_t)a << 32 | (uint32_t)b)];
	return c->pair == UINT64_MAX ? NULL : c;
}

static void merge_short(const lora__bpe_rules *r, int32_t *ids, size_t *count)
{
	uint32_t ranks[SHORT];
	int32_t made[SHORT];
	size_t n = *count;
	for (size_t i = 0; i + 1 < n; i++) {
		const lora__bpe_rule *c = lora__bpe_rules_find(r, ids[i], ids[i + 1]);
		ranks[i] = c ? c->rank : NONE, made[i] = c ? c->id : -1;
	}
	while (n > 1) {
		size_t best = 0;
		for (size_t i = 1; i + 1 < n; i++)
			if (ranks[i] < ranks[best]) best = i;
		if (ranks[best] == NONE) break;
		ids[best] = made[best];
		for (size_t i = best + 1; i + 1 < n; i++) ids[i] = ids[i + 1], ranks[i - 1] = ranks[i], made[i - 1] = made[i];
		n--;
		for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < n; i++) {
			const lora__bpe_rule *c = lora__bpe_rules_find(r, ids[i], ids[i + 1]);
			ranks[i] = c ? c->rank : NONE, made[i] = c ? c->id : -1;
		}
	}
	*count = n;
}

void lora__bpe_work_free(lora_context *ctx, lora__bpe_work *w)
{
	lora__free(ctx, w->symbols);
	lora__free(ctx, w->buckets);
	lora__free(ctx, w->table);
	lora__free(ctx, w->sorted);
	lora__free(ctx, w->heap);
	*w = (lora__bpe_work){ 0 };
}

static uint32_t *table_place(const lora__bpe_work *w, uint32_t rank)
{
	size_t i = (size_t)mix(rank) & (w->cap_table - 1);
	while (w->table[i] && w->buckets[w->table[i] - 1].rank != rank) i = (i + 1) & (w->cap_table - 1);
	return &w->table[i];
}

static lora_status bucket_of(lora_context *ctx, lora__bpe_work *w, const lora__bpe_rule *rule, uint32_t *out)
{
	lora_status st;
	if ((w->n_buckets + 1) * 2 > w->cap_table) {
		size_t cap = w->cap_table ? w->cap_table * 2 : 128;
		uint32_t *table = lora__calloc(ctx, cap, sizeof *table);
		if (!table) return LORA_E_MEMORY;
		lora__free(ctx, w->table);
		w->table = table, w->cap_table = cap;
		for (size_t i = 0; i < w->n_buckets; i++) *table_place(w, w->buckets[i].rank) = (uint32_t)i + 1;
	}
	uint32_t *p = table_place(w, rule->rank);
	if (!*p) {
		if ((st = lora__grow(ctx, &w->buckets, &w->cap_buckets, w->n_buckets + 1, sizeof *w->buckets))) return st;
		w->buckets[w->n_buckets] = (bucket){ rule->rank, NONE, NONE, 1, 0 };
		*p = (uint32_t)++w->n_buckets;
	}
	*out = *p - 1;
	return LORA_OK;
}

static lora_status heap_push(lora_context *ctx, lora__bpe_work *w, uint64_t x)
{
	lora_status st = lora__grow(ctx, &w->heap, &w->cap_heap, w->n_heap + 1, sizeof *w->heap);
	if (st) return st;
	size_t i = w->n_heap++;
	for (; i && w->heap[(i - 1) / 2] > x; i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
	w->heap[i] = x;
	return LORA_OK;
}

static void heap_pop(lora__bpe_work *w)
{
	uint64_t x = w->heap[--w->n_heap];
	size_t i = 0;
	for (size_t k = 1; k < w->n_heap; k = 2 * i + 1) {
		if (k + 1 < w->n_heap && w->heap[k + 1] < w->heap[k]) k++;
		if (w->heap[k] >= x) break;
		w->heap[i] = w->heap[k], i = k;
	}
	if (w->n_heap) w->heap[i] = x;
}

/* The pair that begins at p: into the list of its rank, out of it. */
static lora_status enter(lora_context *ctx, const lora__bpe_rules *r, lora__bpe_work *w, uint32_t p)
{
	symbol *s = &w->symbols[p];
	const lora__bpe_rule *rule = s->next == NONE ? NULL : lora__bpe_rules_find(r, s->id, w->symbols[s->next].id);
	lora_status st;
	uint32_t k;
	s->bucket = NONE;
	if (!rule) return LORA_OK;
	if ((st = bucket_of(ctx, w, rule, &k))) return st;
	bucket *b = &w->buckets[k];
	if (b->head == NONE) b->sorted = 1;
	else if (p < b->tail) b->sorted = 0;
	s->bucket = k, s->before = b->tail, s->after = NONE;
	if (b->tail == NONE) b->head = p;
	else w->symbols[b->tail].after = p;
	b->tail = p;
	if (b->queued) return LORA_OK;
	b->queued = 1;
	return heap_push(ctx, w, (uint64_t)b->rank << 32 | k);
}

static void leave(lora__bpe_work *w, uint32_t p)
{
	symbol *s = &w->symbols[p];
	if (s->bucket == NONE) return;
	bucket *b = &w->buckets[s->bucket];
	if (s->before == NONE) b->head = s->after;
	else w->symbols[s->before].after = s->after;
	if (s->after == NONE) b->tail = s->before;
	else w->symbols[s->after].before = s->before;
	s->bucket = NONE;
}

static int ascending(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static lora_status sort_bucket(lora_context *ctx, lora__bpe_work *w, bucket *b)
{
	size_t n = 0;
	for (uint32_t p = b->head; p != NONE; p = w->symbols[p].after) n++;
	lora_status st = lora__grow(ctx, &w->sorted, &w->cap_sorted, n, sizeof *w->sorted);
	if (st) return st;
	n = 0;
	for (uint32_t p = b->head; p != NONE; p = w->symbols[p].after) w->sorted[n++] = p;
	qsort(w->sorted, n, sizeof *w->sorted, ascending);
	for (size_t i = 0; i < n; i++) {
		symbol *s = &w->symbols[w->sorted[i]];
		s->before = i ? w->sorted[i - 1] : NONE;
		s->after = i + 1 < n ? w->sorted[i + 1] : NONE;
	}
	b->head = w->sorted[0], b->tail = w->sorted[n - 1], b->sorted = 1;
	return LORA_OK;
}

static lora_status merge_long(lora_context *ctx, const lora__bpe_rules *r, lora__bpe_work *w, int32_t *ids, size_t *count)
{
	size_t n = *count;
	lora_status st = lora__grow(ctx, &w->symbols, &w->cap_symbols, n, sizeof *w->symbols);
	if (st) return st;
	w->n_buckets = w->n_heap = 0;
	if (w->cap_table) memset(w->table, 0, w->cap_table * sizeof *w->table);
	for (size_t i = 0; i < n; i++)
		w->symbols[i] = (symbol){ ids[i], i ? (uint32_t)i - 1 : NONE, i + 1 < n ? (uint32_t)i + 1 : NONE, NONE, NONE, NONE };
	for (size_t i = 0; i < n && !st; i++) st = enter(ctx, r, w, (uint32_t)i);
	while (!st && w->n_heap) {
		bucket *b = &w->buckets[(uint32_t)w->heap[0]];
		if (b->head == NONE) {
			b->queued = 0;
			heap_pop(w);
			continue;
		}
		if (!b->sorted && (st = sort_bucket(ctx, w, b))) break;
		uint32_t p = b->head, q = w->symbols[p].next, before = w->symbols[p].prev, after = w->symbols[q].next;
		int32_t id = lora__bpe_rules_find(r, w->symbols[p].id, w->symbols[q].id)->id; /* rules of one rank may make different tokens */
		leave(w, p);
		leave(w, q);
		if (before != NONE) leave(w, before);
		w->symbols[p].id = id, w->symbols[p].next = after;
		if (after != NONE) w->symbols[after].prev = p;
		if (before != NONE) st = enter(ctx, r, w, before);
		if (!st) st = enter(ctx, r, w, p);
	}
	if (st) return st;
	n = 0;
	for (uint32_t p = 0; p != NONE; p = w->symbols[p].next) ids[n++] = w->symbols[p].id;
	*count = n;
	return LORA_OK;
}

lora_status lora__bpe_merge(lora_context *ctx, const lora__bpe_rules *r, lora__bpe_work *w, int32_t *ids, size_t *n)
{
	if (*n >= NONE) return lora__fail(ctx, LORA_E_LIMIT, "tokenizer", "a word of %zu characters", *n);
	if (*n > SHORT) return merge_long(ctx, r, w, ids, n);
	merge_short(r, ids, n);
	return LORA_OK;
}
