/* lora: the mean loss over a data file. */
#include "cli/measure.h"

#include <string.h>

static const char *const names[] = { "batch_size", "sequence_length", "loss_on", "packing", "max_batches", "num_labels" };
enum { N_NAMES = sizeof names / sizeof *names };

void measure_defaults(measure *m, const session *s, const args *a)
{
	memset(m, 0, sizeof *m);
	m->options = (data_options){ .batch_size = 8, .sequence_length = 512, .completion_only = 1, .skip_bad = a->skip_bad, .chat_template = a->chat_template };
	if (s->info.max_positions >= 2 && s->info.max_positions < 512) m->options.sequence_length = s->info.max_positions;
}

int measure_setting(measure *m, const session *s, const char *name, const char *text, int *taken)
{
	data_options *o = &m->options;
	*taken = 1;
	if (!strcmp(name, "batch_size")) return parse_int(text, &o->batch_size) && o->batch_size > 0 ? OK : fail(USAGE, name, "must be a whole number above 0");
	if (!strcmp(name, "max_batches")) return parse_int(text, &m->max_batches) && m->max_batches > 0 ? OK : fail(USAGE, name, "must be a whole number above 0");
	if (!strcmp(name, "sequence_length")) {
		if (!parse_int(text, &o->sequence_length) || o->sequence_length < 2) return fail(USAGE, name, "must be a whole number above 1");
		if (s->info.max_positions >= 2 && o->sequence_length > s->info.max_positions)
			return fail(USAGE, name, "%s is more than the model's %lld positions", text, (long long)s->info.max_positions);
		return OK;
	}
	if (!strcmp(name, "loss_on")) {
		o->completion_only = !strcmp(text, "completion");
		return o->completion_only || !strcmp(text, "all") ? OK : fail(USAGE, name, "must be all or completion");
	}
	if (!strcmp(name, "packing")) {
		o->packing = !strcmp(text, "true");
		return o->packing || !strcmp(text, "false") ? OK : fail(USAGE, name, "must be true or false");
	}
	*taken = !strcmp(name, "num_labels"); /* session_model() has read it */
	return OK;
}

const char *measure_nearest(const char *name, const char *const *more, size_t n)
{
	const char *all[32];
	size_t count = 0;
	for (; count < N_NAMES; count++) all[count] = names[count];
	for (size_t i = 0; i < n && count < 32; i++) all[count++] = more[i];
	return nearest_name(name, all, count);
}

int measure_open(measure *m, session *s, const args *a)
{
	if (!s->info.has_head) return fail(FAILED, a->model, "has no head to take a loss from");
	return data_open(&m->set, s, a->data, a->model, &m->options);
}

int measure_loss(measure *m, session *s, double *loss)
{
	double sum = 0;
	int64_t n = data_batches(&m->set), count = 0;
	if (m->max_batches && m->max_batches < n) n = m->max_batches;
	for (int64_t i = 0; i < n; i++) {
		lora_batch batch;
		double mean = 0;
		int64_t tokens = 0;
		if (data_batch(&m->set, i, &batch)) return FAILED;
		if (lora_model_loss(s->model, &batch, &mean, &tokens)) return fail_library(s->ctx, m->set.path);
		sum += mean * (double)tokens;
		count += tokens;
	}
	if (!count) return fail(FAILED, m->set.path, "has no labelled tokens to measure on");
	m->tokens = count;
	*loss = sum / (double)count;
	return OK;
}

void measure_close(measure *m)
{
	if (m->set.path) data_close(&m->set);
	memset(m, 0, sizeof *m);
}
