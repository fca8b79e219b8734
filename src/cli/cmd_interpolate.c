/* lora interpolate: the loss between two adapters, along the line, or between three, over the triangle; and the barrier in between:
 * the most by which the loss is above the weighted mean of the ends' (arXiv:1912.05671, arXiv:2410.22911). Between factors, A and B are averaged each for itself, so
 * that B(w) A(w) has cross terms; between deltas, the adapters act side by side, each with its weight. */
#include "cli/chart.h"
#include "cli/commands.h"
#include "cli/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 3 };

typedef struct curve {
	const char *path; /* factors or delta */
	double *loss, barrier;
	int64_t at;
} curve;

typedef struct survey {
	session s;
	measure data;
	lora_adapter *between; /* takes the averaged factors */
	int64_t n, points, count; /* adapters, points along an edge, points in all */
	double (*w)[MOST];        /* weights at each point */
	int64_t corner[MOST];
	curve curves[2];
	int n_curves;
	float **tensors[MOST];
	progress bar;
} survey;

/* ---- where ---- */

static int lay_out(survey *v)
{
	int64_t m = v->points - 1;
	v->count = v->n == 2 ? v->points : v->points * (v->points + 1) / 2;
	v->w = new_array((size_t)v->count, sizeof *v->w);
	if (!v->w) return FAILED;
	int64_t at = 0;
	for (int64_t i = 0; i <= m; i++)
		for (int64_t k = 0; k <= (v->n == 2 ? 0 : i); k++, at++) {
			double *w = v->w[at];
			w[0] = (double)(m - i) / (double)m, w[1] = (double)(i - k) / (double)m, w[2] = (double)k / (double)m;
			for (int c = 0; c < v->n; c++)
				if (w[c] == 1) v->corner[c] = at;
		}
	return OK;
}

/* ---- factors ---- */

/* What must be equal for an average of factors to mean anything. */
static int same_settings(survey *v, const args *a)
{
	static const char *const keys[] = { "lora_alpha", "use_rslora", "alpha_pattern", "rank_pattern" };
	json_t *first = NULL;
	int status = OK;
	for (int64_t i = 0; i < v->n && !status; i++) {
		size_t needed = 0;
		lora_adapter_settings_json(v->s.adapters[i], NULL, 0, &needed);
		char *text = new_bytes(needed + 1);
		if (!text) status = FAILED;
		else if (lora_adapter_settings_json(v->s.adapters[i], text, needed + 1, &needed)) status = fail_library(v->s.ctx, a->adapters[i].path);
		json_t *o = status ? NULL : json_loads(text, 0, NULL);
		free(text);
		if (!i) first = json_incref(o);
		for (int k = 0; k < 4 && !status; k++) {
			json_t *x = json_object_get(first, keys[k]), *y = json_object_get(o, keys[k]);
			int equal = json_is_number(x) && json_is_number(y) ? json_number_value(x) == json_number_value(y) : x && y ? json_equal(x, y) : 1;
			if (!equal) status = fail(FAILED, a->adapters[i].path, "%s differs from that of %s: factors can't be averaged; -s path=delta can", keys[k], a->adapters[0].path);
		}
		if (!status && a->adapters[i].scale != a->adapters[0].scale) status = fail(USAGE, "-a", "factors need equal scales; -s path=delta does not");
		json_decref(o);
	}
	json_decref(first);
	return status;
}

static int read_tensors(survey *v, int64_t i, const char *path)
{
	int64_t n = lora_adapter_tensor_count(v->s.adapters[i]), first = lora_adapter_tensor_count(v->s.adapters[0]);
	if (!(v->tensors[i] = new_array((size_t)first, sizeof **v->tensors))) return FAILED;
	for (int64_t t = 0; t < first; t++) {
		lora_tensor_info x, y;
		if (lora_adapter_tensor_info(v->s.adapters[0], t, &x)) return fail_library(v->s.ctx, path);
		if (n != first || lora_adapter_tensor_info(v->s.adapters[i], t, &y) || strcmp(x.name, y.name) || x.bytes != y.bytes)
			return fail(FAILED, path, "its tensors are not those of the first adapter (%s): factors can't be averaged; -s path=delta can", x.name);
		if (!(v->tensors[i][t] = new_bytes(x.bytes))) return FAILED;
		if (lora_adapter_tensor_read(v->s.adapters[i], t, v->tensors[i][t], x.bytes)) return fail_library(v->s.ctx, path);
	}
	return OK;
}

static int open_between(survey *v, const args *a)
{
	lora_settings *settings = NULL;
	int status = same_settings(v, a);
	for (int64_t i = 0; i < v->n && !status; i++) status = read_tensors(v, i, a->adapters[i].path);
	if (status) return status;
	if (lora_settings_create(v->s.ctx, &settings) || lora_settings_set_string(settings, "name", "between") ||
		lora_adapter_open(v->s.model, a->adapters[0].path, settings, &v->between))
		status = fail_library(v->s.ctx, a->adapters[0].path);
	lora_settings_destroy(settings);
	return status;
}

static int set_factors(survey *v, const double *w)
{
	for (int64_t t = 0; t < lora_adapter_tensor_count(v->between); t++) {
		lora_tensor_info info;
		if (lora_adapter_tensor_info(v->between, t, &info)) return fail_library(v->s.ctx, "-a");
		float *sum = new_bytes(info.bytes);
		if (!sum) return FAILED;
		for (size_t i = 0; i < info.bytes / sizeof *sum; i++) {
			double x = 0;
			for (int64_t k = 0; k < v->n; k++) x += w[k] * v->tensors[k][t][i];
			sum[i] = (float)x;
		}
		lora_status st = lora_adapter_tensor_write(v->between, t, sum, info.bytes);
		free(sum);
		if (st) return fail_library(v->s.ctx, info.name);
	}
	return OK;
}

/* ---- deltas ---- */

static int check_deltas(survey *v, const args *a)
{
	for (int64_t i = 0; i < v->n; i++) {
		lora_adapter_info info = { .struct_size = sizeof info };
		if (lora_adapter_get_info(v->s.adapters[i], &info)) return fail_library(v->s.ctx, a->adapters[i].path);
		if (strcmp(info.kind, "lora")) return fail(FAILED, a->adapters[i].path, "is of kind %s, which has no deltas; -s path=factors goes between any two of one kind", info.kind);
		for (int64_t t = 0; t < lora_adapter_tensor_count(v->s.adapters[i]); t++) {
			lora_tensor_info x;
			if (lora_adapter_tensor_info(v->s.adapters[i], t, &x)) return fail_library(v->s.ctx, a->adapters[i].path);
			if (!strstr(x.name, "lora_")) return fail(FAILED, a->adapters[i].path, "has %s as a whole (modules_to_save), which has no delta", x.name);
		}
	}
	return OK;
}

static int set_deltas(survey *v, const args *a, const double *w)
{
	for (int64_t i = 0; i < v->n; i++)
		if (lora_adapter_set_scale(v->s.adapters[i], w[i] * a->adapters[i].scale)) return fail_library(v->s.ctx, a->adapters[i].path);
	return OK;
}

/* ---- the survey ---- */

static int walk(survey *v, const args *a, curve *c)
{
	int factors = !strcmp(c->path, "factors"), status = factors ? open_between(v, a) : check_deltas(v, a);
	c->loss = new_array((size_t)v->count, sizeof *c->loss);
	if (!c->loss) return FAILED;
	for (int64_t i = 0; i < v->n && !factors && !status; i++)
		if (lora_adapter_attach(v->s.adapters[i], 1)) status = fail_library(v->s.ctx, a->adapters[i].path);
	if (!status && factors && lora_adapter_attach(v->between, a->adapters[0].scale)) status = fail_library(v->s.ctx, a->adapters[0].path);
	progress_start(&v->bar, c->path, 0, v->count);
	for (int64_t p = 0; p < v->count && !status; p++) {
		status = factors ? set_factors(v, v->w[p]) : set_deltas(v, a, v->w[p]);
		if (!status) status = measure_loss(&v->data, &v->s, &c->loss[p]);
		if (!status) progress_show(&v->bar, p + 1, "");
	}
	progress_end(&v->bar);
	if (!status && factors && lora_adapter_detach(v->between)) status = fail_library(v->s.ctx, "-a");
	return status;
}

static double linear(const survey *v, const curve *c, int64_t p)
{
	double sum = 0;
	for (int64_t i = 0; i < v->n; i++) sum += v->w[p][i] * c->loss[v->corner[i]];
	return sum;
}

static void find_barrier(const survey *v, curve *c)
{
	c->barrier = -INFINITY;
	for (int64_t p = 0; p < v->count; p++) {
		double over = c->loss[p] - linear(v, c, p);
		for (int64_t i = 0; i < v->n; i++)
			if (p == v->corner[i]) over = 0;
		if (over > c->barrier) c->barrier = over, c->at = p;
	}
}

/* ---- telling ---- */

static int write_csv(const survey *v, const char *path)
{
	outfile o;
	if (outfile_open(&o, path)) return FAILED;
	fprintf(o.f, "path,w1,w2%s,loss,linear\n", v->n == 3 ? ",w3" : "");
	for (int k = 0; k < v->n_curves; k++)
		for (int64_t p = 0; p < v->count; p++) {
			fprintf(o.f, "%s", v->curves[k].path);
			for (int64_t i = 0; i < v->n; i++) fprintf(o.f, ",%.10g", v->w[p][i]);
			fprintf(o.f, ",%.10g,%.10g\n", v->curves[k].loss[p], linear(v, &v->curves[k], p));
		}
	return outfile_commit(&o);
}

static int write_svg(const survey *v, const args *a)
{
	const char *names[MOST];
	run_log runs[3];
	double *x = new_array((size_t)v->count, 2 * sizeof *x), *mean = x + v->count;
	int status = OK;
	if (!x) return FAILED;
	for (int64_t i = 0; i < v->n; i++) names[i] = path_base(a->adapters[i].path);
	if (v->n == 3) {
		status = svg_plane(a->output, names, v->curves[0].loss, v->points);
	} else {
		memset(runs, 0, sizeof runs);
		for (int64_t p = 0; p < v->count; p++) x[p] = v->w[p][1], mean[p] = linear(v, &v->curves[0], p);
		char *title = new_format("from %s (0) to %s (1)", names[0], names[1]), line[] = "mean of the ends";
		for (int k = 0; k < v->n_curves; k++) {
			runs[k].name = (char *)(uintptr_t)v->curves[k].path;
			runs[k].loss = (series){ x, v->curves[k].loss, (size_t)v->count, 0 };
		}
		runs[v->n_curves] = (run_log){ .name = line, .loss = { x, mean, (size_t)v->count, 0 } };
		status = title ? svg_curves(a->output, title, "loss", runs, (size_t)v->n_curves + 1) : FAILED;
		free(title);
	}
	free(x);
	return status;
}

static json_t *weights_json(const survey *v, int64_t p)
{
	json_t *list = json_array();
	for (int64_t i = 0; i < v->n; i++) json_array_append_new(list, json_number(v->w[p][i]));
	return list;
}

static int tell_json(const survey *v, const args *a, const curve *c, double start)
{
	json_t *points = json_array(), *adapters = json_array(), *losses = json_array();
	for (int64_t p = 0; p < v->count; p++) json_array_append_new(points, json_pack("{s:o, s:o}", "weights", weights_json(v, p), "loss", json_number(c->loss[p])));
	for (int64_t i = 0; i < v->n; i++) {
		json_array_append_new(adapters, json_text(a->adapters[i].path, strlen(a->adapters[i].path)));
		json_array_append_new(losses, json_number(c->loss[v->corner[i]]));
	}
	return print_json(json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:o}", "output", json_path(a->output), "path", c->path, "adapters", adapters, "losses", losses, "barrier",
		json_number(c->barrier), "at", weights_json(v, c->at), "barrier_loss", json_number(c->loss[c->at]), "points", points, "tokens", (json_int_t)v->data.tokens, "seconds",
		json_number(seconds_now() - start)));
}

static int tell(const survey *v, const args *a, double start)
{
	for (int k = 0; k < v->n_curves; k++) {
		const curve *c = &v->curves[k];
		if (a->json) {
			if (tell_json(v, a, c, start)) return FAILED;
			continue;
		}
		for (int64_t p = 0; p < v->count && !a->output; p++) {
			for (int64_t i = 0; i < v->n; i++) say("%6.3f ", v->w[p][i]);
			say(" %.6g\n", c->loss[p]);
		}
		say("%s: barrier %.6g at weights", c->path, c->barrier);
		for (int64_t i = 0; i < v->n; i++) say(" %.3g", v->w[c->at][i]);
		say(" (loss %.6g; at the ends", c->loss[c->at]);
		for (int64_t i = 0; i < v->n; i++) say(" %.6g", c->loss[v->corner[i]]);
		say(")\n");
	}
	return a->output && !a->json ? say("wrote %s\n", a->output) : OK;
}

static int read_settings(survey *v, const args *a)
{
	static const char *const more[] = { "path" };
	const char *path = "factors";
	for (size_t i = 0; i < a->n_settings; i++) {
		const char *name = a->settings[i].name, *text = a->settings[i].text;
		int taken, status = measure_setting(&v->data, &v->s, &a->settings[i], &taken);
		if (status) return status;
		if (taken) continue;
		if (!strcmp(name, "path")) {
			path = text;
			continue;
		}
		const char *near = measure_nearest(name, more, 1);
		return fail(USAGE, name, "no such setting of interpolate%s%s", near ? "; did you mean " : "", near ? near : "");
	}
	int both = !strcmp(path, "both");
	if (!both && strcmp(path, "factors") && strcmp(path, "delta")) return fail(USAGE, "path", "must be factors, delta or both");
	if (both || !strcmp(path, "factors")) v->curves[v->n_curves++].path = "factors";
	if (both || !strcmp(path, "delta")) v->curves[v->n_curves++].path = "delta";
	if (both && v->n == 3 && a->output && path_has_suffix(a->output, ".svg")) return fail(USAGE, "path", "a picture of the plane shows one: factors or delta");
	return OK;
}

static int check_usage(const args *a)
{
	if (!a->model) return fail(USAGE, "-m", "a model is needed");
	if (a->n_adapters < 2 || a->n_adapters > MOST) return fail(USAGE, "-a", "two adapters (a line) or three (a plane) are needed");
	if (!a->data) return fail(USAGE, "-d", "data is needed");
	if (a->points != UNSET && (a->points < 2 || a->points > (a->n_adapters == 2 ? 100001 : 1001))) return fail(USAGE, "--points", "must be 2 to %d", a->n_adapters == 2 ? 100001 : 1001);
	if (a->output && !path_has_suffix(a->output, ".csv") && !path_has_suffix(a->output, ".svg")) return fail(USAGE, "-o", "must end in .csv or .svg");
	return OK;
}

static int run(const args *a)
{
	survey v;
	double start = seconds_now();
	int status = check_usage(a);
	if (status) return status;
	memset(&v, 0, sizeof v);
	v.n = (int64_t)a->n_adapters, v.points = a->points == UNSET ? 11 : a->points;
	status = session_context(&v.s, a);
	if (!status) status = session_model(&v.s, a);
	if (!status) measure_defaults(&v.data, &v.s, a);
	if (!status) status = read_settings(&v, a);
	if (!status) status = session_adapters(&v.s, a, 0);
	if (!status) status = measure_open(&v.data, &v.s, a);
	if (!status) status = lay_out(&v);
	for (int k = 0; k < v.n_curves && !status; k++) {
		status = walk(&v, a, &v.curves[k]);
		if (!status) find_barrier(&v, &v.curves[k]);
	}
	if (!status && a->output) status = path_has_suffix(a->output, ".csv") ? write_csv(&v, a->output) : write_svg(&v, a);
	if (!status) status = tell(&v, a, start);
	for (int64_t i = 0; i < v.n; i++) {
		for (int64_t t = 0; v.tensors[i] && t < lora_adapter_tensor_count(v.s.adapters[0]); t++) free(v.tensors[i][t]);
		free(v.tensors[i]);
	}
	for (int k = 0; k < v.n_curves; k++) free(v.curves[k].loss);
	free(v.w);
	lora_adapter_destroy(v.between);
	measure_close(&v.data);
	session_close(&v.s);
	return status;
}

const command command_interpolate = { "interpolate", "-m MODEL -a A -a B [-a C] -d DATA [--points N] [-o OUT.csv|OUT.svg]", "the loss between two or three adapters",
	"Two adapters: N points along the line between them; three: a triangle with N points along each edge. The barrier is the most by which the loss\n"
	"is above the weighted mean of the losses at the ends; 0: nowhere above. Without -o the points are shown.\n"
	"-s path=factors (default) averages the factors A and B each for itself, as merging by weights does; path=delta averages the deltas B A\n"
	"(LoRA only); path=both does both. The settings that hold the scale must be equal for factors.\n"
	"Settings: path, sequence_length (512, or the model's positions), batch_size (8), max_batches (all), loss_on (completion), packing.\n"
	"CSV: path, w1, w2 (w3): the weights of the adapters, loss, linear (the weighted mean of the ends).\n"
	"JSON, a line per path: output, path, adapters, losses (at the ends), barrier, at (weights), barrier_loss, points (weights, loss), tokens,\n"
	"seconds.\n",
	"model adapter data points output set skip-bad chat-template", 0, 0, run };
