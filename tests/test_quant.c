/* Block types against golden blocks: decoding bit by bit, from encoded and from random blocks, to F32 and bf16; encoding bit by bit where
 * the reference encoder is known, and its error everywhere; every block of any bit pattern is safe to decode. */
#include <check.h>

#include "golden.h"
#include "quant/quant.h"

static const char *const types[] = { "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4",
	"TQ1_0", "TQ2_0", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M" };
enum { N_TYPES = sizeof types / sizeof *types };

static lora__tensors open_blocks(const char *type)
{
	char path[256];
	lora__tensors t;
	snprintf(path, sizeof path, "tests/golden/gguf/blocks/%s.safetensors", type);
	ck_ok(lora__safetensors_open(golden_ctx, path, &t));
	return t;
}

static const lora__tensor *need(const lora__tensors *t, const char *name)
{
	const lora__tensor *x = lora__tensors_find(t, name);
	ck_assert_msg(x != NULL, "no tensor %s", name);
	return x;
}

static void decode_equal(const char *type, const lora__tensor *blocks, const lora__tensor *values)
{
	lora_dtype d = lora__dtype_parse(type);
	int64_t n = (int64_t)(values->bytes / 4), row = values->shape[1];
	float *got = malloc((size_t)n * 4);
	uint16_t *half = malloc((size_t)n * 2);
	ck_assert_msg(lora__dtype_row(d, row) * (size_t)values->shape[0] == blocks->bytes, "%s: row bytes", type);
	lora__dequant(got, LORA_F32, blocks->data, d, n);
	lora__dequant(half, LORA_BF16, blocks->data, d, n);
	const lora__quant *q = lora__quant_of(d);
	int64_t each;
	lora__dtype_block(d, &each, NULL);
	float *plain = malloc((size_t)n * 4); /* the portable form beside the one that was chosen */
	q->decode(blocks->data, n / each, plain);
	for (int64_t i = 0; i < n; i++) ck_assert_msg(memcmp(plain + i, got + i, 4) == 0 || got[i] != got[i], "%s: portable form, element %lld", type, (long long)i);
	const lora__quant_fast *fast = lora__quant_best(d);
	double sum = 0, size = 0;
	for (int64_t i = 0; i < row; i++) sum += (double)got[i] * (double)got[i], size += fabs((double)got[i] * (double)got[i]);
	if (fast && isfinite(sum)) ck_assert_msg(fabs((double)fast->dot(blocks->data, got, row / each) - sum) <= 3e-6 * size, "%s: dot product", type);
	if (fast && fast->dots && isfinite(sum) && values->shape[0] >= 4) { /* row 0 times four rows is row r's portable product with it */
		float four[4];
		fast->dots(blocks->data, lora__dtype_row(d, row), got, row / each, four);
		for (int r = 0; r < 4; r++) {
			double want = 0, most = 0;
			for (int64_t i = 0; i < row; i++) want += (double)got[i] * (double)got[r * row + i], most += fabs((double)got[i] * (double)got[r * row + i]);
			ck_assert_msg(!isfinite(want) || fabs((double)four[r] - want) <= 3e-6 * most, "%s: dot product of row %d of four", type, r);
		}
	}
	free(plain);
	for (int64_t i = 0; i < n; i++) {
		float want;
		memcpy(&want, values->data + 4 * i, 4);
		ck_assert_msg(got[i] == want || (got[i] != got[i] && want != want), "%s %s: element %lld: %.9g, want %.9g", type, values->name, (long long)i,
			(double)got[i], (double)want);
		ck_assert_msg(half[i] == lora__f32_to_bf16(want) || want != want, "%s: bf16 of element %lld", type, (long long)i);
	}
	free(got);
	free(half);
}

START_TEST(decoding)
{
	golden_context("naive", 1);
	lora__tensors t = open_blocks(types[_i]);
	decode_equal(types[_i], need(&t, "blocks"), need(&t, "values"));
	decode_equal(types[_i], need(&t, "random_blocks"), need(&t, "random_values"));
	lora__tensors_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

/* Encoders are the reference's, block for block. */
START_TEST(encoding)
{
	golden_context("naive", 1);
	const lora__quant *q = lora__quant_of(lora__dtype_parse(types[_i]));
	lora__tensors t = open_blocks(types[_i]);
	const lora__tensor *blocks = need(&t, "blocks");
	ck_assert_ptr_nonnull(q);
	if (q->encode) {
		const lora__tensor *src = need(&t, "src");
		int64_t n = (int64_t)(src->bytes / 4), each;
		size_t size, same = 0, total;
		uint8_t *got = malloc(blocks->bytes);
		lora__dtype_block(q->dtype, &each, &size);
		total = blocks->bytes / size;
		lora__enquant(got, q->dtype, (const float *)(const void *)src->data, n);
		for (size_t i = 0; i < total; i++) {
			if (memcmp(got + i * size, blocks->data + i * size, size) == 0) same++;
			else if (getenv("LORA_SHOW")) printf("%s: block %zu differs\n", types[_i], i);
		}
		ck_assert_msg(same == total, "%s: %zu of %zu blocks are the reference encoder's", types[_i], same, total);
		free(got);
	}
	lora__tensors_close(&t);
	lora_context_destroy(golden_ctx);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("quant");
	TCase *c = tcase_create("blocks");
	tcase_add_loop_test(c, decoding, 0, N_TYPES);
	tcase_add_loop_test(c, encoding, 0, N_TYPES);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	SRunner *r = srunner_create(suite());
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
