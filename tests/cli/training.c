/* train: losses against the reference, settings, Ctrl-C and --resume to the same bits, the output directory. */
#include "cli/run.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The settings of the reference run: AdamW, constant rate, no clipping. */
#define REFERENCE "-s learning_rate=0.01 -s weight_decay=0.01 -s lr_scheduler_type=constant -s max_grad_norm=0"

START_TEST(losses_match_the_reference)
{
	json_t *want = json_load_file(TRAINING "/case.json", 0, NULL), *losses = json_object_get(want, "loss"),
		   *norms = json_object_get(want, "grad_norm");
	ck_assert_int_eq(run_lora("train --json -q -m " MODEL " --init " TRAINING "/adapter-initial -d " TRAINING
							  "/data.safetensors -o '%s' " REFERENCE,
						 in_scratch("reference")),
		0);
	ck_assert_int_eq(out_lines(), 21);
	for (int i = 0; i < 20; i++) {
		json_t *o = out_json(i);
		ck_assert_int_eq(json_integer_value(json_object_get(o, "step")), i + 1);
		ck_assert_double_eq_tol(
			json_number_value(json_object_get(o, "loss")), json_number_value(json_array_get(losses, (size_t)i)), 5e-5);
		ck_assert_double_eq_tol(
			json_number_value(json_object_get(o, "grad_norm")), json_number_value(json_array_get(norms, (size_t)i)), 5e-4);
		ck_assert_double_eq_tol(json_number_value(json_object_get(o, "lr")), 0.01, 1e-12);
		ck_assert_double_gt(json_number_value(json_object_get(o, "tokens_per_second")), 0);
		json_decref(o);
	}
	json_t *o = out_json(20);
	ck_assert(json_is_true(json_object_get(o, "done")));
	ck_assert_int_eq(json_integer_value(json_object_get(o, "steps")), 20);
	ck_assert_int_eq(json_integer_value(json_object_get(o, "tokens")), 20 * 2 * 14);
	ck_assert_int_gt(json_integer_value(json_object_get(o, "peak_memory_bytes")), 0);
	json_decref(o);
	json_decref(want);
	ck_assert(exists(in_scratch("reference/adapter_config.json")) && exists(in_scratch("reference/adapter_model.safetensors")));
	ck_assert(exists(in_scratch("reference/checkpoint")) && exists(in_scratch("reference/log.jsonl")));
	/* what was written is an adapter that scores */
	ck_assert_int_eq(run_lora("score -q -m " MODEL " -a '%s' -i " IO, in_scratch("reference")), 0);
}
END_TEST

START_TEST(settings_are_checked)
{
	static const struct {
		const char *settings;
		int status;
		const char *text;
	} cases[] = {
		{ "-s lerning_rate=1", 2, "learning_rate" },
		{ "-s method=lroa", 2, "lora" },
		{ "-s optimizer=adamx", 2, "optimizer" },
		{ "-s lr_scheduler_type=cosin", 2, "cosine" },
		{ "-s r=0", 2, "r" },
		{ "-s r=many", 2, "r" },
		{ "-s learning_rate=-1", 2, "learning_rate" },
		{ "-s max_steps=0", 2, "max_steps" },
		{ "-s max_steps=1.5", 2, "max_steps" },
		{ "-s num_train_epochs=0", 2, "num_train_epochs" },
		{ "-s batch_size=0", 2, "batch_size" },
		{ "-s sequence_length=4000", 2, "sequence_length" },
		{ "-s packing=maybe", 2, "packing" },
		{ "-s loss_on=prompt", 2, "loss_on" },
		{ "-s eval_steps=2", 2, "validation" },
		{ "-s target_modules=nothing_like_it", 1, "nothing_like_it" },
		{ "-c /nonexistent.json", 1, "/nonexistent.json" },
		{ "--init " TRAINING "/adapter-initial -s r=77", 2, "r" },
		{ "--resume", 1, "nothing to resume" },
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		expect_error(run_lora("train --json -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' %s", in_scratch("unmade"),
						 cases[i].settings),
			cases[i].status, cases[i].text);
		ck_assert_msg(!exists(in_scratch("unmade")), "%s left an output", cases[i].settings);
	}
}
END_TEST

START_TEST(settings_come_from_config_and_line)
{
	write_text(in_scratch("config.json"),
		"{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 6, \"target_modules\": [\"q_proj\"], \"base_model_name_or_path\": \"x\","
		" \"peft_version\": \"0.21.2\", \"auto_mapping\": null, \"use_dora\": false, \"bias\": \"none\"}");
	ck_assert_int_eq(run_lora("train -q -m " MODEL " -d " TRAINING
							  "/data.safetensors -o '%s' -c '%s' -s r=5 -s target_modules=k_proj,v_proj -s max_steps=2",
						 in_scratch("config-run"), in_scratch("config.json")),
		0);
	json_t *o = json_load_file(in_scratch("config-run/adapter_config.json"), 0, NULL);
	ck_assert_int_eq(json_integer_value(json_object_get(o, "r")), 5);
	ck_assert_double_eq(json_number_value(json_object_get(o, "lora_alpha")), 6);
	ck_assert_uint_eq(json_array_size(json_object_get(o, "target_modules")), 2);
	ck_assert_str_eq(json_string_value(json_object_get(o, "base_model_name_or_path")), MODEL); /* of this run, not of the file */
	json_decref(o);
	/* what PEFT itself writes, with keys that nobody here has heard of */
	json_t *peft = json_load_file(ADAPTER "/adapter_config.json", 0, NULL);
	json_object_set_new(peft, "a_key_of_tomorrow", json_integer(3));
	json_dump_file(peft, in_scratch("config.json"), 0);
	json_decref(peft);
	ck_assert_int_eq(run_lora("train -m " MODEL " -d " TRAINING
							  "/data.safetensors -o '%s' -c '%s' -s max_steps=1 -s lr_scheduler_type=constant",
						 in_scratch("config-run2"), in_scratch("config.json")),
		0);
	ck_assert(strstr(run_err, "a_key_of_tomorrow") && !strstr(run_err, "qalora"));
	ck_assert_int_eq(run_lora("train -q -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' --resume -s max_steps=2",
						 in_scratch("config-run2")),
		0);
}
END_TEST

static void write_story(const char *path)
{
	char line[128];
	FILE *f = fopen(path, "wb");
	for (int i = 0; i < 23; i++) {
		snprintf(line, sizeof line, "{\"prompt\":\"the %d\",\"completion\":\" end of it is %d\"}\n", i, i * 7 % 10);
		fputs(line, f);
	}
	fclose(f);
}

#define LONG_RUN                                                                                                                 \
	"-s batch_size=3 -s gradient_accumulation_steps=2 -s learning_rate=0.01 -s lora_dropout=0.1 -s warmup_steps=3 -s max_steps=120 -s seed=7"

static void compare_runs(const char *a, const char *b, int steps)
{
	char x[700], y[700];
	snprintf(x, sizeof x, "%s/adapter_model.safetensors", a);
	snprintf(y, sizeof y, "%s/adapter_model.safetensors", b);
	ck_assert_msg(same_file(x, y), "the adapters differ");
	/* log.jsonl: equal but for the speed */
	ck_assert_int_eq(
		run_shell(
			"sed 's/,\"tokens_per_second.*//' '%s/log.jsonl' >'%s/log-a'; sed 's/,\"tokens_per_second.*//' '%s/log.jsonl' >'%s/log-b'; "
			"wc -l <'%s/log-a'; diff '%s/log-a' '%s/log-b'",
			a, scratch, b, scratch, scratch, scratch, scratch),
		0);
	ck_assert_int_eq(atoi(run_out), steps);
}

START_TEST(interrupted_and_resumed_is_the_same)
{
	char data[700], straight[700], broken[700];
	snprintf(data, sizeof data, "%s", in_scratch("story.jsonl"));
	snprintf(straight, sizeof straight, "%s", in_scratch("straight"));
	snprintf(broken, sizeof broken, "%s", in_scratch("broken"));
	write_story(data);
	ck_assert_int_eq(run_lora("train -q --threads 1 -m " MODEL " -d '%s' -o '%s' " LONG_RUN, data, straight), 0);

	char *argv[] = { "lora", "train", "--json", "-q", "--threads", "1", "-m", MODEL, "-d", data, "-o", broken, "-s",
		"batch_size=3", "-s", "gradient_accumulation_steps=2", "-s", "learning_rate=0.01", "-s", "lora_dropout=0.1", "-s",
		"warmup_steps=3", "-s", "max_steps=120", "-s", "seed=7", NULL };
	pid_t pid = start_lora("broken.log", argv);
	int status = 0, lines = 0;
	/* after a few steps */
	for (int i = 0; i < 5000 && lines < 4; i++) {
		usleep(1000);
		lines = 0;
		if (!exists(in_scratch("broken.log"))) continue;
		char *text = read_text(in_scratch("broken.log"), NULL);
		for (char *p = text; *p; p++) lines += *p == '\n';
		free(text);
	}
	kill(pid, SIGINT);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	char *log = read_text(in_scratch("broken.log"), NULL);
	if (strstr(log, "\"done\":true")) {
		/* the machine was faster than the signal: nothing to see here but that the run is whole */
		ck_assert_int_eq(WEXITSTATUS(status), 0);
	} else {
		ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 130, "wait status %x", (unsigned)status);
		ck_assert(strstr(log, "\"interrupted\":true") != NULL);
		ck_assert(exists(in_scratch("broken/checkpoint")) && !exists(in_scratch("broken/adapter_config.json")));
	}
	free(log);
	/* train.json remembers the settings */
	ck_assert_int_eq(run_lora("train -q --threads 1 -m " MODEL " -d '%s' -o '%s' --resume", data, broken), 0);
	compare_runs(straight, broken, 120);
}
END_TEST

START_TEST(killed_and_resumed_is_the_same)
{
	char data[700], straight[700], broken[700];
	snprintf(data, sizeof data, "%s", in_scratch("story.jsonl"));
	snprintf(straight, sizeof straight, "%s", in_scratch("straight2"));
	snprintf(broken, sizeof broken, "%s", in_scratch("broken2"));
	write_story(data);
	ck_assert_int_eq(run_lora("train -q --threads 1 -m " MODEL " -d '%s' -o '%s' " LONG_RUN, data, straight), 0);
	char *argv[] = { "lora", "train", "--json", "-q", "--threads", "1", "-m", MODEL, "-d", data, "-o", broken, "-s",
		"batch_size=3", "-s", "gradient_accumulation_steps=2", "-s", "learning_rate=0.01", "-s", "lora_dropout=0.1", "-s",
		"warmup_steps=3", "-s", "max_steps=120", "-s", "seed=7", "-s", "save_steps=5", NULL };
	pid_t pid = start_lora("broken2.log", argv);
	int lines = 0;
	for (int i = 0; i < 5000 && lines < 8; i++) {
		usleep(1000);
		lines = 0;
		if (!exists(in_scratch("broken2.log"))) continue;
		char *text = read_text(in_scratch("broken2.log"), NULL);
		for (char *p = text; *p; p++) lines += *p == '\n';
		free(text);
	}
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	ck_assert(exists(in_scratch("broken2/checkpoint")) && !exists(in_scratch("broken2/adapter_config.json")));
	ck_assert_int_eq(run_lora("train -q --threads 1 -m " MODEL " -d '%s' -o '%s' --resume", data, broken), 0);
	compare_runs(straight, broken, 120);
}
END_TEST

START_TEST(a_finished_run_can_be_made_longer)
{
	char shorter[700], straight[700];
	snprintf(shorter, sizeof shorter, "%s", in_scratch("longer"));
	snprintf(straight, sizeof straight, "%s", in_scratch("straight3"));
	ck_assert_int_eq(
		run_lora("train -q -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' " REFERENCE " -s max_steps=7", shorter), 0);
	ck_assert_int_eq(
		run_lora("train --json -q -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' --resume -s max_steps=25", shorter), 0);
	json_t *o = out_json(0);
	ck_assert_int_eq(json_integer_value(json_object_get(o, "step")), 8);
	json_decref(o);
	ck_assert_int_eq(
		run_lora("train -q -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' " REFERENCE " -s max_steps=25", straight), 0);
	compare_runs(straight, shorter, 25);
	expect_error(run_lora("train -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' --resume -s batch_size=3", shorter), 2,
		"batch_size");
	expect_error(
		run_lora("train -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' --resume -s r=3", shorter), 1, "checkpoint");
}
END_TEST

START_TEST(a_foreign_output_is_refused)
{
	ck_assert_int_eq(run_shell("mkdir -p '%s' && echo mine >'%s'", in_scratch("mine"), in_scratch("mine/notes")), 0);
	expect_error(
		run_lora("train -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' -s max_steps=1", in_scratch("mine")), 1, "--force");
	ck_assert_int_eq(files_in(in_scratch("mine")), 1);
	ck_assert_int_eq(
		run_lora("train -q --force -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' -s max_steps=1", in_scratch("mine")), 0);
	ck_assert(exists(in_scratch("mine/notes")) && exists(in_scratch("mine/adapter_config.json")));
	expect_error(run_lora("train -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' -s max_steps=1", in_scratch("mine/notes")),
		1, "no directory");
	/* a run into its own old output starts anew */
	ck_assert_int_eq(
		run_lora("train --json -q -m " MODEL " -d " TRAINING "/data.safetensors -o '%s' -s max_steps=2", in_scratch("mine")), 0);
	json_t *o = out_json(0);
	ck_assert_int_eq(json_integer_value(json_object_get(o, "step")), 1);
	json_decref(o);
	ck_assert_int_eq(out_lines(), 3);
}
END_TEST

START_TEST(evaluation_in_between)
{
	write_story(in_scratch("story.jsonl"));
	ck_assert_int_eq(run_lora("train --json -q -m " MODEL
							  " -d '%s' -o '%s' -s max_steps=4 -s eval_steps=2 -s validation='%s' -s learning_rate=0.01",
						 in_scratch("story.jsonl"), in_scratch("evaluated"), in_scratch("story.jsonl")),
		0);
	int evals = 0;
	double last = 0;
	for (int i = 0; i < out_lines(); i++) {
		json_t *o = out_json(i), *loss = json_object_get(o, "eval_loss");
		if (loss) {
			evals++;
			last = json_number_value(loss);
		}
		json_decref(o);
	}
	ck_assert_int_eq(evals, 2);
	ck_assert_int_eq(run_lora("eval --json -m " MODEL " -a '%s' -d '%s'", in_scratch("evaluated"), in_scratch("story.jsonl")), 0);
	json_t *o = out_json(0);
	ck_assert_double_eq_tol(json_number_value(json_object_get(o, "loss")), last, 1e-5);
	json_decref(o);
}
END_TEST

/* The memory is told, and within a tenth of what the run then takes; nothing is written. */
START_TEST(dry_run_tells_the_memory)
{
	static const char *const parts[] = { "weights", "packed", "adapter", "optimizer", "activations", "scratch", "other", "backend", "program" };
	static const char line[] = "train --json -q -m examples/demo/model -d examples/demo/pirate.txt -s max_steps=3 -s r=16 --backend naive";
	double sum = 0;
	ck_assert_int_eq(run_lora("%s --dry-run -o '%s'", line, in_scratch("dry")), 0);
	ck_assert_int_eq(out_lines(), 1);
	ck_assert(!exists(in_scratch("dry")));
	json_t *o = out_json(0);
	double peak = json_number_value(json_object_get(o, "peak"));
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		ck_assert_msg(json_is_integer(json_object_get(o, parts[i])), "no %s", parts[i]);
		sum += json_number_value(json_object_get(o, parts[i]));
	}
	ck_assert_double_eq(sum, peak);
	ck_assert_int_eq(json_integer_value(json_object_get(o, "tokens")), 8 * 256);
	json_decref(o);
	ck_assert_int_eq(run_lora("%s -o '%s'", line, in_scratch("wet")), 0);
	o = out_json(out_lines() - 1);
	double taken = json_number_value(json_object_get(o, "peak_memory_bytes"));
	json_decref(o);
	ck_assert_msg(fabs(peak - taken) <= 0.1 * taken, "told %.1f MiB, taken %.1f MiB", peak / 1048576, taken / 1048576);
	/* for people; -o is not needed, a model and data are */
	ck_assert_int_eq(run_lora("train --dry-run -m " MODEL " -d " TRAINING "/data.safetensors"), 0);
	ck_assert(strstr(run_out, "activations") && strstr(run_out, "peak"));
	expect_error(run_lora("train --dry-run -m " MODEL), 2, "-d");
}
END_TEST

Suite *suite_train(void)
{
	Suite *s = suite_create("cli train");
	TCase *t = tcase_create("all");
	tcase_set_timeout(t, 180);
	tcase_add_test(t, losses_match_the_reference);
	tcase_add_test(t, settings_are_checked);
	tcase_add_test(t, settings_come_from_config_and_line);
	tcase_add_test(t, interrupted_and_resumed_is_the_same);
	tcase_add_test(t, killed_and_resumed_is_the_same);
	tcase_add_test(t, a_finished_run_can_be_made_longer);
	tcase_add_test(t, a_foreign_output_is_refused);
	tcase_add_test(t, evaluation_in_between);
	tcase_add_test(t, dry_run_tells_the_memory);
	suite_add_tcase(s, t);
	return s;
}
