/* combine and extract: adapters from their files alone, and from two models. Numbers are held against PEFT's in test_combine. */
#include "cli/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CASE GOLDEN "peft/combine-ties_svd-frequency/"
#define LAYER "model.layers.1.self_attn.v_proj"

static double number(const char *key)
{
	json_t *o = out_json(0), *v = json_object_get(o, key);
	ck_assert_msg(json_is_number(v), "no number %s", key);
	double x = json_number_value(v);
	json_decref(o);
	return x;
}

/* B A of one site of an adapter directory, whose scale is 1. */
static double *delta(const char *dir, const char *site, int64_t out, int64_t in, int64_t r)
{
	char name[256];
	double *d = calloc((size_t)(out * in), sizeof *d);
	tensors t;
	snprintf(name, sizeof name, "%s/adapter_model.safetensors", dir);
	tensors_read(&t, name);
	for (int64_t k = 0; k < r; k++)
		for (int64_t i = 0; i < out; i++)
			for (int64_t j = 0; j < in; j++) {
				char a[256], b[256];
				snprintf(a, sizeof a, "base_model.model.%s.lora_A.weight", site), snprintf(b, sizeof b, "base_model.model.%s.lora_B.weight", site);
				d[i * in + j] += tensors_at(&t, b, i * r + k) * tensors_at(&t, a, k * in + j);
			}
	tensors_free(&t);
	return d;
}

START_TEST(sums)
{
	tensors io;
	double worst = 0, most = 0;
	ck_assert_int_eq(run_lora("combine --json -a " CASE "a=0.6 -a " CASE "b=0.9 -a " CASE "c=-0.5 -o '%s'", in_scratch("sum")), 0);
	ck_assert(number("r") == 9 && number("adapters") == 3 && number("sites") == 4 && number("parameters") > 0);
	double *d = delta(in_scratch("sum"), LAYER, 24, 48, 9);
	tensors_read(&io, CASE "io.safetensors");
	for (int64_t i = 0; i < 24 * 48; i++) {
		double want = tensors_at(&io, "expected." LAYER, i);
		worst = fmax(worst, fabs(d[i] - want)), most = fmax(most, fabs(want));
	}
	ck_assert_msg(worst < 1e-6 * most, "off by %g of %g", worst, most);
	tensors_free(&io);
	free(d);
	/* the same with the model at hand, which then can be used */
	ck_assert_int_eq(run_lora("combine -m " MODEL " -a " CASE "a=0.6 -a " CASE "b=0.9 -a " CASE "c=-0.5 -o '%s'", in_scratch("sum2")), 0);
	ck_assert_int_eq(run_shell("cmp '%s' '%s'", in_scratch("sum/adapter_model.safetensors"), in_scratch("sum2/adapter_model.safetensors")), 0);
	ck_assert_int_eq(run_lora("score -m " MODEL " -a '%s' -i " IO " -o '%s'", in_scratch("sum"), in_scratch("x.safetensors")), 0);
	ck_assert_int_eq(run_lora("combine --json -a " CASE "a -a " CASE "b --type ties_svd -s density=0.5 -s svd_rank=3 -o '%s'", in_scratch("sum")), 0);
	ck_assert(number("r") == 3);
}
END_TEST

/* Factors of an embedding keep their names. */
START_TEST(embedding)
{
	ck_assert_int_eq(run_shell("mkdir '%s' && cp " CASE "a/adapter_config.json '%s/'", in_scratch("emb"), in_scratch("emb")), 0);
	ck_assert_int_eq(run_shell("cat " CASE "a/adapter_model.safetensors | LC_ALL=C sed '1s/self_attn.q_proj.lora_\\([AB]\\).weight\"/embed_tok.lora_embedding_\\1\"    /g' >'%s/adapter_model.safetensors'",
						 in_scratch("emb")), 0);
	ck_assert_int_eq(run_lora("combine -a '%s=2' --type svd -o '%s'", in_scratch("emb"), in_scratch("emb2")), 0);
	tensors t;
	tensors_read(&t, in_scratch("emb2/adapter_model.safetensors"));
	ck_assert(tensors_have(&t, "base_model.model.model.layers.0.embed_tok.lora_embedding_A"));
	ck_assert(tensors_have(&t, "base_model.model.model.layers.0.embed_tok.lora_embedding_B"));
	ck_assert(tensors_have(&t, "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"));
	tensors_free(&t);
}
END_TEST

START_TEST(difference)
{
	ck_assert_int_eq(run_lora("merge -m " MODEL " -a " ADAPTER " -o '%s'", in_scratch("tuned")), 0);
	ck_assert_int_eq(run_lora("extract --json -m " MODEL " -t '%s' -r 8 -o '%s'", in_scratch("tuned"), in_scratch("diff")), 0);
	double norm = number("norm"), total = 0;
	ck_assert(norm > 0.1 && number("error") < 1e-6 * norm && number("relative") < 1e-6);
	ck_assert_int_eq(run_lora("extract --json -m " MODEL " -t '%s' -r 1 -o '%s'", in_scratch("tuned"), in_scratch("diff1")), 0);
	json_t *o = out_json(0), *x;
	size_t i;
	ck_assert(fabs(number("norm") - norm) < 1e-9 * norm && number("error") > 0.01 * norm && number("error") < norm);
	json_array_foreach(json_object_get(o, "sites"), i, x) total += pow(json_number_value(json_object_get(x, "error")), 2);
	ck_assert(i > 4 && fabs(sqrt(total) - number("error")) < 1e-9);
	json_decref(o);
}
END_TEST

START_TEST(refused)
{
	expect_error(run_lora("combine -o '%s'", in_scratch("no")), 2, "-a");
	expect_error(run_lora("combine -a " CASE "a"), 2, "-o");
	expect_error(run_lora("combine -a " CASE "a --type tias -o '%s'", in_scratch("no")), 2, "ties");
	expect_error(run_lora("combine -a " CASE "a=x -o '%s'", in_scratch("no")), 2, "not a number");
	expect_error(run_lora("combine -a " CASE "a --type ties -s density=2 -o '%s'", in_scratch("no")), 2, "density");
	expect_error(run_lora("extract -m " MODEL " -t " MODEL " -r 0 -o '%s'", in_scratch("no")), 2, "-r");
	expect_error(run_lora("combine -a " CASE "a -a " CASE "b -s mode=peft -o '%s'", in_scratch("no")), 1, "equal ranks");
	expect_error(run_lora("combine -a '%s' -o '%s'", in_scratch("nothing"), in_scratch("no")), 1, "no such file");
	expect_error(run_lora("combine -a " MODEL " -o '%s'", in_scratch("no")), 1, "adapter");
	write_text(in_scratch("file"), "x");
	expect_error(run_lora("combine -a " CASE "a -o '%s'", in_scratch("file")), 1, "--force");
	expect_error(run_lora("extract -m " MODEL " -o '%s'", in_scratch("no")), 2, "-t");
	expect_error(run_lora("extract -m " MODEL " -t '%s' -o '%s'", in_scratch("nothing"), in_scratch("no")), 1, "nothing");
	ck_assert(!exists(in_scratch("no")));
}
END_TEST

Suite *suite_combine(void)
{
	Suite *s = suite_create("cli combine");
	TCase *t = tcase_create("combine");
	tcase_set_timeout(t, 60);
	tcase_add_test(t, sums);
	tcase_add_test(t, embedding);
	tcase_add_test(t, difference);
	tcase_add_test(t, refused);
	suite_add_tcase(s, t);
	return s;
}
