/* Oracles, straight from the definitions in lora/backend.h, in double: GEMM, COPY, AXPBY, ADD, EMBED, BIAS, COLSUM, SUMSQ. mag is what was summed,
 * in absolute value, times the number of roundings. */
#include "backend/cases.h"

static const lora_dtype floats[] = { LORA_F32, LORA_F64, LORA_F16, LORA_BF16 };

static const struct { int64_t m, n, k; } shapes[] = {
	{ 1, 1, 1 }, { 0, 3, 2 }, { 3, 0, 2 }, { 3, 2, 0 }, { 1, 40, 70 }, { 5, 40, 33 }, { 8, 17, 300 }, { 40, 3, 33 }, { 13, 31, 7 }, { 33, 65, 129 },
	{ 50, 1, 20 }, { 97, 129, 300 }, { 21, 300, 16 }, { 120, 16, 530 }, { 64, 64, 256 },
	{ 1101, 70, 33 },
	{ 12, 24, 2500 }, { 10, 500, 33 }, { 36, 52, 1600 },
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };
static const double factors[][2] = { { 1, 0 }, { 1, 1 }, { -0.5, 0.25 }, { 2, 0 } };

static int gemm(test_case *t, lora_dtype real, int v)
{
	/* Every shape with a rolling choice of layouts, dtypes and factors; many variants so that all pairs meet. */
	enum { ROUNDS = 18 };
	if (v >= N_SHAPES * ROUNDS) return 0;
	int s = v % N_SHAPES, x = v / N_SHAPES;
	int64_t m = shapes[s].m, n = shapes[s].n, k = shapes[s].k;
	int la = x % 4, lb = x / 4 % 4, lc = (x + x / 4 + s) % 4;
	lora_dtype ta = real, tb = floats[(x + s) % 4], tc = real;
	if (x % 6 == 3) ta = floats[(x / 2 + s) % 4];
	if (x % 6 == 5) tc = floats[(x / 3 + s) % 4];
	if (real == LORA_F32 && tb == LORA_F64) tb = LORA_BF16;
	if (real == LORA_F32 && ta == LORA_F64) ta = LORA_F16;
	if (real == LORA_F32 && tc == LORA_F64) tc = LORA_BF16;
	if (real == LORA_BF16) { /* as in training: BF16 but for weights, small matrices and gradients */
		if (tb == LORA_F64) tb = LORA_BF16;
		if (ta == LORA_F64) ta = LORA_F32;
		if (tc == LORA_F64 || x % 6 == 2) tc = LORA_F32;
	}
	double round_b = ta == LORA_BF16 && (tb == LORA_F32 || tb == LORA_F16) ? 0x1p15 : 0; /* 2^-8 in units of 2^-23 */
	double alpha = factors[(x + s) % 4][0], beta = factors[(x + s) % 4][1];
	case_view(t, 0, tc, m, n, lc, 1, 1);
	case_view(t, 1, ta, m, k, la, 1, 0);
	case_view(t, 2, tb, k, n, lb, 1, 0);
	static const int64_t ranks[] = { 0, 0, 16, 0, 3, 40 };
	int64_t r = ranks[(x + s) % 6]; /* a second product of this rank; 0: none */
	double alpha2 = r == 3 ? 1 : -0.75;
	if (r) {
		case_view(t, 3, ta == LORA_F32 || ta == LORA_F64 ? real : ta, m, r, LAYOUT_ROWS, 1, 0);
		case_view(t, 4, real == LORA_F64 ? LORA_F64 : LORA_F32, r, n, lb, 1, 0);
		if (t->call.v[3].dtype == LORA_BF16) round_b = 0x1p15;
	}
	t->call.f[0] = alpha, t->call.f[1] = beta, t->call.f[2] = alpha2;
	snprintf(t->what, sizeof t->what, "m %d n %d k %d layouts %d %d %d dtypes %d %d %d alpha %g beta %g", (int)m, (int)n, (int)k, lc, la, lb, tc, ta, tb, alpha, beta);
	for (int64_t i = 0; i < m; i++)
		for (int64_t j = 0; j < n; j++) {
			double sum = 0, mag = 0, old = beta != 0 ? case_get(t, 0, i, j) : 0;
			for (int64_t l = 0; l < k; l++) {
				double p = case_get(t, 1, i, l) * case_get(t, 2, l, j);
				sum += alpha * p, mag += fabs(alpha * p);
			}
			for (int64_t l = 0; l < r; l++) {
				double p = alpha2 * case_get(t, 3, i, l) * case_get(t, 4, l, j);
				sum += p, mag += fabs(p);
			}
			/* done in two parts, C is rounded once more; in units of the sums' last place */
			double unit = real == LORA_F64 ? 0x1p52 : 0x1p23, again = !r ? 0 : tc == LORA_F16 ? 0x1p-10 * unit * mag : tc == LORA_BF16 ? 0x1p-7 * unit * mag : tc == LORA_F32 ? 0x1p-23 * unit * mag : 0;
			case_want(t, 0, i, j, sum + beta * old, ((double)(k + r + 4) + round_b) * mag + again + 4 * fabs(beta * old));
		}
	if (beta == 0) case_poison(t, 0);
	return 1;
}

static int copy(test_case *t, lora_dtype real, int v)
{
	static const int64_t sizes[][2] = { { 1, 1 }, { 0, 4 }, { 7, 0 }, { 5, 33 }, { 70, 40 }, { 1, 9000 } };
	if (v >= 6 * 4 * 16 || real != LORA_F32) return 0;
	int64_t n = sizes[v % 6][0], d = sizes[v % 6][1];
	lora_dtype to = floats[v / 6 % 4], from = floats[v / 24 % 4];
	case_view(t, 0, to, n, d, (v / 96 + v) % 4, 1, 1);
	case_view(t, 1, from, n, d, v / 96 % 4, 1, 0);
	case_poison(t, 0);
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < d; j++) case_want(t, 0, i, j, case_get(t, 1, i, j), 0);
	return 1;
}

static int elementwise(test_case *t, lora_prim prim, lora_dtype real, int v)
{
	static const int64_t sizes[][2] = { { 1, 1 }, { 0, 4 }, { 7, 0 }, { 5, 33 }, { 40000, 1 }, { 3, 9001 }, { 70, 200 } };
	if (v >= 7 * 8) return 0;
	int64_t n = sizes[v % 7][0], d = sizes[v % 7][1];
	int layout = v / 7 % 2 ? LAYOUT_PADDED : LAYOUT_ROWS;
	double alpha = factors[v / 7 % 4][0], beta = factors[v / 7 % 4][1];
	lora_dtype tx = prim == LORA_PRIM_ADD ? real : floats[(v / 14 + v) % 4];
	case_view(t, 0, real, n, d, layout, 1, 1);
	case_view(t, 1, tx, prim == LORA_PRIM_BIAS ? d : n, prim == LORA_PRIM_BIAS ? 1 : d, prim == LORA_PRIM_BIAS ? LAYOUT_ROWS : layout, 1, 0);
	if (prim == LORA_PRIM_ADD) case_view(t, 2, real, n, d, (v / 7) % 3 ? LAYOUT_ROWS : LAYOUT_PADDED, 1, 0);
	t->call.f[0] = alpha, t->call.f[1] = beta;
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < d; j++) {
			double y = case_get(t, 0, i, j);
			if (prim == LORA_PRIM_AXPBY) {
				double x = alpha * case_get(t, 1, i, j), b = beta != 0 ? beta * y : 0;
				case_want(t, 0, i, j, x + b, 3 * (fabs(x) + fabs(b)) + (tx == LORA_F64 ? fabs(x) : 0));
			} else {
				double a = prim == LORA_PRIM_BIAS ? y : case_get(t, 1, i, j), b = prim == LORA_PRIM_BIAS ? case_get(t, 1, j, 0) : case_get(t, 2, i, j);
				case_want(t, 0, i, j, a + b, 2 * (fabs(a) + fabs(b)));
			}
		}
	if (prim == LORA_PRIM_ADD || (prim == LORA_PRIM_AXPBY && beta == 0)) case_poison(t, 0);
	return 1;
}

static int embed(test_case *t, lora_dtype real, int v)
{
	if (v >= 12) return 0;
	int64_t n = v % 3 ? 37 : v % 2, d = v / 3 % 2 ? 33 : 64, vocab = 29;
	double scale = v % 2 ? 1 : 3.5;
	case_view(t, 0, real, n, d, v % 2, 1, 1);
	case_view(t, 1, floats[v % 4], vocab, d, v / 2 % 2, 1, 0);
	case_ids(t, 2, n, vocab, 0);
	case_poison(t, 0);
	t->call.f[0] = scale;
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < d; j++) {
			double x = case_get(t, 1, (int64_t)case_get(t, 2, i, 0), j);
			case_want(t, 0, i, j, scale * x, 2 * fabs(scale * x));
		}
	return 1;
}

/* out and base are of every float type, b and a wide. */
static int lowrank(test_case *t, lora_dtype real, int v)
{
	static const int64_t sizes[][3] = { { 1, 1, 1 }, { 0, 5, 2 }, { 30, 288, 16 }, { 25, 515, 8 }, { 50, 64, 20 }, { 13, 96, 0 }, { 7, 33, 70 }, { 103, 224, 16 }, { 20, 1088, 12 } };
	enum { SIZES = sizeof sizes / sizeof *sizes };
	if (v >= SIZES * 8 || real == LORA_BF16) return 0;
	const int64_t *s = sizes[v % SIZES], n = s[0], d = s[1], r = s[2];
	v /= SIZES;
	lora_dtype type = real == LORA_F64 ? LORA_F64 : v % 4 == 1 ? LORA_F16 : v % 2 ? LORA_F32 : LORA_BF16;
	case_view(t, 0, type, n, d, v / 2 % 2, 1, 1);
	case_view(t, 1, type, n, d, v / 4, 1, 0);
	case_view(t, 2, real, n, r, v % 4, 1, 0);
	case_view(t, 3, real, r, d, v / 2 % 2, 1, 0);
	case_view(t, 4, LORA_F64, 1, 1, LAYOUT_ROWS, 1, 1);
	case_poison(t, 0), case_poison(t, 4);
	for (int i = 1; i < 3 && v % 4 == 0 && n > 1; i++) { /* a row of zeros stays one */
		const lora_view *w = &t->call.v[i];
		size_t each = lora__dtype_size(w->dtype), at = (size_t)((unsigned char *)w->data - t->a[i].mem) + (size_t)w->stride[0] * each;
		memset(t->a[i].init + at, 0, (size_t)w->size[1] * each);
	}
	t->call.f[0] = v % 2 ? 1 : -0.75;
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < d; j++) {
			double sum = 0, mag = 0, w = case_get(t, 1, i, j);
			for (int64_t k = 0; k < r; k++) sum += case_get(t, 2, i, k) * case_get(t, 3, k, j), mag += fabs(case_get(t, 2, i, k) * case_get(t, 3, k, j));
			case_want(t, 0, i, j, w + t->call.f[0] * sum, (double)(r + 4) * mag + 4 * fabs(w));
		}
	case_want(t, 4, 0, 0, 0, 0);
	return 1;
}

static int colsum(test_case *t, lora_dtype real, int v)
{
	static const int64_t sizes[][2] = { { 1, 1 }, { 0, 5 }, { 4, 0 }, { 300, 77 }, { 33, 200 } };
	if (v >= 15) return 0;
	int64_t n = sizes[v % 5][0], d = sizes[v % 5][1];
	double beta = v / 5 * 0.5;
	case_view(t, 0, lora__wide(real), d, 1, LAYOUT_ROWS, 1, 1);
	case_view(t, 1, real, n, d, v % 2, 1, 0);
	t->call.f[0] = beta;
	for (int64_t j = 0; j < d; j++) {
		double sum = beta != 0 ? beta * case_get(t, 0, j, 0) : 0, mag = fabs(sum);
		for (int64_t i = 0; i < n; i++) sum += case_get(t, 1, i, j), mag += fabs(case_get(t, 1, i, j));
		case_want(t, 0, j, 0, sum, (real == LORA_F64 ? (double)n + 3 : 3) * mag);
	}
	if (beta == 0) case_poison(t, 0);
	return 1;
}

static int sumsq(test_case *t, lora_dtype real, int v)
{
	static const int64_t sizes[] = { 0, 1, 7, 4095, 4096, 4097, 50001 };
	if (v >= 9) return 0;
	int64_t n = sizes[v % 7];
	double sum = 0;
	case_view(t, 0, LORA_F64, 1, 1, LAYOUT_ROWS, 1, 1);
	case_view(t, 1, real, n, 1, LAYOUT_ROWS, v == 3 ? 1e18 : 1, 0);
	case_poison(t, 0);
	if (v == 8) case_poison(t, 1); /* NaN in, NaN out */
	for (int64_t i = 0; i < n; i++) sum += case_get(t, 1, i, 0) * case_get(t, 1, i, 0);
	case_want(t, 0, 0, 0, sum, (real == LORA_F64 ? (double)n : 1e-6) * sum);
	return 1;
}

int case_linear(test_case *t, lora_prim prim, lora_dtype real, int v)
{
	switch (prim) {
	case LORA_PRIM_GEMM: return gemm(t, real, v);
	case LORA_PRIM_COPY: return copy(t, real, v);
	case LORA_PRIM_LOWRANK: return lowrank(t, real, v);
	case LORA_PRIM_AXPBY:
	case LORA_PRIM_ADD:
	case LORA_PRIM_BIAS: return elementwise(t, prim, real, v);
	case LORA_PRIM_EMBED: return embed(t, real, v);
	case LORA_PRIM_COLSUM: return colsum(t, real, v);
	case LORA_PRIM_SUMSQ: return sumsq(t, real, v);
	default: return 0;
	}
}
