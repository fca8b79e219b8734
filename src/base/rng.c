/* Philox4x32-10: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.3 and table 2. */
#include "base/rng.h"

#include <math.h>

void lora__philox(uint64_t key, uint64_t counter_lo, uint64_t counter_hi, uint32_t out[4])
{
	uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
	uint32_t c0 = (uint32_t)counter_lo, c1 = (uint32_t)(counter_lo >> 32), c2 = (uint32_t)counter_hi, c3 = (uint32_t)(counter_hi >> 32);
	for (int round = 0; round < 10; round++) {
		uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c1 = (uint32_t)p1;
		c3 = (uint32_t)p0;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static uint64_t mix(uint64_t z)
{
	z += 0x9E3779B97F4A7C15u;
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
	return z ^ (z >> 31);
}

uint64_t lora__rng_key(uint64_t seed, uint64_t purpose, uint64_t index) { return mix(mix(mix(seed) ^ purpose) ^ index); }

void lora__rng_init(lora__rng *r, uint64_t key) { r->key = key, r->counter = 0, r->left = 0; }

uint32_t lora__rng_u32(lora__rng *r)
{
	if (!r->left) {
		lora__philox(r->key, r->counter++, 0, r->word);
		r->left = 4;
	}
	return r->word[4 - r->left--];
}

uint64_t lora__rng_below(lora__rng *r, uint64_t n)
{
	uint64_t limit = UINT64_MAX - UINT64_MAX % n, x;
	do x = ((uint64_t)lora__rng_u32(r) << 32) | lora__rng_u32(r);
	while (x >= limit);
	return x % n;
}

double lora__rng_uniform(lora__rng *r)
{
	uint64_t hi = lora__rng_u32(r) >> 5, lo = lora__rng_u32(r) >> 6;
	return (double)(hi * 67108864u + lo) * (1.0 / 9007199254740992.0);
}

/* Philox for four counters at once: the rounds of one wait for each other, those of four do not. */
static void philox4(uint64_t key, uint64_t counter, uint32_t out[16])
{
	uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32), c0[4], c1[4], c2[4] = { 0 }, c3[4] = { 0 };
	for (int i = 0; i < 4; i++) c0[i] = (uint32_t)(counter + (uint64_t)i), c1[i] = (uint32_t)((counter + (uint64_t)i) >> 32);
	for (int round = 0; round < 10; round++) {
		for (int i = 0; i < 4; i++) {
			uint64_t p0 = (uint64_t)0xD2511F53u * c0[i], p1 = (uint64_t)0xCD9E8D57u * c2[i];
			c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
			c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
			c1[i] = (uint32_t)p1, c3[i] = (uint32_t)p0;
		}
		k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
	}
	for (int i = 0; i < 4; i++) out[4 * i] = c0[i], out[4 * i + 1] = c1[i], out[4 * i + 2] = c2[i], out[4 * i + 3] = c3[i];
}

void lora__rng_uniforms(lora__rng *r, double *out, int64_t n)
{
	uint32_t w[16];
	int64_t i = 0;
	for (; i < n && r->left; i++) out[i] = lora__rng_uniform(r);
	for (; i + 8 <= n; i += 8, r->counter += 4) {
		philox4(r->key, r->counter, w);
		for (int j = 0; j < 8; j++) out[i + j] = (double)((uint64_t)(w[2 * j] >> 5) * 67108864u + (w[2 * j + 1] >> 6)) * (1.0 / 9007199254740992.0);
	}
	for (; i < n; i++) out[i] = lora__rng_uniform(r);
}

double lora__rng_normal(lora__rng *r)
{
	double u = 1.0 - lora__rng_uniform(r), v = lora__rng_uniform(r);
	return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}
