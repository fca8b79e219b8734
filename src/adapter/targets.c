/* Which sites an adapter takes: target_modules, exclude_modules, layers_to_transform, layers_pattern, and the patterns of rank_pattern and
 * alpha_pattern. Source: PEFT 0.21, tuners_utils.check_target_module_exists and other.get_pattern_key. */
#include <string.h>

#include "adapter/adapter.h"

static int ends_with(const char *name, const char *suffix)
{
	size_t n = strlen(name), k = strlen(suffix);
	return (n == k && strcmp(name, suffix) == 0) || (n > k && name[n - k - 1] == '.' && strcmp(name + n - k, suffix) == 0);
}

/* 1 when a list holds the name or a suffix of it; exact says that the whole name is in the list. */
static int in_list(const json_t *list, const char *name, int *exact)
{
	int found = 0;
	*exact = 0;
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *s = json_string_value(json_array_get(list, i));
		if (strcmp(s, name) == 0) *exact = 1;
		if (ends_with(name, s)) found = 1;
	}
	return found;
}

/* Number of the layer in a name, behind ".<pattern>." (any word when pattern is NULL); the last such number counts. -1 = none. */
static int64_t layer_number(const char *name, const char *pattern)
{
	int64_t found = -1;
	const char *word = NULL;
	for (const char *p = strchr(name, '.'); p; p = strchr(p + 1, '.')) {
		const char *q = p + 1;
		int64_t v = 0;
		for (; *q >= '0' && *q <= '9' && v < (1 << 30); q++) v = v * 10 + (*q - '0');
		int number = q != p + 1 && *q == '.';
		size_t n = word ? (size_t)(p - word) : 0;
		if (number && word && (!pattern || (strlen(pattern) == n && strncmp(word, pattern, n) == 0))) found = v;
		word = p + 1;
	}
	return found;
}

static int layer_allowed(const lora_settings *s, const char *name)
{
	const json_t *layers = lora__get_json(s, "layers_to_transform"), *patterns = lora__get_json(s, "layers_pattern");
	if (!layers || (json_is_array(layers) && !json_array_size(layers))) return 1;
	int64_t at = -1;
	if (json_is_string(patterns) && *json_string_value(patterns)) at = layer_number(name, json_string_value(patterns));
	else if (json_is_array(patterns) && json_array_size(patterns)) {
		for (size_t i = 0; i < json_array_size(patterns) && at < 0; i++) at = layer_number(name, json_string_value(json_array_get(patterns, i)));
	} else at = layer_number(name, NULL);
	if (at < 0) return 0;
	if (!json_is_array(layers)) return (int64_t)json_number_value(layers) == at;
	for (size_t i = 0; i < json_array_size(layers); i++)
		if ((int64_t)json_number_value(json_array_get(layers, i)) == at) return 1;
	return 0;
}

static lora_status excluded(lora_context *ctx, const lora_settings *s, const char *name, int *out)
{
	const json_t *v = lora__get_json(s, "exclude_modules");
	int exact;
	*out = 0;
	if (json_is_string(v)) return lora__regex_match(ctx, json_string_value(v), "exclude_modules", name, out);
	if (v) *out = in_list(v, name, &exact);
	return LORA_OK;
}

static lora_status targeted(lora_context *ctx, const lora__sites *sites, const lora_settings *s, const lora__site *site, int *out)
{
	const json_t *v = lora__get_json(s, "target_modules");
	int exact = 0;
	*out = 0;
	if (!v) {
		*out = !sites->default_targets && !site->is_head && !site->param;
		for (int i = 0; sites->default_targets && sites->default_targets[i]; i++) *out |= ends_with(site->name, sites->default_targets[i]);
	} else if (json_is_string(v) && strcmp(json_string_value(v), "all-linear") == 0) {
		*out = !site->is_head && !site->param;
		exact = 0;
	} else if (json_is_string(v)) {
		return lora__regex_match(ctx, json_string_value(v), "target_modules", site->name, out); /* layers_to_transform has no say here, as in PEFT */
	} else *out = in_list(v, site->name, &exact);
	if (*out && !exact) *out = layer_allowed(s, site->name);
	return LORA_OK;
}

static lora_status check_names(lora_context *ctx, const lora_settings *s)
{
	const json_t *v = lora__get_json(s, "target_modules");
	if (json_is_array(v) && !json_array_size(v)) return lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", "target_modules", -1, "target_modules is an empty list");
	for (size_t i = 0; i < json_array_size(v); i++)
		if (!*json_string_value(json_array_get(v, i)))
			return lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", "target_modules", -1, "target_modules holds an empty name");
	if (json_is_string(v) && !*json_string_value(v)) return lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", "target_modules", -1, "target_modules is empty");
	return LORA_OK;
}

static lora_status nothing(lora_context *ctx, const lora__sites *sites, const lora_settings *s)
{
	const json_t *v = lora__get_json(s, "target_modules");
	const char *wanted = json_is_array(v) ? json_string_value(json_array_get(v, 0)) : json_string_value(v);
	const char *names[64];
	size_t n = 0;
	for (size_t i = 0; i < sites->n && n < 64; i++) {
		const char *dot = strrchr(sites->list[i]->name, '.'), *last = dot ? dot + 1 : sites->list[i]->name;
		size_t k = 0;
		while (k < n && strcmp(names[k], last)) k++;
		if (k == n) names[n++] = last;
	}
	const char *near = wanted ? lora__nearest(wanted, names, n) : NULL;
	return lora__fail_at(ctx, LORA_E_NOTFOUND, "adapter", "target_modules", -1, "target_modules %s matches no module of this model%s%s%s", lora__quote(wanted ? wanted : "(default)").text,
		near ? "; near names: " : n ? "; it has: " : "", near ? near : n ? names[0] : "", !near && n > 1 ? ", ..." : "");
}

lora_status lora__target_sites(lora_context *ctx, const lora__sites *sites, const lora_settings *s, char *chosen, size_t *n_chosen)
{
	lora_status st = check_names(ctx, s);
	*n_chosen = 0;
	for (size_t i = 0; i < sites->n && st == LORA_OK; i++) {
		int yes, no = 0;
		st = excluded(ctx, s, sites->list[i]->name, &no);
		if (st == LORA_OK) st = targeted(ctx, sites, s, sites->list[i], &yes);
		if (st) return st;
		chosen[i] = (char)(yes && !no);
		*n_chosen += (size_t)chosen[i];
	}
	if (st == LORA_OK && !*n_chosen) return nothing(ctx, sites, s);
	return st;
}

lora_status lora__pattern_value(lora_context *ctx, const json_t *map, const char *name, const json_t **out)
{
	*out = NULL;
	if (!map) return LORA_OK;
	for (void *it = json_object_iter((json_t *)(uintptr_t)map); it && !*out; it = json_object_iter_next((json_t *)(uintptr_t)map, it)) {
		const char *key = json_object_iter_key(it);
		int yes = ends_with(name, key);
		if (!yes) {
			lora__text t;
			lora__text_init(&t, ctx);
			lora__text_printf(&t, "(.*\\.)?(%s)", key);
			lora_status st = t.status ? t.status : lora__regex_match(ctx, t.data, "rank_pattern or alpha_pattern", name, &yes);
			lora__text_free(&t);
			if (st) return st;
		}
		if (yes) *out = json_object_iter_value(it);
	}
	return LORA_OK;
}
