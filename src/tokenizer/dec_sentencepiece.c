/* SentencePiece's way back: U+2581 becomes a space, those at the beginning go where the normalizer put one there, byte tokens become characters
 * (a byte that belongs to none U+FFFD). Control tokens come here as empty texts.
 * Source: sentencepiece, sentencepiece_processor.cc (Decode). */
#include "tokenizer/tok.h"

typedef struct spm_self { int drops, drops_all; } spm_self;

static lora_status build(lora__tok_build *b, const json_t *j, void **self)
{
	spm_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	(void)j;
	if (!p) return LORA_E_MEMORY;
	p->drops = !b->source->keep_prefix && (b->source->dummy_prefix || b->source->remove_spaces), p->drops_all = b->source->remove_spaces;
	return LORA_OK;
}

static lora_status put_bytes(lora__tok_call *c, lora__tok_buf *bytes, lora__tok_buf *out)
{
	lora_status st = LORA_OK;
	for (size_t at = 0, bad = 0; at < bytes->n && !st; ) {
		bad = bytes->n - at;
		int good = lora__utf8_valid(bytes->p + at, bytes->n - at, &bad);
		st = lora__tok_put(c->ctx, out, bytes->p + at, bad);
		if (!st && !good) st = lora__tok_put(c->ctx, out, "\xef\xbf\xbd", 3);
		at += bad + !good;
	}
	bytes->n = 0;
	return st;
}

static lora_status put_text(const char *s, size_t n, lora__tok_call *c, lora__tok_buf *out)
{
	lora_status st = LORA_OK;
	for (size_t k = 0; k < n && !st; ) {
		const char *m = memmem(s + k, n - k, "\xe2\x96\x81", 3);
		size_t end = m ? (size_t)(m - s) : n;
		st = lora__tok_put(c->ctx, out, s + k, end - k);
		if (!st && m) st = lora__tok_put(c->ctx, out, " ", 1);
		k = m ? end + 3 : n;
	}
	return st;
}

static lora_status run(const void *self, lora__tok_call *c, const lora__tok_texts *in, lora__tok_texts *out)
{
	const spm_self *p = self;
	lora__tok_buf bytes = { 0 };
	int begins = 1, seen = 0;
	lora_status st = LORA_OK;
	for (size_t i = 0, n; i < in->n && !st; i++) {
		const char *s = lora__tok_text(in, i, &n);
		int byte = lora__tok_byte_token(s, n);
		if (byte >= 0) {
			char b = (char)byte;
			st = lora__tok_put(c->ctx, &bytes, &b, 1);
			continue;
		}
		st = put_bytes(c, &bytes, &out->bytes);
		if (seen || out->bytes.n) begins = 0;
		seen = 0;
		if (begins && p->drops && n >= 3 && !memcmp(s, "\xe2\x96\x81", 3)) s += 3, n -= 3, seen = !p->drops_all;
		if (!st) st = put_text(s, n, c, &out->bytes);
	}
	if (!st) st = put_bytes(c, &bytes, &out->bytes);
	lora__free(c->ctx, bytes.p);
	return st ? st : lora__tok_text_end(c->ctx, out);
}

const lora__tok_dec lora__dec_sentencepiece = { "SentencePiece", build, run, NULL };
