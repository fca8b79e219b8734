/* Normalizers over characters and patterns: Lowercase, Strip, StripAccents, Replace, Prepend, Nmt, ByteLevel.
 * Source: huggingface/tokenizers, normalizers/{utils,strip,replace,prepend,unicode,byte_level}.rs; Nmt is SentencePiece's nmt rule set. */
#include "tokenizer/tok.h"

static lora_status lowercase(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	lora_status st = lora__tok_room(c->ctx, out, n);
	(void)self, (void)first;
	for (size_t i = 0, step; i < n && !st; i += step) st = lora__tok_put_lower(c->ctx, out, lora__tok_char(s + i, &step));
	return st;
}

typedef struct strip_self { int left, right; } strip_self;

static lora_status strip_build(lora__tok_build *b, const json_t *j, void **self)
{
	strip_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_bool(b, j, "strip_left", 1, &p->left);
	return st ? st : lora__tok_bool(b, j, "strip_right", 1, &p->right);
}

static lora_status strip(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	const strip_self *p = self;
	size_t from = 0, to = n, step;
	while (p->left && from < n && lora__tok_is_space(lora__tok_char(s + from, &step))) from += step, *first = 0;
	while (p->right && to > from) {
		size_t k = to - 1;
		while (k > from && ((unsigned char)s[k] & 0xc0) == 0x80) k--;
		if (!lora__tok_is_space(lora__tok_char(s + k, &step))) break;
		to = k;
	}
	return lora__tok_put(c->ctx, out, s + from, to - from);
}

static lora_status strip_accents(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	lora_status st = LORA_OK;
	(void)self;
	for (size_t i = 0, step; i < n && !st; i += step) {
		if (!lora__tok_is_mark(lora__tok_char(s + i, &step))) st = lora__tok_put(c->ctx, out, s + i, step);
		else if (!i) *first = 0;
	}
	return st;
}

typedef struct replace_self { lora__tok_pattern pattern; char *content; size_t n; } replace_self;

static lora_status replace_build(lora__tok_build *b, const json_t *j, void **self)
{
	const char *s;
	size_t n;
	replace_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_required(b, j, "content", &s, &n);
	if (st) return st;
	p->n = n, p->content = lora__tok_copy(b, s, n);
	return p->content ? lora__tok_pattern_json(b, j, "pattern", &p->pattern) : LORA_E_MEMORY;
}

static void replace_drop(lora_context *ctx, void *self)
{
	replace_self *p = self;
	if (!p) return;
	lora__tok_pattern_free(ctx, &p->pattern);
	lora__free(ctx, p->content);
	lora__free(ctx, p);
}

/* What replaces a match comes from the match's last character; so the first character of the text stays the first only when the match that
 * begins there is one character long. */
static lora_status replace(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	const replace_self *p = self;
	lora__tok_iter it = lora__tok_matches(&p->pattern, s, n);
	size_t done = 0, start, end;
	int found;
	lora_status st = lora__tok_room(c->ctx, out, n);
	while (!st) {
		st = lora__tok_next(c, &it, &found, &start, &end);
		if (st || !found) break;
		st = lora__tok_put(c->ctx, out, s + done, start - done);
		if (!st) st = lora__tok_put(c->ctx, out, p->content, p->n);
		if (!start && end && (!p->n || end > lora__tok_char_bytes(s))) *first = 0;
		done = end;
	}
	return st ? st : lora__tok_put(c->ctx, out, s + done, n - done);
}

static lora_status prepend_build(lora__tok_build *b, const json_t *j, void **self)
{
	const char *s;
	size_t n;
	lora_status st = lora__tok_required(b, j, "prepend", &s, &n);
	if (st) return st;
	if (memchr(s, 0, n)) return lora__tok_fail(b, LORA_E_FORMAT, "prepend", "holds a NUL");
	*self = lora__tok_copy(b, s, n);
	return *self ? LORA_OK : LORA_E_MEMORY;
}

static lora_status prepend(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	(void)first;
	lora_status st = n ? lora__tok_put(c->ctx, out, self, strlen(self)) : LORA_OK;
	return st ? st : lora__tok_put(c->ctx, out, s, n);
}

static lora_status nmt(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	lora_status st = LORA_OK;
	(void)self;
	for (size_t i = 0, step; i < n && !st; i += step) {
		uint32_t u = lora__tok_char(s + i, &step);
		int gone = (u >= 1 && u <= 8) || u == 0xb || (u >= 0xe && u <= 0x1f) || u == 0x7f || u == 0x8f || u == 0x9f;
		int space = u == 9 || u == 0xa || u == 0xc || u == 0xd || u == 0x1680 || (u >= 0x200b && u <= 0x200f) || u == 0x2028 || u == 0x2029 ||
			u == 0x2581 || u == 0xfeff || u == 0xfffd;
		if (gone) {
			if (!i) *first = 0;
			continue;
		}
		st = space ? lora__tok_put(c->ctx, out, " ", 1) : lora__tok_put(c->ctx, out, s + i, step);
	}
	return st;
}

static lora_status byte_level(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	(void)self, (void)first;
	return lora__tok_put_byte_chars(c->ctx, out, s, n);
}

const lora__tok_norm lora__norms_text[] = {
	{ "Lowercase", NULL, lowercase, NULL },
	{ "Strip", strip_build, strip, NULL },
	{ "StripAccents", NULL, strip_accents, NULL },
	{ "Replace", replace_build, replace, replace_drop },
	{ "Prepend", prepend_build, prepend, NULL },
	{ "Nmt", NULL, nmt, NULL },
	{ "ByteLevel", NULL, byte_level, NULL },
	{ 0 },
};
