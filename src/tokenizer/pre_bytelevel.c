/* ByteLevel: words by GPT-2's pattern, then every byte as a character of its own: printable Latin-1 stands for itself, the other 68 bytes
 * for U+0100 and up. Source: openai/gpt-2 src/encoder.py bytes_to_unicode(); huggingface/tokenizers, pre_tokenizers/byte_level.rs. */
#include "tokenizer/tok.h"

static const char words[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

uint32_t lora__tok_byte_char(uint8_t b)
{
	if (b <= 0x20) return 0x100u + b;
	if (b >= 0x7f && b <= 0xa0) return 0x121u + (b - 0x7fu);
	return b == 0xad ? 0x143u : b;
}

int lora__tok_char_byte(uint32_t c)
{
	if (c >= 0x100 && c <= 0x120) return (int)(c - 0x100);
	if (c >= 0x121 && c <= 0x142) return (int)(c - 0x121 + 0x7f);
	if (c == 0x143) return 0xad;
	return (c > 0x20 && c < 0x7f) || (c > 0xa0 && c <= 0xff && c != 0xad) ? (int)c : -1;
}

lora_status lora__tok_put_byte_chars(lora_context *ctx, lora__tok_buf *out, const char *s, size_t n)
{
	size_t most;
	if (!lora__mul_size(n, 2, &most)) return lora__fail(ctx, LORA_E_MEMORY, "tokenizer", "text too long");
	lora_status st = lora__tok_room(ctx, out, most);
	if (st) return st;
	char *p = out->p + out->n;
	for (size_t i = 0; i < n; i++) {
		unsigned char b = (unsigned char)s[i];
		if (b > 0x20 && b < 0x7f) *p++ = (char)b;
		else p += lora__tok_encode_char(lora__tok_byte_char(b), p);
	}
	out->n = (size_t)(p - out->p);
	return LORA_OK;
}

typedef struct byte_self { int prefix, use_regex; lora__tok_pattern pattern; } byte_self;

static lora_status build(lora__tok_build *b, const json_t *j, void **self)
{
	byte_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_bool(b, j, "add_prefix_space", 1, &p->prefix);
	if (!st) st = lora__tok_bool(b, j, "use_regex", 1, &p->use_regex);
	if (!st && p->use_regex) st = lora__tok_pattern_regex(b, words, sizeof words - 1, &p->pattern);
	return st;
}

static void drop(lora_context *ctx, void *self)
{
	if (self) lora__tok_pattern_free(ctx, &((byte_self *)self)->pattern);
	lora__free(ctx, self);
}

static lora_status give(lora__tok_call *c, int stage, const char *s, size_t n, int first)
{
	lora__tok_buf *out = &c->stage[stage];
	out->n = 0;
	lora_status st = lora__tok_put_byte_chars(c->ctx, out, s, n);
	return st ? st : lora__tok_piece(c, stage + 1, out->p, out->n, first);
}

static lora_status run(const void *self, lora__tok_call *c, int stage, const char *s, size_t n, int first)
{
	const byte_self *p = self;
	lora__tok_buf prefixed = { 0 };
	lora_status st = LORA_OK;
	if (p->prefix && s[0] != ' ') {
		st = lora__tok_put(c->ctx, &prefixed, " ", 1);
		if (!st) st = lora__tok_put(c->ctx, &prefixed, s, n);
		s = prefixed.p, n = prefixed.n;
	}
	if (!p->use_regex) {
		if (!st) st = give(c, stage, s, n, first);
		goto done;
	}
	lora__tok_iter it = { 0 };
	if (!st) it = lora__tok_matches(&p->pattern, s, n);
	for (size_t at = 0, start, end; !st && at < n; at = end) {
		int found;
		if ((st = lora__tok_next(c, &it, &found, &start, &end))) break;
		if (!found) start = end = n;
		if (start > at) st = give(c, stage, s + at, start - at, first && !at);
		if (!st && end > start) st = give(c, stage, s + start, end - start, first && !start);
	}
done:
	lora__free(c->ctx, prefixed.p);
	return st;
}

const lora__tok_pre lora__pres_bytelevel[] = { { "ByteLevel", build, run, drop }, { 0 } };
