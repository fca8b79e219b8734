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

/* One module of the file: which tensor fills which role. */
typedef struct found { const lora__tensor *role[LORA__MAX_ROLES]; } found;

typedef struct loader {
	lora_context          *ctx;
	lora__sites           *sites;
	const lora__kind      *kind;
	const lora__tensors   *tensors;
	const lora_settings   *options;
	lora_settings         *settings;
	json_t                *extra;
	found                 *found;  /* [sites] */
	char                  *chosen; /* [sites] */
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

/* The site of a module path; a "model." level too many or too few is forgiven when the answer is one. */
static lora_status find_site(const loader *l, const char *module, size_t n, lora__site **out)
{
	char path[512];
	*out = NULL;
	if (n + 7 > sizeof path) return LORA_OK;
	snprintf(path, sizeof path, "%.*s", (int)n, module);
	if ((*out = lora__sites_find(l->sites, path))) return LORA_OK;
	lora__site *less = strncmp(path, "model.", 6) == 0 ? lora__sites_find(l->sites, path + 6) : NULL;
	snprintf(path, sizeof path, "model.%.*s", (int)n, module);
	lora__site *more = lora__sites_find(l->sites, path);
	if (less && more)
		return lora__fail_at(l->ctx, LORA_E_FORMAT, "adapter", path, -1, "module %s could be %s or %s", lora__quote_n(module, n).text, less->name, more->name);
	*out = less ? less : more;
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

static lora_status sort_tensor(loader *l, const lora__tensor *t)
{
	lora__peft_name name = { 0 };
	int role = 0;
	while (l->kind->roles[role].leaf && !lora__peft_split_leaf(t->name, l->kind->roles[role].leaf, &name)) role++;
	int has_role = l->kind->roles[role].leaf != NULL;
	lora__site *site = NULL;
	if (!has_role) lora__peft_split_name(t->name, &name);
	else {
		lora_status st = find_site(l, name.module, name.module_n, &site);
		if (st) return st;
	}
	if (!site) return stray(l, t, &name, has_role);
	found *f = &l->found[site->index];
	if (f->role[role])
		return lora__fail_at(l->ctx, LORA_E_FORMAT, "adapter", t->name, -1, "tensors %s and %s are the same part of module %s", lora__quote(t->name).text,
			lora__quote(f->role[role]->name).text, site->name);
	if (t->dtype != LORA_F32 && t->dtype != LORA_F16 && t->dtype != LORA_BF16)
		return lora__fail_at(l->ctx, LORA_E_DTYPE, "adapter", t->name, -1, "tensor %s is %s; F32, F16 and BF16 are supported", lora__quote(t->name).text,
			lora__dtype_name(t->dtype));
	f->role[role] = t;
	l->chosen[site->index] = 1;
	return LORA_OK;
}

/* Both halves of each pair; and each module that the configuration names has tensors. */
static lora_status check_complete(loader *l)
{
	size_t any = 0;
	for (size_t i = 0; i < l->sites->n; i++) {
		for (int k = 0; l->chosen[i] && l->kind->roles[k].leaf; k++)
			if (!l->found[i].role[k])
				return lora__fail_at(l->ctx, LORA_E_FORMAT, "adapter", l->sites->list[i]->name, -1, "module %s has no tensor %s", l->sites->list[i]->name,
					l->kind->roles[k].leaf);
		any += (size_t)l->chosen[i];
	}
	if (!lora__get_json(l->settings, "target_modules"))
		return any ? LORA_OK : lora__fail(l->ctx, LORA_E_NOTFOUND, "adapter", "the adapter has no tensor for this model");
	char *wanted = lora__zalloc(l->ctx, l->sites->n);
	size_t n;
	if (!wanted) return LORA_E_MEMORY;
	lora_status st = lora__target_sites(l->ctx, l->sites, l->settings, wanted, &n);
	for (size_t i = 0; i < l->sites->n && st == LORA_OK; i++)
		if (wanted[i] && !l->chosen[i])
			st = lora__fail_at(l->ctx, LORA_E_FORMAT, "adapter", l->sites->list[i]->name, -1, "adapter_config.json names module %s, but there are no tensors for it",
				l->sites->list[i]->name);
	lora__free(l->ctx, wanted);
	return st;
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
		const lora__tensor *t = l->found[site->index].role[p->role];
		if (t->rank != p->rank || t->shape[0] != p->shape[0] || (p->rank > 1 && t->shape[1] != p->shape[1])) return wrong_shape(l, t, p, site->name);
		lora__convert(a->params + p->offset, LORA_F32, t->data, t->dtype, p->n);
	}
	return LORA_OK;
}

static lora_status run(loader *l, const lora__peft_config *config, lora_adapter **out)
{
	lora_status st = read_settings(l, config);
	if (st) return st;
	if (!(l->found = lora__calloc(l->ctx, l->sites->n, sizeof *l->found)) || !(l->chosen = lora__zalloc(l->ctx, l->sites->n))) return LORA_E_MEMORY;
	for (size_t i = 0; i < l->tensors->n && st == LORA_OK; i++) st = sort_tensor(l, &l->tensors->list[i]);
	if (st == LORA_OK) st = check_complete(l);
	lora_adapter *a = NULL;
	if (st == LORA_OK) st = lora__adapter_new(l->sites, l->kind, l->settings, lora__get_string(l->options, open_params, "name"), l->chosen, &a);
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
	st = run(&l, config, out);
	lora_settings_destroy(l.settings);
	json_decref(l.extra);
	lora__free(ctx, l.found);
	lora__free(ctx, l.chosen);
	return st;
}
