/* lora: NF4 and FP4 as bitsandbytes has them (Dettmers et al. 2023, arXiv:2305.14314; matched on CPU: 0.50.2, its files bit by bit).
 *
 *   block of 64 of the flattened matrix: absmax = max |w|;  code = nearest of w / absmax, element 2i in the high half of byte i
 *   nested: offset = mean(absmax);  byte = nearest of (absmax - offset) / max |absmax - offset| of its 256, on a map of 256 values
 *
 * Nearest is told by midpoints in F32: what is above one belongs to the value above it, so at a tie the lower one is taken. */
#include "cli/fourbit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const float fourbit_codes[2][16] = {
	{ -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
		0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f },
	{ 0.0f, 0.0052083334885537624f, 0.6666666865348816f, 1.0f, 0.3333333432674408f, 0.5f, 0.1666666716337204f, 0.25f,
		0.0f, -0.0052083334885537624f, -0.6666666865348816f, -1.0f, -0.3333333432674408f, -0.5f, -0.1666666716337204f, -0.25f },
};

/* Codes by value. FP4 has zero twice: below it comes 0, above it 8. */
static const unsigned char by_value[2][16] = { { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 }, { 11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3 } };

static float largest(const float *x, size_t n, float less)
{
	float most = 0;
	for (size_t i = 0; i < n; i++) most = fabsf(x[i] - less) > most ? fabsf(x[i] - less) : most;
	return most;
}

/* A whole block is multiplied by the reciprocal, what is left of one divided. */
static float scaled(float x, float most, int whole)
{
	float y = whole ? x * (1.0f / most) : x / most;
	return y < -1 ? -1 : y > 1 ? 1 : y;
}

void fourbit_encode(fourbit_type type, const float *w, size_t n, unsigned char *packed, float *absmax)
{
	const unsigned char *code = by_value[type];
	float mid[15];
	for (int i = 0; i < 15; i++) mid[i] = (fourbit_codes[type][code[i]] + fourbit_codes[type][code[i + 1]]) * 0.5f;
	memset(packed, 0, (n + 1) / 2);
	for (size_t b = 0; b * FOURBIT_BLOCK < n; b++) {
		size_t from = b * FOURBIT_BLOCK, to = n - from < FOURBIT_BLOCK ? n : from + FOURBIT_BLOCK;
		absmax[b] = largest(w + from, to - from, 0);
		float most = absmax[b] > 1e-38f ? absmax[b] : 1e-38f;
		for (size_t i = from; i < to; i++) {
			float x = scaled(w[i], most, to - from == FOURBIT_BLOCK);
			int k = 0;
			for (int j = 0; j < 15; j++) k += x > mid[j];
			packed[i / 2] |= (unsigned char)(code[k] << (i % 2 ? 0 : 4));
		}
	}
	if (n % 2 && type == FOURBIT_NF4) packed[n / 2] |= 7; /* its zero */
}

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

/* Signed, 7 exponents: the middles of 2^e equal parts of [0.1, 1], times 10^(e - 6), with both signs; and 0 and 1. */
void fourbit_map(float map[256])
{
	static const float power[] = { 1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f };
	size_t n = 0;
	for (int e = 0; e < 7; e++) {
		int parts = 1 << e;
		float step = (1.0f - 0.1f) / (float)parts, edge[65];
		/* from both ends to the middle, each in one rounding, as torch.linspace */
		for (int i = 0; i <= parts; i++) edge[i] = i < (parts + 1) / 2 ? fmaf(step, (float)i, 0.1f) : fmaf(-step, (float)(parts - i), 1.0f);
		for (int i = 0; i < parts; i++) {
			map[n] = (edge[i] + edge[i + 1]) / 2.0f * power[e];
			map[n + 1] = -map[n];
			n += 2;
		}
	}
	map[n] = 0;
	map[n + 1] = 1;
	qsort(map, 256, sizeof *map, ascending);
}

void fourbit_nest(const float *absmax, size_t n, const float map[256], unsigned char *codes, float *nested, float *offset)
{
	double sum = 0;
	for (size_t i = 0; i < n; i++) sum += (double)absmax[i];
	*offset = (float)(sum / (double)n);
	for (size_t g = 0; g * FOURBIT_GROUP < n; g++) {
		size_t from = g * FOURBIT_GROUP, to = n - from < FOURBIT_GROUP ? n : from + FOURBIT_GROUP;
		nested[g] = largest(absmax + from, to - from, *offset);
		for (size_t i = from; i < to; i++) {
			float x = nested[g] > 0 ? scaled(absmax[i] - *offset, nested[g], to - from == FOURBIT_GROUP) : -1;
			int low = 0, high = 255;
			while (low < high) { /* the first value whose upper midpoint is not below x */
				int at = (low + high) / 2;
				if (x > (map[at] + map[at + 1]) * 0.5f) low = at + 1;
				else high = at;
			}
			codes[i] = (unsigned char)low;
		}
	}
}
