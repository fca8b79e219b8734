/* Merge rules of byte pair encoding and the merging itself. */
#ifndef LORA_TOKENIZER_BPE_H
#define LORA_TOKENIZER_BPE_H

#include "tokenizer/tok.h"

/* Pair of ids -> rank and the id of the two together. */
typedef struct lora__bpe_rule { uint64_t pair; uint32_t rank; int32_t id; } lora__bpe_rule;
typedef struct lora__bpe_rules { lora__bpe_rule *cells; size_t mask; uint64_t seed; } lora__bpe_rules;

lora_status lora__bpe_rules_init(lora_context *ctx, lora__bpe_rules *r, size_t n, uint64_t seed);
/* A pair that is there already gets the new rank, as in the reference implementation. */
void        lora__bpe_rules_set(lora__bpe_rules *r, int32_t a, int32_t b, uint32_t rank, int32_t id);
/* Rule of a pair, or NULL. */
const lora__bpe_rule *lora__bpe_rules_find(const lora__bpe_rules *r, int32_t a, int32_t b);

/* Rules from the scores of b->source (bpe_scores.c), and its user tokens. *by_mark: cleared when a join crosses the beginning of a word. */
lora_status lora__bpe_rules_from_scores(lora__tok_build *b, lora__bpe_rules *r, lora__tok_trie *user, int *by_mark);
int         lora__bpe_mark_inside(const char *s, size_t n);

/* What merging long words needs; zero at first, kept from word to word. */
typedef struct lora__bpe_work {
	struct lora__bpe_symbol *symbols;
	struct lora__bpe_bucket *buckets;
	uint32_t *table, *sorted; /* rank -> bucket + 1 */
	uint64_t *heap;
	size_t    cap_symbols, n_buckets, cap_buckets, cap_table, cap_sorted, n_heap, cap_heap;
} lora__bpe_work;
void lora__bpe_work_free(lora_context *ctx, lora__bpe_work *w);

/* Merge n ids in place until no rule applies: always the rule of the lowest rank, and of its places the leftmost. */
lora_status lora__bpe_merge(lora_context *ctx, const lora__bpe_rules *r, lora__bpe_work *w, int32_t *ids, size_t *n);

#endif
