/* lora plot: logs of runs. A run is a file of JSON lines (the output of `lora train --json`) or an output directory with its log.jsonl. */
#include "cli/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int add(series *s, double x, double y)
{
	if (!isfinite(x) || !isfinite(y)) return OK;
	if (s->n == s->room) {
		size_t room = s->room ? s->room * 2 : 256;
		double *more = grow(s->x, room, sizeof *more);
		if (!more) return FAILED;
		s->x = more;
		if (!(more = grow(s->y, room, sizeof *more))) return FAILED;
		s->y = more;
		s->room = room;
	}
	s->x[s->n] = x;
	s->y[s->n++] = y;
	return OK;
}

static int add_line(run_log *r, json_t *o)
{
	json_t *step = json_object_get(o, "step"), *loss = json_object_get(o, "loss"), *lr = json_object_get(o, "lr"),
		   *eval = json_object_get(o, "eval_loss");
	if (!json_is_number(step)) return OK;
	double x = json_number_value(step);
	if (json_is_number(loss) && add(&r->loss, x, json_number_value(loss))) return FAILED;
	if (json_is_number(lr) && add(&r->lr, x, json_number_value(lr))) return FAILED;
	if (json_is_number(eval) && add(&r->eval, x, json_number_value(eval))) return FAILED;
	return OK;
}

/* Weighted mean with weights w^|i-j|: no lag, and the forward and the backward half are each one recurrence. */
static int smooth(run_log *r)
{
	size_t n = r->loss.n;
	double w = 1 - 1 / fmax(1, (double)n / 50), sum = 0;
	for (size_t i = 0; i < n; i++) {
		sum = w * sum + r->loss.y[i];
		if (add(&r->smooth, r->loss.x[i], sum)) return FAILED;
	}
	double back = 0, back_weight = 0; /* of those after i */
	for (size_t i = n; i-- > 0;) {
		double weight = (1 - pow(w, (double)i + 1)) / (1 - w);
		r->smooth.y[i] = (r->smooth.y[i] + back) / (weight + back_weight);
		back = w * (back + r->loss.y[i]);
		back_weight = w * (back_weight + 1);
	}
	return OK;
}

static int read_run(run_log *r, const char *given, diagrams *d)
{
	char *path = path_is_dir(given) ? path_join(given, "log.jsonl") : new_string(given), *text = NULL;
	size_t bytes = 0, number = 0, before = d->n;
	int status = path ? read_file(path, 0, &text, &bytes) : FAILED;

	for (size_t at = 0; !status && at < bytes;) {
		char *end = memchr(text + at, '\n', bytes - at);
		size_t n = end ? (size_t)(end - text) - at : bytes - at;
		json_error_t err;
		number++;
		if (strspn(text + at, " \t\r") < n) {
			json_t *o = json_loadb(text + at, n, 0, &err);
			if (json_is_object(o)) status = add_line(r, o);
			if (!status && json_is_object(o)) status = diagrams_add(d, path, r->name, o);
			else if (end)
				status = fail(
					FAILED, path, "line %zu: not a JSON object", number); /* a last line may be cut: the run may go on */
			json_decref(o);
		}
		at += n + 1;
	}
	int steps = r->loss.n || r->eval.n;
	if (!status && !steps && d->n == before) status = fail(FAILED, path, "holds no steps with a loss, and no bins");
	if (!status && steps) status = smooth(r);
	free(text);
	free(path);
	return status;
}

static char *run_name(const char *given)
{
	char *name = new_string(given);
	if (!name) return NULL;
	size_t n = strlen(name);
	while (n > 1 && name[n - 1] == '/') name[--n] = 0;
	char *base = new_string(path_base(name));
	if (base && (!strcmp(base, "log.jsonl") || !strcmp(base, ".")) && strchr(name, '/')) {
		char *dir = path_dir(name);
		free(base);
		base = dir ? new_string(path_base(dir)) : NULL;
		free(dir);
	} else if (base && path_has_suffix(base, ".jsonl")) {
		base[strlen(base) - 6] = 0;
	}
	free(name);
	return base;
}

int runs_read(const args *a, run_log **out, size_t *n, diagrams *d)
{
	run_log *runs = new_array(a->n_positional, sizeof *runs);
	*out = runs;
	*n = 0;
	d->several = a->n_positional > 1;
	if (!runs) return FAILED;
	for (size_t i = 0; i < a->n_positional; i++) {
		*n = i + 1;
		runs[i].name = run_name(a->positional[i]);
		if (!runs[i].name || read_run(&runs[i], a->positional[i], d)) return FAILED;
	}
	for (size_t i = 0; i < *n; i++)
		if (d->n && (runs[i].loss.n || runs[i].eval.n)) return fail(FAILED, a->positional[i], "steps of training and bins of an evaluation do not go into one picture");
	return OK;
}

void runs_free(run_log *runs, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		series *all[] = { &runs[i].loss, &runs[i].smooth, &runs[i].eval, &runs[i].lr };
		for (size_t j = 0; j < 4; j++) {
			free(all[j]->x);
			free(all[j]->y);
		}
		free(runs[i].name);
	}
	free(runs);
}

void series_range(const series *s, double *low, double *high)
{
	for (size_t i = 0; i < s->n; i++) {
		if (s->y[i] < *low) *low = s->y[i];
		if (s->y[i] > *high) *high = s->y[i];
	}
}
