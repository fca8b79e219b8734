/* Data for train and eval: conversations, packing, grouping, held-back examples, bad lines, files larger than the memory that is allowed. */
#include "cli/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double number(int line, const char *key)
{
	json_t *o = out_json(line);
	ck_assert_msg(o && json_is_number(json_object_get(o, key)), "line %d of the output has no %s: %s", line, key, run_out);
	double v = json_number_value(json_object_get(o, key));
	json_decref(o);
	return v;
}

static void write_examples(const char *path, int n)
{
	FILE *f = fopen(path, "wb");
	ck_assert_ptr_nonnull(f);
	for (int i = 0; i < n; i++) {
		fprintf(f, "{\"prompt\":\"the %d", i);
		for (int k = 0; k < i % 5; k++) fputs(" and on", f);
		fprintf(f, "\",\"completion\":\" end %d\"}\n", i * 7 % 10);
	}
	fclose(f);
}

/* An example sees itself only, so in blocks or one by one the loss is the same. */
START_TEST(packed_examples_do_not_meet)
{
	write_examples(in_scratch("packed.jsonl"), 40);
	ck_assert_int_eq(run_lora("eval --json -q -m " MODEL " -d '%s' -s sequence_length=64", in_scratch("packed.jsonl")), 0);
	double loss = number(0, "loss"), tokens = number(0, "tokens");
	ck_assert_int_eq(run_lora("eval --json -q -m " MODEL " -d '%s' -s sequence_length=64 -s packing=true", in_scratch("packed.jsonl")), 0);
	ck_assert_double_eq(number(0, "tokens"), tokens);
	ck_assert_double_eq_tol(number(0, "loss"), loss, 1e-6);
	/* and a pass takes fewer steps */
	ck_assert_int_eq(run_lora("train --json -q -m " MODEL " -d '%s' -o '%s' -s sequence_length=64 -s num_train_epochs=1 -s batch_size=1",
						 in_scratch("packed.jsonl"), in_scratch("plain-run")),
		0);
	ck_assert_double_eq(number(40, "steps"), 40);
	tokens = number(40, "tokens");
	ck_assert_int_eq(run_lora("train --json -q -m " MODEL " -d '%s' -o '%s' -s sequence_length=64 -s num_train_epochs=1 -s batch_size=1 -s packing=true",
						 in_scratch("packed.jsonl"), in_scratch("packed-run")),
		0);
	int last = out_lines() - 1;
	ck_assert_double_lt(number(last, "steps"), 30);
	ck_assert_double_eq(number(last, "tokens"), tokens);
}
END_TEST

#define TALK(q, a) "{\"messages\":[{\"role\":\"user\",\"content\":\"" q "\"},{\"role\":\"assistant\",\"content\":\"" a "\"}]}\n"

START_TEST(conversations)
{
	write_text(in_scratch("talk.jsonl"), TALK("hello", "abc") TALK("more", "defg"));
	expect_error(run_lora("eval -m " MODEL " -d '%s'", in_scratch("talk.jsonl")), 1, "--chat-template NAME");
	expect_error(run_lora("eval -m " MODEL " -d '%s' --chat-template chatm", in_scratch("talk.jsonl")), 1, "chatm");
	ck_assert_int_eq(run_lora("eval --json -q -m " MODEL " -d '%s' --chat-template chatml", in_scratch("talk.jsonl")), 0);
	double answers = number(0, "tokens");
	/* characters are tokens here: the answers and twice <|im_end|> */
	ck_assert_int_eq(run_lora("tokenize --json -q -m " MODEL " --no-special -t 'abc<|im_end|>defg<|im_end|>'"), 0);
	json_t *o = out_json(0);
	ck_assert_double_eq(answers, (double)json_array_size(json_object_get(o, "tokens")));
	json_decref(o);
	ck_assert_int_eq(run_lora("eval --json -q -m " MODEL " -d '%s' --chat-template chatml -s loss_on=all", in_scratch("talk.jsonl")), 0);
	ck_assert_double_gt(number(0, "tokens"), answers + 40);
	/* train, and go on without naming the template again */
	ck_assert_int_eq(run_lora("train --json -q -m " MODEL " -d '%s' -o '%s' --chat-template chatml -s max_steps=2 -s lr_scheduler_type=constant", in_scratch("talk.jsonl"),
						 in_scratch("talk-run")),
		0);
	double all = number(0, "tokens");
	ck_assert_double_gt(all, answers + 40);
	ck_assert_int_eq(run_lora("train --json -q -m " MODEL " -d '%s' -o '%s' --resume -s max_steps=3", in_scratch("talk.jsonl"), in_scratch("talk-run")), 0);
	ck_assert_double_eq(number(0, "tokens"), all);
}
END_TEST

#define GOOD "{\"text\":\"a good line of text\"}\n"
static const struct {
	const char *line, *text;
} bad_lines[] = {
	{ "{\"text\":\n", "line 3: column" },
	{ "[1,2]\n", "line 3: is no JSON object" },
	{ "{\"text\":7}\n", "line 3: \"text\" is no string" },
	{ "{\"prompt\":\"a\"}\n", "line 3: \"prompt\" and \"completion\"" },
	{ "{\"other\":1}\n", "line 3: has none of" },
	{ "{\"text\":\"a\",\"text\":\"b\"}\n", "line 3: column" },
	{ "{\"text\":\"\xff\"}\n", "line 3: column" },
	{ "{\"text\":\"\\ud800\"}\n", "line 3: column" },
	{ "{\"messages\":[]}\n", "line 3: \"messages\" is no list" },
	{ "{\"messages\":[{\"role\":\"user\"}]}\n", "line 3: message 0 of \"messages\" has no \"content\"" },
	{ "{\"messages\":[{\"content\":\"x\"}]}\n", "line 3: message 0 of \"messages\" has no \"role\"" },
	{ "{\"messages\":[7]}\n", "line 3: message 0 of \"messages\" is no object" },
	{ TALK("x", "y") "{\"messages\":[{\"role\":\"robot\",\"content\":\"first\"}]}\n", "line 4: message 0 (robot)" },
};

START_TEST(bad_lines_are_told)
{
	char text[2048];
	snprintf(text, sizeof text, GOOD "\n%s" GOOD "%s", bad_lines[_i].line, _i ? "" : "{\"text\":\"without a newline\"}");
	write_text(in_scratch("bad.jsonl"), text);
	expect_error(run_lora("eval -m " MODEL " -d '%s' --chat-template qwen2.5", in_scratch("bad.jsonl")), 1, bad_lines[_i].text);
	ck_assert_int_eq(run_lora("eval --json -m " MODEL " -d '%s' --chat-template qwen2.5 --skip-bad", in_scratch("bad.jsonl")), 0);
	ck_assert_double_eq(number(0, "bad_lines"), 1);
	ck_assert_ptr_nonnull(strstr(run_err, "left out: "));
	ck_assert_ptr_nonnull(strstr(run_err, "1 bad lines left out"));
}
END_TEST

START_TEST(files_without_good_lines)
{
	write_text(in_scratch("bom.jsonl"), "\xEF\xBB\xBF" GOOD);
	expect_error(run_lora("eval -m " MODEL " -d '%s'", in_scratch("bom.jsonl")), 1, "byte order mark");
	write_text(in_scratch("none.jsonl"), "x\ny\n");
	expect_error(run_lora("eval -q -m " MODEL " -d '%s' --skip-bad", in_scratch("none.jsonl")), 1, "bad lines were left out");
	write_text(in_scratch("empty.jsonl"), "");
	expect_error(run_lora("eval -m " MODEL " -d '%s'", in_scratch("empty.jsonl")), 1, "holds nothing");
	run_shell("rm -f '%s'; mkfifo '%s'", in_scratch("pipe.jsonl"), in_scratch("pipe.jsonl"));
	expect_error(run_lora("eval -m " MODEL " -d '%s'", in_scratch("pipe.jsonl")), 1, "not a regular file");
	expect_error(run_lora("eval -m " MODEL " -d '%s'", "/nonexistent.jsonl"), 1, "/nonexistent.jsonl");
}
END_TEST

/* T20: a tokenizer of another model. */
START_TEST(tokenizer_of_another_model)
{
	run_shell("mkdir -p '%s' && cp " MODEL "/config.json " MODEL "/model.safetensors " GOLDEN "tokenizers/fam-gpt2/tokenizer.json '%s'", in_scratch("mixed"),
		in_scratch("mixed"));
	write_text(in_scratch("one.jsonl"), GOOD);
	expect_error(run_lora("eval -m '%s' -d '%s'", in_scratch("mixed"), in_scratch("one.jsonl")), 1, "the tokenizer has 600 ids, the model rows for 131");
	expect_error(run_lora("generate -m '%s' -p a", in_scratch("mixed")), 1, "the tokenizer has 600 ids");
}
END_TEST

START_TEST(held_back)
{
	write_examples(in_scratch("held.jsonl"), 40);
#define HELD "train --json -q -m " MODEL " -d '%s' -o '%s' -s num_train_epochs=1 -s batch_size=4 "
	ck_assert_int_eq(run_lora(HELD "-s validation_split=0.25 -s eval_steps=3", in_scratch("held.jsonl"), in_scratch("held-run")), 0);
	int last = out_lines() - 1;
	ck_assert_double_eq(number(last, "examples"), 30);
	ck_assert_double_eq(number(last, "steps"), 8);
	double held = number(last - 1, "eval_tokens"), trained = number(last, "tokens");
	ck_assert_double_eq(held, 60); /* six characters of each completion are counted */
	ck_assert_int_eq(run_lora(HELD, in_scratch("held.jsonl"), in_scratch("held-none")), 0);
	ck_assert_double_gt(number(out_lines() - 1, "tokens"), trained);
	expect_error(run_lora(HELD "-s validation_split=0.001", in_scratch("held.jsonl"), in_scratch("no-run")), 1, "cannot be split");
	expect_error(run_lora(HELD "-s validation_split=1", in_scratch("held.jsonl"), in_scratch("no-run")), 2, "validation_split");
	expect_error(run_lora(HELD "-s validation_split=0.5 -s validation=x", in_scratch("held.jsonl"), in_scratch("no-run")), 2, "validation");
}
END_TEST

/* The same losses whether examples are in memory or in a file, and another order by another seed. */
START_TEST(larger_than_memory)
{
	static char first[sizeof run_out];
	write_examples(in_scratch("large.jsonl"), 30000);
#define LARGE "train --json -q -m " MODEL " -d '%s' -o '%s' -s max_steps=4 -s batch_size=2 "
	ck_assert_int_eq(run_lora(LARGE "| sed 's/,\"tokens_per_second.*//' | head -4", in_scratch("large.jsonl"), in_scratch("large-run")), 0);
	ck_assert_int_eq(out_lines(), 4);
	memcpy(first, run_out, sizeof first);
	ck_assert_int_eq(run_lora(LARGE "-s data_memory=1 | sed 's/,\"tokens_per_second.*//' | head -4", in_scratch("large.jsonl"), in_scratch("large-run2")), 0);
	ck_assert_str_eq(run_out, first);
	ck_assert_int_eq(run_lora(LARGE "--seed 5 -s data_memory=1 | sed 's/,\"tokens_per_second.*//' | head -4", in_scratch("large.jsonl"), in_scratch("large-run3")), 0);
	ck_assert_str_ne(run_out, first);
	expect_error(run_lora(LARGE "-s data_memory=0", in_scratch("large.jsonl"), in_scratch("no-run")), 2, "data_memory");
}
END_TEST

/* A text of several pieces has the tokens that it has in one. */
START_TEST(long_texts)
{
	static const char line[] = "the story goes on and on and on, line by line.\n";
	FILE *f = fopen(in_scratch("long.txt"), "wb");
	for (int i = 0; i < 400000; i++) fputs(line, f);
	fclose(f);
	ck_assert_int_eq(run_lora("tokenize --json -q -m " MODEL " --no-special -t '%s'", line), 0);
	json_t *o = out_json(0);
	double each = (double)json_array_size(json_object_get(o, "tokens"));
	json_decref(o);
	ck_assert_int_eq(run_lora("train --json -q -m " MODEL " -d '%s' -o '%s' -s max_steps=1 -s sequence_length=64 -s batch_size=1", in_scratch("long.txt"), in_scratch("long-run")), 0);
	double blocks = number(out_lines() - 1, "examples");
	ck_assert_double_ge(blocks * 64, each * 400000);
	ck_assert_double_le(blocks * 64, each * 400000 + 128);
}
END_TEST

/* Of a file four times as large no more is in memory. The limit is on what the program may allocate. */
START_TEST(memory_does_not_grow)
{
	static const char *const lines[] = { "the story goes on and on and on, line by line, until it is told.\n",
		"{\"prompt\":\"the story goes on and on\",\"completion\":\" until it is told\"}\n" };
	static const char *const names[] = { "grow.txt", "grow.jsonl" };
	double peak[2];
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
	return; /* they take memory of their own */
#endif
	for (int size = 0; size < 2; size++) {
		FILE *f = fopen(in_scratch(names[_i]), "wb");
		ck_assert_ptr_nonnull(f);
		for (int i = 0; i < 150000 << 2 * size; i++) fputs(lines[_i], f);
		fclose(f);
		ck_assert_int_eq(run_shell("ulimit -d 50000; '%s' train --json -q --threads 1 --backend naive -m " MODEL " -d '%s' -o '%s' --force -s max_steps=1 -s batch_size=1 "
			"-s sequence_length=64 -s data_memory=1", lora_program(), in_scratch(names[_i]), in_scratch("grow-run")), 0);
		peak[size] = number(out_lines() - 1, "peak_memory_bytes");
	}
	ck_assert_double_gt(peak[0], 1 << 20);
	ck_assert_double_lt(peak[1], peak[0] + (8 << 20));
	ck_assert_double_lt(peak[1], 50 << 20);
	remove(in_scratch(names[_i]));
}
END_TEST

START_TEST(grouped_by_length)
{
	write_examples(in_scratch("group.jsonl"), 40);
#define GROUPED "train --json -q -m " MODEL " -d '%s' -o '%s' -s num_train_epochs=1 -s batch_size=8 -s learning_rate=0 "
	ck_assert_int_eq(run_lora(GROUPED "-s group_by_length=true -s loss_on=all", in_scratch("group.jsonl"), in_scratch("group-run")), 0);
	for (int i = 1; i < 5; i++) ck_assert_double_le(number(i, "tokens"), number(i - 1, "tokens"));
	ck_assert_double_gt(number(0, "tokens"), number(4, "tokens") + 100);
}
END_TEST

Suite *suite_data(void)
{
	Suite *s = suite_create("cli data");
	TCase *c = tcase_create("all");
	tcase_set_timeout(c, 120);
	tcase_add_test(c, packed_examples_do_not_meet);
	tcase_add_test(c, conversations);
	tcase_add_loop_test(c, bad_lines_are_told, 0, (int)(sizeof bad_lines / sizeof bad_lines[0]));
	tcase_add_test(c, files_without_good_lines);
	tcase_add_test(c, tokenizer_of_another_model);
	tcase_add_test(c, held_back);
	tcase_add_test(c, larger_than_memory);
	tcase_add_test(c, long_texts);
	tcase_add_loop_test(c, memory_does_not_grow, 0, 2);
	tcase_add_test(c, grouped_by_length);
	suite_add_tcase(s, c);
	return s;
}
