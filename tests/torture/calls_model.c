/* model.h and linear.h in the allocation sweep. */
#include "torture.h"

static lora_status create(world *w)
{
	lora_model *m = NULL;
	lora_status st = lora_model_create(w->ctx, &m);
	MADE(w, lora_model_destroy, m);
	return st;
}

static lora_status add_site(world *w)
{
	lora_site_info site = { .struct_size = sizeof site, .dtype = LORA_F32, .name = "layers.2.proj", .out = HOST_OUT, .in = HOST_IN, .data = w->host[0],
		.layer = -1 };
	return lora_model_add_site(w->model, &site, NULL);
}

static lora_status build(world *w)
{
	lora_model *m = NULL;
	lora_status st = lora_model_build(w->ctx, "llama", w->settings, &m);
	MADE(w, lora_model_destroy, m);
	return st;
}

static lora_status tiny_settings(world *w)
{
	lora_settings_destroy(w->settings), w->settings = NULL;
	return world_settings(w, "{\"hidden_size\": 8, \"intermediate_size\": 8, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"vocab_size\": 16,"
		"\"max_position_embeddings\": 16}", &w->settings);
}

static lora_status save_first(world *w)
{
	char path[128];
	snprintf(path, sizeof path, "%s/model", w->dir);
	return lora_model_save(w->model, path, NULL);
}

static lora_status open_saved(world *w)
{
	char        path[128];
	lora_model *m = NULL;
	snprintf(path, sizeof path, "%s/model", w->dir);
	lora_status st = lora_model_open(w->ctx, path, NULL, &m);
	MADE(w, lora_model_destroy, m);
	return st;
}

static lora_status force_settings(world *w)
{
	TRY_FIRST(save_first(w));
	return world_settings(w, "{\"force\": true, \"max_shard_bytes\": 2000}", &w->settings);
}

static lora_status save_again(world *w)
{
	char path[128];
	snprintf(path, sizeof path, "%s/model", w->dir);
	return lora_model_save(w->model, path, w->settings);
}

static lora_status forward(world *w) { return lora_model_forward(w->model, &w->batch, w->logits, sizeof w->logits); }
static lora_status loss(world *w) { return lora_model_loss(w->model, &w->batch, &w->loss, NULL); }
static lora_status backward(world *w) { return lora_model_backward(w->model, &w->batch, NULL, 0, &w->loss, NULL); }

static lora_status rows_create(world *w)
{
	static const int32_t assign[4] = { 0, -1, 1, 0 };
	lora_adapter        *adapters[2] = { w->a, w->b };
	lora_rows           *rows = NULL;
	lora_status          st = lora_rows_create(w->model, adapters, 2, assign, 4, &rows);
	MADE(w, lora_rows_destroy, rows);
	return st;
}

static lora_linear_args on_site(world *w)
{
	return (lora_linear_args){ .struct_size = sizeof(lora_linear_args), .flags = LORA_LINEAR_BASE, .n_rows = 4, .x = w->x, .x_stride = HOST_IN, .y = w->y,
		.y_stride = HOST_OUT, .dy = w->y, .dy_stride = HOST_OUT, .dx = w->dx, .dx_stride = HOST_IN, .rows = w->made };
}

static lora_status linear_forward(world *w)
{
	lora_linear_args args = on_site(w);
	return lora_linear_forward(w->model, &args);
}

static lora_status linear_backward(world *w)
{
	lora_linear_args args = on_site(w);
	return lora_linear_backward(w->model, &args);
}

const torture_call calls_model[] = {
	{ "lora_model_create", 0, NULL, create },
	{ "lora_model_add_site", WITH_HOST, NULL, add_site },
	{ "lora_model_build", 0, tiny_settings, build },
	{ "lora_model_save", WITH_LLAMA | WITH_DIR, NULL, save_first },
	{ "lora_model_save, sharded, over another", WITH_LLAMA | WITH_DIR, force_settings, save_again },
	{ "lora_model_open", WITH_LLAMA | WITH_DIR, save_first, open_saved },
	{ "lora_model_forward", WITH_LLAMA | WITH_ADAPTER, NULL, forward },
	{ "lora_model_loss", WITH_LLAMA | WITH_ADAPTER, NULL, loss },
	{ "lora_model_backward", WITH_LLAMA | WITH_ADAPTER, NULL, backward },
	{ "lora_model_backward, two adapters", WITH_LLAMA | WITH_ADAPTER | WITH_SECOND, NULL, backward },
	{ "lora_rows_create", WITH_HOST | WITH_ADAPTER | WITH_SECOND, NULL, rows_create },
	{ "lora_linear_forward", WITH_HOST | WITH_ADAPTER | WITH_SECOND, NULL, linear_forward },
	{ "lora_linear_forward, by rows", WITH_HOST | WITH_ADAPTER | WITH_SECOND, rows_create, linear_forward },
	{ "lora_linear_backward", WITH_HOST | WITH_ADAPTER | WITH_SECOND, NULL, linear_backward },
	{ "lora_linear_backward, by rows", WITH_HOST | WITH_ADAPTER | WITH_SECOND, rows_create, linear_backward },
	{ 0 },
};
