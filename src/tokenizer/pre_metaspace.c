/* Metaspace: spaces become a visible character (U+2581), one may be put in front, and the text is cut before each.
 * Source: huggingface/tokenizers, pre_tokenizers/metaspace.rs; older files say add_prefix_space instead of prepend_scheme. */
#include "tokenizer/tok.h"

enum { ALWAYS, FIRST, NEVER };
typedef struct meta_self { lora__tok_pattern mark; int scheme, cut; } meta_self;

static lora_status build(lora__tok_build *b, const json_t *j, void **self)
{
	meta_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	const char *s;
	size_t n;
	uint32_t u = 0;
	int add;
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_one_char(b, j, "replacement", "\xe2\x96\x81", &u);
	if (!st) st = lora__tok_bool(b, j, "split", 1, &p->cut);
	if (!st) st = lora__tok_bool(b, j, "add_prefix_space", 1, &add);
	if (!st) st = lora__tok_string(b, j, "prepend_scheme", add ? "always" : "never", &s, &n);
	if (st) return st;
	if (!strcmp(s, "always")) p->scheme = ALWAYS;
	else if (!strcmp(s, "first")) p->scheme = FIRST;
	else if (!strcmp(s, "never")) p->scheme = NEVER;
	else return lora__tok_fail(b, LORA_E_UNSUPPORTED, "prepend_scheme", "unknown: %s", lora__quote(s).text);
	if (!(p->mark.literal = lora__zalloc(b->ctx, 8))) return LORA_E_MEMORY;
	p->mark.n = lora__tok_encode_char(u, p->mark.literal);
	return LORA_OK;
}

static void drop(lora_context *ctx, void *self)
{
	if (self) lora__tok_pattern_free(ctx, &((meta_self *)self)->mark);
	lora__free(ctx, self);
}

static lora_status run(const void *self, lora__tok_call *c, int stage, const char *s, size_t n, int first)
{
	const meta_self *p = self;
	lora__tok_buf *out = &c->stage[stage];
	const char *mark = p->mark.literal;
	size_t m = p->mark.n;
	int begins = s[0] == ' ' || (n >= m && !memcmp(s, mark, m));
	lora_status st = LORA_OK;
	out->n = 0;
	if (!begins && (p->scheme == ALWAYS || (p->scheme == FIRST && first))) st = lora__tok_put(c->ctx, out, mark, m);
	for (size_t i = 0; i < n && !st; ) {
		const char *space = memchr(s + i, ' ', n - i);
		size_t end = space ? (size_t)(space - s) : n;
		st = lora__tok_put(c->ctx, out, s + i, end - i);
		if (!st && space) st = lora__tok_put(c->ctx, out, mark, m);
		i = end + (space != NULL);
	}
	if (st) return st;
	if (!p->cut) return lora__tok_piece(c, stage + 1, out->p, out->n, first);
	return lora__tok_split(c, stage, out->p, out->n, first, &p->mark, NULL, LORA__TOK_MERGED_WITH_NEXT, 0);
}

const lora__tok_pre lora__pres_metaspace[] = { { "Metaspace", build, run, drop }, { 0 } };
