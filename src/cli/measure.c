/* lora: the mean loss over a data file. */
#include "cli/measure.h"

#include <string.h>

static const char *const names[] = { DATA_SETTINGS, "max_batches" };
enum { N_NAMES = N_DATA_SETTINGS + 1 };

void measure_defaults(measure *m, const session *s, const args *a)
{
	memset(m, 0, sizeof *m);
	data_defaults(a, s, &m->options);
}

int measure_setting(measure *m, const session *s, const setting_arg *set, int *taken)
{
	*taken = 1;
	if (!strcmp(set->name, "max_batches"))
		return parse_int(set->text, &m->max_batches) && m->max_batches > 0 ? OK : fail(USAGE, set->name, "must be a whole number above 0");
	return data_setting(set, s, &m->options, taken);
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
