/* adapter.h in the allocation sweep. */
#include "torture.h"

static lora_status settings_first(world *w)
{
	return world_settings(w, "{\"r\": 2, \"target_modules\": [\"proj\", \"q_proj\", \"down_proj\"], \"rank_pattern\": {\"q_proj\": 3}}", &w->settings);
}

static lora_status create(world *w)
{
	lora_adapter *a = NULL;
	lora_status   st = lora_adapter_create(w->model, "lora", w->settings, &a);
	MADE(w, lora_adapter_destroy, a);
	return st;
}

static lora_status attach(world *w) { return lora_adapter_attach(w->made, 0.5); }

static lora_status create_first(world *w)
{
	TRY_FIRST(settings_first(w));
	return create(w);
}

static lora_status save(world *w)
{
	char path[128];
	snprintf(path, sizeof path, "%s/adapter", w->dir);
	return lora_adapter_save(w->a, path, NULL);
}

static lora_status open_saved(world *w)
{
	char          path[128];
	lora_adapter *a = NULL;
	snprintf(path, sizeof path, "%s/adapter", w->dir);
	lora_status st = lora_adapter_open(w->model, path, NULL, &a);
	MADE(w, lora_adapter_destroy, a);
	return st;
}

static lora_status combine_as(world *w, const char *type)
{
	lora_adapter *const both[] = { w->a, w->b };
	const double        weights[] = { 0.5, -1 };
	lora_adapter       *a = NULL;
	lora_status         st = lora_adapter_combine(both, weights, 2, type, NULL, &a);
	MADE(w, lora_adapter_destroy, a);
	return st;
}

static lora_status combine_svd(world *w) { return combine_as(w, "svd"); }
static lora_status combine_ties(world *w) { return combine_as(w, "ties"); }

static lora_status combine_hub(world *w) { return combine_as(w, "lorahub"); }

static lora_status detach_both(world *w)
{
	lora_status st = lora_adapter_detach(w->a);
	return st ? st : lora_adapter_detach(w->b);
}

static lora_status search(world *w)
{
	lora_adapter *const both[] = { w->a, w->b };
	double              best[] = { 0, 0 };
	lora_search_result  r = { .struct_size = sizeof r };
	lora_status         st = lora_adapter_search(both, 2, &w->batch, 1, NULL, best, &r);
	w->loss = r.loss;
	return st;
}

static lora_status extract(world *w)
{
	lora_adapter *a = NULL;
	lora_status   st = lora_adapter_extract(w->model, w->model, NULL, NULL, NULL, 0, &a);
	MADE(w, lora_adapter_destroy, a);
	return st;
}

static char   config[1 << 14], weights[1 << 17];
static size_t config_bytes, weights_bytes;

static lora_status read_file(world *w, const char *name, char *buf, size_t size, size_t *n)
{
	char path[160];
	snprintf(path, sizeof path, "%s/adapter/%s", w->dir, name);
	FILE *f = fopen(path, "rb");
	if (!f) return LORA_E_IO;
	*n = fread(buf, 1, size, f);
	fclose(f);
	return LORA_OK;
}

static lora_status read_saved(world *w)
{
	TRY_FIRST(save(w));
	TRY_FIRST(read_file(w, "adapter_config.json", config, sizeof config, &config_bytes));
	return read_file(w, "adapter_model.safetensors", weights, sizeof weights, &weights_bytes);
}

static lora_status open_memory(world *w)
{
	lora_adapter *a = NULL;
	lora_status   st = lora_adapter_open_memory(w->model, config, config_bytes, weights, weights_bytes, NULL, &a);
	MADE(w, lora_adapter_destroy, a);
	return st;
}

static lora_status merge(world *w) { return lora_adapter_merge(w->a, NULL); }
static lora_status merge_second(world *w) { return lora_adapter_merge(w->b, NULL); }
static lora_status unmerge(world *w) { return lora_adapter_unmerge(w->a); }
static lora_status merge_both(world *w)
{
	TRY_FIRST(merge(w));
	return merge_second(w);
}

static lora_status detach(world *w) { return lora_adapter_detach(w->a); }
static lora_status set_scale(world *w) { return lora_adapter_set_scale(w->a, 2.0); }
static lora_status freeze(world *w) { return lora_adapter_set_trainable(w->a, 0); }
static lora_status zero_grad(world *w) { return lora_adapter_zero_grad(w->a); }
static lora_status settings_json(world *w) { return lora_adapter_settings_json(w->a, w->text, sizeof w->text, &w->size); }
static lora_status delta(world *w) { return lora_adapter_delta(w->a, 0, w->logits, sizeof(float) * HOST_OUT * HOST_IN); }
static lora_status write_tensor(world *w)
{
	lora_tensor_info t;
	TRY_FIRST(lora_adapter_tensor_info(w->a, 0, &t));
	return lora_adapter_tensor_write(w->a, 0, w->x, (size_t)t.bytes);
}

static lora_status layers(world *w)
{
	int64_t n;
	return lora_adapter_layers(w->a, NULL, 0, &n);
}
static lora_status rest(world *w)
{
	uint8_t none[64] = { 0 };
	int64_t n;
	TRY_FIRST(lora_adapter_layers(w->a, NULL, 0, &n));
	return lora_adapter_set_layers(w->a, none, n);
}
static lora_status prune(world *w)
{
	uint8_t keep[64] = { 1 };
	int64_t n;
	lora_adapter *a = NULL;
	TRY_FIRST(lora_adapter_layers(w->a, NULL, 0, &n));
	lora_status st = lora_adapter_prune(w->a, keep, n, &a);
	MADE(w, lora_adapter_destroy, a);
	return st;
}
static int32_t count_players(void *user, const uint8_t *active, int64_t n, double *value)
{
	*value = *(double *)user;
	for (int64_t i = 0; i < n; i++) *value += active[i];
	return 0;
}
static lora_status shapley(world *w)
{
	double values[20], errors[20], base = 2;
	return lora_shapley_values(w->ctx, 20, count_players, &base, NULL, values, errors, NULL);
}

const torture_call calls_adapter[] = {
	{ "lora_adapter_create, host", WITH_HOST, settings_first, create },
	{ "lora_adapter_create, llama", WITH_LLAMA, settings_first, create },
	{ "lora_adapter_attach", WITH_LLAMA | WITH_ADAPTER, create_first, attach },
	{ "lora_adapter_save", WITH_LLAMA | WITH_ADAPTER | WITH_DIR, NULL, save },
	{ "lora_adapter_save, over another", WITH_LLAMA | WITH_ADAPTER | WITH_DIR, save, save },
	{ "lora_adapter_open", WITH_LLAMA | WITH_ADAPTER | WITH_DIR, save, open_saved },
	{ "lora_adapter_open_memory", WITH_LLAMA | WITH_ADAPTER | WITH_DIR, read_saved, open_memory },
	{ "lora_adapter_merge, host", WITH_HOST | WITH_ADAPTER | WITH_SECOND, NULL, merge },
	{ "lora_adapter_merge, llama", WITH_LLAMA | WITH_ADAPTER | WITH_SECOND, NULL, merge },
	{ "lora_adapter_merge, host, second", WITH_HOST | WITH_ADAPTER | WITH_SECOND, merge, merge_second },
	{ "lora_adapter_merge, llama, second", WITH_LLAMA | WITH_ADAPTER | WITH_SECOND, merge, merge_second },
	{ "lora_adapter_unmerge, host", WITH_HOST | WITH_ADAPTER | WITH_SECOND, merge, unmerge },
	{ "lora_adapter_unmerge, host, one of two", WITH_HOST | WITH_ADAPTER | WITH_SECOND, merge_both, unmerge },
	{ "lora_adapter_unmerge, llama, one of two", WITH_LLAMA | WITH_ADAPTER | WITH_SECOND, merge_both, unmerge },
	{ "lora_adapter_detach", WITH_LLAMA | WITH_ADAPTER | WITH_SECOND, NULL, detach },
	{ "lora_adapter_set_scale", WITH_LLAMA | WITH_ADAPTER, NULL, set_scale },
	{ "lora_adapter_set_trainable", WITH_LLAMA | WITH_ADAPTER, NULL, freeze },
	{ "lora_adapter_zero_grad", WITH_LLAMA | WITH_ADAPTER, NULL, zero_grad },
	{ "lora_adapter_settings_json", WITH_LLAMA | WITH_ADAPTER, NULL, settings_json },
	{ "lora_adapter_delta", WITH_HOST | WITH_ADAPTER, NULL, delta },
	{ "lora_adapter_combine, svd", WITH_HOST | WITH_ADAPTER | WITH_SECOND, NULL, combine_svd },
	{ "lora_adapter_combine, ties", WITH_HOST | WITH_ADAPTER | WITH_SECOND, NULL, combine_ties },
	{ "lora_adapter_combine, lorahub", WITH_HOST | WITH_ADAPTER | WITH_SECOND, NULL, combine_hub },
	{ "lora_adapter_search", WITH_LLAMA | WITH_ADAPTER | WITH_SECOND, detach_both, search },
	{ "lora_adapter_extract", WITH_HOST, NULL, extract },
	{ "lora_adapter_layers", WITH_LLAMA | WITH_ADAPTER, NULL, layers },
	{ "lora_adapter_set_layers", WITH_LLAMA | WITH_ADAPTER, NULL, rest },
	{ "lora_adapter_prune", WITH_LLAMA | WITH_ADAPTER, NULL, prune },
	{ "lora_shapley_values", WITH_HOST, NULL, shapley },
	{ "lora_adapter_tensor_write", WITH_HOST | WITH_ADAPTER, NULL, write_tensor },
	{ 0 },
};
