/* Open addressing with linear probing over a seeded 64-bit hash. */
#include "base/map.h"

#include <string.h>

static uint64_t load64(const uint8_t *p)
{
	uint64_t x = 0;
	for (int i = 7; i >= 0; i--) x = (x << 8) | p[i];
	return x;
}

static uint64_t fold(uint64_t a, uint64_t b)
{
#ifdef __SIZEOF_INT128__
	unsigned __int128 p = (unsigned __int128)a * b;
	return (uint64_t)p ^ (uint64_t)(p >> 64);
#else /* 32-bit processors */
	uint64_t al = (uint32_t)a, ah = a >> 32, bl = (uint32_t)b, bh = b >> 32, low = al * bl, mid = ah * bl + (low >> 32), more = al * bh + (uint32_t)mid;
	return a * b ^ (ah * bh + (mid >> 32) + (more >> 32));
#endif
}

/* Multiply-and-fold over 16-byte steps (the scheme of wyhash), the same on every host. */
uint64_t lora__hash64(const void *bytes, size_t n, uint64_t seed)
{
	const uint64_t p0 = 0xa0761d6478bd642fu, p1 = 0xe7037ed1a0b428dbu;
	const uint8_t *p = bytes;
	uint64_t h = seed ^ p0, total = n;
	for (; n >= 16; n -= 16, p += 16) h = fold(load64(p) ^ p1, load64(p + 8) ^ h);
	uint8_t tail[16] = { 0 };
	if (n) memcpy(tail, p, n);
	h = fold(load64(tail) ^ p1, load64(tail + 8) ^ h);
	return fold(h ^ p0, total ^ p1);
}

void lora__map_init(lora__map *m, lora_context *ctx)
{
	*m = (lora__map){ .ctx = ctx };
	m->seed = (uint64_t)(uintptr_t)m ^ (uint64_t)(lora__now() * 1e9);
}

void lora__map_free(lora__map *m)
{
	lora__free(m->ctx, m->cells);
	m->cells = NULL, m->cap = m->n = 0;
}

static lora__map_cell *probe(lora__map_cell *cells, size_t cap, const char *key, size_t n, uint64_t hash)
{
	size_t i = (size_t)hash & (cap - 1);
	while (cells[i].key && !(cells[i].hash == hash && cells[i].n == n && memcmp(cells[i].key, key, n) == 0)) i = (i + 1) & (cap - 1);
	return &cells[i];
}

static lora_status rehash(lora__map *m)
{
	size_t cap = m->cap ? m->cap * 2 : 16;
	lora__map_cell *cells = lora__calloc(m->ctx, cap, sizeof *cells);
	if (!cells) return LORA_E_MEMORY;
	for (size_t i = 0; i < m->cap; i++)
		if (m->cells[i].key) *probe(cells, cap, m->cells[i].key, m->cells[i].n, m->cells[i].hash) = m->cells[i];
	lora__free(m->ctx, m->cells);
	m->cells = cells, m->cap = cap;
	return LORA_OK;
}

lora_status lora__map_add(lora__map *m, const char *key, size_t n, int64_t value, int64_t *old)
{
	if ((m->n + 1) * 2 > m->cap && rehash(m)) return LORA_E_MEMORY;
	uint64_t hash = lora__hash64(key, n, m->seed);
	lora__map_cell *c = probe(m->cells, m->cap, key, n, hash);
	if (c->key) {
		if (old) *old = c->value;
		return LORA_E_EXISTS;
	}
	*c = (lora__map_cell){ key, n, hash, value };
	m->n++;
	return LORA_OK;
}

int64_t lora__map_find(const lora__map *m, const char *key, size_t n)
{
	if (!m->cap) return -1;
	const lora__map_cell *c = probe(m->cells, m->cap, key, n, lora__hash64(key, n, m->seed));
	return c->key ? c->value : -1;
}
