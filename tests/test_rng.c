/* The generator: Philox4x32-10 against its published answers, and streams that are the same however they are drawn. */
#include <check.h>

#include "base/rng.h"
#include "check_alloc.h"

/* kat_vectors of the authors' Random123 distribution. */
static const struct { uint64_t key, lo, hi; uint32_t out[4]; } answers[] = {
	{ 0, 0, 0, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
	{ UINT64_MAX, UINT64_MAX, UINT64_MAX, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
	{ 0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e, { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
};

START_TEST(published)
{
	uint32_t out[4];
	for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
		lora__philox(answers[i].key, answers[i].lo, answers[i].hi, out);
		ck_assert_mem_eq(out, answers[i].out, sizeof out);
	}
}
END_TEST

START_TEST(in_bulk_as_one_by_one)
{
	double bulk[64];
	for (int before = 0; before < 6; before++)
		for (int n = 0; n < 40; n++) {
			lora__rng a, b;
			lora__rng_init(&a, 77), lora__rng_init(&b, 77);
			a.counter = b.counter = UINT32_MAX - 2; /* the low word overflows on the way */
			for (int i = 0; i < before; i++) ck_assert_uint_eq(lora__rng_u32(&a), lora__rng_u32(&b));
			lora__rng_uniforms(&a, bulk, n);
			for (int i = 0; i < n; i++) ck_assert_msg(bulk[i] == lora__rng_uniform(&b), "%d of %d after %d", i, n, before);
			for (int i = 0; i < 5; i++) ck_assert_uint_eq(lora__rng_u32(&a), lora__rng_u32(&b));
		}
}
END_TEST

START_TEST(ranges)
{
	lora__rng r;
	double sum = 0, square = 0;
	int seen[7] = { 0 };
	lora__rng_init(&r, lora__rng_key(1, LORA__RNG_INIT, 2));
	for (int i = 0; i < 20000; i++) {
		double u = lora__rng_uniform(&r), z = lora__rng_normal(&r);
		ck_assert(u >= 0 && u < 1);
		sum += z, square += z * z;
		seen[lora__rng_below(&r, 7)]++;
	}
	ck_assert_double_eq_tol(sum / 20000, 0, 0.03);
	ck_assert_double_eq_tol(square / 20000, 1, 0.05);
	for (int i = 0; i < 7; i++) ck_assert_int_gt(seen[i], 20000 / 7 - 300);
	ck_assert(lora__rng_key(1, 1, 1) != lora__rng_key(1, 1, 2) && lora__rng_key(1, 1, 1) != lora__rng_key(1, 2, 1));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rng");
	TCase *t = tcase_create("rng");
	tcase_add_test(t, published);
	tcase_add_test(t, in_bulk_as_one_by_one);
	tcase_add_test(t, ranges);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
