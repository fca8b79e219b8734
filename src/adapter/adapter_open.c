/* From a PEFT configuration and its tensors to an adapter. The tensor names are the truth about which modules are adapted; the
 * configuration is checked against them, and every disagreement is an error that names module, key or tensor. */
#include <stdio.h>
#include <string.h>

#include "adapter/adapter.h"

static const lora__param open_params[] = {
	{ "ignore_extra", LORA__BOOL, "false", 0, 0, NULL, "skip tensors that belong to no module of the model" },
	{ "name", LORA__STRING, "default", 0, 0, NULL, "name of the adapter" },
	{ 0 }
};
const lora__member lora__adapter_open_member = { "adapter_open", "settings of opening an adapter", "liblora", open_params };

typedef struct loader {
	lora_context          *ctx;
	lora__sites           *sites;
	const lora__kind      *kind;
	const lora__tensors   *tensors;
	const lora_settings   *options;
	lora_settings         *settings;
	json_t                *extra;
	char                  *wanted; /* [sites] by the configuration */
	char                  *chosen; /* [sites] by the tensors */
	lora__map              modules; /* of parameters and modules trained as a whole: name to site */
	lora__map              names;   /* canonical name of each tensor to its number */
	char                 **keys;    /* what the maps' keys lie in */
	size_t                 n_keys, cap_keys;
} loader;

static int known(const lora__kind *k, const char *key)
{
	for (const lora__param *p = k->m.params; p->name; p++)
		if (strcmp(p->name, key) == 0) return 1;
	return 0;
}

/* Split the document: keys of the kind become settings, the others are carried. */
static lora_status read_settings(loader *l, const lora__peft_config *config)
{
	lora_status st = lora_settings_create(l->ctx, &l->settings);
	if (st) return st;
	if (!(l->extra = json_object())) return lora__fail(l->ctx, LORA_E_MEMORY, "adapter", "out of memory");
	for (void *it = json_object_iter(config->object); it; it = json_object_iter_next(config->object, it)) {
		const char *key = json_object_iter_key(it);
		int mine = known(l->kind, key) && strcmp(key, "name") && strcmp(key, "seed");
		if (json_object_set(mine ? l->settings->object : l->extra, key, json_object_iter_value(it)))
			return lora__fail(l->ctx, LORA_E_MEMORY, "adapter", "out of memory");
	}
	lora_settings all = { l->ctx, config->object };
	st = l->kind->refuse ? l->kind->refuse(l->ctx, &all, 1) : LORA_OK;
	if (st == LORA_OK) st = lora__settings_check(l->ctx, l->settings, "adapter_config.json", l->kind->m.params, NULL, NULL);
	return st;
}

/* The site of a module path; a level "model.", "bert." or "roberta." too many or too few is forgiven when the answer is one. */
static lora_status find_site(const loader *l, const char *module, size_t n, lora__site **out)
{
	static const char *const levels[] = { "model.", "bert.", "roberta." };
	char path[512];
	*out = NULL;
	if (n + 9 > sizeof path) return LORA_OK;
	snprintf(path, sizeof path, "%.*s", (int)n, module);
	if ((*out = lora__sites_find(l->sites, path))) return LORA_OK;
	for (int i = 0; i < 3; i++) {
		size_t k = strlen(levels[i]);
		snprintf(path, sizeof path, "%s%.*s", levels[i], (int)n, module);
		lora__site *more = lora__sites_find(l->sites, path), *less = strncmp(path + k, levels[i], k) == 0 ? lora__sites_find(l->sites, path + 2 * k) : NULL;
		if ((less || *out) && more)
			return lora__fail_at(l->ctx, LORA_E_FORMAT, "adapter", path, -1, "module %s could be %s or %s", lora__quote_n(module, n).text, less ? less->name : (*out)->name,
				more->name);
		if (less || more) *out = less ? less : more;
	}
	return LORA_OK;
}

static lora_status stray(const loader *l, const lora__tensor *t, const lora__peft_name *name, int has_role)
{
	if (!has_role && name->leaf[0] && strncmp(name->leaf, "lora_", 5) == 0)
		return lora__fail_at(l->ctx, LORA_E_UNSUPPORTED, "adapter", t->name, -1, "tensor %s: %s is not supported", lora__quote(t->name).text, name->leaf);
	if (lora__get_bool(l->options, open_params, "ignore_extra")) return LORA_OK;
	int32_t layer = lora__site_layer_of(t->name), layers = 0;
	for (size_t i = 0; i < l->sites->n; i++)
		if (l->sites->list[i]->layer >= layers) layers = l->sites->list[i]->layer + 1;
	if (layer >= layers && layers)
		return lora__fail_at(l->ctx, LORA_E_NOTFOUND, "adapter", t->name, -1, "tensor %s is for layer %d, the model has %d layers: the adapter is of another model",
			lora__quote(t->name).text, (int)layer, (int)layers);
	return lora__fail_at(l->ctx, LORA_E_NOTFOUND, "adapter", t->name, -1, "tensor %s belongs to no module of the model (ignore_extra skips such tensors)",
		lora__quote(t->name).text);
}

/* Into a map under a key that is ours now, whatever comes. */
static lora_status map_text(loader *l, lora__map *map, lora__text *key, int64_t value)
{
	lora_status st = key->status ? key->status : lora__grow(l->ctx, &l->keys, &l->cap_keys, l->n_keys + 1, sizeof *l->keys);
	if (st) return lora__text_free(key), st;
	l->keys[l->n_keys++] = key->data;
	return lora__map_add(map, key->data, key->n, value, NULL);
}

/* The tensor's canonical name, by which the adapter calls it. */
static lora_status add_name(loader *l, const lora__tensor *t, const char *module, const char *leaf)
{
	lora__text s;
	int64_t other = -1;
	lora__text_init(&s, l->ctx);
	lora__text_printf(&s, "base_model.model.%s.%s", module, leaf);
	lora_status st = s.status;
	if (st == LORA_OK) other = lora__map_find(&l->names, s.data, s.n);
	if (other >= 0)
		st = lora__fail_at(l->ctx, LORA_E_FORMAT, "adapter", t->name, -1, "tensors %s and %s are the same part of module %s", lora__quote(t->name).text,
			lora__quote(l->tensors->list[other].name).text, module);
	else if (st == LORA_OK && t->dtype != LORA_F32 && t->dtype != LORA_F16 && t->dtype != LORA_BF16)
		st = lora__fail_at(l->ctx, LORA_E_DTYPE, "adapter", t->name, -1, "tensor %s is %s; F32, F16 and BF16 are supported", lora__quote(t->name).text,
			lora__dtype_name(t->dtype));
	else if (st == LORA_OK) return map_text(l, &l->names, &s, t - l->tensors->list);
	lora__text_free(&s);
	return st;
}

/* Weight or bias of a module that is trained as a whole; *taken tells. */
static lora_status sort_whole(loader *l, const lora__tensor *t, int *taken)
{
	const char *name = t->name + lora__peft_prefix(t->name, NULL), *dot = strrchr(name, '.');
	lora__site *site = NULL;
	*taken = 0;
	if (!dot || (strcmp(dot, ".weight") && strcmp(dot, ".bias"))) return LORA_OK;
	lora_status st = find_site(l, name, (size_t)(dot - name), &site);
	if (st || !site || l->wanted[site->index] != LORA__WHOLE) return st;
	*taken = 1;
	l->chosen[site->index] = LORA__WHOLE;
	return add_name(l, t, site->name, dot + 1);
}

/* PEFT saves the untouched weight of an adapted embedding, and of a head, as well. It must be the model's. */
static lora_status sort_base(loader *l, const lora__tensor *t, int *taken)
{
	static const char tail[] = ".base_layer.weight";
	const char *name = t->name + lora__peft_prefix(t->name, NULL);
	size_t n = strlen(name), k = sizeof tail - 1, each;
	lora__site *site = NULL;
	*taken = 0;
	if (n <= k || strcmp(name + n - k, tail)) return LORA_OK;
	lora_status st = find_site(l, name, n - k, &site);
	if (st || !site || (!site->is_head && !(site->flags & LORA_SITE_EMBEDDING))) return st;
	*taken = 1;
	int table = (site->flags & LORA_SITE_EMBEDDING) != 0, same = t->rank == 2 && t->shape[0] == (table ? site->in : site->out) && t->shape[1] == (table ? site->out : site->in);
	if (lora__site_is_quant(site) && same) return LORA_OK; /* another form of it: nothing to compare */
	if (same && t->dtype == site->dtype) same = memcmp(t->data, site->base, (size_t)t->bytes) == 0;
	else if (same && lora__dtype_is_float(t->dtype)) { /* rounded to the narrower of both types they are equal */
		lora_dtype type = lora__dtype_size(t->dtype) < lora__dtype_size(site->dtype) ? t->dtype : site->dtype;
		char a[8], b[8];
		each = lora__dtype_size(type);
		for (size_t i = 0; i < (size_t)(site->out * site->in) && same; i++) {
			lora__convert(a, type, t->data + i * lora__dtype_size(t->dtype), t->dtype, 1);
			lora__convert(b, type, (const char *)site->base + i * lora__dtype_size(site->dtype), site->dtype, 1);
			same = memcmp(a, b, each) == 0;
		}
	} else same = 0;
	if (same) return LORA_OK;
	return lora__fail_at(l->ctx, LORA_E_UNSUPPORTED, "adapter", t->name, -1, "tensor %s is not the model's own %s: the adapter was made for a model with another one",
		lora__quote(t->name).text, site->name);
}

/* Number of the role that a tensor's name ends in; in *roles the list that has it. */
static int role_of(const loader *l, const lora__tensor *t, lora__peft_name *name, const lora__role **roles)
{
	const lora__role *both[2] = { l->kind->roles, l->kind->table_roles };
	for (int i = 0; i < 2 && both[i]; i++)
		for (int role = 0; both[i][role].leaf; role++)
			if (lora__peft_split_leaf(t->name, both[i][role].leaf, name)) return *roles = both[i], role;
	return -1;
}

static lora_status sort_tensor(loader *l, const lora__tensor *t)
{
	lora__peft_name name = { 0 };
	const lora__role *roles = l->kind->roles;
	int role = role_of(l, t, &name, &roles), has_role = role >= 0, taken = 0;
	lora__site *site = NULL;
	lora_status st = LORA_OK;
	if (!has_role) {
		if ((st = sort_whole(l, t, &taken)) || taken) return st;
		if ((st = sort_base(l, t, &taken)) || taken) return st;
		lora__peft_split_name(t->name, &name);
		return stray(l, t, &name, has_role);
	}
	int64_t group = lora__map_find(&l->modules, name.module, name.module_n);
	if (group >= 0) {
		lora__text module;
		lora__text_init(&module, l->ctx);
		st = lora__target_module(l->sites, l->wanted, (size_t)group, &module);
		if (st == LORA_OK) st = add_name(l, t, module.data, roles[role].leaf);
		lora__text_free(&module);
		for (size_t i = 0; i < l->sites->n; i++)
			if (l->wanted[i] == LORA__PARAMETER && strcmp(l->sites->list[i]->param, l->sites->list[group]->param) == 0) l->chosen[i] = LORA__PARAMETER;
		return st;
	}
	if ((st = find_site(l, name.module, name.module_n, &site))) return st;
	if (!site || (roles == l->kind->table_roles) != ((site->flags & LORA_SITE_EMBEDDING) != 0)) return stray(l, t, &name, has_role);
	l->chosen[site->index] = LORA__CHOSEN;
	return add_name(l, t, site->name, roles[role].leaf);
}

static const char *last_of(const char *name) { return strrchr(name, '.') ? strrchr(name, '.') + 1 : name; }

/* target_modules lists names, and none of them is a layer's here: PEFT refuses that. Patterns and paths may be those of a model around this one. */
static int all_foreign(const loader *l)
{
	const json_t *v = lora__get_json(l->settings, "target_modules");
	for (size_t k = 0; k < json_array_size(v); k++) {
		const char *name = json_string_value(json_array_get(v, k));
		for (size_t i = 0; name && i < l->sites->n; i++)
			if (strcmp(last_of(name), last_of(l->sites->list[i]->name)) == 0) return 0;
	}
	return json_array_size(v) > 0;
}

/* What the configuration asks for. Which modules target_modules means is for the tensors to say; parameters and whole modules are named here. */
static lora_status read_wanted(loader *l)
{
	size_t n;
	lora__text module;
	lora__map seen; /* parameters, which have many sites each */
	lora_error kept = l->ctx->error;
	lora_status st = lora__target_sites(l->ctx, l->sites, l->settings, l->wanted, &n);
	if (st == LORA_E_NOTFOUND && !all_foreign(l)) st = LORA_OK, l->ctx->error = kept; /* the tensors are still to be heard */
	lora__map_init(&seen, l->ctx);
	for (size_t i = 0; i < l->sites->n && st == LORA_OK; i++) {
		const char *param = l->sites->list[i]->param;
		if (l->wanted[i] != LORA__PARAMETER || lora__map_find(&seen, param, strlen(param)) >= 0) continue;
		lora__text_init(&module, l->ctx);
		st = lora__map_add(&seen, param, strlen(param), (int64_t)i, NULL);
		if (st == LORA_OK) st = lora__target_module(l->sites, l->wanted, i, &module);
		if (st == LORA_OK) st = map_text(l, &l->modules, &module, (int64_t)i);
		else lora__text_free(&module);
	}
	lora__map_free(&seen);
	return st;
}

/* Each module that the configuration names has tensors. Whether each has all of them is seen when they are filled in. An expert's own name may
 * be meant for a layer without experts. */
static lora_status check_complete(loader *l)
{
	size_t any = 0;
	int named = lora__get_json(l->settings, "target_modules") != NULL;
	for (size_t i = 0; i < l->sites->n; i++) {
		const lora__site *s = l->sites->list[i];
		any += l->chosen[i] != 0;
		if (!l->wanted[i] || l->chosen[i] || (l->wanted[i] == LORA__CHOSEN && (!named || s->param))) continue;
		return lora__fail_at(l->ctx, LORA_E_FORMAT, "adapter", s->name, -1, "adapter_config.json names module %s, but there are no tensors for it", s->name);
	}
	return any ? LORA_OK : lora__fail(l->ctx, LORA_E_NOTFOUND, "adapter", "the adapter has no tensor for this model");
}

static lora_status wrong_shape(const loader *l, const lora__tensor *t, const lora__ptensor *p, const char *site)
{
	const char *hint = t->rank == 2 && t->shape[0] == p->shape[1] && t->shape[1] == p->shape[0] ? "; it looks transposed" : "";
	char got[96] = "[";
	size_t at = 1;
	for (int i = 0; i < t->rank && at < 80; i++) at += (size_t)snprintf(got + at, sizeof got - at, "%s%lld", i ? "," : "", (long long)t->shape[i]);
	snprintf(got + at, sizeof got - at, "]");
	return lora__fail_at(l->ctx, LORA_E_SHAPE, "adapter", t->name, -1, "tensor %s of module %s has shape %s, [%lld,%lld] expected (rank from adapter_config.json)%s",
		lora__quote(t->name).text, site, got, (long long)p->shape[0], (long long)p->shape[1], hint);
}

static lora_status fill(loader *l, lora_adapter *a)
{
	for (size_t i = 0; i < a->n_tensors; i++) {
		const lora__ptensor *p = &a->tensors[i];
		const lora__site *site = a->parts[p->part].slot.site;
		int64_t number = lora__map_find(&l->names, p->name, strlen(p->name));
		const lora__tensor *t = number < 0 ? NULL : &l->tensors->list[number];
		if (!t)
			return lora__fail_at(l->ctx, LORA_E_FORMAT, "adapter", site->name, -1, "module %s has no tensor %s", site->name, p->name + strlen("base_model.model."));
		if (t->rank != p->rank || t->shape[0] != p->shape[0] || (p->rank > 1 && t->shape[1] != p->shape[1])) return wrong_shape(l, t, p, site->name);
		lora__convert(a->params + p->offset, LORA_F32, t->data, t->dtype, p->n);
	}
	return LORA_OK;
}

static lora_status run(loader *l, const lora__peft_config *config, lora_adapter **out)
{
	lora_status st = read_settings(l, config);
	if (st) return st;
	const char *name = lora__get_string(l->options, open_params, "name");
	if (l->kind->virtual_tokens) {
		st = lora__virtual_load(l->sites, l->kind, l->settings, l->tensors, name, lora__get_bool(l->options, open_params, "ignore_extra"), out);
		if (st) return st;
		(*out)->extra = l->extra;
		l->settings = NULL, l->extra = NULL;
		return LORA_OK;
	}
	if (!(l->wanted = lora__zalloc(l->ctx, l->sites->n + 1)) || !(l->chosen = lora__zalloc(l->ctx, l->sites->n + 1))) return LORA_E_MEMORY;
	st = read_wanted(l);
	for (size_t i = 0; i < l->tensors->n && st == LORA_OK; i++) st = sort_tensor(l, &l->tensors->list[i]);
	if (st == LORA_OK) st = check_complete(l);
	lora_adapter *a = NULL;
	if (st == LORA_OK) st = lora__adapter_new(l->sites, l->kind, l->settings, name, l->chosen, &a);
	if (st) return st;
	l->settings = NULL;
	a->extra = l->extra;
	l->extra = NULL;
	if ((st = fill(l, a))) lora__adapter_release(a);
	else *out = a;
	return st;
}

lora_status lora__adapter_load(lora__sites *sites, const lora__peft_config *config, const lora__tensors *tensors, const lora_settings *options,
                               lora_adapter **out)
{
	lora_context *ctx = sites->ctx;
	lora_status st = lora__settings_check(ctx, options, "lora_adapter_open", open_params, NULL, NULL);
	if (st) return st;
	loader l = { .ctx = ctx, .sites = sites, .kind = lora__kind_of_peft(config->peft_type), .tensors = tensors, .options = options };
	if (!l.kind)
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "adapter", "peft_type", -1, "adapter_config.json: peft_type %s is not supported", lora__quote(config->peft_type).text);
	lora__map_init(&l.modules, ctx);
	lora__map_init(&l.names, ctx);
	st = run(&l, config, out);
	lora_settings_destroy(l.settings);
	json_decref(l.extra);
	for (size_t i = 0; i < l.n_keys; i++) lora__free(ctx, l.keys[i]);
	lora__free(ctx, l.keys);
	lora__map_free(&l.modules);
	lora__map_free(&l.names);
	lora__free(ctx, l.wanted);
	lora__free(ctx, l.chosen);
	return st;
}
