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

/* The magnitude of the last entry to stay is found by its bits, 11 at a time from the top. */
void lora__keep_largest(float *v, int64_t count, int64_t keep)
{
	static const int shift[3] = { 20, 9, 0 }, bits[3] = { 11, 11, 9 };
	uint32_t limit = 0, known = 0;
	int64_t left = keep;
	if (keep >= count) return;
	for (int level = 0; level < 3 && keep > 0; level++) {
		int64_t in_bin[2048] = { 0 };
		uint32_t mask = (1u << bits[level]) - 1, bin = mask;
		for (int64_t i = 0; i < count; i++) {
			uint32_t m = magnitude(v[i]);
			if ((m & known) == limit) in_bin[(m >> shift[level]) & mask]++;
		}
		for (; in_bin[bin] < left; bin--) left -= in_bin[bin];
		limit |= bin << shift[level], known |= mask << shift[level];
	}
	for (int64_t i = 0; i < count; i++) {
		uint32_t m = magnitude(v[i]);
		if (keep <= 0 || m < limit || (m == limit && left-- <= 0)) v[i] = 0;
	}
}

static void drop(float *v, int64_t count, double density, uint64_t key)
{
	uint32_t word[4];
	for (int64_t i = 0; i < count; i++) {
		if (i % 4 == 0) lora__philox(key, (uint64_t)i / 4, 0, word);
		v[i] = word[i % 4] * 0x1p-32 < density ? (float)(v[i] / density) : 0;
	}
}

static double sign_of(double x) { return (x > 0) - (x < 0); }

/* What the sign of entry i is elected by. */
static double poll(const lora__mix *m, float **v, const double *w, size_t n, int64_t i)
{
	double s = 0;
	for (size_t k = 0; k < n; k++) {
		double x = m->peft ? v[k][i] : w[k] * v[k][i];
		s += m->by_count ? sign_of(x) : x;
	}
	return s;
}

static double agreed(const lora__mix *m, float **v, const double *w, size_t n, int64_t i, double sign)
{
	double s = 0, voices = 0;
	for (size_t k = 0; k < n; k++)
		if (sign_of(m->peft ? v[k][i] : w[k] * v[k][i]) == sign) s += w[k] * v[k][i], voices++;
	return s / (voices > 1 ? voices : 1);
}

void lora__mix_run(const lora__mix *m, float **v, const double *w, const uint64_t *keys, size_t n, int64_t count, float *out)
{
	double most = 0;
	for (size_t k = 0; k < n && m->type->prune && m->density < 1; k++) {
		if (m->type->prune == LORA__PRUNE_SMALL) lora__keep_largest(v[k], count, (int64_t)(m->density * (double)count));
		else drop(v[k], count, m->density, keys[k]);
	}
	for (int64_t i = 0; i < count && m->type->elect && !m->peft; i++) most += sign_of(poll(m, v, w, n, i));
	for (int64_t i = 0; i < count; i++) {
		double s = m->type->elect ? sign_of(poll(m, v, w, n, i)) : 0;
		if (m->type->elect) {
			out[i] = (float)agreed(m, v, w, n, i, s != 0 ? s : most < 0 ? -1 : 1);
			continue;
		}
		for (size_t k = 0; k < n; k++) s += w[k] * v[k][i];
		out[i] = (float)s;
	}
}
