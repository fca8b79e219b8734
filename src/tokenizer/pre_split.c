/* Pre-tokenizers that cut by a pattern or a class of characters: Split, Punctuation, Digits, Whitespace, WhitespaceSplit, BertPreTokenizer,
 * CharDelimiterSplit. Source: huggingface/tokenizers, pre_tokenizers/ and tokenizer/{pattern,normalizer}.rs (the five behaviours). */
#include "tokenizer/tok.h"

/* Segments of a text one by one: matches and what lies between. A class matches character by character. */
typedef struct segments {
	lora__tok_call *c;
	const char     *s;
	size_t          n, at;
	lora__tok_class is;
	lora__tok_iter  it;
	int             pending;
	size_t          start, end; /* of a match that was found but not given yet */
} segments;

static lora_status next_segment(segments *g, int *any, size_t *start, size_t *end, int *match)
{
	*any = 1, *start = g->at;
	if (!g->is) {
		if (!g->pending) {
			lora_status st = lora__tok_next(g->c, &g->it, &g->pending, &g->start, &g->end);
			if (st) return st;
		}
		if (g->pending && g->start == g->at) {
			*match = 1, g->at = *end = g->end, g->pending = 0;
			return LORA_OK;
		}
		*match = 0, *end = g->pending ? g->start : g->n;
		*any = *end > *start;
		g->at = *end;
		return LORA_OK;
	}
	size_t step = 0;
	*any = g->at < g->n;
	if (!*any) return LORA_OK;
	*match = g->is(lora__tok_char(g->s + g->at, &step));
	for (g->at += step; !*match && g->at < g->n; g->at += step)
		if (g->is(lora__tok_char(g->s + g->at, &step))) break;
	*end = g->at;
	return LORA_OK;
}

/* One piece is held back where the behaviour may lengthen it. */
lora_status lora__tok_split(lora__tok_call *c, int stage, const char *s, size_t n, int first, const lora__tok_pattern *p, lora__tok_class is,
                            lora__tok_behavior behavior, int invert)
{
	segments g = { .c = c, .s = s, .n = n, .is = is };
	size_t start, end, held_start = 0, held_end = 0;
	int any, match, held = 0, before = 0;
	lora_status st = LORA_OK;
	if (!is) g.it = lora__tok_matches(p, s, n);
	for (;;) {
		if ((st = next_segment(&g, &any, &start, &end, &match)) || !any) break;
		match ^= invert;
		if (behavior == LORA__TOK_REMOVED && match) continue;
		int join = held && ((behavior == LORA__TOK_CONTIGUOUS && match == before) ||
			(behavior == LORA__TOK_MERGED_WITH_PREVIOUS && match && !before) || (behavior == LORA__TOK_MERGED_WITH_NEXT && before && !match));
		if (!join && held && (st = lora__tok_piece(c, stage + 1, s + held_start, held_end - held_start, first && !held_start))) break;
		if (!join) held_start = start;
		held_end = end, held = 1, before = match;
	}
	if (!st && held) st = lora__tok_piece(c, stage + 1, s + held_start, held_end - held_start, first && !held_start);
	return st;
}

static lora_status behavior_json(lora__tok_build *b, const json_t *j, lora__tok_behavior *out)
{
	static const char *const names[] = { "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
	const char *s;
	size_t n;
	lora_status st = lora__tok_string(b, j, "behavior", "Isolated", &s, &n);
	if (st) return st;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (!strcmp(s, names[i])) {
			*out = (lora__tok_behavior)i;
			return LORA_OK;
		}
	return lora__tok_fail(b, LORA_E_UNSUPPORTED, "behavior", "unknown: %s", lora__quote(s).text);
}

typedef struct split_self { lora__tok_pattern pattern; lora__tok_behavior behavior; int invert; } split_self;

static lora_status split_build(lora__tok_build *b, const json_t *j, void **self)
{
	split_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = behavior_json(b, j, &p->behavior);
	if (!st) st = lora__tok_bool(b, j, "invert", 0, &p->invert);
	return st ? st : lora__tok_pattern_json(b, j, "pattern", &p->pattern);
}

static void split_drop(lora_context *ctx, void *self)
{
	if (self) lora__tok_pattern_free(ctx, &((split_self *)self)->pattern);
	lora__free(ctx, self);
}

static lora_status split(const void *self, lora__tok_call *c, int stage, const char *s, size_t n, int first)
{
	const split_self *p = self;
	return lora__tok_split(c, stage, s, n, first, &p->pattern, NULL, p->behavior, p->invert);
}

static lora_status punctuation_build(lora__tok_build *b, const json_t *j, void **self)
{
	lora__tok_behavior *p = *self = lora__zalloc(b->ctx, sizeof *p);
	return p ? behavior_json(b, j, p) : LORA_E_MEMORY;
}

static lora_status punctuation(const void *self, lora__tok_call *c, int stage, const char *s, size_t n, int first)
{
	return lora__tok_split(c, stage, s, n, first, NULL, lora__tok_is_punct, *(const lora__tok_behavior *)self, 0);
}

static lora_status digits_build(lora__tok_build *b, const json_t *j, void **self)
{
	int *p = *self = lora__zalloc(b->ctx, sizeof *p);
	return p ? lora__tok_bool(b, j, "individual_digits", 0, p) : LORA_E_MEMORY;
}

static lora_status digits(const void *self, lora__tok_call *c, int stage, const char *s, size_t n, int first)
{
	lora__tok_behavior how = *(const int *)self ? LORA__TOK_ISOLATED : LORA__TOK_CONTIGUOUS;
	return lora__tok_split(c, stage, s, n, first, NULL, lora__tok_is_number, how, 0);
}

static lora_status whitespace_split(const void *self, lora__tok_call *c, int stage, const char *s, size_t n, int first)
{
	(void)self;
	return lora__tok_split(c, stage, s, n, first, NULL, lora__tok_is_space, LORA__TOK_REMOVED, 0);
}

/* \w+|[^\w\s]+ */
static lora_status whitespace(const void *self, lora__tok_call *c, int stage, const char *s, size_t n, int first)
{
	lora_status st = LORA_OK;
	(void)self;
	for (size_t i = 0, from = 0, step; i <= n && !st; ) {
		int kind = -1, before = -1;
		for (from = i; i < n; i += step, before = kind) {
			uint32_t u = lora__tok_char(s + i, &step);
			kind = lora__tok_is_space(u) ? 0 : lora__tok_is_word(u) ? 1 : 2;
			if (before >= 0 && kind != before) break;
		}
		if (before > 0) st = lora__tok_piece(c, stage + 1, s + from, i - from, first && !from);
		if (i >= n) break;
	}
	return st;
}

/* White space away, then each punctuation mark by itself. */
static lora_status bert(const void *self, lora__tok_call *c, int stage, const char *s, size_t n, int first)
{
	lora_status st = LORA_OK;
	(void)self;
	for (size_t i = 0, from = 0, step = 1; i <= n && !st; i += step) {
		uint32_t u = i < n ? lora__tok_char(s + i, &step) : ' ';
		int space = lora__tok_is_space(u), mark = !space && lora__tok_is_punct(u);
		if (!space && !mark) continue;
		if (i > from) st = lora__tok_piece(c, stage + 1, s + from, i - from, first && !from);
		if (!st && mark) st = lora__tok_piece(c, stage + 1, s + i, step, first && !i);
		from = i + step;
	}
	return st;
}

static lora_status delimiter_build(lora__tok_build *b, const json_t *j, void **self)
{
	split_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	uint32_t u = 0;
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_one_char(b, j, "delimiter", NULL, &u);
	if (st) return st;
	p->behavior = LORA__TOK_REMOVED;
	if (!(p->pattern.literal = lora__zalloc(b->ctx, 8))) return LORA_E_MEMORY;
	p->pattern.n = lora__tok_encode_char(u, p->pattern.literal);
	return LORA_OK;
}

const lora__tok_pre lora__pres_split[] = {
	{ "Split", split_build, split, split_drop },
	{ "Punctuation", punctuation_build, punctuation, NULL },
	{ "Digits", digits_build, digits, NULL },
	{ "WhitespaceSplit", NULL, whitespace_split, NULL },
	{ "Whitespace", NULL, whitespace, NULL },
	{ "BertPreTokenizer", NULL, bert, NULL },
	{ "CharDelimiterSplit", delimiter_build, split, split_drop },
	{ 0 },
};
