/* Careless and hostile input by way of the program: rows of the bad-input table on input tensors, and what users do to its streams. What the
 * library's readers refuse has its rows in test_safetensors.c, test_gguf.c, test_peft.c, test_tokenizer.c and test_arch.c. */
#include "cli/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A safetensors file `x.safetensors` of this header and n bytes of data: token ids 1, 1, 1 ... */
static const char *write_tensors(const char *header, size_t n)
{
	const char *path = in_scratch("x.safetensors");
	FILE *f = fopen(path, "wb");
	uint64_t length = strlen(header);
	ck_assert_ptr_nonnull(f);
	for (int i = 0; i < 8; i++) fputc((int)(length >> 8 * i & 255), f);
	fputs(header, f);
	for (size_t i = 0; i < n; i++) fputc(i % 4 == 0, f);
	fclose(f);
	return path;
}

#define IDS        "\"input_ids\":{\"dtype\":\"I32\",\"shape\":[1,4],\"data_offsets\":[0,16]}"
#define SHAPED(s)  "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":" s ",\"data_offsets\":[0,16]}}"
#define OFFSETS(o) "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[1,4],\"data_offsets\":" o "}}"
#define AND(rest)  "{" IDS "," rest "}"

static const struct {
	const char *id, *header;
	size_t bytes;
	const char *text; /* NULL: accepted */
} inputs[] = {
	{ "S03", "", 16, "empty header" },
	{ "S07", "{\"\xff\":1}", 16, "0xff" },
	{ "S08a", "{", 0, "not JSON" },
	{ "S08b", "[]", 0, "not a JSON object" },
	{ "S08c", "{}{}", 0, "not JSON" },
	{ "S09a", "{" IDS "}   ", 16, NULL },
	{ "S09b", " \t\r\n{" IDS "}\n\t", 16, NULL },
	{ "S10", AND(IDS), 16, "duplicate" },
	{ "S11", "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[1,4],\"shape\":[1,4],\"data_offsets\":[0,16]}}", 16, "duplicate" },
	{ "S12", AND("\"\\u0069nput_ids\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[16,20]}"), 20, "duplicate" },
	{ "S13", "{\"input_ids\":{\"dtype\":\"I32\",\"data_offsets\":[0,16]}}", 16, "needs dtype, shape" },
	{ "S14", "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[1,4],\"data_offsets\":[0,16],\"strides\":[1]}}", 16, "nothing else" },
	{ "S15", AND("\"y\":{\"dtype\":\"F17\",\"shape\":[1],\"data_offsets\":[16,20]}"), 20, "\"F17\"" },
	{ "S16a", SHAPED("[1,-4]"), 16, "bad shape" },
	{ "S16b", SHAPED("[1,4.0]"), 16, "bad shape" },
	{ "S16c", SHAPED("[1,null]"), 16, "bad shape" },
	{ "S17", "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "too many elements" },
	{ "S18", SHAPED("[2,9223372036854775807]"), 16, "too many elements" },
	{ "S19", SHAPED("[1,1,1,1,1,1,1,1,4]"), 16, "more than 8 dimensions" },
	{ "S20", OFFSETS("[0]"), 16, "two data_offsets" },
	{ "S21", OFFSETS("[16,0]"), 16, "bad data_offsets" },
	{ "S22", OFFSETS("[4,20]"), 16, "runs past the end" },
	{ "S23a", SHAPED("[1,3]"), 16, "12 bytes, data_offsets 16" },
	{ "S23b", SHAPED("[1,5]"), 16, "20 bytes, data_offsets 16" },
	{ "S24", AND("\"y\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[12,20]}"), 20, "overlap" },
	{ "S25", AND("\"y\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[20,24]}"), 24, "hole" },
	{ "S26", "{" IDS "}", 18, "2 bytes after the last tensor" },
	{ "S27", "{" IDS "}", 14, "runs past the end" },
	{ "S29", AND("\"y\":{\"dtype\":\"F32\",\"shape\":[2,0],\"data_offsets\":[16,16]}"), 16, NULL },
	{ "S30", AND("\"y\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[16,20]}"), 20, NULL },
	{ "S31", AND("\"__metadata__\":{\"a\":1}"), 16, "__metadata__" },
	{ "S33", AND("\"../\\n\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[16,20]}"), 20, NULL },
	{ "S35a", AND("\"y\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[16,18]}"), 18, "whole bytes" },
	{ "S35b", AND("\"y\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[16,20]}"), 20, "3 bytes, data_offsets 4" },
	{ "S35c", AND("\"y\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[16,18]}"), 18, NULL },
};

START_TEST(input_tensors)
{
	const char *path = write_tensors(inputs[_i].header, inputs[_i].bytes);
	int got = run_lora("score -m " MODEL " -i '%s'", path);
	ck_assert_msg(got == (inputs[_i].text ? 1 : 0), "%s: status %d: %s", inputs[_i].id, got, run_err);
	if (inputs[_i].text) {
		expect_error(got, 1, inputs[_i].text);
		ck_assert_msg(strstr(run_err, path) != NULL, "%s: no file name in %s", inputs[_i].id, run_err);
	}
}
END_TEST

/* S28, and a header that is long and right: 100,000 entries. */
START_TEST(many_entries)
{
	enum { N = 100000, EACH = 80 };
	char *header = malloc((size_t)N * EACH);
	for (int good = 0; good < 2; good++) {
		size_t at = (size_t)sprintf(header, "{");
		for (int i = 0; i < N; i++)
			at += (size_t)sprintf(header + at, "%s\"t%06d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}", i ? "," : "", i, good ? i : 0, good ? i + 1 : 1);
		sprintf(header + at, "}");
		const char *path = write_tensors(header, good ? N : 1);
		if (!good) expect_error(run_lora("score -m " MODEL " -i '%s'", path), 1, "\"t000000\" and \"t000001\" overlap");
		else expect_error(run_lora("score -m " MODEL " -i '%s'", path), 1, "has no tensor \"input_ids\"");
	}
	free(header);
}
END_TEST

/* What is read is not written over without a word, by whatever name; and never removed with its folder. */
START_TEST(outputs_that_are_inputs)
{
	static const struct {
		const char *command, *text; /* NULL: done */
	} cases[] = {
		{ "merge -m m.gguf -a ad -o m.gguf", "is what is read" },
		{ "merge -m m.gguf -a ad -o hard.gguf", "is what is read" },
		{ "merge -m soft.gguf -a ad -o m.gguf", "is what is read" },
		{ "merge -m hf -a ad -o ./hf/", "is what is read" },
		{ "merge -m hf/model.safetensors -a ad -o hf --force", "lies in it" },
		{ "merge -m hf -a hf/ad -o hf --force", "lies in it" },
		{ "quantize -m m.gguf --to q4_0 -o m.gguf", "is what is read" },
		{ "quantize -m hf --to q4_0 -o hf --force", "is what is read" },
		{ "convert hf hf", "is what is read" },
		{ "convert ad ad -m hf", "is what is read" },
		{ "combine -a ad -o ad --type linear -m hf", "is what is read" },
		{ "combine -a ad -o . --type linear -m hf --force", "lies in it" },
		{ "extract -m hf -t hf -r 2 -o hf --force", "is what is read" },
		{ "merge -m hf -a ad -o other", NULL },
		{ "merge -m m.gguf -a ad -o m.gguf --force", NULL },
		{ "merge -m hf -a ad -o hf --force", NULL },
		{ "combine -a ad -o ad --type linear -m hf --force", NULL },
	};
	const char *ad = GOLDEN "gguf/adapter-tiny-llama-plain", *m = GOLDEN "gguf/tiny-llama.Q8_0.gguf";
	ck_assert_int_eq(run_shell("d='%s' && mkdir \"$d\" && cp -r %s \"$d/ad\" && cp %s \"$d/m.gguf\" && chmod -R u+w \"$d\" && cd \"$d\" && ln m.gguf hard.gguf && ln -s m.gguf soft.gguf",
		in_scratch("in"), ad, m), 0);
	ck_assert_int_eq(run_lora("convert -q '%s' '%s'", in_scratch("in/m.gguf"), in_scratch("in/hf")), 0);
	ck_assert_int_eq(run_shell("cd '%s/in' && cp -r ad hf/ad", scratch), 0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int got = run_shell("l='%s' && test \"${l#/}\" != \"$l\" || l=\"$PWD/$l\"; cd '%s/in' && \"$l\" %s", lora_program(), scratch, cases[i].command);
		ck_assert_msg(got == (cases[i].text ? 1 : 0), "%s: status %d: %s", cases[i].command, got, run_err);
		if (cases[i].text) expect_error(got, 1, cases[i].text);
		for (const char *const *f = (const char *const[]){ "in/hf/config.json", "in/m.gguf", "in/ad/adapter_config.json", NULL }; *f; f++)
			ck_assert_msg(access(in_scratch(*f), R_OK) == 0, "%s: %s is gone", cases[i].command, *f);
	}
}
END_TEST

/* PEFT opens no adapter whose list of modules names nothing of the model. */
START_TEST(foreign_target_names)
{
	ck_assert_int_eq(run_shell("cp -r " GOLDEN "gguf/adapter-tiny-llama-plain '%s' && chmod -R u+w '%s' && sed -i 's/_proj\"/_q\"/' '%s/adapter_config.json'", in_scratch("other-names"),
		in_scratch("other-names"), in_scratch("other-names")), 0);
	expect_error(run_lora("generate -m " GOLDEN "gguf/tiny-llama.Q8_0.gguf -a '%s' --tokens 1 -n 1", in_scratch("other-names")), 1, "matches no module of this model");
}
END_TEST

/* A stream that the caller has closed is not the next file that is opened: what is said does not land in the log of a training. */
START_TEST(closed_streams)
{
	static const char *const closed[] = { "2>&-", ">&-", "<&- >&- 2>&-" };
	for (size_t i = 0; i < sizeof closed / sizeof closed[0]; i++) {
		int lines = 0;
		ck_assert_int_eq(run_shell("rm -rf '%s'", in_scratch("run")), 0);
		int got = run_shell("'%s' train -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' -s max_steps=3 -s save_steps=1 --json %s", lora_program(),
			in_scratch("run"), closed[i]);
		ck_assert_int_eq(got, i == 0 ? 0 : 1);
		char *log = read_text(in_scratch("run/log.jsonl"), NULL);
		for (char *p = log, *end; *p; p = end + 1, lines++) {
			ck_assert_msg((end = strchr(p, '\n')) != NULL, "%s: the log does not end in a line: %s", closed[i], p);
			*end = 0;
			json_t *o = json_loads(p, 0, NULL);
			ck_assert_msg(json_integer_value(json_object_get(o, "step")) == lines + 1, "%s: line %d is %s", closed[i], lines + 1, p);
			json_decref(o);
		}
		ck_assert_msg(i ? lines >= 1 : lines == 3, "%s: %d lines", closed[i], lines);
		free(log);
	}
}
END_TEST

/* A decoder with another head than a language model's would open as a language model where its weights are tied. */
START_TEST(other_heads)
{
	static const char *const classes[] = { "LlamaForSequenceClassification", "LlamaForTokenClassification", "LlamaForQuestionAnswering" };
	for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
		ck_assert_int_eq(run_shell("rm -rf '%s' && cp -r " GOLDEN "models/llama-tied/model '%s' && chmod -R u+w '%s' && sed -i s/LlamaForCausalLM/%s/ '%s'", in_scratch("other"), in_scratch("other"), in_scratch("other"),
			classes[i], in_scratch("other/config.json")), 0);
		expect_error(run_lora("info '%s'", in_scratch("other")), 1, classes[i]);
		ck_assert(strstr(run_err, "config.json: architectures") != NULL);
	}
}
END_TEST

#define BPE(vocab, merges, more) "{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]" more "}}"

static void expect_tokens(const char *tokens)
{
	json_t *o = out_json(0);
	char *got = json_dumps(json_object_get(o, "tokens"), JSON_COMPACT);
	ck_assert_str_eq(got, tokens);
	free(got);
	json_decref(o);
}

/* T09: rules that join their own results, in a circle and twice over; a text of one letter takes no time to speak of. */
START_TEST(merges_in_circles)
{
	write_text(in_scratch("tokenizer.json"), BPE("\"a\":0,\"b\":1,\"ab\":2,\"ba\":3,\"aba\":4", "\"a b\",\"b a\",\"ab a\",\"a ba\",\"a b\"", ""));
	ck_assert_int_eq(run_lora("tokenize --json -m '%s' -t ababa", in_scratch("tokenizer.json")), 0);
	expect_tokens("[4,3]");
	write_text(in_scratch("tokenizer.json"), BPE("\"a\":0,\"aa\":1,\"aaaa\":2,\"aaaaaaaa\":3", "\"a a\",\"aa aa\",\"aaaa aaaa\"", ""));
	ck_assert_int_eq(run_shell("head -c 800003 /dev/zero | tr '\\0' a | '%s' tokenize --json -m '%s' | tr -cd , | wc -c", lora_program(), in_scratch("tokenizer.json")), 0);
	ck_assert_int_eq(atoi(run_out), 100001); /* 100,000 of eight, then aa and a */
}
END_TEST

/* T19: what only looks like the token of a byte is text; its digits are never an index. */
START_TEST(tokens_of_no_byte)
{
	write_text(in_scratch("tokenizer.json"),
		"{\"version\":\"1.0\",\"decoder\":{\"type\":\"ByteFallback\"},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0,\"<0x0>\":1,\"<0x-1>\":2,"
		"\"<0xGG>\":3,\"<0x100>\":4,\"<0XFF>\":5,\"<0x41>\":6},\"merges\":[]}}");
	ck_assert_int_eq(run_lora("tokenize --json -m '%s' --decode 0,1,2,3,4,5,6", in_scratch("tokenizer.json")), 0);
	json_t *o = out_json(0);
	ck_assert_str_eq(json_string_value(json_object_get(o, "text")), "a<0x0><0x-1><0xGG><0x100><0XFF>A");
	json_decref(o);
	ck_assert_int_eq(run_lora("tokenize --json -m '%s' -t A", in_scratch("tokenizer.json")), 0);
	expect_tokens("[6]");
}
END_TEST

/* A12: a name's ending that two modules of a block have means both, as in PEFT. */
START_TEST(an_ending_of_two_modules)
{
	size_t i, attention = 0, mlp = 0;
	json_t *site;
	ck_assert_int_eq(run_lora("train -q -m " GOLDEN "models/gpt2/model -d " TRAINING "/data.safetensors -o '%s' -s max_steps=1 -s target_modules=c_proj", in_scratch("both")), 0);
	ck_assert_int_eq(run_lora("info --json '%s'", in_scratch("both")), 0);
	json_t *o = out_json(0);
	json_array_foreach(json_object_get(o, "sites"), i, site)
	{
		const char *name = json_string_value(json_object_get(site, "name"));
		attention += strstr(name, "attn.c_proj") != NULL;
		mlp += strstr(name, "mlp.c_proj") != NULL;
	}
	ck_assert(attention > 0 && attention == mlp && attention + mlp == i);
	json_decref(o);
}
END_TEST

/* A merge into another type is rounded once, to that type: a quantised base is not quantised again on the way. */
START_TEST(merged_into_another_type)
{
	const char *base = GOLDEN "gguf/tiny-llama.Q8_0.gguf", *pair = GOLDEN "gguf/adapter-tiny-llama-plain";
	int32_t ids[8] = { 1, 5, 9, 13, 2, 40, 7, 30 };
	tensors want, got;
	double gap = 0, top = 0;
	write_ids(in_scratch("ids.safetensors"), "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[1,8],\"data_offsets\":[0,32]}}", ids, 8);
	ck_assert_int_eq(run_lora("merge -q -m %s -a %s -o '%s' --dtype-out f32", base, pair, in_scratch("wide.gguf")), 0);
	ck_assert_int_eq(run_shell("ls -d '%s'*", in_scratch("wide.gguf")), 0);
	ck_assert_int_eq(out_lines(), 1); /* nothing beside it */
	ck_assert_int_eq(run_lora("score -q -m '%s' -i '%s' -o '%s'", in_scratch("wide.gguf"), in_scratch("ids.safetensors"), in_scratch("got")), 0);
	ck_assert_int_eq(run_lora("score -q -m %s -a %s -i '%s' -o '%s'", base, pair, in_scratch("ids.safetensors"), in_scratch("want")), 0);
	tensors_read(&got, in_scratch("got"));
	tensors_read(&want, in_scratch("want"));
	for (int64_t i = 0; i < tensors_count(&want, "logits"); i++) {
		double a = tensors_at(&want, "logits", i), d = a - tensors_at(&got, "logits", i);
		if (d < 0) d = -d;
		if (a < 0) a = -a;
		if (d > gap) gap = d;
		if (a > top) top = a;
	}
	tensors_free(&got);
	tensors_free(&want);
	ck_assert_msg(gap < 1e-5 * top, "logits differ by %g of %g", gap, top);
}
END_TEST

/* A file may have any name; JSON shows what is no UTF-8 of it as U+FFFD. */
START_TEST(names_of_any_bytes)
{
	ck_assert_int_eq(run_shell("cd '%s' && d=$(printf 'n\\377 m') && l=\"$OLDPWD/%s\" g=\"$OLDPWD/" GOLDEN "\" && test -x \"$l\" || l='%s'; "
		"\"$l\" merge --json -m \"$g/models/llama/model\" -a \"$g/peft/lora-default/adapter\" -o \"$d\" && \"$l\" info --json \"$d\"", scratch, lora_program(), lora_program()), 0);
	json_t *o = out_json(0);
	ck_assert_str_eq(json_string_value(json_object_get(o, "output")), "n\xef\xbf\xbd m");
	json_decref(o);
}
END_TEST

Suite *suite_careless(void)
{
	Suite *s = suite_create("careless");
	TCase *t = tcase_create("inputs");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, input_tensors, 0, sizeof inputs / sizeof inputs[0]);
	tcase_add_test(t, many_entries);
	tcase_add_test(t, outputs_that_are_inputs);
	tcase_add_test(t, foreign_target_names);
	tcase_add_test(t, closed_streams);
	tcase_add_test(t, other_heads);
	tcase_add_test(t, merges_in_circles);
	tcase_add_test(t, tokens_of_no_byte);
	tcase_add_test(t, an_ending_of_two_modules);
	tcase_add_test(t, merged_into_another_type);
	tcase_add_test(t, names_of_any_bytes);
	suite_add_tcase(s, t);
	return s;
}
