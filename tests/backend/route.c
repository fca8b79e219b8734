/* Oracles in double: TOPK, TOPK_BWD, ROWSCALE, ROWDOT. */
#include "backend/cases.h"

static const int64_t shapes[][3] = { { 1, 1, 1 }, { 0, 4, 2 }, { 7, 8, 2 }, { 130, 5, 5 }, { 70, 33, 4 }, { 3, 60, 8 } }; /* rows, choices, chosen */
enum { N = 6 };

static double maximum(const test_case *t, int view, int64_t r)
{
	double top = -INFINITY;
	for (int64_t j = 0; j < t->call.v[view].size[1]; j++) top = fmax(top, case_get(t, view, r, j));
	return top;
}

/* Number of the k-th largest x of a row, the lower index first among equals. */
static int64_t ranked(const test_case *t, int view, int64_t r, int64_t k)
{
	int64_t n = t->call.v[view].size[1];
	for (int64_t i = 0; i < n; i++) {
		int64_t before = 0;
		for (int64_t j = 0; j < n; j++) before += case_get(t, view, r, j) > case_get(t, view, r, i) || (j < i && case_get(t, view, r, j) == case_get(t, view, r, i));
		if (before == k) return i;
	}
	return -1;
}

/* Sum that the softmax divides by: over all of the row, or over the ids chosen. */
static double divisor(const test_case *t, int view, int64_t r, int64_t k, int normalise)
{
	double top = maximum(t, view, r), sum = 0;
	for (int64_t j = 0; j < (normalise ? k : t->call.v[view].size[1]); j++) sum += exp(case_get(t, view, r, normalise ? ranked(t, view, r, j) : j) - top);
	return sum;
}

static void put_id(test_case *t, int view, int64_t r, int64_t c, int32_t id)
{
	const lora_view *w = &t->call.v[view];
	memcpy(t->a[view].init + 64 + 4 * (r * w->stride[0] + c * w->stride[1]), &id, 4);
}

static int topk(test_case *t, lora_dtype real, int v, int backward)
{
	if (v >= N * 4) return 0;
	int64_t n = shapes[v % N][0], m = shapes[v % N][1], k = shapes[v % N][2];
	int normalise = v / N % 2, x = 1, ids = 2;
	double size = v / 12 ? 20 : 2;
	case_view(t, 0, backward ? real : lora__wide(real), n, backward ? m : k, v % 2, 1, 1);
	case_view(t, x, real, n, m, v / 2 % 2, size, 0);
	case_view(t, ids, LORA_I32, n, k, (v + 1) % 2, 1, !backward);
	if (backward) case_view(t, 3, lora__wide(real), n, k, v / 3 % 2, 1, 0);
	t->call.i[0] = normalise;
	for (int64_t r = 0; r < n; r++) {
		double top = maximum(t, x, r), sum = divisor(t, x, r, k, normalise), mean = 0, mag = 0;
		for (int64_t s = 0; s < k; s++) {
			int64_t id = ranked(t, x, r, s);
			double p = exp(case_get(t, x, r, id) - top) / sum;
			if (backward) {
				put_id(t, ids, r, s, (int32_t)id);
				mean += p * case_get(t, 3, r, s), mag += fabs(p * case_get(t, 3, r, s));
			} else {
				case_want(t, 0, r, s, p, (double)(m + 8) * p * (1 + size));
				case_want(t, ids, r, s, (double)id, 0);
			}
		}
		for (int64_t i = 0; i < m && backward; i++) {
			double p = normalise ? 0 : exp(case_get(t, x, r, i) - top) / sum, d = 0;
			for (int64_t s = 0; s < k; s++)
				if (ranked(t, x, r, s) == i) p = exp(case_get(t, x, r, i) - top) / sum, d = case_get(t, 3, r, s);
			case_want(t, 0, r, i, p * (d - mean), (double)(m + 16) * p * (fabs(d) + mag) * (1 + size));
		}
	}
	case_poison(t, 0);
	return 1;
}

static int rowscale(test_case *t, lora_dtype real, int v)
{
	if (v >= N * 4) return 0;
	int64_t n = shapes[v % N][0], d = shapes[v % N][1];
	int in_place = v % 4 == 3;
	case_view(t, 0, real, n, d, v % 2, 1, 1);
	case_view(t, 1, real, n, d, v / 2 % 2, 1, 0);
	case_view(t, 2, lora__wide(real), n, 1, LAYOUT_ROWS, 1, 0);
	if (in_place) t->call.v[1] = t->call.v[0];
	for (int64_t r = 0; r < n; r++)
		for (int64_t j = 0; j < d; j++) {
			double y = case_get(t, in_place ? 0 : 1, r, j) * case_get(t, 2, r, 0);
			case_want(t, 0, r, j, y, fabs(y));
		}
	if (!in_place) case_poison(t, 0);
	return 1;
}

static int rowdot(test_case *t, lora_dtype real, int v)
{
	if (v >= N * 4) return 0;
	int64_t n = shapes[v % N][0], d = shapes[v % N][1];
	case_view(t, 0, lora__wide(real), n, 1, LAYOUT_ROWS, 1, 1);
	case_view(t, 1, real, n, d, v % 2, 1, 0);
	case_view(t, 2, real, n, d, v / 2 % 2, 1, 0);
	for (int64_t r = 0; r < n; r++) {
		double y = 0, mag = 0;
		for (int64_t j = 0; j < d; j++) y += case_get(t, 1, r, j) * case_get(t, 2, r, j), mag += fabs(case_get(t, 1, r, j) * case_get(t, 2, r, j));
		case_want(t, 0, r, 0, y, (double)(d + 4) * mag);
	}
	case_poison(t, 0);
	return 1;
}

int case_route(test_case *t, lora_prim prim, lora_dtype real, int v)
{
	switch (prim) {
	case LORA_PRIM_TOPK: return topk(t, real, v, 0);
	case LORA_PRIM_TOPK_BWD: return topk(t, real, v, 1);
	case LORA_PRIM_ROWSCALE: return rowscale(t, real, v);
	case LORA_PRIM_ROWDOT: return rowdot(t, real, v);
	default: return 0;
	}
}
