/* Schemas: checking settings against tables, defaults, and description as JSON. */
#include "base/schema.h"

#include <math.h>
#include <string.h>

static const lora__param *find(const lora__param *t, const char *name)
{
	for (; t && t->name; t++)
		if (strcmp(t->name, name) == 0) return t;
	return NULL;
}

static int edit_distance(const char *a, const char *b)
{
	enum { MAX = 48 };
	int row[MAX + 1], n = (int)strlen(a), m = (int)strlen(b);
	if (n > MAX || m > MAX) return MAX;
	for (int j = 0; j <= m; j++) row[j] = j;
	for (int i = 1; i <= n; i++) {
		int diagonal = row[0];
		row[0] = i;
		for (int j = 1; j <= m; j++) {
			int best = diagonal + (a[i - 1] != b[j - 1]);
			if (row[j] + 1 < best) best = row[j] + 1;
			if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
			diagonal = row[j];
			row[j] = best;
		}
	}
	return row[m];
}

const char *lora__nearest(const char *name, const char *const *names, size_t n)
{
	const char *best = NULL;
	int best_d = (int)strlen(name) / 2 + 2;
	for (size_t i = 0; i < n; i++) {
		int d = edit_distance(name, names[i]);
		if (d < best_d) best_d = d, best = names[i];
	}
	return best;
}

static int is_choice(const char *choices, const char *s)
{
	size_t n = strlen(s);
	for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		if (strncmp(p, s, n) == 0 && (p[n] == '|' || p[n] == 0)) return 1;
	return 0;
}

static const char *type_text(lora__type t)
{
	static const char *const text[] = { "?", "a boolean", "an integer", "a number", "a string", "a list of strings", "a string or a list of strings",
		"an integer or a list of integers", "an object of integers", "an object of numbers", "a boolean or a string", "any value" };
	return text[t];
}

static int whole(const json_t *v)
{
	if (json_is_integer(v)) return 1;
	double d = json_real_value(v);
	return json_is_real(v) && d == floor(d) && fabs(d) < 9e15;
}

static int list_of(const json_t *v, int (*test)(const json_t *))
{
	if (!json_is_array(v)) return 0;
	for (size_t i = 0; i < json_array_size(v); i++)
		if (!test(json_array_get(v, i))) return 0;
	return 1;
}

static int map_of(const json_t *v, int (*test)(const json_t *))
{
	if (!json_is_object(v)) return 0;
	for (void *it = json_object_iter((json_t *)(uintptr_t)v); it; it = json_object_iter_next((json_t *)(uintptr_t)v, it))
		if (!test(json_object_iter_value(it))) return 0;
	return 1;
}

static int is_string(const json_t *v) { return json_is_string(v); }
static int is_number(const json_t *v) { return json_is_number(v); }

static int fits_type(const lora__param *p, const json_t *v)
{
	switch (p->type) {
	case LORA__BOOL: return json_is_boolean(v) || (json_is_integer(v) && (json_integer_value(v) & ~1LL) == 0);
	case LORA__INT: return whole(v);
	case LORA__FLOAT: return json_is_number(v);
	case LORA__STRING: return json_is_string(v);
	case LORA__STRINGS: return list_of(v, is_string);
	case LORA__NAMES: return json_is_string(v) || list_of(v, is_string);
	case LORA__INTS: return whole(v) || list_of(v, whole);
	case LORA__INT_MAP: return map_of(v, whole);
	case LORA__FLOAT_MAP: return map_of(v, is_number);
	case LORA__BOOL_STRING: return json_is_boolean(v) || json_is_string(v);
	case LORA__ANY: return 1;
	}
	return 0;
}

static lora_status check_value(lora_context *ctx, const char *who, const lora__param *p, const json_t *v)
{
	if (json_is_null(v)) return LORA_OK; /* null means: not set */
	if (!fits_type(p, v)) return lora__fail_at(ctx, LORA_E_ARGUMENT, "settings", p->name, -1, "%s: %s must be %s", who, p->name, type_text(p->type));
	if (json_is_number(v) && (p->type == LORA__INT || p->type == LORA__FLOAT)) {
		double d = json_number_value(v);
		if (!isfinite(d)) return lora__fail_at(ctx, LORA_E_ARGUMENT, "settings", p->name, -1, "%s: %s must be finite", who, p->name);
		if (p->min < p->max && (d < p->min || d > p->max))
			return lora__fail_at(ctx, LORA_E_ARGUMENT, "settings", p->name, -1, "%s: %s is %g, must be %g to %g", who, p->name, d, p->min, p->max);
	}
	if (p->choices && json_is_string(v) && !is_choice(p->choices, json_string_value(v)))
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "settings", p->name, -1, "%s: %s is \"%s\", must be one of %s", who, p->name,
			lora__quote(json_string_value(v)).text, p->choices);
	return LORA_OK;
}

lora_status lora__settings_check(lora_context *ctx, const lora_settings *s, const char *who, const lora__param *a, const lora__param *b,
                                 const lora__param *c)
{
	if (!s) return LORA_OK;
	const lora__param *tables[3] = { a, b, c };
	for (void *it = json_object_iter(s->object); it; it = json_object_iter_next(s->object, it)) {
		const char *key = json_object_iter_key(it);
		const lora__param *p = NULL;
		for (int i = 0; i < 3 && !p; i++) p = find(tables[i], key);
		if (!p) {
			const char *names[256];
			size_t n = 0;
			for (int i = 0; i < 3; i++)
				for (const lora__param *q = tables[i]; q && q->name && n < 256; q++) names[n++] = q->name;
			const char *near = lora__nearest(key, names, n);
			return lora__fail_at(ctx, LORA_E_ARGUMENT, "settings", key, -1, "%s: unknown setting %s%s%s%s", who, lora__quote(key).text,
				near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
		}
		lora_status st = check_value(ctx, who, p, json_object_iter_value(it));
		if (st) return st;
	}
	return LORA_OK;
}

const json_t *lora__get_json(const lora_settings *s, const char *name)
{
	const json_t *v = s ? json_object_get(s->object, name) : NULL;
	return v && !json_is_null(v) ? v : NULL;
}

int lora__has(const lora_settings *s, const char *name) { return lora__get_json(s, name) != NULL; }

/* Defaults are ours: plain decimal numbers, true, false or a quoted string, so a small reader serves without allocating. */
static double default_number(const char *text)
{
	double mantissa = 0, sign = 1;
	int exponent = 0, seen_point = 0, e = 0, e_sign = 1;
	if (!text) return 0;
	if (*text == '-') sign = -1, text++;
	for (; (*text >= '0' && *text <= '9') || *text == '.'; text++) {
		if (*text == '.') seen_point = 1;
		else mantissa = mantissa * 10 + (*text - '0'), exponent -= seen_point;
	}
	if (*text == 'e' || *text == 'E') {
		text++;
		if (*text == '-') e_sign = -1, text++;
		for (; *text >= '0' && *text <= '9'; text++) e = e * 10 + (*text - '0');
	}
	exponent += e_sign * e;
	/* one division or product by an exact power of ten rounds as the decimal text does (up to 1e22) */
	double power = 1;
	for (int i = 0; i < (exponent < 0 ? -exponent : exponent); i++) power *= 10;
	return sign * (exponent < 0 ? mantissa / power : mantissa * power);
}

double lora__get_float(const lora_settings *s, const lora__param *table, const char *name)
{
	const json_t *v = lora__get_json(s, name);
	if (v && json_is_boolean(v)) return json_is_true(v);
	if (v) return json_number_value(v);
	const lora__param *p = find(table, name);
	return p ? default_number(p->def) : 0;
}

int64_t lora__get_int(const lora_settings *s, const lora__param *table, const char *name)
{
	const json_t *v = lora__get_json(s, name);
	if (v && json_is_integer(v)) return (int64_t)json_integer_value(v);
	return (int64_t)lora__get_float(s, table, name);
}

int lora__get_bool(const lora_settings *s, const lora__param *table, const char *name)
{
	const json_t *v = lora__get_json(s, name);
	if (v) return json_is_true(v) || (json_is_integer(v) && json_integer_value(v) != 0);
	const lora__param *p = find(table, name);
	return p && p->def && strcmp(p->def, "true") == 0;
}

const char *lora__get_string(const lora_settings *s, const lora__param *table, const char *name)
{
	const json_t *v = lora__get_json(s, name);
	if (v) return json_string_value(v);
	const lora__param *p = find(table, name);
	return p ? p->def : NULL;
}

lora_status lora__member_json(lora_context *ctx, const char *family, const lora__member *m, lora__text *out)
{
	static const char *const types[] = { "?", "bool", "int", "float", "string", "strings", "string|strings", "int|ints", "map of int", "map of float",
		"bool|string", "any" };
	json_t *list = json_array(), *o = NULL;
	for (const lora__param *p = m->params; p && p->name; p++) {
		json_t *d = json_null();
		if (p->def && p->type != LORA__STRING && p->type != LORA__BOOL_STRING && p->type != LORA__NAMES) d = json_loads(p->def, JSON_DECODE_ANY, NULL);
		else if (p->def && p->type == LORA__BOOL_STRING) d = json_boolean(strcmp(p->def, "true") == 0);
		else if (p->def) d = json_string(p->def);
		json_t *e = json_pack("{s:s, s:s, s:o, s:s}", "name", p->name, "type", types[p->type], "default", d, "help", p->help ? p->help : "");
		if (e && p->min < p->max) json_object_set_new(e, "min", json_real(p->min)), json_object_set_new(e, "max", json_real(p->max));
		if (e && p->choices) json_object_set_new(e, "choices", json_string(p->choices));
		if (!e || json_array_append_new(list, e)) goto fail;
	}
	o = json_pack("{s:s, s:s, s:s, s:s, s:O}", "family", family, "name", m->name, "help", m->help ? m->help : "", "source",
		m->source ? m->source : "", "settings", list);
	if (!o) goto fail;
	lora_status st = lora__json_dump(ctx, o, 0, out);
	json_decref(o);
	json_decref(list);
	return st ? st : out->status;
fail:
	json_decref(list);
	return lora__fail(ctx, LORA_E_MEMORY, "settings", "out of memory while describing %s", m->name);
}
