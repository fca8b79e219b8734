/* BertNormalizer: control characters dropped and white space made plain, spaces around Chinese characters, accents stripped, lower case.
 * BertWords, for GGUF vocabularies: the words themselves, each with U+2581 in front, as llama.cpp cuts them; of a character's decomposition only the
 * first part stays (Hangul too), and every mark goes.
 * Source: huggingface/tokenizers, normalizers/bert.rs, after google-research/bert, tokenization.py; llama.cpp, llama-vocab.cpp, llm_tokenizer_wpm_session. */
#include "tokenizer/tok.h"

typedef struct bert_self { int clean, chinese, accents, lower; } bert_self;

static lora_status build(lora__tok_build *b, const json_t *j, void **self)
{
	bert_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_bool(b, j, "clean_text", 1, &p->clean);
	if (!st) st = lora__tok_bool(b, j, "handle_chinese_chars", 1, &p->chinese);
	if (!st) st = lora__tok_bool(b, j, "lowercase", 1, &p->lower);
	if (!st) st = lora__tok_bool(b, j, "strip_accents", p->lower, &p->accents); /* null: as lowercase says */
	return st;
}

static int is_chinese(uint32_t c)
{
	return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) || (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
		(c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) || (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static lora_status clean(const bert_self *p, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	lora_status st = LORA_OK;
	for (size_t i = 0, step; i < n && !st; i += step) {
		uint32_t u = lora__tok_char(s + i, &step);
		int white = u == '\t' || u == '\n' || u == '\r';
		if (p->clean && (!u || u == 0xfffd || (!white && lora__tok_is_other(u)))) {
			if (!i) *first = 0;
			continue;
		}
		if (p->clean && (white || lora__tok_is_space(u))) st = lora__tok_put(c->ctx, out, " ", 1);
		else if (p->chinese && is_chinese(u)) {
			char text[6] = { ' ' };
			memcpy(text + 1, s + i, step);
			text[step + 1] = ' ';
			st = lora__tok_put(c->ctx, out, text, step + 2);
		} else st = lora__tok_put(c->ctx, out, s + i, step);
	}
	return st;
}

static lora_status run(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	const bert_self *p = self;
	lora__tok_buf cleaned = { 0 }, plain = { 0 };
	lora_status st = clean(p, c, s, n, &cleaned, first);
	if (!st && p->accents) {
		st = lora__tok_normal_form(c->ctx, cleaned.p, cleaned.n, 0, 0, &plain);
		size_t to = 0;
		for (size_t i = 0, step; i < plain.n && !st; i += step) {
			int mark = lora__tok_is_nonspacing(lora__tok_char(plain.p + i, &step));
			if (mark && !i) *first = 0;
			if (mark) continue;
			memmove(plain.p + to, plain.p + i, step);
			to += step;
		}
		plain.n = to;
	}
	const lora__tok_buf *last = p->accents ? &plain : &cleaned;
	if (!st && !p->lower) st = lora__tok_put(c->ctx, out, last->p, last->n);
	for (size_t i = 0, step; p->lower && i < last->n && !st; i += step)
		st = lora__tok_put_lower(c->ctx, out, lora__tok_char(last->p + i, &step));
	lora__free(c->ctx, cleaned.p);
	lora__free(c->ctx, plain.p);
	return st;
}

static lora_status words_build(lora__tok_build *b, const json_t *j, void **self)
{
	if (!b->source) return lora__tok_fail(b, LORA_E_UNSUPPORTED, "type", "unknown: BertWords");
	return build(b, j, self);
}

static lora_status words(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	const bert_self *p = self;
	lora_status st = LORA_OK;
	int open = 0;
	(void)first;
	for (size_t i = 0, step; i < n && !st; i += step) {
		uint32_t u = lora__tok_char(s + i, &step);
		if (p->accents) u = lora__tok_base(u);
		int space = lora__tok_is_space(u), alone = lora__tok_is_punct(u) || is_chinese(u);
		if (!space && (!u || u == 0xfffd || lora__tok_is_other(u) || (p->accents && lora__tok_is_mark(u)))) continue;
		if ((space || alone) && open) st = lora__tok_put(c->ctx, out, " ", 1), open = 0;
		if (space || st) continue;
		if (!open) st = lora__tok_put(c->ctx, out, "\xe2\x96\x81", 3);
		if (!st) st = p->lower ? lora__tok_put_lower(c->ctx, out, u) : lora__tok_put_char(c->ctx, out, u);
		if (!st && alone) st = lora__tok_put(c->ctx, out, " ", 1);
		open = !alone;
	}
	return st;
}

const lora__tok_norm lora__norms_bert[] = { { "BertNormalizer", build, run, NULL }, { "BertWords", words_build, words, NULL }, { 0 } };
