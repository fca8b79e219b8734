/* JSON through jansson. jansson checks UTF-8, depth (2048) and duplicates; what it leaves open is decided here: no byte order mark, no
 * UTF-16, a bound on size, and messages with line and column. jansson allocates with malloc: its global hooks belong to the host. */
#include "base/json.h"

#include <string.h>

static lora_status bad_json(lora_context *ctx, const char *what, const json_error_t *e)
{
	enum json_error_code code = json_error_code(e);
	if (code == json_error_out_of_memory) return lora__fail(ctx, LORA_E_MEMORY, "json", "%s: out of memory", what);
	if (code == json_error_stack_overflow)
		return lora__fail_at(ctx, LORA_E_LIMIT, "json", what, e->position, "%s: nested too deeply (line %d, column %d)", what, e->line, e->column);
	return lora__fail_at(ctx, LORA_E_FORMAT, "json", what, e->position, "%s: not valid JSON: %s (line %d, column %d)", what,
		lora__quote(e->text).text, e->line, e->column);
}

/* Causes that jansson would call "unexpected token", said plainly. */
static lora_status precheck(lora_context *ctx, const char *text, size_t n, const char *what)
{
	const unsigned char *b = (const unsigned char *)text;
	if (n > ctx->limits.json_bytes)
		return lora__fail(ctx, LORA_E_LIMIT, "json", "%s: %zu bytes of JSON, the limit is %llu (max_json_bytes)", what, n,
			(unsigned long long)ctx->limits.json_bytes);
	if (n == 0) return lora__fail_at(ctx, LORA_E_FORMAT, "json", what, 0, "%s: empty, JSON expected", what);
	if (n >= 3 && b[0] == 0xef && b[1] == 0xbb && b[2] == 0xbf)
		return lora__fail_at(ctx, LORA_E_FORMAT, "json", what, 0, "%s: begins with a byte order mark; save it as UTF-8 without BOM (line 1, column 1)", what);
	if (n >= 2 && ((b[0] == 0xff && b[1] == 0xfe) || (b[0] == 0xfe && b[1] == 0xff) || b[0] == 0 || b[1] == 0))
		return lora__fail_at(ctx, LORA_E_FORMAT, "json", what, 0, "%s: looks like UTF-16 or UTF-32; JSON must be UTF-8 (line 1, column 1)", what);
	const char *nul = memchr(text, 0, n); /* never legal, but jansson takes one behind a number for the end */
	if (nul) return lora__fail_at(ctx, LORA_E_FORMAT, "json", what, nul - text, "%s: not valid JSON: NUL byte (byte %zu)", what, (size_t)(nul - text));
	return LORA_OK;
}

lora_status lora__json_parse(lora_context *ctx, const char *text, size_t n, const char *what, json_t **out)
{
	lora_status st = precheck(ctx, text, n, what);
	if (st) return st;
	json_error_t e;
	json_t *v = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
	if (!v) return bad_json(ctx, what, &e);
	*out = v;
	return LORA_OK;
}

lora_status lora__json_value(lora_context *ctx, const char *text, size_t n, const char *what, json_t **out, size_t *used)
{
	json_error_t e;
	if (!n) return lora__fail(ctx, LORA_E_FORMAT, "json", "%s: JSON ends too early", what);
	json_t *v = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &e);
	if (!v) return bad_json(ctx, what, &e);
	*used = (size_t)e.position;
	*out = v;
	return LORA_OK;
}

static int dump_piece(const char *bytes, size_t n, void *data)
{
	lora__text *t = data;
	lora__text_add(t, bytes, n);
	return t->status ? -1 : 0;
}

lora_status lora__json_dump(lora_context *ctx, const json_t *value, int indent, lora__text *out)
{
	size_t flags = JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17) | (indent ? JSON_INDENT((size_t)indent) : JSON_COMPACT);
	if (json_dump_callback(value, dump_piece, out, flags))
		return out->status ? out->status : lora__fail(ctx, LORA_E_MEMORY, "json", "out of memory while writing JSON");
	return LORA_OK;
}
