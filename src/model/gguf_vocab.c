/* The tokenizer of a Hugging Face directory as GGUF's keys, made of tokenizer.json (and tokenizer_config.json, chat_template.jinja).
 * Byte-level BPE becomes "gpt2" with llama.cpp's name of the pre-tokenizer; BPE with byte fallback becomes "llama", whose scores are the ranks of
 * the merges: llama.cpp joins the pair of the highest score, tokenizers the pair of the first rule, so both join the same.
 * Anything else is left out with a warning: never a tokenizer that cuts differently. Source: convert_hf_to_gguf.py, gguf-py/gguf/vocab.py. */
#include <stdio.h>
#include <string.h>

#include "format/gguf_pre.h"
#include "model/gguf_save.h"
#include "tokenizer/sentencepiece.h"

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

typedef struct token { const char *s; size_t n; uint8_t type; float score; } token;
typedef struct vocab { lora_model *m; lora_context *ctx; lora__gguf_out *o; json_t *root, *config; token *list; size_t n; char *names; int64_t known[3]; /* BOS, EOS and unknown when no config says them; -1 */ } vocab;

static lora_status fail(vocab *v, lora_status st, const char *key, const char *why)
{
	return lora__fail_at(v->ctx, st, "model", key, -1, "tokenizer.json: %s: %s", key, why);
}

static lora_status read_file(vocab *v, const char *name, lora__blob *blob)
{
	*blob = (lora__blob){ 0 };
	char *path = v->m->dir ? lora__path_join(v->ctx, v->m->dir, name) : NULL;
	lora_status st = !v->m->dir ? LORA_OK : !path ? LORA_E_MEMORY : LORA_OK;
	if (!st && path && lora__path_exists(path)) st = lora__blob_read(v->ctx, path, v->ctx->limits.json_bytes, blob);
	lora__free(v->ctx, path);
	return st;
}

static lora_status read_json(vocab *v, const char *name, json_t **out)
{
	lora__blob blob;
	lora_status st = read_file(v, name, &blob);
	if (!st && blob.n) st = lora__json_parse(v->ctx, (const char *)blob.data, blob.n, name, out);
	lora__blob_close(v->ctx, &blob);
	return st;
}

static lora_status put_token(vocab *v, const char *s, size_t n, json_int_t id, uint8_t type)
{
	if (id < 0 || (size_t)id >= v->n) return fail(v, LORA_E_SHAPE, "vocab", "an id is beyond the model's vocabulary");
	v->list[id] = (token){ s, n, type, 0 };
	return LORA_OK;
}

static int is_byte(const char *s, size_t n)
{
	return n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>' && strspn(s + 3, "0123456789ABCDEFabcdef") == 2;
}

/* All tokens with their types; ids that nobody has become [PADn]. */
static lora_status read_tokens(vocab *v, int bytes)
{
	const char *s, *unk = json_string_value(json_object_get(json_object_get(v->root, "model"), "unk_token"));
	json_t *id, *item;
	size_t i;
	lora_status st = LORA_OK;
	v->n = (size_t)v->m->vocab;
	v->list = lora__calloc(v->ctx, v->n, sizeof *v->list);
	v->names = lora__calloc(v->ctx, v->n, 16);
	if (!v->list || !v->names) return LORA_E_MEMORY;
	json_object_foreach(json_object_get(json_object_get(v->root, "model"), "vocab"), s, id)
	{
		size_t n = strlen(s);
		uint8_t type = bytes && is_byte(s, n) ? BYTE : unk && strcmp(s, unk) == 0 ? UNKNOWN : NORMAL;
		if ((st = put_token(v, s, n, json_integer_value(id), type))) return st;
	}
	json_array_foreach(json_object_get(v->root, "added_tokens"), i, item)
	{
		s = json_string_value(json_object_get(item, "content"));
		if (!s) return fail(v, LORA_E_FORMAT, "added_tokens", "content is missing");
		int special = json_is_true(json_object_get(item, "special"));
		if ((st = put_token(v, s, strlen(s), json_integer_value(json_object_get(item, "id")), unk && strcmp(s, unk) == 0 && special ? UNKNOWN : special ? CONTROL : USER)))
			return st;
	}
	for (i = 0; i < v->n; i++) {
		if (v->list[i].s) continue;
		snprintf(v->names + 16 * i, 16, "[PAD%u]", (unsigned)i);
		v->list[i] = (token){ v->names + 16 * i, strlen(v->names + 16 * i), UNUSED, 0 };
	}
	return LORA_OK;
}

/* Both parts of a merge, "a b" or ["a","b"]. */
static int merge_parts(const json_t *m, const char **a, size_t *an, const char **b)
{
	const char *s = json_string_value(m), *space;
	*a = s ? s : json_string_value(json_array_get(m, 0));
	if (!s) {
		*b = json_string_value(json_array_get(m, 1));
		*an = *a ? strlen(*a) : 0;
		return *a && *b && json_array_size(m) == 2;
	}
	if (!(space = strchr(s, ' '))) return 0;
	*an = (size_t)(space - s), *b = space + 1;
	return 1;
}

static lora_status put_merges(vocab *v)
{
	const json_t *merges = json_object_get(json_object_get(v->root, "model"), "merges");
	const char *a, *b;
	size_t n;
	lora__text t;
	lora__gguf_put_array(v->o, "tokenizer.ggml.merges", LORA__GGUF_STRING, json_array_size(merges));
	lora__text_init(&t, v->ctx);
	lora_status st = LORA_OK;
	for (size_t i = 0; i < json_array_size(merges) && !st; i++) {
		if (!merge_parts(json_array_get(merges, i), &a, &n, &b)) st = fail(v, LORA_E_FORMAT, "merges", "not two parts");
		if (!st && (memchr(a, ' ', n) || strchr(b, ' '))) st = fail(v, LORA_E_UNSUPPORTED, "merges", "a part with a space has no place in GGUF");
		t.n = 0;
		if (st) break;
		lora__text_add(&t, a, n);
		lora__text_puts(&t, " ");
		lora__text_puts(&t, b);
		if (!(st = t.status)) lora__gguf_item_string(v->o, t.data, t.n);
	}
	lora__text_free(&t);
	return st;
}

/* score = -rank of the first merge that gives the token. */
static lora_status score_tokens(vocab *v)
{
	const json_t *merges = json_object_get(json_object_get(v->root, "model"), "merges"), *ids = json_object_get(json_object_get(v->root, "model"), "vocab");
	lora__text t;
	lora_status st = LORA_OK;
	lora__text_init(&t, v->ctx);
	for (size_t i = 0; i < v->n; i++) v->list[i].score = v->list[i].type == NORMAL ? -1e9f : 0; /* never made of a pair */
	for (size_t i = json_array_size(merges); i-- > 0 && !st;) {
		const char *a, *b;
		size_t n;
		if (!merge_parts(json_array_get(merges, i), &a, &n, &b)) st = fail(v, LORA_E_FORMAT, "merges", "not two parts");
		t.n = 0;
		if (st) break;
		lora__text_add(&t, a, n);
		lora__text_puts(&t, b);
		const json_t *id = t.status ? NULL : json_object_get(ids, t.data);
		if (!(st = t.status) && !id) st = fail(v, LORA_E_FORMAT, "merges", "a merge gives no token");
		if (!st) v->list[json_integer_value(id)].score = -(float)i;
	}
	lora__text_free(&t);
	return st;
}

static void put_tokens(vocab *v, int scores)
{
	lora__gguf_put_array(v->o, "tokenizer.ggml.tokens", LORA__GGUF_STRING, v->n);
	for (size_t i = 0; i < v->n; i++) lora__gguf_item_string(v->o, v->list[i].s, v->list[i].n);
	if (scores) {
		lora__gguf_put_array(v->o, "tokenizer.ggml.scores", LORA__GGUF_F32, v->n);
		for (size_t i = 0; i < v->n; i++) lora__gguf_item_f32(v->o, v->list[i].score);
	}
	lora__gguf_put_array(v->o, "tokenizer.ggml.token_type", LORA__GGUF_I32, v->n);
	for (size_t i = 0; i < v->n; i++) lora__gguf_item_u32(v->o, v->list[i].type);
}

/* Id of a token that tokenizer_config.json names, or of config.json. */
static int64_t special_id(const vocab *v, const char *name, const char *key)
{
	const json_t *t = json_object_get(v->config, name), *id = json_object_get(v->m->config, key);
	const char *s = json_is_object(t) ? json_string_value(json_object_get(t, "content")) : json_string_value(t);
	for (size_t i = 0; s && i < v->n; i++)
		if (v->list[i].n == strlen(s) && memcmp(v->list[i].s, s, v->list[i].n) == 0) return (int64_t)i;
	if (json_is_array(id)) id = json_array_get(id, 0);
	return json_is_integer(id) ? (int64_t)json_integer_value(id) : -1;
}

/* Whether the post-processor's template has this token before or behind the text. */
static int in_template(const json_t *post, const char *text, size_t n, int behind)
{
	const json_t *single = json_object_get(post, "single"), *list = json_object_get(post, "processors"), *item;
	size_t i;
	int seen = 0;
	json_array_foreach(list, i, item)
		if (in_template(item, text, n, behind)) return 1;
	json_array_foreach(single, i, item)
	{
		const char *id = json_string_value(json_object_get(json_object_get(item, "SpecialToken"), "id"));
		seen |= json_object_get(item, "Sequence") != NULL;
		if (id && seen == behind && strlen(id) == n && memcmp(id, text, n) == 0) return 1;
	}
	return 0;
}

/* Where generation ends besides EOS: llama.cpp has two more places. */
static void put_ends(vocab *v, int64_t eos)
{
	static const char *const keys[] = { "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id" };
	size_t n = json_is_array(v->m->ends) ? json_array_size(v->m->ends) : v->m->ends != NULL, k = 0;
	for (size_t i = 0; i < n && k < 2; i++) {
		json_int_t id = json_integer_value(json_is_array(v->m->ends) ? json_array_get(v->m->ends, i) : v->m->ends);
		if (id != eos && id >= 0 && id < (json_int_t)v->n) lora__gguf_put_int(v->o, keys[k++], LORA__GGUF_U32, id);
	}
}

/* bos, eos: whether they are put around a text; -1 = as the post-processor's template says. */
static lora_status put_specials(vocab *v, int bos, int eos)
{
	static const struct { const char *name, *config, *key; } ids[] = { { "bos_token", "bos_token_id", "tokenizer.ggml.bos_token_id" },
		{ "eos_token", "eos_token_id", "tokenizer.ggml.eos_token_id" }, { "unk_token", "unk_token_id", "tokenizer.ggml.unknown_token_id" },
		{ "pad_token", "pad_token_id", "tokenizer.ggml.padding_token_id" } };
	static const char *const adds[] = { "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token" };
	for (int i = 0; i < 4; i++) {
		int64_t id = special_id(v, ids[i].name, ids[i].config);
		if (id < 0 && i < 3) id = v->known[i];
		if (id >= 0 && id < (int64_t)v->n) lora__gguf_put_int(v->o, ids[i].key, LORA__GGUF_U32, id);
		if (i < 2) {
			int add = id >= 0 && id < (int64_t)v->n && in_template(json_object_get(v->root, "post_processor"), v->list[id].s, v->list[id].n, i);
			int given = i ? eos : bos;
			lora__gguf_put_int(v->o, adds[i], LORA__GGUF_BOOL, given < 0 ? add : given && id >= 0);
			if (i) put_ends(v, id);
		}
	}
	const char *template = json_string_value(json_object_get(v->config, "chat_template"));
	lora__blob jinja;
	lora_status st = read_file(v, "chat_template.jinja", &jinja);
	if (st) return st;
	if (jinja.n) lora__gguf_put_string(v->o, "tokenizer.chat_template", (const char *)jinja.data, jinja.n);
	else if (template) lora__gguf_put_string(v->o, "tokenizer.chat_template", template, strlen(template));
	lora__blob_close(v->ctx, &jinja);
	return LORA_OK;
}

/* Does a space come in front of the text: a Prepend, or a Metaspace that does it. */
static int prepends(const json_t *part)
{
	const json_t *item;
	const char *type = json_string_value(json_object_get(part, "type")), *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
	size_t i;
	if (!type) return 0;
	json_array_foreach(json_object_get(part, "normalizers"), i, item)
		if (prepends(item)) return 1;
	json_array_foreach(json_object_get(part, "pretokenizers"), i, item)
		if (prepends(item)) return 1;
	if (strcmp(type, "Metaspace") == 0) return scheme ? strcmp(scheme, "never") != 0 : !json_is_false(json_object_get(part, "add_prefix_space"));
	return strcmp(type, "Prepend") == 0;
}

static void put_text(vocab *v, const char *key, const char *s) { lora__gguf_put_string(v->o, key, s, strcspn(s, " ")); }

static lora_status put_all(vocab *v)
{
	const json_t *model = json_object_get(v->root, "model"), *pre = json_object_get(v->root, "pre_tokenizer");
	const char *type = json_string_value(json_object_get(model, "type"));
	int bytes = json_is_true(json_object_get(model, "byte_fallback"));
	if (!json_object_get(model, "merges") || (type && strcmp(type, "BPE"))) return fail(v, LORA_E_UNSUPPORTED, "model", "only BPE has a place in GGUF here");
	lora_status st = read_tokens(v, bytes);
	if (st) return st;
	if (bytes) {
		st = score_tokens(v);
		put_text(v, "tokenizer.ggml.model", "llama");
		put_text(v, "tokenizer.ggml.pre", "default");
		put_tokens(v, 1);
		lora__gguf_put_int(v->o, "tokenizer.ggml.add_space_prefix", LORA__GGUF_BOOL, prepends(json_object_get(v->root, "normalizer")) || prepends(pre));
	} else {
		const lora__gguf_pre *p = lora__gguf_pre_of(v->ctx, pre);
		if (!p) return fail(v, LORA_E_UNSUPPORTED, "pre_tokenizer", "llama.cpp has no name for it that this library knows");
		put_text(v, "tokenizer.ggml.model", "gpt2");
		put_text(v, "tokenizer.ggml.pre", p->names);
		put_tokens(v, 0);
		st = put_merges(v);
	}
	return st ? st : put_specials(v, -1, -1);
}

/* A directory with tokenizer.model only: SentencePiece's own scores and types. */
static lora_status put_spm(vocab *v, const lora__blob *file)
{
	lora__spm spm;
	const json_t *bos = json_object_get(v->config, "add_bos_token"), *eos = json_object_get(v->config, "add_eos_token");
	lora_status st = lora__sentencepiece_read(v->ctx, file->data, file->n, "tokenizer.model", &spm);
	if (st) return st;
	v->n = (size_t)v->m->vocab;
	v->list = lora__calloc(v->ctx, v->n, sizeof *v->list);
	v->names = lora__calloc(v->ctx, v->n, 16);
	if (!v->list || !v->names) st = LORA_E_MEMORY;
	else if (spm.source.kind != LORA__TOK_BPE_SCORES) st = fail(v, LORA_E_UNSUPPORTED, "tokenizer.model", "only BPE has a place in GGUF here");
	else if (spm.source.n > v->n) st = fail(v, LORA_E_SHAPE, "tokenizer.model", "it has more tokens than the model's vocabulary");
	for (size_t i = 0; i < v->n && !st; i++) {
		if (i < spm.source.n) v->list[i] = (token){ spm.source.entries[i].s, spm.source.entries[i].n, spm.source.entries[i].type, spm.source.entries[i].score };
		else {
			snprintf(v->names + 16 * i, 16, "[PAD%u]", (unsigned)i);
			v->list[i] = (token){ v->names + 16 * i, strlen(v->names + 16 * i), UNUSED, 0 };
		}
	}
	v->known[0] = spm.source.bos, v->known[1] = spm.eos_id;
	for (size_t i = 0; i < v->n && !st && v->known[2] < 0; i++)
		if (v->list[i].type == UNKNOWN) v->known[2] = (int64_t)i;
	if (!st) {
		put_text(v, "tokenizer.ggml.model", "llama");
		put_text(v, "tokenizer.ggml.pre", "default");
		put_tokens(v, 1);
		lora__gguf_put_int(v->o, "tokenizer.ggml.add_space_prefix", LORA__GGUF_BOOL, spm.source.dummy_prefix);
		st = put_specials(v, !json_is_false(bos), json_is_true(eos));
	}
	lora__sentencepiece_free(v->ctx, &spm);
	return st;
}

/* llama.cpp loads a file that says that it has no vocabulary; the ids that the config names stay useful. */
static void put_none(vocab *v)
{
	const json_t *ends = json_is_array(v->m->ends) ? json_array_get(v->m->ends, 0) : v->m->ends; /* generation_config.json may know better than config.json */
	int64_t eos = json_is_integer(ends) ? (int64_t)json_integer_value(ends) : v->m->eos;
	const int64_t ids[] = { v->m->bos, eos, v->m->pad };
	static const char *const keys[] = { "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.padding_token_id" };
	put_text(v, "tokenizer.ggml.model", "none");
	for (int i = 0; i < 3; i++)
		if (ids[i] >= 0 && ids[i] < v->m->vocab) lora__gguf_put_int(v->o, keys[i], LORA__GGUF_U32, ids[i]);
	v->n = (size_t)v->m->vocab;
	put_ends(v, eos);
}

lora_status lora__gguf_put_vocab(lora_model *m, lora__gguf_out *o)
{
	vocab v = { .m = m, .ctx = m->s.ctx, .o = o, .known = { -1, -1, -1 } };
	size_t at = o->kv.n;
	uint64_t keys = o->n_kv;
	lora_status st = read_json(&v, "tokenizer.json", &v.root);
	if (!st) st = read_json(&v, "tokenizer_config.json", &v.config);
	lora__blob spm = { 0 };
	if (!st && !v.root) st = read_file(&v, "tokenizer.model", &spm);
	if (!st && v.root) st = put_all(&v);
	else if (!st && spm.n) st = put_spm(&v, &spm);
	else if (!st) lora__log(v.ctx, LORA_LOG_WARN, "model", "no tokenizer.json and no tokenizer.model beside the model: the GGUF file has no tokenizer");
	int none = !st && !v.root && !spm.n;
	lora__blob_close(v.ctx, &spm);
	if (st == LORA_E_UNSUPPORTED) { /* the weights are worth having without it */
		lora__log(v.ctx, LORA_LOG_WARN, "model", "%s: the GGUF file is written without a tokenizer", v.ctx->error.message);
		o->kv.n = at, o->n_kv = keys, st = LORA_OK, none = 1;
	}
	if (none) put_none(&v);
	lora__free(v.ctx, v.list);
	lora__free(v.ctx, v.names);
	json_decref(v.root);
	json_decref(v.config);
	return st;
}
