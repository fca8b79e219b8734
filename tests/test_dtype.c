/* Conversions between float types: every half, rounding at every boundary, NaN, and every bulk form against the scalar one. */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "check_alloc.h"
#include "tensor/dtype_bulk.h"

static uint32_t bits(float f)
{
	uint32_t u;
	memcpy(&u, &f, 4);
	return u;
}
static float real(uint32_t u)
{
	float f;
	memcpy(&f, &u, 4);
	return f;
}

/* Value of a half by its definition: p bits of fraction, bias, in double. */
static double half_value(uint16_t h, int fraction, int bias)
{
	int exponent = (h & 0x7fff) >> fraction, top = 0x7fff >> fraction;
	double f = h & ((1 << fraction) - 1), v;
	if (exponent == top) v = f ? NAN : INFINITY;
	else if (exponent == 0) v = ldexp(f, 1 - bias - fraction);
	else v = ldexp(f + (1 << fraction), exponent - bias - fraction);
	return h & 0x8000 ? -v : v;
}

/* Nearest half to a double by search over the ordered positive halves; ties to the even one. */
static uint16_t nearest(double x, int fraction, int bias)
{
	uint16_t lo = 0, hi = (uint16_t)(0x7fff >> fraction << fraction), sign = signbit(x) ? 0x8000 : 0; /* hi: infinity */
	double a = fabs(x), largest = half_value((uint16_t)(hi - 1), fraction, bias);
	double limit = largest + (largest - half_value((uint16_t)(hi - 2), fraction, bias)) / 2;
	if (a >= limit) return (uint16_t)(sign | hi);
	hi--;
	while (hi - lo > 1) {
		uint16_t mid = (uint16_t)((lo + hi) / 2);
		if (half_value(mid, fraction, bias) <= a) lo = mid;
		else hi = mid;
	}
	double down = a - half_value(lo, fraction, bias), up = half_value(hi, fraction, bias) - a;
	uint16_t h = down < up ? lo : up < down ? hi : lo % 2 == 0 ? lo : hi;
	return (uint16_t)(sign | h);
}

START_TEST(names)
{
	for (lora_dtype d = LORA_F32; d <= LORA_BOOL; d++) {
		ck_assert_uint_gt(lora__dtype_size(d), 0);
		ck_assert_int_eq(lora__dtype_parse(lora__dtype_name(d)), d);
		ck_assert_int_eq(lora__dtype_is_float(d), d <= LORA_F64);
	}
	ck_assert_uint_eq(lora__dtype_size(0), 0);
	ck_assert_uint_eq(lora__dtype_size(-1), 0);
	ck_assert_uint_eq(lora__dtype_size(99), 0);
	ck_assert_str_eq(lora__dtype_name(1000), "?");
	ck_assert_int_eq(lora__dtype_parse("f32"), LORA_DTYPE_NONE);
	ck_assert_int_eq(lora__dtype_parse("?"), LORA_DTYPE_NONE);
	ck_assert_int_eq(lora__dtype_parse(NULL), LORA_DTYPE_NONE);
	ck_assert_str_eq(lora__dtype_name(LORA_BF16), "BF16");
	ck_assert_uint_eq(lora__dtype_size(LORA_BF16), 2);
}
END_TEST

START_TEST(every_half)
{
	for (uint32_t h = 0; h < 65536; h++) {
		float f = lora__f16_to_f32((uint16_t)h), b = lora__bf16_to_f32((uint16_t)h);
		double want = half_value((uint16_t)h, 10, 15), want_b = half_value((uint16_t)h, 7, 127);
		if (isnan(want)) {
			ck_assert(isnan(f));
			ck_assert_msg(bits(f) & 0x400000u, "NaN of half %04x is not quiet", h);
			ck_assert_uint_eq(lora__f32_to_f16(f), h | 0x200u);
		} else {
			ck_assert_msg((double)f == want && !signbit(f) == !signbit(want), "half %04x: %g, wanted %g", h, (double)f, want);
			ck_assert_uint_eq(lora__f32_to_f16(f), h);
		}
		if (isnan(want_b)) {
			ck_assert(isnan(b));
			ck_assert_uint_eq(lora__f32_to_bf16(b), h | 0x40u);
		} else {
			ck_assert(bits(b) == h << 16 && (double)b == want_b);
			ck_assert_uint_eq(lora__f32_to_bf16(b), h);
		}
	}
}
END_TEST

/* Doubles on, just below and just above every boundary between two halves, and the halves themselves. */
START_TEST(rounding)
{
	static const struct { lora_dtype type; int fraction, bias; } kinds[] = { { LORA_F16, 10, 15 }, { LORA_BF16, 7, 127 } };
	int fraction = kinds[_i].fraction, bias = kinds[_i].bias, top = 0x7fff >> fraction << fraction;
	for (int h = 0; h < top; h++) {
		double a = half_value((uint16_t)h, fraction, bias), b = h + 1 < top ? half_value((uint16_t)(h + 1), fraction, bias) : 2 * a - half_value((uint16_t)(h - 1), fraction, bias);
		double mid = (a + b) / 2, tries[] = { a, mid, nextafter(mid, 0), nextafter(mid, INFINITY), a + (b - a) * 0.25, a + (b - a) * 0.75 };
		for (size_t i = 0; i < sizeof tries / sizeof *tries; i++)
			for (int sign = -1; sign <= 1; sign += 2) {
				double x = sign * tries[i];
				uint16_t got, want = nearest(x, fraction, bias);
				lora__convert(&got, kinds[_i].type, &x, LORA_F64, 1);
				ck_assert_msg(got == want, "%a: %04x, wanted %04x", x, got, want);
				float f = (float)x;
				lora__convert(&got, kinds[_i].type, &f, LORA_F32, 1);
				want = nearest((double)f, fraction, bias);
				ck_assert_msg(got == want, "float %a: %04x, wanted %04x", (double)f, got, want);
			}
	}
	double special[] = { INFINITY, -INFINITY, 1e300, -1e300, 5e-324, -5e-324, 0.0, -0.0, 3.4e38, 3.5e38 };
	for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
		uint16_t got;
		lora__convert(&got, kinds[_i].type, &special[i], LORA_F64, 1);
		ck_assert_msg(got == nearest(special[i], fraction, bias), "%a: %04x", special[i], got);
	}
}
END_TEST

/* Float patterns: all exponents with fractions around every rounding boundary, and random ones. */
static size_t patterns(float **out)
{
	enum { RANDOM = 1 << 18 };
	static const uint32_t low[] = { 0, 1, 2, 0xfff, 0x1000, 0x1001, 0x1fff, 0x2000, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff, 0x10000, 0x17fff, 0x18000, 0x18001,
		0x3fffff, 0x400000, 0x400001, 0x7fefff, 0x7ff000, 0x7ff001, 0x7f7fff, 0x7f8000, 0x7fffff };
	const size_t n_low = sizeof low / sizeof *low;
	size_t n = 0;
	float *f = malloc((512 * n_low + RANDOM) * sizeof *f);
	uint64_t seed = check_seed(1);
	for (uint32_t e = 0; e < 512; e++) /* sign and exponent */
		for (size_t i = 0; i < n_low; i++) f[n++] = real(e << 23 | low[i]);
	for (int i = 0; i < RANDOM; i++) f[n++] = real((uint32_t)check_random(&seed));
	*out = f;
	return n;
}

START_TEST(bulk_equals_scalar)
{
	const lora__bulk *b = lora__bulk_at(_i);
	if (!b) return; /* not on this processor */
	float *f, wide[64 + 7];
	size_t n = patterns(&f);
	uint16_t *h = malloc((n + 1) * 2), half[64 + 7];
	float *w = malloc(65536 * 4);
	for (int type = 0; type < 2; type++) {
		(type ? b->f32_to_bf16 : b->f32_to_f16)(h, f, n);
		for (size_t i = 0; i < n; i++) {
			uint16_t want = type ? lora__f32_to_bf16(f[i]) : lora__f32_to_f16(f[i]);
			ck_assert_msg(h[i] == want, "table %d type %d: %08x gave %04x, wanted %04x", _i, type, bits(f[i]), h[i], want);
		}
		for (size_t i = 0; i < 65536; i++) h[i] = (uint16_t)i;
		(type ? b->bf16_to_f32 : b->f16_to_f32)(w, h, 65536);
		for (size_t i = 0; i < 65536; i++) {
			float want = type ? lora__bf16_to_f32((uint16_t)i) : lora__f16_to_f32((uint16_t)i);
			ck_assert_msg(bits(w[i]) == bits(want), "table %d type %d: %04x gave %08x, wanted %08x", _i, type, (unsigned)i, bits(w[i]), bits(want));
		}
		for (size_t len = 0; len <= 64; len++) { /* every tail length; what lies behind is left alone */
			for (size_t i = 0; i < 71; i++) half[i] = 0x1234, wide[i] = 7;
			(type ? b->f32_to_bf16 : b->f32_to_f16)(half, f + 1000, len);
			(type ? b->bf16_to_f32 : b->f16_to_f32)(wide, h + 1001, len);
			for (size_t i = 0; i < 71; i++) {
				ck_assert_uint_eq(half[i], i >= len ? 0x1234 : type ? lora__f32_to_bf16(f[1000 + i]) : lora__f32_to_f16(f[1000 + i]));
				ck_assert_uint_eq(bits(wide[i]), bits(i >= len ? 7 : type ? lora__bf16_to_f32(h[1001 + i]) : lora__f16_to_f32(h[1001 + i])));
			}
		}
	}
	free(f), free(h), free(w);
}
END_TEST

/* Between any two types: through the scalar path of one element, for lengths around the blocks. */
START_TEST(convert_all_pairs)
{
	static const lora_dtype types[] = { LORA_F32, LORA_F64, LORA_F16, LORA_BF16 };
	enum { N = 1000 };
	double source[N], a[N], b[N];
	char from[N * 8], to[N * 8], one[8];
	uint64_t seed = 5;
	for (int i = 0; i < N; i++) source[i] = ldexp((double)(check_random(&seed) >> 11), (int)(check_random(&seed) % 60) - 83) * (i % 2 ? 1 : -1);
	for (int s = 0; s < 4; s++)
		for (int d = 0; d < 4; d++) {
			size_t ss = lora__dtype_size(types[s]), ds = lora__dtype_size(types[d]);
			lora__convert(from, types[s], source, LORA_F64, N);
			for (size_t n = 0; n <= N; n += 1 + n / 3) {
				memset(to, 0x5a, sizeof to);
				lora__convert(to, types[d], from, types[s], n);
				for (size_t i = 0; i < n; i++) {
					lora__convert(one, types[d], from + i * ss, types[s], 1);
					ck_assert(!memcmp(one, to + i * ds, ds));
				}
				for (size_t i = n * ds; i < sizeof to; i++) ck_assert_int_eq(to[i], 0x5a);
			}
			if (ds > ss || d == s) { /* widening loses nothing */
				lora__convert(a, LORA_F64, from, types[s], N);
				lora__convert(to, types[d], from, types[s], N);
				lora__convert(b, LORA_F64, to, types[d], N);
				ck_assert(!memcmp(a, b, sizeof a));
			}
		}
}
END_TEST

START_TEST(all_finite)
{
	static const lora_dtype types[] = { LORA_F32, LORA_F64, LORA_F16, LORA_BF16 };
	double bad[] = { INFINITY, -INFINITY, NAN };
	for (int t = 0; t < 4; t++)
		for (int k = 0; k < 3; k++)
			for (size_t at = 0; at < 40; at++) {
				double x[40];
				char y[40 * 8];
				for (size_t i = 0; i < 40; i++) x[i] = (double)i - 20;
				lora__convert(y, types[t], x, LORA_F64, 40);
				ck_assert(lora__all_finite(y, types[t], 40));
				x[at] = bad[k];
				lora__convert(y, types[t], x, LORA_F64, 40);
				ck_assert(!lora__all_finite(y, types[t], 40));
				ck_assert(lora__all_finite(y, types[t], at));
			}
	ck_assert(lora__all_finite(NULL, LORA_F32, 0));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("dtype");
	TCase *c = tcase_create("dtype");
	tcase_set_timeout(c, 60);
	tcase_add_test(c, names);
	tcase_add_test(c, every_half);
	tcase_add_loop_test(c, rounding, 0, 2);
	tcase_add_loop_test(c, bulk_equals_scalar, 0, 3);
	tcase_add_test(c, convert_all_pairs);
	tcase_add_test(c, all_finite);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
