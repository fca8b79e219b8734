/* Every architecture through the program: info, score, train, merge, generate. Pairs for encoder-decoder models; where generation ends. */
#include "cli/run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODELS GOLDEN "models/"

/* Those without target_modules have PEFT's default. */
static const struct { const char *name, *architecture, *more; int encoder, labels; } models[] = {
	{ "bert", "bert", "", 1, 1 },
	{ "flan-t5", "t5", "", 0, 0 },
	{ "gemma2", "gemma2", "", 0, 0 },
	{ "gemma3_text", "gemma3_text", "", 0, 0 },
	{ "gpt2", "gpt2", "", 0, 0 },
	{ "gpt_neox", "gpt_neox", "", 0, 0 },
	{ "llama", "llama", "", 0, 0 },
	{ "llama-tied", "llama", "", 0, 0 },
	{ "llama-yarn", "llama", "", 0, 0 },
	{ "mixtral", "mixtral", "", 0, 0 },
	{ "olmo2", "olmo2", "-s target_modules=all-linear", 0, 0 },
	{ "opt", "opt", "", 0, 0 },
	{ "phi3", "phi3", "-s target_modules=all-linear", 0, 0 },
	{ "qwen2", "qwen2", "", 0, 0 },
	{ "qwen3", "qwen3", "", 0, 0 },
	{ "roberta", "roberta", "", 1, 1 },
	{ "smollm3", "smollm3", "-s target_modules=all-linear", 0, 0 },
	{ "starcoder2", "starcoder2", "-s target_modules=all-linear", 0, 0 },
	{ "t5", "t5", "", 0, 0 },
};

static double member(const char *key)
{
	json_t *o = out_json(out_lines() - 1);
	ck_assert_msg(o && json_is_number(json_object_get(o, key)), "no %s: %s", key, run_out);
	double v = json_number_value(json_object_get(o, key));
	json_decref(o);
	return v;
}

/* Two steps of two sequences of 8 tokens; labels of tokens, or a class for each sequence. */
static void write_slabs(const char *path, int classes)
{
	int32_t values[64];
	for (int i = 0; i < 64; i++) values[i] = i < 32 || !classes ? 5 + i * 37 % 101 : i % 3;
	write_ids(path,
		classes ? "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[2,2,8],\"data_offsets\":[0,128]},\"labels\":{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[128,144]}}" :
				  "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[2,2,8],\"data_offsets\":[0,128]},\"labels\":{\"dtype\":\"I32\",\"shape\":[2,2,8],\"data_offsets\":[128,256]}}",
		values, classes ? 36 : 64);
}

START_TEST(whole_way)
{
	char model[160], io[160], run[64], merged[64], architecture[64];
	snprintf(model, sizeof model, MODELS "%s/model", models[_i].name);
	snprintf(io, sizeof io, MODELS "%s/io.safetensors", models[_i].name);
	snprintf(run, sizeof run, "run-%d", _i);
	snprintf(merged, sizeof merged, "merged-%d", _i);
	ck_assert_int_eq(run_lora("info --json %s", model), 0);
	json_t *o = out_json(0);
	ck_assert_str_eq(json_string_value(json_object_get(o, "kind")), "model");
	snprintf(architecture, sizeof architecture, "%s", json_string_value(json_object_get(o, "architecture")));
	ck_assert_str_eq(architecture, models[_i].architecture);
	ck_assert_uint_gt(json_array_size(json_object_get(o, "sites")), 5);
	json_decref(o);
	ck_assert_int_eq(run_lora("score --json -m %s -i %s", model, io), 0);
	double base = member("loss");
	write_slabs(in_scratch("slabs.safetensors"), models[_i].labels);
	ck_assert_msg(run_lora("train -q --json -m %s -d '%s' -o '%s' -s max_steps=2 -s learning_rate=0.02 %s", model, in_scratch("slabs.safetensors"), in_scratch(run),
					  models[_i].more) == 0,
		"%s: %s", model, run_err);
	ck_assert_msg(run_lora("score --json -m %s -a '%s' -i %s", model, in_scratch(run), io) == 0, "%s: %s", model, run_err);
	double with = member("loss");
	ck_assert_double_gt(fabs(with - base), 1e-3);
	ck_assert_msg(run_lora("merge -q -m %s -a '%s' -o '%s'", model, in_scratch(run), in_scratch(merged)) == 0, "%s: %s", model, run_err);
	ck_assert_int_eq(run_lora("score --json -m '%s' -i %s", in_scratch(merged), io), 0);
	ck_assert_double_eq_tol(member("loss"), with, 1e-5 * fabs(with));
	if (models[_i].encoder) expect_error(run_lora("generate -m %s --tokens 5,6", model), 1, "encoder");
	else {
		ck_assert_int_eq(run_lora("generate --json -m '%s' --tokens 5,6,7 -n 4 --ignore-eos", in_scratch(merged)), 0);
		o = out_json(0);
		ck_assert_uint_eq(json_array_size(json_object_get(o, "tokens")), 4);
		json_decref(o);
	}
}
END_TEST

/* LoRA merged into a tied head: the head becomes a weight of its own, the embedding stays, and T5's scale in front of the head too (in the form
 * of config.json that does not name it). */
static const char *const tied[] = { "t5", "llama-tied", "gpt2", "qwen2", "gemma2" };

START_TEST(tied_heads)
{
	char model[600], io[160], dir[32], run[32], merged[32];
	snprintf(dir, sizeof dir, "tied-%d", _i);
	snprintf(run, sizeof run, "tied-run-%d", _i);
	snprintf(merged, sizeof merged, "tied-merged-%d", _i);
	snprintf(model, sizeof model, "%s", in_scratch(dir));
	snprintf(io, sizeof io, MODELS "%s/io.safetensors", tied[_i]);
	run_shell("mkdir -p '%s' && cp " MODELS "%s/model/model.safetensors '%s' && grep -v scale_decoder_outputs " MODELS "%s/model/config.json >'%s/config.json'", model, tied[_i],
		model, tied[_i], model);
	write_slabs(in_scratch("slabs.safetensors"), 0);
	ck_assert_msg(run_lora("train -q -m '%s' -d '%s' -o '%s' -s max_steps=2 -s learning_rate=0.02 -s target_modules=lm_head", model, in_scratch("slabs.safetensors"),
					  in_scratch(run)) == 0, "%s: %s", tied[_i], run_err);
	ck_assert_int_eq(run_lora("score --json -m '%s' -a '%s' -i %s", model, in_scratch(run), io), 0);
	double with = member("loss");
	ck_assert_int_eq(run_lora("score --json -m '%s' -i %s", model, io), 0);
	ck_assert_double_gt(fabs(member("loss") - with), 1e-3);
	ck_assert_int_eq(run_lora("merge -q -m '%s' -a '%s' -o '%s'", model, in_scratch(run), in_scratch(merged)), 0);
	ck_assert_int_eq(run_lora("score --json -m '%s' -i %s", in_scratch(merged), io), 0);
	ck_assert_double_eq_tol(member("loss"), with, 1e-5 * with);
}
END_TEST

/* An architecture for which PEFT names no default says so. */
START_TEST(no_default_targets)
{
	write_slabs(in_scratch("slabs.safetensors"), 0);
	expect_error(run_lora("train -m " MODELS "phi3/model -d '%s' -o '%s'", in_scratch("slabs.safetensors"), in_scratch("no-run")), 2, "all-linear");
}
END_TEST

/* ---- encoder and decoder ---- */

static int tokens_of(const char *text, const char *more, int32_t *ids)
{
	ck_assert_int_eq(run_lora("tokenize --json -q -m " MODEL " -t '%s' %s", text, more), 0);
	json_t *o = out_json(0), *list = json_object_get(o, "tokens");
	int n = (int)json_array_size(list);
	for (int i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
	json_decref(o);
	return n;
}

static const char *const seq2seq[] = { "t5", "flan-t5" };

/* A pair is the encoder's input and the decoder's labels with EOS: the loss of eval is that of score on the same ids. */
START_TEST(pairs)
{
	int32_t ids[64];
	char header[300], dir[32], run[32], data[600], model[600];
	snprintf(dir, sizeof dir, "pairs-%d", _i);
	snprintf(run, sizeof run, "pairs-run-%d", _i);
	run_shell("mkdir -p '%s' && cp " MODELS "%s/model/config.json " MODELS "%s/model/model.safetensors " MODEL "/tokenizer.json '%s'", in_scratch(dir), seq2seq[_i],
		seq2seq[_i], in_scratch(dir));
	snprintf(model, sizeof model, "%s", in_scratch(dir));
	snprintf(data, sizeof data, "%s", in_scratch("pairs.jsonl"));
	write_text(data, "{\"prompt\":\"the question\",\"completion\":\"an answer\"}\n");
	int n = tokens_of("the question", "", ids), k = tokens_of("an answer", "--no-special", ids + n);
	ids[n + k++] = 2; /* </s> */
	snprintf(header, sizeof header,
		"{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[1,%d],\"data_offsets\":[0,%d]},\"labels\":{\"dtype\":\"I32\",\"shape\":[1,%d],\"data_offsets\":[%d,%d]}}", n, 4 * n, k,
		4 * n, 4 * (n + k));
	write_ids(in_scratch("pair.safetensors"), header, ids, (size_t)(n + k));
	ck_assert_msg(run_lora("score --json -m '%s' -i '%s'", model, in_scratch("pair.safetensors")) == 0, "%s", run_err);
	double loss = member("loss");
	ck_assert_int_eq((int)member("tokens"), k);
	ck_assert_msg(run_lora("eval --json -m '%s' -d '%s'", model, data) == 0, "%s", run_err);
	ck_assert_double_eq_tol(member("loss"), loss, 1e-6 * loss);
	ck_assert_int_eq((int)member("tokens"), k);
	/* two pairs of different lengths count token by token */
	write_text(data, "{\"prompt\":\"the question\",\"completion\":\"an answer\"}\n{\"prompt\":\"more\",\"completion\":\"a longer answer than the first\"}\n");
	ck_assert_int_eq(run_lora("eval --json -m '%s' -d '%s' -s batch_size=1", model, data), 0);
	double one = member("loss");
	ck_assert_int_eq(run_lora("eval --json -m '%s' -d '%s' -s batch_size=2", model, data), 0);
	ck_assert_double_eq_tol(member("loss"), one, 1e-6 * one);
	/* learnt by heart, and said again */
	ck_assert_int_eq(run_lora("train --json -q -m '%s' -d '%s' -o '%s' -s target_modules=all-linear -s r=16 -s max_steps=150 -s batch_size=2 -s learning_rate=0.02", model, data,
						 in_scratch(run)), 0);
	ck_assert_int_eq(run_lora("eval --json -m '%s' -a '%s' -d '%s'", model, in_scratch(run), data), 0);
	ck_assert_double_lt(member("loss"), 0.05);
	ck_assert_int_eq(run_lora("generate --json -m '%s' -a '%s' -p 'the question' -n 20", model, in_scratch(run)), 0);
	ck_assert_msg(strstr(run_out, "\"text\":\"an answer\"") && strstr(run_out, "\"eos\""), "%s", run_out);
	expect_error(run_lora("eval -m '%s' -d '%s'", model, (write_text(data, "{\"text\":\"no pair\"}\n"), data)), 1, "\"prompt\" and \"completion\"");
}
END_TEST

/* ---- where generation ends ---- */

/* Greedy tokens of MODEL behind the prompt: 102, 97, 53, 23, 77, 120, ... (tests/cli/words.c). */
static const struct { const char *generation, *config; int n; const char *finish; } ends[] = {
	{ NULL, "2", 8, "length" },
	{ NULL, "[2, 23, 77]", 4, "eos" },
	{ NULL, "53", 3, "eos" },
	{ "{\"eos_token_id\": 77}", "2", 5, "eos" },
	{ "{\"eos_token_id\": [130, 120, 77]}", "53", 5, "eos" },
	{ "{\"eos_token_id\": null}", "53", 3, "eos" },
	{ "{\"temperature\": 0.5}", "53", 3, "eos" },
	{ "{\"eos_token_id\": []}", "53", 8, "length" },
	{ "{\"eos_token_id\": \"</s>\"}", "2", -1, "generation_config.json: eos_token_id" },
	{ "{\"eos_token_id\": [2, 1.5]}", "2", -1, "generation_config.json: eos_token_id" },
	{ "[1]", "2", -1, "generation_config.json" },
	{ "{\"eos_token_id\": ", "2", -1, "generation_config.json" },
};

static void expect_end(const char *model, int n, const char *finish)
{
	ck_assert_msg(run_lora("generate --json -m '%s' --tokens 27,61,120,121,128,121 -n 8", model) == 0, "%s", run_err);
	json_t *o = out_json(0);
	ck_assert_msg((int)json_array_size(json_object_get(o, "tokens")) == n && !strcmp(json_string_value(json_object_get(o, "finish")), finish), "wanted %d and %s: %s", n,
		finish, run_out);
	json_decref(o);
}

START_TEST(ends_of_generation)
{
	char dir[32], path[64], model[600], back[600];
	snprintf(dir, sizeof dir, "ends-%d", _i);
	run_shell("mkdir -p '%s' && cp " MODEL "/model.safetensors " MODEL "/tokenizer.json '%s' && sed 's/\"eos_token_id\": 2/\"eos_token_id\": %s/' " MODEL
			  "/config.json >'%s/config.json'", in_scratch(dir), in_scratch(dir), ends[_i].config, in_scratch(dir));
	snprintf(path, sizeof path, "%s/generation_config.json", dir);
	snprintf(model, sizeof model, "%s", in_scratch(dir));
	if (ends[_i].generation) write_text(in_scratch(path), ends[_i].generation);
	if (ends[_i].n < 0) {
		expect_error(run_lora("generate -m '%s' --tokens 1 -n 1", model), 1, ends[_i].finish);
		return;
	}
	expect_end(model, ends[_i].n, ends[_i].finish);
	/* carried to GGUF and from there to a directory */
	snprintf(path, sizeof path, "ends-%d.gguf", _i);
	ck_assert_int_eq(run_lora("convert -q '%s' '%s'", model, in_scratch(path)), 0);
	if (ends[_i].n == 8 && ends[_i].generation) return; /* "nowhere" has no place in GGUF, whose eos is then config.json's */
	expect_end(in_scratch(path), ends[_i].n, ends[_i].finish);
	snprintf(back, sizeof back, "%s", in_scratch("ends-back"));
	run_shell("rm -rf '%s'", back);
	ck_assert_int_eq(run_lora("convert -q '%s' '%s'", in_scratch(path), back), 0);
	expect_end(back, ends[_i].n, ends[_i].finish);
}
END_TEST

Suite *suite_models(void)
{
	Suite *s = suite_create("cli models");
	TCase *c = tcase_create("all");
	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, whole_way, 0, (int)(sizeof models / sizeof *models));
	tcase_add_loop_test(c, tied_heads, 0, (int)(sizeof tied / sizeof *tied));
	tcase_add_test(c, no_default_targets);
	tcase_add_loop_test(c, pairs, 0, 2);
	tcase_add_loop_test(c, ends_of_generation, 0, (int)(sizeof ends / sizeof *ends));
	suite_add_tcase(s, c);
	return s;
}
