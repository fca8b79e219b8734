/* Rules that work entry by entry on n arrays v_k with weights w_k.
 *
 * Dropping: v_k keeps its floor(density * count) largest entries (TIES, magnitude_prune), or each entry with probability density and then
 * divided by it (DARE), so that the mean stays.
 * Adding: sum_k w_k v_k; or, with elected signs, sum over the v_k of that sign of w_k v_k / max(1, their number).
 * The sign is that of sum_k w_k v_k (by_count: of the number of positive less negative ones), and where that is 0 the more frequent of all elected
 * signs. PEFT elects without weights and takes + for 0.
 * Source: Yadav et al. 2023, arXiv:2306.01708, algorithm 1; Yu et al. 2023, arXiv:2311.03099, equation 3; PEFT 0.21 utils/merge_utils.py. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "combine/combine.h"

static uint32_t magnitude(float x)
{
	uint32_t u;
	memcpy(&u, &x, sizeof u);
	return u & 0x7fffffffu;
}

/* The magnitude of the last entry to stay is found by its bits, 11 at a time from the top. Two counters per value: neighbours are often alike. */
void lora__keep_largest(float *v, int64_t count, int64_t keep)
{
	static const int shift[3] = { 20, 9, 0 }, bits[3] = { 11, 11, 9 };
	uint32_t limit = 0, known = 0;
	int64_t left = keep;
	if (keep >= count) return;
	for (int level = 0; level < 3 && keep > 0; level++) {
		uint32_t in_bin[2][2048] = { { 0 } }, mask = (1u << bits[level]) - 1, bin = mask;
		for (int64_t i = 0; i < count; i++) {
			uint32_t m = magnitude(v[i]);
			if ((m & known) == limit) in_bin[i & 1][(m >> shift[level]) & mask]++;
		}
		for (int64_t n; (n = (int64_t)in_bin[0][bin] + in_bin[1][bin]) < left; bin--) left -= n;
		limit |= bin << shift[level], known |= mask << shift[level];
	}
	for (int64_t i = 0; i < count; i++) {
		uint32_t m = magnitude(v[i]);
		left -= m == limit;
		v[i] = keep <= 0 || m < limit || (m == limit && left < 0) ? 0 : v[i];
	}
}

static void drop(float *v, int64_t count, double density, uint64_t key)
{
	uint32_t word[4];
	uint64_t below = (uint64_t)ldexp(density, 32);
	for (int64_t i = 0; i < count; i++) {
		if (i % 4 == 0) lora__philox(key, (uint64_t)i / 4, 0, word);
		v[i] = word[i % 4] < below ? (float)(v[i] / density) : 0;
	}
}

/* Entries go through in blocks of fixed size, so that the compiler makes vectors of the loops. */
enum { BLOCK = 256 };

/* Entries at .. at + BLOCK of v, zero behind the end. */
static const float *block(const float *v, int64_t at, int64_t count, float *room)
{
	if (count - at >= BLOCK) return v + at;
	memset(room, 0, BLOCK * sizeof *room);
	return memcpy(room, v + at, (size_t)(count - at) * sizeof *room);
}

static void add(double *s, const float *x, double w, int by_count)
{
	for (int i = 0; !by_count && i < BLOCK; i++) s[i] += w * x[i];
	for (int i = 0; by_count && i < BLOCK; i++) s[i] += (double)(w * x[i] > 0) - (double)(w * x[i] < 0);
}

/* s: sums that elect; replaced by the mean of what agrees with the sign, `zero` where it is 0. */
static void agree(const lora__mix *m, double *s, double zero, float **v, const double *w, size_t n, int64_t at, int64_t count)
{
	float room[BLOCK];
	double voices[BLOCK] = { 0 }, sum[BLOCK] = { 0 };
	for (int i = 0; i < BLOCK; i++) s[i] = s[i] == 0 ? zero : s[i] < 0 ? -1 : 1;
	for (size_t k = 0; k < n; k++) {
		const float *x = block(v[k], at, count, room);
		double f = m->peft ? 1 : w[k];
		for (int i = 0; i < BLOCK; i++) {
			double yes = f * x[i] * s[i] > 0 ? 1 : 0;
			voices[i] += yes, sum[i] += yes * (w[k] * x[i]);
		}
	}
	for (int i = 0; i < BLOCK; i++) s[i] = sum[i] / (voices[i] > 1 ? voices[i] : 1);
}

/* One pass; what was elected in balance (the sum of all signs) and the number of sums that are 0 come back. */
static void pass(const lora__mix *m, double zero, float **v, const double *w, size_t n, int64_t count, float *out, double *balance, int64_t *zeros)
{
	float room[BLOCK];
	for (int64_t at = 0; at < count; at += BLOCK) {
		double s[BLOCK] = { 0 };
		int64_t size = count - at < BLOCK ? count - at : BLOCK;
		for (size_t k = 0; k < n; k++) add(s, block(v[k], at, count, room), m->type->elect && m->peft ? 1 : w[k], m->type->elect && m->by_count);
		for (int64_t i = 0; i < size; i++) *balance += (double)(s[i] > 0) - (double)(s[i] < 0), *zeros += s[i] == 0;
		if (m->type->elect) agree(m, s, zero, v, w, n, at, count);
		for (int64_t i = 0; i < size; i++) out[at + i] = (float)s[i];
	}
}

void lora__mix_run(const lora__mix *m, float **v, const double *w, const uint64_t *keys, size_t n, int64_t count, float *out)
{
	double balance = 0;
	int64_t zeros = 0;
	for (size_t k = 0; k < n && m->type->prune && m->density < 1; k++) {
		if (m->type->prune == LORA__PRUNE_SMALL) lora__keep_largest(v[k], count, (int64_t)(m->density * (double)count));
		else drop(v[k], count, m->density, keys[k]);
	}
	pass(m, 1, v, w, n, count, out, &balance, &zeros);
	if (m->type->elect && !m->peft && zeros && balance < 0) pass(m, -1, v, w, n, count, out, &balance, &zeros);
}
