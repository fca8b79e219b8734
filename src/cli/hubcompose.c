/* lora hub compose: choose adapters of a hub that fit a model, search their weights on a few examples, write the combination. */
#include "cli/commands.h"
#include "cli/hub.h"
#include "cli/weigh.h"

#include <stdlib.h>
#include <string.h>

typedef struct choice {
	json_t *rows, *skipped; /* rows in use; names of what was left out */
	const char **names;
	double *weights;
} choice;

/* The rows of the given names, or all. */
static int candidates(hub *h, const args *a, choice *c)
{
	int status = OK;
	if (a->n_positional == 2) return hub_rows(h, NULL, NULL, 0, &c->rows);
	c->rows = json_array();
	for (size_t i = 2; i < a->n_positional && !status; i++) {
		json_t *one = NULL;
		const char *problem = name_problem(a->positional[i], strlen(a->positional[i]));
		if (problem) return fail(USAGE, "NAME", "%s", problem);
		for (size_t k = 2; k < i; k++)
			if (!strcmp(a->positional[k], a->positional[i])) return fail(USAGE, a->positional[i], "is given twice");
		status = hub_rows(h, a->positional[i], NULL, 0, &one);
		if (!status && !json_array_size(one)) status = fail(FAILED, a->positional[i], "is not in the hub; 'lora hub list' shows what is");
		if (!status) json_array_append(c->rows, json_array_get(one, 0));
		json_decref(one);
	}
	return status;
}

static void skip(choice *c, size_t i, const char *why, int quiet)
{
	json_t *name = json_object_get(json_array_get(c->rows, i), "name");
	if (!quiet) warn(json_string_value(name), "is left out: %s", why);
	json_array_append(c->skipped, name);
	json_array_remove(c->rows, i);
}

/* Another base: an error where the adapter was named, else it is left out. */
static int keep_base(const args *a, choice *c, const char *hash)
{
	for (size_t i = json_array_size(c->rows); i-- > 0;) {
		json_t *row = json_array_get(c->rows, i), *name = json_object_get(row, "name");
		const char *base = json_string_value(json_object_get(row, "base_sha256")), *text = json_string_value(name);
		if (!text || name_problem(text, json_string_length(name))) skip(c, i, "its name is not one that a hub gives", 0);
		else if (base && strcmp(base, hash)) {
			if (a->n_positional > 2 && !a->force) return fail(FAILED, text, "is of another base model (%s); --force takes it all the same", text_ok(base, strlen(base)) ? base : "?");
			if (a->n_positional == 2) skip(c, i, "", 1);
		} else if (a->n_positional == 2 && json_is_string(json_object_get(row, "method")) && strcmp(json_string_value(json_object_get(row, "method")), "lora")) skip(c, i, "only LoRA can be combined", 1);
	}
	return OK;
}

/* LoraHub adds factors up, so ranks must be equal: the most frequent one stays. */
static void keep_rank(choice *c)
{
	size_t best = 0, most = 0;
	for (size_t i = 0; i < json_array_size(c->rows); i++) {
		size_t same = 0;
		for (size_t k = 0; k < json_array_size(c->rows); k++) same += json_equal(json_object_get(json_array_get(c->rows, i), "rank"), json_object_get(json_array_get(c->rows, k), "rank"));
		if (same > most) most = same, best = i;
	}
	json_t *rank = json_incref(json_object_get(json_array_get(c->rows, best), "rank"));
	for (size_t i = json_array_size(c->rows); i-- > 0;)
		if (!json_equal(rank, json_object_get(json_array_get(c->rows, i), "rank"))) skip(c, i, "it has another rank than most", 0);
	json_decref(rank);
}

static int draw(const args *a, choice *c)
{
	int64_t most = 20;
	uint64_t seed = a->seed == UNSET ? 0 : (uint64_t)a->seed;
	for (size_t i = 0; i < a->n_settings; i++)
		if (!strcmp(a->settings[i].name, "adapters") && (!parse_int(a->settings[i].text, &most) || most < 1)) return fail(USAGE, "adapters", "must be a whole number above 0");
	for (uint64_t k = 0; (int64_t)json_array_size(c->rows) > most; k++) skip(c, (size_t)(data_hash(data_hash(seed) + k) % json_array_size(c->rows)), "", 1);
	return OK;
}

/* One that cannot be opened on this model is an error where it was named, else it is left out. */
static int open_chosen(hub *h, const args *a, session *s, choice *c)
{
	size_t n = json_array_size(c->rows), at = 0;
	int status = OK;
	c->names = new_array(n, sizeof *c->names);
	c->weights = new_array(n, sizeof *c->weights);
	s->adapters = new_array(n, sizeof *s->adapters);
	if (!c->names || !c->weights || !s->adapters) return FAILED;
	while (at < json_array_size(c->rows) && !status) {
		const char *name = json_string_value(json_object_get(json_array_get(c->rows, at), "name"));
		lora_settings *settings = NULL;
		char *path = hub_adapter(h, name);
		if (!path || lora_settings_create(s->ctx, &settings) || lora_settings_set_string(settings, "name", name)) status = FAILED;
		else if (!lora_adapter_open(s->model, path, settings, &s->adapters[at])) c->names[at++] = name, s->n_adapters = at;
		else if (a->n_positional > 2) status = fail_library(s->ctx, path);
		else skip(c, at, lora_context_last_error(s->ctx), 0);
		lora_settings_destroy(settings);
		free(path);
	}
	if (!status && !at) status = fail(FAILED, h->root, "has no adapters for this model");
	return status;
}

static int choose(hub *h, const args *a, session *s, choice *c)
{
	char hash[SHA256_TEXT] = "";
	size_t i;
	json_t *row;
	int hashed = 0, status = candidates(h, a, c);
	json_array_foreach(c->rows, i, row) hashed |= json_is_string(json_object_get(row, "base_sha256"));
	if (!status && hashed) status = model_sha256(a->model, hash);
	if (!status) status = keep_base(a, c, hash);
	if (!status && a->n_positional == 2 && (!a->type || !strcmp(a->type, "lorahub"))) keep_rank(c);
	if (!status && a->n_positional == 2) status = draw(a, c);
	if (!status && !json_array_size(c->rows)) status = fail(FAILED, h->root, "has no adapters for this model");
	if (status) return status;
	return open_chosen(h, a, s, c);
}

int hub_compose(hub *h, const args *a)
{
	session s = { 0 };
	weighing w = { 0 };
	choice c = { .skipped = json_array() };
	lora_adapter *made = NULL;
	double start = seconds_now();
	int status = a->data ? adapter_output(a) : fail(USAGE, "-d", "data is needed: a few examples of the task");
	if (!status) status = session_context(&s, a);
	if (!status) status = session_model(&s, a);
	if (!status) status = weigh_settings(&w, &s, a, "adapters");
	if (!status) status = choose(h, a, &s, &c);
	if (!status) status = weigh_search(&w, &s, a, c.weights);
	if (!status && lora_adapter_combine(s.adapters, c.weights, (int64_t)s.n_adapters, w.type, w.type_settings, &made)) status = fail_library(s.ctx, w.type);
	if (!status) status = save_adapter(&s, made, a);
	if (!status) status = tell_combined(a, w.type, made, start, s.n_adapters, c.names, c.weights, &w, c.skipped);
	lora_adapter_destroy(made);
	weigh_close(&w);
	session_close(&s);
	free(c.names), free(c.weights);
	json_decref(c.rows), json_decref(c.skipped);
	return status;
}
