/* Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
 * A draw is a function of (key, counter): no state, any order, any thread. Exact resume follows. */
#ifndef LORA_BASE_RNG_H
#define LORA_BASE_RNG_H

#include <stdint.h>

/* Four 32-bit words for one counter. */
void lora__philox(uint64_t key, uint64_t counter_lo, uint64_t counter_hi, uint32_t out[4]);

/* Mix words into one key (splitmix64 finaliser over a chain), so that streams of (seed, purpose, index) differ. */
uint64_t lora__rng_key(uint64_t seed, uint64_t purpose, uint64_t index);

/* Purposes of lora__rng_key(); more of them below. */
enum { LORA__RNG_STRATEGY = 11, LORA__RNG_SHAPLEY = 12 };

/* A sequential stream over one key, for shuffles and initialisers. Draw k of a stream never changes. */
typedef struct lora__rng { uint64_t key, counter; uint32_t word[4]; int left; } lora__rng;
void     lora__rng_init(lora__rng *r, uint64_t key);
uint32_t lora__rng_u32(lora__rng *r);
uint64_t lora__rng_below(lora__rng *r, uint64_t n); /* 0 .. n-1, unbiased; n > 0 */
double   lora__rng_uniform(lora__rng *r);            /* [0, 1), 53 bits */
void     lora__rng_uniforms(lora__rng *r, double *out, int64_t n); /* n of these, faster */
double   lora__rng_normal(lora__rng *r);             /* Box-Muller, one of two thrown away */

/* Purposes, so that no two uses share a stream. */
enum { LORA__RNG_INIT = 1, LORA__RNG_DROPOUT = 2, LORA__RNG_SHUFFLE = 3, LORA__RNG_SAMPLE = 4, LORA__RNG_WEIGHTS = 5, LORA__RNG_COMBINE = 6, LORA__RNG_POSTERIOR = 7, LORA__RNG_SEARCH = 16, LORA__RNG_VERTICES = 17 };

#endif
