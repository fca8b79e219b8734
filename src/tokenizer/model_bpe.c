/* BPE model: characters (or bytes, by byte-level characters or byte tokens), then merges.
 * Source: huggingface/tokenizers, models/bpe/model.rs, whose results are matched, also where byte tokens overtake a pending unknown. */
#include "tokenizer/bpe.h"

enum { DIRECT = 0x250 }; /* characters with a table of their own: Latin, and all byte-level characters */
static const char mark[] = "\xe2\x96\x81";

typedef struct bpe_self {
	lora__bpe_rules rules;
	lora__tok_trie user;    /* SentencePiece: tokens that are cut out first and not merged with others */
	int32_t  direct[DIRECT], bytes[256], unk;
	int      fuse, fallback, ignore_merges, by_mark;
	char    *prefix, *suffix, *unk_name;
	size_t   n_prefix, n_suffix;
} bpe_self;

typedef struct bpe_scratch { lora__bpe_work work; int32_t *ids; size_t n, cap; lora__tok_buf text; } bpe_scratch;

static lora_status split_text(lora__tok_build *b, const char *text, size_t all, size_t i, const char *s[2], size_t n[2])
{
	const char *space = all ? memchr(text, ' ', all) : NULL;
	size_t at = space ? (size_t)(space - text) : 0;
	if (!space || memchr(space + 1, ' ', all - at - 1))
		return lora__tok_fail(b, LORA_E_FORMAT, "merges", "merge %zu is not two tokens: %s", i, lora__quote_n(text, all).text);
	s[0] = text, n[0] = at, s[1] = space + 1, n[1] = all - at - 1;
	return LORA_OK;
}

/* One merge: "a b", or ["a", "b"]. Pieces are borrowed from the JSON. */
static lora_status split_rule(lora__tok_build *b, const json_t *j, size_t i, const char *s[2], size_t n[2])
{
	if (json_is_string(j)) return split_text(b, json_string_value(j), json_string_length(j), i, s, n);
	const json_t *l = json_array_get(j, 0), *r = json_array_get(j, 1);
	if (!json_is_array(j) || json_array_size(j) != 2 || !json_is_string(l) || !json_is_string(r))
		return lora__tok_fail(b, LORA_E_FORMAT, "merges", "merge %zu is not two tokens", i);
	s[0] = json_string_value(l), n[0] = json_string_length(l), s[1] = json_string_value(r), n[1] = json_string_length(r);
	return LORA_OK;
}

/* Does a token hold the mark behind something else? Then merges cross the beginnings of words. */
int lora__bpe_mark_inside(const char *s, size_t n)
{
	for (size_t i = 1; i + 3 <= n; i++)
		if (!memcmp(s + i, mark, 3) && !(i >= 3 && !memcmp(s + i - 3, mark, 3))) return 1;
	return 0;
}

static lora_status read_rule(lora__tok_build *b, bpe_self *p, const json_t *j, size_t i, uint32_t rank, lora__tok_buf *text)
{
	const lora__tok_vocab *v = &b->t->vocab;
	const char *s[2] = { NULL, NULL };
	size_t n[2] = { 0, 0 };
	lora_status st = j ? split_rule(b, j, i, s, n) : split_text(b, b->source->merges[i].s, b->source->merges[i].n, i, s, n);
	if (st) return st;
	int64_t id[3];
	for (int k = 0; k < 2; k++)
		if ((id[k] = lora__tok_vocab_find(v, s[k], n[k])) < 0)
			return lora__tok_fail(b, LORA_E_FORMAT, "merges", "merge %zu names %s, which is not in the vocabulary", i, lora__quote_n(s[k], n[k]).text);
	if (n[1] < p->n_prefix || (n[1] > p->n_prefix && ((unsigned char)s[1][p->n_prefix] & 0xc0) == 0x80))
		return lora__tok_fail(b, LORA_E_FORMAT, "merges", "merge %zu: %s does not begin with continuing_subword_prefix %s", i,
			lora__quote_n(s[1], n[1]).text, lora__quote(p->prefix).text);
	text->n = 0;
	st = lora__tok_put(b->ctx, text, s[0], n[0]);
	if (!st) st = lora__tok_put(b->ctx, text, s[1] + p->n_prefix, n[1] - p->n_prefix);
	if (st) return st;
	const char *made = text->p ? text->p : "";
	if ((id[2] = lora__tok_vocab_find(v, made, text->n)) < 0)
		return lora__tok_fail(b, LORA_E_FORMAT, "merges", "merge %zu makes %s, which is not in the vocabulary", i, lora__quote_n(made, text->n).text);
	if (p->by_mark && lora__bpe_mark_inside(made, text->n)) p->by_mark = 0;
	lora__bpe_rules_set(&p->rules, (int32_t)id[0], (int32_t)id[1], rank, (int32_t)id[2]);
	return LORA_OK;
}

static lora_status read_rules(lora__tok_build *b, bpe_self *p, const json_t *list)
{
	lora__tok_buf text = { 0 };
	uint32_t rank = 0;
	if (b->source && b->source->kind == LORA__TOK_BPE_SCORES) return lora__bpe_rules_from_scores(b, &p->rules, &p->user, &p->by_mark);
	if (!b->source && !json_is_array(list)) return lora__tok_fail(b, LORA_E_FORMAT, "merges", "must be a list");
	size_t n = b->source ? b->source->n_merges : json_array_size(list);
	if (n >= UINT32_MAX / 4) return lora__tok_fail(b, LORA_E_LIMIT, "merges", "%zu merges", n);
	lora_status st = lora__bpe_rules_init(b->ctx, &p->rules, n, b->t->vocab.by_text.seed);
	for (size_t i = 0; i < n && !st; i++) {
		const json_t *j = b->source ? NULL : json_array_get(list, i);
		if (json_is_string(j) && !strncmp(json_string_value(j), "#version", 8)) continue;
		st = read_rule(b, p, j, i, rank++, &text);
	}
	lora__free(b->ctx, text.p);
	return st;
}

static lora_status copy_text(lora__tok_build *b, const json_t *j, const char *key, char **out, size_t *n)
{
	const char *s;
	lora_status st = lora__tok_string(b, j, key, NULL, &s, n);
	if (st || !s) return st;
	if (memchr(s, 0, *n)) return lora__tok_fail(b, LORA_E_FORMAT, key, "holds a NUL");
	*out = lora__tok_copy(b, s, *n);
	return *out ? LORA_OK : LORA_E_MEMORY;
}

static lora_status build(lora__tok_build *b, const json_t *j, void **self)
{
	const json_t *dropout = json_object_get(j, "dropout");
	size_t n_unk = 0;
	bpe_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	if (dropout && !json_is_null(dropout) && !json_is_number(dropout)) return lora__tok_fail(b, LORA_E_FORMAT, "dropout", "must be a number or null");
	if (json_number_value(dropout) != 0) return lora__tok_fail(b, LORA_E_UNSUPPORTED, "dropout", "random merges are not supported");
	lora_status st = lora__tok_vocab_read(b, j, "vocab");
	if (!st) st = copy_text(b, j, "continuing_subword_prefix", &p->prefix, &p->n_prefix);
	if (!st) st = copy_text(b, j, "end_of_word_suffix", &p->suffix, &p->n_suffix);
	if (!st) st = copy_text(b, j, "unk_token", &p->unk_name, &n_unk);
	if (!st) st = lora__tok_bool(b, j, "fuse_unk", 0, &p->fuse);
	if (!st) st = lora__tok_bool(b, j, "byte_fallback", 0, &p->fallback);
	if (!st) st = lora__tok_bool(b, j, "ignore_merges", 0, &p->ignore_merges);
	if (st) return st;
	const lora__tok_vocab *v = &b->t->vocab;
	if (b->source && b->source->kind == LORA__TOK_BPE_SCORES) p->fuse = 1, p->fallback = b->source->byte_fallback;
	p->unk = p->unk_name ? (int32_t)lora__tok_vocab_find(v, p->unk_name, n_unk) : -1;
	for (size_t i = 0; b->source && i < b->source->n && p->unk < 0; i++)
		if (b->source->entries[i].type == LORA__TOK_UNKNOWN) p->unk = (int32_t)i;
	p->by_mark = !p->n_prefix && !p->n_suffix && !p->ignore_merges && lora__tok_vocab_find(v, mark, 3) >= 0;
	for (uint32_t c = 0; c < DIRECT; c++) {
		char text[4];
		p->direct[c] = (int32_t)lora__tok_vocab_find(v, text, lora__tok_encode_char(c, text));
	}
	lora__tok_byte_ids(v, p->bytes);
	return read_rules(b, p, json_object_get(j, "merges"));
}

static void drop(lora_context *ctx, void *self)
{
	bpe_self *p = self;
	if (!p) return;
	lora__free(ctx, p->rules.cells);
	lora__tok_trie_free(ctx, &p->user);
	lora__free(ctx, p->prefix);
	lora__free(ctx, p->suffix);
	lora__free(ctx, p->unk_name);
	lora__free(ctx, p);
}

static lora_status add(lora__tok_call *c, bpe_scratch *w, int32_t id)
{
	lora_status st = w->n < w->cap ? LORA_OK : lora__grow(c->ctx, &w->ids, &w->cap, w->n + 1, sizeof *w->ids);
	if (!st) w->ids[w->n++] = id;
	return st;
}

static lora_status unknown(const bpe_self *p, lora__tok_call *c, const char *s, size_t n)
{
	lora__quoted q = lora__quote_n(s, n);
	if (p->unk_name) return lora__fail(c->ctx, LORA_E_NOTFOUND, "tokenizer", "%s is not in the vocabulary, and neither is unk_token %s", q.text,
		lora__quote(p->unk_name).text);
	return lora__fail(c->ctx, LORA_E_NOTFOUND, "tokenizer", "%s is not in the vocabulary, and there is no unk_token", q.text);
}

/* Text of the symbol for one character: prefix unless first, suffix when last. */
static lora_status symbol_text(const bpe_self *p, lora__tok_call *c, bpe_scratch *w, int first, int last, const char **s, size_t *n)
{
	lora_status st = LORA_OK;
	if (!(p->n_prefix && !first) && !(p->n_suffix && last)) return LORA_OK;
	w->text.n = 0;
	if (!first) st = lora__tok_put(c->ctx, &w->text, p->prefix, p->n_prefix);
	if (!st) st = lora__tok_put(c->ctx, &w->text, *s, *n);
	if (!st && last) st = lora__tok_put(c->ctx, &w->text, p->suffix, p->n_suffix);
	*s = w->text.p, *n = w->text.n;
	return st;
}

static lora_status symbols(const bpe_self *p, lora__tok_call *c, bpe_scratch *w, const char *s, size_t n)
{
	lora_status st = LORA_OK;
	int pending = 0, plain = !p->n_prefix && !p->n_suffix;
	w->n = 0;
	for (size_t i = 0, step; i < n && !st; i += step) {
		uint32_t u = lora__tok_char(s + i, &step);
		const char *text = s + i;
		size_t bytes = step;
		int32_t id = -1;
		if (p->user.n > 1 && (id = lora__tok_trie_longest(&p->user, s + i, n - i, &bytes)) >= 0) step = bytes;
		else if (plain && u < DIRECT) id = p->direct[u];
		else {
			if ((st = symbol_text(p, c, w, i == 0, i + step == n, &text, &bytes))) break;
			id = (int32_t)lora__tok_vocab_find(&c->t->vocab, text, bytes);
		}
		if (id >= 0) {
			if (pending) st = add(c, w, p->unk), pending = 0;
			if (!st) st = add(c, w, id);
			continue;
		}
		int all = p->fallback;
		for (size_t k = 0; k < bytes && all; k++) all = p->bytes[(uint8_t)text[k]] >= 0;
		for (size_t k = 0; k < bytes && all && !st; k++) st = add(c, w, p->bytes[(uint8_t)text[k]]);
		if (all) continue;
		if (p->unk < 0) return unknown(p, c, text, bytes);
		if (pending && !p->fuse) st = add(c, w, p->unk);
		pending = 1;
	}
	return !st && pending ? add(c, w, p->unk) : st;
}

static lora_status word(const bpe_self *p, lora__tok_call *c, bpe_scratch *w, const char *s, size_t n)
{
	lora_status st = LORA_OK;
	size_t from = c->n_ids;
	if (lora__tok_cache_hit(c, s, n, &st)) return st;
	int64_t whole = p->ignore_merges ? lora__tok_vocab_find(&c->t->vocab, s, n) : -1;
	if (whole >= 0) st = lora__tok_emit(c, (int32_t)whole);
	else {
		st = symbols(p, c, w, s, n);
		if (!st) st = lora__bpe_merge(c->ctx, &p->rules, &w->work, w->ids, &w->n);
		if (!st) st = lora__tok_emit_all(c, w->ids, w->n);
	}
	if (!st) lora__tok_cache_keep(c, s, n, from);
	return st;
}

/* Where no merge crosses the beginning of a marked word, the words can be taken one by one: same result, and words repeat. */
static lora_status run(const void *self, lora__tok_call *c, const char *s, size_t n)
{
	const bpe_self *p = self;
	if (!c->scratch && !(c->scratch = lora__zalloc(c->ctx, sizeof(bpe_scratch)))) return LORA_E_MEMORY;
	lora_status st = LORA_OK;
	size_t from = 0;
	for (size_t at = 1; p->by_mark && at + 3 <= n && !st; at++) {
		const char *next = memchr(s + at, mark[0], n - at);
		if (!next) break;
		at = (size_t)(next - s);
		if (at + 3 > n || memcmp(next, mark, 3) || (at >= 3 && !memcmp(next - 3, mark, 3))) continue;
		st = word(p, c, c->scratch, s + from, at - from);
		from = at;
	}
	return st ? st : word(p, c, c->scratch, s + from, n - from);
}

static void end(lora__tok_call *c)
{
	bpe_scratch *w = c->scratch;
	if (!w) return;
	lora__bpe_work_free(c->ctx, &w->work);
	lora__free(c->ctx, w->ids);
	lora__free(c->ctx, w->text.p);
	lora__free(c->ctx, w);
	c->scratch = NULL;
}

const lora__tok_model lora__model_bpe = { "BPE", build, run, end, drop };
