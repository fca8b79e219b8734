/* Worlds for the allocation sweep: small objects of every kind, and one number over all that can be seen of them. */
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include "torture.h"

static const char llama[] = "{\"hidden_size\": 16, \"intermediate_size\": 24, \"num_hidden_layers\": 2, \"num_attention_heads\": 4,"
	"\"num_key_value_heads\": 2, \"vocab_size\": 48, \"max_position_embeddings\": 32, \"seed\": 7, \"weight_dtype\": \"BF16\"}";

lora_status world_settings(world *w, const char *json, lora_settings **out)
{
	TRY_FIRST(lora_settings_create(w->ctx, out));
	lora_status st = lora_settings_from_json(*out, json, strlen(json));
	if (st) lora_settings_destroy(*out), *out = NULL;
	return st;
}

static void fill(world *w)
{
	uint64_t seed = 11;
	for (int s = 0; s < 2; s++)
		for (int i = 0; i < HOST_OUT * HOST_IN; i++) w->host[s][i] = (float)(check_random(&seed) % 1000) / 500 - 1;
	for (int i = 0; i < 4 * HOST_IN; i++) w->x[i] = (float)(check_random(&seed) % 1000) / 500 - 1;
	for (int i = 0; i < 4 * HOST_OUT; i++) w->y[i] = (float)(check_random(&seed) % 1000) / 500 - 1;
	for (int i = 0; i < BATCH_B * BATCH_T; i++) w->ids[i] = (int32_t)(check_random(&seed) % VOCABULARY);
	w->batch = (lora_batch){ .struct_size = sizeof w->batch, .n_sequences = BATCH_B, .length = BATCH_T, .input_ids = w->ids, .labels = w->ids };
}

static lora_status make_host(world *w)
{
	TRY_FIRST(lora_model_create(w->ctx, &w->model));
	for (int i = 0; i < 2; i++) {
		lora_site_info site = { .struct_size = sizeof site, .dtype = LORA_F32, .name = i ? "layers.1.proj" : "layers.0.proj", .out = HOST_OUT,
			.in = HOST_IN, .data = w->host[i], .layer = -1 };
		TRY_FIRST(lora_model_add_site(w->model, &site, NULL));
	}
	return LORA_OK;
}

static lora_status make_adapter(world *w, int seed, lora_adapter **out)
{
	lora_settings *s = NULL;
	char json[200];
	snprintf(json, sizeof json, "{\"r\": 2, \"target_modules\": \"all-linear\", \"init_lora_weights\": false, \"seed\": %d}", seed);
	TRY_FIRST(world_settings(w, json, &s));
	lora_status st = lora_adapter_create(w->model, "lora", s, out);
	lora_settings_destroy(s);
	return st ? st : lora_adapter_attach(*out, 1.0);
}

static lora_status make_trainer(world *w)
{
	lora_settings *s = NULL;
	TRY_FIRST(world_settings(w, "{\"max_steps\": 10, \"lr_scheduler_type\": \"linear\", \"warmup_steps\": 2}", &s));
	lora_status st = lora_trainer_create(w->model, w->a, w->optimizer, s, &w->trainer);
	lora_settings_destroy(s);
	return st;
}

static lora_status make_generator(world *w)
{
	TRY_FIRST(lora_generator_create(w->model, NULL, &w->generator));
	return lora_generator_feed(w->generator, 0, NULL, w->ids, 3);
}

lora_status world_make(world *w, unsigned needs)
{
	memset(w, 0, sizeof *w);
	w->needs = needs;
	check_alloc_init(&w->ca);
	fill(w);
	if (needs & WITH_DIR) {
		snprintf(w->dir, sizeof w->dir, "build/torture-XXXXXX");
		if (!mkdtemp(w->dir)) return LORA_E_IO;
	}
	if (needs & NO_CONTEXT) return LORA_OK;
	TRY_FIRST(check_context_create(&w->ca, 1, &w->ctx));
	if (needs & WITH_SETTINGS) TRY_FIRST(world_settings(w, "{\"r\": 4, \"name\": \"x\", \"scale\": 0.5}", &w->settings));
	if (needs & WITH_HOST) TRY_FIRST(make_host(w));
	if (needs & WITH_LLAMA) {
		lora_settings *s = NULL;
		TRY_FIRST(world_settings(w, llama, &s));
		lora_status st = lora_model_build(w->ctx, "llama", s, &w->model);
		lora_settings_destroy(s);
		TRY_FIRST(st);
	}
	if (needs & WITH_ADAPTER) TRY_FIRST(make_adapter(w, 1, &w->a));
	if (needs & WITH_SECOND) TRY_FIRST(make_adapter(w, 2, &w->b));
	if (needs & (WITH_OPTIMIZER | WITH_TRAINER)) TRY_FIRST(lora_optimizer_create(w->a, "adamw", NULL, &w->optimizer));
	if (needs & WITH_TRAINER) TRY_FIRST(make_trainer(w));
	if (needs & WITH_TOKENIZER) TRY_FIRST(lora_tokenizer_open(w->ctx, "examples/demo/model", &w->tokenizer));
	if (needs & WITH_GENERATOR) TRY_FIRST(make_generator(w));
	return LORA_OK;
}

static void remove_tree(const char *path)
{
	DIR *d = opendir(path);
	if (d) {
		for (struct dirent *e; (e = readdir(d));) {
			char child[512];
			if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
			snprintf(child, sizeof child, "%s/%s", path, e->d_name);
			remove_tree(child);
		}
		closedir(d);
	}
	remove(path);
}

void world_free(world *w)
{
	if (w->made && w->destroy_made) w->destroy_made(w->made);
	lora_context_destroy(w->ctx); /* first on purpose: its children keep it */
	lora_model_destroy(w->model);
	lora_generator_destroy(w->generator);
	lora_trainer_destroy(w->trainer);
	lora_optimizer_destroy(w->optimizer);
	lora_adapter_destroy(w->a);
	lora_adapter_destroy(w->b);
	lora_tokenizer_destroy(w->tokenizer);
	lora_settings_destroy(w->settings);
	if (w->dir[0]) remove_tree(w->dir);
}

static void mix(uint64_t *h, const void *data, size_t n)
{
	const unsigned char *p = data;
	for (size_t i = 0; i < n; i++) *h = (*h ^ p[i]) * 1099511628211u;
}

static void mix_model(uint64_t *h, const lora_model *m)
{
	for (int64_t i = 0, n = lora_model_site_count(m); i < n; i++) {
		lora_site_info s = { .struct_size = sizeof s };
		if (lora_model_site_info(m, i, &s)) continue;
		mix(h, s.data, (size_t)(s.out * s.in) * (s.dtype == LORA_F32 ? 4 : 2));
		mix(h, &s.merged, sizeof s.merged);
		mix(h, &s.attached, sizeof s.attached);
	}
}

static void mix_adapter(uint64_t *h, lora_adapter *a)
{
	lora_adapter_info info = { .struct_size = sizeof info };
	static float values[4096];
	lora_adapter_get_info(a, &info);
	mix(h, &info.attached, sizeof info.attached);
	mix(h, &info.merged, sizeof info.merged);
	mix(h, &info.trainable, sizeof info.trainable);
	mix(h, &info.scale, sizeof info.scale);
	for (int64_t i = 0, n = lora_adapter_tensor_count(a); i < n; i++) {
		lora_tensor_info t;
		if (lora_adapter_tensor_info(a, i, &t) || t.bytes > sizeof values) continue;
		memset(values, 0, sizeof values);
		if (lora_adapter_tensor_read(a, i, values, (size_t)t.bytes) == LORA_OK) mix(h, values, (size_t)t.bytes);
		memset(values, 0, sizeof values);
		if (lora_adapter_gradient_read(a, i, values, (size_t)t.bytes) == LORA_OK) mix(h, values, (size_t)t.bytes);
	}
}

static void mix_optimizer(uint64_t *h, world *w)
{
	char path[128], buf[4096];
	snprintf(path, sizeof path, "build/torture-state-%ld.safetensors", (long)getpid());
	if (lora_optimizer_save(w->optimizer, path)) return;
	FILE *f = fopen(path, "rb");
	for (size_t n; f && (n = fread(buf, 1, sizeof buf, f)) > 0;) mix(h, buf, n);
	if (f) fclose(f);
	remove(path);
}

uint64_t world_digest(world *w)
{
	uint64_t h = 14695981039346656037u;
	if (w->settings && lora_settings_to_json(w->settings, w->text, sizeof w->text, NULL) == LORA_OK) mix(&h, w->text, strlen(w->text));
	if (w->model) mix_model(&h, w->model);
	if (w->a) mix_adapter(&h, w->a);
	if (w->b) mix_adapter(&h, w->b);
	if (w->optimizer) mix_optimizer(&h, w);
	mix(&h, w->host, sizeof w->host);
	mix(&h, w->y, sizeof w->y);
	mix(&h, w->dx, sizeof w->dx);
	mix(&h, w->logits, sizeof w->logits);
	mix(&h, &w->loss, sizeof w->loss);
	mix(&h, w->tokens, sizeof w->tokens);
	return h;
}
