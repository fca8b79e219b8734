/* Decoders that make bytes: ByteLevel, ByteFallback. Both may meet bytes that are no UTF-8 and then write U+FFFD: ByteLevel one for each
 * maximal part of a character (Unicode 15, section 3.9, table 3-8), ByteFallback one for each byte of the run.
 * Source: huggingface/tokenizers, pre_tokenizers/byte_level.rs and decoders/byte_fallback.rs. */
#include "tokenizer/tok.h"

static const char replacement[] = "\xef\xbf\xbd";

/* Length of what U+FFFD stands for at s, which is not the beginning of a valid character. */
static size_t bad_bytes(const unsigned char *s, size_t n)
{
	unsigned char c = s[0];
	if (c < 0xc2 || c > 0xf4) return 1;
	unsigned char lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
	size_t want = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4, k = 1;
	if (k < n && k < want && s[k] >= lo && s[k] <= hi)
		for (k = 2; k < n && k < want && s[k] >= 0x80 && s[k] <= 0xbf; k++) continue;
	return k;
}

static lora_status put_lossy(lora_context *ctx, lora__tok_buf *out, const char *s, size_t n)
{
	lora_status st = LORA_OK;
	while (n && !st) {
		size_t bad = n;
		int good = lora__utf8_valid(s, n, &bad);
		st = lora__tok_put(ctx, out, s, bad);
		if (good || st) break;
		st = lora__tok_put(ctx, out, replacement, 3);
		bad += bad_bytes((const unsigned char *)s + bad, n - bad);
		s += bad, n -= bad;
	}
	return st;
}

/* A token with a character that stands for no byte is taken as it is. */
static lora_status byte_level(const void *self, lora__tok_call *c, const lora__tok_texts *in, lora__tok_texts *out)
{
	lora__tok_buf bytes = { 0 };
	lora_status st = LORA_OK;
	(void)self;
	for (size_t i = 0, n; i < in->n && !st; i++) {
		const char *s = lora__tok_text(in, i, &n);
		size_t from = bytes.n, k = 0, step;
		for (; k < n && !st; k += step) {
			int b = lora__tok_char_byte(lora__tok_char(s + k, &step));
			if (b < 0) break;
			char byte = (char)b;
			st = lora__tok_put(c->ctx, &bytes, &byte, 1);
		}
		if (k < n && !st) bytes.n = from, st = lora__tok_put(c->ctx, &bytes, s, n);
	}
	if (!st) st = put_lossy(c->ctx, &out->bytes, bytes.p, bytes.n);
	if (!st) st = lora__tok_text_end(c->ctx, out);
	lora__free(c->ctx, bytes.p);
	return st;
}

static lora_status flush(lora__tok_call *c, lora__tok_buf *run, lora__tok_texts *out)
{
	lora_status st = LORA_OK;
	if (!run->n) return LORA_OK;
	if (lora__utf8_valid(run->p, run->n, NULL)) {
		st = lora__tok_put(c->ctx, &out->bytes, run->p, run->n);
		if (!st) st = lora__tok_text_end(c->ctx, out);
	} else {
		for (size_t i = 0; i < run->n && !st; i++) {
			st = lora__tok_put(c->ctx, &out->bytes, replacement, 3);
			if (!st) st = lora__tok_text_end(c->ctx, out);
		}
	}
	run->n = 0;
	return st;
}

static lora_status byte_fallback(const void *self, lora__tok_call *c, const lora__tok_texts *in, lora__tok_texts *out)
{
	lora__tok_buf run = { 0 };
	lora_status st = LORA_OK;
	(void)self;
	for (size_t i = 0, n; i < in->n && !st; i++) {
		const char *s = lora__tok_text(in, i, &n);
		int b = lora__tok_byte_token(s, n);
		if (b >= 0) {
			char byte = (char)b;
			st = lora__tok_put(c->ctx, &run, &byte, 1);
			continue;
		}
		st = flush(c, &run, out);
		if (!st) st = lora__tok_put(c->ctx, &out->bytes, s, n);
		if (!st) st = lora__tok_text_end(c->ctx, out);
	}
	if (!st) st = flush(c, &run, out);
	lora__free(c->ctx, run.p);
	return st;
}

const lora__tok_dec lora__decs_byte[] = {
	{ "ByteLevel", NULL, byte_level, NULL },
	{ "ByteFallback", NULL, byte_fallback, NULL },
	{ 0 },
};
