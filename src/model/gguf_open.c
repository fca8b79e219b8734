/* A GGUF model as the rest of the library knows models: tensors under Hugging Face's names and in its layout, where that costs no more than a
 * copy of the rows: llama's q and k rows go back into their order, Gemma's norms lose the one that was added. Conv1D weights of GPT-2 stay as
 * GGUF has them, [out,in]; m->gguf tells the builder so. Everything else stays mapped and quantised. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/model.h"
#include "quant/quant.h"

typedef struct opener { lora_model *m; lora_context *ctx; lora__gguf *g; const lora__gguf_arch *arch; int64_t heads, kv_heads; } opener;

static lora_status need_arch(opener *o)
{
	const char *s, *type;
	size_t n, m;
	lora__gguf *g = o->g;
	lora_status st = lora__gguf_string(g, "general.type", &type, &m);
	if (!st && !g->set.n && !(st = lora__gguf_string(g, "tokenizer.ggml.model", &s, &n)) && s)
		return lora__fail_at(o->ctx, LORA_E_NOTFOUND, "model", "token_embd.weight", -1, "holds a vocabulary and no weights: good to tokenize with, not a model");
	if (!st) st = lora__gguf_string(g, "general.architecture", &s, &n);
	if (st) return st;
	if (type && (m != 5 || memcmp(type, "model", 5)))
		return lora__fail_at(o->ctx, LORA_E_FORMAT, "model", "general.type", -1, "general.type is \"%s\", not a model%s", lora__quote_n(type, m).text,
			m == 7 && !memcmp(type, "adapter", 7) ? "; open it as an adapter" : "");
	if (!s) return lora__fail_at(o->ctx, LORA_E_FORMAT, "model", "general.architecture", -1, "general.architecture is missing");
	if (!(o->arch = lora__gguf_arch_named(s, n)))
		return lora__fail_at(o->ctx, LORA_E_UNSUPPORTED, "model", "general.architecture", -1, "general.architecture \"%s\" is not supported", lora__quote_n(s, n).text);
	return LORA_OK;
}

/* Memory of the set for one tensor's own copy. */
static lora_status own_copy(opener *o, size_t bytes, uint8_t **out)
{
	lora__tensors *set = &o->g->set;
	lora_status st = lora__grow(o->ctx, &set->blobs, &set->cap_blobs, set->n_blobs + 1, sizeof *set->blobs);
	if (st) return st;
	if (!(*out = lora__alloc(o->ctx, bytes ? bytes : 1))) return LORA_E_MEMORY;
	set->blobs[set->n_blobs++] = (lora__blob){ *out, bytes, 0 };
	return LORA_OK;
}

static lora_status unpermute(opener *o, lora__tensor *t, int64_t heads)
{
	uint8_t *to;
	int64_t rows = t->shape[0];
	if (heads < 1 || rows % heads || rows / heads % 2)
		return lora__fail_at(o->ctx, LORA_E_SHAPE, "model", t->name, -1, "tensor %s has %lld rows, which %lld heads don't divide", lora__quote(t->name).text,
			(long long)rows, (long long)heads);
	if (!t->bytes) return LORA_OK;
	lora_status st = own_copy(o, (size_t)t->bytes, &to);
	if (st) return st;
	lora__gguf_permute(to, t->data, rows, (size_t)(t->bytes / (uint64_t)rows), heads, 1);
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)t->data + page - 1) & ~(page - 1), end = ((uintptr_t)t->data + t->bytes) & ~(page - 1);
	if (!o->g->swap && end > first) madvise((void *)first, end - first, MADV_DONTNEED); /* mapped: these pages are not read again */
	t->data = to;
	return LORA_OK;
}

static lora_status minus_one(opener *o, lora__tensor *t)
{
	uint8_t *to;
	size_t n = (size_t)(t->bytes / 4);
	if (t->dtype != LORA_F32)
		return lora__fail_at(o->ctx, LORA_E_DTYPE, "model", t->name, -1, "tensor %s is %s, F32 expected", lora__quote(t->name).text, t->stored);
	lora_status st = own_copy(o, n * 4, &to);
	if (st) return st;
	for (size_t i = 0; i < n; i++) {
		float v;
		memcpy(&v, t->data + 4 * i, 4);
		v -= 1;
		memcpy(to + 4 * i, &v, 4);
	}
	t->data = to;
	return LORA_OK;
}

/* Give each tensor its new name; names of the file live in an arena, the new ones in another. */
static lora_status rename_all(opener *o)
{
	lora__tensors *set = &o->g->set;
	size_t used = 0, room = set->n * LORA__GGUF_LONG_NAME + 1;
	lora_status st = lora__grow(o->ctx, &set->names, &set->cap_names, set->n_names + 1, sizeof *set->names);
	if (st) return st;
	char *names = lora__alloc(o->ctx, room);
	if (!names) return LORA_E_MEMORY;
	set->names[set->n_names++] = names;
	for (size_t i = 0; i < set->n && !st; i++) {
		lora__tensor *t = &set->list[i];
		char name[LORA__GGUF_LONG_NAME];
		uint32_t flags;
		if (!lora__gguf_to_hf(o->arch, t->name, name, &flags)) continue;
		if (flags & LORA__GGUF_PERMUTE_Q) st = unpermute(o, t, o->heads);
		if (flags & LORA__GGUF_PERMUTE_K) st = unpermute(o, t, o->kv_heads);
		if (flags & LORA__GGUF_PLUS_ONE) st = minus_one(o, t);
		size_t n = strlen(name) + 1;
		memcpy(names + used, name, n);
		t->name = names + used;
		used += n;
	}
	char *less = st ? NULL : lora__realloc(o->ctx, names, used + 1);
	for (size_t i = 0; less && less != names && i < set->n; i++)
		if (set->list[i].name >= names && set->list[i].name < names + room) set->list[i].name = less + (set->list[i].name - names);
	if (less) set->names[set->n_names - 1] = less;
	return st;
}

/* by_name again, for the new names; two that are equal now can't be: the map is one to one, but a file may hold both spellings. */
static lora_status sort_names(opener *o)
{
	lora__tensors *set = &o->g->set;
	lora__map seen;
	lora_status st = LORA_OK;
	lora__map_init(&seen, o->ctx);
	for (size_t i = 0; i < set->n && !st; i++) {
		st = lora__map_add(&seen, set->list[i].name, strlen(set->list[i].name), 0, NULL);
		if (st == LORA_E_EXISTS) st = lora__fail_at(o->ctx, LORA_E_FORMAT, "model", set->list[i].name, -1, "two tensors mean %s", lora__quote(set->list[i].name).text);
	}
	lora__map_free(&seen);
	for (size_t gap = set->n / 2; gap > 0 && !st; gap /= 2) /* few tensors: a shell sort will do */
		for (size_t i = gap; i < set->n; i++)
			for (size_t k = i; k >= gap && strcmp(set->list[set->by_name[k - gap]].name, set->list[set->by_name[k]].name) > 0; k -= gap) {
				uint32_t v = set->by_name[k];
				set->by_name[k] = set->by_name[k - gap], set->by_name[k - gap] = v;
			}
	return st;
}

static int64_t config_int(const json_t *config, const char *key, int64_t def)
{
	const json_t *v = json_object_get(config, key);
	return json_is_integer(v) ? (int64_t)json_integer_value(v) : def;
}

void lora__model_gguf_names(lora_model *m)
{
	const char *type = json_string_value(json_object_get(m->config, "model_type"));
	m->s.gguf = type ? lora__gguf_arch_of(type) : NULL;
	m->s.heads = config_int(m->config, "num_attention_heads", config_int(m->config, "n_head", 0));
	m->s.kv_heads = config_int(m->config, "num_key_value_heads", m->s.heads);
	if (!m->s.heads || !m->s.kv_heads) m->s.gguf = NULL;
}

lora_status lora__model_open_gguf(lora_model *m, const char *path)
{
	lora_context *ctx = m->s.ctx;
	lora__gguf *g = lora__zalloc(ctx, sizeof *g);
	opener o = { .m = m, .ctx = ctx, .g = g };
	if (!g) return LORA_E_MEMORY;
	m->gguf = g;
	lora_status st = lora__gguf_open(ctx, path, g);
	if (st == LORA_OK) st = need_arch(&o);
	if (st == LORA_OK) st = lora__gguf_config(g, o.arch, &m->config);
	if (st) return st;
	o.heads = config_int(m->config, "num_attention_heads", config_int(m->config, "n_head", 0));
	o.kv_heads = config_int(m->config, "num_key_value_heads", o.heads);
	st = rename_all(&o);
	if (st == LORA_OK) st = sort_names(&o);
	if (st) return st;
	m->file = g->set; /* from here on the model's; the metadata's bytes are in its blobs */
	g->set = (lora__tensors){ 0 };
	return LORA_OK;
}
