/* The life of a tokenizer, encoding and decoding. See tok.h for the order of the parts. */
#include "tokenizer/tok.h"

static void *pcre_alloc(size_t n, void *ctx) { return lora__alloc(ctx, n); }
static void pcre_free(void *p, void *ctx) { lora__free(ctx, p); }

enum { PATTERN_NEST = 100 };

/* From a tree, or from arrays with a tree of the other parts (source not NULL). */
static lora_status make(lora_context *ctx, const json_t *root, const lora__tok_source *source, const char *what, int stated, lora_tokenizer **out)
{
	lora_tokenizer *t = lora__zalloc(ctx, sizeof *t);
	if (!t) return LORA_E_MEMORY;
	t->ctx = ctx;
	lora__context_retain(ctx);
	lora__tok_vocab_init(&t->vocab, ctx);
	lora__tok_build b = { .ctx = ctx, .t = t, .what = what, .source = source, .stated = stated };
	lora_status st = LORA_OK;
	t->pcre = pcre2_general_context_create(pcre_alloc, pcre_free, ctx);
	t->pcre_compile = t->pcre ? pcre2_compile_context_create(t->pcre) : NULL;
	if (!t->pcre_compile) st = lora__fail(ctx, LORA_E_MEMORY, "tokenizer", "%s: out of memory", what);
	if (!st) {
		pcre2_set_newline(t->pcre_compile, PCRE2_NEWLINE_LF);
		pcre2_set_parens_nest_limit(t->pcre_compile, PATTERN_NEST);
		st = lora__tok_build_all(&b, root);
	}
	if (st) lora__tokenizer_destroy(t);
	else *out = t;
	return st;
}

lora_status lora__tokenizer_from_tree(lora_context *ctx, const json_t *root, const char *what, int stated, lora_tokenizer **out)
{
	return make(ctx, root, NULL, what, stated, out);
}

lora_status lora__tokenizer_from_source(lora_context *ctx, const lora__tok_source *src, lora_tokenizer **out)
{
	return make(ctx, src->parts, src, src->what, 1, out);
}

lora_status lora__tokenizer_from_json(lora_context *ctx, const char *text, size_t n, const char *what, lora_tokenizer **out)
{
	json_t *root = NULL;
	lora_status st = lora__json_parse(ctx, text, n, what, &root);
	if (!st) st = make(ctx, root, NULL, what, 0, out);
	json_decref(root);
	return st;
}

void lora__tokenizer_destroy(lora_tokenizer *t)
{
	if (!t) return;
	lora_context *ctx = t->ctx;
	for (size_t i = 0; i < t->n_norms; i++)
		if (t->norms[i].kind->drop) t->norms[i].kind->drop(ctx, t->norms[i].self);
		else lora__free(ctx, t->norms[i].self);
	for (size_t i = 0; i < t->n_pres; i++)
		if (t->pres[i].kind->drop) t->pres[i].kind->drop(ctx, t->pres[i].self);
		else lora__free(ctx, t->pres[i].self);
	for (size_t i = 0; i < t->n_decs; i++)
		if (t->decs[i].kind->drop) t->decs[i].kind->drop(ctx, t->decs[i].self);
		else lora__free(ctx, t->decs[i].self);
	if (t->model) t->model->drop(ctx, t->model_self);
	lora__free(ctx, t->norms);
	lora__free(ctx, t->pres);
	lora__free(ctx, t->decs);
	lora__free(ctx, t->prefix);
	lora__free(ctx, t->suffix);
	lora__tok_added_free(ctx, &t->added);
	lora__tok_vocab_free(&t->vocab);
	lora__free(ctx, t->chat.template);
	lora__free(ctx, t->chat.bos);
	lora__free(ctx, t->chat.eos);
	pcre2_compile_context_free(t->pcre_compile);
	pcre2_general_context_free(t->pcre);
	lora__free(ctx, t);
	lora__context_release(ctx);
}

lora_status lora__tok_call_begin(const lora_tokenizer *t, lora__tok_call *c)
{
	memset(c, 0, sizeof *c);
	c->t = t, c->ctx = t->ctx;
	return LORA_OK;
}

void lora__tok_call_end(lora__tok_call *c)
{
	if (c->t->model && c->t->model->end) c->t->model->end(c);
	lora__tok_cache_free(c);
	for (size_t i = 0; i < sizeof c->stage / sizeof *c->stage; i++) lora__free(c->ctx, c->stage[i].p);
	lora__free(c->ctx, c->norm[0].p);
	lora__free(c->ctx, c->norm[1].p);
	lora__free(c->ctx, c->ids);
	pcre2_match_data_free(c->match);
	pcre2_match_context_free(c->limits);
	pcre2_jit_stack_free(c->jit_stack);
}

lora_status lora__tok_emit_all(lora__tok_call *c, const int32_t *ids, size_t n)
{
	if (c->cap_ids - c->n_ids < n) {
		lora_status st = lora__grow(c->ctx, &c->ids, &c->cap_ids, c->n_ids + n, sizeof *c->ids);
		if (st) return st;
	}
	if (n) memcpy(c->ids + c->n_ids, ids, n * sizeof *ids);
	c->n_ids += n;
	return LORA_OK;
}

lora_status lora__tok_emit(lora__tok_call *c, int32_t id) { return lora__tok_emit_all(c, &id, 1); }

lora_status lora__tok_piece(lora__tok_call *c, int stage, const char *s, size_t n, int first)
{
	const lora_tokenizer *t = c->t;
	if (!n) return LORA_OK;
	if ((size_t)stage == t->n_pres) return t->model->run(t->model_self, c, s, n);
	return t->pres[stage].kind->run(t->pres[stage].self, c, stage, s, n, first);
}

lora_status lora__tok_normalize(lora__tok_call *c, const char *s, size_t n, int *first, const char **out, size_t *out_n)
{
	lora_status st = LORA_OK;
	for (size_t i = 0; i < c->t->n_norms && !st; i++) {
		lora__tok_buf *to = &c->norm[i & 1];
		to->n = 0;
		st = c->t->norms[i].kind->run(c->t->norms[i].self, c, s, n, to, first);
		s = to->p ? to->p : "", n = to->n;
	}
	*out = s, *out_n = n;
	return st;
}

/* Text between added tokens: normalise, cut out the added tokens that are normalised, and give the rest to the pre-tokenizers. */
lora_status lora__tok_gap(lora__tok_call *c, const char *text, size_t text_n, int first)
{
	const lora__tok_added *a = &c->t->added;
	const lora__tok_added_token *t;
	const char *s;
	size_t n, at = 0, done = 0, start, end;
	lora_status st = lora__tok_normalize(c, text, text_n, &first, &s, &n);
	while (!st && (t = lora__tok_added_find(a, &a->norm, s, n, &at, done, &start, &end))) {
		if (start > done) st = lora__tok_piece(c, 0, s + done, start - done, first && !done);
		if (!st && end > start) st = lora__tok_emit(c, t->id); /* nothing is left of one whose white space the last one took */
		done = end;
	}
	return !st && n > done ? lora__tok_piece(c, 0, s + done, n - done, first && !done) : st;
}

static lora_status encode_text(lora__tok_call *c, const char *s, size_t n, uint32_t flags)
{
	const lora__tok_added *a = &c->t->added;
	const lora__tok_added_token *t;
	int control = flags & LORA_TOKENIZE_CONTROL || (flags & LORA_TOKENIZE_SPECIAL && c->t->parse_special);
	const lora__tok_trie *trie = control && a->control.n > 1 ? &a->control : &a->raw;
	size_t at = 0, done = 0, start, end;
	lora_status st = LORA_OK;
	while (!st && (t = lora__tok_added_find(a, trie, s, n, &at, done, &start, &end))) {
		if (start > done) st = lora__tok_gap(c, s + done, start - done, !done);
		if (!st && end > start) st = lora__tok_emit(c, t->id); /* nothing is left of one whose white space the last one took */
		done = end;
	}
	return !st && n > done ? lora__tok_gap(c, s + done, n - done, !done) : st;
}

lora_status lora__tokenizer_encode(const lora_tokenizer *t, const char *text, size_t n, uint32_t flags, int32_t *ids, size_t capacity,
                                   size_t *count)
{
	lora__tok_call c;
	size_t bad, around = flags & LORA_TOKENIZE_SPECIAL ? t->n_prefix : 0, all;
	if (!lora__utf8_valid(text, n, &bad))
		return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "text", (int64_t)bad, "text is not UTF-8 at byte %zu", bad);
	lora_status st = lora__tok_call_begin(t, &c);
	if (!st) st = encode_text(&c, text, n, flags);
	if (st) goto done;
	all = c.n_ids + (flags & LORA_TOKENIZE_SPECIAL ? t->n_prefix + t->n_suffix : 0);
	*count = all;
	if (all > capacity) {
		st = LORA_E_LIMIT; /* a call without room is a question: it leaves the error record alone */
		if (capacity) st = lora__fail(t->ctx, st, "tokenizer", "%zu ids, room for %zu", all, capacity);
		goto done;
	}
	if (around) memcpy(ids, t->prefix, around * sizeof *ids);
	if (c.n_ids) memcpy(ids + around, c.ids, c.n_ids * sizeof *ids);
	if (all > around + c.n_ids) memcpy(ids + around + c.n_ids, t->suffix, t->n_suffix * sizeof *ids);
done:
	lora__tok_call_end(&c);
	return st;
}

lora_status lora__tok_text_end(lora_context *ctx, lora__tok_texts *t)
{
	lora_status st = t->n < t->cap ? LORA_OK : lora__grow(ctx, &t->ends, &t->cap, t->n + 1, sizeof *t->ends);
	if (!st) t->ends[t->n++] = t->bytes.n;
	return st;
}

/* Texts of ids; an id in a gap of the vocabulary has none. */
static lora_status texts_of(const lora_tokenizer *t, const int32_t *ids, size_t count, lora__tok_texts *out)
{
	lora_status st = LORA_OK;
	for (size_t i = 0; i < count && !st; i++) {
		size_t n = 0;
		if (ids[i] < 0 || ids[i] >= t->size)
			return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "tokenizer", "ids", -1, "id %d at place %zu, the tokenizer has ids 0 to %lld", (int)ids[i],
				i, (long long)t->size - 1);
		const lora__tok_added_token *a = lora__tok_added_by_id(&t->added, ids[i]);
		const char *s = !a ? lora__tok_vocab_text(&t->vocab, ids[i], &n) : a->shown ? a->shown : a->text;
		if (!s) continue;
		st = lora__tok_put(t->ctx, &out->bytes, s, !a ? n : a->shown ? a->n_shown : a->n);
		if (!st) st = lora__tok_text_end(t->ctx, out);
	}
	return st;
}

static lora_status run_decoders(lora__tok_call *c, lora__tok_texts texts[2], int *last)
{
	const lora_tokenizer *t = c->t;
	lora_status st = LORA_OK;
	*last = 0;
	for (size_t i = 0; i < t->n_decs && !st; i++, *last ^= 1) {
		lora__tok_texts *out = &texts[!*last];
		out->n = out->bytes.n = 0;
		st = t->decs[i].kind->run(t->decs[i].self, c, &texts[*last], out);
	}
	if (t->has_decoder || st) return st;
	lora__tok_texts *in = &texts[0], *out = &texts[1]; /* without a decoder: texts with spaces between */
	for (size_t i = 0, n; i < in->n && !st; i++) {
		const char *s = lora__tok_text(in, i, &n);
		if (i) st = lora__tok_put(c->ctx, &out->bytes, " ", 1);
		if (!st) st = lora__tok_put(c->ctx, &out->bytes, s, n);
	}
	*last = 1;
	return st;
}

lora_status lora__tokenizer_decode(const lora_tokenizer *t, const int32_t *ids, size_t count, char *buf, size_t size, size_t *needed)
{
	lora__tok_texts texts[2] = { 0 };
	lora__tok_call c;
	int last = 0;
	lora_status st = lora__tok_call_begin(t, &c);
	if (!st) st = texts_of(t, ids, count, &texts[0]);
	if (!st) st = run_decoders(&c, texts, &last);
	if (!st) {
		const lora__tok_buf *b = &texts[last].bytes;
		*needed = b->n;
		if (size < b->n + 1) {
			st = LORA_E_LIMIT;
			if (size) st = lora__fail(t->ctx, st, "tokenizer", "%zu bytes of text and a NUL, room for %zu", b->n, size);
		} else {
			if (b->n) memcpy(buf, b->p, b->n);
			buf[b->n] = 0;
		}
	}
	for (int i = 0; i < 2; i++) {
		lora__free(t->ctx, texts[i].bytes.p);
		lora__free(t->ctx, texts[i].ends);
	}
	lora__tok_call_end(&c);
	return st;
}

int32_t lora__tokenizer_id(const lora_tokenizer *t, const char *token)
{
	size_t n = strlen(token);
	int64_t id = t->added.n ? lora__map_find(&t->added.by_text, token, n) : -1;
	return (int32_t)(id >= 0 ? id : lora__tok_vocab_find(&t->vocab, token, n));
}
