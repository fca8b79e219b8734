/* Usage errors, help, info, methods, tokenize, generate: what a user types first. */
#include "cli/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *arguments;
	int status;
	const char *text;
} bad[] = {
	{ "", 2, "no command" },
	{ "trian", 2, "did you mean 'train'" },
	{ "xyzzy", 2, "no such command" },
	{ "score --gard", 2, "did you mean --grad" },
	{ "score --bogus-option", 2, "--bogus-option" },
	{ "score -m", 2, "needs a value" },
	{ "score --json=1", 2, "takes no value" },
	{ "score -m " MODEL, 2, "input_ids" },
	{ "score -i x -i y", 2, "given twice" },
	{ "info", 2, "usage" },
	{ "info ''", 2, "the path is empty" },
	{ "info -m ''", 2, "-m" },
	{ "merge -m " MODEL " -a " ADAPTER " -o ''", 2, "-o" },
	{ "info a b", 2, "too many" },
	{ "info /nonexistent/path", 1, "/nonexistent/path" },
	{ "train -m x", 2, "-d" },
	{ "train -m x -d y", 2, "-o" },
	{ "train -m " MODEL " -d y.txt -o z -s nonsense", 2, "NAME=VALUE" },
	{ "generate -m " MODEL, 2, "prompt" },
	{ "generate -m " MODEL " -p a --tokens 1", 2, "--tokens" },
	{ "generate -m " MODEL " -p a -n many", 2, "whole number" },
	{ "generate -m " MODEL " -p a -n -3", 2, "negative" },
	{ "generate -m " MODEL " -p a --top-p 7", 2, "--top-p" },
	{ "generate -m " MODEL " --tokens 1,x", 2, "token ids" },
	{ "tokenize -m " MODEL " --decode 1,-2", 2, "token ids" },
	{ "merge -m " MODEL " -a " ADAPTER, 2, "-o" },
	{ "merge -m " MODEL " -o x", 2, "-a" },
	{ "merge -m " MODEL " -a " ADAPTER " -o x --dtype-out int4", 2, "--dtype-out" },
	{ "methods nonsense", 2, "family" },
	{ "methods adapter lroa", 2, "lora" },
	{ "help nonsense", 2, "nonsense" },
	{ "plot /nonexistent.jsonl", 1, "/nonexistent.jsonl" },
	{ "version --threads 1.5", 2, "--threads" },
	{ "score -m /nonexistent/model -i x", 1, "/nonexistent/model" },
	{ "score -m " MODEL " -a /nonexistent/adapter -i x", 1, "/nonexistent/adapter" },
	{ "score -m " MODEL " -a " ADAPTER "=fast -i x", 2, "not a number" },
	{ "score -m " MODEL " -i " MODEL "/config.json", 1, "expected safetensors" },
	{ "score -m " MODEL " -i " MODEL, 1, "directory" },
	{ "score -m " MODEL " -i " IO " --grad", 2, "--grad" },
	{ "info --backend no-such-backend " MODEL, 1, "no-such-backend" },
};

START_TEST(a_bad_command_line_is_told) { expect_error(run_lora("%s", bad[_i].arguments), bad[_i].status, bad[_i].text); }
END_TEST

START_TEST(help_lists_the_commands)
{
	char *man = read_text("docs/man/lora.1", NULL), name[32];
	ck_assert_int_eq(run_lora("help"), 0);
	int found = 0;
	for (const char *p = run_out; (p = strstr(p, "\n  ")); p += 3) {
		if (sscanf(p, "\n  %31[a-z]", name) != 1) continue;
		char line[64];
		found++;
		snprintf(line, sizeof line, "lora %s", name);
		ck_assert_msg(strstr(man, line) != NULL, "%s is not in the manual page", line);
	}
	ck_assert_int_ge(found, 11);
	free(man);
	ck_assert_int_eq(run_lora("help train"), 0);
	ck_assert(strstr(run_out, "--resume") && strstr(run_out, "num_train_epochs"));
	ck_assert_int_eq(run_lora("train --help"), 0);
	ck_assert(strstr(run_out, "--resume") != NULL);
	ck_assert_int_eq(run_lora("--version"), 0);
	ck_assert(!strncmp(run_out, "lora ", 5));
}
END_TEST

START_TEST(info_of_a_model)
{
	ck_assert_int_eq(run_lora("info --json " MODEL), 0);
	json_t *o = out_json(0);
	ck_assert_int_eq(out_lines(), 1);
	ck_assert_str_eq(json_string_value(json_object_get(o, "kind")), "model");
	ck_assert_str_eq(json_string_value(json_object_get(o, "architecture")), "llama");
	ck_assert_str_eq(json_string_value(json_object_get(o, "format")), "safetensors");
	ck_assert_str_eq(json_string_value(json_object_get(o, "dtype")), "F32");
	ck_assert_int_eq(json_integer_value(json_object_get(o, "parameters")), 51984);
	json_t *site, *sites = json_object_get(o, "sites");
	size_t i, seen = 0;
	json_array_foreach(sites, i, site)
	{
		ck_assert(json_is_string(json_object_get(site, "dtype")));
		if (strcmp(json_string_value(json_object_get(site, "name")), "model.layers.1.self_attn.v_proj")) continue;
		seen++;
		ck_assert_int_eq(json_integer_value(json_object_get(site, "out")), 24);
		ck_assert_int_eq(json_integer_value(json_object_get(site, "in")), 48);
	}
	ck_assert_uint_eq(seen, 1);
	json_decref(o);
	ck_assert_int_eq(run_lora("info " MODEL "/model.safetensors"), 0);
	ck_assert(strstr(run_out, "51,984") && strstr(run_out, "model.layers.*.self_attn.v_proj"));
}
END_TEST

START_TEST(info_of_an_adapter_needs_no_base)
{
	ck_assert_int_eq(run_lora("info --json " ADAPTER), 0);
	json_t *o = out_json(0), *settings = json_object_get(o, "settings");
	ck_assert_str_eq(json_string_value(json_object_get(o, "kind")), "adapter");
	ck_assert_str_eq(json_string_value(json_object_get(o, "method")), "lora");
	ck_assert_int_eq(json_integer_value(json_object_get(settings, "r")), 3);
	ck_assert_uint_eq(json_array_size(json_object_get(o, "tensors")), 8);
	ck_assert_uint_eq(json_array_size(json_object_get(o, "sites")), 4);
	ck_assert_int_eq(json_integer_value(json_object_get(o, "parameters")), 2 * (3 * 48 + 48 * 3 + 3 * 48 + 24 * 3));
	json_decref(o);
	ck_assert_int_eq(run_lora("info " ADAPTER), 0);
	ck_assert(strstr(run_out, "lora_alpha") != NULL);
}
END_TEST

START_TEST(info_of_damaged_adapters)
{
	ck_assert_int_eq(
		run_shell("mkdir -p '%s' && cp -r " ADAPTER "/adapter_* '%s'", in_scratch("damaged"), in_scratch("damaged")), 0);
	write_text(in_scratch("damaged/adapter_config.json"), "{\"peft_type\": \"LORA\",}");
	expect_error(run_lora("info '%s'", in_scratch("damaged")), 1, "line 1");
	write_text(in_scratch("damaged/adapter_config.json"), "{\"r\": 3}");
	expect_error(run_lora("info '%s'", in_scratch("damaged")), 1, "peft_type");
	write_text(in_scratch("damaged/adapter_config.json"), "{\"peft_type\": \"LORA\", \"r\": 3}");
	write_text(in_scratch("damaged/adapter_model.safetensors"), "version https://git-lfs.github.com/spec/v1\n");
	expect_error(run_lora("info '%s'", in_scratch("damaged")), 1, "git-lfs");
	static const char *const headers[] = {
		"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
		"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
		"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
		"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,0],\"data_offsets\":[0,0]}}",
		"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,400]}}",
		"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
		"[1]",
		"{\"a\":",
	};
	const int32_t zeros[2] = { 0, 0 };
	for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
		write_ids(in_scratch("damaged/adapter_model.safetensors"), headers[i], zeros, 2);
		expect_error(run_lora("info '%s'", in_scratch("damaged")), 1, "adapter_model.safetensors");
	}
}
END_TEST

/* Files that no config explains: their own tensors, nothing guessed. */
START_TEST(info_of_bare_files)
{
	static const char header[] = "{\"__metadata__\":{\"by\":\"hand\"},\"h.0.w\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
		"\"h.1.w\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[8,16]},\"s\":{\"dtype\":\"F8_E4M3\",\"shape\":[],\"data_offsets\":[16,17]},"
		"\"t\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[17,20]}}";
	static const char pairs[] = "{\"m.q.lora_A\":{\"dtype\":\"I32\",\"shape\":[1,3],\"data_offsets\":[0,12]},"
		"\"m.q.lora_B\":{\"dtype\":\"I32\",\"shape\":[2,1],\"data_offsets\":[12,20]}}";
	const int32_t zeros[5] = { 0 };
	ck_assert_int_eq(run_shell("mkdir -p '%s'", in_scratch("bare")), 0);
	write_ids(in_scratch("bare/one.safetensors"), header, zeros, 5);
	ck_assert_int_eq(run_lora("info --json '%s'", in_scratch("bare/one.safetensors")), 0);
	json_t *o = out_json(0), *t = json_array_get(json_object_get(o, "tensors"), 3);
	ck_assert_str_eq(json_string_value(json_object_get(o, "kind")), "model");
	ck_assert(json_is_null(json_object_get(o, "architecture")));
	ck_assert_int_eq(json_integer_value(json_object_get(o, "parameters")), 8);
	ck_assert_uint_eq(json_array_size(json_object_get(o, "sites")), 0);
	ck_assert_str_eq(json_string_value(json_object_get(json_object_get(o, "metadata"), "by")), "hand");
	ck_assert_str_eq(json_string_value(json_object_get(t, "dtype")), "F8_E4M3");
	ck_assert_int_eq(json_integer_value(json_object_get(t, "bytes")), 3);
	json_decref(o);
	ck_assert_int_eq(run_lora("info '%s'", in_scratch("bare/one.safetensors")), 0);
	ck_assert(strstr(run_out, "h.*.w ") && strstr(run_out, "[2, 1]") && strstr(run_out, "no config.json") && strstr(run_out, "\"hand\""));
	/* a folder: one object for each file; pairs make an adapter */
	write_ids(in_scratch("bare/two.safetensors"), pairs, zeros, 5);
	ck_assert_int_eq(run_lora("info --json '%s'", in_scratch("bare")), 0);
	ck_assert_int_eq(out_lines(), 2);
	o = out_json(1);
	ck_assert_str_eq(json_string_value(json_object_get(o, "kind")), "adapter");
	ck_assert_str_eq(json_string_value(json_object_get(o, "method")), "lora");
	ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(o, "settings"), "r")), 1);
	ck_assert(strstr(json_string_value(json_object_get(o, "path")), "bare/two.safetensors") != NULL);
	t = json_array_get(json_object_get(o, "sites"), 0);
	ck_assert_str_eq(json_string_value(json_object_get(t, "name")), "m.q");
	ck_assert_int_eq(json_integer_value(json_object_get(t, "in")), 3);
	ck_assert_int_eq(json_integer_value(json_object_get(t, "out")), 2);
	json_decref(o);
	expect_error(run_lora("info --plan '%s'", in_scratch("bare/one.safetensors")), 1, "config.json");
	write_text(in_scratch("bare/one.safetensors"), "version https://git-lfs.github.com/spec/v1\n");
	expect_error(run_lora("info '%s'", in_scratch("bare/one.safetensors")), 1, "git-lfs");
	ck_assert_int_eq(run_shell("mkdir -p '%s'", in_scratch("void")), 0);
	expect_error(run_lora("info '%s'", in_scratch("void")), 1, "no model");
	ck_assert_int_eq(run_lora("info --json " GOLDEN "tokenizers/fam-gpt2"), 0);
	o = out_json(0);
	ck_assert_str_eq(json_string_value(json_object_get(o, "kind")), "tokenizer");
	ck_assert_int_eq(json_integer_value(json_object_get(o, "vocab_size")), 600);
	json_decref(o);
}
END_TEST

START_TEST(methods_come_from_introspection)
{
	ck_assert_int_eq(run_lora("methods"), 0);
	ck_assert(strstr(run_out, "adapter\n") && strstr(run_out, "optimizer\n") && strstr(run_out, "lora"));
	ck_assert_int_eq(run_lora("methods adapter lora --json"), 0);
	json_t *o = out_json(0), *s;
	size_t i, seen = 0;
	ck_assert(json_is_string(json_object_get(o, "source")));
	json_array_foreach(json_object_get(o, "settings"), i, s)
		seen += !strcmp(json_string_value(json_object_get(s, "name")), "lora_alpha");
	ck_assert_uint_eq(seen, 1);
	json_decref(o);
	ck_assert_int_eq(run_lora("methods --json"), 0);
	for (int n = 0; n < out_lines(); n++) json_decref(out_json(n));
	ck_assert_int_gt(out_lines(), 5);
}
END_TEST

START_TEST(tokenize_there_and_back)
{
	ck_assert_int_eq(run_lora("tokenize -m " MODEL " --json -t 'the end, of it'"), 0);
	ck_assert_str_eq(run_out, "{\"tokens\":[1,103,74,5,111,73,17,5,117,5,120]}\n");
	ck_assert_int_eq(run_lora("tokenize -m " MODEL " --no-special -t 'the'"), 0);
	ck_assert_str_eq(run_out, "103 74\n");
	ck_assert_int_eq(run_lora("tokenize -m " MODEL "/tokenizer.json --decode 103,74,5,111,73,102 --json"), 0);
	ck_assert_str_eq(run_out, "{\"text\":\"the end\xE2\x82\xAC\"}\n");
	ck_assert_int_eq(run_shell("printf 'the end, of it' | '%s' tokenize -m " MODEL " --json", lora_program()), 0);
	ck_assert_str_eq(run_out, "{\"tokens\":[1,103,74,5,111,73,17,5,117,5,120]}\n");
	expect_error(run_lora("tokenize -m " MODEL " --decode 9999"), 1, "9999");
}
END_TEST

START_TEST(generate_is_greedy_and_repeatable)
{
	static const int want[] = { 102, 97, 53, 23, 77, 120, 72, 37, 41, 37, 41, 37, 41, 16, 118, 47, 66, 32, 105, 123, 120, 120,
		120, 120 };
	ck_assert_int_eq(run_lora("generate --json -m " MODEL " --tokens 27,61,120,121,128,121 -n 24"), 0);
	json_t *o = out_json(0), *tokens = json_object_get(o, "tokens");
	ck_assert_uint_eq(json_array_size(tokens), 24);
	for (size_t i = 0; i < 24; i++) ck_assert_int_eq(json_integer_value(json_array_get(tokens, i)), want[i]);
	ck_assert_uint_eq(json_array_size(json_object_get(o, "prompt_tokens")), 6);
	ck_assert(json_is_string(json_object_get(o, "text")) && json_is_number(json_object_get(o, "tokens_per_second")));
	/* what streams to the terminal is the same text */
	char *text = strdup(json_string_value(json_object_get(o, "text")));
	json_decref(o);
	ck_assert_int_eq(run_lora("generate -q -m " MODEL " --tokens 27,61,120,121,128,121 -n 24"), 0);
	run_out[strlen(run_out) - 1] = 0;
	ck_assert_str_eq(run_out, text);
	free(text);
	ck_assert_int_eq(run_lora("generate --json -m " MODEL
							  " -p 'the end' -n 9 --temperature 1 --top-k 40 --top-p 0.9 --seed 5 | sed 's/tokens_per.*//'"),
		0);
	char *first = strdup(run_out);
	ck_assert_int_eq(run_lora("generate --json -m " MODEL
							  " -p 'the end' -n 9 --temperature 1 --top-k 40 --top-p 0.9 --seed 5 | sed 's/tokens_per.*//'"),
		0);
	ck_assert_str_eq(run_out, first);
	free(first);
}
END_TEST

static char *text_of(int line, const char *key)
{
	json_t *o = out_json(line);
	ck_assert_msg(json_is_string(json_object_get(o, key)), "line %d has no %s: %s", line, key, run_out);
	char *text = strdup(json_string_value(json_object_get(o, key)));
	json_decref(o);
	return text;
}

/* Prompts of different lengths side by side give what each gives alone. */
START_TEST(several_prompts)
{
	static const char *const prompts[] = { "the", "a much longer prompt of many words", "end" };
	char *alone[3];
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(run_lora("generate --json -m " MODEL " -a " ADAPTER " -p '%s' -n 14", prompts[i]), 0);
		alone[i] = text_of(0, "text");
	}
	ck_assert_int_eq(run_lora("generate --json -m " MODEL " -a " ADAPTER " -p '%s' -p '%s' -p '%s' -n 14", prompts[0], prompts[1], prompts[2]), 0);
	ck_assert_int_eq(out_lines(), 3);
	for (int i = 0; i < 3; i++) {
		char *text = text_of(i, "text");
		ck_assert_str_eq(text, alone[i]);
		free(text);
	}
	/* an adapter for each: a scale of 0 is no adapter */
	ck_assert_int_eq(run_lora("generate --json -m " MODEL " -a " ADAPTER " -a " ADAPTER "=0 -p '%s' -p '%s' --adapter-rows 0,1 -n 14", prompts[0], prompts[0]), 0);
	char *with = text_of(0, "text"), *without = text_of(1, "text");
	ck_assert_str_eq(with, alone[0]);
	ck_assert_int_eq(run_lora("generate --json -m " MODEL " -p '%s' -n 14", prompts[0]), 0);
	char *base = text_of(0, "text");
	ck_assert_str_eq(without, base);
	expect_error(run_lora("generate -m " MODEL " -a " ADAPTER " -p a -p b --adapter-rows 0"), 2, "1 numbers for 2 prompts");
	expect_error(run_lora("generate -m " MODEL " -a " ADAPTER " -p a --adapter-rows 3"), 2, "--adapter-rows");
	free(with), free(without), free(base);
	for (int i = 0; i < 3; i++) free(alone[i]);
}
END_TEST

START_TEST(generation_stops_before_a_text)
{
	ck_assert_int_eq(run_lora("generate --json -m " MODEL " -p the -n 24"), 0);
	char *whole = text_of(0, "text"), stop[8], *text, *why = text_of(0, "finish");
	ck_assert_str_eq(why, "length");
	free(why);
	for (size_t at = 3; at < 9; at++) {
		memcpy(stop, whole + at, 3);
		stop[3] = 0;
		if (strpbrk(stop, "'\\") || strstr(whole, stop) != whole + at) continue;
		ck_assert_int_eq(run_lora("generate --json -m " MODEL " -p the -n 24 --stop 'not there' --stop '%s'", stop), 0);
		text = text_of(0, "text");
		why = text_of(0, "finish");
		ck_assert_str_eq(why, "stop");
		ck_assert_uint_eq(strlen(text), at);
		ck_assert(!memcmp(text, whole, at));
		ck_assert_int_eq(run_lora("generate -q -m " MODEL " -p the -n 24 --stop '%s'", stop), 0);
		run_out[strlen(run_out) - 1] = 0;
		ck_assert_str_eq(run_out, text);
		free(text), free(why);
	}
	free(whole);
	expect_error(run_lora("generate -m " MODEL " -p a --stop ''"), 2, "--stop");
	ck_assert_int_eq(run_lora("generate --json -m " MODEL " -p the -n 24 --repetition-penalty 3"), 0);
	expect_error(run_lora("generate -m " MODEL " -p a --repetition-penalty 0"), 2, "--repetition-penalty");
}
END_TEST

START_TEST(questions)
{
	expect_error(run_lora("generate -m " MODEL " -p a --chat"), 1, "--chat-template NAME");
	expect_error(run_lora("generate -m " MODEL " --tokens 1 --chat"), 2, "--chat");
	expect_error(run_lora("generate -m " MODEL " -p a --system b"), 2, "goes with --chat");
	ck_assert_int_eq(run_lora("generate --json -m " MODEL " -p hi --chat --chat-template chatml --system so -n 3"), 0);
	json_t *o = out_json(0), *ids = json_object_get(o, "prompt_tokens");
	char list[1024] = "";
	for (size_t i = 0; i < json_array_size(ids); i++) sprintf(list + strlen(list), "%s%d", i ? "," : "", (int)json_integer_value(json_array_get(ids, i)));
	json_decref(o);
	ck_assert_int_eq(run_lora("tokenize --json -m " MODEL " --decode %s", list), 0);
	char *text = text_of(0, "text");
	ck_assert_str_eq(text, "<|im_start|>system\nso<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
	free(text);
}
END_TEST

START_TEST(full_disk_and_broken_pipe_are_told)
{
	if (!exists("/dev/full")) return;
	ck_assert_int_eq(run_shell("'%s' help >/dev/full", lora_program()), 1);
	ck_assert(strstr(run_err, "standard output") && strstr(run_err, "No space left"));
	ck_assert_int_eq(run_shell("'%s' methods --json >/dev/full", lora_program()), 1);
	ck_assert_ptr_nonnull(strstr(run_err, "No space left"));
}
END_TEST

/* info --plan: one entry per site and number of rows; many rows take another order than few where W + s B A can be formed. */
START_TEST(info_shows_the_plan)
{
	size_t i;
	json_t *e;
	int few = 0, many = 0;
	ck_assert_int_eq(run_lora("info --json --backend naive --plan -m " MODEL " -s rows=2,4096 -s r=4"), 0);
	json_t *o = out_json(0), *plan = json_object_get(o, "plan");
	ck_assert_uint_eq(json_array_size(plan), 2 * json_array_size(json_object_get(o, "sites")));
	json_array_foreach(plan, i, e)
	{
		const char *choice = json_string_value(json_object_get(e, "choice"));
		ck_assert(json_string_value(json_object_get(e, "site")) && json_number_value(json_object_get(e, "flops")) > 0);
		few += json_integer_value(json_object_get(e, "rows")) == 2 && !strcmp(choice, "F1 B1");
		many += json_integer_value(json_object_get(e, "rows")) == 4096 && !strcmp(choice, "F2 B5");
	}
	ck_assert_int_eq(few, (int)json_array_size(plan) / 2);
	ck_assert_int_eq(many, few - 1); /* all but the head */
	json_decref(o);
	ck_assert_int_eq(run_lora("info --backend naive " MODEL " --plan -s lora_dropout=0.1 -s rows=4096"), 0);
	ck_assert(strstr(run_out, "F1 B1") && strstr(run_out, "dropout") && !strstr(run_out, "F2 B5"));
	expect_error(run_lora("info --plan " ADAPTER), 2, "--plan");
	expect_error(run_lora("info " MODEL " -s r=4"), 2, "--plan");
	expect_error(run_lora("info --plan " MODEL " -s rows=0"), 2, "rows");
	expect_error(run_lora("info --plan " MODEL " -s ranks=4"), 2, "ranks");
}
END_TEST

Suite *suite_words(void)
{
	Suite *s = suite_create("cli words");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, a_bad_command_line_is_told, 0, sizeof bad / sizeof bad[0]);
	tcase_add_test(t, help_lists_the_commands);
	tcase_add_test(t, info_of_a_model);
	tcase_add_test(t, info_of_an_adapter_needs_no_base);
	tcase_add_test(t, info_of_damaged_adapters);
	tcase_add_test(t, info_of_bare_files);
	tcase_add_test(t, methods_come_from_introspection);
	tcase_add_test(t, tokenize_there_and_back);
	tcase_add_test(t, generate_is_greedy_and_repeatable);
	tcase_add_test(t, several_prompts);
	tcase_add_test(t, generation_stops_before_a_text);
	tcase_add_test(t, questions);
	tcase_add_test(t, full_disk_and_broken_pipe_are_told);
	tcase_add_test(t, info_shows_the_plan);
	suite_add_tcase(s, t);
	return s;
}
