/* Choosing the next token: greedy (the lowest id of the largest logit), or a draw from softmax(logits / temperature) cut to the top_k most likely
 * tokens and to the smallest set whose probability reaches top_p. Order and meaning as in transformers' generate (temperature, top_k, top_p);
 * nucleus: Holtzman et al. 2019, arXiv:1904.09751. Ties go to the lower id. The draw is a function of seed, sequence and position only. */
#include <math.h>

#include "base/rng.h"
#include "model/generate.h"

/* Better first: larger logit, then lower id. */
static int before(const float *logits, int32_t a, int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); }

static void sink(const float *logits, int32_t *heap, int64_t n, int64_t i)
{
	for (int64_t child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && before(logits, heap[child + 1], heap[child])) child++;
		if (!before(logits, heap[child], heap[i])) return;
		int32_t t = heap[i];
		heap[i] = heap[child], heap[child] = t;
	}
}

static double weight(const lora__sampling *how, const float *logits, float top, int32_t id)
{
	return exp((double)(logits[id] - top) / how->temperature);
}

/* Heap sort, as far as needed: the best of the n ids in the heap goes behind it. */
static int32_t pop(const float *logits, int32_t *heap, int64_t n)
{
	int32_t best = heap[0];
	heap[0] = heap[n - 1], heap[n - 1] = best;
	sink(logits, heap, n - 1, 0);
	return best;
}

/* The ids that may be drawn end up at the end of order, the best one last. Returns how many; *mass is the sum of their weights. */
static int64_t cut(const lora__sampling *how, const float *logits, float top, int64_t n, int32_t *order, double *mass)
{
	int64_t limit = how->top_k > 0 && how->top_k < n ? how->top_k : n, kept = 0;
	double total = 0;
	for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
	for (int64_t i = n / 2; i-- > 0;) sink(logits, order, n, i);
	if (limit < n) /* top_p is a share of what top_k leaves */
		for (int64_t i = 0; i < limit; i++) total += weight(how, logits, top, pop(logits, order, n - i));
	else
		for (int64_t i = 0; i < n; i++) total += weight(how, logits, top, (int32_t)i);
	for (*mass = 0; kept < limit && (kept == 0 || *mass < how->top_p * total); kept++)
		*mass += weight(how, logits, top, limit < n ? order[n - 1 - kept] : pop(logits, order, n - kept));
	return kept;
}

static double uniform(uint64_t seed, uint64_t sequence, uint64_t position)
{
	uint32_t w[4];
	lora__philox(lora__rng_key(seed, LORA__RNG_SAMPLE, sequence), position, 0, w);
	return (double)(((uint64_t)(w[0] >> 5) << 26) | (w[1] >> 6)) * (1.0 / 9007199254740992.0);
}

static int32_t draw(const lora__sampling *how, double u, const float *logits, float top, int64_t n, int32_t *order)
{
	double mass = 0, sum = 0;
	int64_t kept = n;
	int sorted = (how->top_k > 0 && how->top_k < n) || how->top_p < 1;
	if (sorted) kept = cut(how, logits, top, n, order, &mass);
	else
		for (int64_t i = 0; i < n; i++) mass += weight(how, logits, top, (int32_t)i);
	int32_t id = 0;
	for (int64_t i = 0; i < kept; i++) {
		int32_t at = sorted ? order[n - 1 - i] : (int32_t)i;
		double w = weight(how, logits, top, at);
		sum += w;
		if (w > 0) id = at; /* rounding may leave u * mass above the last sum */
		if (sum > u * mass) break;
	}
	return id;
}

/* Keskar et al. 2019, arXiv:1909.05858, section 4.1, in the form of transformers' RepetitionPenaltyLogitsProcessor. */
void lora__penalize(const uint8_t *seen, double p, const float *logits, int64_t n, float *to)
{
	float f = (float)p;
	for (int64_t i = 0; i < n; i++) to[i] = !seen[i] ? logits[i] : logits[i] < 0 ? logits[i] * f : logits[i] / f;
}

lora_status lora__sample(lora_context *ctx, const lora__sampling *how, uint64_t sequence, uint64_t position, const float *logits, int64_t n,
                         int32_t *order, int32_t *token, float *logprob)
{
	int32_t best = 0;
	double loss = 0;
	if (!lora__all_finite(logits, LORA_F32, (size_t)n))
		return lora__fail(ctx, LORA_E_NUMERIC, "generate", "the logits of sequence %llu are not finite", (unsigned long long)sequence);
	for (int64_t i = 1; i < n; i++)
		if (logits[i] > logits[best]) best = (int32_t)i;
	*token = how->temperature > 0 ? draw(how, uniform(how->seed, sequence, position), logits, logits[best], n, order) : best;
	lora_call x = { .struct_size = sizeof x, .prim = LORA_PRIM_XENT, .n_views = 3 }; /* without a gradient it only reads */
	x.v[0] = lora__view2((void *)(uintptr_t)logits, LORA_F32, 1, n, n), x.v[1] = lora__view1(token, LORA_I32, 1), x.v[2] = lora__view1(&loss, LORA_F64, 1);
	lora_status st = lora__run(ctx, &x);
	*logprob = (float)-loss;
	return st;
}
