/* LoRA adapters in GGUF, as llama.cpp reads and writes them: pairs "<tensor>.lora_a" [r,in] and "<tensor>.lora_b" [out,r] (as PEFT stores them),
 * one adapter.lora.alpha for the whole file, scale = alpha / r (1 where alpha is 0 or missing).
 *
 * Reading makes a PEFT configuration and PEFT's names of it, so that one loader checks both. q and k rows of lora_b go back from llama.cpp's
 * order; a token embedding's lora_a is turned; blocks (Q8_0, ...) are decoded to F32.
 * Writing: where scale * r is the same at all sites it is the file's alpha; else the file has lora_alpha and the ratio is folded into lora_b.
 * Source: convert_lora_to_gguf.py, llama-adapter.cpp. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "adapter/adapter.h"
#include "format/gguf_names.h"
#include "quant/quant.h"

enum { NAME = LORA__GGUF_LONG_NAME + 64, RANKS = 64 };

typedef struct reader {
	lora_context *ctx;
	lora__sites  *sites;
	lora__gguf    g;
	lora__tensors out;      /* PEFT's names; data of the file or in out.blobs */
	int64_t       rank[RANKS], pairs[RANKS]; /* ranks met, and how often */
	int           n_ranks;
} reader;

static lora_status bad(reader *r, lora_status st, const char *name, const char *text)
{
	return lora__fail_at(r->ctx, st, "adapter", name, -1, "tensor %s: %s", lora__quote(name).text, text);
}

static lora_status need_string(reader *r, const char *key, const char *want, const char *hint)
{
	const char *s;
	size_t n;
	lora_status st = lora__gguf_string(&r->g, key, &s, &n);
	if (st) return st;
	if (!s) return lora__fail_at(r->ctx, LORA_E_FORMAT, "adapter", key, -1, "%s is missing; is this an adapter?", key);
	if (n == strlen(want) && memcmp(s, want, n) == 0) return LORA_OK;
	return lora__fail_at(r->ctx, LORA_E_FORMAT, "adapter", key, -1, "%s is \"%s\", %s", key, lora__quote_n(s, n).text, hint);
}

static lora_status check_head(reader *r)
{
	char hint[96];
	const lora__gguf_arch *a = r->sites->gguf;
	lora_status st = need_string(r, "general.type", "adapter", "not an adapter");
	if (st == LORA_OK) st = need_string(r, "adapter.type", "lora", "only \"lora\" is supported");
	if (st) return st;
	if (!a) return lora__fail(r->ctx, LORA_E_UNSUPPORTED, "adapter", "adapters in GGUF are not supported for this model's architecture");
	snprintf(hint, sizeof hint, "the model is \"%s\": the adapter is of another model", a->name);
	return need_string(r, "general.architecture", a->name, hint);
}

static lora_status own(reader *r, size_t bytes, uint8_t **out)
{
	lora__tensors *set = &r->out;
	lora_status st = lora__grow(r->ctx, &set->blobs, &set->cap_blobs, set->n_blobs + 1, sizeof *set->blobs);
	if (st) return st;
	if (!(*out = lora__alloc(r->ctx, bytes ? bytes : 1))) return LORA_E_MEMORY;
	set->blobs[set->n_blobs++] = (lora__blob){ *out, bytes, 0 };
	return LORA_OK;
}

static lora_status decode(reader *r, lora__tensor *t)
{
	uint8_t *to;
	int64_t n = t->shape[0] * t->shape[1];
	if (t->dtype == LORA_F32 || t->dtype == LORA_F16 || t->dtype == LORA_BF16) return LORA_OK;
	if (!lora__dtype_block(t->dtype, NULL, NULL) || !lora__quant_of(t->dtype)) return bad(r, LORA_E_DTYPE, t->name, t->stored);
	lora_status st = own(r, (size_t)n * sizeof(float), &to);
	if (st) return st;
	lora__dequant(to, LORA_F32, t->data, t->dtype, n);
	t->data = to, t->dtype = LORA_F32, t->bytes = (uint64_t)n * sizeof(float);
	return LORA_OK;
}

static lora_status transpose(reader *r, lora__tensor *t)
{
	uint8_t *to;
	size_t each = lora__dtype_size(t->dtype);
	int64_t rows = t->shape[0], cols = t->shape[1];
	lora_status st = own(r, (size_t)t->bytes, &to);
	if (st) return st;
	for (int64_t i = 0; i < rows; i++)
		for (int64_t j = 0; j < cols; j++) memcpy(to + (size_t)(j * rows + i) * each, t->data + (size_t)(i * cols + j) * each, each);
	t->data = to, t->shape[0] = cols, t->shape[1] = rows;
	return LORA_OK;
}

static lora_status permute(reader *r, lora__tensor *t, int64_t heads)
{
	uint8_t *to;
	int64_t rows = t->shape[0];
	if (heads < 1 || rows % heads || rows / heads % 2) return bad(r, LORA_E_SHAPE, t->name, "its rows do not fit the model's heads");
	lora_status st = own(r, (size_t)t->bytes, &to);
	if (st) return st;
	lora__gguf_permute(to, t->data, rows, (size_t)t->bytes / (size_t)rows, heads, 1);
	t->data = to;
	return LORA_OK;
}

static void count_rank(reader *r, int64_t rank)
{
	int i = 0;
	while (i < r->n_ranks && r->rank[i] != rank) i++;
	if (i == RANKS) return;
	if (i == r->n_ranks) r->rank[r->n_ranks] = rank, r->pairs[r->n_ranks++] = 0;
	r->pairs[i]++;
}

static int has(const reader *r, const char *base, size_t n, const char *suffix)
{
	char name[128];
	snprintf(name, sizeof name, "%.*s%s", (int)n, base, suffix);
	return lora__tensors_find(&r->g.set, name) != NULL;
}

/* One tensor of the file under PEFT's name. */
static lora_status take(reader *r, const lora__tensor *from, char *names, size_t *used)
{
	char base[128], hf[LORA__GGUF_LONG_NAME];
	uint32_t flags;
	size_t n = strlen(from->name);
	int is_a = n > 7 && strcmp(from->name + n - 7, ".lora_a") == 0, is_b = n > 7 && strcmp(from->name + n - 7, ".lora_b") == 0;
	if (!is_a && !is_b) return bad(r, LORA_E_FORMAT, from->name, "neither .lora_a nor .lora_b; this library reads nothing else from an adapter");
	if (!has(r, from->name, n - 7, is_a ? ".lora_b" : ".lora_a")) return bad(r, LORA_E_FORMAT, from->name, is_a ? "its .lora_b is missing" : "its .lora_a is missing");
	snprintf(base, sizeof base, "%.*s", (int)(n - 7), from->name);
	if (!lora__gguf_to_hf(r->sites->gguf, base, hf, &flags)) return bad(r, LORA_E_NOTFOUND, from->name, "the architecture has no such tensor");
	size_t m = strlen(hf);
	if (m < 8 || strcmp(hf + m - 7, ".weight")) return bad(r, LORA_E_FORMAT, from->name, "a pair belongs to a weight");
	if (from->rank != 2) return bad(r, from->rank > 2 ? LORA_E_UNSUPPORTED : LORA_E_SHAPE, from->name, "a matrix is expected (pairs of experts are not supported)");
	if (from->shape[0] < 1 || from->shape[1] < 1) return bad(r, LORA_E_SHAPE, from->name, "a dimension is zero");
	lora__tensor t = *from;
	int embedding = strcmp(base, "token_embd.weight") == 0;
	lora_status st = decode(r, &t);
	if (is_a && !st) count_rank(r, embedding ? t.shape[1] : t.shape[0]);
	if (is_a && embedding && !st) st = transpose(r, &t);
	if (is_b && (flags & LORA__GGUF_PERMUTE_Q) && !st) st = permute(r, &t, r->sites->heads);
	if (is_b && (flags & LORA__GGUF_PERMUTE_K) && !st) st = permute(r, &t, r->sites->kv_heads);
	if (st) return st;
	t.name = names + *used;
	*used += (size_t)snprintf(names + *used, NAME, "base_model.model.%.*s.%s", (int)(m - 7), hf,
		embedding ? (is_a ? "lora_embedding_A" : "lora_embedding_B") : is_a ? "lora_A.weight" : "lora_B.weight") + 1;
	r->out.list[r->out.n++] = t;
	return LORA_OK;
}

static lora_status take_all(reader *r)
{
	size_t n = r->g.set.n, used = 0;
	char **slot;
	if (!n) return lora__fail(r->ctx, LORA_E_FORMAT, "adapter", "the adapter has no tensors");
	r->out.ctx = r->ctx;
	lora_status st = lora__grow(r->ctx, &r->out.list, &r->out.cap, n, sizeof *r->out.list);
	if (!st) st = lora__grow(r->ctx, &r->out.names, &r->out.cap_names, 1, sizeof *r->out.names);
	if (st) return st;
	slot = &r->out.names[0];
	if (!(*slot = lora__calloc(r->ctx, n, NAME))) return LORA_E_MEMORY;
	r->out.n_names = 1;
	for (size_t i = 0; i < n && !st; i++) st = take(r, &r->g.set.list[i], *slot, &used);
	return st;
}

/* Module path of a PEFT name, and the rank of its pair when it is an A. */
static const char *module_of(const lora__tensor *t, size_t *n, int64_t *rank)
{
	lora__peft_name name;
	if (!lora__peft_split_name(t->name, &name)) return NULL;
	*n = name.module_n;
	*rank = strcmp(name.leaf, "lora_A.weight") == 0 || strcmp(name.leaf, "lora_embedding_A") == 0 ? t->shape[0] : 0;
	return name.module;
}

/* The last part of a module's name when every site that ends so is adapted, else the whole name. */
static const char *target_of(const reader *r, const lora__map *adapted, const char *module)
{
	const char *last = strrchr(module, '.');
	if (!last) return module;
	size_t k = strlen(last);
	for (size_t i = 0; i < r->sites->n; i++) {
		const char *site = r->sites->list[i]->name;
		size_t n = strlen(site);
		if (n >= k && strcmp(site + n - k, last) == 0 && lora__map_find(adapted, site, n) < 0) return module;
	}
	return last + 1;
}

static int add_once(json_t *list, const char *s)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		if (strcmp(json_string_value(json_array_get(list, i)), s) == 0) return 0;
	return json_array_append_new(list, json_string(s));
}

static lora_status make_config(reader *r, json_t **out)
{
	double alpha;
	int64_t rank = 0, most = 0;
	lora__map adapted;
	lora_status st = lora__gguf_float(&r->g, "adapter.lora.alpha", 0, &alpha);
	if (st) return st;
	for (int i = 0; i < r->n_ranks; i++)
		if (r->pairs[i] > most) most = r->pairs[i], rank = r->rank[i];
	json_t *config = json_pack("{s:s, s:I, s:f, s:s, s:s, s:b, s:b}", "peft_type", "LORA", "r", (json_int_t)rank, "lora_alpha", alpha != 0 ? alpha : (double)rank,
		"bias", "none", "task_type", "CAUSAL_LM", "inference_mode", 1, "fan_in_fan_out", strcmp(r->sites->gguf->name, "gpt2") == 0);
	json_t *ranks = json_object(), *alphas = json_object(), *targets = json_array();
	int failed = !config;
	lora__map_init(&adapted, r->ctx);
	for (size_t i = 0; i < r->out.n && !st; i++) {
		size_t n;
		int64_t own_rank;
		const char *module = module_of(&r->out.list[i], &n, &own_rank);
		if (module && lora__map_add(&adapted, module, n, 0, NULL) == LORA_E_MEMORY) st = LORA_E_MEMORY;
	}
	for (size_t i = 0; i < r->out.n && !st && !failed; i++) {
		char name[NAME];
		size_t n;
		int64_t own_rank;
		const char *module = module_of(&r->out.list[i], &n, &own_rank);
		if (!module || !own_rank) continue;
		snprintf(name, sizeof name, "%.*s", (int)n, module);
		if (own_rank != rank) failed |= json_object_set_new(ranks, name, json_integer(own_rank));
		if (own_rank != rank && alpha == 0) failed |= json_object_set_new(alphas, name, json_integer(own_rank)); /* scale 1 */
		failed |= add_once(targets, target_of(r, &adapted, name));
	}
	lora__map_free(&adapted);
	failed |= json_object_set_new(config, "rank_pattern", ranks) || json_object_set_new(config, "alpha_pattern", alphas) ||
		json_object_set_new(config, "target_modules", targets);
	*out = config;
	return st ? st : failed ? lora__fail(r->ctx, LORA_E_MEMORY, "adapter", "out of memory") : LORA_OK;
}

lora_status lora__adapter_open_gguf(lora__sites *sites, const char *path, const lora_settings *options, lora_adapter **out)
{
	reader r = { .ctx = sites->ctx, .sites = sites };
	json_t *object = NULL;
	lora__text text;
	lora__peft_config config = { 0 };
	lora__text_init(&text, r.ctx);
	lora_status st = lora__gguf_read(r.ctx, path, &r.g);
	if (st) return st;
	st = check_head(&r);
	if (st == LORA_OK) st = take_all(&r);
	if (st == LORA_OK) st = make_config(&r, &object);
	if (st == LORA_OK) st = lora__json_dump(r.ctx, object, 0, &text);
	if (st == LORA_OK) st = text.status;
	if (st == LORA_OK) st = lora__peft_parse(r.ctx, text.data, text.n, "configuration from GGUF", &config);
	if (st == LORA_OK) {
		st = lora__adapter_load(sites, &config, &r.out, options, out);
		lora__peft_close(&config);
	}
	json_decref(object);
	lora__text_free(&text);
	lora__tensors_close(&r.out);
	lora__gguf_close(&r.g);
	return st ? lora__fail_prefix(sites->ctx, st, "%s: ", lora__quote(path).text) : st;
}

/* ---- writing ---- */

typedef struct writer { lora_adapter *a; lora_context *ctx; lora_dtype dtype; double alpha; lora__tensor *list; char *names, *data; size_t used, at; } writer;

/* The alpha with which all scales are alpha / r, or lora_alpha when there is none such. */
static double file_alpha(const lora_adapter *a)
{
	double first = a->parts[0].scaling * (double)a->parts[0].rank;
	for (size_t i = 1; i < a->n_parts; i++)
		if (fabs(a->parts[i].scaling * (double)a->parts[i].rank - first) > 1e-12 * fabs(first))
			return json_number_value(lora__get_json(a->settings, "lora_alpha")) != 0 ? json_number_value(lora__get_json(a->settings, "lora_alpha")) : 8;
	return first;
}

static lora_status put_tensor(writer *w, const lora__ptensor *t)
{
	lora_adapter *a = w->a;
	const lora__part *p = &a->parts[t->part];
	int table = lora__part_is_table(p);
	char hf[LORA__GGUF_LONG_NAME], name[LORA__GGUF_LONG_NAME];
	uint32_t flags;
	int is_b = t->role == 1; /* the kind is LoRA: roles A and B */
	int n = snprintf(hf, sizeof hf, "%s.weight", p->slot.site->name);
	if (n < 0 || n >= (int)sizeof hf || !lora__gguf_from_hf(a->sites->gguf, hf, name, &flags))
		return lora__fail_at(w->ctx, LORA_E_UNSUPPORTED, "adapter", p->slot.site->name, -1, "%s has no name in GGUF", p->slot.site->name);
	double fold = p->scaling * (double)p->rank / w->alpha;
	size_t each = lora__dtype_size(w->dtype), bytes = t->n * each;
	char *to = w->data + w->at;
	float *values = lora__alloc(w->ctx, 2 * t->n * sizeof *values);
	if (!values) return LORA_E_MEMORY;
	memcpy(values, a->params + t->offset, t->n * sizeof *values);
	for (size_t i = 0; is_b && fabs(fold - 1) > 1e-12 && i < t->n; i++) values[i] *= (float)fold;
	float *rows = values;
	if (is_b && (flags & (LORA__GGUF_PERMUTE_Q | LORA__GGUF_PERMUTE_K))) {
		rows = values + t->n;
		lora__gguf_permute(rows, values, t->shape[0], (size_t)t->shape[1] * sizeof *rows, flags & LORA__GGUF_PERMUTE_Q ? a->sites->heads : a->sites->kv_heads, 0);
	}
	int64_t shape[2] = { t->shape[0], t->shape[1] };
	if (table && !is_b) { /* an embedding's A lies turned */
		rows = values + t->n;
		for (size_t i = 0; i < t->n; i++) rows[i % (size_t)shape[1] * (size_t)shape[0] + i / (size_t)shape[1]] = values[i];
		shape[0] = t->shape[1], shape[1] = t->shape[0];
	}
	lora__convert(to, w->dtype, rows, LORA_F32, t->n);
	int fits = lora__all_finite(to, w->dtype, t->n) || !lora__all_finite(values, LORA_F32, t->n);
	lora__free(w->ctx, values);
	if (!fits) return lora__fail_at(w->ctx, LORA_E_NUMERIC, "adapter", t->name, -1, "tensor %s has values out of range for %s", t->name, lora__dtype_name(w->dtype));
	w->list[t - a->tensors] = (lora__tensor){ .name = w->names + w->used, .dtype = w->dtype, .rank = 2, .shape = { shape[0], shape[1] },
		.data = (uint8_t *)to, .bytes = bytes };
	w->used += (size_t)snprintf(w->names + w->used, NAME, "%s.lora_%c", name, is_b ? 'b' : 'a') + 1;
	w->at += (bytes + 63) & ~(size_t)63;
	return LORA_OK;
}

lora_status lora__adapter_save_gguf(lora_adapter *a, const char *path, lora_dtype dtype)
{
	writer w = { .a = a, .ctx = a->ctx, .dtype = dtype };
	if (!a->sites->gguf) return lora__fail(a->ctx, LORA_E_UNSUPPORTED, "adapter", "adapters of this model's architecture can't be written to GGUF");
	if (strcmp(a->kind->peft_type, "LORA")) return lora__fail(a->ctx, LORA_E_UNSUPPORTED, "adapter", "GGUF can't carry adapters of kind %s", a->kind->m.name);
	for (size_t i = 0; i < a->n_parts; i++)
		if (a->parts[i].how != LORA__CHOSEN)
			return lora__fail_at(a->ctx, LORA_E_UNSUPPORTED, "adapter", a->parts[i].slot.site->name, -1, "GGUF can't carry %s of %s",
				a->parts[i].how == LORA__WHOLE ? "the whole weight (modules_to_save)" : "an adapted parameter (target_parameters)", a->parts[i].slot.site->name);
	w.alpha = file_alpha(a);
	w.list = lora__calloc(a->ctx, a->n_tensors, sizeof *w.list);
	w.names = lora__calloc(a->ctx, a->n_tensors, NAME);
	w.data = lora__alloc(a->ctx, a->n_params * lora__dtype_size(dtype) + 64 * a->n_tensors);
	lora_status st = w.list && w.names && w.data ? LORA_OK : LORA_E_MEMORY;
	for (size_t i = 0; i < a->n_tensors && !st; i++) st = put_tensor(&w, &a->tensors[i]);
	if (!st) {
		const char *arch = a->sites->gguf->name, *base = strrchr(path, '/');
		base = base ? base + 1 : path;
		size_t n = strlen(base);
		if (n > 5 && strcmp(base + n - 5, ".gguf") == 0) n -= 5;
		lora__gguf_out o;
		lora__gguf_begin(&o, a->ctx);
		lora__gguf_put_string(&o, "general.architecture", arch, strlen(arch));
		lora__gguf_put_string(&o, "general.type", "adapter", 7);
		lora__gguf_put_string(&o, "adapter.type", "lora", 4);
		lora__gguf_put_float(&o, "adapter.lora.alpha", w.alpha);
		lora__gguf_put_string(&o, "general.name", base, n);
		lora__gguf_put_int(&o, "general.file_type", LORA__GGUF_U32, dtype == LORA_F32 ? 0 : dtype == LORA_F16 ? 1 : 32);
		st = lora__gguf_write(&o, path, w.list, a->n_tensors);
	}
	lora__free(a->ctx, w.list);
	lora__free(a->ctx, w.names);
	lora__free(a->ctx, w.data);
	return st;
}
