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

/* PEFT takes the word in any case. */
static int is_all_linear(const char *s)
{
	static const char word[] = "all-linear";
	size_t i = 0;
	for (; word[i] && (s[i] == word[i] || (word[i] != '-' && s[i] == word[i] - 'a' + 'A')); i++) continue;
	return !word[i] && !s[i];
}

static lora_status targeted(lora_context *ctx, const lora__sites *sites, const lora_settings *s, const lora__site *site, int *out)
{
	const json_t *v = lora__get_json(s, "target_modules");
	int exact = 0, table = (site->flags & LORA_SITE_EMBEDDING) != 0;
	*out = 0;
	if (!v && lora__get_json(s, "target_parameters")) return LORA_OK;
	if (!v) {
		*out = !sites->default_targets && !site->is_head && !site->param && !table;
		for (int i = 0; sites->default_targets && sites->default_targets[i]; i++) *out |= ends_with(site->name, sites->default_targets[i]);
	} else if (json_is_string(v) && is_all_linear(json_string_value(v))) {
		*out = !site->is_head && !site->param && !table;
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
	if (json_is_array(v) && !json_array_size(v) && !lora__get_json(s, "target_parameters")) return lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", "target_modules", -1, "target_modules is an empty list");
	for (size_t i = 0; i < json_array_size(v); i++)
		if (!*json_string_value(json_array_get(v, i)))
			return lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", "target_modules", -1, "target_modules holds an empty name");
	if (json_is_string(v) && !*json_string_value(v)) return lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", "target_modules", -1, "target_modules is empty");
	return LORA_OK;
}

static lora_status nothing(lora_context *ctx, const lora__sites *sites, const lora_settings *s)
{
	const json_t *v = lora__get_json(s, "target_modules");
	if (!v && sites->default_targets && !sites->default_targets[0])
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", "target_modules", -1, "target_modules is not set, and PEFT has no default for this architecture (\"all-linear\" takes every linear layer but the head)");
	const char *wanted = json_is_array(v) ? json_string_value(json_array_get(v, 0)) : json_string_value(v);
	const char *names[64];
	size_t n = 0;
	for (size_t i = 0; i < sites->n && n < 64; i++) {
		const char *dot = strrchr(sites->list[i]->name, '.'), *last = dot ? dot + 1 : sites->list[i]->name;
		size_t k = 0;
		while (k < n && strcmp(names[k], last)) k++;
		if (k == n) names[n++] = last;
	}
	const char *near = !wanted ? NULL : sites->n_tables > 1 && strcmp(wanted, "shared") == 0 ? "embed_tokens" /* PEFT adapts a "shared" that is never called */ :
		lora__nearest(wanted, names, n);
	return lora__fail_at(ctx, LORA_E_NOTFOUND, "adapter", "target_modules", -1, "target_modules %s matches no module of this model%s%s%s", lora__quote(wanted ? wanted : "(default)").text,
		near ? "; near names: " : n ? "; it has: " : "", near ? near : n ? names[0] : "", !near && n > 1 ? ", ..." : "");
}

/* The name is that of a module above or at the site: PEFT takes every module whose path ends with it. */
static int under(const char *site, const char *name)
{
	size_t n = strlen(name);
	for (const char *end = strchr(site, '.');; end = strchr(end + 1, '.')) {
		size_t at = end ? (size_t)(end - site) : strlen(site);
		if (at >= n && memcmp(site + at - n, name, n) == 0 && (at == n || site[at - n - 1] == '.')) return 1;
		if (!end) return 0;
	}
}

static const char *const classifier_names[] = { "classifier", "score" };

/* Modules to be trained as a whole. Names that only some classifiers have may be absent; any other must be found. */
static lora_status choose_whole(lora_context *ctx, const lora__sites *sites, const lora_settings *s, char *chosen)
{
	const json_t *v = lora__get_json(s, "modules_to_save");
	for (size_t k = 0; k < (json_is_string(v) ? 1 : json_array_size(v)); k++) {
		const char *name = json_string_value(json_is_string(v) ? v : json_array_get(v, k));
		int found = 0;
		for (size_t i = 0; name && i < sites->n; i++)
			if (under(sites->list[i]->name, name) && !(sites->list[i]->flags & LORA_SITE_EMBEDDING)) found = 1, chosen[i] = LORA__WHOLE;
		for (int i = 0; i < 2; i++) found |= name && strcmp(name, classifier_names[i]) == 0;
		if (!found)
			return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "adapter", "modules_to_save", -1, "modules_to_save: \"%s\" is no linear layer of this model; other modules cannot be trained here",
				lora__quote(name ? name : "").text);
	}
	return LORA_OK;
}

/* Bare parameters by the ends of their names. A linear layer's is its name with ".weight". */
static int parameter(const lora_settings *s, const lora__site *site)
{
	const json_t *v = lora__get_json(s, "target_parameters");
	int yes = 0;
	for (size_t k = 0; k < (json_is_string(v) ? 1 : json_array_size(v)) && !yes; k++) {
		const char *want = json_string_value(json_is_string(v) ? v : json_array_get(v, k));
		size_t n = strlen(site->name), w = want ? strlen(want) : 0;
		if (!want) continue;
		if (site->param) yes = ends_with(site->param, want);
		else if (w > 7 && strcmp(want + w - 7, ".weight") == 0)
			yes = n >= w - 7 && memcmp(site->name + n - (w - 7), want, w - 7) == 0 && (n == w - 7 || site->name[n - (w - 7) - 1] == '.');
	}
	return yes;
}

lora_status lora__target_sites(lora_context *ctx, const lora__sites *sites, const lora_settings *s, char *chosen, size_t *n_chosen)
{
	lora_status st = check_names(ctx, s);
	size_t adapted = 0;
	*n_chosen = 0;
	for (size_t i = 0; i < sites->n && st == LORA_OK; i++) {
		int yes, no = 0;
		st = excluded(ctx, s, sites->list[i]->name, &no);
		if (st == LORA_OK) st = targeted(ctx, sites, s, sites->list[i], &yes);
		if (st) return st;
		chosen[i] = (char)(yes && !no ? LORA__CHOSEN : 0);
		if (!chosen[i] && parameter(s, sites->list[i])) chosen[i] = sites->list[i]->param ? LORA__PARAMETER : LORA__CHOSEN;
		adapted += chosen[i] != 0;
	}
	if (st == LORA_OK && !adapted) return nothing(ctx, sites, s);
	if (st == LORA_OK) st = choose_whole(ctx, sites, s, chosen);
	for (size_t i = 0; i < sites->n && st == LORA_OK; i++) *n_chosen += chosen[i] != 0;
	return st;
}

/* Several parameters of one module: PEFT wraps it once for each, so all but the last gain a "base_layer". */
lora_status lora__target_module(const lora__sites *sites, const char *chosen, size_t i, lora__text *out)
{
	const lora__site *s = sites->list[i];
	if (chosen[i] != LORA__PARAMETER) return lora__text_printf(out, "%s", s->name), out->status;
	size_t n = (size_t)(strrchr(s->param, '.') - s->param);
	lora__text_printf(out, "%.*s", (int)n, s->param);
	size_t first = i, own = i;
	while (first > 0 && sites->list[first - 1]->param && strncmp(sites->list[first - 1]->param, s->param, n + 1) == 0) first--;
	for (own = first; strcmp(sites->list[own]->param, s->param);) own++;
	for (size_t j = own + 1; j < sites->n && sites->list[j]->param && strncmp(sites->list[j]->param, s->param, n + 1) == 0; j++) {
		int before = 0; /* counts where it comes first, and only behind our own first */
		for (size_t k = first; k < j && !before; k++) before = strcmp(sites->list[k]->param, sites->list[j]->param) == 0;
		if (!before && chosen[j] == LORA__PARAMETER) lora__text_puts(out, ".base_layer");
	}
	return out->status;
}

static int add_name(json_t *list, const char *name)
{
	for (size_t k = 0; k < json_array_size(list); k++)
		if (strcmp(json_string_value(json_array_get(list, k)), name) == 0) return 0;
	return json_array_append_new(list, json_string(name));
}

static int has_param(const lora__kind *kind, const char *key)
{
	for (const lora__param *p = kind->m.params; p->name; p++)
		if (strcmp(p->name, key) == 0) return 1;
	return 0;
}

/* key of map becomes value, unless it is there */
static int set_pattern(lora_settings *s, const char *map, const char *key, json_t *value)
{
	json_t *o = json_object_get(s->object, map);
	if (!json_is_object(o) && (json_object_set_new(s->object, map, json_object()) || !(o = json_object_get(s->object, map)))) return json_decref(value), 1;
	if (json_object_get(o, key)) return json_decref(value), 0;
	return json_object_set_new(o, key, value);
}

/* Source: PEFT 0.21, utils/transformers_weight_conversion.py, _convert_peft_config_moe. */
static int spread_all_linear(const lora__sites *sites, const lora__kind *kind, lora_settings *s)
{
	static const char *const leaves[] = { "gate_up_proj", "down_proj", "gate.weight" };
	json_t *names = json_array(), *given = json_deep_copy(lora__get_json(s, "target_parameters")), *parameters = json_is_array(given) ? given : json_array();
	int bad = !names || !parameters, fused = 0;
	if (parameters != given) json_decref(given);
	for (size_t i = 0; i < sites->n && !bad; i++) {
		const lora__site *t = sites->list[i];
		const char *dot = strrchr(t->name, '.');
		if (!t->param && !t->is_head && !(t->flags & LORA_SITE_EMBEDDING)) bad = add_name(names, dot ? dot + 1 : t->name);
		for (int k = 0; k < 3 && t->param && !bad; k++)
			if (ends_with(t->param, leaves[k])) fused |= k == 0, bad = add_name(parameters, leaves[k]);
	}
	if (!bad) bad = json_object_set(s->object, "target_modules", names);
	if (!bad && has_param(kind, "target_parameters")) {
		bad = json_object_set(s->object, "target_parameters", parameters);
		if (!bad && fused) bad = set_pattern(s, "rank_pattern", ".*\\.gate_up_proj", json_integer(2 * lora__get_int(s, kind->m.params, "r")));
		if (!bad && fused) bad = set_pattern(s, "alpha_pattern", ".*\\.gate_up_proj", json_real(2 * lora__get_float(s, kind->m.params, "lora_alpha")));
	}
	json_decref(names);
	json_decref(parameters);
	return bad;
}

lora_status lora__target_complete(lora_context *ctx, const lora__sites *sites, const lora__kind *kind, lora_settings *s)
{
	const json_t *task = lora__get_json(s, "task_type"), *v = lora__get_json(s, "modules_to_save"), *modules = lora__get_json(s, "target_modules");
	int bad = 0, mixture = 0;
	for (size_t i = 0; i < sites->n; i++) mixture |= sites->list[i]->param != NULL;
	if (mixture && json_is_string(modules) && is_all_linear(json_string_value(modules))) bad = spread_all_linear(sites, kind, s);
	if (!bad && json_is_string(task) && strcmp(json_string_value(task), "SEQ_CLS") == 0) {
		json_t *list = json_is_array(v) ? json_deep_copy(v) : json_array();
		bad = !list || (json_is_string(v) && json_array_append_new(list, json_string(json_string_value(v))));
		for (int i = 0; i < 2 && !bad; i++) bad = add_name(list, classifier_names[i]);
		bad = bad || json_object_set(s->object, "modules_to_save", list);
		json_decref(list);
	}
	return bad ? lora__fail(ctx, LORA_E_MEMORY, "adapter", "out of memory") : LORA_OK;
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
