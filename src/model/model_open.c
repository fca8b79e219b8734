/* Opening a model directory, building a fresh one, and releasing models. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "model/model.h"

static const lora__param open_params[] = {
	{ "dtype", LORA__STRING, "auto", 0, 0, "auto|f32|bf16|f64", "arithmetic of activations (auto = f32); f64 runs on the naive backend" },
	{ "pack_bytes", LORA__INT, "-1", -1, 9e15, NULL, "memory that packed weights may take; -1 = no limit, 0 = never pack" },
	{ "num_labels", LORA__INT, "0", 0, 1 << 20, NULL, "make an encoder a classifier of so many classes, its head fresh where the file has none; 0 = as config.json says" },
	{ "seed", LORA__INT, "0", 0, 9e15, NULL, "seed of fresh weights (lora_model_build, num_labels)" },
	{ "weight_dtype", LORA__STRING, "F32", 0, 0, "F32|F16|BF16", "type of fresh weights (lora_model_build)" },
	{ 0 }
};
const lora__member lora__model_member = { "model", "settings of opening and building a model", "liblora", open_params };

static void destroy(lora__sites *s)
{
	lora_model *m = (lora_model *)s;
	lora_context *ctx = s->ctx;
	for (int i = 0; i < m->n_plans; i++) lora__plan_free(ctx, &m->plans[i]);
	lora__graph_unweave(&m->woven);
	lora__graph_free(&m->graph);
	lora__batch_free(m);
	lora__free(ctx, m->arena);
	lora__free(ctx, m->tables[0]);
	lora__free(ctx, m->tables[1]);
	for (int i = 0; i < LORA__ROTARIES; i++) {
		void *all[] = { m->rotary[i].inv_freq, m->rotary[i].long_freq, m->rotary[i].cos, m->rotary[i].sin };
		for (int k = 0; k < 4; k++) lora__free(ctx, all[k]);
	}
	for (size_t i = 0; i < m->n_weights; i++) {
		if (m->weights[i].owned) lora__free(ctx, (void *)(uintptr_t)m->weights[i].data);
		lora__free(ctx, m->weights[i].name);
	}
	lora__map_free(&m->weight_names);
	lora__free(ctx, m->weights);
	lora__sites_free(s);
	if (m->has_file) lora__tensors_close(&m->file);
	if (m->gguf) lora__gguf_close(m->gguf);
	lora__free(ctx, m->gguf);
	json_decref(m->config);
	json_decref(m->ends);
	lora__free(ctx, m->path);
	lora__free(ctx, m->dir);
	lora__free(ctx, m);
	lora__context_release(ctx);
}

lora_status lora__model_new(lora_context *ctx, lora_model **out)
{
	lora_model *m = lora__zalloc(ctx, sizeof *m);
	if (!m) return LORA_E_MEMORY;
	m->s.ctx = ctx;
	m->s.real = LORA_F32;
	m->s.pack_limit = UINT64_MAX;
	m->s.destroy = destroy;
	atomic_init(&m->s.refs, 1);
	lora__map_init(&m->s.by_name, ctx);
	lora__map_init(&m->weight_names, ctx);
	lora__graph_init(&m->graph, ctx);
	lora__graph_init(&m->woven, ctx);
	m->eos = m->bos = m->pad = -1;
	lora__context_retain(ctx);
	*out = m;
	return LORA_OK;
}

static void read_common(lora_model *m, const lora_settings *s)
{
	const char *d = lora__get_string(s, open_params, "dtype");
	int64_t limit = lora__get_int(s, open_params, "pack_bytes");
	m->want_labels = lora__get_int(s, open_params, "num_labels");
	m->s.pack_limit = limit < 0 ? UINT64_MAX : (uint64_t)limit;
	m->s.real = strcmp(d, "f64") == 0 ? LORA_F64 : strcmp(d, "bf16") == 0 ? LORA_BF16 : LORA_F32;
}

static lora__weight *known(const lora_model *m, const char *name)
{
	int64_t i = lora__map_find(&m->weight_names, name, strlen(name));
	return i < 0 ? NULL : &m->weights[i];
}

/* The name in a file that was saved from the model without its head: without the first part. */
static const char *bare(const char *name)
{
	static const char *const prefixes[] = { "model.", "transformer.", "gpt_neox.", "bert.", "roberta." };
	for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return name + strlen(prefixes[i]);
	return name;
}

/* The name in a file that was saved with a head, where the model asked for is without; and the older names of LayerNorm's weights. */
static const lora__tensor *with_prefix(lora_model *m, const char *name)
{
	static const char *const old[][2] = { { "LayerNorm.weight", "LayerNorm.gamma" }, { "LayerNorm.bias", "LayerNorm.beta" } };
	char full[512];
	snprintf(full, sizeof full, "%s%s", m->arch->prefix, name);
	const lora__tensor *t = lora__tensors_find(&m->file, full);
	for (int i = 0; i < 2 && !t; i++) {
		size_t n = strlen(name), k = strlen(old[i][0]);
		if (n < k || strcmp(name + n - k, old[i][0])) continue;
		const char *stem = bare(name);
		int cut = (int)(strlen(stem) - k);
		snprintf(full, sizeof full, "%.*s%s", (int)(n - k), name, old[i][1]);
		if ((t = lora__tensors_find(&m->file, full))) break;
		snprintf(full, sizeof full, "%.*s%s", cut, stem, old[i][1]);
		if ((t = lora__tensors_find(&m->file, full))) break;
		snprintf(full, sizeof full, "%s%.*s%s", m->arch->prefix, cut, stem, old[i][1]);
		t = lora__tensors_find(&m->file, full);
	}
	return t;
}

lora_status lora__model_weight(lora_model *m, const char *name, lora__weight **out)
{
	const lora__tensor *t = m->has_file ? lora__tensors_find(&m->file, name) : NULL;
	if (!t && m->has_file) t = lora__tensors_find(&m->file, bare(name));
	if (!t && m->has_file && m->arch && m->arch->prefix) t = with_prefix(m, name);
	if ((*out = known(m, t ? t->name : name)) || !t) return LORA_OK;
	size_t each = lora__dtype_size(t->dtype);
	void *copy = NULL;
	lora_status st = m->four_bits ? lora__model_four_bits(m, t, out) : LORA_OK;
	if (st || *out) return st;
	if (each && (uintptr_t)t->data % each) { /* old files may not align their data: computing needs it aligned */
		if (!(copy = lora__alloc(m->s.ctx, t->bytes))) return LORA_E_MEMORY;
		memcpy(copy, t->data, t->bytes);
	}
	st = lora__model_add_weight(m, t->name, t->dtype, t->rank, t->shape, copy ? copy : t->data, copy != NULL, out);
	if (st) lora__free(m->s.ctx, copy);
	return st;
}

lora_status lora__model_add_weight(lora_model *m, const char *name, lora_dtype dtype, int32_t rank, const int64_t *shape, const void *data,
                                   int owned, lora__weight **out)
{
	lora_context *ctx = m->s.ctx;
	lora_status st = lora__grow(ctx, &m->weights, &m->cap_weights, m->n_weights + 1, sizeof *m->weights);
	if (st) return st;
	lora__weight w = { .dtype = dtype, .rank = rank, .data = data, .site = -1, .owned = owned };
	uint64_t n = 1;
	for (int32_t i = 0; i < rank; i++) w.shape[i] = shape[i], n *= (uint64_t)shape[i];
	w.bytes = rank && n ? n / (uint64_t)shape[rank - 1] * lora__dtype_row(dtype, shape[rank - 1]) : n * lora__dtype_size(dtype);
	if (!(w.name = lora__strdup(ctx, name))) return LORA_E_MEMORY;
	st = lora__map_add(&m->weight_names, w.name, strlen(w.name), (int64_t)m->n_weights, NULL);
	if (st && st != LORA_E_EXISTS) { /* of two with one name the first is found */
		lora__free(ctx, w.name);
		return st;
	}
	m->weights[m->n_weights] = w;
	*out = &m->weights[m->n_weights++];
	m->n_parameters += (int64_t)n;
	return LORA_OK;
}

static int64_t token_id(const json_t *config, const char *key)
{
	const json_t *v = json_object_get(config, key);
	if (json_is_array(v)) v = json_array_get(v, 0);
	return json_is_integer(v) ? (int64_t)json_integer_value(v) : -1;
}

static void read_token_ids(lora_model *m)
{
	m->eos = token_id(m->config, "eos_token_id"), m->bos = token_id(m->config, "bos_token_id"), m->pad = token_id(m->config, "pad_token_id");
	if (!m->ends) m->ends = json_incref(json_object_get(m->config, "eos_token_id"));
}

/* generation_config.json counts before config.json, as in transformers. */
static lora_status read_ends(lora_model *m, const json_t *generation)
{
	json_t *v = json_object_get(generation, "eos_token_id");
	int good = !v || json_is_null(v) || json_is_integer(v) || json_is_array(v);
	for (size_t i = 0; i < json_array_size(v); i++) good &= json_is_integer(json_array_get(v, i));
	if (!good || (generation && !json_is_object(generation)))
		return lora__fail_at(m->s.ctx, LORA_E_FORMAT, "model", "eos_token_id", -1, "generation_config.json: %s", good ? "an object is expected" : "eos_token_id: a number or a list of numbers is expected");
	if (v && !json_is_null(v)) m->ends = json_incref(v);
	return LORA_OK;
}

/* A decoder whose class has another head than a language model's: its tied weights would open as a language model, silently another function. */
static const char *other_head(const lora_model *m)
{
	const json_t *list = json_object_get(m->config, "architectures");
	const char *own = m->arch->hf_class;
	for (size_t i = 0; i < json_array_size(list) && !(own && strstr(own, "Classification")); i++) {
		const char *s = json_string_value(json_array_get(list, i));
		if (s && (strstr(s, "Classification") || strstr(s, "QuestionAnswering"))) return s;
	}
	return NULL;
}

static lora_status choose_arch(lora_model *m)
{
	lora_context *ctx = m->s.ctx;
	const char *type = json_string_value(json_object_get(m->config, "model_type"));
	if (!json_is_object(m->config)) return lora__fail(ctx, LORA_E_FORMAT, "model", "config.json: an object is expected");
	if (!type) return lora__fail_at(ctx, LORA_E_FORMAT, "model", "model_type", -1, "config.json: model_type is missing");
	const json_t *q = json_object_get(m->config, "quantization_config");
	m->four_bits = json_is_true(json_object_get(q, "load_in_4bit")); /* as bitsandbytes has it; decoded, it is a model like others */
	if (json_is_object(q) && !m->four_bits)
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "model", "quantization_config", -1, "config.json: quantization_config: quantised weights are supported with load_in_4bit of bitsandbytes only");
	json_object_del(m->config, "quantization_config");
	for (int i = 0; lora__archs[i]; i++)
		for (int j = 0; lora__archs[i]->model_types[j]; j++)
			if (strcmp(type, lora__archs[i]->model_types[j]) == 0) m->arch = lora__archs[i];
	if (!m->arch) return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "model", "model_type", -1, "config.json: model_type \"%s\" is not supported", lora__quote(type).text);
	if (other_head(m)) return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "model", "architectures", -1, "config.json: architectures: %s is not supported", lora__quote(other_head(m)).text);
	read_token_ids(m);
	return LORA_OK;
}

static lora_status read_json(lora_model *m, const char *dir, const char *name, int needed, json_t **out)
{
	lora_context *ctx = m->s.ctx;
	lora__blob blob = { 0 };
	lora_status st = LORA_OK;
	char *path = lora__path_join(ctx, dir, name);
	if (!path) return LORA_E_MEMORY;
	int there = lora__path_exists(path);
	if (!there && needed) st = lora__fail(ctx, LORA_E_NOTFOUND, "model", "%s: no %s beside the weights", lora__quote(dir).text, name);
	if (there) st = lora__blob_read(ctx, path, ctx->limits.json_bytes, &blob);
	if (there && st == LORA_OK) st = lora__json_parse(ctx, (const char *)blob.data, blob.n, name, out);
	lora__blob_close(ctx, &blob);
	lora__free(ctx, path);
	return st;
}

static lora_status read_config(lora_model *m, const char *dir)
{
	json_t *generation = NULL;
	lora_status st = read_json(m, dir, "config.json", 1, &m->config);
	if (st == LORA_OK) st = read_json(m, dir, "generation_config.json", 0, &generation);
	if (st == LORA_OK) st = read_ends(m, generation);
	json_decref(generation);
	return st;
}

static lora_status open_files(lora_model *m, const char *path)
{
	lora_context *ctx = m->s.ctx;
	lora_status st;
	if (!(m->path = lora__dir_current(ctx, path))) return LORA_E_MEMORY;
	path = m->path; /* after an interrupted save not quite the caller's */
	if (!lora__path_exists(path)) return lora__fail(ctx, LORA_E_NOTFOUND, "model", "no such file or directory");
	if (lora__gguf_is(path)) {
		st = lora__model_open_gguf(m, path);
		m->has_file = st == LORA_OK;
		if (st == LORA_OK) st = choose_arch(m);
	} else if (lora__path_is_dir(path)) {
		if (!(m->dir = lora__strdup(ctx, path))) return LORA_E_MEMORY;
		st = read_config(m, path);
		if (st == LORA_OK) st = choose_arch(m);
		if (st == LORA_OK) st = lora__safetensors_open_model(ctx, path, &m->file);
	} else {
		const char *slash = strrchr(path, '/');
		m->dir = slash ? lora__strndup(ctx, path, slash == path ? 1 : (size_t)(slash - path)) : lora__strdup(ctx, ".");
		if (!m->dir) return LORA_E_MEMORY;
		st = lora__safetensors_open(ctx, path, &m->file);
		m->has_file = st == LORA_OK;
		if (st == LORA_OK) st = read_config(m, m->dir);
		if (st == LORA_OK) st = choose_arch(m);
	}
	m->has_file = m->has_file || st == LORA_OK;
	return st;
}

/* Tensors that no op reads are kept in the list, so that saving writes them again. */
static lora_status keep_the_rest(lora_model *m)
{
	lora__map seen;
	lora_status st = LORA_OK;
	lora__map_init(&seen, m->s.ctx);
	for (size_t i = 0; i < m->n_weights && st == LORA_OK; i++)
		if (lora__map_add(&seen, m->weights[i].name, strlen(m->weights[i].name), 0, NULL) == LORA_E_MEMORY) st = LORA_E_MEMORY;
	for (size_t i = 0; i < m->file.n && st == LORA_OK; i++) {
		const lora__tensor *t = &m->file.list[i];
		lora__weight *w;
		if (lora__map_find(&seen, t->name, strlen(t->name)) >= 0 || (m->four_bits && strstr(t->name, ".weight."))) continue;
		size_t n = strlen(t->name);
		if (m->gguf && n > 5 && strcmp(t->name + n - 5, ".bias") == 0) /* llama.cpp would add it: leaving it out would be another model */
			return lora__map_free(&seen), lora__fail_at(m->s.ctx, LORA_E_UNSUPPORTED, "model", t->name, -1, "tensor %s: the architecture has no such bias here", lora__quote(t->name).text);
		st = lora__model_add_weight(m, t->name, t->dtype, t->rank, t->shape, t->data, 0, &w);
	}
	lora__map_free(&seen);
	return st;
}

/* The type that most elements have. */
static lora_dtype main_dtype(const lora_model *m)
{
	enum { TYPES = 128 };
	double count[TYPES] = { 0 }, most = 0;
	lora_dtype d = LORA_F32;
	for (size_t i = 0; i < m->n_weights; i++) {
		const lora__weight *w = &m->weights[i];
		double n = 1;
		for (int32_t k = 0; k < w->rank; k++) n *= (double)w->shape[k];
		if (w->dtype <= 0 || w->dtype >= TYPES) continue;
		count[w->dtype] += n;
		if (count[w->dtype] > most) most = count[w->dtype], d = w->dtype;
	}
	return d;
}

lora_status lora_model_open(lora_context *ctx, const char *path, const lora_settings *settings, lora_model **out)
{
	lora_model *m = NULL;
	if (out) *out = NULL;
	if (!ctx || !path || !out) return lora__fail(ctx, LORA_E_ARGUMENT, "model", "lora_model_open: %s is NULL", !path ? "path" : "out");
	lora_status st = lora__settings_check(ctx, settings, "lora_model_open", open_params, NULL, NULL);
	if (st == LORA_OK) st = lora__model_new(ctx, &m);
	if (st) return st;
	lora__builder b = { .m = m, .layer = -1, .fresh_dtype = LORA_F32, .init_range = 0.02 };
	read_common(m, settings);
	b.seed = (uint64_t)lora__get_int(settings, open_params, "seed");
	st = open_files(m, path);
	if (st == LORA_OK) {
		m->s.default_targets = m->arch->targets;
		m->arch->build(&b), lora__b_finish(&b);
		st = b.status;
		if (st == LORA_OK && m->want_labels && m->want_labels != m->n_labels)
			st = lora__fail_at(ctx, LORA_E_UNSUPPORTED, "model", "num_labels", -1, "num_labels: %s models are no classifiers here", m->arch->m.name);
	}
	if (st == LORA_OK) st = keep_the_rest(m);
	if (st) {
		lora__sites_release(&m->s);
		return lora__fail_prefix(ctx, st, "%s: ", lora__quote(path).text);
	}
	lora__model_gguf_names(m);
	lora__model_body(m);
	m->dtype = main_dtype(m);
	*out = m;
	return LORA_OK;
}

static lora_status fresh_config(lora_model *m, const lora_settings *settings, const lora__arch *arch)
{
	m->config = json_object();
	if (!m->config) return lora__fail(m->s.ctx, LORA_E_MEMORY, "model", "out of memory");
	json_t *archs = json_pack("[s]", arch->hf_class ? arch->hf_class : arch->m.name);
	int bad = !archs || json_object_set_new(m->config, "model_type", json_string(arch->model_types[0])) || json_object_set_new(m->config, "architectures", archs);
	for (const lora__param *p = arch->m.params; p && p->name && !bad; p++) {
		const json_t *v = lora__get_json(settings, p->name);
		if (v) bad = json_object_set(m->config, p->name, (json_t *)(uintptr_t)v);
		else if (p->def) bad = json_object_set_new(m->config, p->name, p->type == LORA__STRING ? json_string(p->def) : json_loads(p->def, JSON_DECODE_ANY, NULL));
	}
	return bad ? lora__fail(m->s.ctx, LORA_E_MEMORY, "model", "out of memory") : LORA_OK;
}

/* Standard deviation of fresh weights: initializer_range, in OPT init_std. */
static double init_range(const lora_settings *settings, const lora__arch *arch)
{
	const char *key = "initializer_range";
	for (const lora__param *p = arch->m.params; p && p->name; p++)
		if (strcmp(p->name, "init_std") == 0) key = p->name;
	return lora__get_float(settings, arch->m.params, key);
}

lora_status lora_model_build(lora_context *ctx, const char *architecture, const lora_settings *settings, lora_model **out)
{
	lora_model *m = NULL;
	const lora__arch *arch = NULL;
	if (out) *out = NULL;
	if (!ctx || !architecture || !out) return lora__fail(ctx, LORA_E_ARGUMENT, "model", "lora_model_build: %s is NULL", !architecture ? "architecture" : "out");
	for (int i = 0; lora__archs[i]; i++)
		if (strcmp(architecture, lora__archs[i]->m.name) == 0) arch = lora__archs[i];
	if (!arch) return lora__fail_at(ctx, LORA_E_NOTFOUND, "model", architecture, -1, "there is no architecture \"%s\"", lora__quote(architecture).text);
	lora_status st = lora__settings_check(ctx, settings, architecture, arch->m.params, open_params, NULL);
	if (st == LORA_OK) st = lora__model_new(ctx, &m);
	if (st) return st;
	m->arch = arch;
	m->s.default_targets = arch->targets;
	read_common(m, settings);
	st = fresh_config(m, settings, arch);
	if (st == LORA_OK) {
		lora__builder b = { .m = m, .layer = -1, .fresh = 1, .fresh_dtype = lora__dtype_parse(lora__get_string(settings, open_params, "weight_dtype")),
			.seed = (uint64_t)lora__get_int(settings, open_params, "seed"), .init_range = init_range(settings, arch) };
		read_token_ids(m);
		arch->build(&b), lora__b_finish(&b);
		st = b.status;
	}
	if (st) {
		lora__sites_release(&m->s);
		return lora__fail_prefix(ctx, st, "lora_model_build: ");
	}
	lora__model_gguf_names(m);
	lora__model_body(m);
	m->dtype = main_dtype(m);
	*out = m;
	return LORA_OK;
}

int lora__model_unties(const lora_model *m)
{
	for (size_t i = 0; i < m->s.n && m->tied; i++)
		if (m->s.list[i]->merged && (m->s.list[i]->is_head || (m->s.list[i]->flags & LORA_SITE_EMBEDDING))) return 1;
	return 0;
}

/* All small weights, and of large ones the first and last page and 64 pages between: enough to tell base models apart, quick on mapped files. */
uint64_t lora__model_digest(lora_model *m)
{
	enum { PAGE = 4096, SAMPLES = 64 };
	uint64_t h = 0;
	if (m->digest) return m->digest;
	for (size_t i = 0; i < m->s.n - m->s.n_tables; i++) {
		const lora__site *s = m->s.list[i];
		size_t bytes = lora__site_bytes(s), step = bytes / SAMPLES & ~(size_t)(PAGE - 1);
		int64_t shape[3] = { s->out, s->in, s->dtype };
		h = lora__hash64(s->name, strlen(s->name), h) ^ lora__hash64(shape, sizeof shape, h + 1);
		if (s->flags & LORA_SITE_HOST) continue; /* in place, and may be merged now */
		if (bytes <= PAGE * SAMPLES) h = lora__hash64(s->base, bytes, h);
		else
			for (size_t at = 0; at + PAGE <= bytes; at += step) h = lora__hash64((const char *)s->base + at, PAGE, h);
		if (s->packed[0] || s->packed[1]) lora__site_rest(s);
	}
	return m->digest = h ? h : 1;
}
