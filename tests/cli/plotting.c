/* plot: SVG and terminal. */
#include "cli/run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void write_run(const char *path, int steps, double loss)
{
	FILE *f = fopen(path, "wb");
	for (int i = 1; i <= steps; i++)
		fprintf(f, "{\"step\":%d,\"loss\":%.17g,\"lr\":%.17g}\n", i, loss * exp(-i * 0.01), 1e-4 * i / steps);
	fprintf(f, "{\"step\":%d,\"eval_loss\":%.17g}\n{\"done\":true,\"steps\":%d}\n", steps, loss, steps);
	fclose(f);
}

START_TEST(svg_is_whole)
{
	write_run(in_scratch("one.jsonl"), 300, 4);
	write_run(in_scratch("two<&.jsonl"), 100, 3);
	ck_assert_int_eq(
		run_lora("plot '%s' '%s' -o '%s'", in_scratch("one.jsonl"), in_scratch("two<&.jsonl"), in_scratch("curve.svg")), 0);
	char *svg = read_text(in_scratch("curve.svg"), NULL);
	ck_assert(!strncmp(svg, "<svg ", 5) && strstr(svg, "</svg>") && strstr(svg, "learning rate") && strstr(svg, "two&lt;&amp;") &&
		strstr(svg, "validation"));
	ck_assert(!strstr(svg, "nan") && !strstr(svg, "inf"));
	free(svg);
	ck_assert_int_eq(run_lora("plot --json '%s'", in_scratch("one.jsonl")), 0);
	json_t *o = out_json(0);
	ck_assert_int_eq(json_integer_value(json_object_get(o, "steps")), 300);
	json_decref(o);
}
END_TEST

START_TEST(one_step_and_odd_values)
{
	static const char *const logs[] = {
		"{\"step\":1,\"loss\":2.5}\n",
		"{\"step\":1,\"loss\":0,\"lr\":0}\n{\"step\":2,\"loss\":0,\"lr\":0}\n",
		"{\"step\":1,\"loss\":1e-12,\"lr\":1e-30}\n{\"step\":1000000,\"loss\":1e12,\"lr\":0}\n",
		"{\"step\":5,\"loss\":-3}\n{\"step\":6,\"loss\":null}\n{\"step\":7,\"loss\":-2}\n{\"step\":8,\"lo",
	};
	for (size_t i = 0; i < sizeof logs / sizeof logs[0]; i++) {
		write_text(in_scratch("odd.jsonl"), logs[i]);
		ck_assert_int_eq(run_lora("plot '%s' -o '%s'", in_scratch("odd.jsonl"), in_scratch("odd.svg")), 0);
		char *svg = read_text(in_scratch("odd.svg"), NULL);
		ck_assert_msg(strstr(svg, "</svg>") && !strstr(svg, "nan") && !strstr(svg, "inf"), "log %zu: %s", i, svg);
		free(svg);
		ck_assert_int_eq(run_lora("plot '%s'", in_scratch("odd.jsonl")), 0);
		ck_assert_int_gt(out_lines(), 10);
	}
	write_text(in_scratch("odd.jsonl"), "{\"done\":true}\n");
	expect_error(run_lora("plot '%s'", in_scratch("odd.jsonl")), 1, "no steps");
	write_text(in_scratch("odd.jsonl"), "{\"step\":1,\"loss\":2}\nhello\n{\"step\":2,\"loss\":2}\n");
	expect_error(run_lora("plot '%s'", in_scratch("odd.jsonl")), 1, "line 2");
}
END_TEST

START_TEST(the_terminal_is_filled_not_broken)
{
	write_run(in_scratch("one.jsonl"), 300, 4);
	for (int width = 30; width <= 160; width += 35) {
		ck_assert_int_eq(run_shell("LC_ALL=C COLUMNS=%d '%s' plot '%s'", width, lora_program(), in_scratch("one.jsonl")), 0);
		for (const char *p = run_out; *p; p += strcspn(p, "\n") + 1)
			if (strchr("| +", *p))
				ck_assert_msg((int)strcspn(p, "\n") <= width, "width %d: %.*s", width, (int)strcspn(p, "\n"), p);
	}
}
END_TEST

Suite *suite_plot(void)
{
	Suite *s = suite_create("cli plot");
	TCase *t = tcase_create("all");
	tcase_add_test(t, svg_is_whole);
	tcase_add_test(t, one_step_and_odd_values);
	tcase_add_test(t, the_terminal_is_filled_not_broken);
	suite_add_tcase(s, t);
	return s;
}
