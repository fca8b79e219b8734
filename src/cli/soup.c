/* lora combine --type greedy_soup: the average of those adapters that go well together. Adapters are taken in the order of their own loss; one stays in the soup when the
 * loss of the average with it is not above that without, but for the rounding of its sums (Wortsman et al. 2022, arXiv:2203.05482, recipe 1). The average is that of the deltas. */
#include "cli/commands.h"
#include "cli/measure.h"

#include <stdlib.h>
#include <string.h>

#define ROUNDING 1e-6 /* of a loss: what the order of sums in F32 may change */

typedef struct soup {
	session s;
	measure data;
	lora_settings *settings; /* of linear */
	double *loss, *weight, best;
	size_t *order, kept;
	progress bar;
	int64_t done;
} soup;

static int read_settings(soup *p, const args *a)
{
	json_t *member = family_member(p->s.ctx, "combination", "linear"), *x;
	const char *names[32];
	size_t n = 0, k;
	int status = OK;
	json_array_foreach(json_object_get(member, "settings"), k, x) if (n < 32) names[n++] = json_string_value(json_object_get(x, "name"));
	if (lora_settings_create(p->s.ctx, &p->settings)) status = fail_library(p->s.ctx, "-s");
	for (size_t i = 0; i < a->n_settings && !status; i++) {
		const char *name = a->settings[i].name, *text = a->settings[i].text;
		int taken, known = 0;
		status = measure_setting(&p->data, &p->s, &a->settings[i], &taken);
		for (k = 0; k < n; k++) known |= !strcmp(names[k], name);
		if (status || taken) continue;
		const char *near = known ? NULL : measure_nearest(name, names, n);
		if (!known) status = fail(USAGE, name, "no such setting of greedy_soup%s%s", near ? "; did you mean " : "", near ? near : "");
		else if (lora_settings_set_text(p->settings, name, text)) status = fail_library(p->s.ctx, name);
	}
	json_decref(member);
	return status;
}

/* Loss of the average of those in the soup and one more. */
static int taste(soup *p, const args *a, size_t more, double *loss)
{
	size_t n = p->kept + 1;
	int status = OK;
	for (size_t i = 0; i < n && !status; i++) {
		size_t k = i < p->kept ? p->order[i] : more;
		if (lora_adapter_attach(p->s.adapters[k], 1.0 / (double)n)) status = fail_library(p->s.ctx, a->adapters[k].path);
	}
	if (!status) status = measure_loss(&p->data, &p->s, loss);
	for (size_t i = 0; i < n && !status; i++) {
		size_t k = i < p->kept ? p->order[i] : more;
		if (lora_adapter_detach(p->s.adapters[k])) status = fail_library(p->s.ctx, a->adapters[k].path);
	}
	progress_show(&p->bar, ++p->done, "");
	return status;
}

/* order: those in the soup first, the others behind in the order of their loss. */
static int cook(soup *p, const args *a)
{
	size_t n = a->n_adapters;
	int status = OK;
	progress_start(&p->bar, "soup", 0, (int64_t)(2 * n - 1));
	for (size_t i = 0; i < n && !status; i++) {
		status = taste(p, a, i, &p->loss[i]);
		size_t k = i;
		for (; k > 0 && p->loss[p->order[k - 1]] > p->loss[i]; k--) p->order[k] = p->order[k - 1];
		p->order[k] = i;
	}
	if (!status) p->best = p->loss[p->order[0]], p->kept = 1;
	for (size_t at = 1; at < n && !status; at++) {
		size_t next = p->order[at];
		double loss;
		status = taste(p, a, next, &loss);
		if (status || loss > p->best * (1 + ROUNDING)) continue;
		memmove(p->order + p->kept + 1, p->order + p->kept, (at - p->kept) * sizeof *p->order);
		p->order[p->kept++] = next, p->best = loss;
	}
	progress_end(&p->bar);
	for (size_t i = 0; i < p->kept; i++) p->weight[p->order[i]] = 1.0 / (double)p->kept;
	return status;
}

static int serve(soup *p, const args *a)
{
	lora_adapter *made = NULL, **in = new_array(p->kept, sizeof *in);
	double *weight = new_array(p->kept, sizeof *weight);
	int status = in && weight ? OK : FAILED;
	for (size_t i = 0; i < p->kept && !status; i++) in[i] = p->s.adapters[p->order[i]], weight[i] = 1.0 / (double)p->kept;
	if (!status && lora_adapter_combine(in, weight, (int64_t)p->kept, "linear", p->settings, &made)) status = fail_library(p->s.ctx, "greedy_soup");
	if (!status) status = save_adapter(&p->s, made, a);
	lora_adapter_destroy(made);
	free(in), free(weight);
	return status;
}

static int tell(const soup *p, const args *a, double start)
{
	if (!a->json) {
		for (size_t i = 0; i < a->n_adapters; i++) say("%8.4f  %s (loss %.6g)\n", p->weight[i], a->adapters[i].path, p->loss[i]);
		return say("kept %zu of %zu adapters: loss %.6g; wrote %s\n", p->kept, a->n_adapters, p->best, a->output);
	}
	json_t *list = json_array();
	for (size_t i = 0; i < a->n_adapters; i++)
		json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "adapter", json_path(a->adapters[i].path), "weight", json_number(p->weight[i]), "loss",
			json_number(p->loss[i])));
	return print_json(json_pack("{s:o, s:s, s:I, s:I, s:o, s:o, s:I, s:o}", "output", json_path(a->output), "type", "greedy_soup", "adapters", (json_int_t)a->n_adapters, "kept",
		(json_int_t)p->kept, "weights", list, "loss", json_number(p->best), "evaluations", (json_int_t)p->done, "seconds", json_number(seconds_now() - start)));
}

int combine_soup(const args *a)
{
	soup p;
	double start = seconds_now();
	if (!a->model || !a->data) return fail(USAGE, a->model ? "-d" : "-m", "greedy_soup needs a model and data to taste on");
	for (size_t i = 0; i < a->n_adapters; i++)
		if (a->adapters[i].scale != 1) return fail(USAGE, "-a", "greedy_soup weighs by itself: give the adapters without weights");
	int status = adapter_output(a);
	if (status) return status;
	memset(&p, 0, sizeof p);
	p.loss = new_array(a->n_adapters, sizeof *p.loss), p.weight = new_array(a->n_adapters, sizeof *p.weight), p.order = new_array(a->n_adapters, sizeof *p.order);
	status = p.loss && p.weight && p.order ? session_context(&p.s, a) : FAILED;
	if (!status) status = session_model(&p.s, a);
	if (!status) measure_defaults(&p.data, &p.s, a);
	if (!status) status = read_settings(&p, a);
	if (!status) status = session_adapters(&p.s, a, 0);
	if (!status) status = measure_open(&p.data, &p.s, a);
	if (!status) status = cook(&p, a);
	if (!status) status = serve(&p, a);
	if (!status) status = tell(&p, a, start);
	free(p.loss), free(p.weight), free(p.order);
	lora_settings_destroy(p.settings);
	measure_close(&p.data);
	session_close(&p.s);
	return status;
}
