/* Patterns: a literal text or a compiled regular expression, and the matches of one in a piece of text. Matching is bounded in steps and
 * memory, so that a catastrophic pattern ends in LORA_E_LIMIT. */
#include "tokenizer/tok.h"

enum { HEAP_KIB = 256 << 10, STACK_START = 32 << 10, STACK_MOST = 4 << 20 };

lora_status lora__tok_pattern_regex(lora__tok_build *b, const char *s, size_t n, lora__tok_pattern *out)
{
	lora__tok_buf text = { 0 };
	int code;
	PCRE2_SIZE at;
	uint32_t flags = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK | PCRE2_NEVER_BACKSLASH_C;
	lora_status st = lora__tok_translate(b, s, n, &text);
	*out = (lora__tok_pattern){ 0 };
	if (st) goto done;
	out->code = pcre2_compile((PCRE2_SPTR)(text.p ? text.p : ""), text.n, flags, &code, &at, b->t->pcre_compile);
	if (!out->code) {
		char message[160];
		if (code == PCRE2_ERROR_HEAP_FAILED) { /* compile error 121: no memory */
			st = lora__fail(b->ctx, LORA_E_MEMORY, "tokenizer", "%s: out of memory in a regular expression", b->what);
			goto done;
		}
		pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
		st = lora__tok_fail(b, LORA_E_UNSUPPORTED, NULL, "regular expression %s: %s", lora__quote_n(s, n).text, message);
		goto done;
	}
	out->jit = pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE) == 0;
done:
	lora__free(b->ctx, text.p);
	return st;
}

lora_status lora__tok_pattern_json(lora__tok_build *b, const json_t *j, const char *key, lora__tok_pattern *out)
{
	const json_t *p = json_object_get(j, key), *lit = json_object_get(p, "String"), *re = json_object_get(p, "Regex");
	lora__tok_place place;
	*out = (lora__tok_pattern){ 0 };
	if (json_is_string(p)) lit = p; /* as old files have it */
	else if (!json_is_object(p) || json_object_size(p) != 1 || !(json_is_string(lit) || json_is_string(re)))
		return lora__tok_fail(b, LORA_E_FORMAT, key, "must be {\"String\": text} or {\"Regex\": text}");
	if (lit) {
		if (!json_string_length(lit)) return lora__tok_fail(b, LORA_E_UNSUPPORTED, key, "empty text");
		out->n = json_string_length(lit);
		out->literal = lora__tok_copy(b, json_string_value(lit), out->n);
		return out->literal ? LORA_OK : LORA_E_MEMORY;
	}
	lora_status st = lora__tok_enter(b, p, &place, ".%s", key);
	if (!st) st = lora__tok_pattern_regex(b, json_string_value(re), json_string_length(re), out);
	lora__tok_leave(b, place);
	return st;
}

void lora__tok_pattern_free(lora_context *ctx, lora__tok_pattern *p)
{
	lora__free(ctx, p->literal);
	pcre2_code_free(p->code);
	*p = (lora__tok_pattern){ 0 };
}

static lora_status no_memory(lora_context *ctx) { return lora__fail(ctx, LORA_E_MEMORY, "tokenizer", "out of memory while matching"); }

/* What matching needs, made at the first use of a call. Steps are bounded per match: a pattern that is linear in the text always ends. */
static lora_status prepare(lora__tok_call *c, size_t n)
{
	if (c->match && n <= c->limit_n) return LORA_OK;
	if (!c->limits && !(c->limits = pcre2_match_context_create(c->t->pcre))) return no_memory(c->ctx);
	uint64_t steps = LORA__TOK_MATCH_STEPS + (uint64_t)LORA__TOK_MATCH_EACH * n;
	pcre2_set_match_limit(c->limits, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
	pcre2_set_heap_limit(c->limits, HEAP_KIB);
	c->limit_n = n;
	if (c->match) return LORA_OK;
	c->match = pcre2_match_data_create(1, c->t->pcre);
	return c->match ? LORA_OK : no_memory(c->ctx);
}

/* One search from a place. *found 0 when there is none. */
static lora_status search(lora__tok_call *c, const lora__tok_pattern *p, const char *s, size_t n, size_t from, int *found, size_t *start,
                          size_t *end)
{
	int rc;
	lora_status st = prepare(c, n);
	if (st) return st;
	if (p->jit) {
		rc = pcre2_jit_match(p->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, c->match, c->limits);
		if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !c->jit_stack) {
			c->jit_stack = pcre2_jit_stack_create(STACK_START, STACK_MOST, c->t->pcre);
			if (!c->jit_stack) return no_memory(c->ctx);
			pcre2_jit_stack_assign(c->limits, NULL, c->jit_stack);
			rc = pcre2_jit_match(p->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, c->match, c->limits);
		}
		if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
			rc = pcre2_match(p->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, c->match, c->limits);
	} else rc = pcre2_match(p->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, c->match, c->limits);
	*found = rc >= 0;
	if (rc >= 0) {
		const PCRE2_SIZE *v = pcre2_get_ovector_pointer(c->match);
		*start = v[0], *end = v[1];
		if (*start < from || *end < *start) return lora__fail(c->ctx, LORA_E_UNSUPPORTED, "tokenizer", "regular expression that matches backwards");
		return LORA_OK;
	}
	if (rc == PCRE2_ERROR_NOMATCH) return LORA_OK;
	if (rc == PCRE2_ERROR_NOMEMORY) return no_memory(c->ctx);
	char message[160];
	pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
	return lora__fail(c->ctx, LORA_E_LIMIT, "tokenizer", "regular expression of the tokenizer gave up on this text: %s", message);
}

lora_status lora__tok_next(lora__tok_call *c, lora__tok_iter *it, int *found, size_t *start, size_t *end)
{
	*found = 0;
	if (it->p->literal) {
		const char *p = it->at < it->n ? memmem(it->s + it->at, it->n - it->at, it->p->literal, it->p->n) : NULL;
		if (!p) return LORA_OK;
		*found = 1, *start = (size_t)(p - it->s), *end = it->at = *start + it->p->n;
		return LORA_OK;
	}
	while (it->at <= it->n) {
		lora_status st = search(c, it->p, it->s, it->n, it->at, found, start, end);
		if (st || !*found) return st;
		if (*start != *end || !it->any || it->last != *end) {
			it->at = it->last = *end, it->any = 1;
			return LORA_OK;
		}
		it->at += it->at < it->n ? lora__tok_char_bytes(it->s + it->at) : 1;
		*found = 0;
	}
	return LORA_OK;
}
