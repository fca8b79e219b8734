/* Unigram model: of all ways to write a text with tokens the one of the highest sum of scores (log probabilities); a character that no token
 * begins costs min(score) - 10. Unknown characters side by side become one.
 * SentencePiece files: the sums are single precision as in sentencepiece 0.2.3 (0.2.1 compared in double: ties may fall another way).
 * Source: Kudo 2018, arXiv:1804.10959; search as in sentencepiece unigram_model.cc EncodeOptimized and huggingface/tokenizers,
 * models/unigram/model.rs (doubles, ties to the earlier start and the shorter token). */
#include <float.h>

#include "tokenizer/tok.h"

static const double unknown_penalty = 10.0;

typedef struct unigram_self {
	lora__tok_trie trie;
	double *scores, unk_score;
	int32_t unk, bytes[256];
	int fallback;
	uint8_t *user; /* SentencePiece's own way (else NULL): user tokens get a bonus for their length, sums are kept in single precision */
	double bonus;
} unigram_self;

/* Best way to write the text up to here: its score, where its last token begins, and which that is. */
typedef struct best { double score; size_t start; int32_t id; } best;
typedef struct unigram_scratch { best *best; size_t cap; int32_t *ids; size_t cap_ids; } unigram_scratch;

static lora_status read_vocab(lora__tok_build *b, unigram_self *p, const json_t *list)
{
	lora__tok_vocab *v = &b->t->vocab;
	size_t n = json_array_size(list), bytes = 0, len;
	double min = 0;
	int64_t clash;
	if (!json_is_array(list) || !n) return lora__tok_fail(b, LORA_E_FORMAT, "vocab", "must be a list of [text, score]");
	if (n > INT32_MAX - 1) return lora__tok_fail(b, LORA_E_LIMIT, "vocab", "%zu tokens", n);
	for (size_t i = 0; i < n; i++) {
		const json_t *j = json_array_get(list, i), *score = json_array_get(j, 1);
		if (!json_is_array(j) || json_array_size(j) != 2 || !json_is_string(json_array_get(j, 0)) || !json_is_number(score))
			return lora__tok_fail(b, LORA_E_FORMAT, "vocab", "entry %zu is not [text, score]", i);
		bytes += json_string_length(json_array_get(j, 0)) + 1;
	}
	lora_status st = lora__tok_vocab_reserve(v, bytes);
	if (!st && !(p->scores = lora__calloc(b->ctx, n, sizeof *p->scores))) st = LORA_E_MEMORY;
	lora__tok_key *keys = st ? NULL : lora__calloc(b->ctx, n, sizeof *keys);
	if (!keys) return LORA_E_MEMORY;
	for (size_t i = 0; i < n && !st; i++) {
		const json_t *j = json_array_get(list, i), *text = json_array_get(j, 0);
		p->scores[i] = json_number_value(json_array_get(j, 1));
		if (!i || p->scores[i] < min) min = p->scores[i];
		st = lora__tok_vocab_add(v, json_string_value(text), json_string_length(text), (int64_t)i, &clash);
		if (st == LORA_E_EXISTS)
			st = lora__tok_fail(b, LORA_E_FORMAT, "vocab", "%s is there twice: %lld and %zu",
				lora__quote_n(json_string_value(text), json_string_length(text)).text, (long long)clash, i);
		const char *s = st ? NULL : lora__tok_vocab_text(v, (int64_t)i, &len);
		if (s) keys[i] = (lora__tok_key){ s, len, (int32_t)i, 0 };
	}
	p->unk_score = min - unknown_penalty;
	if (!st) st = lora__tok_trie_build(b->ctx, keys, n, &p->trie);
	lora__free(b->ctx, keys);
	return st;
}

/* Only NORMAL tokens count for the best and the worst score; control, byte and unused tokens never come out of a text. */
static lora_status read_source(lora__tok_build *b, unigram_self *p)
{
	const lora__tok_source *src = b->source;
	size_t k = 0;
	float min = FLT_MAX, max = FLT_MIN; /* as there, where FLT_MIN was meant to be something else */
	lora_status st = lora__tok_source_vocab(b);
	if (st) return st;
	p->scores = lora__calloc(b->ctx, src->n + 1, sizeof *p->scores);
	p->user = lora__calloc(b->ctx, src->n + 1, 1);
	lora__tok_key *keys = lora__calloc(b->ctx, src->n + 1, sizeof *keys);
	if (!p->scores || !p->user || !keys) st = LORA_E_MEMORY;
	for (size_t i = 0; i < src->n && !st; i++) {
		const lora__tok_entry *e = &src->entries[i];
		p->scores[i] = e->score, p->user[i] = e->type == LORA__TOK_USER;
		if (e->type == LORA__TOK_UNKNOWN) p->unk = (int32_t)i;
		if (e->type == LORA__TOK_NORMAL && e->score < min) min = e->score;
		if (e->type == LORA__TOK_NORMAL && e->score > max) max = e->score;
		if (lora__tok_is_piece(e) && e->type != LORA__TOK_UNUSED) keys[k++] = (lora__tok_key){ e->s, e->n, (int32_t)i, 0 };
	}
	p->unk_score = min - (float)unknown_penalty, p->bonus = max, p->fallback = src->byte_fallback;
	if (!st) st = lora__tok_trie_build(b->ctx, keys, k, &p->trie);
	lora__free(b->ctx, keys);
	lora__tok_byte_ids(&b->t->vocab, p->bytes);
	return st;
}

static lora_status build(lora__tok_build *b, const json_t *j, void **self)
{
	int64_t unk;
	unigram_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	p->unk = -1;
	if (b->source) return read_source(b, p);
	lora_status st = read_vocab(b, p, json_object_get(j, "vocab"));
	if (!st) st = lora__tok_bool(b, j, "byte_fallback", 0, &p->fallback);
	if (!st) st = lora__tok_int(b, j, "unk_id", -1, 0, INT32_MAX, &unk);
	if (st) return st;
	if (unk >= (int64_t)b->t->vocab.n_ids)
		return lora__tok_fail(b, LORA_E_FORMAT, "unk_id", "%lld is not in the vocabulary of %zu", (long long)unk, b->t->vocab.n_ids);
	p->unk = (int32_t)unk;
	lora__tok_byte_ids(&b->t->vocab, p->bytes);
	return LORA_OK;
}

static void drop(lora_context *ctx, void *self)
{
	unigram_self *p = self;
	if (!p) return;
	lora__tok_trie_free(ctx, &p->trie);
	lora__free(ctx, p->scores);
	lora__free(ctx, p->user);
	lora__free(ctx, p);
}

static void offer(best *to, double score, size_t start, int32_t id)
{
	if (to->id == -1 || score > to->score) *to = (best){ score, start, id };
}

static lora_status search(const unigram_self *p, lora__tok_call *c, const char *s, size_t n, best *w)
{
	for (size_t i = 0; i <= n; i++) w[i] = (best){ 0, 0, -1 };
	for (size_t i = 0, step; i < n; i += step) {
		int whole = 0;
		step = lora__tok_char_bytes(s + i);
		int32_t node = p->trie.root[(uint8_t)s[i]];
		for (size_t k = i + 1; node >= 0; k++) {
			int32_t id = p->trie.nodes[node].value;
			if (id >= 0) {
				double score = p->user && p->user[id] ? (float)((double)(k - i) * p->bonus - 0.1) : p->scores[id];
				double sum = score + w[i].score;
				offer(&w[k], p->user ? (float)sum : sum, i, id);
				whole |= k == i + step;
			}
			node = k < n ? lora__tok_trie_step(&p->trie, node, (uint8_t)s[k]) : -1;
		}
		if (whole) continue;
		if (p->unk < 0)
			return lora__fail(c->ctx, LORA_E_NOTFOUND, "tokenizer", "%s is not in the vocabulary, and there is no unk_id", lora__quote_n(s + i, step).text);
		double sum = p->unk_score + w[i].score;
		offer(&w[i + step], p->user ? (float)sum : sum, i, p->unk);
	}
	return LORA_OK;
}

/* Ids of an unknown stretch, last first: a token that is exactly this text, its bytes, or unk. */
static void unknown(const unigram_self *p, const lora__tok_vocab *v, const char *s, size_t n, int32_t *ids, size_t *k)
{
	int64_t id = p->user ? -1 : lora__tok_vocab_find(v, s, n);
	int all = id < 0 && p->fallback;
	for (size_t i = 0; i < n && all; i++) all = p->bytes[(uint8_t)s[i]] >= 0;
	for (size_t i = n; i-- && all; ) ids[(*k)++] = p->bytes[(uint8_t)s[i]];
	if (!all) ids[(*k)++] = id >= 0 ? (int32_t)id : p->unk;
}

static lora_status run(const void *self, lora__tok_call *c, const char *s, size_t n)
{
	const unigram_self *p = self;
	lora_status st = LORA_OK;
	size_t from = c->n_ids, k = 0, room;
	if (!c->scratch && !(c->scratch = lora__zalloc(c->ctx, sizeof(unigram_scratch)))) return LORA_E_MEMORY;
	unigram_scratch *w = c->scratch;
	if (lora__tok_cache_hit(c, s, n, &st)) return st;
	if (!lora__add_size(n, 1, &room)) return lora__fail(c->ctx, LORA_E_MEMORY, "tokenizer", "text too long");
	st = lora__grow(c->ctx, &w->best, &w->cap, room, sizeof *w->best);
	if (!st) st = lora__grow(c->ctx, &w->ids, &w->cap_ids, room, sizeof *w->ids);
	if (!st) st = search(p, c, s, n, w->best);
	if (st) return st;
	for (size_t end = n, start; end; end = start) {
		start = w->best[end].start;
		if (p->unk < 0 || w->best[end].id != p->unk) {
			w->ids[k++] = w->best[end].id;
			continue;
		}
		while (start && w->best[start].id == p->unk) start = w->best[start].start;
		unknown(p, &c->t->vocab, s + start, end - start, w->ids, &k);
	}
	for (size_t i = 0; i < k / 2; i++) {
		int32_t x = w->ids[i];
		w->ids[i] = w->ids[k - 1 - i], w->ids[k - 1 - i] = x;
	}
	st = lora__tok_emit_all(c, w->ids, k);
	if (!st) lora__tok_cache_keep(c, s, n, from);
	return st;
}

static void end(lora__tok_call *c)
{
	unigram_scratch *w = c->scratch;
	if (!w) return;
	lora__free(c->ctx, w->best);
	lora__free(c->ctx, w->ids);
	lora__free(c->ctx, w);
	c->scratch = NULL;
}

const lora__tok_model lora__model_unigram = { "Unigram", build, run, end, drop };
