/* SentencePiece's normalizer: character map, white space, the dummy prefix. Not a part of tokenizer.json files; made for SentencePiece files.
 *
 *   user tokens stay as they are; else the longest prefix that the map has is replaced; then runs of spaces become one and those at both ends
 *   go (remove_spaces), a space is put in front or behind (dummy_prefix, space_behind), and spaces are written as U+2581 (escape_spaces)
 *
 * Source: sentencepiece, normalizer.cc (Normalize, NormalizePrefix). */
#include "tokenizer/tok.h"

static const char mark[] = "\xe2\x96\x81";

typedef struct spm_self { lora__charsmap map; lora__tok_trie user; int dummy, remove, escape, behind, once; } spm_self;

static lora_status build(lora__tok_build *b, const json_t *j, void **self)
{
	const lora__tok_source *src = b->source;
	spm_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	(void)j;
	if (!p) return LORA_E_MEMORY;
	p->dummy = src->dummy_prefix, p->remove = src->remove_spaces, p->escape = src->escape_spaces, p->behind = src->space_behind;
	p->once = src->prefix_once;
	lora_status st = lora__tok_source_user(b, &p->user);
	if (st || !src->n_charsmap) return st;
	uint8_t *copy = lora__alloc(b->ctx, src->n_charsmap);
	if (!copy) return LORA_E_MEMORY;
	memcpy(copy, src->charsmap, src->n_charsmap);
	return lora__charsmap_open(b, copy, src->n_charsmap, &p->map);
}

static void drop(lora_context *ctx, void *self)
{
	spm_self *p = self;
	if (!p) return;
	lora__charsmap_free(ctx, &p->map);
	lora__tok_trie_free(ctx, &p->user);
	lora__free(ctx, p);
}

/* What stands for the beginning of s, and how much of s that is. */
static const char *prefix(const spm_self *p, const char *s, size_t n, size_t *out_n, size_t *used)
{
	if (lora__tok_trie_longest(&p->user, s, n, used) >= 0) {
		*out_n = *used;
		return s;
	}
	const char *text = lora__charsmap_find(&p->map, s, n, 1, out_n, used);
	if (text && (*used == n || ((unsigned char)s[*used] & 0xc0) != 0x80)) return text; /* a map that cuts characters is malformed */
	*out_n = *used = lora__tok_char_bytes(s);
	return s;
}

static lora_status space(const spm_self *p, lora__tok_call *c, lora__tok_buf *out)
{
	return p->escape ? lora__tok_put(c->ctx, out, mark, 3) : lora__tok_put(c->ctx, out, " ", 1);
}

static lora_status run(const void *self, lora__tok_call *c, const char *s, size_t n, lora__tok_buf *out, int *first)
{
	const spm_self *p = self;
	int after_space = p->remove, dummy = p->dummy && (*first || !p->once);
	size_t text_n, used;
	lora_status st = LORA_OK;
	while (p->remove && n) {
		const char *text = prefix(p, s, n, &text_n, &used);
		if (text_n != 1 || *text != ' ') break;
		s += used, n -= used;
	}
	if (!n) return LORA_OK;
	if (dummy && !p->behind) st = space(p, c, out);
	for (; n && !st; s += used, n -= used) {
		const char *text = prefix(p, s, n, &text_n, &used);
		while (after_space && text_n && *text == ' ') text++, text_n--;
		for (size_t i = 0; i < text_n && !st; ) {
			const char *gap = p->escape ? memchr(text + i, ' ', text_n - i) : NULL;
			size_t end = gap ? (size_t)(gap - text) : text_n;
			st = lora__tok_put(c->ctx, out, text + i, end - i);
			if (!st && gap) st = space(p, c, out);
			i = end + (gap != NULL);
		}
		if (text_n) after_space = text[text_n - 1] == ' ';
		if (!p->remove) after_space = 0;
	}
	if (st) return st;
	size_t m = p->escape ? 3 : 1;
	while (p->remove && out->n >= m && !memcmp(out->p + out->n - m, p->escape ? mark : " ", m)) out->n -= m;
	return dummy && p->behind ? space(p, c, out) : LORA_OK;
}

const lora__tok_norm lora__norm_sentencepiece = { "SentencePiece", build, run, drop };
