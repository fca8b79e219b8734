/* lora eval: loss and perplexity over a data file; for classifiers accuracy and calibration as well. */
#include "cli/commands.h"
#include "cli/data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BINS 15 /* of the calibration error, as in Guo et al. 2017 (arXiv:1706.04599) */

typedef struct evaluation {
	session s;
	dataset data;
	double loss_sum;
	int64_t tokens, rows, right;
	double nll, brier, bin_confidence[BINS];
	int64_t bin_count[BINS], bin_right[BINS];
} evaluation;

/* One row of class scores. Brier score: sum over classes of (p - onehot)^2, mean over rows (Brier 1950). */
static void count_row(evaluation *e, const float *logits, int64_t n, int32_t label)
{
	double max = logits[0], sum = 0, square = 0, best_p;
	int64_t best = 0;
	for (int64_t i = 1; i < n; i++)
		if (logits[i] > max) max = logits[best = i];
	for (int64_t i = 0; i < n; i++) sum += exp((double)logits[i] - max);
	for (int64_t i = 0; i < n; i++) {
		double d = exp((double)logits[i] - max) / sum - (i == label);
		square += d * d;
	}
	best_p = 1 / sum;
	e->rows++;
	e->right += best == label;
	e->nll += max + log(sum) - (double)logits[label];
	e->brier += square;
	int bin = (int)(best_p * BINS);
	if (bin >= BINS) bin = BINS - 1;
	e->bin_count[bin]++;
	e->bin_right[bin] += best == label;
	e->bin_confidence[bin] += best_p;
}

static int classify(evaluation *e, const lora_batch *batch)
{
	int64_t n = e->s.info.n_labels;
	size_t count = (size_t)(batch->n_sequences * n);
	float *logits = new_array(count, sizeof *logits);
	int status = OK;
	if (!logits) return FAILED;
	if (lora_model_forward(e->s.model, batch, logits, count * sizeof *logits)) status = fail_library(e->s.ctx, e->data.path);
	for (int64_t i = 0; !status && i < batch->n_sequences; i++) {
		if (batch->labels[i] < 0) continue;
		if (batch->labels[i] >= n) status = fail(FAILED, e->data.path, "label %d is out of the model's range", batch->labels[i]);
		else count_row(e, logits + i * n, n, batch->labels[i]);
	}
	free(logits);
	return status;
}

static int run_batches(evaluation *e)
{
	progress bar;
	int64_t n = data_batches(&e->data);
	int status = OK;
	progress_start(&bar, "eval", 0, n);
	for (int64_t i = 0; i < n && !status; i++) {
		lora_batch batch;
		double loss = 0;
		int64_t tokens = 0;
		status = data_batch(&e->data, i, &batch);
		if (!status && e->s.info.n_labels) status = classify(e, &batch);
		else if (!status && lora_model_loss(e->s.model, &batch, &loss, &tokens)) status = fail_library(e->s.ctx, e->data.path);
		e->loss_sum += loss * (double)tokens;
		e->tokens += tokens;
		progress_show(&bar, i + 1, "");
	}
	progress_end(&bar);
	return status;
}

static int report(const evaluation *e, const args *a, double seconds)
{
	int classes = e->s.info.n_labels > 0;
	int64_t n = classes ? e->rows : e->tokens;
	double loss = n ? (classes ? e->nll : e->loss_sum) / (double)n : 0, ece = 0;
	char text[32];

	if (!n) return fail(FAILED, e->data.path, "has no labelled tokens to evaluate on");
	for (int i = 0; i < BINS; i++) ece += fabs((double)e->bin_right[i] - e->bin_confidence[i]) / (double)n;
	if (a->json) {
		json_t *root = json_object();
		json_object_set_new(root, "loss", json_number(loss));
		json_object_set_new(root, "perplexity", json_number(exp(loss)));
		json_object_set_new(root, "tokens", json_integer(n));
		if (classes) {
			json_object_set_new(root, "accuracy", json_number((double)e->right / (double)n));
			json_object_set_new(root, "nll", json_number(loss));
			json_object_set_new(root, "ece", json_number(ece));
			json_object_set_new(root, "brier", json_number(e->brier / (double)n));
		}
		json_object_set_new(root, "bad_lines", json_integer(e->data.bad));
		json_object_set_new(root, "seconds", json_number(seconds));
		return print_json(root);
	}
	say("loss        %.7g\n", loss);
	if (classes)
		say("accuracy    %.4g\nece         %.4g\nbrier       %.4g\nrows        ", (double)e->right / (double)n, ece,
			e->brier / (double)n);
	else say("perplexity  %.7g\ntokens      ", exp(loss));
	say("%s\n", format_count(n, text, sizeof text));
	return OK;
}

/* The few settings that say how to read the data. */
static int read_settings(const args *a, const session *s, data_options *o)
{
	static const char *const names[] = { "batch_size", "sequence_length", "loss_on", "packing", "num_labels" };
	*o = (data_options){ .batch_size = 8, .sequence_length = 512, .completion_only = 1, .skip_bad = a->skip_bad, .chat_template = a->chat_template };
	if (s->info.max_positions >= 2 && s->info.max_positions < 512) o->sequence_length = s->info.max_positions;
	for (size_t i = 0; i < a->n_settings; i++) {
		const char *name = a->settings[i].name, *text = a->settings[i].text;
		int64_t n = 0;
		if (!strcmp(name, "batch_size")) {
			if (!parse_int(text, &o->batch_size) || o->batch_size < 1) return fail(USAGE, name, "must be a whole number above 0");
		} else if (!strcmp(name, "sequence_length")) {
			if (!parse_int(text, &n) || n < 2) return fail(USAGE, name, "must be a whole number above 1");
			if (s->info.max_positions >= 2 && n > s->info.max_positions)
				return fail(USAGE, name, "%s is more than the model's %lld positions", text, (long long)s->info.max_positions);
			o->sequence_length = n;
		} else if (!strcmp(name, "loss_on")) {
			if (strcmp(text, "all") && strcmp(text, "completion")) return fail(USAGE, name, "must be all or completion");
			o->completion_only = !strcmp(text, "completion");
		} else if (!strcmp(name, "packing")) {
			if (strcmp(text, "true") && strcmp(text, "false")) return fail(USAGE, name, "must be true or false");
			o->packing = !strcmp(text, "true");
		} else if (strcmp(name, "num_labels")) { /* session_model() has read it */
			const char *near = nearest_name(name, names, 5);
			return fail(USAGE, name, "no such setting of eval%s%s", near ? "; did you mean " : "", near ? near : "");
		}
	}
	return OK;
}

static int run(const args *a)
{
	evaluation e;
	data_options o;
	int status;

	memset(&e, 0, sizeof e);
	if (!a->data) return fail(USAGE, "-d", "data is needed");
	status = session_context(&e.s, a);
	if (!status) status = session_model(&e.s, a);
	if (!status) status = read_settings(a, &e.s, &o);
	if (!status) status = session_adapters(&e.s, a, 1);
	if (!status && !e.s.info.has_head)
		status = fail(FAILED, a->model, "has no head to evaluate: it gives hidden states (lora score), or needs an adapter with a classifier");
	if (!status) status = data_open(&e.data, &e.s, a->data, a->model, &o);
	if (!status) {
		double start = seconds_now();
		status = run_batches(&e);
		if (!status) status = report(&e, a, seconds_now() - start);
	}
	data_close(&e.data);
	session_close(&e.s);
	return status;
}

const command command_eval = { "eval", "-m MODEL [-a ADAPTER[=SCALE]]... -d DATA [-s NAME=VALUE]...",
	"loss and perplexity over data",
	"DATA as for train, in its own order. Settings: sequence_length (512, or the model's positions), batch_size (8),\n"
	"loss_on (completion), packing (false).\n"
	"JSON: loss (mean over all counted tokens), perplexity, tokens (counted ones), bad_lines, seconds; for classifiers also accuracy, nll,\n"
	"ece (15 equal bins), brier, and tokens counts the rows.\n",
	"model adapter data skip-bad chat-template set", 0, 0, run };
