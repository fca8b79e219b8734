/* lora quantize --to nf4, fp4: bitsandbytes' own codes, bit by bit (tests/golden/nf4; whole checkpoints where LORA_GOLDEN has them), and what the
 * directory holds. */
#include "cli/fourbit.h"
#include "cli/run.h"
#include "check_alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of a tensor. */
static const unsigned char *raw(const tensors *t, const char *name, size_t *n)
{
	json_t *at = json_object_get(json_object_get(t->header, name), "data_offsets");
	ck_assert_msg(at != NULL, "no tensor %s", name);
	json_int_t from = json_integer_value(json_array_get(at, 0));
	if (n) *n = (size_t)(json_integer_value(json_array_get(at, 1)) - from);
	return (const unsigned char *)t->data + from;
}

static const unsigned char *part(const tensors *t, const char *base, const char *rest, size_t *n)
{
	char name[256];
	snprintf(name, sizeof name, "%s%s", base, rest);
	return raw(t, name, n);
}

static const struct {
	const char *shape;
	size_t n;
} matrices[] = { { "33x65", 2145 }, { "64x64", 4096 }, { "7x13", 91 } };

START_TEST(codes_are_those_of_bitsandbytes)
{
	tensors t;
	size_t n;
	static float w[4096];
	float map[256], absmax[64], nested[1], offset;
	unsigned char packed[2048], codes[64];
	char name[128];
	tensors_read(&t, GOLDEN "nf4/matrices.safetensors");
	fourbit_map(map);
	ck_assert_mem_eq(map, raw(&t, "64x64.f32.nf4.b64.dq.weight.nested_quant_map", NULL), sizeof map);
	for (int type = 0; type < 2; type++) {
		const char *word = type ? "fp4" : "nf4";
		snprintf(name, sizeof name, "64x64.f32.%s.b64.weight.quant_map", word);
		const float *values = (const void *)raw(&t, name, NULL);
		for (int i = 0; i < 16; i++) ck_assert(values[i] == fourbit_codes[type][i]);
		for (size_t m = 0; m < sizeof matrices / sizeof *matrices; m++) {
			snprintf(name, sizeof name, "%s.f32.source", matrices[m].shape);
			memcpy(w, raw(&t, name, &n), matrices[m].n * 4);
			ck_assert_uint_eq(n, matrices[m].n * 4);
			fourbit_encode((fourbit_type)type, w, matrices[m].n, packed, absmax);
			snprintf(name, sizeof name, "%s.f32.%s.b64.weight", matrices[m].shape, word);
			const unsigned char *want = part(&t, name, "", &n);
			ck_assert_uint_eq(n, (matrices[m].n + 1) / 2);
			ck_assert_mem_eq(packed, want, n);
			want = part(&t, name, ".absmax", &n);
			ck_assert_mem_eq(absmax, want, n);
			fourbit_nest(absmax, n / 4, map, codes, nested, &offset);
			snprintf(name, sizeof name, "%s.f32.%s.b64.dq.weight", matrices[m].shape, word);
			want = part(&t, name, ".absmax", &n);
			ck_assert_mem_eq(codes, want, n);
			/* torch's mean is a sum in F32, in an order of its processor's, so the offset may be a last bit away */
			ck_assert_float_eq_tol(nested[0], *(const float *)(const void *)part(&t, name, ".nested_absmax", NULL), 2e-6f);
		}
	}
	tensors_free(&t);
}
END_TEST

/* A model of ours, read back by what the format says: each weight within half of the widest gap of its block, all else as it was. */
START_TEST(directory)
{
	tensors a, b;
	size_t n, m;
	const char *name;
	json_t *entry;
	int nested = _i & 1, fp4 = _i >> 1;
	ck_assert_int_eq(run_lora("quantize -q --json -m " MODEL " --to %s -s bnb_4bit_use_double_quant=%s -o '%s' --force", fp4 ? "fp4" : "nf4", nested ? "true" : "false", in_scratch("four")), 0);
	json_t *o = out_json(0);
	ck_assert_str_eq(json_string_value(json_object_get(o, "dtype")), fp4 ? "fp4" : "nf4");
	json_decref(o);
	tensors_read(&a, MODEL "/model.safetensors");
	tensors_read(&b, in_scratch("four/model.safetensors"));
	json_object_foreach(a.header, name, entry)
	{
		if (!strcmp(name, "__metadata__")) continue;
		const unsigned char *before = raw(&a, name, &n), *after = raw(&b, name, &m);
		if (!strstr(name, "proj")) {
			ck_assert(n == m && !memcmp(before, after, n));
			continue;
		}
		const float *w = (const void *)before;
		float map[256];
		size_t count = n / 4;
		ck_assert_uint_eq(m, (count + 1) / 2);
		if (nested) memcpy(map, part(&b, name, ".nested_quant_map", NULL), sizeof map);
		const unsigned char *text = part(&b, name, fp4 ? ".quant_state.bitsandbytes__fp4" : ".quant_state.bitsandbytes__nf4", &m);
		json_t *state = json_loadb((const char *)text, m, 0, NULL);
		double offset = json_number_value(json_object_get(state, "nested_offset"));
		ck_assert_int_eq(json_integer_value(json_object_get(state, "blocksize")), 64);
		ck_assert_str_eq(json_string_value(json_object_get(state, "dtype")), "float32");
		ck_assert_int_eq(json_object_get(state, "nested_offset") != NULL, nested);
		json_decref(state);
		for (size_t i = 0; i < count; i++) {
			size_t block = i / 64;
			double scale;
			if (nested) scale = (double)map[part(&b, name, ".absmax", NULL)[block]] * (double)((const float *)(const void *)part(&b, name, ".nested_absmax", NULL))[block / 256] + offset;
			else scale = (double)((const float *)(const void *)part(&b, name, ".absmax", NULL))[block];
			double value = (double)fourbit_codes[fp4][after[i / 2] >> (i % 2 ? 0 : 4) & 15] * scale;
			ck_assert_msg(fabs(value - (double)w[i]) <= (nested ? 0.21 : 0.17) * scale, "%s[%zu]: %g for %g", name, i, value, (double)w[i]);
		}
	}
	tensors_free(&a);
	tensors_free(&b);
	json_t *config = json_load_file(in_scratch("four/config.json"), 0, NULL), *q = json_object_get(config, "quantization_config");
	ck_assert_str_eq(json_string_value(json_object_get(q, "quant_method")), "bitsandbytes");
	ck_assert_str_eq(json_string_value(json_object_get(q, "bnb_4bit_quant_type")), fp4 ? "fp4" : "nf4");
	ck_assert_int_eq(json_is_true(json_object_get(q, "bnb_4bit_use_double_quant")), nested);
	json_decref(config);
	ck_assert_int_eq(files_in(in_scratch("four")), files_in(MODEL));
	ck_assert_int_eq(run_lora("info --json '%s'", in_scratch("four")), 0); /* what it writes it reads (values: tests/test_four_bits.c) */
	o = out_json(0);
	ck_assert_str_eq(json_string_value(json_object_get(o, "dtype")), "F32");
	json_decref(o);
}
END_TEST

START_TEST(wrong_usage)
{
	expect_error(run_lora("quantize -m " MODEL " --to nf4 -o '%s'", in_scratch("x.gguf")), 2, "as a directory");
	expect_error(run_lora("quantize -m " MODEL " --to nf4 -s r=4 -o '%s'", in_scratch("x")), 2, "no setting of quantize");
	expect_error(run_lora("quantize -m " MODEL " --to q8_0 --dtype-out f16 -o '%s'", in_scratch("x.gguf")), 2, "goes with --to nf4");
	expect_error(run_lora("quantize -m " GOLDEN "models/gpt2/model --to nf4 -o '%s'", in_scratch("x")), 1, "\"gpt2\"");
	write_text(in_scratch("file"), "x");
	expect_error(run_lora("quantize -m " MODEL " --to nf4 -o '%s'", in_scratch("file")), 1, "is there already");
	ck_assert(!exists(in_scratch("x")) && !exists(in_scratch("x.gguf")));
}
END_TEST

START_TEST(checkpoints)
{
	static const char *const cases[][2] = { { "nf4-f32", "nf4" }, { "nf4-dq-bf16", "nf4 --dtype-out bf16 -s bnb_4bit_use_double_quant=true" }, { "fp4-f16", "fp4 --dtype-out f16" } };
	const char *root = getenv("LORA_GOLDEN"), *name;
	char path[600];
	tensors a, b;
	size_t n, m;
	json_t *entry;
	if (!root) {
		if (!_i) check_skip("checkpoints of bitsandbytes: LORA_GOLDEN is not set");
		return;
	}
	ck_assert_int_eq(run_lora("quantize -q -m '%s/nf4/tiny-llama' --to %s -o '%s' --force", root, cases[_i][1], in_scratch("whole")), 0);
	snprintf(path, sizeof path, "%s/nf4/tiny-llama-%s/model.safetensors", root, cases[_i][0]);
	tensors_read(&a, path);
	tensors_read(&b, in_scratch("whole/model.safetensors"));
	ck_assert_uint_eq(json_object_size(a.header), json_object_size(b.header));
	json_object_foreach(a.header, name, entry)
	{
		if (!strcmp(name, "__metadata__")) continue;
		const unsigned char *want = raw(&a, name, &n), *got = raw(&b, name, &m);
		ck_assert_msg(n == m && !memcmp(want, got, n), "%s differs", name);
		ck_assert(json_equal(json_object_get(entry, "shape"), json_object_get(json_object_get(b.header, name), "shape")));
	}
	tensors_free(&a);
	tensors_free(&b);
}
END_TEST

Suite *suite_fourbits(void)
{
	Suite *s = suite_create("cli four bits");
	TCase *c = tcase_create("all");
	tcase_set_timeout(c, 60);
	tcase_add_test(c, codes_are_those_of_bitsandbytes);
	tcase_add_loop_test(c, directory, 0, 4);
	tcase_add_test(c, wrong_usage);
	tcase_add_loop_test(c, checkpoints, 0, 3);
	suite_add_tcase(s, c);
	return s;
}
