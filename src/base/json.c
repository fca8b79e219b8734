/* JSON through jansson. jansson checks UTF-8, depth (2048) and duplicates; what it leaves open is decided here: no byte order mark, no
 * UTF-16, a bound on size, and messages with line and column. jansson allocates with malloc: its global hooks belong to the host. */
#include "base/json.h"

#include <stdio.h>
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

/* Shortest digits that read back as the same double. The decimal point is a point in every locale. */
static void shortest(double v, char out[40])
{
	for (int digits = 15; digits <= 17; digits++) {
		snprintf(out, 40, "%.*g", digits, v);
		for (char *p = out; *p; p++)
			if (*p == ',') *p = '.';
		if (!strpbrk(out, ".e")) memcpy(out + strlen(out), ".0", 3);
		json_t *back = json_loads(out, JSON_DECODE_ANY, NULL);
		int same = back && json_real_value(back) == v;
		json_decref(back);
		if (same) return;
	}
}

/* jansson prints reals with 17 digits; users should read 0.05, not 0.050000000000000003. Strings are left alone. */
static void shorten_reals(const lora__text *from, lora__text *out)
{
	for (size_t i = 0; i < from->n;) {
		size_t k = i;
		if (from->data[i] == '"') {
			for (k++; from->data[k] != '"'; k++) k += from->data[k] == '\\';
			k++;
		} else if ((from->data[i] >= '0' && from->data[i] <= '9') || from->data[i] == '-') {
			k += strspn(from->data + i, "+-.0123456789eE");
			json_t *v = k - i >= 17 ? json_loadb(from->data + i, k - i, JSON_DECODE_ANY, NULL) : NULL;
			char text[40];
			int real = json_is_real(v);
			if (real) shortest(json_real_value(v), text);
			json_decref(v);
			if (real) {
				lora__text_puts(out, text);
				i = k;
				continue;
			}
		} else k++;
		lora__text_add(out, from->data + i, k - i);
		i = k;
	}
}

lora_status lora__json_dump(lora_context *ctx, const json_t *value, int indent, lora__text *out)
{
	size_t flags = JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17) | (indent ? JSON_INDENT((size_t)indent) : JSON_COMPACT);
	lora__text t;
	lora__text_init(&t, ctx);
	lora_status st = LORA_OK;
	if (json_dump_callback(value, dump_piece, &t, flags)) st = t.status ? t.status : lora__fail(ctx, LORA_E_MEMORY, "json", "out of memory while writing JSON");
	if (st == LORA_OK) shorten_reals(&t, out);
	lora__text_free(&t);
	return st ? st : out->status;
}
