/* Hash map from strings to integers; keys are borrowed. Seeded per map, so hostile names can't make it slow. */
#ifndef LORA_BASE_MAP_H
#define LORA_BASE_MAP_H

#include "base/context.h"

typedef struct lora__map_cell { const char *key; size_t n; uint64_t hash; int64_t value; } lora__map_cell;
typedef struct lora__map { lora_context *ctx; lora__map_cell *cells; size_t cap, n; uint64_t seed; } lora__map;

void        lora__map_init(lora__map *m, lora_context *ctx);
void        lora__map_free(lora__map *m);
/* LORA_OK; LORA_E_EXISTS when the key is there (no error recorded, *old is its value, old may be NULL); LORA_E_MEMORY. */
lora_status lora__map_add(lora__map *m, const char *key, size_t n, int64_t value, int64_t *old);
/* Value of a key, or -1. */
int64_t     lora__map_find(const lora__map *m, const char *key, size_t n);

/* 64-bit hash of bytes (not cryptographic), and of a whole tensor: used for digests. */
uint64_t lora__hash64(const void *bytes, size_t n, uint64_t seed);

#endif
