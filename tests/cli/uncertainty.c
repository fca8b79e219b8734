/* posterior, and eval's ensembles, MC dropout, temperature and answer tokens; reliability diagrams. Numbers are held against dense computation in test_posterior. */
#include "cli/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BERT GOLDEN "models/bert/model"
#define HEADED GOLDEN "peft/lora-modules-to-save-bert/adapter"
#define DEMO "examples/demo/model"

static double number_at(const char *part, const char *key)
{
	json_t *o = out_json(out_lines() - 1), *in = part ? json_object_get(o, part) : o, *v = json_object_get(in, key);
	ck_assert_msg(json_is_number(v), "no number %s of %s", key, part ? part : "the line");
	double x = json_number_value(v);
	json_decref(o);
	return x;
}

/* [2,6,5] tokens with [2,6] labels; one row without a label. */
static const char *labelled(const char *name)
{
	int32_t v[72];
	for (int i = 0; i < 60; i++) v[i] = (i * 37 + i / 7 * 5) % 131;
	for (int i = 0; i < 12; i++) v[60 + i] = i == 3 ? -100 : i * i % 3;
	write_ids(in_scratch(name), "{\"input_ids\":{\"dtype\":\"I32\",\"shape\":[2,6,5],\"data_offsets\":[0,240]},\"labels\":{\"dtype\":\"I32\",\"shape\":[2,6],\"data_offsets\":[240,288]}}",
		v, 72);
	static char path[600];
	snprintf(path, sizeof path, "%s", in_scratch(name));
	return path;
}

START_TEST(fit_and_predict)
{
	const char *data = labelled("d.safetensors");
	ck_assert_int_eq(run_lora("posterior fit -m " BERT " -a " HEADED " -d '%s' --dry-run --json", data), 0);
	ck_assert_double_gt(number_at("memory", "peak"), 0);
	ck_assert_int_eq(run_lora("posterior fit -m " BERT " -a " HEADED " -d '%s' -o '%s' --json --quiet", data, in_scratch("posterior")), 0);
	ck_assert(number_at(NULL, "examples") == 11 && number_at(NULL, "classes") == 3 && number_at(NULL, "prior_precision") > 0 && number_at("memory", "factors") > 0);
	double evidence = number_at(NULL, "log_evidence");
	ck_assert_int_eq(run_lora("eval -m " BERT " -a " HEADED " -d '%s' --json --quiet", data), 0);
	double accuracy = number_at(NULL, "accuracy"), nll = number_at(NULL, "nll"), ece = number_at(NULL, "ece"), brier = number_at(NULL, "brier");
	ck_assert_double_eq(nll, number_at(NULL, "loss"));
	ck_assert_int_eq(run_lora("posterior predict -m " BERT " -a " HEADED " -p '%s' -d '%s' -o '%s' --json --quiet", in_scratch("posterior"), data, in_scratch("out.st")), 0);
	ck_assert(number_at(NULL, "rows") == 11 && number_at("map", "accuracy") == accuracy);
	ck_assert_double_eq_tol(number_at("map", "nll"), nll, 1e-6);
	ck_assert_double_eq_tol(number_at("map", "ece"), ece, 1e-6);
	ck_assert_double_eq_tol(number_at("map", "brier"), brier, 1e-6);
	double first = number_at("laplace", "nll");
	ck_assert(number_at("laplace", "accuracy") >= 0 && number_at("laplace", "entropy") > number_at("map", "entropy"));
	tensors t;
	tensors_read(&t, in_scratch("out.st"));
	ck_assert(tensors_count(&t, "probabilities") == 36 && tensors_count(&t, "covariance") == 108 && tensors_count(&t, "labels") == 12 && tensors_have(&t, "map_probabilities"));
	tensors_free(&t);
	/* the same again, and with a prior of no width: MAP */
	ck_assert_int_eq(run_lora("posterior predict -m " BERT " -a " HEADED " -p '%s' -d '%s' --json --quiet", in_scratch("posterior"), data), 0);
	ck_assert_double_eq_tol(number_at("laplace", "nll"), first, 0.02); /* two directions in place of three: other draws */
	ck_assert_int_eq(run_lora("posterior predict -m " BERT " -a " HEADED " -p '%s' -d '%s' --json --quiet -s prior_precision=1e20 -s form=probit", in_scratch("posterior"), data), 0);
	ck_assert_double_eq_tol(number_at("laplace", "nll"), nll, 1e-6);
	/* in other batches, held-out data for the prior, the head alone, and as a person reads it */
	ck_assert_int_eq(run_lora("posterior fit -m " BERT " -a " HEADED " -d '%s' -o '%s' --validation '%s' -s layers=last -s fisher=sampled --seed 4 --json --quiet", data, in_scratch("posterior2"), data), 0);
	ck_assert(number_at(NULL, "matrices") == 1 && number_at(NULL, "log_evidence") != evidence);
	ck_assert_int_eq(run_lora("posterior predict -m " BERT " -a " HEADED " -p '%s' -d '%s' --quiet", in_scratch("posterior2"), data), 0);
	ck_assert(strstr(run_out, "Laplace") && strstr(run_out, "MAP") && strstr(run_out, "11 rows"));
	/* a picture of it */
	ck_assert_int_eq(run_shell("'%s' posterior predict -m " BERT " -a " HEADED " -p '%s' -d '%s' --json --quiet >'%s'", lora_program(), in_scratch("posterior"), data, in_scratch("log.jsonl")), 0);
	ck_assert_int_eq(run_lora("plot '%s' -o '%s'", in_scratch("log.jsonl"), in_scratch("r.svg")), 0);
	char *svg = read_text(in_scratch("r.svg"), NULL);
	ck_assert(!strncmp(svg, "<svg ", 5) && strstr(svg, "</svg>") && strstr(svg, "laplace") && strstr(svg, "ECE") && !strstr(svg, "nan"));
	free(svg);
	ck_assert_int_eq(run_lora("plot '%s' --json", in_scratch("log.jsonl")), 0);
	ck_assert_int_eq(out_lines(), 2);
	ck_assert_double_eq(number_at(NULL, "rows"), 11);
	ck_assert_int_eq(run_lora("plot '%s'", in_scratch("log.jsonl")), 0);
	ck_assert_ptr_nonnull(strstr(run_out, "confidence"));
	/* several of one name, and not beside curves, in either order */
	ck_assert_int_eq(run_lora("plot '%s' '%s'", in_scratch("log.jsonl"), in_scratch("log.jsonl")), 0);
	ck_assert_ptr_nonnull(strstr(run_out, ": laplace (2)"));
	write_text(in_scratch("steps.jsonl"), "{\"step\":1,\"loss\":2}\n");
	for (int i = 0; i < 2; i++)
		expect_error(run_lora("plot '%s' '%s' -o '%s'", in_scratch(i ? "log.jsonl" : "steps.jsonl"), in_scratch(i ? "steps.jsonl" : "log.jsonl"), in_scratch("b.svg")), 1, "one picture");
	expect_error(run_lora("plot '%s' -o '%s'", in_scratch("log.jsonl"), in_scratch("b.png")), 2, ".svg");
}
END_TEST

START_TEST(bad_posteriors)
{
	const char *data = labelled("d.safetensors");
	ck_assert_int_eq(run_lora("posterior fit -m " BERT " -a " HEADED " -d '%s' -o '%s' --quiet", data, in_scratch("posterior")), 0);
	expect_error(run_lora("posterior predict -m " BERT " -a " HEADED " -p '%s' -d '%s' --quiet", data, data), 1, "no posterior");
	expect_error(run_lora("posterior fit -m " BERT " -a " HEADED " -d '%s' -o '%s' -s prior=validation", data, in_scratch("q")), 2, "--validation");
	run_shell("head -c 700 '%s' >'%s'", in_scratch("posterior"), in_scratch("cut"));
	expect_error(run_lora("posterior predict -m " BERT " -a " HEADED " -p '%s' -d '%s' --quiet", in_scratch("cut"), data), 1, "cut");
	run_shell("cp '%s' '%s'; printf x | dd of='%s' bs=1 seek=9000 conv=notrunc 2>/dev/null", in_scratch("posterior"), in_scratch("flip"), in_scratch("flip"));
	expect_error(run_lora("posterior predict -m " BERT " -a " HEADED " -p '%s' -d '%s' --quiet", in_scratch("flip"), data), 1, "digest");
	expect_error(run_lora("posterior predict -m " BERT " -a " HEADED "=0.5 -p '%s' -d '%s' --quiet", in_scratch("posterior"), data), 1, "scale");
	ck_assert_int_eq(run_lora("train -m " BERT " --init " HEADED " -d '%s' -o '%s' -s max_steps=1 --quiet", data, in_scratch("other")), 0);
	expect_error(run_lora("posterior predict -m " BERT " -a '%s' -p '%s' -d '%s' --quiet", in_scratch("other"), in_scratch("posterior"), data), 1, "another adapter");
	run_shell("cp -r " BERT " '%s'; printf xyz | dd of='%s' bs=1 seek=60000 conv=notrunc 2>/dev/null", in_scratch("base"), in_scratch("base/model.safetensors"));
	expect_error(run_lora("posterior predict -m '%s' -a " HEADED " -p '%s' -d '%s' --quiet", in_scratch("base"), in_scratch("posterior"), data), 1, "another base");
	expect_error(run_lora("posterior predict -m " BERT " -a " HEADED " -d '%s'", data), 2, "-p");
	expect_error(run_lora("posterior predict -m " BERT " -a " HEADED " -p '%s' -d '%s' --quiet", in_scratch("nowhere"), data), 1, "nowhere");
	expect_error(run_lora("posterior fit -m " BERT " -a " HEADED " -d '%s'", data), 2, "-o");
	expect_error(run_lora("posterior fit -m " BERT " -a " HEADED " -d '%s' -o '%s'", data, in_scratch(".")), 1, "directory");
	expect_error(run_lora("posterior fit -m " BERT " -d '%s' -o x", data), 2, "one adapter");
	expect_error(run_lora("posterior fit -m " BERT " -a " HEADED " -o x"), 2, "data");
	expect_error(run_lora("posterior fir -m " BERT " -a " HEADED), 2, "fit");
	expect_error(run_lora("posterior fit -m " BERT " -a " HEADED " -d '%s' -o '%s' -s fishr=exact --quiet", data, in_scratch("q")), 1, "fisher");
	expect_error(run_lora("posterior fit -m " BERT " -a " HEADED " -d '%s' -o '%s' -s factor=lowrang --quiet", data, in_scratch("q")), 1, "lowrank");
	expect_error(run_lora("posterior fit -m " MODEL " -a " ADAPTER " -d " IO " -o '%s' --quiet", in_scratch("q")), 1, "");
	ck_assert(!exists(in_scratch("q")));
}
END_TEST

START_TEST(averages)
{
	const char *data = labelled("d.safetensors");
	ck_assert_int_eq(run_lora("eval -m " BERT " -a " HEADED " -d '%s' --json --quiet", data), 0);
	double nll = number_at(NULL, "nll"), brier = number_at(NULL, "brier"), accuracy = number_at(NULL, "accuracy");
	/* twins are one */
	ck_assert_int_eq(run_lora("eval -m " BERT " -a " HEADED " -a " HEADED " --ensemble -d '%s' --json --quiet", data), 0);
	ck_assert_double_eq_tol(number_at(NULL, "nll"), nll, 1e-6);
	ck_assert_double_eq_tol(number_at(NULL, "disagreement"), 0, 1e-9);
	ck_assert(number_at(NULL, "members") == 2);
	/* others are better together than on average (Jensen) */
	for (int k = 0; k < 2; k++)
		ck_assert_int_eq(run_lora("train -m " BERT " --init " HEADED " -d '%s' -o '%s' -s max_steps=8 -s learning_rate=0.05 --seed %d --quiet --force", data,
			in_scratch(k ? "m1" : "m0"), k), 0);
	ck_assert_int_eq(run_lora("eval -m " BERT " -a '%s' -a " HEADED " --ensemble -d '%s' --json --quiet", in_scratch("m0"), data), 0);
	json_t *o = out_json(0), *each = json_object_get(o, "each");
	double a = json_number_value(json_object_get(json_array_get(each, 0), "nll")), b = json_number_value(json_object_get(json_array_get(each, 1), "nll"));
	double c = json_number_value(json_object_get(json_array_get(each, 0), "brier")), d = json_number_value(json_object_get(json_array_get(each, 1), "brier"));
	json_decref(o);
	ck_assert_double_eq_tol(b, nll, 1e-6);
	ck_assert(number_at(NULL, "nll") <= (a + b) / 2 && number_at(NULL, "brier") <= (c + d) / 2 && number_at(NULL, "disagreement") > 0);
	/* temperature: 1 changes nothing, the fitted one is no worse where it was fitted, the answers stay */
	ck_assert_int_eq(run_lora("eval -m " BERT " -a " HEADED " --temperature 1 -d '%s' --json --quiet", data), 0);
	ck_assert_double_eq_tol(number_at(NULL, "brier"), brier, 1e-9);
	ck_assert_int_eq(run_lora("eval -m " BERT " -a " HEADED " --temperature 'fit:%s' -d '%s' --json --quiet", data, data), 0);
	ck_assert(number_at(NULL, "nll") < nll && number_at(NULL, "accuracy") == accuracy && number_at(NULL, "temperature") > 0);
	/* dropout: needs one; the same seed the same numbers; many passes near the plain ones */
	expect_error(run_lora("eval -m " BERT " -a " HEADED " --mc-dropout 3 -d '%s' --quiet", data), 1, "lora_dropout");
	run_shell("sed -i 's/\"lora_dropout\": *[0-9.]*/\"lora_dropout\": 0.3/' '%s'", in_scratch("m0/adapter_config.json"));
	ck_assert_int_eq(run_lora("eval -m " BERT " -a '%s' --mc-dropout 5 -d '%s' --json --quiet", in_scratch("m0"), data), 0);
	double dropped = number_at(NULL, "nll");
	ck_assert(number_at(NULL, "members") == 5 && number_at(NULL, "disagreement") > 0 && fabs(dropped - a) > 1e-9);
	ck_assert_int_eq(run_lora("eval -m " BERT " -a '%s' --mc-dropout 5 -d '%s' --json --quiet", in_scratch("m0"), data), 0);
	ck_assert_double_eq(number_at(NULL, "nll"), dropped);
	ck_assert_int_eq(run_lora("eval -m " BERT " -a '%s' --mc-dropout 5 --seed 9 -d '%s' --json --quiet", in_scratch("m0"), data), 0);
	ck_assert_double_ne(number_at(NULL, "nll"), dropped);
	expect_error(run_lora("eval -m " BERT " --ensemble -d '%s' --quiet", data), 2, "adapters");
	expect_error(run_lora("eval -m " BERT " -a " HEADED " --ensemble --mc-dropout 2 -d '%s' --quiet", data), 2, "--mc-dropout");
	expect_error(run_lora("eval -m " BERT " -a " HEADED " --temperature 0 -d '%s' --quiet", data), 2, "--temperature");
	expect_error(run_lora("eval -m " BERT " -a " HEADED " --temperature warm -d '%s' --quiet", data), 2, "warm");
	expect_error(run_lora("generate -m " DEMO " -p x --temperature fit:x"), 2, "not a number");
	expect_error(run_lora("eval -m " DEMO " --temperature 2 -d examples/demo/pirate.txt --quiet"), 2, "classes");
}
END_TEST

/* Answers of one token of a causal model. */
START_TEST(answer_tokens)
{
	char text[2000] = "";
	for (int i = 0; i < 12; i++) snprintf(text + strlen(text), sizeof text - strlen(text), "{\"prompt\":\"Is %d right?\",\"completion\":\"%s\"}\n", i * 7, i % 3 ? " no" : " yes");
	write_text(in_scratch("qa.jsonl"), text);
	ck_assert_int_eq(run_lora("tokenize -m " DEMO " -t ' no' --no-special --json"), 0);
	json_t *o = out_json(0);
	int no = (int)json_integer_value(json_array_get(json_object_get(o, "tokens"), 0));
	json_decref(o);
	ck_assert_int_eq(run_lora("tokenize -m " DEMO " -t ' yes' --no-special --json"), 0);
	o = out_json(0);
	int yes = (int)json_integer_value(json_array_get(json_object_get(o, "tokens"), 0));
	json_decref(o);
	ck_assert_int_eq(run_lora("train -m " DEMO " -d '%s' -o '%s' -s max_steps=6 -s learning_rate=0.01 --quiet", in_scratch("qa.jsonl"), in_scratch("qa")), 0);
	ck_assert_int_eq(run_lora("eval -m " DEMO " -a '%s' -d '%s' -s 'classes=[%d,%d]' --json --quiet", in_scratch("qa"), in_scratch("qa.jsonl"), no, yes), 0);
	double accuracy = number_at(NULL, "accuracy"), nll = number_at(NULL, "nll");
	ck_assert(number_at(NULL, "tokens") == 12 && nll > 0);
	ck_assert_int_eq(run_lora("posterior fit -m " DEMO " -a '%s' -d '%s' -o '%s' -s 'classes=[%d,%d]' --json --quiet", in_scratch("qa"), in_scratch("qa.jsonl"), in_scratch("qap"), no, yes), 0);
	ck_assert(number_at(NULL, "examples") == 12);
	ck_assert_double_eq_tol(number_at(NULL, "log_likelihood"), -12 * nll, 1e-3 * nll);
	ck_assert_int_eq(run_lora("posterior predict -m " DEMO " -a '%s' -p '%s' -d '%s' --json --quiet", in_scratch("qa"), in_scratch("qap"), in_scratch("qa.jsonl")), 0);
	ck_assert(number_at("map", "accuracy") == accuracy);
	ck_assert_double_eq_tol(number_at("map", "nll"), nll, 1e-4);
	/* as texts, when each is one token; refused by name when not */
	int status = run_lora("eval -m " DEMO " -a '%s' -d '%s' -s 'classes=[\" no\",\" yes\"]' --json --quiet", in_scratch("qa"), in_scratch("qa.jsonl"));
	if (status) expect_error(status, 2, "tokens");
	else ck_assert_double_eq(number_at(NULL, "nll"), nll);
	expect_error(run_lora("eval -m " DEMO " -d '%s' -s 'classes=[%d]' --quiet", in_scratch("qa.jsonl"), no), 2, "two tokens");
	expect_error(run_lora("eval -m " DEMO " -d '%s' -s 'classes=[%d,%d]' --quiet", in_scratch("qa.jsonl"), no, no), 2, "two classes");
	expect_error(run_lora("eval -m " DEMO " -d '%s' -s 'classes=[%d,99999999]' --quiet", in_scratch("qa.jsonl"), no), 2, "classes");
	expect_error(run_lora("eval -m " DEMO " -d '%s' -s 'classes=[1,2]' --quiet", in_scratch("qa.jsonl")), 1, "not among the classes");
	expect_error(run_lora("eval -m " BERT " -a " HEADED " -d '%s' -s 'classes=[1,2]' --quiet", labelled("d.safetensors")), 2, "classifier");
	expect_error(run_lora("posterior fit -m " DEMO " -a '%s' -d '%s' -o '%s' --quiet", in_scratch("qa"), in_scratch("qa.jsonl"), in_scratch("x")), 1, "classes");
}
END_TEST

START_TEST(diagrams)
{
	write_text(in_scratch("a.jsonl"), "{\"bins\":[{\"low\":0.5,\"high\":0.6,\"count\":3,\"accuracy\":0.3,\"confidence\":0.55}]}\n");
	write_text(in_scratch("s.jsonl"), "{\"step\":1,\"loss\":2.5}\n");
	ck_assert_int_eq(run_lora("plot '%s' '%s' -o '%s'", in_scratch("a.jsonl"), in_scratch("a.jsonl"), in_scratch("r.svg")), 0);
	ck_assert_int_eq(run_lora("plot '%s' --json", in_scratch("a.jsonl")), 0);
	ck_assert_double_eq_tol(number_at(NULL, "ece"), 0.25, 1e-12);
	expect_error(run_lora("plot '%s' '%s'", in_scratch("a.jsonl"), in_scratch("s.jsonl")), 1, "one picture");
	static const char *const bad[] = { "{\"bins\":[{\"low\":0.5,\"high\":0.6,\"count\":3,\"accuracy\":1.3,\"confidence\":0.55}]}\n", "{\"bins\":[7]}\n",
		"{\"bins\":[{\"low\":0.7,\"high\":0.6,\"count\":3,\"accuracy\":0.3,\"confidence\":0.55}]}\n", "{\"bins\":[{\"low\":0.5,\"high\":0.6,\"count\":-3,\"accuracy\":0.3,\"confidence\":0.55}]}\n" };
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		write_text(in_scratch("bad.jsonl"), bad[i]);
		expect_error(run_lora("plot '%s'", in_scratch("bad.jsonl")), 1, "bin 1");
	}
}
END_TEST

Suite *suite_uncertainty(void)
{
	Suite *s = suite_create("uncertainty");
	TCase *c = tcase_create("uncertainty");
	tcase_set_timeout(c, 60);
	tcase_add_test(c, fit_and_predict);
	tcase_add_test(c, bad_posteriors);
	tcase_add_test(c, averages);
	tcase_add_test(c, answer_tokens);
	tcase_add_test(c, diagrams);
	suite_add_tcase(s, c);
	return s;
}
