/* Vocabulary: text to id and back. Ids may have gaps: an id without a token decodes to nothing. */
#include "tokenizer/tok.h"

void lora__tok_vocab_init(lora__tok_vocab *v, lora_context *ctx)
{
	*v = (lora__tok_vocab){ .ctx = ctx };
	lora__map_init(&v->by_text, ctx);
}

void lora__tok_vocab_free(lora__tok_vocab *v)
{
	lora__free(v->ctx, v->bytes);
	lora__free(v->ctx, v->by_id);
	lora__map_free(&v->by_text);
}

lora_status lora__tok_vocab_reserve(lora__tok_vocab *v, size_t bytes)
{
	if (bytes >= UINT32_MAX) return lora__fail(v->ctx, LORA_E_LIMIT, "tokenizer", "vocabulary of %zu bytes", bytes);
	return lora__grow(v->ctx, &v->bytes, &v->cap_bytes, bytes + 1, 1);
}

lora_status lora__tok_vocab_add(lora__tok_vocab *v, const char *s, size_t n, int64_t id, int64_t *clash)
{
	lora_status st;
	size_t at = (size_t)id, need;
	*clash = -1;
	if (at < v->n_ids && v->by_id[at].at != UINT32_MAX) return LORA_E_EXISTS;
	if (!lora__add_size(v->n_bytes, n + 1, &need) || need > v->cap_bytes)
		return lora__fail(v->ctx, LORA_E_INTERNAL, "tokenizer", "vocabulary larger than reserved");
	if (at >= v->n_ids) {
		if ((st = lora__grow(v->ctx, &v->by_id, &v->cap_ids, at + 1, sizeof *v->by_id))) return st;
		for (; v->n_ids <= at; v->n_ids++) v->by_id[v->n_ids].at = UINT32_MAX, v->by_id[v->n_ids].n = 0;
	}
	char *p = v->bytes + v->n_bytes;
	if (n) memcpy(p, s, n);
	p[n] = 0;
	if ((st = lora__map_add(&v->by_text, p, n, id, clash))) return st;
	v->by_id[at].at = (uint32_t)v->n_bytes, v->by_id[at].n = (uint32_t)n;
	v->n_bytes = need;
	v->n_tokens++;
	return LORA_OK;
}

const char *lora__tok_vocab_text(const lora__tok_vocab *v, int64_t id, size_t *n)
{
	if (id < 0 || (uint64_t)id >= v->n_ids || v->by_id[id].at == UINT32_MAX) return NULL;
	*n = v->by_id[id].n;
	return v->bytes + v->by_id[id].at;
}

static lora_status read_one(lora__tok_build *b, const char *key, const char *text, size_t n, const json_t *id, int64_t most)
{
	lora__quoted q = lora__quote_n(text, n);
	int64_t clash;
	if (!json_is_integer(id)) return lora__tok_fail(b, LORA_E_FORMAT, key, "id of %s is not a whole number", q.text);
	int64_t v = json_integer_value(id);
	if (v < 0) return lora__tok_fail(b, LORA_E_FORMAT, key, "id of %s is %lld", q.text, (long long)v);
	if (v > most)
		return lora__tok_fail(b, LORA_E_LIMIT, key, "id of %s is %lld, the limit for this many tokens is %lld", q.text, (long long)v, (long long)most);
	lora_status st = lora__tok_vocab_add(&b->t->vocab, text, n, v, &clash);
	if (st != LORA_E_EXISTS) return st;
	if (clash >= 0) return lora__tok_fail(b, LORA_E_FORMAT, key, "%s is there twice", q.text);
	size_t other_n = 0;
	const char *other = lora__tok_vocab_text(&b->t->vocab, v, &other_n);
	return lora__tok_fail(b, LORA_E_FORMAT, key, "%s and %s both have id %lld", other ? lora__quote_n(other, other_n).text : "?", q.text,
		(long long)v);
}

lora_status lora__tok_vocab_read(lora__tok_build *b, const json_t *j, const char *key)
{
	if (b->source) return lora__tok_source_vocab(b);
	json_t *vocab = json_object_get(j, key);
	size_t bytes = 0, count = json_object_size(vocab);
	int64_t most = (int64_t)count * 16 > LORA__TOK_ID_ROOM ? (int64_t)count * 16 : LORA__TOK_ID_ROOM;
	if (!json_is_object(vocab)) return lora__tok_fail(b, LORA_E_FORMAT, key, "must be an object of texts and ids");
	if (most > INT32_MAX - 1) most = INT32_MAX - 1;
	for (void *it = json_object_iter(vocab); it; it = json_object_iter_next(vocab, it)) bytes += json_object_iter_key_len(it) + 1;
	lora_status st = lora__tok_vocab_reserve(&b->t->vocab, bytes);
	for (void *it = json_object_iter(vocab); it && !st; it = json_object_iter_next(vocab, it))
		st = read_one(b, key, json_object_iter_key(it), json_object_iter_key_len(it), json_object_iter_value(it), most);
	return st;
}

int lora__tok_byte_token(const char *s, size_t n)
{
	int v = 0;
	if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>') return -1;
	for (int i = 3; i < 5; i++) {
		int c = s[i], d = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
		if (d < 0) return -1;
		v = v * 16 + d;
	}
	return v;
}

void lora__tok_byte_ids(const lora__tok_vocab *v, int32_t ids[256])
{
	static const char hex[] = "0123456789ABCDEF";
	for (int i = 0; i < 256; i++) {
		char text[7] = { '<', '0', 'x', hex[i >> 4], hex[i & 15], '>', 0 };
		ids[i] = (int32_t)lora__tok_vocab_find(v, text, 6);
	}
}
