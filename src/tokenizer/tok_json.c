/* Reading the parts of tokenizer.json: typed members with messages that say where they stand. */
#include <stdio.h>

#include "tokenizer/tok.h"

lora_status lora__tok_fail(lora__tok_build *b, lora_status st, const char *key, const char *format, ...)
{
	char text[320];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	return lora__fail_at(b->ctx, st, "tokenizer", key ? key : b->where, -1, "%s: %s%s%s: %s", b->what, b->where,
		b->where[0] && key ? "." : "", key ? key : "", text);
}

lora_status lora__tok_enter(lora__tok_build *b, const json_t *j, lora__tok_place *save, const char *format, ...)
{
	size_t n = strlen(b->where);
	*save = (lora__tok_place){ n, b->depth };
	va_list args;
	va_start(args, format);
	vsnprintf(b->where + n, sizeof b->where - n, format, args);
	va_end(args);
	b->depth++;
	if (b->depth > LORA__TOK_DEPTH) {
		b->where[48] = 0; /* the path is as deep as the nesting: its beginning is enough */
		return lora__tok_fail(b, LORA_E_LIMIT, NULL, "nested more than %d deep", LORA__TOK_DEPTH);
	}
	if (!json_is_object(j)) return lora__tok_fail(b, LORA_E_FORMAT, NULL, "must be an object");
	return LORA_OK;
}

void lora__tok_leave(lora__tok_build *b, lora__tok_place save) { b->where[save.n] = 0, b->depth = save.depth; }

lora_status lora__tok_bool(lora__tok_build *b, const json_t *j, const char *key, int def, int *out)
{
	const json_t *v = json_object_get(j, key);
	if (v && !json_is_null(v) && !json_is_boolean(v)) return lora__tok_fail(b, LORA_E_FORMAT, key, "must be true or false");
	*out = json_is_boolean(v) ? json_is_true(v) : def;
	return LORA_OK;
}

lora_status lora__tok_int(lora__tok_build *b, const json_t *j, const char *key, int64_t def, int64_t min, int64_t max, int64_t *out)
{
	const json_t *v = json_object_get(j, key);
	*out = def;
	if (!v || json_is_null(v)) return LORA_OK;
	if (!json_is_integer(v)) return lora__tok_fail(b, LORA_E_FORMAT, key, "must be a whole number");
	*out = json_integer_value(v);
	if (*out < min || *out > max)
		return lora__tok_fail(b, *out < 0 ? LORA_E_FORMAT : LORA_E_LIMIT, key, "%lld is not in %lld .. %lld", (long long)*out, (long long)min,
			(long long)max);
	return LORA_OK;
}

lora_status lora__tok_string(lora__tok_build *b, const json_t *j, const char *key, const char *def, const char **s, size_t *n)
{
	const json_t *v = json_object_get(j, key);
	if (v && !json_is_null(v) && !json_is_string(v)) return lora__tok_fail(b, LORA_E_FORMAT, key, "must be a string");
	*s = json_is_string(v) ? json_string_value(v) : def;
	*n = json_is_string(v) ? json_string_length(v) : def ? strlen(def) : 0;
	return LORA_OK;
}

lora_status lora__tok_required(lora__tok_build *b, const json_t *j, const char *key, const char **s, size_t *n)
{
	lora_status st = lora__tok_string(b, j, key, NULL, s, n);
	if (!st && !*s) st = lora__tok_fail(b, LORA_E_FORMAT, key, "missing, a string is needed");
	return st;
}

lora_status lora__tok_one_char(lora__tok_build *b, const json_t *j, const char *key, const char *def, uint32_t *c)
{
	const char *s = NULL;
	size_t n = 0, step = 0;
	lora_status st = lora__tok_string(b, j, key, def, &s, &n);
	if (st) return st;
	if (s && n) *c = lora__tok_char(s, &step);
	if (!step || step != n) return lora__tok_fail(b, LORA_E_FORMAT, key, "must be one character");
	return LORA_OK;
}

char *lora__tok_copy(lora__tok_build *b, const char *s, size_t n)
{
	char *p = lora__alloc(b->ctx, n + 1);
	if (!p) return NULL;
	if (n) memcpy(p, s, n);
	p[n] = 0;
	return p;
}
