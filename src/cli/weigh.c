/* lora: weights of adapters by search on a few examples, for combine and hub. */
#include "cli/weigh.h"

#include <stdlib.h>
#include <string.h>

static int has_setting(lora_context *ctx, const char *family, const char *member, const char *name)
{
	json_t *m = family_member(ctx, family, member), *x;
	size_t i;
	int found = 0;
	json_array_foreach(json_object_get(m, "settings"), i, x) found |= !strcmp(json_string_value(json_object_get(x, "name")), name);
	json_decref(m);
	return found;
}

static int check_member(lora_context *ctx, const char *family, const char *what, const char *name)
{
	json_t *member = family_member(ctx, family, name);
	const char *names[64];
	size_t n = 0;
	json_decref(member);
	if (member) return OK;
	for (; n < 64 && (names[n] = lora_family_name(family, (int32_t)n)); n++) continue;
	const char *near = nearest_name(name, names, n);
	return fail(USAGE, what, "there is no \"%s\"%s%s; 'lora methods %s' lists them", name, near ? "; did you mean " : "", near ? near : "", family);
}

static int unknown(session *s, const weighing *w, const char *name)
{
	static const char *const plain[] = { "search", DATA_SETTINGS };
	const char *names[64], *near = NULL;
	size_t n = 0, i;
	json_t *member[2] = { family_member(s->ctx, "search", w->method), family_member(s->ctx, "combination", w->type) }, *x;
	for (; n <= N_DATA_SETTINGS; n++) names[n] = plain[n];
	for (int k = 0; k < 2; k++)
		json_array_foreach(json_object_get(member[k], "settings"), i, x)
			if (n < 64) names[n++] = json_string_value(json_object_get(x, "name"));
	near = nearest_name(name, names, n);
	int status = fail(USAGE, name, "no such setting of %s, %s or the data%s%s", w->method, w->type, near ? "; did you mean " : "", near ? near : "");
	json_decref(member[0]), json_decref(member[1]);
	return status;
}

int weigh_settings(weighing *w, session *s, const args *a, const char *own)
{
	w->type = a->type ? a->type : "lorahub";
	w->method = lora_family_name("search", 0);
	data_defaults(a, s, &w->data);
	w->data.batch_size = 64;
	if (lora_settings_create(s->ctx, &w->search_settings) || lora_settings_create(s->ctx, &w->type_settings)) return fail_library(s->ctx, "-s");
	for (size_t i = 0; i < a->n_settings; i++)
		if (!strcmp(a->settings[i].name, "search")) w->method = a->settings[i].text;
	int status = check_member(s->ctx, "combination", "--type", w->type);
	if (!status) status = check_member(s->ctx, "search", "search", w->method);
	if (!status && a->seed != UNSET && lora_settings_set_int(w->search_settings, "seed", a->seed)) status = fail_library(s->ctx, "--seed");
	for (size_t i = 0; i < a->n_settings && !status; i++) {
		const char *name = a->settings[i].name, *text = a->settings[i].text;
		int taken;
		if (!strcmp(name, "search") || (own && !strcmp(name, own))) continue;
		status = data_setting(&a->settings[i], s, &w->data, &taken);
		if (status || taken) continue;
		lora_settings *to = has_setting(s->ctx, "search", w->method, name) ? w->search_settings : has_setting(s->ctx, "combination", w->type, name) ? w->type_settings : NULL;
		if (!to) status = unknown(s, w, name);
		else if (lora_settings_set_text(to, name, text)) status = fail_library(s->ctx, name);
	}
	return status;
}

static int copy_ints(const int32_t **p, int64_t n)
{
	if (!*p) return OK;
	int32_t *copy = new_array((size_t)n, sizeof *copy);
	if (!copy) return FAILED;
	memcpy(copy, *p, (size_t)n * sizeof *copy);
	*p = copy;
	return OK;
}

static int read_batches(weighing *w, session *s, const args *a)
{
	int status = data_open(&w->set, s, a->data, a->model, &w->data);
	if (status) return status;
	int64_t n = data_batches(&w->set);
	w->batches = new_array((size_t)n, sizeof *w->batches);
	if (!w->batches) return FAILED;
	for (int64_t i = 0; i < n; i++) {
		lora_batch *b = &w->batches[i];
		if (data_batch(&w->set, i, b)) return FAILED;
		int64_t size = b->n_sequences * b->length, labels = s->info.n_labels ? b->n_sequences : b->decoder_length ? b->n_sequences * b->decoder_length : size;
		const int32_t **list[] = { &b->input_ids, &b->attention_mask, &b->position_ids, &b->labels };
		for (int k = 0; k < 4; k++)
			if (copy_ints(list[k], k == 3 ? labels : size)) return FAILED;
		w->n_batches = i + 1;
	}
	return OK;
}

typedef struct watcher { progress bar; } watcher;

static int32_t watching(void *user, const lora_search_result *r)
{
	watcher *x = user;
	char text[48];
	snprintf(text, sizeof text, "loss %.4f", r->loss);
	progress_show(&x->bar, r->evaluations, text);
	return 0;
}

int weigh_search(weighing *w, session *s, const args *a, double *weights)
{
	lora_search_options o;
	watcher x;
	int64_t budget = 0;
	if (!s->info.has_head) return fail(FAILED, a->model, "has no head to take a loss from");
	int status = read_batches(w, s, a);
	if (status) return status;
	if (lora_search_options_init(&o, sizeof o)) return fail(FAILED, "lora", "library and program do not fit each other");
	o.method = w->method, o.settings = w->search_settings, o.type = w->type, o.type_settings = w->type_settings, o.progress = watching, o.user = &x;
	w->found.struct_size = sizeof w->found;
	memset(weights, 0, s->n_adapters * sizeof *weights);
	if (lora_settings_get_int(w->search_settings, "budget", &budget)) budget = 40;
	progress_start(&x.bar, "search", 0, budget);
	lora_status st = lora_adapter_search(s->adapters, (int64_t)s->n_adapters, w->batches, w->n_batches, &o, weights, &w->found);
	progress_end(&x.bar);
	if (st) return fail_library(s->ctx, st == LORA_E_ARGUMENT ? NULL : a->data);
	double sum = 0;
	for (size_t i = 0; i < s->n_adapters; i++) sum += weights[i] < 0 ? -weights[i] : weights[i];
	if (sum == 0) warn(a->data, "no weights are better than none (0 everywhere): try a larger budget or a smaller l1");
	return OK;
}

void weigh_report(const weighing *w, json_t *object)
{
	json_object_set_new(object, "search", json_string(w->method));
	json_object_set_new(object, "evaluations", json_integer(w->found.evaluations));
	json_object_set_new(object, "loss", json_number(w->found.loss));
	json_object_set_new(object, "start_loss", json_number(w->found.start_loss));
	json_object_set_new(object, "objective", json_number(w->found.objective));
}

void weigh_close(weighing *w)
{
	for (int64_t i = 0; i < w->n_batches; i++) {
		free((void *)(uintptr_t)w->batches[i].input_ids);
		free((void *)(uintptr_t)w->batches[i].attention_mask);
		free((void *)(uintptr_t)w->batches[i].position_ids);
		free((void *)(uintptr_t)w->batches[i].labels);
	}
	free(w->batches);
	if (w->set.path) data_close(&w->set);
	lora_settings_destroy(w->type_settings);
	lora_settings_destroy(w->search_settings);
	memset(w, 0, sizeof *w);
}
