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

#include "combine/combine.h"
#include "combine/kernels.h"

static uint32_t magnitude(float x)
{
	uint32_t u;
	memcpy(&u, &x, sizeof u);
	return u & 0x7fffffffu;
}

enum { BINS = 2048, SAMPLE = 16384 };

/* Value number rank of the sample, counted from the largest, by its bits, 11 at a time from the top. */
static uint32_t ranked(const uint32_t *m, int64_t rank)
{
	static const int shift[3] = { 20, 9, 0 }, bits[3] = { 11, 11, 9 };
	uint32_t value = 0, known = 0;
	for (int level = 0; level < 3; level++) {
		uint32_t bins[BINS] = { 0 }, mask = (1u << bits[level]) - 1, bin = mask;
		for (int i = 0; i < SAMPLE; i++)
			if ((m[i] & known) == value) bins[(m[i] >> shift[level]) & mask]++;
		for (; bins[bin] <= rank; bin--) rank -= bins[bin];
		value |= bin << shift[level], known |= mask << shift[level];
	}
	return value;
}

/* Bounds that the magnitude of entry number keep, from the top, is most likely within: its rank in a sample, four deviations to either side. */
static void bracket(const float *v, int64_t count, int64_t keep, uint32_t *low, uint32_t *high)
{
	uint32_t m[SAMPLE];
	double share = (double)keep / (double)count, at = share * SAMPLE, by = 4 * sqrt(at * (1 - share)) + 4;
	for (int64_t i = 0; i < SAMPLE; i++) m[i] = magnitude(v[(int64_t)((double)i * (double)(count - 1) / (SAMPLE - 1))]);
	if (at - by >= 0) *high = ranked(m, (int64_t)(at - by));
	if (at + by < SAMPLE) *low = ranked(m, (int64_t)(at + by));
}

/* The magnitude of the last entry to stay is found by its bits: entries between two bounds are counted in bins, and the bin that has it becomes the bounds. */
void lora__keep_largest(float *v, int64_t count, int64_t keep)
{
	uint32_t low = 0, high = 0x7fffffffu, bins[BINS];
	int64_t left = 0, alike = 0;
	int shift = 1;
	if (keep >= count) return;
	if (count > 2 * SAMPLE && keep > 0) bracket(v, count, keep, &low, &high);
	while (shift > 0 && keep > 0) {
		int bin = BINS - 1;
		for (shift = 0; (high - low) >> shift >= BINS; shift++) continue;
		memset(bins, 0, sizeof bins);
		int64_t above = lora__count_magnitudes(v, count, low, high, shift, bins), inside = 0;
		for (int i = 0; i < BINS; i++) inside += bins[i];
		if (above >= keep || above + inside < keep) { /* the sample was not like the rest */
			low = 0, high = 0x7fffffffu, shift = 1;
			continue;
		}
		for (left = keep - above; (int64_t)bins[bin] < left; bin--) left -= bins[bin];
		alike = bins[bin];
		low += (uint32_t)bin << shift, high = low + ((1u << shift) - 1 < high - low ? (1u << shift) - 1 : high - low);
	}
	if (keep <= 0) memset(v, 0, (size_t)count * sizeof *v);
	else if (left == alike) lora__clear_below(v, count, low);
	else
		for (int64_t i = 0; i < count; i++) {
			uint32_t m = magnitude(v[i]);
			left -= m == low;
			v[i] = m < low || (m == low && left < 0) ? 0 : v[i];
		}
}

/* As dropout does it, and with its words: entry i is kept by word i of key. */
static lora_status drop(lora_context *ctx, float *v, int64_t count, double density, uint64_t key)
{
	lora_view x = lora__view2(v, LORA_F32, 1, count, count);
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_DROPOUT, .n_views = 2, .v = { x, x }, .i = { (int64_t)key }, .f = { 1 - density } };
	if (1 - density < 1) return lora__run(ctx, &call);
	memset(v, 0, (size_t)count * sizeof *v);
	return LORA_OK;
}

/* Entries go through in blocks of fixed size, so that the compiler makes vectors of the loops. */
enum { BLOCK = 256 };

#define INLINE static inline __attribute__((always_inline))

/* Entries at .. at + BLOCK of v, zero behind the end. */
static const float *block(const float *v, int64_t at, int64_t count, float *room)
{
	if (count - at >= BLOCK) return v + at;
	memset(room, 0, BLOCK * sizeof *room);
	return memcpy(room, v + at, (size_t)(count - at) * sizeof *room);
}

INLINE void add(double *s, const float *x, double w, int by_count)
{
	for (int i = 0; !by_count && i < BLOCK; i++) s[i] += w * x[i];
	for (int i = 0; by_count && i < BLOCK; i++) s[i] += (double)(w * x[i] > 0) - (double)(w * x[i] < 0);
}

/* s: sums that elect; replaced by the mean of what agrees with the sign, `zero` where it is 0. */
INLINE void agree(const lora__mix *m, double *s, double zero, float **v, const double *w, size_t n, int64_t at, int64_t count)
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

/* One pass; what was elected in balance (the sum of all signs) and the number of sums that are 0, of values that are not, come back. */
typedef struct sums { const lora__mix *m; float **v; const double *w; size_t n; double balance; int64_t zeros; } sums;

INLINE void pass_body(const int way, sums *t, double zero, int64_t count, float *out)
{
	const lora__mix *m = t->m;
	float room[BLOCK];
	(void)way;
	for (int64_t at = 0; at < count; at += BLOCK) {
		double s[BLOCK] = { 0 };
		int8_t even[BLOCK];
		int64_t size = count - at < BLOCK ? count - at : BLOCK, zeros = 0, more = 0;
		for (size_t k = 0; k < t->n; k++) add(s, block(t->v[k], at, count, room), m->type->elect && m->peft ? 1 : t->w[k], m->type->elect && m->by_count);
		for (int64_t i = 0; i < size; i++) more += (s[i] > 0) - (s[i] < 0), even[i] = s[i] == 0;
		if (m->type->elect) agree(m, s, zero, t->v, t->w, t->n, at, count);
		for (int64_t i = 0; i < size; i++) zeros += even[i] && s[i] != 0;
		t->balance += (double)more, t->zeros += zeros;
		for (int64_t i = 0; i < size; i++) out[at + i] = (float)s[i];
	}
}

LORA__TWICE(pass, (sums *t, double zero, int64_t count, float *out), t, zero, count, out)

lora_status lora__mix_run(lora_context *ctx, const lora__mix *m, float **v, const double *w, const uint64_t *keys, size_t n, int64_t count, float *out)
{
	sums t = { m, v, w, n, 0, 0 };
	lora_status st = LORA_OK;
	for (size_t k = 0; k < n && !st && m->type->prune && m->density < 1; k++) {
		if (m->type->prune == LORA__PRUNE_SMALL) lora__keep_largest(v[k], count, (int64_t)(m->density * (double)count));
		else st = drop(ctx, v[k], count, m->density, keys[k]);
	}
	if (st) return st;
	LORA__CALL(pass, &t, 1, count, out);
	if (m->type->elect && !m->peft && t.zeros && t.balance < 0) LORA__CALL(pass, &t, -1, count, out);
	return LORA_OK;
}
