/* convert, quantize, and the other commands on GGUF files. */
#include "cli/run.h"

#include <stdlib.h>
#include <string.h>

#define QUANT GOLDEN "gguf/tiny-llama.Q8_0.gguf"
#define PAIR  GOLDEN "gguf/adapter-tiny-llama-plain"

static void expect_json(const char *key, const char *value)
{
	json_t *o = out_json(0);
	const char *got = json_string_value(json_object_get(o, key));
	ck_assert_msg(got && !strcmp(got, value), "%s is %s, wanted %s", key, got ? got : "absent", value);
	json_decref(o);
}

/* A model to GGUF and back computes the same, to the bit. */
START_TEST(there_and_back)
{
	ck_assert_int_eq(run_lora("convert --json " MODEL " '%s'", in_scratch("m.gguf")), 0);
	expect_json("format", "gguf");
	ck_assert_int_eq(run_lora("convert '%s' '%s'", in_scratch("m.gguf"), in_scratch("m-hf")), 0);
	ck_assert(exists(in_scratch("m-hf/config.json")));
	ck_assert_int_eq(run_lora("score -m '%s' -i " IO " -o '%s'", in_scratch("m.gguf"), in_scratch("one.safetensors")), 0);
	ck_assert_int_eq(run_lora("score -m '%s' -i " IO " -o '%s'", in_scratch("m-hf"), in_scratch("two.safetensors")), 0);
	ck_assert_int_eq(run_lora("score -m " MODEL " -i " IO " -o '%s'", in_scratch("zero.safetensors")), 0);
	ck_assert_int_eq(run_shell("cmp '%s' '%s'", in_scratch("zero.safetensors"), in_scratch("one.safetensors")), 0);
	ck_assert_int_eq(run_shell("cmp '%s' '%s'", in_scratch("zero.safetensors"), in_scratch("two.safetensors")), 0);
	expect_error(run_lora("convert '%s' '%s'", in_scratch("m.gguf"), in_scratch("one.safetensors")), 1, "--force");
	expect_error(run_lora("convert '%s' '%s'", in_scratch("nothing"), in_scratch("x.gguf")), 1, "no such file");
}
END_TEST

/* Weights in several files, from either form: what was there as one file is cut, and what comes back computes the same. */
START_TEST(sharded)
{
	ck_assert_int_eq(run_lora("score -m " MODEL " -i " IO " -o '%s'", in_scratch("zero.safetensors")), 0);
	ck_assert_int_eq(run_lora("convert --json " MODEL " '%s' --max-shard-size 60000", in_scratch("shards")), 0);
	expect_json("format", "hf");
	ck_assert(exists(in_scratch("shards/model.safetensors.index.json")) && exists(in_scratch("shards/model-00001-of-00004.safetensors")));
	ck_assert_int_eq(run_lora("score -m '%s' -i " IO " -o '%s'", in_scratch("shards"), in_scratch("one.safetensors")), 0);
	ck_assert_int_eq(run_shell("cmp '%s' '%s'", in_scratch("zero.safetensors"), in_scratch("one.safetensors")), 0);
	ck_assert_int_eq(run_lora("convert '%s' '%s'", in_scratch("shards"), in_scratch("shards.gguf")), 0);
	ck_assert_int_eq(run_lora("convert '%s' '%s' --max-shard-size 0", in_scratch("shards.gguf"), in_scratch("whole")), 0);
	ck_assert(exists(in_scratch("whole/model.safetensors")) && !exists(in_scratch("whole/model.safetensors.index.json")));
	ck_assert_int_eq(run_lora("merge -m " MODEL " -a " ADAPTER " -o '%s' --max-shard-size 60000", in_scratch("merged")), 0);
	ck_assert(exists(in_scratch("merged/model.safetensors.index.json")));
	expect_error(run_lora("convert '%s' '%s' --max-shard-size 9", in_scratch("shards"), in_scratch("no.gguf")), 2, "one file");
	expect_error(run_lora("convert '%s' '%s' --max-shard-size -1", in_scratch("shards"), in_scratch("no")), 2, "negative");
}
END_TEST

/* A byte-level vocabulary whose special tokens come first: what is made of it from GGUF opens, and cuts the same. */
START_TEST(special_tokens_first)
{
#define TOLD "tokenize --json -t 'Once upon a time, <s> twice'"
	static char first[sizeof run_out];
	ck_assert_int_eq(run_lora("convert examples/demo/model '%s'", in_scratch("demo.gguf")), 0);
	ck_assert_int_eq(run_lora("convert '%s' '%s'", in_scratch("demo.gguf"), in_scratch("demo")), 0);
	ck_assert_int_eq(run_lora(TOLD " -m examples/demo/model"), 0);
	memcpy(first, run_out, sizeof first);
	ck_assert_int_eq(run_lora(TOLD " -m '%s'", in_scratch("demo")), 0);
	ck_assert_str_eq(run_out, first);
}
END_TEST

START_TEST(quantised)
{
	ck_assert_int_eq(run_lora("quantize --json -m " MODEL " --to q8_0 -o '%s'", in_scratch("q.gguf")), 0);
	expect_json("dtype", "Q8_0");
	ck_assert_int_eq(run_lora("info --json '%s'", in_scratch("q.gguf")), 0);
	expect_json("architecture", "llama");
	expect_json("format", "gguf");
	ck_assert_int_eq(run_lora("generate --json -m '%s' --tokens 1,2 -n 3", in_scratch("q.gguf")), 0);
	expect_error(run_lora("quantize -m " MODEL " --to q9 -o '%s'", in_scratch("x.gguf")), 2, "--to");
	expect_error(run_lora("quantize -m " MODEL " -o '%s'", in_scratch("x.gguf")), 2, "--to");
	expect_error(run_lora("quantize -m " MODEL " --to q8_0"), 2, "-o");
	ck_assert(!exists(in_scratch("x.gguf")));
}
END_TEST

START_TEST(adapters)
{
	ck_assert_int_eq(run_lora("convert " PAIR " '%s' -m " QUANT, in_scratch("a.gguf")), 0);
	ck_assert_int_eq(run_lora("info --json '%s'", in_scratch("a.gguf")), 0);
	expect_json("kind", "adapter");
	expect_json("method", "lora");
	ck_assert_int_eq(run_lora("convert '%s' '%s' -m " QUANT, in_scratch("a.gguf"), in_scratch("a-peft")), 0);
	ck_assert(exists(in_scratch("a-peft/adapter_config.json")));
	expect_error(run_lora("convert '%s' '%s'", in_scratch("a.gguf"), in_scratch("b-peft")), 2, "-m");
	ck_assert_int_eq(run_lora("merge -m " QUANT " -a '%s' -o '%s'", in_scratch("a.gguf"), in_scratch("merged.gguf")), 0);
	ck_assert_int_eq(run_lora("info --json '%s'", in_scratch("merged.gguf")), 0);
	expect_json("dtype", "Q8_0");
	expect_error(run_lora("info '%s'", in_scratch("none.gguf")), 1, "no such file");
	ck_assert_int_eq(run_shell("printf GGUFxxxx >'%s'", in_scratch("bad.gguf")), 0);
	expect_error(run_lora("info '%s'", in_scratch("bad.gguf")), 1, "version");
}
END_TEST

Suite *suite_gguf(void)
{
	Suite *s = suite_create("gguf");
	TCase *t = tcase_create("commands");
	tcase_set_timeout(t, 60);
	tcase_add_test(t, there_and_back);
	tcase_add_test(t, sharded);
	tcase_add_test(t, special_tokens_first);
	tcase_add_test(t, quantised);
	tcase_add_test(t, adapters);
	suite_add_tcase(s, t);
	return s;
}
