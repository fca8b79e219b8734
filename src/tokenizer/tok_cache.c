/* Words that a call met before, with their ids: natural text repeats its words, and a look-up is cheaper than merging again.
 * The cache belongs to one call, so a handle stays read-only. It is bounded; when it is full it stays as it is. */
#include "tokenizer/tok.h"

enum { LONGEST = 96, FIRST_CAP = 256, MOST_WORDS = 1 << 16 };

typedef struct cell { uint64_t hash; uint32_t key, n, ids, n_ids; } cell;
struct lora__tok_cache {
	cell    *cells;
	size_t   cap, n;
	uint64_t seed, hash; /* hash of the word asked for last */
	char    *keys;
	int32_t *ids;
	size_t   n_keys, cap_keys, n_ids, cap_ids;
};

static cell *probe(struct lora__tok_cache *h, const char *s, size_t n, uint64_t hash)
{
	size_t i = (size_t)hash & (h->cap - 1);
	while (h->cells[i].n && !(h->cells[i].hash == hash && h->cells[i].n == n && !memcmp(h->keys + h->cells[i].key, s, n)))
		i = (i + 1) & (h->cap - 1);
	return &h->cells[i];
}

static struct lora__tok_cache *make(lora__tok_call *c)
{
	struct lora__tok_cache *h = lora__zalloc(c->ctx, sizeof *h);
	if (!h) return NULL;
	h->cells = lora__calloc(c->ctx, FIRST_CAP, sizeof *h->cells);
	h->cap = FIRST_CAP, h->seed = c->t->vocab.by_text.seed;
	if (!h->cells) lora__free(c->ctx, h), h = NULL;
	return h;
}

int lora__tok_cache_hit(lora__tok_call *c, const char *s, size_t n, lora_status *st)
{
	if (n > LONGEST || !n) return 0;
	if (!c->cache && !(c->cache = make(c))) {
		*st = LORA_E_MEMORY;
		return 1;
	}
	struct lora__tok_cache *h = c->cache;
	h->hash = lora__hash64(s, n, h->seed);
	const cell *d = probe(h, s, n, h->hash);
	if (!d->n) return 0;
	*st = lora__tok_emit_all(c, h->ids + d->ids, d->n_ids);
	return 1;
}

static int grow(lora__tok_call *c, struct lora__tok_cache *h)
{
	cell *cells = lora__calloc(c->ctx, h->cap * 2, sizeof *cells), *old = h->cells;
	if (!cells) return 0;
	size_t n = h->cap;
	h->cells = cells, h->cap *= 2;
	for (size_t i = 0; i < n; i++) {
		if (!old[i].n) continue;
		size_t k = (size_t)old[i].hash & (h->cap - 1);
		while (cells[k].n) k = (k + 1) & (h->cap - 1);
		cells[k] = old[i];
	}
	lora__free(c->ctx, old);
	return 1;
}

void lora__tok_cache_keep(lora__tok_call *c, const char *s, size_t n, size_t from)
{
	struct lora__tok_cache *h = c->cache;
	size_t n_ids = c->n_ids - from;
	if (n > LONGEST || !n || !h || h->n >= MOST_WORDS) return;
	if ((h->n + 1) * 2 > h->cap && !grow(c, h)) return;
	if (lora__grow(c->ctx, &h->keys, &h->cap_keys, h->n_keys + n, 1)) return;
	if (lora__grow(c->ctx, &h->ids, &h->cap_ids, h->n_ids + n_ids + 1, sizeof *h->ids)) return;
	cell *d = probe(h, s, n, h->hash);
	*d = (cell){ h->hash, (uint32_t)h->n_keys, (uint32_t)n, (uint32_t)h->n_ids, (uint32_t)n_ids };
	memcpy(h->keys + h->n_keys, s, n);
	if (n_ids) memcpy(h->ids + h->n_ids, c->ids + from, n_ids * sizeof *h->ids);
	h->n_keys += n, h->n_ids += n_ids, h->n++;
}

void lora__tok_cache_free(lora__tok_call *c)
{
	if (!c->cache) return;
	lora__free(c->ctx, c->cache->cells);
	lora__free(c->ctx, c->cache->keys);
	lora__free(c->ctx, c->cache->ids);
	lora__free(c->ctx, c->cache);
	c->cache = NULL;
}
