/* prune and interpolate: losses that eval gives, sums, files, and what is refused. */
#include "cli/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ONE "-s r=3 -s init_lora_weights=false -s learning_rate=0.05 -s max_steps=3 -s target_modules=q_proj,down_proj "
#define DATA TRAINING "/data.safetensors"

static double number(int line, const char *key)
{
	json_t *o = out_json(line), *v = json_object_get(o, key);
	ck_assert_msg(json_is_number(v), "no number %s", key);
	double x = json_number_value(v);
	json_decref(o);
	return x;
}

static void adapters(void)
{
	for (int i = 1; i <= 3; i++) {
		char name[8];
		snprintf(name, sizeof name, "p%d", i);
		if (!exists(in_scratch(name))) ck_assert_int_eq(run_lora("train -q -m " MODEL " -d " DATA " -o '%s' " ONE "--seed %d", in_scratch(name), i), 0);
	}
}

static double loss_of(const char *options)
{
	ck_assert_int_eq(run_lora("eval --json -q -m " MODEL " -d " DATA " %s", options), 0);
	return number(0, "loss");
}

static int near_to(double x, double y) { return fabs(x - y) <= 1e-6 * fabs(y); }

START_TEST(prunes)
{
	static const char *const by[] = { "shapley", "norm", "random --seed 4" };
	adapters();
	char options[1200];
	snprintf(options, sizeof options, "-a '%s'", in_scratch("p1"));
	double none = loss_of(""), all = loss_of(options);
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(run_lora("prune --json -q -m " MODEL " -a '%s' -d " DATA " --by %s -o '%s'", in_scratch("p1"), by[i], in_scratch("cut")), 0);
		json_t *o = out_json(0), *layers = json_object_get(o, "layers"), *x;
		size_t k, kept = 0, n = json_array_size(layers);
		double sum = 0, least = INFINITY, most = -INFINITY, after = number(0, "loss");
		json_array_foreach(layers, k, x)
		{
			double value = json_number_value(json_object_get(x, "value"));
			int keeps = json_is_true(json_object_get(x, "kept"));
			kept += keeps, sum += value;
			if (keeps) least = fmin(least, value);
			else most = fmax(most, value);
		}
		ck_assert_uint_eq(kept, (n + 1) / 2);
		ck_assert(least >= most);
		ck_assert(near_to(number(0, "loss_none"), none) && near_to(number(0, "loss_all"), all));
		if (!i) ck_assert_msg(fabs(sum - (none - all)) < 1e-9, "the values sum to %g, the adapter saves %g", sum, none - all);
		json_decref(o);
		snprintf(options, sizeof options, "-a '%s'", in_scratch("cut"));
		ck_assert(near_to(loss_of(options), after)); /* what was written is what was measured */
	}
	ck_assert_int_eq(run_lora("prune -q -m " MODEL " -a '%s' -d " DATA " --keep 1 -s max_batches=1", in_scratch("p1")), 0); /* shows, writes nothing */
	ck_assert_ptr_nonnull(strstr(run_out, "model.layers.0"));
}
END_TEST

START_TEST(lines)
{
	adapters();
	char one[600], two[600];
	snprintf(one, sizeof one, "-a '%s'", in_scratch("p1"));
	snprintf(two, sizeof two, "-a '%s'", in_scratch("p2"));
	double ends[2] = { loss_of(one), loss_of(two) };
	ck_assert_int_eq(run_lora("interpolate --json -q -m " MODEL " %s %s -d " DATA " --points 5 -s path=both -o '%s'", one, two, in_scratch("l.csv")), 0);
	ck_assert_int_eq(out_lines(), 2);
	for (int i = 0; i < 2; i++) {
		json_t *o = out_json(i), *points = json_object_get(o, "points"), *x;
		double barrier = 0, middle = json_number_value(json_object_get(json_array_get(points, 2), "loss"));
		size_t k;
		ck_assert_uint_eq(json_array_size(points), 5);
		json_array_foreach(points, k, x)
		{
			double w = json_number_value(json_array_get(json_object_get(x, "weights"), 1)), loss = json_number_value(json_object_get(x, "loss"));
			ck_assert(fabs(w - (double)k / 4) < 1e-12);
			if (k % 4 == 0) ck_assert(near_to(loss, ends[k / 4]));
			barrier = fmax(barrier, loss - (1 - w) * ends[0] - w * ends[1]);
		}
		ck_assert(fabs(number(i, "barrier") - barrier) < 1e-6);
		json_decref(o);
		/* the middle of the deltas is what combine's weighted sum is */
		if (i == 1) {
			char options[1200];
			ck_assert_int_eq(run_lora("combine -a '%s=0.5' -a '%s=0.5' -o '%s'", in_scratch("p1"), in_scratch("p2"), in_scratch("mean")), 0);
			snprintf(options, sizeof options, "-a '%s'", in_scratch("mean"));
			ck_assert(near_to(loss_of(options), middle));
		}
	}
	size_t n;
	char *csv = read_text(in_scratch("l.csv"), &n);
	ck_assert(!strncmp(csv, "path,w1,w2,loss,linear\nfactors,1,0,", 35));
	free(csv);
	ck_assert_int_eq(run_lora("interpolate --json -q -m " MODEL " %s %s -d " DATA, one, one), 0); /* an adapter with itself */
	ck_assert(fabs(number(0, "barrier")) < 1e-9);
	ck_assert_int_eq(run_lora("interpolate -q -m " MODEL " %s %s -d " DATA " --points 3 -o '%s'", one, two, in_scratch("l.svg")), 0);
	ck_assert_int_eq(run_shell("head -c 4 '%s' | grep -q '<svg'", in_scratch("l.svg")), 0);
}
END_TEST

START_TEST(plane)
{
	adapters();
	char a[2000];
	snprintf(a, sizeof a, "-a '%s' ", in_scratch("p1"));
	snprintf(a + strlen(a), sizeof a - strlen(a), "-a '%s' ", in_scratch("p2"));
	snprintf(a + strlen(a), sizeof a - strlen(a), "-a '%s' ", in_scratch("p3"));
	ck_assert_int_eq(run_lora("interpolate --json -q -m " MODEL " %s -d " DATA " --points 4 -o '%s'", a, in_scratch("t.svg")), 0);
	json_t *o = out_json(0), *points = json_object_get(o, "points"), *x;
	size_t k;
	ck_assert_uint_eq(json_array_size(points), 10);
	json_array_foreach(points, k, x)
	{
		double sum = 0;
		for (size_t i = 0; i < 3; i++) sum += json_number_value(json_array_get(json_object_get(x, "weights"), i));
		ck_assert(fabs(sum - 1) < 1e-12);
	}
	json_decref(o);
	ck_assert(exists(in_scratch("t.svg")));
	ck_assert_int_eq(run_lora("interpolate -q -m " MODEL " %s -d " DATA " --points 2 -s path=both", a), 0);
	ck_assert_ptr_nonnull(strstr(run_out, "delta: barrier"));
}
END_TEST

/* A run with a strategy tells how many layers took part. */
START_TEST(strategies)
{
	ck_assert_int_eq(run_lora("train --json -q -m " MODEL " -d " DATA " -o '%s' -s strategy=coto -s max_steps=4 -s r=2", in_scratch("coto")), 0);
	ck_assert(number(0, "layers_active") == 1 || number(0, "layers_active") == 2);
	ck_assert(number(3, "layers_active") == 2); /* the last quarter has all */
	expect_error(run_lora("train --json -m " MODEL " -d " DATA " -o '%s' -s strategy=coot", in_scratch("unmade")), 2, "did you mean coto");
	expect_error(run_lora("train --json -m " MODEL " -d " DATA " -o '%s' -s initial_p=0.5", in_scratch("unmade")), 2, "initial_p");
	expect_error(run_lora("train --json -m " MODEL " -d " DATA " -o '%s' -s strategy=copra -s initial_p=3", in_scratch("unmade")), 2, "initial_p");
}
END_TEST

/* The greedy soup is never worse than its best adapter; two of the same stay both, and one that harms is left out. */
START_TEST(soups)
{
	adapters();
	char one[600], two[600], bad[600], options[700];
	snprintf(one, sizeof one, "%s", in_scratch("p1"));
	snprintf(two, sizeof two, "%s", in_scratch("p2"));
	snprintf(bad, sizeof bad, "%s", in_scratch("bad"));
	ck_assert_int_eq(run_lora("combine -a '%s=-25' -o '%s'", one, bad), 0);
	ck_assert_int_eq(run_lora("combine --json -q -m " MODEL " -a '%s' -a '%s' -a '%s' -a '%s' -d " DATA " --type greedy_soup -o '%s'", bad, two, one, one, in_scratch("soup")), 0);
	json_t *o = out_json(0), *list = json_object_get(o, "weights"), *x;
	double sum = 0, least = INFINITY, loss = number(0, "loss");
	size_t k;
	json_array_foreach(list, k, x)
	{
		sum += json_number_value(json_object_get(x, "weight"));
		least = fmin(least, json_number_value(json_object_get(x, "loss")));
	}
	ck_assert(fabs(sum - 1) < 1e-12 && loss <= least * (1 + 1e-6));
	ck_assert(json_number_value(json_object_get(json_array_get(list, 0), "weight")) == 0);
	ck_assert(json_number_value(json_object_get(json_array_get(list, 2), "weight")) == json_number_value(json_object_get(json_array_get(list, 3), "weight")));
	json_decref(o);
	snprintf(options, sizeof options, "-a '%s'", in_scratch("soup"));
	ck_assert(near_to(loss_of(options), loss)); /* what was written is what was measured */
	ck_assert_int_eq(run_lora("combine -q -a '%s' -a '%s' --type uniform_soup -o '%s'", one, two, in_scratch("even")), 0);
	expect_error(run_lora("combine -q -a '%s=0.7' -a '%s=0.3' --type uniform_soup -o '%s'", one, two, in_scratch("uneven")), 2, "equal");
	ck_assert_int_eq(run_lora("combine -q -a '%s=0.5' -a '%s=0.5' -o '%s'", one, two, in_scratch("half")), 0);
	ck_assert_int_eq(run_shell("cmp '%s' '%s'", in_scratch("even/adapter_model.safetensors"), in_scratch("half/adapter_model.safetensors")), 0);
	expect_error(run_lora("combine -a '%s' -d " DATA " --type greedy_soup -o '%s'", one, in_scratch("no")), 2, "-m");
	expect_error(run_lora("combine -m " MODEL " -a '%s' --type greedy_soup -o '%s'", one, in_scratch("no")), 2, "-d");
	expect_error(run_lora("combine -m " MODEL " -a '%s=2' -d " DATA " --type greedy_soup -o '%s'", one, in_scratch("no")), 2, "weights");
	expect_error(run_lora("combine -m " MODEL " -a '%s' -d " DATA " --type greedy_soup -s svdrank=2 -o '%s'", one, in_scratch("no")), 2, "svd_rank");
}
END_TEST

START_TEST(refused)
{
	adapters();
	char one[600], wide[600];
	snprintf(one, sizeof one, "%s", in_scratch("p1"));
	snprintf(wide, sizeof wide, "%s", in_scratch("wide"));
	ck_assert_int_eq(run_lora("train -q -m " MODEL " -d " DATA " -o '%s' -s r=5 -s max_steps=1", wide), 0);
	expect_error(run_lora("prune -m " MODEL " -d " DATA), 2, "-a");
	expect_error(run_lora("prune -m " MODEL " -a '%s'", one), 2, "-d");
	expect_error(run_lora("prune -m " MODEL " -a '%s' -d " DATA " --keep 0", one), 2, "--keep");
	expect_error(run_lora("prune -m " MODEL " -a '%s' -d " DATA " --by shapely", one), 2, "did you mean shapley");
	expect_error(run_lora("prune -m " MODEL " -a '%s' -d " DATA " -s permutation=3", one), 2, "did you mean permutations");
	expect_error(run_lora("prune -m " MODEL " -a '%s' -d " DATA " -s permutations=0", one), 2, "permutations");
	expect_error(run_lora("prune -m " MODEL " -a '%s' -d '%s'", one, in_scratch("nothing.jsonl")), 1, "nothing.jsonl");
	write_text(in_scratch("file"), "x");
	expect_error(run_lora("prune -m " MODEL " -a '%s' -d " DATA " -o '%s'", one, in_scratch("file")), 1, "--force");
	expect_error(run_lora("interpolate -m " MODEL " -a '%s' -d " DATA, one), 2, "two adapters");
	expect_error(run_lora("interpolate -m " MODEL " -a '%s' -a '%s' -d " DATA, one, wide), 1, "path=delta");
	expect_error(run_lora("interpolate -m " MODEL " -a '%s' -a '%s' -d " DATA " --points 1", one, one), 2, "--points");
	expect_error(run_lora("interpolate -m " MODEL " -a '%s' -a '%s' -d " DATA " -o x.png", one, one), 2, ".csv");
	expect_error(run_lora("interpolate -m " MODEL " -a '%s' -a '%s' -d " DATA " -s path=straight", one, one), 2, "path");
	expect_error(run_lora("interpolate -m " MODEL " -a '%s=2' -a '%s' -d " DATA, one, one), 2, "scales");
}
END_TEST

Suite *suite_prune(void)
{
	Suite *s = suite_create("cli prune");
	TCase *t = tcase_create("prune");
	tcase_set_timeout(t, 60);
	tcase_add_test(t, prunes);
	tcase_add_test(t, lines);
	tcase_add_test(t, plane);
	tcase_add_test(t, strategies);
	tcase_add_test(t, soups);
	tcase_add_test(t, refused);
	suite_add_tcase(s, t);
	return s;
}
