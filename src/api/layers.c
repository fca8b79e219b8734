/* Exported functions of adapter.h about layers. The work is in adapter/layers.c. */
#include "adapter/adapter.h"

/* Number of layers, compared with what the caller says; *layer: of each part, the caller's to free. */
static lora_status layers_of(const lora_adapter *a, int64_t given, int32_t **layer, int64_t *count)
{
	if (!(*layer = lora__calloc(a->ctx, a->n_parts + 1, sizeof **layer))) return LORA_E_MEMORY;
	*count = lora__adapter_layers(a, *layer);
	if (given < 0 || given == *count) return LORA_OK;
	lora__free(a->ctx, *layer);
	return lora__fail_at(a->ctx, LORA_E_SHAPE, "adapter", a->name, -1, "%lld layers given, the adapter has %lld", (long long)given, (long long)*count);
}

static lora_status check_layers(const lora_adapter *a, int64_t given)
{
	int32_t *layer;
	int64_t count;
	if (given < 0) return lora__fail_at(a->ctx, LORA_E_SHAPE, "adapter", a->name, -1, "%lld layers given", (long long)given);
	lora_status st = layers_of(a, given, &layer, &count);
	if (st == LORA_OK) lora__free(a->ctx, layer);
	return st;
}

lora_status lora_adapter_layers(const lora_adapter *a, int32_t *layer, int64_t count, int64_t *n)
{
	int32_t *own;
	int64_t have;
	if (!a) return LORA_E_ARGUMENT;
	if (!n) return lora__fail(a->ctx, LORA_E_ARGUMENT, "adapter", "lora_adapter_layers: n is NULL");
	int64_t sites = (int64_t)(a->sites->n - a->sites->n_tables); /* tables come behind, and are not counted to hosts */
	if (layer && count != sites) return lora__fail(a->ctx, LORA_E_SHAPE, "adapter", "count is %lld, the model has %lld sites", (long long)count, (long long)sites);
	lora_status st = layers_of(a, -1, &own, &have);
	if (st) return st;
	for (int64_t i = 0; layer && i < count; i++) layer[i] = -1;
	for (size_t i = 0; layer && i < a->n_parts; i++)
		if (a->parts[i].slot.site->index < sites) layer[a->parts[i].slot.site->index] = own[i];
	*n = have;
	lora__free(a->ctx, own);
	return LORA_OK;
}

lora_status lora_adapter_set_layers(lora_adapter *a, const uint8_t *active, int64_t n)
{
	if (!a) return LORA_E_ARGUMENT;
	if (a->merged) return lora__fail_at(a->ctx, LORA_E_STATE, "adapter", a->name, -1, "the adapter is merged");
	lora_status st = active ? check_layers(a, n) : LORA_OK;
	return st ? st : lora__adapter_set_layers(a, active);
}

lora_status lora_adapter_prune(const lora_adapter *a, const uint8_t *keep, int64_t n, lora_adapter **out)
{
	if (out) *out = NULL;
	if (!a) return LORA_E_ARGUMENT;
	if (!keep || !out) return lora__fail(a->ctx, LORA_E_ARGUMENT, "adapter", "lora_adapter_prune: %s is NULL", keep ? "out" : "keep");
	lora_status st = check_layers(a, n);
	return st ? st : lora__adapter_prune(a, keep, out);
}
