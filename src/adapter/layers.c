/* Layers of an adapter: its sites in groups, one per block of the model. They can be put to rest, and be cut away for good. */
#include <string.h>

#include "adapter/adapter.h"

/* Length of a name up to and with its first number: "model.layers.3". 0 = it has none. */
static size_t block_of(const char *name)
{
	for (const char *p = name; (p = strchr(p, '.')); p++) {
		size_t digits = strspn(p + 1, "0123456789");
		if (digits && (p[1 + digits] == '.' || !p[1 + digits])) return (size_t)(p - name) + 1 + digits;
	}
	return 0;
}

int32_t lora__adapter_layers(const lora_adapter *a, int32_t *layer)
{
	int32_t n = 0;
	for (size_t i = 0; i < a->n_parts; i++) {
		const char *name = a->parts[i].slot.site->name;
		size_t length = block_of(name);
		layer[i] = a->parts[i].how == LORA__WHOLE ? -1 : n;
		for (size_t k = i; k-- > 0 && layer[i] == n;) {
			const char *other = a->parts[k].slot.site->name;
			if (layer[k] >= 0 && block_of(other) == length && strncmp(name, other, length) == 0) layer[i] = layer[k];
		}
		n += layer[i] == n;
	}
	return n;
}

lora_status lora__adapter_set_layers(lora_adapter *a, const uint8_t *active)
{
	int32_t *layer = lora__calloc(a->ctx, a->n_parts + 1, sizeof *layer);
	if (!layer) return LORA_E_MEMORY;
	lora__adapter_layers(a, layer);
	for (size_t i = 0; i < a->n_parts; i++) {
		lora__slot *s = &a->parts[i].slot;
		s->idle &= ~LORA__IDLE_MASKED;
		if (active && layer[i] >= 0 && !active[layer[i]]) s->idle |= LORA__IDLE_MASKED;
	}
	lora__free(a->ctx, layer);
	return LORA_OK;
}

/* ---- cutting away ---- */

/* Whether these settings choose the wanted sites and no others. */
static lora_status chooses(const lora_adapter *a, const lora_settings *s, const char *wanted, int *yes)
{
	size_t n, sites = a->sites->n;
	char *chosen = lora__zalloc(a->ctx, sites + 1);
	if (!chosen) return LORA_E_MEMORY;
	lora_status st = lora__target_sites(a->ctx, a->sites, s, chosen, &n);
	*yes = st == LORA_OK && memcmp(chosen, wanted, sites) == 0;
	lora__free(a->ctx, chosen);
	return st == LORA_E_MEMORY ? st : LORA_OK;
}

/* PEFT's layers_to_transform, which goes with a list of names only. */
static int by_numbers(const lora_adapter *a, const char *wanted, json_t *o)
{
	json_t *list = json_array();
	for (size_t i = 0; i < a->n_parts && list; i++) {
		const lora__site *s = a->parts[i].slot.site;
		size_t have = json_array_size(list);
		if (wanted[s->index] == LORA__CHOSEN && (!have || json_integer_value(json_array_get(list, have - 1)) != s->layer)) json_array_append_new(list, json_integer(s->layer));
	}
	return json_object_set_new(o, "layers_to_transform", list);
}

/* Every site by its full name. */
static int by_names(const lora_adapter *a, const char *wanted, json_t *o)
{
	static const char *const narrowing[] = { "layers_to_transform", "layers_pattern", "exclude_modules" };
	json_t *modules = json_array(), *parameters = json_array();
	int bad = !modules || !parameters;
	for (size_t i = 0; i < a->n_parts && !bad; i++) {
		const lora__site *s = a->parts[i].slot.site;
		size_t have = json_array_size(parameters);
		if (wanted[s->index] == LORA__CHOSEN) bad = json_array_append_new(modules, json_string(s->name));
		else if (wanted[s->index] == LORA__PARAMETER && (!have || strcmp(json_string_value(json_array_get(parameters, have - 1)), s->param)))
			bad = json_array_append_new(parameters, json_string(s->param));
	}
	for (int i = 0; i < 3; i++) json_object_del(o, narrowing[i]);
	if (!bad && json_array_size(parameters)) bad = json_object_set(o, "target_parameters", parameters);
	else json_object_del(o, "target_parameters");
	bad |= json_object_set_new(o, "target_modules", modules);
	json_decref(parameters);
	return bad;
}

static lora_status settings_for(const lora_adapter *a, const char *wanted, lora_settings **out)
{
	int yes = 0, bad = 0;
	lora_status st = lora__settings_copy(a->ctx, a->settings, out);
	if (st == LORA_OK) st = chooses(a, *out, wanted, &yes);
	if (st == LORA_OK && !yes && json_is_array(lora__get_json(*out, "target_modules"))) {
		bad = by_numbers(a, wanted, (*out)->object);
		if (!bad) st = chooses(a, *out, wanted, &yes);
	}
	if (st == LORA_OK && !yes && !bad) {
		bad = by_names(a, wanted, (*out)->object);
		if (!bad) st = chooses(a, *out, wanted, &yes);
	}
	if (bad) return lora__fail(a->ctx, LORA_E_MEMORY, "adapter", "out of memory");
	return st || yes ? st : lora__fail_at(a->ctx, LORA_E_UNSUPPORTED, "adapter", a->name, -1, "no settings choose just the layers that are kept");
}

static void copy_tensors(const lora_adapter *from, const lora_adapter *to)
{
	for (size_t i = 0, k = 0; i < to->n_tensors; i++, k++) {
		while (strcmp(from->tensors[k].name, to->tensors[i].name)) k++;
		memcpy(to->params + to->tensors[i].offset, from->params + from->tensors[k].offset, to->tensors[i].n * sizeof *to->params);
	}
}

static lora_status same_tensors(const lora_adapter *from, const lora_adapter *to)
{
	for (size_t i = 0, k = 0; i < to->n_tensors; i++, k++) {
		while (k < from->n_tensors && strcmp(from->tensors[k].name, to->tensors[i].name)) k++;
		if (k == from->n_tensors || from->tensors[k].n != to->tensors[i].n)
			return lora__fail_at(from->ctx, LORA_E_UNSUPPORTED, "adapter", to->tensors[i].name, -1, "%s would not be what it is now", to->tensors[i].name);
	}
	return LORA_OK;
}

lora_status lora__adapter_prune(const lora_adapter *a, const uint8_t *keep, lora_adapter **out)
{
	int64_t kept = 0;
	lora_settings *own = NULL;
	lora_adapter *made = NULL;
	char *wanted = lora__zalloc(a->ctx, a->sites->n + 1);
	int32_t *layer = lora__calloc(a->ctx, a->n_parts + 1, sizeof *layer);
	lora_status st = wanted && layer ? LORA_OK : LORA_E_MEMORY;
	if (!st) lora__adapter_layers(a, layer);
	for (size_t i = 0; i < a->n_parts && !st; i++)
		if (layer[i] < 0 || keep[layer[i]]) wanted[a->parts[i].slot.site->index] = (char)a->parts[i].how, kept += layer[i] >= 0;
	if (!st && !kept) st = lora__fail_at(a->ctx, LORA_E_ARGUMENT, "adapter", "keep", -1, "no layer would be left");
	if (!st) st = settings_for(a, wanted, &own);
	if (!st) st = lora__adapter_new(a->sites, a->kind, own, a->name, wanted, &made);
	if (!st) st = same_tensors(a, made);
	if (!st) {
		copy_tensors(a, made);
		*out = made;
	} else {
		if (made) made->settings = NULL, lora__adapter_release(made);
		lora_settings_destroy(own);
	}
	lora__free(a->ctx, wanted);
	lora__free(a->ctx, layer);
	return st;
}
