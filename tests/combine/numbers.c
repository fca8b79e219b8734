/* What combinations are made of: the rules for single entries (dropping, electing, adding), the eigenproblem, and best approximations of low rank. */
#include <check.h>

#include "check_alloc.h"
#include "combine/combine.h"
#include "combine/lowrank.h"
#include "golden.h"

TCase *numbers(void);

/* --- rules entry by entry --- */

static void mix(const char *type, int peft, double density, float *v0, float *v1, const double *w, int64_t count, float *out)
{
	lora__mix m = { .type = lora__combination_find(type), .peft = peft, .density = density };
	float *v[2] = { v0, v1 };
	uint64_t keys[2] = { 5, 6 };
	ck_ok(lora__mix_run(golden_ctx, &m, v, w, keys, v1 ? 2 : 1, count, out));
}

START_TEST(rules)
{
	const double one[] = { 1, 1 };
	float out[6], a[6] = { 1, -2, 3, 0, 5, -6 }, b[6] = { -1, 2, 1, 2, -5, -2 }, x[6], y[6];
	memcpy(x, a, sizeof a);
	mix("ties", 0, 1, x, NULL, one, 6, out); /* K = 1, density 1: tau itself */
	ck_assert_mem_eq(out, a, sizeof a);
	memcpy(x, a, sizeof a);
	mix("ties", 0, 0.5, x, NULL, one, 6, out); /* trimmed */
	ck_assert_mem_eq(out, ((float[]){ 0, 0, 3, 0, 5, -6 }), sizeof a);
	memcpy(x, a, sizeof a), memcpy(y, a, sizeof a);
	mix("ties", 0, 1, x, y, one, 6, out); /* twins: the mean is either */
	ck_assert_mem_eq(out, a, sizeof a);
	memcpy(x, a, sizeof a), memcpy(y, b, sizeof b);
	mix("ties", 0, 1, x, y, one, 6, out); /* sums 0 0 4 2 0 -8: more are positive, so + is elected where the sum is 0 */
	ck_assert_mem_eq(out, ((float[]){ 1, 2, 2, 2, 5, -4 }), sizeof a);
	memcpy(x, a, sizeof a), memcpy(y, b, sizeof b);
	for (int i = 0; i < 6; i++) x[i] = -x[i], y[i] = -y[i];
	mix("ties", 0, 1, x, y, one, 6, out); /* all signs turned: majority is -, never the average 0 */
	ck_assert_mem_eq(out, ((float[]){ -1, -2, -2, -2, -5, 4 }), sizeof a);
	memcpy(x, a, sizeof a), memcpy(y, b, sizeof b);
	for (int i = 0; i < 6; i++) x[i] = -x[i], y[i] = -y[i];
	mix("ties", 1, 1, x, y, one, 6, out); /* PEFT: always + */
	ck_assert_mem_eq(out, ((float[]){ 1, 2, -2, -2, 5, 4 }), sizeof a);
	memcpy(x, a, sizeof a), memcpy(y, b, sizeof b);
	mix("magnitude_prune", 0, 0.34, x, y, one, 6, out); /* two of each; of b's equal ones the first */
	ck_assert_mem_eq(out, ((float[]){ 0, 2, 0, 0, 0, -6 }), sizeof a);
	float ties_v[5] = { 1, -1, 1, 1, -1 };
	lora__keep_largest(ties_v, 5, 2);
	ck_assert_mem_eq(ties_v, ((float[]){ 1, -1, 0, 0, 0 }), sizeof ties_v);
	lora__keep_largest(ties_v, 5, 0);
	ck_assert_mem_eq(ties_v, ((float[5]){ 0 }), sizeof ties_v);
}
END_TEST

/* Selection against sorting, with many equal values and subnormals. */
static int by_size(const void *x, const void *y)
{
	double a = fabs((double)*(const float *)x), b = fabs((double)*(const float *)y);
	return (a < b) - (a > b);
}

START_TEST(selection)
{
	uint64_t seed = check_seed(3);
	enum { N = 5000 };
	static float v[N], sorted[N];
	for (int round = 0; round < 20; round++) {
		int64_t keep = (int64_t)(check_random(&seed) % N), left = 0;
		for (int i = 0; i < N; i++) {
			uint32_t u = (uint32_t)check_random(&seed);
			if (round % 3 == 0) v[i] = (float)((int)(u % 21) - 10);
			else u &= 0xbf7fffffu, memcpy(&v[i], &u, 4);
		}
		memcpy(sorted, v, sizeof v);
		qsort(sorted, N, sizeof *sorted, by_size);
		double sum = 0, want = 0;
		for (int64_t i = 0; i < keep; i++) want += fabs((double)sorted[i]);
		lora__keep_largest(v, N, keep);
		for (int i = 0; i < N; i++) left += v[i] != 0, sum += fabs((double)v[i]);
		ck_assert_int_le(left, keep);
		ck_assert(fabs(sum - want) <= 1e-12 * want);
	}
}
END_TEST

/* Large arrays, where a sample tells first where to look: plain ones, mostly zeros, few values, and one whose sampled places (every so many) lie about the rest. */
START_TEST(selection_large)
{
	enum { N = 70001 };
	static float v[N], before[N], sorted[N];
	uint64_t seed = check_seed(5) + (uint64_t)_i;
	int64_t keep = _i % 2 ? N / 5 : 1 + (int64_t)(check_random(&seed) % (N - 1));
	for (int i = 0; i < N; i++) {
		double x = (double)(check_random(&seed) >> 11) * 0x1p-53 - 0.5;
		if (_i / 2 == 1 && check_random(&seed) % 10) x = 0;
		if (_i / 2 == 2) x = (double)(int)(x * 9);
		v[i] = (float)x;
	}
	for (int i = 0; i < 16384 && _i / 2 == 3; i++) v[(int)((double)i * (N - 1) / 16383)] = 100 + (float)i;
	memcpy(before, v, sizeof v), memcpy(sorted, v, sizeof v);
	qsort(sorted, N, sizeof *sorted, by_size);
	float limit = fabsf(sorted[keep - 1]);
	int64_t above = 0, alike = 0;
	for (int i = 0; i < N; i++) above += fabsf(before[i]) > limit;
	lora__keep_largest(v, N, keep);
	for (int i = 0; i < N; i++) { /* of equal ones the first stay */
		float x = fabsf(before[i]);
		int stays = x > limit || (x == limit && alike < keep - above);
		alike += x == limit;
		ck_assert_msg(v[i] == (stays ? before[i] : 0), "case %d, entry %d of %d kept: %g, was %g", _i, i, (int)keep, (double)v[i], (double)before[i]);
	}
}
END_TEST

/* DARE: mean and variance of one entry over seeds. */
START_TEST(dare)
{
	enum { N = 40000 };
	static float v[N], out[N];
	const double one[] = { 1 }, p = 0.7, tau = 0.5;
	double mean = 0, square = 0;
	for (int i = 0; i < N; i++) v[i] = (float)tau;
	golden_context("naive", 1);
	mix("dare_linear", 0, 1 - p, v, NULL, one, N, out);
	for (int i = 0; i < N; i++) mean += (double)out[i] / N, square += ((double)out[i] - tau) * ((double)out[i] - tau) / N;
	double variance = tau * tau * p / (1 - p);
	ck_assert_msg(fabs(mean - tau) < 5 * sqrt(variance / N), "mean %g", mean);
	ck_assert_msg(fabs(square / variance - 1) < 0.05, "variance %g, %g wanted", square, variance);
	mix("dare_linear", 0, 0, v, NULL, one, N, out);
	for (int i = 0; i < N; i++) ck_assert(out[i] == 0);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* --- the thin SVD --- */

static double random_real(uint64_t *seed)
{
	double s = 0;
	for (int i = 0; i < 6; i++) s += (double)(check_random(seed) >> 11) * 0x1p-53;
	return s - 3;
}

/* Diagonalise a random symmetric matrix, some with equal or zero eigenvalues, and look at T w = lambda w and W^T W = 1. */
START_TEST(eigen)
{
	uint64_t seed = check_seed(17) + (uint64_t)_i;
	int64_t n = 1 + _i * 7 % 60, k = 1 + (int64_t)(check_random(&seed) % (uint64_t)n), rank = _i % 3 == 0 ? n : 1 + n / 3;
	double *t = calloc((size_t)(n * n), sizeof *t), *c = calloc((size_t)(n * n), sizeof *c), *w = calloc((size_t)(n * k), sizeof *w), *v = calloc((size_t)n, sizeof *v);
	double *x = calloc((size_t)(n * n), sizeof *x), trace = 0, sum = 0, most = 0;
	golden_context("naive", 1);
	for (int64_t i = 0; i < rank * n; i++) x[i] = _i % 5 == 4 ? (i / n == i % n) : random_real(&seed);
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < n; j++)
			for (int64_t l = 0; l < rank; l++) t[i * n + j] += x[l * n + i] * x[l * n + j];
	memcpy(c, t, (size_t)(n * n) * sizeof *t);
	for (int64_t i = 0; i < n; i++) trace += t[i * n + i];
	ck_ok(lora__eigen_top(golden_ctx, t, n, k, v, w));
	for (int64_t a = 0; a < k; a++) {
		ck_assert(a == 0 || v[a] <= v[a - 1]);
		sum += v[a], most = fmax(most, v[a]);
		for (int64_t i = 0; i < n; i++) {
			double s = -v[a] * w[i * k + a];
			for (int64_t j = 0; j < n; j++) s += c[i * n + j] * w[j * k + a];
			ck_assert_msg(fabs(s) < 1e-12 * (v[0] + 1e-300), "n %d k %d: residual %g", (int)n, (int)k, s);
		}
		for (int64_t b = 0; b <= a; b++) {
			double s = a == b ? -1 : 0;
			for (int64_t i = 0; i < n; i++) s += w[i * k + a] * w[i * k + b];
			ck_assert_msg(fabs(s) < 1e-12, "n %d: vectors %d and %d: %g", (int)n, (int)a, (int)b, s);
		}
	}
	if (k >= rank) ck_assert(fabs(sum - trace) <= 1e-12 * fabs(trace));
	free(t), free(c), free(w), free(v), free(x);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* What is left of a matrix with known singular values. */
START_TEST(lowrank)
{
	static const int shape[][4] = { { 30, 40, 12, 5 }, { 40, 30, 12, 5 }, { 30, 40, 60, 5 }, { 1, 9, 3, 1 }, { 9, 1, 3, 2 }, { 1100, 1200, 40, 12 }, { 50, 50, 4, 9 } };
	int out = shape[_i][0], in = shape[_i][1], r = shape[_i][2], k = shape[_i][3], least = out < in ? out : in, full = r < least ? r : least;
	uint64_t seed = check_seed(23) + (uint64_t)_i;
	double *b = calloc((size_t)(r * out), sizeof *b), *a = calloc((size_t)(r * in), sizeof *a), left = 0, wanted = 0;
	float *d = calloc((size_t)(out * in), sizeof *d), *la = calloc((size_t)(k * in), sizeof *la), *lb = calloc((size_t)(k * out), sizeof *lb);
	golden_context("naive", 2);
	/* B and A with orthonormal columns and rows (Gram-Schmidt), so that the singular values are the factors 1, 1/2, 1/3, ... */
	for (int i = 0; i < full; i++)
		for (int side = 0; side < 2; side++) {
			double *x = side ? a + i * in : b + i * out, *all = side ? a : b, s = 0;
			int n = side ? in : out;
			for (int j = 0; j < n; j++) x[j] = random_real(&seed);
			for (int twice = 0; twice < 2; twice++)
				for (int l = 0; l < i; l++) {
					double dot = 0;
					for (int j = 0; j < n; j++) dot += x[j] * all[l * n + j];
					for (int j = 0; j < n; j++) x[j] -= dot * all[l * n + j];
				}
			for (int j = 0; j < n; j++) s += x[j] * x[j];
			for (int j = 0; j < n; j++) x[j] /= sqrt(s);
		}
	for (int i = 0; i < full * in; i++) a[i] /= i / in + 1;
	for (int i = 0; i < full; i++)
		for (int p = 0; p < out; p++)
			for (int j = 0; j < in; j++) d[p * in + j] += (float)(b[i * out + p] * a[i * in + j]);
	for (int i = k; i < full; i++) wanted += 1.0 / (i + 1) / (i + 1);
	for (int dense = 0; dense < 2; dense++) {
		if (dense) ck_ok(lora__lowrank_dense(golden_ctx, d, out, in, k, la, lb));
		else ck_ok(lora__lowrank_product(golden_ctx, b, a, out, in, r, k, la, lb));
		left = 0;
		for (int p = 0; p < out; p++)
			for (int j = 0; j < in; j++) {
				double s = (double)d[p * in + j];
				for (int c = 0; c < k; c++) s -= (double)lb[p * k + c] * (double)la[c * in + j];
				left += s * s;
			}
		ck_assert_msg(fabs(sqrt(left) - sqrt(wanted)) < 1e-5, "%d: %g is left, %g wanted", dense, sqrt(left), sqrt(wanted));
	}
	free(b), free(a), free(d), free(la), free(lb);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Cut by subspace iteration against the exact cut: the same error left, to 1e-5, for flat, decaying and low-rank spectra, some below the noise of F32, lying and standing. */
START_TEST(subspace)
{
	int64_t out = _i % 2 ? 210 : 330, in = _i % 2 ? 330 : 210, least = 210, k = _i / 8 == 0 ? 5 : _i / 8 == 1 ? 120 : 210, count = out * in; /* few, many, all */
	uint64_t seed = check_seed(23) + (uint64_t)_i;
	float *d = calloc((size_t)count, sizeof *d), *la = calloc((size_t)(k * in), sizeof *la), *lb = calloc((size_t)(k * out), sizeof *lb);
	double *u = calloc((size_t)(least * out), sizeof *u), *v = calloc((size_t)(least * in), sizeof *v), left[2], total = 0;
	int64_t rank = _i / 2 % 4 == 3 ? 4 : least;
	golden_context("naive", 1);
	for (int64_t i = 0; i < least * out; i++) u[i] = random_real(&seed);
	for (int64_t i = 0; i < least * in; i++) v[i] = random_real(&seed);
	for (int64_t c = 0; c < rank; c++) {
		double size = _i / 2 % 4 == 0 ? 1 : _i / 2 % 4 == 1 ? pow(0.9, (double)c) : _i / 2 % 4 == 2 ? pow(0.05, (double)c) : 1.0 / (double)(c + 1);
		for (int64_t i = 0; i < count; i++) d[i] += (float)(size * u[c * out + i / in] * v[c * in + i % in]);
	}
	for (int64_t i = 0; i < count; i++) total += (double)d[i] * d[i];
	for (int way = 0; way < 2; way++) {
		ck_ok((way ? lora__lowrank_dense : lora__lowrank_exact)(golden_ctx, d, out, in, k, la, lb));
		left[way] = 0;
		for (int64_t i = 0; i < count; i++) {
			double x = d[i];
			for (int64_t c = 0; c < k; c++) x -= (double)lb[i / in * k + c] * la[c * in + i % in];
			left[way] += x * x;
		}
	}
	ck_assert_msg(sqrt(left[1]) <= sqrt(left[0]) * (1 + 1e-5) + 1e-6 * sqrt(total), "case %d: %.9g left, exactly %.9g of %.9g", _i, sqrt(left[1]), sqrt(left[0]), sqrt(total));
	free(d), free(la), free(lb), free(u), free(v);
	d = calloc((size_t)count, sizeof *d); /* nothing at all */
	la = calloc((size_t)(k * in), sizeof *la), lb = calloc((size_t)(k * out), sizeof *lb);
	ck_ok(lora__lowrank_dense(golden_ctx, d, out, in, k, la, lb));
	for (int64_t i = 0; i < k * out; i++) ck_assert(lb[i] == 0);
	free(d), free(la), free(lb);
	lora_context_destroy(golden_ctx);
}
END_TEST

TCase *numbers(void)
{
	TCase *t = tcase_create("numbers");
	tcase_set_timeout(t, 60);
	tcase_add_test(t, rules);
	tcase_add_test(t, selection);
	tcase_add_loop_test(t, selection_large, 0, 8);
	tcase_add_test(t, dare);
	tcase_add_loop_test(t, eigen, 0, 40);
	tcase_add_loop_test(t, lowrank, 0, 7);
	tcase_add_loop_test(t, subspace, 0, 24);
	return t;
}
