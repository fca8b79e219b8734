/* A tokenizer from arrays of tokens, scores, types and merges, as SentencePiece files, vocab.txt and GGUF hold them: no tree of JSON in between,
 * which for 256,000 tokens would be large. The parts around the model come as a small tree (src->parts), or are SentencePiece's own. */
#include <math.h>

#include "tokenizer/tok.h"

lora_status lora__tok_source_vocab(lora__tok_build *b)
{
	const lora__tok_source *src = b->source;
	lora__tok_vocab *v = &b->t->vocab;
	size_t bytes = 0, bad;
	int64_t clash;
	if (src->n > INT32_MAX - 1) return lora__tok_fail(b, LORA_E_LIMIT, "vocab", "%zu tokens", src->n);
	for (size_t i = 0; i < src->n; i++)
		if (!lora__add_size(bytes, src->entries[i].n + 1, &bytes)) return lora__tok_fail(b, LORA_E_LIMIT, "vocab", "too many bytes");
	lora_status st = lora__tok_vocab_reserve(v, bytes);
	for (size_t i = 0; i < src->n && !st; i++) {
		const lora__tok_entry *e = &src->entries[i];
		if (!lora__utf8_valid(e->s, e->n, &bad))
			return lora__tok_fail(b, LORA_E_FORMAT, "vocab", "token %zu is not UTF-8 at byte %zu: %s", i, bad, lora__quote_n(e->s, e->n).text);
		if (e->type < LORA__TOK_NORMAL || e->type > LORA__TOK_BYTE)
			return lora__tok_fail(b, LORA_E_FORMAT, "vocab", "token %zu (%s) is of type %d", i, lora__quote_n(e->s, e->n).text, e->type);
		if (!e->n) return lora__tok_fail(b, LORA_E_FORMAT, "vocab", "token %zu is empty", i);
		if (!isfinite(e->score)) return lora__tok_fail(b, LORA_E_FORMAT, "vocab", "the score of token %zu (%s) is not finite", i, lora__quote_n(e->s, e->n).text);
		st = lora__tok_vocab_add(v, e->s, e->n, (int64_t)i, &clash);
		if (st == LORA_E_EXISTS)
			st = lora__tok_fail(b, LORA_E_FORMAT, "vocab", "%s is there twice: %lld and %zu", lora__quote_n(e->s, e->n).text, (long long)clash, i);
	}
	return st;
}

lora_status lora__tok_source_user(lora__tok_build *b, lora__tok_trie *out)
{
	const lora__tok_source *src = b->source;
	size_t n = 0, k = 0;
	for (size_t i = 0; i < src->n && !src->cut_user; i++) n += src->entries[i].type == LORA__TOK_USER;
	if (!n) return LORA_OK;
	lora__tok_key *keys = lora__calloc(b->ctx, n, sizeof *keys);
	if (!keys) return LORA_E_MEMORY;
	for (size_t i = 0; i < src->n; i++)
		if (src->entries[i].type == LORA__TOK_USER) keys[k++] = (lora__tok_key){ src->entries[i].s, src->entries[i].n, (int32_t)i, 0 };
	lora_status st = lora__tok_trie_build(b->ctx, keys, n, out);
	lora__free(b->ctx, keys);
	return st;
}

lora_status lora__tokenizer_set_chat(lora_tokenizer *t, const char *template, size_t n, const char *bos, const char *eos)
{
	struct { char **to; const char *s; size_t n; } all[] = { { &t->chat.template, template, n }, { &t->chat.bos, bos, bos ? strlen(bos) : 0 },
		{ &t->chat.eos, eos, eos ? strlen(eos) : 0 } };
	for (size_t i = 0; i < 3; i++) {
		if (!all[i].s) continue;
		char *copy = lora__strndup(t->ctx, all[i].s, all[i].n);
		if (!copy) return LORA_E_MEMORY;
		lora__free(t->ctx, *all[i].to);
		*all[i].to = copy;
	}
	return LORA_OK;
}
