/* Vocabularies without tokenizer.json: tokenizer.model, vocab.json with merges.txt, vocab.txt. What surrounds them (normaliser, pre-tokenizer, special
 * tokens) is then a rule of the class that tokenizer_config.json names; a class that is not in the tables is refused by name.
 * Source: transformers, models/{gpt2,roberta,qwen2,bert,llama,gemma,t5}/tokenization_*.py and convert_slow_tokenizer.py. */
#include "tokenizer/sentencepiece.h"

enum { BOS = 1, EOS = 2, ENDS = BOS | EOS };
typedef struct class { const char *name; uint32_t ends; const char *parts, *specials; } class;

#define BYTES "\"decoder\":{\"type\":\"ByteLevel\"}"
#define BYTE_LEVEL "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}," BYTES
#define BERT_PARTS "\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\"}," \
	"\"model\":{\"unk_token\":\"[UNK]\"}"
/* The letters-and-numbers pattern of Qwen 2, which is GPT-4's with single digits. */
#define QWEN2 "\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":" \
	"{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}}," \
	"{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}," BYTES

static const class bpe_classes[] = {
	{ "GPT2", 0, BYTE_LEVEL, "<|endoftext|>" }, { "CodeGen", 0, BYTE_LEVEL, "<|endoftext|>" }, { "Qwen2", 0, QWEN2, "<|endoftext|>" },
	{ "Roberta", ENDS, BYTE_LEVEL, "<s> <pad> </s> <unk> <mask>" }, { "Bart", ENDS, BYTE_LEVEL, "<s> <pad> </s> <unk> <mask>" },
	{ "Longformer", ENDS, BYTE_LEVEL, "<s> <pad> </s> <unk> <mask>" }, { "LED", ENDS, BYTE_LEVEL, "<s> <pad> </s> <unk> <mask>" }, { NULL, 0, NULL, NULL } };
static const class word_classes[] = { { "Bert", 0, BERT_PARTS, "[PAD] [UNK] [CLS] [SEP] [MASK]" }, { "DistilBert", 0, BERT_PARTS, "[PAD] [UNK] [CLS] [SEP] [MASK]" },
	{ "Electra", 0, BERT_PARTS, "[PAD] [UNK] [CLS] [SEP] [MASK]" }, { "MobileBert", 0, BERT_PARTS, "[PAD] [UNK] [CLS] [SEP] [MASK]" }, { NULL, 0, NULL, NULL } };
static const class spm_classes[] = { { "Llama", BOS, NULL, "" }, { "CodeLlama", BOS, NULL, "" }, { "Gemma", BOS, NULL, "" }, { "T5", EOS, NULL, "" },
	{ "MT5", EOS, NULL, "" }, { NULL, 0, NULL, NULL } };

/* The class that tokenizer_config.json names, without "Tokenizer" and "Fast"; the first of the table when it names none. */
static lora_status class_of(lora_context *ctx, const lora__tok_beside *f, const class *table, const char *what, const class **out)
{
	const char *name = json_string_value(json_object_get(f->config, "tokenizer_class"));
	const char *end = name ? strstr(name, "Tokenizer") : NULL;
	size_t n = end ? (size_t)(end - name) : name ? strlen(name) : 0;
	*out = table;
	if (!name || !strcmp(name, "PreTrainedTokenizerFast")) return LORA_OK;
	for (; (*out)->name; (*out)++)
		if (strlen((*out)->name) == n && !memcmp((*out)->name, name, n)) return LORA_OK;
	return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "tokenizer", "tokenizer_class", -1, "%s: tokenizer_class %s without tokenizer.json is not supported", what,
		lora__quote(name).text);
}

static int flag(const json_t *j, const char *key, int def)
{
	const json_t *v = json_object_get(j, key);
	return json_is_boolean(v) ? json_is_true(v) : def;
}

/* ---- added tokens ---- */

typedef struct listing { lora_context *ctx; const char *what; json_t *list; const json_t *vocab; const lora__tok_source *source; } listing;

static int64_t id_of(const listing *l, const char *s, size_t n)
{
	const json_t *v = json_object_getn(l->vocab, s, n);
	if (l->vocab) return json_is_integer(v) ? json_integer_value(v) : -1;
	for (size_t i = 0; i < l->source->n; i++)
		if (l->source->entries[i].n == n && !memcmp(l->source->entries[i].s, s, n)) return (int64_t)i;
	return -1;
}

static int is_listed(const listing *l, const char *s, size_t n)
{
	for (size_t i = 0; i < json_array_size(l->list); i++) {
		const json_t *c = json_object_get(json_array_get(l->list, i), "content");
		if (json_string_length(c) == n && !memcmp(json_string_value(c), s, n)) return 1;
	}
	return 0;
}

static lora_status no_memory(const listing *l) { return lora__fail(l->ctx, LORA_E_MEMORY, "tokenizer", "%s: out of memory", l->what); }

/* token: a text, or an object with content and flags. id -1: the vocabulary knows, or there is no such token. */
static lora_status list_token(listing *l, const json_t *token, int64_t id, int special)
{
	const json_t *text = json_is_object(token) ? json_object_get(token, "content") : token;
	if (!json_is_string(text) || !json_string_length(text) || is_listed(l, json_string_value(text), json_string_length(text))) return LORA_OK;
	if (id < 0) id = id_of(l, json_string_value(text), json_string_length(text));
	if (id < 0) return LORA_OK;
	json_t *j = json_object();
	int bad = !j || json_object_set(j, "content", (json_t *)(uintptr_t)text) || json_object_set_new(j, "id", json_integer(id));
	static const char *const keys[] = { "lstrip", "rstrip", "single_word" };
	for (size_t i = 0; i < 3 && !bad; i++) bad = json_object_set_new(j, keys[i], json_boolean(flag(token, keys[i], 0)));
	if (!bad) bad = json_object_set_new(j, "special", json_boolean(flag(token, "special", special)));
	if (!bad) bad = json_array_append(l->list, j);
	json_decref(j);
	return bad ? no_memory(l) : LORA_OK;
}

static lora_status list_decoder(listing *l, const json_t *decoder)
{
	lora_status st = LORA_OK;
	for (void *it = json_object_iter((json_t *)(uintptr_t)decoder); it && !st; it = json_object_iter_next((json_t *)(uintptr_t)decoder, it)) {
		const char *key = json_object_iter_key(it);
		int64_t id = 0;
		for (const char *p = key; *p && id >= 0; p++) id = *p >= '0' && *p <= '9' && id < INT32_MAX / 16 ? id * 10 + (*p - '0') : -1;
		if (id < 0 || !*key)
			return lora__fail_at(l->ctx, LORA_E_FORMAT, "tokenizer", "added_tokens_decoder", -1, "%s: added_tokens_decoder: %s is no id", l->what, lora__quote(key).text);
		st = list_token(l, json_object_iter_value(it), id, 0);
	}
	return st;
}

/* Everything that the files name as a token of its own. Of one text the first word counts: the config's, with all its flags, comes first. */
static lora_status list_added(listing *l, const lora__tok_beside *f, const char *specials)
{
	static const char *const keys[] = { "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token" };
	const json_t *maps[] = { f->special, f->config };
	if (!(l->list = json_array())) return no_memory(l);
	lora_status st = list_decoder(l, json_object_get(f->config, "added_tokens_decoder"));
	for (void *it = json_object_iter(f->added); it && !st; it = json_object_iter_next(f->added, it)) {
		json_t *text = json_string(json_object_iter_key(it)), *id = json_object_iter_value(it);
		if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX - 1)
			st = lora__fail_at(l->ctx, LORA_E_FORMAT, "tokenizer", "added_tokens.json", -1, "%s: added_tokens.json: the id of %s is none", l->what,
				lora__quote(json_object_iter_key(it)).text);
		else st = text ? list_token(l, text, json_integer_value(id), 0) : no_memory(l);
		json_decref(text);
	}
	for (size_t m = 0; m < 2 && !st; m++) {
		for (size_t i = 0; i < sizeof keys / sizeof *keys && !st; i++) st = list_token(l, json_object_get(maps[m], keys[i]), -1, 1);
		const json_t *more = json_object_get(maps[m], "additional_special_tokens");
		for (size_t i = 0; i < json_array_size(more) && !st; i++) st = list_token(l, json_array_get(more, i), -1, 1);
	}
	for (const char *p = specials; *p && !st; ) {
		size_t n = strcspn(p, " ");
		json_t *text = json_stringn(p, n);
		st = text ? list_token(l, text, -1, 1) : no_memory(l);
		json_decref(text);
		p += n + (p[n] == ' ');
	}
	return st;
}

/* ---- what is put around ---- */

static int64_t token_id(const listing *l, const lora__tok_beside *f, const char *key, const char *def)
{
	const json_t *t = json_object_get(f->config, key);
	if (!t || json_is_null(t)) t = json_object_get(f->special, key);
	if (json_is_object(t)) t = json_object_get(t, "content");
	const char *s = json_is_string(t) ? json_string_value(t) : def;
	if (!s) return -1;
	int64_t id = id_of(l, s, strlen(s));
	for (size_t i = 0; id < 0 && i < json_array_size(l->list); i++) {
		const json_t *j = json_array_get(l->list, i);
		if (!strcmp(json_string_value(json_object_get(j, "content")), s)) id = json_integer_value(json_object_get(j, "id"));
	}
	return id;
}

/* One token in front, one behind; -1 = none. */
static lora_status add_ends(const listing *l, json_t *parts, int64_t front, int64_t behind)
{
	json_t *single = json_array(), *table = json_object(), *post = json_object();
	int bad = !single || !table || !post;
	if (front >= 0 && !bad) bad = json_array_append_new(single, json_pack("{s{ss}}", "SpecialToken", "id", "front"));
	if (!bad) bad = json_array_append_new(single, json_pack("{s{ss}}", "Sequence", "id", "A"));
	if (behind >= 0 && !bad) bad = json_array_append_new(single, json_pack("{s{ss}}", "SpecialToken", "id", "behind"));
	if (front >= 0 && !bad) bad = json_object_set_new(table, "front", json_pack("{s[I]}", "ids", (json_int_t)front));
	if (behind >= 0 && !bad) bad = json_object_set_new(table, "behind", json_pack("{s[I]}", "ids", (json_int_t)behind));
	if (!bad) bad = json_object_set_new(post, "type", json_string("TemplateProcessing"));
	if (!bad) bad = json_object_set(post, "single", single) || json_object_set(post, "special_tokens", table);
	if (!bad) bad = json_object_set(parts, "post_processor", post);
	json_decref(single);
	json_decref(table);
	json_decref(post);
	return bad ? no_memory(l) : LORA_OK;
}

static lora_status class_parts(listing *l, const class *c, json_t **parts)
{
	*parts = NULL;
	size_t room = c->parts ? strlen(c->parts) + 3 : 3;
	char *text = lora__alloc(l->ctx, room);
	if (!text) return LORA_E_MEMORY;
	size_t n = c->parts ? strlen(c->parts) : 0;
	text[0] = '{';
	if (n) memcpy(text + 1, c->parts, n);
	text[n + 1] = '}';
	lora_status st = lora__json_parse(l->ctx, text, n + 2, l->what, parts);
	lora__free(l->ctx, text);
	if (!st && json_object_set(*parts, "added_tokens", l->list)) st = no_memory(l);
	return st;
}

/* ---- the three kinds ---- */

lora_status lora__tokenizer_from_spm(lora_context *ctx, const uint8_t *data, size_t n, const char *what, const lora__tok_beside *f, lora_tokenizer **out)
{
	lora__spm spm;
	const class *c;
	json_t *parts = NULL;
	lora_status st = lora__sentencepiece_read(ctx, data, n, what, &spm);
	if (st) return st;
	listing l = { .ctx = ctx, .what = what, .source = &spm.source };
	st = class_of(ctx, f, spm_classes, what, &c);
	if (!st) st = list_added(&l, f, "");
	if (!st) st = class_parts(&l, c, &parts);
	if (st) goto done;
	uint32_t ends = json_object_get(f->config, "tokenizer_class") ? c->ends : BOS;
	int64_t bos = token_id(&l, f, "bos_token", NULL), eos = token_id(&l, f, "eos_token", NULL);
	if (bos < 0) bos = spm.source.bos;
	if (eos < 0) eos = spm.eos_id;
	spm.source.bos = flag(f->config, "add_bos_token", (ends & BOS) != 0) ? (int32_t)bos : -1;
	spm.source.eos = flag(f->config, "add_eos_token", (ends & EOS) != 0) ? (int32_t)eos : -1;
	spm.source.prefix_once = !flag(f->config, "legacy", 1);
	if (!flag(f->config, "add_prefix_space", 1)) spm.source.dummy_prefix = 0;
	spm.source.parts = parts;
	st = lora__tokenizer_from_source(ctx, &spm.source, out);
	if (!st) st = lora__tokenizer_set_chat(*out, NULL, 0, bos >= 0 ? lora__tok_vocab_text(&(*out)->vocab, bos, &n) : NULL,
		eos >= 0 ? lora__tok_vocab_text(&(*out)->vocab, eos, &n) : NULL);
	if (st && *out) {
		lora__tokenizer_destroy(*out);
		*out = NULL;
	}
done:
	json_decref(parts);
	json_decref(l.list);
	lora__sentencepiece_free(ctx, &spm);
	return st;
}

/* Lines of merges.txt as a list; a first line "#version" is no merge. */
static lora_status merge_list(const listing *l, const char *s, size_t n, json_t **out)
{
	size_t bad_at;
	*out = json_array();
	if (!*out) return no_memory(l);
	if (!lora__utf8_valid(s, n, &bad_at)) return lora__fail_at(l->ctx, LORA_E_FORMAT, "tokenizer", "merges.txt", (int64_t)bad_at, "%s: merges are not UTF-8 at byte %zu", l->what, bad_at);
	for (size_t at = 0; at < n; ) {
		const char *end = memchr(s + at, '\n', n - at);
		size_t len = end ? (size_t)(end - s) - at : n - at, next = at + len + 1;
		if (len && s[at + len - 1] == '\r') len--;
		if (len && !(at == 0 && len >= 8 && !memcmp(s, "#version", 8)) && json_array_append_new(*out, json_stringn(s + at, len))) return no_memory(l);
		at = next;
	}
	return LORA_OK;
}

lora_status lora__tokenizer_from_bpe(lora_context *ctx, json_t *vocab, const char *merges, size_t n, const char *what, const lora__tok_beside *f,
                                     lora_tokenizer **out)
{
	listing l = { .ctx = ctx, .what = what, .vocab = vocab };
	const class *c;
	json_t *parts = NULL, *list = NULL, *model = json_object();
	lora_status st = model ? class_of(ctx, f, bpe_classes, what, &c) : no_memory(&l);
	if (!st && !json_is_object(vocab)) st = lora__fail_at(ctx, LORA_E_FORMAT, "tokenizer", "vocab", -1, "%s: must be an object of texts and ids", what);
	if (!st) st = list_added(&l, f, c->specials);
	if (!st) st = class_parts(&l, c, &parts);
	if (!st) st = merge_list(&l, merges, n, &list);
	if (st) goto done;
	if (json_object_set_new(model, "type", json_string("BPE")) || json_object_set(model, "vocab", vocab) || json_object_set(model, "merges", list) ||
		json_object_set(parts, "model", model)) st = no_memory(&l);
	if (flag(f->config, "add_prefix_space", 0) && !st) {
		json_t *pre = json_object_get(parts, "pre_tokenizer");
		if (json_object_get(pre, "add_prefix_space")) json_object_set_new(pre, "add_prefix_space", json_true());
	}
	int64_t bos = flag(f->config, "add_bos_token", (c->ends & BOS) != 0) ? token_id(&l, f, "bos_token", c->ends & BOS ? "<s>" : "<|endoftext|>") : -1;
	int64_t eos = flag(f->config, "add_eos_token", (c->ends & EOS) != 0) ? token_id(&l, f, "eos_token", "</s>") : -1;
	if (!st && (bos >= 0 || eos >= 0)) st = add_ends(&l, parts, bos, eos);
	if (!st) st = lora__tokenizer_from_tree(ctx, parts, what, 1, out);
done:
	json_decref(parts);
	json_decref(list);
	json_decref(model);
	json_decref(l.list);
	return st;
}

/* Settings of BertTokenizer that the normalizer has under other names. */
static lora_status bert_settings(const listing *l, const lora__tok_beside *f, json_t *parts)
{
	json_t *n = json_object_get(parts, "normalizer"), *accents = json_object_get(f->config, "strip_accents");
	const json_t *unk = json_object_get(f->config, "unk_token");
	if (!flag(f->config, "do_basic_tokenize", 1))
		return lora__fail_at(l->ctx, LORA_E_UNSUPPORTED, "tokenizer", "do_basic_tokenize", -1, "%s: do_basic_tokenize false is not supported", l->what);
	if (json_object_set_new(n, "lowercase", json_boolean(flag(f->config, "do_lower_case", 1))) ||
		json_object_set_new(n, "handle_chinese_chars", json_boolean(flag(f->config, "tokenize_chinese_chars", 1)))) return no_memory(l);
	if (json_is_boolean(accents) && json_object_set(n, "strip_accents", accents)) return no_memory(l);
	if (json_is_string(unk) && json_object_set(json_object_get(parts, "model"), "unk_token", (json_t *)(uintptr_t)unk)) return no_memory(l);
	return LORA_OK;
}

lora_status lora__tokenizer_from_lines(lora_context *ctx, const char *s, size_t n, const char *what, const lora__tok_beside *f, lora_tokenizer **out)
{
	size_t lines = 0;
	lora__tok_source src = { .what = what, .kind = LORA__TOK_WORDPIECE, .bos = -1, .eos = -1 };
	listing l = { .ctx = ctx, .what = what, .source = &src };
	const class *c;
	json_t *parts = NULL;
	for (size_t i = 0; i < n; i++) lines += s[i] == '\n';
	lora__tok_entry *list = lora__calloc(ctx, lines + 1, sizeof *list);
	lora_status st = list ? class_of(ctx, f, word_classes, what, &c) : LORA_E_MEMORY;
	for (size_t at = 0; at < n && list; ) {
		const char *end = memchr(s + at, '\n', n - at);
		size_t len = end ? (size_t)(end - s) - at : n - at, next = at + len + 1;
		if (len && s[at + len - 1] == '\r') len--;
		list[src.n++] = (lora__tok_entry){ s + at, len, 0, LORA__TOK_NORMAL };
		at = next;
	}
	src.entries = list;
	if (!st) st = list_added(&l, f, c->specials);
	if (!st) st = class_parts(&l, c, &parts);
	if (!st) st = bert_settings(&l, f, parts);
	if (!st) st = add_ends(&l, parts, token_id(&l, f, "cls_token", "[CLS]"), token_id(&l, f, "sep_token", "[SEP]"));
	src.parts = parts;
	if (!st) st = lora__tokenizer_from_source(ctx, &src, out);
	json_decref(parts);
	json_decref(l.list);
	lora__free(ctx, list);
	return st;
}

/* ---- conversations ---- */

static const char *text_of(const lora__tok_beside *f, const char *key)
{
	const json_t *t = json_object_get(f->config, key);
	if (!t || json_is_null(t)) t = json_object_get(f->special, key);
	if (json_is_object(t)) t = json_object_get(t, "content");
	return json_string_value(t);
}

lora_status lora__tok_chat_read(lora_tokenizer *t, const lora__tok_beside *f, const char *jinja, size_t n, const char *what)
{
	const json_t *j = json_object_get(f->config, "chat_template");
	for (size_t i = 0; json_is_array(j) && i < json_array_size(j); i++) { /* several, of which one is the default */
		const json_t *e = json_array_get(j, i);
		const char *name = json_string_value(json_object_get(e, "name"));
		if (name && !strcmp(name, "default")) j = json_object_get(e, "template");
	}
	if (json_is_array(j)) j = NULL;
	if (j && !json_is_null(j) && !json_is_string(j))
		return lora__fail_at(t->ctx, LORA_E_FORMAT, "tokenizer", "chat_template", -1, "%s: chat_template must be a string", what);
	if (!jinja) jinja = json_string_value(j), n = json_string_length(j);
	return lora__tokenizer_set_chat(t, jinja, n, text_of(f, "bos_token"), text_of(f, "eos_token"));
}
