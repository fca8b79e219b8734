/* Characters: classes, lower case, normal forms, grapheme clusters; all Unicode data comes from utf8proc.
 * Source: Unicode Standard annexes 15 (normal forms) and 29 (grapheme clusters), UTS 18 annex C (\w); the Rust char methods and the
 * unicode_categories crate for what each class holds. */
#include <utf8proc.h>

#include "tokenizer/tok.h"

lora_status lora__tok_room(lora_context *ctx, lora__tok_buf *b, size_t more)
{
	size_t need;
	if (b->cap - b->n >= more) return LORA_OK;
	if (!lora__add_size(b->n, more, &need)) return lora__fail(ctx, LORA_E_MEMORY, "tokenizer", "text too long");
	return lora__grow(ctx, &b->p, &b->cap, need, 1);
}

lora_status lora__tok_put(lora_context *ctx, lora__tok_buf *b, const char *s, size_t n)
{
	lora_status st = lora__tok_room(ctx, b, n);
	if (st || !n) return st;
	memcpy(b->p + b->n, s, n);
	b->n += n;
	return LORA_OK;
}

size_t lora__tok_encode_char(uint32_t c, char out[4])
{
	if (c < 0x80) return out[0] = (char)c, 1;
	if (c < 0x800) return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 0x3f)), 2;
	if (c < 0x10000)
		return out[0] = (char)(0xe0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 0x3f)), out[2] = (char)(0x80 | (c & 0x3f)), 3;
	out[0] = (char)(0xf0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 0x3f));
	out[2] = (char)(0x80 | (c >> 6 & 0x3f)), out[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

lora_status lora__tok_put_char(lora_context *ctx, lora__tok_buf *b, uint32_t c)
{
	lora_status st = lora__tok_room(ctx, b, 4);
	if (!st) b->n += lora__tok_encode_char(c, b->p + b->n);
	return st;
}

static int category(uint32_t c) { return (int)utf8proc_category((utf8proc_int32_t)c); }

int lora__tok_is_space(uint32_t c)
{
	return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
		c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

int lora__tok_is_number(uint32_t c)
{
	if (c < 0x80) return c >= '0' && c <= '9';
	int k = category(c);
	return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

int lora__tok_is_punct(uint32_t c)
{
	if (c < 0x80) return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
	int k = category(c);
	return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

/* Alphabetic (letters, letter numbers, marks, circled and squared Latin letters), marks, decimal numbers, connectors, joiners. */
int lora__tok_is_word(uint32_t c)
{
	if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
	int k = category(c);
	return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) || k == UTF8PROC_CATEGORY_PC || c == 0x200c || c == 0x200d ||
		(c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

int lora__tok_is_mark(uint32_t c)
{
	int k = c < 0x300 ? 0 : category(c);
	return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME;
}

int lora__tok_is_nonspacing(uint32_t c) { return c >= 0x300 && category(c) == UTF8PROC_CATEGORY_MN; }

int lora__tok_is_other(uint32_t c)
{
	int k = category(c);
	return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO;
}

lora_status lora__tok_put_lower(lora_context *ctx, lora__tok_buf *b, uint32_t c)
{
	if (c < 0x80) return lora__tok_put_char(ctx, b, c >= 'A' && c <= 'Z' ? c + 32 : c);
	if (c == 0x130) return lora__tok_put(ctx, b, "i\xcc\x87", 3); /* the one character whose lower case is two */
	return lora__tok_put_char(ctx, b, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
}

uint32_t lora__tok_base(uint32_t c)
{
	utf8proc_int32_t parts[32];
	int bound = UTF8PROC_BOUNDCLASS_START;
	utf8proc_ssize_t n = c < 0xc0 ? 0 : utf8proc_decompose_char((utf8proc_int32_t)c, parts, 32, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &bound);
	return n > 0 && n <= 32 ? (uint32_t)parts[0] : c;
}

static int ccc(utf8proc_int32_t c) { return c < 0x300 ? 0 : utf8proc_get_property(c)->combining_class; }

/* Canonical order: each run of marks sorted by combining class, stable. Short runs by insertion; long ones, which only hostile text has, by
 * counting, so that the work stays linear. tmp has room for n. */
static void reorder(utf8proc_int32_t *c, size_t n, utf8proc_int32_t *tmp)
{
	for (size_t i = 0, e; i < n; i = e) {
		e = i + 1;
		if (!ccc(c[i])) continue;
		while (e < n && ccc(c[e])) e++;
		if (e - i <= 32) {
			for (size_t k = i + 1; k < e; k++)
				for (size_t m = k; m > i && ccc(c[m - 1]) > ccc(c[m]); m--) {
					utf8proc_int32_t x = c[m];
					c[m] = c[m - 1], c[m - 1] = x;
				}
			continue;
		}
		size_t from[257] = { 0 };
		for (size_t k = i; k < e; k++) from[ccc(c[k]) + 1]++;
		for (int k = 0; k < 256; k++) from[k + 1] += from[k];
		for (size_t k = i; k < e; k++) tmp[from[ccc(c[k])]++] = c[k];
		memcpy(c + i, tmp, (e - i) * sizeof *c);
	}
}

typedef struct form_work { utf8proc_int32_t *c, *tmp; size_t n, cap, cap_tmp; } form_work;

static lora_status form_segment(lora_context *ctx, form_work *w, const char *s, size_t n, int compose, int compat, lora__tok_buf *out)
{
	int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0), bound = UTF8PROC_BOUNDCLASS_START;
	lora_status st = LORA_OK;
	w->n = 0;
	for (size_t i = 0, step; i < n && !st; i += step) {
		uint32_t c = lora__tok_char(s + i, &step);
		if ((st = lora__grow(ctx, &w->c, &w->cap, w->n + 32, sizeof *w->c))) break; /* the longest decomposition has 18 */
		utf8proc_ssize_t k = utf8proc_decompose_char((utf8proc_int32_t)c, w->c + w->n, 32, (utf8proc_option_t)options, &bound);
		if (k < 0 || k > 32) return lora__fail(ctx, LORA_E_INTERNAL, "tokenizer", "decomposition of U+%04X", (unsigned)c);
		w->n += (size_t)k;
	}
	if (!st) st = lora__grow(ctx, &w->tmp, &w->cap_tmp, w->n + 1, sizeof *w->tmp);
	if (st) return st;
	reorder(w->c, w->n, w->tmp);
	if (compose) {
		utf8proc_ssize_t k = utf8proc_normalize_utf32(w->c, (utf8proc_ssize_t)w->n, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
		if (k < 0) return lora__fail(ctx, LORA_E_INTERNAL, "tokenizer", "composition failed");
		w->n = (size_t)k;
	}
	for (size_t i = 0; i < w->n && !st; i++) st = lora__tok_put_char(ctx, out, (uint32_t)w->c[i]);
	return st;
}

/* ASCII is its own normal form and never joins what stands before it, so only the stretches from an ASCII character through the non-ASCII
 * ones behind it are worked on. */
lora_status lora__tok_normal_form(lora_context *ctx, const char *s, size_t n, int compose, int compat, lora__tok_buf *out)
{
	form_work w = { 0 };
	lora_status st = LORA_OK;
	for (size_t i = 0; i < n && !st;) {
		size_t j = i;
		while (j < n && (unsigned char)s[j] < 0x80) j++;
		size_t k = j > i && j < n ? j - 1 : j, e = j;
		while (e < n && (unsigned char)s[e] >= 0x80) e++;
		st = lora__tok_put(ctx, out, s + i, k - i);
		if (!st && e > k) st = form_segment(ctx, &w, s + k, e - k, compose, compat, out);
		i = e;
	}
	lora__free(ctx, w.c);
	lora__free(ctx, w.tmp);
	return st;
}

size_t lora__tok_grapheme(const char *s, size_t n)
{
	utf8proc_int32_t state = 0;
	size_t step, at = 0;
	if (!n) return 0;
	uint32_t before = lora__tok_char(s, &step);
	for (at = step; at < n; at += step) {
		uint32_t c = lora__tok_char(s + at, &step);
		if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)c, &state)) break;
		before = c;
	}
	return at;
}
