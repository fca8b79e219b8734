/* Saving a model as an HF directory: the weights as they are now (merged), config.json, and the small files that came with it. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf_save.h"
#include "quant/quant.h"

static const lora__param save_params[] = {
	{ "max_shard_bytes", LORA__INT, "0", 0, 9e15, NULL, "largest file; 0 = one file" },
	{ "weight_dtype", LORA__STRING, "keep", 0, 0, "keep|F32|F16|BF16|Q8_0|Q4_0|Q4_1|Q5_0|Q5_1|Q2_K|Q3_K|Q4_K|Q5_K|Q6_K", "type of the saved matrices; block types only in GGUF" },
	{ "format", LORA__STRING, "auto", 0, 0, "auto|hf|gguf", "form on disk: a Hugging Face directory, or one GGUF file (auto = by the ending .gguf)" },
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
	if (!bad && s->untied && s->m->form == LORA__FORM_SEQ2SEQ && !json_object_get(c, "scale_decoder_outputs")) /* whose default is the key above */
		bad = json_object_set_new(c, "scale_decoder_outputs", json_true());
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

/* Values of a weight converted to type; turned: from [out,in] to [in,out]. */
static lora_status convert(saver *s, lora__tensor *t, lora__site *site, lora_dtype type, int turned)
{
	size_t n = 1, each = lora__dtype_size(type);
	for (int32_t i = 0; i < t->rank; i++) n *= (size_t)t->shape[i];
	lora_dtype have = t->dtype;
	int merged = site && site->merged && lora__site_is_quant(site) && s->m->s.merged_rows;
	char *copy = lora__alloc(s->ctx, n * each + 1), *values = copy;
	s->owned[s->n] = copy;
	if (!copy || ((merged || turned) && !(values = lora__alloc(s->ctx, n * (each > 4 ? each : 4) + 1)))) return LORA_E_MEMORY;
	lora_status st = LORA_OK;
	if (merged) {
		st = s->m->s.merged_rows(site, 0, site->out, (float *)(void *)values);
		if (!st) lora__convert(turned ? values : copy, type, values, LORA_F32, n);
	} else if (lora__dtype_block(have, NULL, NULL)) lora__dequant(values, type, t->data, have, (int64_t)n);
	else lora__convert(values, type, t->data, have, n);
	int64_t rows = t->shape[0], cols = t->rank > 1 ? t->shape[1] : 1;
	for (int64_t i = 0; i < rows && turned; i++)
		for (int64_t j = 0; j < cols; j++) memcpy(copy + (size_t)(j * rows + i) * each, values + (size_t)(i * cols + j) * each, each);
	if (turned) t->shape[0] = cols, t->shape[1] = rows;
	if (values != copy) lora__free(s->ctx, values);
	if (!st && !lora__all_finite(copy, type, n) && (lora__dtype_block(have, NULL, NULL) || lora__all_finite(t->data, have, n)))
		st = lora__fail_at(s->ctx, LORA_E_NUMERIC, "model", t->name, -1, "tensor %s has values out of range for %s", t->name, lora__dtype_name(type));
	t->dtype = type, t->data = (uint8_t *)copy, t->bytes = n * each;
	return st;
}

static lora_status add(saver *s, const char *name, lora_dtype have, int32_t rank, const int64_t *shape, const void *data, uint64_t bytes, lora__site *site,
                       lora_dtype want)
{
	lora__tensor *t = &s->list[s->n];
	char gguf[LORA__GGUF_LONG_NAME];
	uint32_t flags = 0;
	int known = s->m->gguf && lora__gguf_from_hf(s->m->s.gguf, name, gguf, &flags);
	if (s->m->gguf && !known) return LORA_OK; /* rope factors: the configuration says them */
	*t = (lora__tensor){ .name = name, .dtype = have, .rank = rank, .data = data, .bytes = bytes };
	memcpy(t->shape, shape, (size_t)rank * sizeof *shape);
	int block = lora__dtype_block(have, NULL, NULL), turned = rank == 2 && (flags & LORA__GGUF_TURNED);
	lora_dtype type = want && (block || lora__dtype_is_float(have)) ? want : block ? LORA_F32 : have; /* F32 holds a block's values exactly */
	lora_status st = type != have || turned ? convert(s, t, site, type, turned) : LORA_OK;
	s->n++;
	return st;
}

static lora_status collect(saver *s, lora_dtype want)
{
	lora_model *m = s->m;
	lora_status st = LORA_OK;
	s->list = lora__calloc(s->ctx, m->n_weights + 1, sizeof *s->list);
	s->owned = lora__calloc(s->ctx, m->n_weights + 1, sizeof *s->owned);
	if (!s->list || !s->owned) return LORA_E_MEMORY;
	for (size_t i = 0; i < m->s.n && st == LORA_OK && m->tied; i++) {
		lora__site *h = m->s.list[i];
		if (!h->is_head || !lora__model_unties(m)) continue;
		int64_t shape[2] = { h->out, h->in };
		s->untied = 1;
		snprintf(s->head_name, sizeof s->head_name, "%s.weight", h->name);
		st = add(s, s->head_name, h->dtype, 2, shape, h->data, lora__site_bytes(h), h, want);
	}
	for (size_t i = 0; i < m->n_weights && st == LORA_OK; i++) {
		const lora__weight *w = &m->weights[i];
		if (s->untied && w->site < 0 && strcmp(w->name, s->head_name) == 0) continue; /* the tied head may be in the file too, unused */
		lora__site *site = w->site >= 0 ? m->s.list[w->site] : NULL;
		const lora_view *bias = site && w->is_bias ? &site->bias : NULL;
		if (bias) st = add(s, w->name, bias->dtype, w->rank, w->shape, bias->data, (uint64_t)site->out * lora__dtype_size(bias->dtype), NULL, want ? want : w->dtype);
		else st = add(s, w->name, w->dtype, w->rank, w->shape, site ? site->data : w->data, w->bytes, site, want);
	}
	return st;
}

/* tokenizer.json and tokenizer_config.json of a model that came from GGUF. */
static lora_status write_vocab(saver *s)
{
	json_t *all[2];
	static const char *const names[2] = { "tokenizer.json", "tokenizer_config.json" };
	lora_status st = lora__gguf_vocab_json(s->m->gguf, &all[0], &all[1]);
	for (int i = 0; i < 2; i++) {
		lora__text t;
		lora__text_init(&t, s->ctx);
		if (!st && all[i]) st = lora__json_dump(s->ctx, all[i], 2, &t);
		if (!st) st = t.status;
		lora__piece piece = { t.data, t.n };
		if (!st && all[i]) st = lora__dir_file(&s->dir, names[i], &piece, 1);
		lora__text_free(&t);
		json_decref(all[i]);
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
	if (st) return st;
	const char *type = lora__get_string(settings, save_params, "weight_dtype"), *format = lora__get_string(settings, save_params, "format");
	lora_dtype want = strcmp(type, "keep") == 0 ? LORA_DTYPE_NONE : lora__dtype_parse(type);
	size_t end = strlen(path);
	if (strcmp(format, "gguf") == 0 || (strcmp(format, "auto") == 0 && end > 5 && strcmp(path + end - 5, ".gguf") == 0)) {
		st = lora__model_save_gguf(m, path, want, lora__get_bool(settings, save_params, "force"));
		return st ? lora__fail_prefix(s.ctx, st, "%s: ", lora__quote(path).text) : st;
	}
	if (lora__dtype_block(want, NULL, NULL)) return lora__fail_at(s.ctx, LORA_E_ARGUMENT, "model", "weight_dtype", -1, "%s is for GGUF files only", type);
	if (st == LORA_OK) st = check_target(m, path, lora__get_bool(settings, save_params, "force"));
	if (st) return st;
	uint64_t limit = (uint64_t)lora__get_int(settings, save_params, "max_shard_bytes"), total = 0;
	st = collect(&s, want);
	for (size_t i = 0; i < s.n; i++) total += s.list[i].bytes;
	if (st == LORA_OK) st = lora__dir_begin(s.ctx, path, &s.dir);
	if (st == LORA_OK) {
		st = m->gguf ? write_vocab(&s) : carry_files(&s);
		if (st == LORA_OK) st = write_config(&s, want ? want : lora__dtype_block(m->dtype, NULL, NULL) ? LORA_F32 : m->dtype);
		if (st == LORA_OK) st = limit && total > limit ? write_shards(&s, limit) : write_file(&s, "model.safetensors", 0, s.n);
		if (st == LORA_OK) st = lora__dir_commit(&s.dir);
		else lora__dir_abort(&s.dir);
	}
	for (size_t i = 0; s.owned && i <= m->n_weights; i++) lora__free(s.ctx, s.owned[i]);
	lora__free(s.ctx, s.owned);
	lora__free(s.ctx, s.list);
	return st ? lora__fail_prefix(s.ctx, st, "%s: ", lora__quote(path).text) : st;
}
