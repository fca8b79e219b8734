/* lora: the settings of train. Which setting belongs to whom is learnt from introspection (lora_family_describe), so a new one of the library
 * needs no line here; the table below holds only what the program itself does. */
#include "cli/trainset.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const own_names[] = { "method", "optimizer", "num_train_epochs", "max_steps", "batch_size", "sequence_length",
	"packing", "group_by_length", "loss_on", "save_steps", "eval_steps", "validation", "validation_split", "chat_template", "data_memory", "seed", "num_labels" };
#define N_OWN (sizeof own_names / sizeof own_names[0])

/* Keys of adapter_config.json that say where an adapter comes from, not what it is; and one that acts only together with use_qalora. */
static const char *const provenance[] = { "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
	"inference_mode", "task_type", "megatron_config", "megatron_core", "runtime_config", "qalora_group_size", NULL };

enum { ADAPTER, OPTIM, TRAINER, SCHEDULE, STRATEGY, N_TAKERS };

typedef struct schemas {
	json_t *list[N_TAKERS]; /* the "settings" arrays; NULL when the library does not say */
	json_t *members[N_TAKERS];
} schemas;

static json_t *schema_find(const schemas *s, int taker, const char *name)
{
	json_t *setting;
	size_t i;
	json_array_foreach(s->list[taker], i, setting)
	{
		const char *n = json_string_value(json_object_get(setting, "name"));
		if (n && !strcmp(n, name)) return setting;
	}
	return NULL;
}

static void schemas_free(schemas *s)
{
	for (int i = 0; i < N_TAKERS; i++) json_decref(s->members[i]);
}

static void schemas_load(schemas *s, lora_context *ctx, const train_plan *p, const char *schedule, const char *strategy)
{
	const char *const family[] = { "adapter", "optimizer", "trainer", "schedule", "strategy" };
	const char *const member[] = { p->method, p->optimizer, "trainer", schedule, strategy };
	memset(s, 0, sizeof *s);
	for (int i = 0; i < N_TAKERS; i++) {
		s->members[i] = family_member(ctx, family[i], member[i]);
		s->list[i] = json_object_get(s->members[i], "settings");
	}
}

/* ---- collecting ---- */

static int add_config(json_t *all, const char *path)
{
	json_error_t err;
	char *text;
	size_t n;
	const char *key;
	json_t *value;

	if (read_file(path, 64u << 20, &text, &n)) return FAILED;
	json_t *config = json_loadb(text, n, JSON_REJECT_DUPLICATES, &err);
	free(text);
	if (!json_is_object(config)) {
		if (config) fail(FAILED, path, "is no JSON object");
		else fail(FAILED, path, "line %d, column %d: %s", err.line, err.column, err.text);
		json_decref(config);
		return FAILED;
	}
	const char *type = json_string_value(json_object_get(config, "peft_type"));
	if (type) json_object_set_new(all, "method", json_string(type));
	json_object_foreach(config, key, value)
	{
		int skip = json_is_null(value);
		for (size_t i = 0; provenance[i]; i++) skip |= !strcmp(key, provenance[i]);
		if (!skip) json_object_set(all, key, value);
	}
	json_decref(config);
	return OK;
}

static int add_given(json_t *all, const args *a)
{
	for (size_t i = 0; i < a->n_settings; i++) {
		const char *text = a->settings[i].text;
		json_t *v = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
		if (!v) v = json_string(text);
		if (!v || json_object_set_new(all, a->settings[i].name, v)) return fail(USAGE, a->settings[i].name, "is not UTF-8");
	}
	if (a->chat_template && json_object_set_new(all, "chat_template", json_string(a->chat_template))) return fail(USAGE, "--chat-template", "is not UTF-8");
	if (a->seed != UNSET && !json_object_get(all, "seed")) json_object_set_new(all, "seed", json_integer(a->seed));
	return OK;
}

/* Names of modules may be given as q_proj,v_proj; what holds other characters stays a regular expression, as in PEFT. */
static void spread_names(json_t *all, const schemas *s)
{
	const char *key;
	json_t *value;
	void *next;
	json_object_foreach_safe(all, next, key, value)
	{
		json_t *setting = schema_find(s, ADAPTER, key);
		const char *type = json_string_value(json_object_get(setting, "type")), *text = json_string_value(value);
		if (!type || !text || !*text || !strstr(type, "strings") || !strcmp(text, "all-linear")) continue;
		int plain = 1;
		for (const char *p = text; *p; p++) plain &= isalnum((unsigned char)*p) || strchr("_.,-/", *p) != NULL;
		if (!plain) continue;
		json_t *list = json_array();
		for (const char *p = text; *p;) {
			size_t n = strcspn(p, ",");
			if (n) json_array_append_new(list, json_stringn(p, n));
			p += n + (p[n] == ',');
		}
		json_object_set_new(all, key, list);
	}
}

/* ---- the program's own ---- */

static int own_int(json_t *all, const char *name, int64_t low, int64_t def, int64_t *out)
{
	json_t *v = json_object_get(all, name);
	double real = json_is_real(v) ? json_real_value(v) : 0.5;
	*out = def;
	if (!v) return OK;
	if (json_is_real(v) && real == floor(real) && fabs(real) < 1e15) *out = (int64_t)real;
	else if (json_is_integer(v)) *out = json_integer_value(v);
	else return fail(USAGE, name, "must be a whole number");
	if (*out < low) return fail(USAGE, name, "must be at least %lld, not %lld", (long long)low, (long long)*out);
	return OK;
}

static int own_bool(json_t *all, const char *name, int *out)
{
	json_t *v = json_object_get(all, name);
	*out = json_is_true(v) || (json_is_integer(v) && json_integer_value(v) == 1);
	if (v && !json_is_boolean(v) && !(json_is_integer(v) && (json_integer_value(v) == 0 || json_integer_value(v) == 1)))
		return fail(USAGE, name, "must be true or false");
	return OK;
}

static int own_settings(train_plan *p, json_t *all)
{
	json_t *v;
	if (own_int(all, "batch_size", 1, 8, &p->batch_size) || own_int(all, "sequence_length", 2, UNSET, &p->sequence_length) ||
		own_int(all, "save_steps", 0, 500, &p->save_steps) || own_int(all, "eval_steps", 0, 0, &p->eval_steps) ||
		own_int(all, "seed", 0, 0, &p->seed) || own_int(all, "gradient_accumulation_steps", 1, 1, &p->accumulation) ||
		own_int(all, "max_steps", -1, UNSET, &p->max_steps) || own_bool(all, "packing", &p->packing) ||
		own_bool(all, "group_by_length", &p->by_length) || own_int(all, "data_memory", 1, 256, &p->data_memory))
		return USAGE;
	if (p->max_steps == -1) p->max_steps = UNSET; /* transformers' way of saying: not set */
	if (p->max_steps == 0) return fail(USAGE, "max_steps", "must be at least 1, or -1 for all epochs");
	p->epochs = NAN;
	if ((v = json_object_get(all, "num_train_epochs"))) {
		p->epochs = json_number_value(v);
		if (!json_is_number(v) || !(p->epochs > 0) || p->epochs > 1e9)
			return fail(USAGE, "num_train_epochs", "must be a number above 0");
	}
	p->completion_only = 1;
	if ((v = json_object_get(all, "loss_on"))) {
		const char *on = json_string_value(v);
		if (!on || (strcmp(on, "all") && strcmp(on, "completion"))) return fail(USAGE, "loss_on", "must be all or completion");
		p->completion_only = !strcmp(on, "completion");
	}
	if ((v = json_object_get(all, "validation"))) {
		if (!json_is_string(v)) return fail(USAGE, "validation", "must be a file name");
		p->validation = json_string_value(v);
	}
	if ((v = json_object_get(all, "validation_split"))) {
		p->validation_split = json_number_value(v);
		if (!json_is_number(v) || !(p->validation_split > 0 && p->validation_split < 1))
			return fail(USAGE, "validation_split", "must be a share above 0 and below 1");
		if (p->validation) return fail(USAGE, "validation_split", "cannot go with validation");
	}
	if ((v = json_object_get(all, "chat_template")) && !(p->chat_template = json_string_value(v)))
		return fail(USAGE, "chat_template", "must be a name");
	if (p->eval_steps && !p->validation && !(p->validation_split > 0)) return fail(USAGE, "eval_steps", "needs something to evaluate on: -s validation=FILE or -s validation_split=SHARE");
	return OK;
}

/* The member of a family that a setting names, in lower case. */
static int choose(json_t *all, const char *key, const char *family, const char *def, char *out, size_t size)
{
	json_t *v = json_object_get(all, key);
	const char *text = v ? json_string_value(v) : def, *names[256];
	size_t n = 0;
	if (!text) return fail(USAGE, key, "must be a name");
	if (strlen(text) >= size) return fail(USAGE, key, "no such %s: %.60s", family, text);
	for (size_t i = 0; i <= strlen(text); i++) out[i] = (char)tolower((unsigned char)text[i]);
	for (int32_t i = 0; i < lora_family_count(family) && n < 256; i++) {
		names[n] = lora_family_name(family, i);
		if (!strcmp(names[n++], out)) return OK;
	}
	const char *near = nearest_name(out, names, n);
	if (near) return fail(USAGE, key, "no such %s: %s; did you mean %s?", family, text, near);
	return fail(USAGE, key, "no such %s: %s; 'lora methods %s' lists them", family, text, family);
}

/* ---- who takes what ---- */

static int unknown_setting(const schemas *s, const char *key)
{
	const char *names[512];
	size_t n = 0, i;
	json_t *setting;
	for (i = 0; i < N_OWN; i++) names[n++] = own_names[i];
	for (int t = 0; t < N_TAKERS; t++) json_array_foreach(s->list[t], i, setting)
		{
			if (n < 512) names[n++] = json_string_value(json_object_get(setting, "name"));
		}
	const char *near = nearest_name(key, names, n);
	if (near) return fail(USAGE, key, "no such setting; did you mean %s?", near);
	return fail(USAGE, key, "no such setting; 'lora methods' lists those of adapter, optimizer, trainer, schedule and strategy");
}

static int is_trivial(json_t *v)
{
	return json_is_null(v) || json_is_false(v) || (json_is_array(v) && !json_array_size(v)) ||
		(json_is_object(v) && !json_object_size(v));
}

static int is_own(const char *key)
{
	for (size_t i = 0; i < N_OWN; i++)
		if (!strcmp(own_names[i], key)) return 1;
	return !strcmp(key, "gradient_accumulation_steps");
}

static int was_given(const args *a, const char *key)
{
	for (size_t i = 0; i < a->n_settings; i++)
		if (!strcmp(a->settings[i].name, key)) return 1;
	return 0;
}

static int deal_out(train_plan *p, const schemas *s, const args *a)
{
	const char *key;
	json_t *value;
	void *next;
	json_t *const takers[] = { p->adapter, p->optim, p->trainer, p->trainer, p->trainer };
	json_object_foreach_safe(p->given, next, key, value)
	{
		int taken = 0;
		for (int t = 0; t < N_TAKERS; t++) {
			if (!schema_find(s, t, key) || !strcmp(key, "max_steps")) continue;
			json_object_set(takers[t], key, value);
			taken = 1;
		}
		if (taken || is_own(key)) continue;
		/* as when an adapter is opened, a key that nobody knows is let pass; but a user should hear of one that says something */
		if (a->config && !was_given(a, key)) {
			if (!is_trivial(value)) warn(a->config, "%s is not known here and is ignored", key);
			json_object_del(p->given, key);
			continue;
		}
		return unknown_setting(s, key);
	}
	return OK;
}

int plan_read(train_plan *p, session *s, const args *a, json_t *before)
{
	schemas known;
	char schedule[64], strategy[64];
	int status;

	memset(p, 0, sizeof *p);
	p->given = before ? json_copy(before) : json_object();
	p->adapter = json_object();
	p->optim = json_object();
	p->trainer = json_object();
	if (!p->given || !p->adapter || !p->optim || !p->trainer) return fail_memory();
	if (a->config && (status = add_config(p->given, a->config))) return status;
	if ((status = add_given(p->given, a))) return status;
	if ((status = choose(p->given, "method", "adapter", "lora", p->method, sizeof p->method)) ||
		(status = choose(p->given, "optimizer", "optimizer", "adamw", p->optimizer, sizeof p->optimizer)) ||
		(status = choose(p->given, "lr_scheduler_type", "schedule", "linear", schedule, sizeof schedule)) ||
		(status = choose(p->given, "strategy", "strategy", "none", strategy, sizeof strategy)))
		return status;
	schemas_load(&known, s->ctx, p, schedule, strategy);
	spread_names(p->given, &known);
	status = deal_out(p, &known, a);
	schemas_free(&known);
	return status ? status : own_settings(p, p->given);
}

void plan_model(train_plan *p, const session *s, const char *model)
{
	if (!json_object_get(p->adapter, "base_model_name_or_path")) json_object_set_new(p->adapter, "base_model_name_or_path", json_string(model)); /* NULL when no UTF-8 */
	const char *task = s->info.n_labels ? "SEQ_CLS" : s->info.has_decoder ? "SEQ_2_SEQ_LM" : NULL;
	if (task && !json_object_get(p->adapter, "task_type")) json_object_set_new(p->adapter, "task_type", json_string(task));
}

void plan_free(train_plan *p)
{
	json_decref(p->given);
	json_decref(p->adapter);
	json_decref(p->optim);
	json_decref(p->trainer);
	memset(p, 0, sizeof *p);
}

int plan_settings(const session *s, json_t *object, lora_settings **out)
{
	char *text = json_dumps(object, JSON_REAL_PRECISION(17));
	lora_status status = text ? lora_settings_create(s->ctx, out) : LORA_E_MEMORY;
	if (!status) status = lora_settings_from_json(*out, text, strlen(text));
	free(text);
	return status ? fail_library(s->ctx, "settings") : OK;
}

/* Equal, with lists as sets: PEFT writes target_modules in any order. */
static int same_value(json_t *a, json_t *b)
{
	json_t *x, *y;
	size_t i, j;
	if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
	if (!json_is_array(a) || !json_is_array(b)) return json_equal(a, b);
	if (json_array_size(a) != json_array_size(b)) return 0;
	json_array_foreach(a, i, x)
	{
		int found = 0;
		json_array_foreach(b, j, y) found |= json_equal(x, y);
		if (!found) return 0;
	}
	return 1;
}

int plan_agrees(const train_plan *p, lora_context *ctx, const lora_adapter *a, const char *path)
{
	lora_adapter_info info = { .struct_size = sizeof info };
	size_t needed = 0;
	const char *key;
	json_t *value, *has = NULL;
	int status = OK;

	if (lora_adapter_get_info(a, &info)) return fail_library(ctx, path);
	if (json_object_get(p->given, "method") && strcmp(p->method, info.kind))
		return fail(USAGE, "method", "is %s, but %s is a %s adapter", p->method, path, info.kind);
	lora_adapter_settings_json(a, NULL, 0, &needed);
	char *text = new_bytes(needed + 1);
	if (!text) return FAILED;
	if (!lora_adapter_settings_json(a, text, needed + 1, &needed)) has = json_loads(text, 0, NULL);
	free(text);
	json_object_foreach(p->adapter, key, value)
	{
		json_t *is = json_object_get(has, key);
		int own = !strcmp(key, "seed") || !strcmp(key, "name") || !strcmp(key, "task_type") || !strcmp(key, "base_model_name_or_path");
		if (status || own || !is || same_value(is, value)) continue;
		status = fail(USAGE, key, "differs from what the adapter of --init has (%s)", path);
	}
	json_decref(has);
	return status;
}

int fail_setting(const session *s, lora_status status, const char *otherwise)
{
	lora_error error;
	memset(&error, 0, sizeof error);
	error.struct_size = sizeof error;
	lora_context_error(s->ctx, &error);
	return fail(status == LORA_E_ARGUMENT ? USAGE : FAILED,
		error.tensor[0] && status == LORA_E_ARGUMENT ? error.tensor : otherwise, "%s",
		error.message[0] ? error.message : "failed");
}
