/* lora posterior: a Gaussian around an adapter's parameters, and predictions that average over it. */
#include "cli/classify.h"
#include "cli/commands.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct work {
	session s;
	const args *a;
	data_options o;
	dataset data, held;
	int64_t n, n_held; /* batches */
	classes classes;
	lora_settings *settings; /* of the library's call */
	lora_posterior *p;
	int status;        /* of reading data within a callback */
	progress bar;
	metrics map, laplace;
	/* predictions kept for -o */
	double *kept[3];
	int32_t *kept_label;
	size_t rows, room;
} work;

static int is_setting(lora_context *ctx, const char *call, const char *name)
{
	json_t *m = family_member(ctx, "call", call), *v;
	size_t i;
	int found = 0;
	json_array_foreach(json_object_get(m, "settings"), i, v) found |= !strcmp(json_string_value(json_object_get(v, "name")), name);
	json_decref(m);
	return found;
}

/* Settings of the data stay here, those of the call go to the library, which checks them. */
static int read_settings(work *w, const char *call)
{
	const args *a = w->a;
	int status = OK;
	data_defaults(a, &w->s, &w->o);
	if (lora_settings_create(w->s.ctx, &w->settings)) return fail_library(w->s.ctx, "-s");
	for (size_t i = 0; i < a->n_settings && !status; i++) {
		int taken;
		status = data_setting(&a->settings[i], &w->s, &w->o, &taken);
		taken |= !strcmp(a->settings[i].name, "classes"); /* classes_read()'s */
		if (!status && !taken && lora_settings_set_text(w->settings, a->settings[i].name, a->settings[i].text)) status = fail_library(w->s.ctx, a->settings[i].name);
	}
	if (!status && a->seed != UNSET && is_setting(w->s.ctx, call, "seed") && lora_settings_set_int(w->settings, "seed", a->seed)) status = fail_library(w->s.ctx, "--seed");
	return status;
}

static int set_classes(work *w)
{
	json_t *list = json_array();
	for (int64_t i = 0; i < w->classes.n; i++) json_array_append_new(list, json_integer(w->classes.ids[i]));
	char *text = json_dumps(list, JSON_COMPACT);
	int status = !text ? fail_memory() : lora_settings_set_json(w->settings, "classes", text) ? fail_library(w->s.ctx, "classes") : OK;
	free(text);
	json_decref(list);
	return status;
}

static int open_all(work *w, const char *call)
{
	const args *a = w->a;
	if (!a->data) return fail(USAGE, "-d", "data is needed");
	if (a->n_adapters != 1) return fail(USAGE, "-a", "one adapter is needed: a posterior is of one");
	int status = session_context(&w->s, a);
	if (!status) status = session_model(&w->s, a);
	if (!status) status = read_settings(w, call);
	if (!status) status = session_adapters(&w->s, a, 1);
	if (!status) status = classes_read(&w->classes, &w->s, a, a->model);
	if (!status) status = data_open(&w->data, &w->s, a->data, a->model, &w->o);
	if (!status && a->validation) status = data_open(&w->held, &w->s, a->validation, a->model, &w->o);
	if (!status) w->n = data_batches(&w->data), w->n_held = a->validation ? data_batches(&w->held) : 0;
	return status;
}

static int32_t get(void *user, int64_t index, lora_batch *out)
{
	work *w = user;
	if (stop_asked()) return w->status = stop_asked();
	w->status = index < w->n ? data_batch(&w->data, index, out) : data_batch(&w->held, index - w->n, out);
	progress_show(&w->bar, index < w->n + w->n_held ? index : w->n + w->n_held, "");
	return w->status;
}

static json_t *memory_json(const lora_posterior_memory *m)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "factors", (json_int_t)m->factors, "kept", (json_int_t)m->kept, "activations", (json_int_t)m->activations, "scratch",
		(json_int_t)m->scratch, "predict", (json_int_t)m->predict, "peak", (json_int_t)m->peak);
}

static int tell_memory(work *w, lora_posterior_memory *m)
{
	data_shape shape = data_largest(&w->data);
	*m = (lora_posterior_memory){ .struct_size = sizeof *m };
	if (lora_posterior_estimate(w->s.model, w->s.adapters[0], shape.sequences, shape.length, w->settings, m)) return fail_library(w->s.ctx, "posterior");
	if (w->a->dry_run && w->a->json) return print_json(json_pack("{s:o}", "memory", memory_json(m)));
	if (w->a->dry_run || (!w->a->quiet && !w->a->json))
		say("memory      %.1f MB beside the model: factors %.1f, activations %.1f; %.1f MB to predict\n", (double)m->peak / 1e6, (double)m->factors / 1e6,
			(double)m->activations / 1e6, (double)(m->activations + m->kept + m->predict) / 1e6);
	return OK;
}

static int report_fit(work *w, const lora_posterior_memory *m, double seconds)
{
	lora_posterior_info i = { .struct_size = sizeof i };
	char text[32];
	if (lora_posterior_get_info(w->p, &i)) return fail_library(w->s.ctx, "posterior");
	if (w->a->json)
		return print_json(json_pack("{s:b, s:I, s:I, s:i, s:I, s:f, s:f, s:f, s:f, s:o, s:f}", "done", 1, "examples", (json_int_t)i.n_examples, "classes", (json_int_t)i.n_classes,
			"matrices", (int)i.n_matrices, "parameters", (json_int_t)i.n_parameters, "prior_precision", i.prior_precision, "log_likelihood", i.log_likelihood, "log_evidence",
			i.log_evidence, "effective", i.effective, "memory", memory_json(m), "seconds", seconds));
	say("examples    %s\n", format_count(i.n_examples, text, sizeof text));
	say("parameters  %s in %d matrices, %.1f of them determined by the data\n", format_count(i.n_parameters, text, sizeof text), (int)i.n_matrices, i.effective);
	say("prior       precision %.6g\nevidence    %.6g (log, likelihood %.6g)\nwrote       %s\n", i.prior_precision, i.log_evidence, i.log_likelihood, w->a->output);
	return OK;
}

static int run_fit(work *w)
{
	const args *a = w->a;
	lora_posterior_memory m;
	double start;
	if (!a->output && !a->dry_run) return fail(USAGE, "-o", "where to write the posterior is needed");
	if (a->output && path_is_dir(a->output)) return fail(FAILED, a->output, "is a directory; a posterior is one file");
	for (size_t i = 0; i < a->n_settings; i++)
		if (!a->validation && !strcmp(a->settings[i].name, "prior") && !strcmp(a->settings[i].text, "validation"))
			return fail(USAGE, "prior", "validation needs data to choose by: --validation FILE");
	int status = open_all(w, "posterior_fit");
	if (!status && w->classes.ids) status = set_classes(w);
	if (!status && a->validation && (lora_settings_set_string(w->settings, "prior", "validation") || lora_settings_set_int(w->settings, "validation_batches", w->n_held)))
		status = fail_library(w->s.ctx, "--validation");
	if (!status) status = tell_memory(w, &m);
	if (status || a->dry_run) return status;
	start = seconds_now();
	progress_start(&w->bar, "posterior", 0, w->n + w->n_held);
	lora_status st = lora_posterior_fit(w->s.model, w->s.adapters[0], w->n + w->n_held, get, w, w->settings, &w->p);
	progress_end(&w->bar);
	if (st) return w->status ? w->status : fail_library(w->s.ctx, a->data);
	if (lora_posterior_save(w->p, a->output)) return fail_library(w->s.ctx, a->output);
	return report_fit(w, &m, seconds_now() - start);
}

/* ---- predict ---- */

static int keep_rows(work *w, int64_t n, const double *laplace, const double *map, const double *variance, const int32_t *label)
{
	size_t c = (size_t)w->classes.n;
	const double *from[3] = { laplace, map, variance };
	if (w->rows + (size_t)n > w->room) {
		w->room = 2 * (w->rows + (size_t)n);
		for (int k = 0; k < 3; k++) {
			double *more = grow(w->kept[k], w->room * c * (k == 2 ? c : 1), sizeof *more);
			if (!more) return FAILED;
			w->kept[k] = more;
		}
		int32_t *labels = grow(w->kept_label, w->room, sizeof *labels);
		if (!labels) return FAILED;
		w->kept_label = labels;
	}
	for (int k = 0; k < 3; k++) {
		size_t each = c * (k == 2 ? c : 1);
		memcpy(w->kept[k] + w->rows * each, from[k], (size_t)n * each * sizeof(double));
	}
	memcpy(w->kept_label + w->rows, label, (size_t)n * sizeof *label);
	w->rows += (size_t)n;
	return OK;
}

static int predict_batch(work *w, const lora_batch *b)
{
	int64_t c = w->classes.n, n = b->n_sequences * c;
	double *p = new_array((size_t)(2 * n + n * c), sizeof *p), *map = p + n, *cov = map + n;
	int32_t *label = new_array((size_t)b->n_sequences, sizeof *label);
	int64_t *column = new_array((size_t)b->n_sequences, sizeof *column);
	int status = p && label && column ? classes_of(&w->classes, b, w->a->data, label, column) : FAILED;
	lora_status st = status ? LORA_OK : lora_posterior_predict(w->p, b, w->settings, p, map, w->a->output ? cov : NULL, n);
	if (st) status = fail_library(w->s.ctx, st == LORA_E_ARGUMENT ? "-s" : st == LORA_E_STATE ? w->a->posterior : w->a->data);
	for (int64_t r = 0; r < b->n_sequences && !status; r++) {
		double *f = map + r * c, most = -INFINITY, sum = 0;
		for (int64_t k = 0; k < c; k++) most = fmax(most, f[k]);
		for (int64_t k = 0; k < c; k++) sum += f[k] = exp(f[k] - most);
		for (int64_t k = 0; k < c; k++) f[k] /= sum;
		if (label[r] < 0) continue;
		status = metrics_add(&w->map, f, c, label[r]);
		if (!status) status = metrics_add(&w->laplace, p + r * c, c, label[r]);
	}
	if (!status && w->a->output) status = keep_rows(w, b->n_sequences, p, map, cov, label);
	free(p), free(label), free(column);
	return status;
}

static int write_rows(const work *w)
{
	int64_t c = w->classes.n, n = (int64_t)w->rows;
	const st_tensor t[] = { { .name = (char[]){ "probabilities" }, .dtype = LORA_F64, .rank = 2, .shape = { n, c }, .data = w->kept[0], .bytes = (uint64_t)(8 * n * c) },
		{ .name = (char[]){ "map_probabilities" }, .dtype = LORA_F64, .rank = 2, .shape = { n, c }, .data = w->kept[1], .bytes = (uint64_t)(8 * n * c) },
		{ .name = (char[]){ "covariance" }, .dtype = LORA_F64, .rank = 3, .shape = { n, c, c }, .data = w->kept[2], .bytes = (uint64_t)(8 * n * c * c) },
		{ .name = (char[]){ "labels" }, .dtype = LORA_I32, .rank = 1, .shape = { n }, .data = w->kept_label, .bytes = (uint64_t)(4 * n) } };
	return st_write(w->a->output, t, sizeof t / sizeof *t, "format", "pt");
}

static int report_predictions(work *w, double seconds)
{
	if (w->a->json) {
		json_t *root = json_object(), *map = json_object(), *laplace = json_object();
		json_object_set_new(root, "rows", json_integer(w->map.n));
		if (w->map.n && (metrics_json(&w->map, map) || metrics_json(&w->laplace, laplace))) return FAILED;
		json_object_set_new(root, "map", map);
		json_object_set_new(root, "laplace", laplace);
		json_object_set_new(root, "seconds", json_number(seconds));
		return print_json(root);
	}
	if (w->map.n) metrics_say(NULL, NULL), metrics_say(&w->map, "MAP"), metrics_say(&w->laplace, "Laplace");
	say("%lld rows with labels\n", (long long)w->map.n);
	return OK;
}

/* The tokens of a causal model's classes are in the posterior's file; asked for again only so that labels can be told. */
static int classes_of_file(work *w, const char *path)
{
	st_file f;
	if (w->classes.n) return OK;
	if (st_read(path, 1, &f)) return FAILED;
	json_t *state = json_loads(json_string_value(json_object_get(f.metadata, "state")) ? json_string_value(json_object_get(f.metadata, "state")) : "", 0, NULL);
	json_t *list = json_object_get(json_object_get(state, "settings"), "classes"), *v;
	size_t i, n = json_array_size(list);
	int status = n ? OK : fail(FAILED, path, "does not say which tokens stand for classes");
	if (!status && !(w->classes.ids = new_array(n, sizeof *w->classes.ids))) status = FAILED;
	if (!status) {
		w->classes.n = (int64_t)n;
		json_array_foreach(list, i, v) w->classes.ids[i] = (int32_t)json_integer_value(v);
	}
	json_decref(state);
	st_free(&f);
	return status;
}

static int run_predict(work *w)
{
	const args *a = w->a;
	if (!a->posterior) return fail(USAGE, "-p", "a posterior is needed");
	if (a->validation) return fail(USAGE, "--validation", "is for 'lora posterior fit'");
	int status = open_all(w, "posterior_predict");
	if (!status && lora_posterior_load(w->s.model, w->s.adapters[0], a->posterior, &w->p)) status = fail_library(w->s.ctx, a->posterior);
	if (!status) status = classes_of_file(w, a->posterior);
	lora_posterior_info info = { .struct_size = sizeof info };
	if (!status && lora_posterior_get_info(w->p, &info)) status = fail_library(w->s.ctx, a->posterior);
	if (!status && info.n_classes != w->classes.n) status = fail(USAGE, "classes", "the posterior has %lld classes", (long long)info.n_classes);
	if (status) return status;
	double start = seconds_now();
	progress_start(&w->bar, "predict", 0, w->n);
	for (int64_t i = 0; i < w->n && !status; i++) {
		lora_batch b;
		status = stop_asked();
		if (!status) status = data_batch(&w->data, i, &b);
		if (!status) status = predict_batch(w, &b);
		if (!status) progress_show(&w->bar, i + 1, "");
	}
	progress_end(&w->bar);
	if (!status && !w->map.n && !a->output) status = fail(FAILED, a->data, "has no labelled rows to evaluate on; -o writes predictions");
	if (!status && a->output) status = write_rows(w);
	return status ? status : report_predictions(w, seconds_now() - start);
}

static int run(const args *a)
{
	static const char *const verbs[] = { "fit", "predict" };
	work w;
	memset(&w, 0, sizeof w);
	w.a = a;
	int status, predict = !strcmp(a->positional[0], "predict");
	if (!predict && strcmp(a->positional[0], "fit")) {
		const char *near = nearest_name(a->positional[0], verbs, 2);
		return fail(USAGE, a->positional[0], "must be fit or predict%s%s", near ? "; did you mean " : "", near ? near : "");
	}
	status = predict ? run_predict(&w) : run_fit(&w);
	lora_posterior_destroy(w.p);
	lora_settings_destroy(w.settings);
	metrics_free(&w.map), metrics_free(&w.laplace);
	void *all[] = { w.kept[0], w.kept[1], w.kept[2], w.kept_label, w.classes.ids };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
	data_close(&w.data), data_close(&w.held);
	session_close(&w.s);
	return status;
}

const command command_posterior = { "posterior", "fit -m MODEL -a ADAPTER -d DATA -o FILE [--validation FILE] | predict -m MODEL -a ADAPTER -p FILE -d DATA [-o OUT]",
	"how sure an adapter is: Laplace-LoRA",
	"fit makes a Gaussian around the adapter's parameters from the data that it was trained on; predict averages over it. For classifiers,\n"
	"and for causal models with -s classes=[\"yes\",\"no\"] (texts of one token, or token ids; the first token of an answer is one).\n"
	"Settings: 'lora methods call posterior_fit' and 'posterior_predict', and those that say how to read data (see 'lora help eval').\n"
	"fit --dry-run tells the memory. predict -o writes probabilities, map_probabilities, covariance and labels as tensors.\n"
	"JSON of fit: examples, classes, matrices, parameters, prior_precision, log_likelihood, log_evidence, effective, memory, seconds; of\n"
	"predict: rows, map and laplace, each with accuracy, nll, ece, mce, ece_mass, brier, entropy and bins (for 'lora plot'), seconds.\n",
	"model adapter data output posterior validation dry-run skip-bad chat-template set", 1, 1, run };
