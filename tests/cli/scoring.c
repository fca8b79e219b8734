/* score, eval, merge: numbers against the reference (transformers and PEFT in float64), and what comes out on failure. */
#include "cli/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB  131
#define ROWS   3
#define LENGTH 19

/* Largest difference of the logits where the mask is 1; rows as -1 = all. */
static double logits_gap(const tensors *got, const tensors *want, const tensors *mask, int only_row)
{
	double gap = 0;
	for (int64_t i = 0; i < ROWS * LENGTH; i++) {
		if (!tensors_at(mask, "attention_mask", i) || (only_row >= 0 && i / LENGTH != only_row)) continue;
		for (int64_t j = 0; j < VOCAB; j++) {
			double d = fabs(tensors_at(got, "logits", i * VOCAB + j) - tensors_at(want, "logits", i * VOCAB + j));
			if (!(d <= gap)) gap = d;
		}
	}
	return gap;
}

START_TEST(score_matches_the_reference)
{
	tensors got, want;
	ck_assert_int_eq(run_lora("score --json -m " MODEL " -i " IO " -o '%s'", in_scratch("base.safetensors")), 0);
	json_t *o = out_json(0);
	ck_assert_int_eq(out_lines(), 1);
	ck_assert_double_eq_tol(json_number_value(json_object_get(o, "loss")), 7.694188620075677, 2e-5);
	ck_assert(json_is_integer(json_object_get(o, "tokens")) && json_is_number(json_object_get(o, "seconds")));
	tensors_read(&got, in_scratch("base.safetensors"));
	tensors_read(&want, IO);
	ck_assert_int_eq(tensors_count(&got, "logits"), ROWS * LENGTH * VOCAB);
	ck_assert_double_lt(logits_gap(&got, &want, &want, -1), 5e-5);
	ck_assert_double_eq(tensors_at(&got, "loss", 0), json_number_value(json_object_get(o, "loss")));
	/* padding */
	for (int64_t i = 0; i < ROWS * LENGTH; i++)
		if (!tensors_at(&want, "attention_mask", i)) ck_assert_double_eq(tensors_at(&got, "logits", i * VOCAB), 0);
	json_decref(o);
	tensors_free(&got);
	tensors_free(&want);
}
END_TEST

START_TEST(gradients_match_the_reference)
{
	tensors got, want;
	const char *name;
	json_t *entry;
	int n = 0;
	double most = 0, gap = 0;
	ck_assert_int_eq(
		run_lora("score -m " MODEL " -a " ADAPTER " -i " ADAPTER_IO " --grad -o '%s'", in_scratch("grad.safetensors")), 0);
	tensors_read(&got, in_scratch("grad.safetensors"));
	tensors_read(&want, ADAPTER_IO);
	ck_assert_double_lt(logits_gap(&got, &want, &want, -1), 5e-5);
	json_object_foreach(want.header, name, entry)
	{
		if (strncmp(name, "grad.", 5)) continue;
		n++;
		ck_assert_msg(tensors_have(&got, name), "%s is missing", name);
		ck_assert_int_eq(tensors_count(&got, name), tensors_count(&want, name));
		for (int64_t i = 0; i < tensors_count(&want, name); i++) {
			most = fmax(most, fabs(tensors_at(&want, name, i)));
			gap = fmax(gap, fabs(tensors_at(&want, name, i) - tensors_at(&got, name, i)));
		}
	}
	ck_assert_int_eq(n, 8);
	ck_assert_double_lt(gap, 1e-4 * most);
	tensors_free(&got);
	tensors_free(&want);
}
END_TEST

START_TEST(scale_zero_is_the_base)
{
	ck_assert_int_eq(run_lora("score -m " MODEL " -i " IO " -o '%s'", in_scratch("a.safetensors")), 0);
	ck_assert_int_eq(run_lora("score -m " MODEL " -a " ADAPTER "=0 -i " IO " -o '%s'", in_scratch("b.safetensors")), 0);
	tensors a, b;
	tensors_read(&a, in_scratch("a.safetensors"));
	tensors_read(&b, in_scratch("b.safetensors"));
	for (int64_t i = 0; i < ROWS * LENGTH * VOCAB; i++)
		ck_assert_double_eq_tol(tensors_at(&a, "logits", i), tensors_at(&b, "logits", i), 1e-6);
	tensors_free(&a);
	tensors_free(&b);
}
END_TEST

/* Inputs of the reference case with adapter_rows as well, all I32. */
static void write_mixed(const char *path, const int32_t rows[ROWS])
{
	static const char *const names[] = { "input_ids", "attention_mask", "position_ids", "labels" };
	tensors in;
	int32_t values[4 * ROWS * LENGTH + ROWS];
	tensors_read(&in, IO);
	for (int k = 0; k < 4; k++)
		for (int64_t i = 0; i < ROWS * LENGTH; i++) values[k * ROWS * LENGTH + i] = (int32_t)tensors_at(&in, names[k], i);
	memcpy(values + 4 * ROWS * LENGTH, rows, sizeof(int32_t) * ROWS);
	tensors_free(&in);
	write_ids(path,
		"{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[3,19],\"data_offsets\":[0,228]},"
		"\"attention_mask\":{\"dtype\":\"I32\",\"shape\":[3,19],\"data_offsets\":[228,456]},"
		"\"position_ids\":{\"dtype\":\"I32\",\"shape\":[3,19],\"data_offsets\":[456,684]},"
		"\"labels\":{\"dtype\":\"I32\",\"shape\":[3,19],\"data_offsets\":[684,912]},"
		"\"adapter_rows\":{\"dtype\":\"I32\",\"shape\":[3],\"data_offsets\":[912,924]}}",
		values, 4 * ROWS * LENGTH + ROWS);
}

START_TEST(rows_choose_their_adapters)
{
	static const int32_t rows[ROWS] = { 1, -1, 0 };
	tensors got, base, with, twice;
	write_mixed(in_scratch("mixed.safetensors"), rows);
	ck_assert_int_eq(run_lora("score -m " MODEL " -a " ADAPTER " -a " ADAPTER "=2 -i '%s' -o '%s' --grad",
						 in_scratch("mixed.safetensors"), in_scratch("mixed-out.safetensors")),
		0);
	ck_assert_int_eq(run_lora("score -m " MODEL " -a " ADAPTER "=2 -i " IO " -o '%s'", in_scratch("twice.safetensors")), 0);
	tensors_read(&got, in_scratch("mixed-out.safetensors"));
	tensors_read(&base, IO);
	tensors_read(&with, ADAPTER_IO);
	tensors_read(&twice, in_scratch("twice.safetensors"));
	ck_assert_double_lt(logits_gap(&got, &twice, &base, 0), 5e-5);
	ck_assert_double_lt(logits_gap(&got, &base, &base, 1), 5e-5);
	ck_assert(tensors_have(&got, "grad.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"));
	ck_assert(tensors_have(&got, "grad.1.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"));
	tensors_free(&got);
	tensors_free(&base);
	tensors_free(&with);
	tensors_free(&twice);
	static const int32_t wrong[ROWS] = { 0, 2, 0 };
	write_mixed(in_scratch("mixed.safetensors"), wrong);
	expect_error(run_lora("score -m " MODEL " -a " ADAPTER " -i '%s' -o '%s'", in_scratch("mixed.safetensors"),
					 in_scratch("never.safetensors")),
		1, "adapter_rows");
	ck_assert(!exists(in_scratch("never.safetensors")));
}
END_TEST

START_TEST(bad_inputs_are_told)
{
	static const struct {
		const char *header, *text;
	} cases[] = {
		{ "{\"ids\":{\"dtype\":\"I32\",\"shape\":[1,4],\"data_offsets\":[0,16]}}", "input_ids" },
		{ "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "input_ids" },
		{ "{\"input_ids\":{\"dtype\":\"F32\",\"shape\":[1,4],\"data_offsets\":[0,16]}}", "F32" },
		{ "{\"input_ids\":{\"dtype\":\"I64\",\"shape\":[1,2],\"data_offsets\":[0,16]}}", "out of range" },
		{ "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[1,4],\"data_offsets\":[0,20]}}", "input_ids" },
		{ "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[1,2],\"data_offsets\":[0,8]},\"labels\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
			"labels" },
	};
	static const int32_t values[4] = { 1, 7, 5, 9 };
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		write_ids(in_scratch("bad.safetensors"), cases[i].header, values, 4);
		expect_error(
			run_lora("score -m " MODEL " -i '%s' -o '%s'", in_scratch("bad.safetensors"), in_scratch("never.safetensors")), 1,
			cases[i].text);
	}
	static const int32_t beyond[4] = { 1, 7, 131, 9 };
	write_ids(
		in_scratch("bad.safetensors"), "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[1,4],\"data_offsets\":[0,16]}}", beyond, 4);
	expect_error(
		run_lora("score -m " MODEL " -i '%s' -o '%s'", in_scratch("bad.safetensors"), in_scratch("never.safetensors")), 1, "131");
	ck_assert(!exists(in_scratch("never.safetensors")));
	/* nowhere to write */
	expect_error(run_lora("score -m " MODEL " -i " IO " -o '%s/none/out.safetensors'", scratch), 1, "none/out.safetensors");
}
END_TEST

START_TEST(eval_is_the_loss_of_score)
{
	ck_assert_int_eq(run_lora("eval --json -m " MODEL " -a " ADAPTER " -d " ADAPTER_IO), 0);
	json_t *o = out_json(0);
	double loss = json_number_value(json_object_get(o, "loss"));
	ck_assert_double_eq_tol(loss, 7.80549, 2e-5);
	ck_assert_double_eq_tol(json_number_value(json_object_get(o, "perplexity")), exp(loss), 1e-9 * exp(loss));
	ck_assert_int_gt(json_integer_value(json_object_get(o, "tokens")), 0);
	json_decref(o);
	write_text(in_scratch("text.txt"), "the end of it is the start of the rest, and then it is the end again and so on.\n");
	ck_assert_int_eq(run_lora("eval --json -m " MODEL " -d '%s' -s sequence_length=16", in_scratch("text.txt")), 0);
	o = out_json(0);
	ck_assert_double_gt(json_number_value(json_object_get(o, "loss")), 1);
	json_decref(o);
	expect_error(run_lora("eval -m " MODEL " -d '%s' -s sequence_lenght=16", in_scratch("text.txt")), 2, "sequence_length");
	write_text(in_scratch("bad.jsonl"), "{\"text\":\"the end\"}\n\n{\"text\": 5}\n");
	expect_error(run_lora("eval -m " MODEL " -d '%s'", in_scratch("bad.jsonl")), 1, "line 3");
	write_text(in_scratch("bad.jsonl"), "{\"text\":\"the end\"}\n{\"text\"\n");
	expect_error(run_lora("eval -m " MODEL " -d '%s'", in_scratch("bad.jsonl")), 1, "line 2");
	write_text(in_scratch("bad.jsonl"), "{\"messages\":[]}\n");
	expect_error(run_lora("eval -m " MODEL " -d '%s'", in_scratch("bad.jsonl")), 1, "messages");
}
END_TEST

START_TEST(only_completions_count)
{
	/* three tokens of completion and the end of sequence */
	write_text(
		in_scratch("pairs.jsonl"), "{\"prompt\":\"abc\",\"completion\":\"xyz\"}\n{\"prompt\":\"b\",\"completion\":\"q\"}\n");
	ck_assert_int_eq(run_lora("eval --json -m " MODEL " -d '%s'", in_scratch("pairs.jsonl")), 0);
	json_t *o = out_json(0);
	ck_assert_int_eq(json_integer_value(json_object_get(o, "tokens")), 4 + 2);
	json_decref(o);
	ck_assert_int_eq(run_lora("eval --json -m " MODEL " -d '%s' -s loss_on=all", in_scratch("pairs.jsonl")), 0);
	o = out_json(0);
	ck_assert_int_eq(json_integer_value(json_object_get(o, "tokens")), 7 + 3);
	json_decref(o);
}
END_TEST

START_TEST(merge_is_the_adapter)
{
	tensors a, b;
	ck_assert_int_eq(run_lora("merge -m " MODEL " -a " ADAPTER " -o '%s'", in_scratch("merged")), 0);
	ck_assert(exists(in_scratch("merged/tokenizer.json")) && exists(in_scratch("merged/config.json")));
	ck_assert_int_eq(run_lora("score -m '%s' -i " IO " -o '%s'", in_scratch("merged"), in_scratch("merged.safetensors")), 0);
	tensors_read(&a, in_scratch("merged.safetensors"));
	tensors_read(&b, ADAPTER_IO);
	ck_assert_double_lt(logits_gap(&a, &b, &b, -1), 5e-5);
	tensors_free(&a);
	tensors_free(&b);
	/* a model is replaced, another thing is not */
	ck_assert_int_eq(run_lora("merge --json --dtype-out bf16 -m " MODEL " -a " ADAPTER "=0.5 -o '%s'", in_scratch("merged")), 0);
	ck_assert_int_eq(run_lora("info --json '%s'", in_scratch("merged")), 0);
	ck_assert_ptr_nonnull(strstr(run_out, "\"dtype\":\"BF16\""));
	ck_assert_int_eq(run_shell("mkdir -p '%s' && echo mine >'%s'", in_scratch("foreign"), in_scratch("foreign/notes")), 0);
	expect_error(run_lora("merge -m " MODEL " -a " ADAPTER " -o '%s'", in_scratch("foreign")), 1, "--force");
	ck_assert(exists(in_scratch("foreign/notes")) && files_in(in_scratch("foreign")) == 1);
	ck_assert_int_eq(run_lora("merge --force -m " MODEL " -a " ADAPTER " -o '%s'", in_scratch("foreign")), 0);
	ck_assert(!exists(in_scratch("foreign/notes")) && exists(in_scratch("foreign/config.json")));
}
END_TEST

Suite *suite_score(void)
{
	Suite *s = suite_create("cli score");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 60);
	tcase_add_test(t, score_matches_the_reference);
	tcase_add_test(t, gradients_match_the_reference);
	tcase_add_test(t, scale_zero_is_the_base);
	tcase_add_test(t, rows_choose_their_adapters);
	tcase_add_test(t, bad_inputs_are_told);
	tcase_add_test(t, eval_is_the_loss_of_score);
	tcase_add_test(t, only_completions_count);
	tcase_add_test(t, merge_is_the_adapter);
	suite_add_tcase(s, t);
	return s;
}
