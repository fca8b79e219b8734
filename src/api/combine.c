/* Exported functions of combine.h. */
#include "combine/combine.h"
#include "model/model.h"

static const char *nearest_type(const char *type)
{
	const char *names[64];
	size_t n = 0;
	for (; lora__combinations[n] && n < 64; n++) names[n] = lora__combinations[n]->m.name;
	const char *near = lora__nearest(type, names, n);
	return near ? near : names[0];
}

lora_status lora_adapter_combine(lora_adapter *const *adapters, const double *weights, int64_t n, const char *type, const lora_settings *settings, lora_adapter **out)
{
	if (out) *out = NULL;
	if (!adapters || n < 1 || !adapters[0]) return LORA_E_ARGUMENT;
	lora_context *ctx = adapters[0]->ctx;
	if (!weights || !type || !out) return lora__fail(ctx, LORA_E_ARGUMENT, "combine", "lora_adapter_combine: %s is NULL", !weights ? "weights" : type ? "out" : "type");
	for (int64_t k = 0; k < n; k++)
		if (!adapters[k] || adapters[k]->sites != adapters[0]->sites)
			return lora__fail(ctx, LORA_E_ARGUMENT, "combine", "adapter %lld is %s", (long long)k, adapters[k] ? "of another model" : "NULL");
	const lora__combination *t = lora__combination_find(type);
	if (!t) return lora__fail_at(ctx, LORA_E_NOTFOUND, "combine", type, -1, "there is no combination \"%s\" (did you mean \"%s\"?)", lora__quote(type).text, nearest_type(type));
	lora_status st = lora__settings_check(ctx, settings, type, t->m.params, NULL, NULL);
	return st ? st : lora__combine(adapters, weights, (size_t)n, t, settings, out);
}

lora_status lora_adapter_extract(lora_model *base, const lora_model *tuned, const lora_settings *settings, double *norms, double *errors, int64_t count,
                                 lora_adapter **out)
{
	if (out) *out = NULL;
	if (!base) return LORA_E_ARGUMENT;
	lora_context *ctx = base->s.ctx;
	const lora__param *params = lora__kind_lora.m.params;
	lora_settings *own = NULL;
	if (!tuned || !out) return lora__fail(ctx, LORA_E_ARGUMENT, "extract", "lora_adapter_extract: %s is NULL", tuned ? "out" : "tuned");
	if (tuned->s.ctx != ctx) return lora__fail(ctx, LORA_E_ARGUMENT, "extract", "the two models are of different contexts");
	if ((norms || errors) && count != lora_model_site_count(base))
		return lora__fail(ctx, LORA_E_ARGUMENT, "extract", "count is %lld, the model has %lld sites", (long long)count, (long long)lora_model_site_count(base));
	lora_status st = lora__kind_lora.refuse(ctx, settings, 0);
	if (st == LORA_OK) st = lora__settings_check(ctx, settings, "lora_adapter_extract", params, NULL, NULL);
	if (st == LORA_OK) st = lora__settings_copy(ctx, settings, &own);
	if (st == LORA_OK && !lora__has(own, "lora_alpha")) {
		st = lora_settings_set_int(own, "lora_alpha", lora__get_int(own, params, "r"));
		const json_t *pattern = lora__get_json(own, "rank_pattern");
		if (st == LORA_OK && pattern && !lora__has(own, "alpha_pattern") && json_object_set_new(own->object, "alpha_pattern", json_deep_copy(pattern)))
			st = lora__fail(ctx, LORA_E_MEMORY, "extract", "out of memory");
	}
	if (st == LORA_OK && !lora__has(own, "target_modules")) st = lora_settings_set_string(own, "target_modules", "all-linear");
	if (st == LORA_OK) st = lora__extract(&base->s, &tuned->s, own, norms, errors, out);
	if (st) lora_settings_destroy(own);
	return st;
}
