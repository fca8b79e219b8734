/* Saving a model as an HF directory: the weights as they are now (merged), config.json, and the small files that came with it. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "model/model.h"

static const lora__param save_params[] = {
	{ "max_shard_bytes", LORA__INT, "0", 0, 9e15, NULL, "largest file; 0 = one file" },
	{ "weight_dtype", LORA__STRING, "keep", 0, 0, "keep|F32|F16|BF16", "type of the saved weights" },
	{ "force", LORA__BOOL, "false", 0, 0, NULL, "replace an existing model" },
	{ 0 }
};
const lora__member lora__model_save_member = { "model_save", "settings of saving a model", "liblora", save_params };

typedef struct saver {
	lora_model   *m;
	lora_context *ctx;
	lora__dir     dir;
	lora__tensor *list;   /* what is written, in the model's order */
	void        **owned;  /* converted copies */
	size_t        n;
	int           untied; /* an adapter was merged into a tied head: it is saved apart */
	char          head_name[256];
} saver;

/* Small files of the source directory that travel with the model. */
static int travels(const char *name)
{
	static const char *const names[] = { "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
		"vocab.json", "vocab.txt", "merges.txt", "generation_config.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(name, names[i]) == 0) return 1;
	return 0;
}

static lora_status carry_files(saver *s)
{
	lora_status st = LORA_OK;
	DIR *d = s->m->dir ? opendir(s->m->dir) : NULL;
	for (struct dirent *e; d && st == LORA_OK && (e = readdir(d));) {
		lora__blob b = { 0 };
		if (!travels(e->d_name)) continue;
		char *path = lora__path_join(s->ctx, s->m->dir, e->d_name);
		st = path ? lora__blob_read(s->ctx, path, s->ctx->limits.json_bytes, &b) : LORA_E_MEMORY;
		lora__free(s->ctx, path);
		lora__piece piece = { b.data, b.n };
		if (st == LORA_OK) st = lora__dir_file(&s->dir, e->d_name, &piece, 1);
		lora__blob_close(s->ctx, &b);
	}
	if (d) closedir(d);
	return st;
}

static lora_status write_config(saver *s, lora_dtype d)
{
	json_t *c = json_deep_copy(s->m->config);
	lora__text t;
	lora__text_init(&t, s->ctx);
	const char *name = d == LORA_BF16 ? "bfloat16" : d == LORA_F16 ? "float16" : "float32";
	lora_status st = LORA_OK;
	int bad = !c;
	if (!bad && s->untied) bad = json_object_set_new(c, "tie_word_embeddings", json_false());
	if (!bad && d && json_object_get(c, "torch_dtype")) bad = json_object_set_new(c, "torch_dtype", json_string(name));
	if (!bad && d && (json_object_get(c, "dtype") || !json_object_get(c, "torch_dtype"))) bad = json_object_set_new(c, "dtype", json_string(name));
	if (bad) st = lora__fail(s->ctx, LORA_E_MEMORY, "model", "out of memory");
	if (st == LORA_OK) st = lora__json_dump(s->ctx, c, 2, &t);
	lora__text_puts(&t, "\n");
	if (st == LORA_OK) st = t.status;
	lora__piece piece = { t.data, t.n };
	if (st == LORA_OK) st = lora__dir_file(&s->dir, "config.json", &piece, 1);
	lora__text_free(&t);
	json_decref(c);
	return st;
}

static lora_status add(saver *s, const char *name, lora_dtype have, int32_t rank, const int64_t *shape, const void *data, uint64_t bytes, lora_dtype want)
{
	lora__tensor *t = &s->list[s->n];
	*t = (lora__tensor){ .name = name, .dtype = have, .rank = rank, .data = data, .bytes = bytes };
	memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
	if (want && want != have && lora__dtype_is_float(have)) {
		size_t n = bytes / lora__dtype_size(have);
		void *copy = lora__alloc(s->ctx, n * lora__dtype_size(want));
		if (!copy) return LORA_E_MEMORY;
		s->owned[s->n] = copy;
		lora__convert(copy, want, data, have, n);
		if (!lora__all_finite(copy, want, n) && lora__all_finite(data, have, n))
			return lora__fail_at(s->ctx, LORA_E_NUMERIC, "model", name, -1, "tensor %s has values out of range for %s", name, lora__dtype_name(want));
		t->dtype = want, t->data = copy, t->bytes = n * lora__dtype_size(want);
	}
	s->n++;
	return LORA_OK;
}

static lora_status collect(saver *s, lora_dtype want)
{
	lora_model *m = s->m;
	lora_status st = LORA_OK;
	s->list = lora__calloc(s->ctx, m->n_weights + 1, sizeof *s->list);
	s->owned = lora__calloc(s->ctx, m->n_weights + 1, sizeof *s->owned);
	if (!s->list || !s->owned) return LORA_E_MEMORY;
	for (size_t i = 0; i < m->s.n && st == LORA_OK && m->tied; i++) {
		const lora__site *h = m->s.list[i];
		if (!h->is_head || !h->merged) continue;
		int64_t shape[2] = { h->out, h->in };
		s->untied = 1;
		snprintf(s->head_name, sizeof s->head_name, "%s.weight", h->name);
		st = add(s, s->head_name, h->dtype, 2, shape, h->data, lora__site_bytes(h), want);
	}
	for (size_t i = 0; i < m->n_weights && st == LORA_OK; i++) {
		const lora__weight *w = &m->weights[i];
		if (s->untied && w->site < 0 && strcmp(w->name, s->head_name) == 0) continue; /* the tied head may be in the file too, unused */
		const lora__site *site = w->site >= 0 ? m->s.list[w->site] : NULL;
		const lora_view *bias = site && w->is_bias ? &site->bias : NULL;
		if (bias) st = add(s, w->name, bias->dtype, w->rank, w->shape, bias->data, (uint64_t)site->out * lora__dtype_size(bias->dtype), want ? want : w->dtype);
		else st = add(s, w->name, w->dtype, w->rank, w->shape, site ? site->data : w->data, w->bytes, want);
	}
	return st;
}

static lora_status write_file(saver *s, const char *name, size_t first, size_t n)
{
	lora__text header;
	lora__text_init(&header, s->ctx);
	json_t *meta = json_pack("{s:s}", "format", "pt");
	lora__piece *pieces = lora__calloc(s->ctx, n + 1, sizeof *pieces);
	lora_status st = !pieces ? LORA_E_MEMORY : meta ? LORA_OK : lora__fail(s->ctx, LORA_E_MEMORY, "model", "out of memory");
	if (st == LORA_OK) st = lora__safetensors_layout(s->ctx, s->list + first, n, meta, &header, pieces);
	if (st == LORA_OK) st = lora__dir_file(&s->dir, name, pieces, n + 1);
	lora__free(s->ctx, pieces);
	lora__text_free(&header);
	json_decref(meta);
	return st;
}

/* End of the shard that begins at first: as many tensors as fit, at least one. */
static size_t shard_end(const saver *s, size_t first, uint64_t limit)
{
	uint64_t bytes = 0;
	size_t i = first;
	while (i < s->n && (i == first || bytes + s->list[i].bytes <= limit)) bytes += s->list[i++].bytes;
	return i;
}

static lora_status write_shards(saver *s, uint64_t limit)
{
	size_t total = 0, number = 0;
	uint64_t bytes = 0;
	char name[64];
	lora_status st = LORA_OK;
	json_t *map = json_object();
	for (size_t i = 0; i < s->n; i = shard_end(s, i, limit)) total++;
	for (size_t i = 0, end; i < s->n && st == LORA_OK; i = end) {
		end = shard_end(s, i, limit);
		snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", ++number, total);
		st = write_file(s, name, i, end - i);
		for (size_t k = i; k < end && st == LORA_OK; k++) {
			bytes += s->list[k].bytes;
			if (json_object_set_new(map, s->list[k].name, json_string(name))) st = lora__fail(s->ctx, LORA_E_MEMORY, "model", "out of memory");
		}
	}
	json_t *index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)bytes, "weight_map", map);
	lora__text t;
	lora__text_init(&t, s->ctx);
	if (st == LORA_OK && !index) st = lora__fail(s->ctx, LORA_E_MEMORY, "model", "out of memory");
	if (st == LORA_OK) st = lora__json_dump(s->ctx, index, 2, &t);
	lora__piece piece = { t.data, t.n };
	if (st == LORA_OK) st = lora__dir_file(&s->dir, "model.safetensors.index.json", &piece, 1);
	lora__text_free(&t);
	json_decref(index);
	json_decref(map);
	return st;
}

static lora_status check_target(lora_model *m, const char *path, int force)
{
	lora_context *ctx = m->s.ctx;
	if (!lora__path_exists(path)) return LORA_OK;
	char *config = lora__path_join(ctx, path, "config.json");
	if (!config) return LORA_E_MEMORY;
	int model = lora__path_is_dir(path) && lora__path_exists(config);
	lora__free(ctx, config);
	if (!model && !force) return lora__fail(ctx, LORA_E_EXISTS, "model", "%s is there and is no model directory", lora__quote(path).text);
	if (!model && !lora__path_is_dir(path)) return lora__fail(ctx, LORA_E_EXISTS, "model", "%s is a file", lora__quote(path).text);
	if (!force) return lora__fail(ctx, LORA_E_EXISTS, "model", "%s is there already (force replaces it)", lora__quote(path).text);
	return LORA_OK;
}

lora_status lora_model_save(lora_model *m, const char *path, const lora_settings *settings)
{
	if (!m) return LORA_E_ARGUMENT;
	saver s = { .m = m, .ctx = m->s.ctx };
	if (!path) return lora__fail(s.ctx, LORA_E_ARGUMENT, "model", "lora_model_save: path is NULL");
	lora_status st = lora__settings_check(s.ctx, settings, "lora_model_save", save_params, NULL, NULL);
	if (st == LORA_OK && !m->arch) st = lora__fail(s.ctx, LORA_E_UNSUPPORTED, "model", "a model of host-owned sites is the host's to save");
	if (st == LORA_OK) st = check_target(m, path, lora__get_bool(settings, save_params, "force"));
	if (st) return st;
	const char *type = lora__get_string(settings, save_params, "weight_dtype");
	lora_dtype want = strcmp(type, "keep") == 0 ? LORA_DTYPE_NONE : lora__dtype_parse(type);
	uint64_t limit = (uint64_t)lora__get_int(settings, save_params, "max_shard_bytes"), total = 0;
	st = collect(&s, want);
	for (size_t i = 0; i < s.n; i++) total += s.list[i].bytes;
	if (st == LORA_OK) st = lora__dir_begin(s.ctx, path, &s.dir);
	if (st == LORA_OK) {
		st = carry_files(&s);
		if (st == LORA_OK) st = write_config(&s, want ? want : m->dtype);
		if (st == LORA_OK) st = limit && total > limit ? write_shards(&s, limit) : write_file(&s, "model.safetensors", 0, s.n);
		if (st == LORA_OK) st = lora__dir_commit(&s.dir);
		else lora__dir_abort(&s.dir);
	}
	for (size_t i = 0; s.owned && i <= m->n_weights; i++) lora__free(s.ctx, s.owned[i]);
	lora__free(s.ctx, s.owned);
	lora__free(s.ctx, s.list);
	return st ? lora__fail_prefix(s.ctx, st, "%s: ", lora__quote(path).text) : st;
}
