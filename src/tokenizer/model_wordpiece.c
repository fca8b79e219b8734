/* WordPiece model: the longest token that begins the word, then the longest that goes on (with the prefix), and so to the end; a word that can't be
 * written so is unknown as a whole. And WordLevel: a word is a token or unknown.
 * Source: google-research/bert tokenization.py WordpieceTokenizer; huggingface/tokenizers, models/{wordpiece,wordlevel}/mod.rs. */
#include "tokenizer/tok.h"

typedef struct piece_self { lora__tok_trie trie; int32_t unk, more; /* node behind the prefix, or -1 */ int64_t most; char *unk_name; } piece_self;

static lora_status read_unk(lora__tok_build *b, const json_t *j, const char *def, piece_self *p)
{
	const char *s;
	size_t n;
	lora_status st = lora__tok_string(b, j, "unk_token", def, &s, &n);
	if (st) return st;
	p->unk = (int32_t)lora__tok_vocab_find(&b->t->vocab, s, n);
	p->unk_name = lora__tok_copy(b, s, n);
	return p->unk_name ? LORA_OK : LORA_E_MEMORY;
}

static lora_status word_build(lora__tok_build *b, const json_t *j, void **self)
{
	piece_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_vocab_read(b, j, "vocab");
	return st ? st : read_unk(b, j, "<unk>", p);
}

static lora_status piece_build(lora__tok_build *b, const json_t *j, void **self)
{
	const lora__tok_vocab *v = &b->t->vocab;
	const char *s;
	size_t n, k = 0;
	lora_status st = word_build(b, j, self);
	piece_self *p = *self;
	if (!st) st = lora__tok_int(b, j, "max_input_chars_per_word", 100, 0, INT32_MAX, &p->most);
	if (!st) st = lora__tok_string(b, j, "continuing_subword_prefix", "##", &s, &n);
	lora__tok_key *keys = st ? NULL : lora__calloc(b->ctx, v->n_tokens + 1, sizeof *keys);
	if (st || !keys) return st ? st : LORA_E_MEMORY;
	for (size_t i = 0; i < v->n_ids; i++) {
		lora__tok_key *q = &keys[k];
		if (!(q->s = lora__tok_vocab_text(v, (int64_t)i, &q->n))) continue;
		q->value = (int32_t)i, k++;
	}
	st = lora__tok_trie_build(b->ctx, keys, k, &p->trie);
	for (size_t i = 0; i < n && !st && p->more >= 0; i++) p->more = lora__tok_trie_step(&p->trie, p->more, (uint8_t)s[i]);
	lora__free(b->ctx, keys);
	return st;
}

static void drop(lora_context *ctx, void *self)
{
	piece_self *p = self;
	if (!p) return;
	lora__tok_trie_free(ctx, &p->trie);
	lora__free(ctx, p->unk_name);
	lora__free(ctx, p);
}

static lora_status unknown(const piece_self *p, lora__tok_call *c, const char *s, size_t n)
{
	if (p->unk >= 0) return lora__tok_emit(c, p->unk);
	return lora__fail(c->ctx, LORA_E_NOTFOUND, "tokenizer", "%s is not in the vocabulary, and neither is unk_token %s", lora__quote_n(s, n).text,
		lora__quote(p->unk_name).text);
}

static lora_status piece_run(const void *self, lora__tok_call *c, const char *s, size_t n)
{
	const piece_self *p = self;
	size_t from = c->n_ids, chars = 0, at = 0;
	lora_status st = LORA_OK;
	for (size_t i = 0; i < n; i++) chars += ((unsigned char)s[i] & 0xc0) != 0x80;
	if (chars > (uint64_t)p->most) return unknown(p, c, s, n);
	while (at < n && !st) {
		int32_t node = at ? p->more : 0, best = -1;
		size_t end = at;
		for (size_t k = at; node >= 0 && k < n; ) {
			node = lora__tok_trie_step(&p->trie, node, (uint8_t)s[k++]);
			if (node >= 0 && p->trie.nodes[node].value >= 0) best = p->trie.nodes[node].value, end = k;
		}
		if (best < 0) {
			c->n_ids = from;
			return unknown(p, c, s, n);
		}
		st = lora__tok_emit(c, best);
		at = end;
	}
	return st;
}

static lora_status word_run(const void *self, lora__tok_call *c, const char *s, size_t n)
{
	int64_t id = lora__tok_vocab_find(&c->t->vocab, s, n);
	return id >= 0 ? lora__tok_emit(c, (int32_t)id) : unknown(self, c, s, n);
}

const lora__tok_model lora__model_wordpiece = { "WordPiece", piece_build, piece_run, NULL, drop };
const lora__tok_model lora__model_wordlevel = { "WordLevel", word_build, word_run, NULL, drop };
