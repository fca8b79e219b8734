/* Exported functions of combine.h. */
#include <stddef.h>
#include <string.h>

#include "combine/combine.h"
#include "model/model.h"
#include "search/search.h"

static const char *nearest_type(const char *type)
{
	const char *names[64];
	size_t n = 0;
	for (; lora__combinations[n] && n < 64; n++) names[n] = lora__combinations[n]->m.name;
	const char *near = lora__nearest(type, names, n);
	return near ? near : names[0];
}

/* Adapters of one model, and a type with its settings. */
static lora_status check_combination(lora_adapter *const *adapters, int64_t n, const char *type, const lora_settings *settings, const lora__combination **out)
{
	lora_context *ctx = adapters[0]->ctx;
	for (int64_t k = 0; k < n; k++)
		if (!adapters[k] || adapters[k]->sites != adapters[0]->sites)
			return lora__fail(ctx, LORA_E_ARGUMENT, "combine", "adapter %lld is %s", (long long)k, adapters[k] ? "of another model" : "NULL");
	const lora__combination *t = *out = lora__combination_find(type);
	if (!t) return lora__fail_at(ctx, LORA_E_NOTFOUND, "combine", type, -1, "there is no combination \"%s\" (did you mean \"%s\"?)", lora__quote(type).text, nearest_type(type));
	return lora__settings_check(ctx, settings, type, t->m.params, NULL, NULL);
}

lora_status lora_adapter_combine(lora_adapter *const *adapters, const double *weights, int64_t n, const char *type, const lora_settings *settings, lora_adapter **out)
{
	if (out) *out = NULL;
	if (!adapters || n < 1 || !adapters[0]) return LORA_E_ARGUMENT;
	lora_context *ctx = adapters[0]->ctx;
	if (!weights || !type || !out) return lora__fail(ctx, LORA_E_ARGUMENT, "combine", "lora_adapter_combine: %s is NULL", !weights ? "weights" : type ? "out" : "type");
	const lora__combination *t;
	lora_status st = check_combination(adapters, n, type, settings, &t);
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

lora_status lora_shapley_values(lora_context *ctx, int64_t n, lora_value_fn fn, void *user, const lora_settings *settings, double *values, double *errors,
                                int64_t *calls)
{
	if (!ctx) return LORA_E_ARGUMENT;
	if (!fn || !values) return lora__fail(ctx, LORA_E_ARGUMENT, "shapley", "lora_shapley_values: %s is NULL", fn ? "values" : "fn");
	if (n < 1) return lora__fail(ctx, LORA_E_ARGUMENT, "shapley", "lora_shapley_values: n is %lld", (long long)n);
	lora_status st = lora__settings_check(ctx, settings, "shapley", lora__shapley_member.params, NULL, NULL);
	return st ? st : lora__shapley(ctx, n, fn, user, settings, values, errors, calls);
}

lora_status lora_search_options_init(lora_search_options *opts, size_t size)
{
	if (!opts || size < offsetof(lora_search_options, reserved)) return LORA_E_ARGUMENT;
	lora_search_options o = { .struct_size = (uint32_t)size, .method = "cmaes", .type = "lorahub" };
	memset(opts, 0, size);
	memcpy(opts, &o, size < sizeof o ? size : sizeof o);
	return LORA_OK;
}

/* The caller's options with what they leave open, the method, and its settings checked. */
static lora_status read_search(lora_context *ctx, const lora_search_options *in, lora_search_options *o, const lora__search **method)
{
	lora_search_options_init(o, sizeof *o);
	if (in) {
		if (in->struct_size < offsetof(lora_search_options, reserved)) return lora__fail(ctx, LORA_E_ARGUMENT, "search", "options: struct_size is not set");
		memcpy(o, in, in->struct_size < sizeof *o ? in->struct_size : sizeof *o);
		if (o->flags || o->reserved[0] || o->reserved[1] || o->reserved[2] || o->reserved[3])
			return lora__fail(ctx, LORA_E_ARGUMENT, "search", "options: unknown flags, or reserved members that are not zero");
		if (!o->method) o->method = "cmaes";
		if (!o->type) o->type = "lorahub";
	}
	*method = lora__search_find(o->method);
	if (!*method) return lora__fail_at(ctx, LORA_E_NOTFOUND, "search", o->method, -1, "there is no search \"%s\" (family \"search\" lists them)", lora__quote(o->method).text);
	return lora__settings_check(ctx, o->settings, o->method, (*method)->m.params, NULL, NULL);
}

static lora_status check_result(lora_context *ctx, const lora_search_result *result)
{
	if (!result || result->struct_size >= 8) return LORA_OK;
	return lora__fail(ctx, LORA_E_ARGUMENT, "search", "result: struct_size is not set");
}

static void give_result(const lora_search_result *r, lora_search_result *out)
{
	if (!out) return;
	uint32_t size = out->struct_size;
	memcpy(out, r, size < sizeof *r ? size : sizeof *r);
	out->struct_size = size;
}

lora_status lora_search_minimize(lora_context *ctx, lora_search_fn fn, void *user, int64_t n, const lora_search_options *opts, double *x,
                                 lora_search_result *result)
{
	lora_search_options o;
	lora_search_result r = { .struct_size = sizeof r };
	const lora__search *method;
	if (!ctx) return LORA_E_ARGUMENT;
	if (!fn || !x) return lora__fail(ctx, LORA_E_ARGUMENT, "search", "lora_search_minimize: %s is NULL", fn ? "x" : "fn");
	if (n < 1 || n > LORA__SEARCH_MOST) return lora__fail(ctx, LORA_E_ARGUMENT, "search", "n is %lld, must be 1 to %d", (long long)n, LORA__SEARCH_MOST);
	lora_status st = check_result(ctx, result);
	if (!st) st = read_search(ctx, opts, &o, &method);
	if (!st) st = lora__search_run(ctx, method, o.settings, n, fn, user, o.progress, o.user, x, &r);
	if (!st || st == LORA_E_CANCELLED) give_result(&r, result);
	return st;
}

lora_status lora_adapter_search(lora_adapter *const *adapters, int64_t n, const lora_batch *batches, int64_t n_batches, const lora_search_options *opts,
                                double *weights, lora_search_result *result)
{
	lora_search_options o;
	lora_search_result r = { .struct_size = sizeof r };
	lora__search_job job = { .opts = &o, .batches = batches, .n_batches = n_batches };
	if (!adapters || n < 1 || !adapters[0]) return LORA_E_ARGUMENT;
	lora_context *ctx = adapters[0]->ctx;
	if (!batches || n_batches < 1 || !weights) return lora__fail(ctx, LORA_E_ARGUMENT, "search", "lora_adapter_search: there are no %s", weights ? "batches" : "weights");
	if (n > LORA__SEARCH_MOST) return lora__fail(ctx, LORA_E_ARGUMENT, "search", "%lld adapters, at most %d", (long long)n, LORA__SEARCH_MOST);
	if (batches->struct_size < offsetof(lora_batch, labels) + sizeof batches->labels)
		return lora__fail(ctx, LORA_E_ARGUMENT, "search", "the batches have no labels, or their struct_size is not set");
	lora_status st = check_result(ctx, result);
	if (!st) st = read_search(ctx, opts, &o, &job.method);
	if (!st) st = check_combination(adapters, n, o.type, o.type_settings, &job.type);
	if (!st && !((const lora_model *)(const void *)adapters[0]->sites)->arch) st = lora__fail(ctx, LORA_E_STATE, "search", "the model has no graph of its own: lora_search_minimize() takes a loss of yours");
	if (!st) st = lora__combine_search(adapters, (size_t)n, &job, weights, &r);
	if (!st || st == LORA_E_CANCELLED) give_result(&r, result);
	return st;
}
