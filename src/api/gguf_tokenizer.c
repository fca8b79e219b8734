/* A tokenizer from the metadata of a GGUF file: tokenizer.ggml.model "llama" (SentencePiece BPE by scores), "gpt2" (byte-level BPE with a named
 * pre-tokenizer), "t5" (Unigram), "bert" (WordPiece). The rules are llama.cpp's. Source: llama.cpp, src/llama-vocab.cpp. */
#include "api/tokenfiles.h"

#include <math.h>

#include "format/gguf_pre.h"

typedef struct reader {
	lora_context     *ctx;
	const lora__gguf *g;
	lora__tok_source  s;
	lora__tok_entry  *entries;
	lora__tok_slice  *merges;
	json_t           *parts;
	int64_t           bos, eos, unk;
	int               add_bos, add_eos;
} reader;

static lora_status bad(const reader *r, lora_status st, const char *key, const char *text)
{
	return lora__fail_at(r->ctx, st, "tokenizer", key, -1, "%s: %s: %s", r->g->what, key, text);
}

/* "<0x..>" must be two hexadecimal digits. */
static int bad_byte(const lora__tok_entry *e) { return e->type == LORA__TOK_BYTE && lora__tok_byte_token(e->s, e->n) < 0; }

/* Ends of a turn or text are control tokens for llama.cpp, whatever the file calls them. */
static int ends_text(const lora__tok_entry *e)
{
	static const char *const texts[] = { "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>",
		"<｜end▁of▁sentence｜>" };
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (strlen(texts[i]) == e->n && memcmp(texts[i], e->s, e->n) == 0) return 1;
	return 0;
}

static lora_status read_tokens(reader *r)
{
	lora__gguf_value tokens, scores, types;
	lora_status st = lora__gguf_array(r->g, "tokenizer.ggml.tokens", LORA__GGUF_STRING, &tokens);
	if (!st) st = lora__gguf_array(r->g, "tokenizer.ggml.scores", LORA__GGUF_F32, &scores);
	if (!st) st = lora__gguf_array(r->g, "tokenizer.ggml.token_type", LORA__GGUF_I32, &types);
	if (st) return st;
	if (!tokens.p) return bad(r, LORA_E_NOTFOUND, "tokenizer.ggml.tokens", "missing: the file has no tokenizer");
	if (scores.p && scores.n != tokens.n) return bad(r, LORA_E_FORMAT, "tokenizer.ggml.scores", "not as many as tokens");
	if (types.p && types.n != tokens.n) return bad(r, LORA_E_FORMAT, "tokenizer.ggml.token_type", "not as many as tokens");
	if (tokens.n > INT32_MAX / 2) return bad(r, LORA_E_LIMIT, "tokenizer.ggml.tokens", "too many");
	if (!(r->entries = lora__calloc(r->ctx, (size_t)tokens.n + 1, sizeof *r->entries))) return LORA_E_MEMORY;
	const uint8_t *p = tokens.p;
	for (uint64_t i = 0; i < tokens.n; i++) {
		lora__tok_entry *e = &r->entries[i];
		lora__gguf_next(r->g, &p, &e->s, &e->n);
		uint32_t type = types.p ? lora__gguf_u32(r->g, types.p + 4 * i) : LORA__TOK_NORMAL;
		e->score = scores.p ? lora__gguf_f32(r->g, scores.p + 4 * i) : 0;
		e->type = type >= LORA__TOK_NORMAL && type <= LORA__TOK_BYTE ? (uint8_t)type : 0;
		if (e->type == LORA__TOK_USER && ends_text(e)) e->type = LORA__TOK_CONTROL;
		if (bad_byte(e))
			return lora__fail_at(r->ctx, LORA_E_FORMAT, "tokenizer", "tokenizer.ggml.tokens", -1, "%s: token %llu is a byte, but \"%s\" is not <0xHH>", r->g->what,
				(unsigned long long)i, lora__quote_n(e->s, e->n).text);
	}
	r->s.entries = r->entries, r->s.n = (size_t)tokens.n;
	return LORA_OK;
}

static lora_status read_merges(reader *r)
{
	lora__gguf_value v;
	lora_status st = lora__gguf_array(r->g, "tokenizer.ggml.merges", LORA__GGUF_STRING, &v);
	if (st) return st;
	if (!v.p) return bad(r, LORA_E_FORMAT, "tokenizer.ggml.merges", "missing");
	if (!(r->merges = lora__calloc(r->ctx, (size_t)v.n + 1, sizeof *r->merges))) return LORA_E_MEMORY;
	for (uint64_t i = 0; i < v.n; i++) lora__gguf_next(r->g, &v.p, &r->merges[i].s, &r->merges[i].n);
	r->s.merges = r->merges, r->s.n_merges = (size_t)v.n;
	return LORA_OK;
}

static lora_status read_id(const reader *r, const char *key, int64_t def, int64_t *out)
{
	return lora__gguf_int(r->g, key, def, -1, r->s.n ? (int64_t)r->s.n - 1 : 0, out);
}

static lora_status read_rules(reader *r, int add_bos, int add_eos)
{
	lora_status st = read_id(r, "tokenizer.ggml.bos_token_id", -1, &r->bos);
	if (!st) st = read_id(r, "tokenizer.ggml.eos_token_id", -1, &r->eos);
	if (!st) st = read_id(r, "tokenizer.ggml.unknown_token_id", -1, &r->unk);
	if (!st) st = lora__gguf_bool(r->g, "tokenizer.ggml.add_bos_token", add_bos, &r->add_bos);
	if (!st) st = lora__gguf_bool(r->g, "tokenizer.ggml.add_eos_token", add_eos, &r->add_eos);
	r->s.bos = r->add_bos ? (int32_t)r->bos : -1, r->s.eos = r->add_eos ? (int32_t)r->eos : -1;
	return st;
}

static lora_status spm(reader *r, int unigram)
{
	lora__gguf_value map;
	lora_status st = read_rules(r, !unigram, unigram);
	r->s.kind = unigram ? LORA__TOK_UNIGRAM : LORA__TOK_BPE_SCORES;
	r->s.escape_spaces = 1, r->s.byte_fallback = !unigram;
	if (!st) st = lora__gguf_bool(r->g, "tokenizer.ggml.add_space_prefix", 1, &r->s.dummy_prefix);
	if (!st) st = lora__gguf_bool(r->g, "tokenizer.ggml.remove_extra_whitespaces", 0, &r->s.remove_spaces);
	if (!st && lora__gguf_find(r->g, "tokenizer.ggml.precompiled_charsmap", &map) && map.type == LORA__GGUF_ARRAY && map.elem <= LORA__GGUF_I8 && unigram)
		r->s.charsmap = map.p, r->s.n_charsmap = (size_t)map.n;
	return st;
}

static lora_status need(const reader *r, json_t **to, const char *text)
{
	*to = json_loads(text, 0, NULL);
	return *to ? LORA_OK : lora__fail(r->ctx, LORA_E_MEMORY, "tokenizer", "out of memory");
}

static lora_status bpe(reader *r)
{
	const char *name;
	size_t n;
	json_t *pre = NULL;
	lora_status st = lora__gguf_string(r->g, "tokenizer.ggml.pre", &name, &n);
	if (st) return st;
	if (!name) name = "default", n = 7;
	const lora__gguf_pre *p = lora__gguf_pre_named(name, n);
	if (!p)
		return lora__fail_at(r->ctx, LORA_E_UNSUPPORTED, "tokenizer", "tokenizer.ggml.pre", -1, "%s: tokenizer.ggml.pre \"%s\" is not known", r->g->what,
			lora__quote_n(name, n).text);
	st = read_rules(r, p->adds_bos, 0);
	if (!st) st = read_merges(r);
	if (!st) st = need(r, &pre, p->json);
	if (!st) st = need(r, &r->parts, "{\"decoder\":{\"type\":\"ByteLevel\"}}");
	if (!st && (json_object_set_new(r->parts, "model", json_pack("{s:b}", "ignore_merges", p->ignore_merges)) || json_object_set(r->parts, "pre_tokenizer", pre)))
		st = lora__fail(r->ctx, LORA_E_MEMORY, "tokenizer", "out of memory");
	json_decref(pre);
	r->s.kind = LORA__TOK_BPE_MERGES, r->s.parts = r->parts;
	return st;
}

/* llama.cpp spells words with U+2581 in front and the rest of a word without "##": BertWords puts the one, and the prefix of the rest is empty. */
static lora_status wordpiece(reader *r)
{
	int64_t cls, sep;
	int lower, accents;
	lora_status st = read_rules(r, 1, 1);
	if (!st) st = read_id(r, "tokenizer.ggml.cls_token_id", r->bos, &cls);
	if (!st) st = read_id(r, "tokenizer.ggml.seperator_token_id", r->eos, &sep); /* the key is spelled so */
	if (!st) st = lora__gguf_bool(r->g, "tokenizer.ggml.normalizer.lowercase", 1, &lower);
	if (!st) st = lora__gguf_bool(r->g, "tokenizer.ggml.normalizer.strip_accents", lower, &accents);
	if (st) return st;
	r->s.kind = LORA__TOK_WORDPIECE;
	r->s.bos = r->add_bos ? (int32_t)cls : -1, r->s.eos = r->add_eos ? (int32_t)sep : -1;
	st = need(r, &r->parts, "{\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},"
		"\"decoder\":{\"type\":\"Metaspace\",\"prepend_scheme\":\"never\"}}");
	int64_t unk = r->unk >= 0 ? r->unk : 100;
	if (!st && json_object_set_new(r->parts, "normalizer", json_pack("{s:s, s:b, s:b}", "type", "BertWords", "lowercase", lower, "strip_accents", accents)))
		st = lora__fail(r->ctx, LORA_E_MEMORY, "tokenizer", "out of memory");
	if (!st && unk < (int64_t)r->s.n &&
		json_object_set_new(r->parts, "model", json_pack("{s:s, s:s%, s:i}", "continuing_subword_prefix", "", "unk_token", r->entries[unk].s, r->entries[unk].n,
			"max_input_chars_per_word", 1 << 20)))
		st = lora__fail(r->ctx, LORA_E_MEMORY, "tokenizer", "out of memory");
	r->s.parts = r->parts;
	return st;
}

static lora_status by_model(reader *r)
{
	const char *model;
	size_t n;
	lora_status st = lora__gguf_string(r->g, "tokenizer.ggml.model", &model, &n);
	if (st) return st;
	if (!model || lora__gguf_no_vocab(model, n)) return bad(r, LORA_E_NOTFOUND, "tokenizer.ggml.model", "missing: the file has no tokenizer");
	if ((st = read_tokens(r))) return st;
	if (n == 5 && !memcmp(model, "llama", 5)) return spm(r, 0);
	if (n == 2 && !memcmp(model, "t5", 2)) return spm(r, 1);
	if (n == 4 && !memcmp(model, "gpt2", 4)) return bpe(r);
	if (n == 4 && !memcmp(model, "bert", 4)) return wordpiece(r);
	return lora__fail_at(r->ctx, LORA_E_UNSUPPORTED, "tokenizer", "tokenizer.ggml.model", -1, "%s: tokenizer.ggml.model \"%s\" is not supported", r->g->what,
		lora__quote_n(model, n).text);
}

/* The chat template, with the texts of BOS and EOS. */
static lora_status chat(const reader *r, lora_tokenizer *t)
{
	const char *template;
	size_t n;
	char *names[2] = { NULL, NULL };
	int64_t ids[2] = { r->bos, r->eos };
	lora_status st = lora__gguf_string(r->g, "tokenizer.chat_template", &template, &n);
	for (int i = 0; i < 2 && !st; i++) {
		if (ids[i] < 0) continue;
		names[i] = lora__strndup(r->ctx, r->entries[ids[i]].s, r->entries[ids[i]].n);
		if (!names[i]) st = LORA_E_MEMORY;
	}
	if (!st) st = lora__tokenizer_set_chat(t, template, n, names[0], names[1]);
	lora__free(r->ctx, names[0]);
	lora__free(r->ctx, names[1]);
	return st;
}

lora_status lora__tokenizer_from_gguf(lora_context *ctx, const lora__gguf *g, lora_tokenizer **out)
{
	reader r = { .ctx = ctx, .g = g, .s = { .what = g->what, .bos = -1, .eos = -1, .parse_special = 1, .cut_user = 1, .show_control = 1, .keep_prefix = 1 } };
	lora_status st = by_model(&r);
	if (!st) st = lora__tokenizer_from_source(ctx, &r.s, out);
	if (!st && (st = chat(&r, *out))) {
		lora__tokenizer_destroy(*out);
		*out = NULL;
	}
	lora__free(ctx, r.entries);
	lora__free(ctx, r.merges);
	json_decref(r.parts);
	return st;
}
