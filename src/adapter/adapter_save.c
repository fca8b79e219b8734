/* Saving an adapter as PEFT does: adapter_config.json and adapter_model.safetensors, in place of the old ones at once. */
#include <dirent.h>
#include <string.h>

#include "adapter/adapter.h"
#include "format/gguf.h"

static const lora__param save_params[] = {
	{ "format", LORA__STRING, "peft", 0, 0, "peft|gguf", "form on disk: PEFT's directory, or llama.cpp's file" },
	{ "dtype", LORA__STRING, "F32", 0, 0, "F32|F16|BF16", "type of the saved tensors" },
	{ "force", LORA__BOOL, "true", 0, 0, NULL, "replace an existing adapter" },
	{ 0 }
};
const lora__member lora__adapter_save_member = { "adapter_save", "settings of saving an adapter", "liblora", save_params };

/* Names for target_modules when none were given: the last parts of the chosen sites' names, or whole names of host-owned sites. */
static json_t *resolved_targets(const lora_adapter *a)
{
	json_t *list = json_array();
	for (size_t i = 0; i < a->n_parts && list; i++) {
		if (a->parts[i].how != LORA__CHOSEN) continue; /* modules_to_save names the others */
		const char *name = a->parts[i].slot.site->name, *dot = strrchr(name, '.'), *s = a->sites->default_targets && dot ? dot + 1 : name;
		int there = 0;
		for (size_t k = 0; k < json_array_size(list); k++) there |= strcmp(json_string_value(json_array_get(list, k)), s) == 0;
		if (!there && json_array_append_new(list, json_string(s))) {
			json_decref(list);
			list = NULL;
		}
	}
	return list;
}

static int any_turned(const lora_adapter *a)
{
	for (size_t i = 0; i < a->n_parts; i++)
		if (a->parts[i].slot.site->flags & LORA_SITE_TRANSPOSED) return 1;
	return 0;
}

static json_t *config_of(const lora_adapter *a)
{
	json_t *o = json_object();
	int bad = !o || json_object_set_new(o, "peft_type", json_string(a->kind->peft_type));
	for (const lora__param *p = a->kind->m.params; p->name && !bad; p++) {
		const json_t *v = lora__get_json(a->settings, p->name);
		if (!strcmp(p->name, "name") || !strcmp(p->name, "seed") || (!v && !strncmp(p->name, "subspace_", 9))) continue;
		json_t *value = v && strcmp(p->name, "fan_in_fan_out") ? json_deep_copy(v) : NULL;
		if (!v && strcmp(p->name, "target_modules") == 0) value = resolved_targets(a);
		else if (strcmp(p->name, "fan_in_fan_out") == 0) value = json_boolean(json_is_true(v) || any_turned(a)); /* as PEFT sets it for Conv1D */
		else if (!v && p->type == LORA__BOOL) value = json_boolean(lora__get_bool(a->settings, a->kind->m.params, p->name));
		else if (!v && p->type == LORA__BOOL_STRING) value = json_boolean(p->def && strcmp(p->def, "true") == 0);
		else if (!v && p->type == LORA__STRING) value = p->def ? json_string(p->def) : json_null();
		else if (!v && (p->type == LORA__INT_MAP || p->type == LORA__FLOAT_MAP)) value = json_object();
		else if (!v) value = p->def ? json_loads(p->def, JSON_DECODE_ANY, NULL) : json_null();
		bad = !value || json_object_set_new(o, p->name, value);
	}
	/* PEFT declares lora_alpha an integer; write it so where it is one */
	double alpha = json_number_value(json_object_get(o, "lora_alpha"));
	if (!bad && json_is_real(json_object_get(o, "lora_alpha")) && alpha == (double)(json_int_t)alpha)
		bad = json_object_set_new(o, "lora_alpha", json_integer((json_int_t)alpha));
	if (!bad) return o;
	json_decref(o);
	return NULL;
}

static int is_empty(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;
	if (!d) return 0;
	for (struct dirent *e; n <= 2 && (e = readdir(d));) n++;
	closedir(d);
	return n <= 2; /* "." and ".." */
}

static lora_status check_range(lora_adapter *a, const lora__ptensor *t, lora_dtype d, const void *converted)
{
	if (lora__all_finite(converted, d, t->n) || !lora__all_finite(a->params + t->offset, LORA_F32, t->n)) return LORA_OK;
	return lora__fail_at(a->ctx, LORA_E_NUMERIC, "adapter", t->name, -1, "tensor %s has values out of range for %s", t->name, lora__dtype_name(d));
}

lora_status lora__adapter_store(lora_adapter *a, const char *path, const lora_settings *options)
{
	lora_context *ctx = a->ctx;
	lora_status st = lora__settings_check(ctx, options, "lora_adapter_save", save_params, NULL, NULL);
	if (st) return st;
	lora_dtype d = lora__dtype_parse(lora__get_string(options, save_params, "dtype"));
	if (strcmp(lora__get_string(options, save_params, "format"), "gguf") == 0) {
		int there = lora__path_exists(path);
		if (a->tokens) return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "adapter", "format", -1, "kind %s has no GGUF form", a->kind->m.name);
		if (there && (lora__path_is_dir(path) || !lora__gguf_is(path)))
			return lora__fail(ctx, LORA_E_EXISTS, "adapter", "%s is there and is no GGUF file", lora__quote(path).text);
		if (there && !lora__get_bool(options, save_params, "force")) return lora__fail(ctx, LORA_E_EXISTS, "adapter", "%s is there already", lora__quote(path).text);
		return lora__adapter_save_gguf(a, path, d);
	}
	if (lora__path_exists(path)) {
		char *config = lora__path_join(ctx, path, LORA__PEFT_CONFIG);
		if (!config) return LORA_E_MEMORY;
		int ours = lora__path_is_dir(path) && (lora__path_exists(config) || is_empty(path));
		lora__free(ctx, config);
		if (!ours) return lora__fail(ctx, LORA_E_EXISTS, "adapter", "%s is there and is no adapter directory", lora__quote(path).text);
		if (!lora__get_bool(options, save_params, "force")) return lora__fail(ctx, LORA_E_EXISTS, "adapter", "%s is there already", lora__quote(path).text);
	}
	size_t each = lora__dtype_size(d);
	size_t n = a->n_tensors;
	char *flat = NULL;
	lora__tensor *list = lora__calloc(ctx, n + 1, sizeof *list);
	char *data = d == LORA_F32 ? (char *)a->params : lora__alloc(ctx, a->n_params * each);
	json_t *config = config_of(a);
	if (!list || !data) st = LORA_E_MEMORY;
	else if (!config) st = lora__fail(ctx, LORA_E_MEMORY, "adapter", "out of memory");
	for (size_t i = 0; i < a->n_tensors && st == LORA_OK; i++) {
		const lora__ptensor *t = &a->tensors[i];
		char *to = data + t->offset * each;
		if (d != LORA_F32) lora__convert(to, d, a->params + t->offset, LORA_F32, t->n);
		st = check_range(a, t, d, to);
		list[i] = (lora__tensor){ .name = t->name, .dtype = d, .rank = t->rank, .shape = { t->shape[0], t->shape[1] }, .data = (uint8_t *)to, .bytes = t->n * each };
	}
	if (st == LORA_OK) st = lora__virtual_flat(a, d, &flat);
	if (flat) list[n++] = (lora__tensor){ .name = LORA__PROMPT_TENSOR, .dtype = d, .rank = 2, .shape = { a->tokens->tokens, a->tokens->width },
		.data = (uint8_t *)flat, .bytes = (size_t)(a->tokens->tokens * a->tokens->width) * each };
	if (st == LORA_OK) st = lora__peft_save(ctx, path, a->extra, config, list, n);
	lora__free(ctx, flat);
	json_decref(config);
	if (d != LORA_F32) lora__free(ctx, data);
	lora__free(ctx, list);
	return st;
}
