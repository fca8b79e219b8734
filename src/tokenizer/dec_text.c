/* Decoders over whole texts: Fuse, Strip, Replace, Metaspace, BPEDecoder. Source: huggingface/tokenizers, decoders/. */
#include "tokenizer/tok.h"

static lora_status fuse(const void *self, lora__tok_call *c, const lora__tok_texts *in, lora__tok_texts *out)
{
	(void)self;
	lora_status st = lora__tok_put(c->ctx, &out->bytes, in->bytes.p, in->bytes.n);
	return st ? st : lora__tok_text_end(c->ctx, out);
}

typedef struct strip_self { uint32_t c; int64_t start, stop; } strip_self;

static lora_status strip_build(lora__tok_build *b, const json_t *j, void **self)
{
	strip_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_one_char(b, j, "content", NULL, &p->c);
	if (!st) st = lora__tok_int(b, j, "start", 0, 0, INT32_MAX, &p->start);
	return st ? st : lora__tok_int(b, j, "stop", 0, 0, INT32_MAX, &p->stop);
}

static lora_status strip(const void *self, lora__tok_call *c, const lora__tok_texts *in, lora__tok_texts *out)
{
	const strip_self *p = self;
	char mark[4];
	size_t m = lora__tok_encode_char(p->c, mark);
	lora_status st = LORA_OK;
	for (size_t i = 0, n; i < in->n && !st; i++) {
		const char *s = lora__tok_text(in, i, &n);
		for (int64_t k = 0; k < p->start && n >= m && !memcmp(s, mark, m); k++) s += m, n -= m;
		for (int64_t k = 0; k < p->stop && n >= m && !memcmp(s + n - m, mark, m); k++) n -= m;
		st = lora__tok_put(c->ctx, &out->bytes, s, n);
		if (!st) st = lora__tok_text_end(c->ctx, out);
	}
	return st;
}

typedef struct replace_self { lora__tok_pattern pattern; char *content; size_t n; } replace_self;

static lora_status replace_build(lora__tok_build *b, const json_t *j, void **self)
{
	const char *s;
	replace_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_required(b, j, "content", &s, &p->n);
	if (st) return st;
	p->content = lora__tok_copy(b, s, p->n);
	return p->content ? lora__tok_pattern_json(b, j, "pattern", &p->pattern) : LORA_E_MEMORY;
}

static lora_status bpe_build(lora__tok_build *b, const json_t *j, void **self)
{
	const char *s;
	replace_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_string(b, j, "suffix", "</w>", &s, &p->pattern.n);
	if (st) return st;
	if (!p->pattern.n) return lora__tok_fail(b, LORA_E_UNSUPPORTED, "suffix", "empty text");
	p->pattern.literal = lora__tok_copy(b, s, p->pattern.n);
	return p->pattern.literal ? LORA_OK : LORA_E_MEMORY;
}

static void replace_drop(lora_context *ctx, void *self)
{
	replace_self *p = self;
	if (!p) return;
	lora__tok_pattern_free(ctx, &p->pattern);
	lora__free(ctx, p->content);
	lora__free(ctx, p);
}

static lora_status replace_one(const lora__tok_pattern *p, lora__tok_call *c, const char *s, size_t n, const char *with, size_t m, lora__tok_buf *out)
{
	lora__tok_iter it = lora__tok_matches(p, s, n);
	size_t done = 0, start, end;
	int found;
	lora_status st = LORA_OK;
	while (!st) {
		st = lora__tok_next(c, &it, &found, &start, &end);
		if (st || !found) break;
		st = lora__tok_put(c->ctx, out, s + done, start - done);
		if (!st) st = lora__tok_put(c->ctx, out, with, m);
		done = end;
	}
	return st ? st : lora__tok_put(c->ctx, out, s + done, n - done);
}

static lora_status replace(const void *self, lora__tok_call *c, const lora__tok_texts *in, lora__tok_texts *out)
{
	const replace_self *p = self;
	lora_status st = LORA_OK;
	for (size_t i = 0, n; i < in->n && !st; i++) {
		const char *s = lora__tok_text(in, i, &n);
		st = replace_one(&p->pattern, c, s, n, p->content, p->n, &out->bytes);
		if (!st) st = lora__tok_text_end(c->ctx, out);
	}
	return st;
}

/* The suffix of a word becomes a space, but not behind the last. */
static lora_status bpe(const void *self, lora__tok_call *c, const lora__tok_texts *in, lora__tok_texts *out)
{
	const replace_self *p = self;
	lora_status st = LORA_OK;
	for (size_t i = 0, n; i < in->n && !st; i++) {
		const char *s = lora__tok_text(in, i, &n);
		st = replace_one(&p->pattern, c, s, n, " ", i + 1 < in->n, &out->bytes);
		if (!st) st = lora__tok_text_end(c->ctx, out);
	}
	return st;
}

typedef struct meta_self { uint32_t c; int drop_first; } meta_self;

static lora_status meta_build(lora__tok_build *b, const json_t *j, void **self)
{
	meta_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	const char *s;
	size_t n;
	int add;
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_one_char(b, j, "replacement", "\xe2\x96\x81", &p->c);
	if (!st) st = lora__tok_bool(b, j, "add_prefix_space", 1, &add);
	if (!st) st = lora__tok_string(b, j, "prepend_scheme", add ? "always" : "never", &s, &n);
	if (st) return st;
	p->drop_first = strcmp(s, "never") != 0;
	if (p->drop_first && strcmp(s, "always") && strcmp(s, "first"))
		return lora__tok_fail(b, LORA_E_UNSUPPORTED, "prepend_scheme", "unknown: %s", lora__quote(s).text);
	return LORA_OK;
}

static lora_status meta(const void *self, lora__tok_call *c, const lora__tok_texts *in, lora__tok_texts *out)
{
	const meta_self *p = self;
	lora_status st = LORA_OK;
	for (size_t i = 0, n; i < in->n && !st; i++) {
		const char *s = lora__tok_text(in, i, &n);
		for (size_t k = 0, step; k < n && !st; k += step) {
			if (lora__tok_char(s + k, &step) != p->c) st = lora__tok_put(c->ctx, &out->bytes, s + k, step);
			else if (i || !p->drop_first) st = lora__tok_put(c->ctx, &out->bytes, " ", 1);
		}
		if (!st) st = lora__tok_text_end(c->ctx, out);
	}
	return st;
}

const lora__tok_dec lora__decs_text[] = {
	{ "Fuse", NULL, fuse, NULL },
	{ "Strip", strip_build, strip, NULL },
	{ "Replace", replace_build, replace, replace_drop },
	{ "Metaspace", meta_build, meta, NULL },
	{ "BPEDecoder", bpe_build, bpe, replace_drop },
	{ 0 },
};
