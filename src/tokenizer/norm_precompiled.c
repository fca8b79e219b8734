/* Precompiled: SentencePiece's character map. The map, base64 in the file, is
 *   u32 bytes of the trie | trie: a double array of u32 units | replacement texts, each ended by NUL
 * A trie value is the offset of a replacement. Of the prefixes that match a grapheme cluster of fewer than 6 bytes the shortest decides and
 * replaces the whole cluster; else each character is looked up by itself. That is what the tokenizers library does.
 * Source: darts-clone (double array units), sentencepiece normalizer.cc, huggingface/tokenizers normalizers/precompiled.rs. */
#include "tokenizer/tok.h"

static int base64_value(int c)
{
	if (c >= 'A' && c <= 'Z') return c - 'A';
	if (c >= 'a' && c <= 'z') return c - 'a' + 26;
	if (c >= '0' && c <= '9') return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Bytes written, or SIZE_MAX when s is not base64. */
static size_t base64(const char *s, size_t n, uint8_t *out)
{
	size_t k = 0;
	if (n % 4) return SIZE_MAX;
	for (size_t i = 0; i < n; i += 4) {
		int pad = i + 4 == n ? (s[n - 1] == '=') + (s[n - 1] == '=' && s[n - 2] == '=') : 0;
		uint32_t v = 0;
		for (int q = 0; q < 4; q++) {
			int d = q >= 4 - pad ? 0 : base64_value((unsigned char)s[i + (size_t)q]);
			if (d < 0) return SIZE_MAX;
			v = v << 6 | (uint32_t)d;
		}
		out[k++] = (uint8_t)(v >> 16);
		if (pad < 2) out[k++] = (uint8_t)(v >> 8);
		if (pad < 1) out[k++] = (uint8_t)v;
	}
	return k;
}

lora_status lora__charsmap_open(lora__tok_build *b, uint8_t *bytes, size_t n, lora__charsmap *p)
{
	size_t bad;
	const uint8_t *q = p->bytes = bytes;
	if (n < 4) return lora__tok_fail(b, LORA_E_FORMAT, "precompiled_charsmap", "only %zu bytes", n);
	uint64_t trie = (uint64_t)q[0] | (uint64_t)q[1] << 8 | (uint64_t)q[2] << 16 | (uint64_t)q[3] << 24;
	if (trie % 4 || trie == 0 || trie > n - 4)
		return lora__tok_fail(b, LORA_E_FORMAT, "precompiled_charsmap", "trie of %llu bytes in a map of %zu", (unsigned long long)trie, n);
	p->n_units = (size_t)trie / 4;
	p->units = lora__calloc(b->ctx, p->n_units, sizeof *p->units);
	if (!p->units) return LORA_E_MEMORY;
	for (size_t i = 0; i < p->n_units; i++, q += 4)
		p->units[i] = (uint32_t)q[4] | (uint32_t)q[5] << 8 | (uint32_t)q[6] << 16 | (uint32_t)q[7] << 24;
	p->texts = (const char *)p->bytes + 4 + trie, p->n_texts = n - 4 - (size_t)trie;
	if (!lora__utf8_valid(p->texts, p->n_texts, &bad))
		return lora__tok_fail(b, LORA_E_FORMAT, "precompiled_charsmap", "replacement texts are not UTF-8 at byte %zu", bad);
	return LORA_OK;
}

static lora_status build(lora__tok_build *b, const json_t *j, void **self)
{
	const char *s;
	size_t n;
	lora__charsmap *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_required(b, j, "precompiled_charsmap", &s, &n);
	if (st) return st;
	uint8_t *bytes = lora__alloc(b->ctx, n + 4);
	if (!bytes) return LORA_E_MEMORY;
	size_t got = base64(s, n, bytes);
	if (got != SIZE_MAX) return lora__charsmap_open(b, bytes, got, p);
	lora__free(b->ctx, bytes);
	return lora__tok_fail(b, LORA_E_FORMAT, "precompiled_charsmap", "not base64");
}

void lora__charsmap_free(lora_context *ctx, lora__charsmap *p)
{
	lora__free(ctx, p->bytes);
	lora__free(ctx, p->units);
	*p = (lora__charsmap){ 0 };
}

static void drop(lora_context *ctx, void *self)
{
	if (self) lora__charsmap_free(ctx, self);
	lora__free(ctx, self);
}

static size_t unit_offset(uint32_t u) { return (size_t)(u >> 10) << ((u & 1u << 9) >> 6); }

/* Every index is checked: the trie is the file's. */
const char *lora__charsmap_find(const lora__charsmap *p, const char *s, size_t n, int longest, size_t *text_n, size_t *used)
{
	const char *found = NULL;
	if (!p->n_units) return NULL;
	size_t at = unit_offset(p->units[0]);
	for (size_t i = 0; i < n && !(found && !longest); i++) {
		uint8_t c = (uint8_t)s[i];
		if (!c) break;
		at ^= c;
		if (at >= p->n_units) break;
		uint32_t u = p->units[at];
		if ((u & (1u << 31 | 0xff)) != c) break;
		at ^= unit_offset(u);
		if (at >= p->n_units) break;
		if (!(u >> 8 & 1)) continue;
		size_t value = p->units[at] & 0x7fffffff;
		if (value >= p->n_texts || ((uint8_t)p->texts[value] & 0xc0) == 0x80) break;
		const char *end = memchr(p->texts + value, 0, p->n_texts - value);
		*text_n = end ? (size_t)(end - p->texts) - value : p->n_texts - value;
		found = p->texts + value, *used = i + 1;
	}
	return found;
}

static lora_status run(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	const lora__charsmap *p = self;
	lora_status st = LORA_OK;
	(void)first;
	for (size_t i = 0, cluster; i < n && !st; i += cluster) {
		size_t text_n, step, used;
		cluster = lora__tok_grapheme(s + i, n - i);
		const char *text = cluster < 6 ? lora__charsmap_find(p, s + i, cluster, 0, &text_n, &used) : NULL;
		if (text) {
			st = lora__tok_put(c->ctx, out, text, text_n);
			continue;
		}
		for (size_t k = 0; k < cluster && !st; k += step) {
			step = lora__tok_char_bytes(s + i + k);
			text = lora__charsmap_find(p, s + i + k, step, 0, &text_n, &used);
			st = text ? lora__tok_put(c->ctx, out, text, text_n) : lora__tok_put(c->ctx, out, s + i + k, step);
		}
	}
	return st;
}

const lora__tok_norm lora__norms_precompiled[] = { { "Precompiled", build, run, drop }, { 0 } };
