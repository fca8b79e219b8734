/* The tokenizer of a GGUF file as tokenizer.json and tokenizer_config.json, for a model that is saved as a Hugging Face directory.
 * "gpt2": the vocabulary, merges and the named pre-tokenizer. "llama": BPE with byte fallback, whose merges are all splits of each token into two
 * tokens, those of the highest score first (transformers, convert_slow_tokenizer.py, generate_merges). */
#include <stdlib.h>
#include <string.h>

#include "format/gguf_pre.h"
#include "model/gguf_save.h"

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

typedef struct token { const char *s; size_t n; uint32_t type; float score; } token;
typedef struct pair { const token *whole; size_t cut; int64_t left, right; size_t order; } pair;
typedef struct maker {
	lora_context     *ctx;
	const lora__gguf *g;
	token            *list;
	size_t            n;
	lora__map         by_text;
	pair             *pairs;
	size_t            n_pairs, cap_pairs;
	json_t           *root;
	int64_t           bos, eos, unk, pad;
	int               add_bos, add_eos, space;
} maker;

static lora_status read_tokens(maker *k)
{
	lora__gguf_value tokens, scores, types;
	lora_status st = lora__gguf_array(k->g, "tokenizer.ggml.tokens", LORA__GGUF_STRING, &tokens);
	if (!st) st = lora__gguf_array(k->g, "tokenizer.ggml.scores", LORA__GGUF_F32, &scores);
	if (!st) st = lora__gguf_array(k->g, "tokenizer.ggml.token_type", LORA__GGUF_I32, &types);
	if (st || !tokens.p) return st;
	if (tokens.n > INT32_MAX / 2 || (scores.p && scores.n != tokens.n) || (types.p && types.n != tokens.n))
		return lora__fail_at(k->ctx, LORA_E_FORMAT, "model", "tokenizer.ggml.tokens", -1, "tokenizer.ggml: tokens, scores and token_type differ in length");
	k->n = (size_t)tokens.n;
	if (!(k->list = lora__calloc(k->ctx, k->n + 1, sizeof *k->list))) return LORA_E_MEMORY;
	for (size_t i = 0; i < k->n && !st; i++) {
		token *t = &k->list[i];
		lora__gguf_next(k->g, &tokens.p, &t->s, &t->n);
		t->type = types.p ? lora__gguf_u32(k->g, types.p + 4 * i) : NORMAL;
		t->score = scores.p ? lora__gguf_f32(k->g, scores.p + 4 * i) : 0;
		if (!lora__utf8_valid(t->s, t->n, NULL)) st = lora__fail_at(k->ctx, LORA_E_FORMAT, "model", "tokenizer.ggml.tokens", -1, "token %zu is not UTF-8", i);
		if (!st && lora__map_add(&k->by_text, t->s, t->n, (int64_t)i, NULL) == LORA_E_MEMORY) st = LORA_E_MEMORY;
	}
	return st;
}

static int by_score(const void *a, const void *b)
{
	const pair *p = a, *q = b;
	if (p->whole->score != q->whole->score) return p->whole->score > q->whole->score ? -1 : 1;
	if (p->whole != q->whole) return p->order < q->order ? -1 : 1;
	if (p->left != q->left) return p->left < q->left ? -1 : 1;
	return p->right < q->right ? -1 : p->right > q->right;
}

static int64_t part(const maker *k, const char *s, size_t n)
{
	int64_t id = lora__map_find(&k->by_text, s, n);
	return id >= 0 && (k->list[id].type == NORMAL || k->list[id].type == USER) ? id : -1;
}

static lora_status find_pairs(maker *k)
{
	for (size_t i = 0; i < k->n; i++) {
		const token *t = &k->list[i];
		if (t->type != NORMAL && t->type != USER) continue;
		for (size_t cut = 1; cut < t->n && cut < 1024; cut++) {
			int64_t left, right;
			if (((unsigned char)t->s[cut] & 0xc0) == 0x80 || (left = part(k, t->s, cut)) < 0 || (right = part(k, t->s + cut, t->n - cut)) < 0) continue;
			lora_status st = lora__grow(k->ctx, &k->pairs, &k->cap_pairs, k->n_pairs + 1, sizeof *k->pairs);
			if (st) return st;
			k->pairs[k->n_pairs++] = (pair){ t, cut, left, right, i };
		}
	}
	if (k->n_pairs) qsort(k->pairs, k->n_pairs, sizeof *k->pairs, by_score);
	return LORA_OK;
}

static json_t *merges_of_scores(const maker *k)
{
	json_t *list = json_array();
	for (size_t i = 0; i < k->n_pairs; i++) {
		const pair *p = &k->pairs[i];
		json_array_append_new(list, json_pack("[s%, s%]", p->whole->s, p->cut, p->whole->s + p->cut, p->whole->n - p->cut));
	}
	return list;
}

static lora_status merges_of_file(const maker *k, json_t **out)
{
	lora__gguf_value v;
	lora_status st = lora__gguf_array(k->g, "tokenizer.ggml.merges", LORA__GGUF_STRING, &v);
	*out = json_array();
	for (uint64_t i = 0; !st && v.p && i < v.n; i++) {
		const char *s;
		size_t n;
		lora__gguf_next(k->g, &v.p, &s, &n);
		if (!lora__utf8_valid(s, n, NULL)) return lora__fail_at(k->ctx, LORA_E_FORMAT, "model", "tokenizer.ggml.merges", -1, "merge %llu is not UTF-8", (unsigned long long)i);
		json_array_append_new(*out, json_stringn(s, n));
	}
	return st;
}

static void put_vocab(maker *k, json_t *model, json_t *merges)
{
	json_t *vocab = json_object(), *added = json_array();
	char *key;
	size_t own = k->n; /* what stands behind the last common token is added to the vocabulary, the rest is in it */
	while (own && !json_object_get(model, "byte_fallback") && (k->list[own - 1].type == CONTROL || k->list[own - 1].type == USER)) own--;
	for (size_t i = 0; i < k->n; i++) {
		const token *t = &k->list[i];
		if (!(key = lora__strndup(k->ctx, t->s, t->n))) continue;
		if (i < own) json_object_set_new(vocab, key, json_integer((json_int_t)i));
		lora__free(k->ctx, key);
		if (t->type == CONTROL || t->type == USER || t->type == UNKNOWN)
			json_array_append_new(added, json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content", t->s, t->n, "single_word", 0, "lstrip", 0,
				"rstrip", 0, "normalized", 0, "special", t->type != USER));
	}
	json_object_set_new(model, "type", json_string("BPE"));
	json_object_set_new(model, "vocab", vocab);
	json_object_set_new(model, "merges", merges);
	json_object_set_new(k->root, "model", model);
	json_object_set_new(k->root, "added_tokens", added);
}

static json_t *template_of(const maker *k)
{
	json_t *single = json_array(), *specials = json_object(), *post;
	int64_t ids[2] = { k->add_bos ? k->bos : -1, k->add_eos ? k->eos : -1 };
	if (ids[0] < 0 && ids[1] < 0) {
		json_decref(single);
		json_decref(specials);
		return json_null();
	}
	for (int i = 0; i < 2; i++) {
		if (i) json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
		if (ids[i] < 0) continue;
		const token *t = &k->list[ids[i]];
		char *name = lora__strndup(k->ctx, t->s, t->n);
		if (!name) continue;
		json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", name, "type_id", 0));
		json_object_set_new(specials, name, json_pack("{s:s, s:[I], s:[s]}", "id", name, "ids", (json_int_t)ids[i], "tokens", name));
		lora__free(k->ctx, name);
	}
	post = json_pack("{s:s, s:O, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair", single, "special_tokens", specials);
	return post ? post : json_null();
}

static lora_status spm(maker *k)
{
	static const char *const prefix = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"
		"{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]}";
	static const char *const plain = "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}";
	static const char *const decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},"
		"{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]}";
	lora_status st = lora__gguf_bool(k->g, "tokenizer.ggml.add_space_prefix", 1, &k->space);
	if (!st) st = find_pairs(k);
	if (st) return st;
	json_t *model = json_pack("{s:b, s:b, s:b}", "byte_fallback", 1, "fuse_unk", 1, "ignore_merges", 0), *dec = json_loads(decoder, 0, NULL);
	if (k->unk >= 0) json_object_set_new(model, "unk_token", json_stringn(k->list[k->unk].s, k->list[k->unk].n));
	put_vocab(k, model, merges_of_scores(k));
	if (k->space) json_array_append_new(json_object_get(dec, "decoders"), json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start", 1, "stop", 0));
	json_object_set_new(k->root, "normalizer", json_loads(k->space ? prefix : plain, 0, NULL));
	json_object_set_new(k->root, "pre_tokenizer", json_null());
	json_object_set_new(k->root, "decoder", dec);
	return LORA_OK;
}

static lora_status bpe(maker *k, int *add_bos)
{
	const char *name;
	size_t n;
	json_t *merges;
	lora_status st = lora__gguf_string(k->g, "tokenizer.ggml.pre", &name, &n);
	if (st) return st;
	if (!name) name = "default", n = 7;
	const lora__gguf_pre *p = lora__gguf_pre_named(name, n);
	if (!p)
		return lora__fail_at(k->ctx, LORA_E_UNSUPPORTED, "model", "tokenizer.ggml.pre", -1, "tokenizer.ggml.pre \"%s\" is not known", lora__quote_n(name, n).text);
	st = merges_of_file(k, &merges);
	*add_bos = p->adds_bos;
	put_vocab(k, json_pack("{s:b}", "ignore_merges", p->ignore_merges), merges);
	json_object_set_new(k->root, "normalizer", p->nfc ? json_pack("{s:s}", "type", "NFC") : json_null());
	json_object_set_new(k->root, "pre_tokenizer", json_loads(p->json, 0, NULL));
	json_object_set_new(k->root, "decoder", json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1));
	return st;
}

static lora_status ids(maker *k)
{
	int64_t most = k->n ? (int64_t)k->n - 1 : 0;
	lora_status st = lora__gguf_int(k->g, "tokenizer.ggml.bos_token_id", -1, -1, most, &k->bos);
	if (!st) st = lora__gguf_int(k->g, "tokenizer.ggml.eos_token_id", -1, -1, most, &k->eos);
	if (!st) st = lora__gguf_int(k->g, "tokenizer.ggml.unknown_token_id", -1, -1, most, &k->unk);
	if (!st) st = lora__gguf_int(k->g, "tokenizer.ggml.padding_token_id", -1, -1, most, &k->pad);
	return st;
}

static lora_status make_config(const maker *k, json_t **out)
{
	const struct { const char *name; int64_t id; } names[] = { { "bos_token", k->bos }, { "eos_token", k->eos }, { "unk_token", k->unk }, { "pad_token", k->pad } };
	const char *template;
	size_t n;
	lora_status st = lora__gguf_string(k->g, "tokenizer.chat_template", &template, &n);
	*out = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast", "clean_up_tokenization_spaces", 0);
	for (int i = 0; i < 4; i++)
		if (names[i].id >= 0) json_object_set_new(*out, names[i].name, json_stringn(k->list[names[i].id].s, k->list[names[i].id].n));
	if (!st && template) json_object_set_new(*out, "chat_template", json_stringn(template, n));
	return st;
}

lora_status lora__gguf_vocab_json(const lora__gguf *g, json_t **tokenizer, json_t **config)
{
	maker k = { .ctx = g->ctx, .g = g };
	const char *model;
	size_t n;
	int add_bos = 1;
	*tokenizer = *config = NULL;
	lora__map_init(&k.by_text, g->ctx);
	lora_status st = lora__gguf_string(g, "tokenizer.ggml.model", &model, &n);
	if (st || !model || lora__gguf_no_vocab(model, n)) return st;
	st = read_tokens(&k);
	if (!st) st = ids(&k);
	k.root = json_pack("{s:s}", "version", "1.0");
	if (!st && n == 5 && !memcmp(model, "llama", 5)) st = spm(&k);
	else if (!st && n == 4 && !memcmp(model, "gpt2", 4)) st = bpe(&k, &add_bos);
	else if (!st)
		st = lora__fail_at(g->ctx, LORA_E_UNSUPPORTED, "model", "tokenizer.ggml.model", -1, "tokenizer.ggml.model \"%s\" can't be written as tokenizer.json",
			lora__quote_n(model, n).text);
	if (!st) st = lora__gguf_bool(g, "tokenizer.ggml.add_bos_token", add_bos, &k.add_bos);
	if (!st) st = lora__gguf_bool(g, "tokenizer.ggml.add_eos_token", 0, &k.add_eos);
	if (!st) json_object_set_new(k.root, "post_processor", template_of(&k));
	if (!st) st = make_config(&k, config);
	if (!st) *tokenizer = json_incref(k.root);
	json_decref(k.root);
	lora__map_free(&k.by_text);
	lora__free(g->ctx, k.list);
	lora__free(g->ctx, k.pairs);
	return st;
}
