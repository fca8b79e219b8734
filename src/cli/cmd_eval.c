/* lora eval: loss and perplexity over a data file; for classifiers, and for answers of a few tokens, accuracy and calibration: of one model, of an ensemble of
 * adapters (Wang et al. 2023, arXiv:2310.00035), with dropout on (Gal and Ghahramani 2016, arXiv:1506.02142), and with a temperature (Guo et al. 2017, arXiv:1706.04599). */
#include "cli/classify.h"
#include "cli/commands.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct evaluation {
	session s;
	const args *a;
	dataset *data;       /* the one that is being read */
	double loss_sum;
	int64_t tokens;
	classes classes;
	int64_t members;     /* predictions that are averaged */
	metrics all, *member; /* member: of an ensemble */
	double disagreement, temperature;
	/* kept for fitting the temperature: log p and label of every row */
	int keep;
	double *kept;
	int32_t *kept_label;
	size_t n_kept, room;
	logit_room logits;
	double *lp, *mean;
	int32_t *label, *rows;
	int64_t *column;
	size_t batch_room;
} evaluation;

/* p = softmax(log p / T) */
static void tempered(const double *lp, int64_t n, double temperature, double *p)
{
	double most = -INFINITY, sum = 0;
	for (int64_t k = 0; k < n; k++) most = fmax(most, lp[k]);
	for (int64_t k = 0; k < n; k++) sum += p[k] = exp((lp[k] - most) / temperature);
	for (int64_t k = 0; k < n; k++) p[k] /= sum;
}

static int reserve(evaluation *e, size_t n)
{
	size_t c = (size_t)e->classes.n;
	if (n <= e->batch_room) return OK;
	free(e->lp), free(e->mean), free(e->label), free(e->rows), free(e->column);
	e->lp = new_array(n * c, sizeof *e->lp), e->mean = new_array(n * c + c, sizeof *e->mean);
	e->label = new_array(n, sizeof *e->label), e->rows = new_array(n, sizeof *e->rows), e->column = new_array(n, sizeof *e->column);
	e->batch_room = n;
	return e->lp && e->mean && e->label && e->rows && e->column ? OK : FAILED;
}

static double entropy(const double *p, int64_t n)
{
	double h = 0;
	for (int64_t k = 0; k < n; k++)
		if (p[k] > 0) h -= p[k] * log(p[k]);
	return h;
}

/* mean = average of the members' probabilities. */
static int average(evaluation *e, lora_batch *b, int64_t number)
{
	int64_t c = e->classes.n, cells = b->n_sequences * c;
	int status = OK;
	memset(e->mean, 0, sizeof *e->mean * (size_t)cells);
	for (int64_t k = 0; k < e->members && !status; k++) {
		if (e->a->ensemble) {
			for (int64_t r = 0; r < b->n_sequences; r++) e->rows[r] = (int32_t)k;
			b->adapter_rows = e->rows, b->adapters = e->s.adapters, b->n_adapters = (int64_t)e->s.n_adapters;
		}
		uint64_t seed = data_hash((uint64_t)(e->a->seed == UNSET ? 0 : e->a->seed) ^ data_hash((uint64_t)(number * e->members + k)));
		status = classes_logits(&e->classes, &e->s, b, e->column, e->a->mc_dropout != UNSET ? &seed : NULL, &e->logits, e->lp);
		for (int64_t r = 0; r < b->n_sequences && !status; r++) {
			double *lp = e->lp + r * c, *p = e->mean + e->batch_room * (size_t)c;
			tempered(lp, c, 1, p);
			if (e->label[r] < 0) continue;
			if (e->member) status = metrics_add(&e->member[k], p, c, e->label[r]);
			e->disagreement -= entropy(p, c) / (double)e->members;
			for (int64_t j = 0; j < c; j++) e->mean[r * c + j] += p[j] / (double)e->members;
		}
	}
	for (int64_t i = 0; i < cells && !status && e->members > 1; i++) e->lp[i] = log(fmax(e->mean[i], 1e-300));
	return status;
}

static int keep(evaluation *e, const double *lp, int32_t label)
{
	size_t c = (size_t)e->classes.n;
	if (e->n_kept == e->room) {
		size_t room = e->room ? 2 * e->room : 256;
		double *more = grow(e->kept, room * c, sizeof *more);
		if (!more) return FAILED;
		e->kept = more;
		int32_t *labels = grow(e->kept_label, room, sizeof *labels);
		if (!labels) return FAILED;
		e->kept_label = labels, e->room = room;
	}
	memcpy(e->kept + e->n_kept * c, lp, c * sizeof *lp);
	e->kept_label[e->n_kept++] = label;
	return OK;
}

static int classify(evaluation *e, lora_batch *batch, int64_t number)
{
	int64_t c = e->classes.n;
	int status = reserve(e, (size_t)batch->n_sequences);
	if (!status) status = classes_of(&e->classes, batch, e->data->path, e->label, e->column);
	if (!status) status = average(e, batch, number);
	for (int64_t r = 0; r < batch->n_sequences && !status; r++) {
		double *p = e->mean + e->batch_room * (size_t)c;
		if (e->label[r] < 0) continue;
		tempered(e->lp + r * c, c, 1, p);
		e->disagreement += entropy(p, c);
		tempered(e->lp + r * c, c, e->temperature, p);
		status = e->keep ? keep(e, e->lp + r * c, e->label[r]) : metrics_add(&e->all, p, c, e->label[r]);
	}
	return status;
}

static int run_batches(evaluation *e, const char *label)
{
	progress bar;
	int64_t n = data_batches(e->data);
	int status = OK;
	progress_start(&bar, label, 0, n);
	for (int64_t i = 0; i < n && !status; i++) {
		lora_batch batch;
		double loss = 0;
		int64_t tokens = 0;
		status = data_batch(e->data, i, &batch);
		if (!status && e->classes.n) status = classify(e, &batch, i);
		else if (!status && lora_model_loss(e->s.model, &batch, &loss, &tokens)) status = fail_library(e->s.ctx, e->data->path);
		e->loss_sum += loss * (double)tokens;
		e->tokens += tokens;
		progress_show(&bar, i + 1, "");
	}
	progress_end(&bar);
	return status;
}

/* ---- temperature ---- */

static double loss_with(const evaluation *e, double log_t)
{
	int64_t c = e->classes.n;
	double sum = 0, *p = e->mean;
	for (size_t i = 0; i < e->n_kept; i++) {
		tempered(e->kept + i * (size_t)c, c, exp(log_t), p);
		sum -= log(fmax(p[e->kept_label[i]], 1e-12));
	}
	return sum;
}

/* Golden sections over log T; the loss has one minimum in 1/T. */
static int fit_temperature(evaluation *e, const char *path, const data_options *o)
{
	const double golden = 0.6180339887498949;
	dataset d, *before = e->data;
	memset(&d, 0, sizeof d);
	int status = data_open(&d, &e->s, path, e->a->model, o);
	e->data = &d, e->keep = 1, e->temperature = 1;
	if (!status) status = run_batches(e, "temperature");
	if (!status && !e->n_kept) status = fail(FAILED, path, "has no labelled rows to fit a temperature on");
	double low = -5, high = 5, x = high - golden * (high - low), y = low + golden * (high - low);
	double at_x = status ? 0 : loss_with(e, x), at_y = status ? 0 : loss_with(e, y);
	for (int i = 0; i < 40 && !status; i++) {
		if (at_x < at_y) high = y, y = x, at_y = at_x, at_x = loss_with(e, x = high - golden * (high - low));
		else low = x, x = y, at_x = at_y, at_y = loss_with(e, y = low + golden * (high - low));
	}
	if (!status) e->temperature = exp((low + high) / 2);
	for (size_t k = 0; e->member && k < e->s.n_adapters; k++) metrics_free(&e->member[k]), memset(&e->member[k], 0, sizeof e->member[k]);
	e->keep = 0, e->disagreement = 0, e->data = before;
	data_close(&d);
	return status;
}

/* ---- what came out ---- */

static void report_members(const evaluation *e, json_t *root)
{
	double n = (double)e->all.n;
	if (e->members > 1) {
		json_object_set_new(root, "members", json_integer(e->members));
		json_object_set_new(root, "disagreement", json_number(e->disagreement / n));
	}
	if (e->temperature != 1) json_object_set_new(root, "temperature", json_number(e->temperature));
	if (!e->member) return;
	json_t *list = json_array();
	for (size_t k = 0; k < e->s.n_adapters; k++)
		json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:f, s:f}", "adapter", e->a->adapters[k].path, "accuracy", (double)e->member[k].right / n, "nll",
			e->member[k].nll / n, "ece", metrics_ece(&e->member[k]), "brier", e->member[k].brier / n));
	json_object_set_new(root, "each", list);
}

static int report(evaluation *e, double seconds)
{
	int64_t n = e->classes.n ? e->all.n : e->tokens;
	double loss = n ? (e->classes.n ? e->all.nll : e->loss_sum) / (double)n : 0;
	char text[32];

	if (!n) return fail(FAILED, e->data->path, "has no labelled tokens to evaluate on");
	if (e->a->json) {
		json_t *root = json_object();
		json_object_set_new(root, "loss", json_number(loss));
		json_object_set_new(root, "perplexity", json_number(exp(loss)));
		json_object_set_new(root, "tokens", json_integer(n));
		if (e->classes.n) {
			if (metrics_json(&e->all, root)) return FAILED;
			report_members(e, root);
		}
		json_object_set_new(root, "bad_lines", json_integer(e->data->bad));
		json_object_set_new(root, "seconds", json_number(seconds));
		return print_json(root);
	}
	say("loss        %.7g\n", loss);
	if (!e->classes.n) {
		say("perplexity  %.7g\ntokens      %s\n", exp(loss), format_count(n, text, sizeof text));
		return OK;
	}
	say("accuracy    %.4g\nece         %.4g\nbrier       %.4g\nrows        %s\n", (double)e->all.right / (double)n, metrics_ece(&e->all), e->all.brier / (double)n,
		format_count(n, text, sizeof text));
	if (e->temperature != 1) say("temperature %.4g\n", e->temperature);
	if (e->members > 1) say("members     %lld, which disagree by %.4g nat\n", (long long)e->members, e->disagreement / (double)n);
	return OK;
}

static int read_settings(const args *a, const session *s, data_options *o)
{
	static const char *const names[] = { DATA_SETTINGS, "classes" };
	int status = OK;
	data_defaults(a, s, o);
	for (size_t i = 0; i < a->n_settings && !status; i++) {
		int taken;
		status = data_setting(&a->settings[i], s, o, &taken);
		if (status || taken || !strcmp(a->settings[i].name, "classes")) continue; /* that one is classes_read()'s */
		const char *near = nearest_name(a->settings[i].name, names, N_DATA_SETTINGS + 1);
		return fail(USAGE, a->settings[i].name, "no such setting of eval%s%s", near ? "; did you mean " : "", near ? near : "");
	}
	return status;
}

/* What the options ask for, against the model. */
static int check(evaluation *e)
{
	const args *a = e->a;
	int wants = a->ensemble || a->mc_dropout != UNSET || a->temperature_text;
	if (!e->s.info.has_head)
		return fail(FAILED, a->model, "has no head to evaluate: it gives hidden states (lora score), or needs an adapter with a classifier");
	if (wants && !e->classes.n)
		return fail(USAGE, a->ensemble ? "--ensemble" : a->temperature_text ? "--temperature" : "--mc-dropout", "is for classifiers, and for causal models with -s classes=[...]");
	if (a->ensemble && a->mc_dropout != UNSET) return fail(USAGE, "--ensemble", "does not go together with --mc-dropout");
	if (a->ensemble && e->s.n_adapters < 1) return fail(USAGE, "--ensemble", "needs adapters (-a)");
	if (a->mc_dropout != UNSET && !e->s.n_adapters) return fail(USAGE, "--mc-dropout", "needs an adapter (-a): the dropout is the adapter's");
	if (!isnan(a->temperature) && a->temperature <= 0) return fail(USAGE, "--temperature", "must be above 0");
	double most = 0;
	for (size_t i = 0; i < e->s.n_adapters && a->mc_dropout != UNSET; i++) {
		char *text = NULL;
		size_t n = 0;
		lora_adapter_settings_json(e->s.adapters[i], NULL, 0, &n);
		if (!(text = new_bytes(n + 1))) return FAILED;
		if (!lora_adapter_settings_json(e->s.adapters[i], text, n + 1, &n)) {
			json_t *v = json_loads(text, 0, NULL);
			most = fmax(most, json_number_value(json_object_get(v, "lora_dropout")));
			json_decref(v);
		}
		free(text);
	}
	if (a->mc_dropout != UNSET && !(most > 0)) return fail(FAILED, "--mc-dropout", "the adapter has lora_dropout 0: every pass would be the same");
	e->members = a->ensemble ? (int64_t)e->s.n_adapters : a->mc_dropout != UNSET ? a->mc_dropout : 1;
	if (a->ensemble && !(e->member = new_array(e->s.n_adapters, sizeof *e->member))) return FAILED;
	return OK;
}

static int run(const args *a)
{
	evaluation e;
	dataset d;
	data_options o;
	int status;

	memset(&e, 0, sizeof e), memset(&d, 0, sizeof d);
	e.a = a, e.data = &d, e.temperature = isnan(a->temperature) ? 1 : a->temperature;
	if (!a->data) return fail(USAGE, "-d", "data is needed");
	status = session_context(&e.s, a);
	if (!status) status = session_model(&e.s, a);
	if (!status) status = read_settings(a, &e.s, &o);
	if (!status) status = session_adapters(&e.s, a, 1);
	if (!status) status = classes_read(&e.classes, &e.s, a, a->model);
	if (!status) status = check(&e);
	if (!status) status = data_open(&d, &e.s, a->data, a->model, &o);
	if (!status && a->temperature_text && !strncmp(a->temperature_text, "fit:", 4)) status = fit_temperature(&e, a->temperature_text + 4, &o);
	if (!status) {
		double start = seconds_now();
		status = run_batches(&e, "eval");
		if (!status) status = report(&e, seconds_now() - start);
	}
	for (size_t k = 0; e.member && k < e.s.n_adapters; k++) metrics_free(&e.member[k]);
	metrics_free(&e.all);
	void *all[] = { e.member, e.kept, e.kept_label, e.logits.p, e.lp, e.mean, e.label, e.rows, e.column, e.classes.ids };
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
	data_close(&d);
	session_close(&e.s);
	return status;
}

const command command_eval = { "eval", "-m MODEL [-a ADAPTER[=SCALE]]... -d DATA [--ensemble | --mc-dropout N] [--temperature T|fit:FILE] [-s NAME=VALUE]...",
	"loss and perplexity over data; accuracy and calibration of classes",
	"DATA as for train, in its own order. Settings: sequence_length (512, or the model's positions), batch_size (8),\n"
	"loss_on (completion), packing (false), classes (of a causal model: [\"yes\",\"no\"] or token ids; the first token of an answer is one).\n"
	"JSON: loss (mean over all counted tokens), perplexity, tokens (counted ones), bad_lines, seconds; for classifiers, and with classes, also\n"
	"accuracy, nll, ece (15 equal bins), mce, ece_mass (15 bins of equal mass), brier, entropy, bins (for 'lora plot'), and tokens counts the\n"
	"rows; with --ensemble and --mc-dropout members, disagreement (mutual information, nat) and each; temperature.\n",
	"model adapter data skip-bad chat-template ensemble mc-dropout temperature set", 0, 0, run };
