/* Virtual tokens from the command line: train, look at, score, generate with; what is refused. */
#include "cli/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[] = { "prefix_tuning", "prompt_tuning" };
static const char *const golden[] = { GOLDEN "peft/prefix-tuning", GOLDEN "peft/prompt-tuning" };

/* PEFT's file: loss and gradients as PEFT has them. */
START_TEST(scored)
{
	tensors t, want;
	double worst = 0, top = 0;
	char io[200];
	snprintf(io, sizeof io, "%s/io.safetensors", golden[_i]);
	ck_assert_int_eq(run_lora("score --json -m " MODEL " -a %s/adapter -i %s -o '%s' --grad", golden[_i], io, in_scratch("v.safetensors")), 0);
	tensors_read(&t, in_scratch("v.safetensors"));
	tensors_read(&want, io);
	int64_t n = tensors_count(&t, "grad.prompt_embeddings");
	ck_assert_int_eq(n, tensors_count(&want, "grad.prompt_embeddings"));
	for (int64_t i = 0; i < n; i++) {
		double w = tensors_at(&want, "grad.prompt_embeddings", i);
		worst = fmax(worst, fabs(tensors_at(&t, "grad.prompt_embeddings", i) - w)), top = fmax(top, fabs(w));
	}
	ck_assert_double_le(worst, 1e-4 * top);
	tensors_free(&t);
	tensors_free(&want);
}
END_TEST

START_TEST(trained)
{
	ck_assert_int_eq(run_lora("train --json -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' -s method=%s -s num_virtual_tokens=3 -s max_steps=4 -s learning_rate=0.05",
		in_scratch("v"), kinds[_i]), 0);
	json_t *last = out_json(3);
	ck_assert_int_eq(json_integer_value(json_object_get(last, "step")), 4);
	json_decref(last);
	ck_assert_int_eq(run_lora("info --json '%s'", in_scratch("v")), 0);
	json_t *o = out_json(0);
	ck_assert_str_eq(json_string_value(json_object_get(o, "method")), kinds[_i]);
	json_decref(o);
	ck_assert_int_eq(run_lora("generate --json -m " MODEL " -a '%s' --tokens 5,6,7 -n 6", in_scratch("v")), 0);
	o = out_json(0);
	ck_assert_uint_eq(json_array_size(json_object_get(o, "tokens")), 6);
	json_decref(o);
	expect_error(run_lora("merge -m " MODEL " -a '%s' -o '%s'", in_scratch("v"), in_scratch("w")), 1, "cannot be merged");
	expect_error(run_lora("generate -m " MODEL " -a '%s=0.5' --tokens 5 -n 1", in_scratch("v")), 1, "scale");
	expect_error(run_lora("score -m " GOLDEN "models/bert/model -a '%s' -i " IO " -o '%s'", in_scratch("v"), in_scratch("x")), 1, "is not supported on bert");
	expect_error(run_lora("combine -a '%s=1' -a '%s=1' --type linear -o '%s'", in_scratch("v"), in_scratch("v"), in_scratch("w")), 1, kinds[_i]);
	ck_assert(!exists(in_scratch("w")));
}
END_TEST

Suite *suite_virtual(void)
{
	Suite *s = suite_create("virtual tokens");
	TCase *t = tcase_create("cli");
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, scored, 0, 2);
	tcase_add_loop_test(t, trained, 0, 2);
	suite_add_tcase(s, t);
	return s;
}
