/* lora_settings: a JSON object behind a handle. */
#include <math.h>
#include <string.h>

#include "base/schema.h"

lora_status lora_settings_create(lora_context *ctx, lora_settings **out)
{
	if (out) *out = NULL;
	if (!ctx || !out) return lora__fail(ctx, LORA_E_ARGUMENT, "settings", "lora_settings_create: %s is NULL", ctx ? "out" : "ctx");
	lora_settings *s = lora__zalloc(ctx, sizeof *s);
	if (!s) return LORA_E_MEMORY;
	s->object = json_object();
	if (!s->object) {
		lora__free(ctx, s);
		return lora__fail(ctx, LORA_E_MEMORY, "settings", "out of memory");
	}
	s->ctx = ctx;
	lora__context_retain(ctx);
	*out = s;
	return LORA_OK;
}

void lora_settings_destroy(lora_settings *s)
{
	if (!s) return;
	lora_context *ctx = s->ctx;
	json_decref(s->object);
	lora__free(ctx, s);
	lora__context_release(ctx);
}

static lora_status put(lora_settings *s, const char *name, json_t *value)
{
	if (!value) return lora__fail(s->ctx, LORA_E_MEMORY, "settings", "out of memory");
	if (json_object_set_new(s->object, name, value)) return lora__fail(s->ctx, LORA_E_MEMORY, "settings", "out of memory");
	return LORA_OK;
}

static lora_status check_name(lora_settings *s, const char *name)
{
	if (!s) return LORA_E_ARGUMENT;
	if (!name || !*name) return lora__fail(s->ctx, LORA_E_ARGUMENT, "settings", "the name of a setting is %s", name ? "empty" : "NULL");
	if (!lora__utf8_valid(name, strlen(name), NULL)) return lora__fail(s->ctx, LORA_E_ARGUMENT, "settings", "the name of a setting is not UTF-8");
	return LORA_OK;
}

lora_status lora_settings_set_int(lora_settings *s, const char *name, int64_t value)
{
	lora_status st = check_name(s, name);
	return st ? st : put(s, name, json_integer(value));
}

lora_status lora_settings_set_bool(lora_settings *s, const char *name, int32_t value)
{
	lora_status st = check_name(s, name);
	if (st) return st;
	if (value != 0 && value != 1) return lora__fail_at(s->ctx, LORA_E_ARGUMENT, "settings", name, -1, "a boolean must be 0 or 1, not %d", (int)value);
	return put(s, name, json_boolean(value));
}

lora_status lora_settings_set_float(lora_settings *s, const char *name, double value)
{
	lora_status st = check_name(s, name);
	if (st) return st;
	if (!isfinite(value)) return lora__fail_at(s->ctx, LORA_E_ARGUMENT, "settings", name, -1, "%s must be finite", lora__quote(name).text);
	return put(s, name, json_real(value));
}

lora_status lora_settings_set_string(lora_settings *s, const char *name, const char *value)
{
	lora_status st = check_name(s, name);
	if (st) return st;
	if (!value || !lora__utf8_valid(value, strlen(value), NULL))
		return lora__fail_at(s->ctx, LORA_E_ARGUMENT, "settings", name, -1, "the value of %s is %s", lora__quote(name).text, value ? "not UTF-8" : "NULL");
	return put(s, name, json_string(value));
}

lora_status lora_settings_set_json(lora_settings *s, const char *name, const char *json)
{
	json_t *v;
	lora_status st = check_name(s, name);
	if (st) return st;
	if (!json) return lora__fail_at(s->ctx, LORA_E_ARGUMENT, "settings", name, -1, "the value of %s is NULL", lora__quote(name).text);
	st = lora__json_parse(s->ctx, json, strlen(json), lora__quote(name).text, &v);
	return st ? st : put(s, name, v);
}

lora_status lora_settings_set_text(lora_settings *s, const char *name, const char *text)
{
	lora_status st = check_name(s, name);
	if (st) return st;
	if (!text) return lora__fail_at(s->ctx, LORA_E_ARGUMENT, "settings", name, -1, "the value of %s is NULL", lora__quote(name).text);
	json_t *v = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
	return v ? put(s, name, v) : lora_settings_set_string(s, name, text);
}

static lora_status get(const lora_settings *s, const char *name, const void *out, const json_t **v)
{
	if (!s) return LORA_E_ARGUMENT;
	if (!name || !out) return lora__fail(s->ctx, LORA_E_ARGUMENT, "settings", "%s is NULL", name ? "out" : "name");
	*v = json_object_get(s->object, name);
	return *v ? LORA_OK : lora__fail_at(s->ctx, LORA_E_NOTFOUND, "settings", name, -1, "%s is not set", lora__quote(name).text);
}

static lora_status wrong_type(const lora_settings *s, const char *name, const char *wanted)
{
	return lora__fail_at(s->ctx, LORA_E_ARGUMENT, "settings", name, -1, "%s is not %s", lora__quote(name).text, wanted);
}

lora_status lora_settings_get_int(const lora_settings *s, const char *name, int64_t *out)
{
	const json_t *v;
	lora_status st = get(s, name, out, &v);
	if (st) return st;
	double d = json_real_value(v);
	if (json_is_integer(v)) *out = (int64_t)json_integer_value(v);
	else if (json_is_boolean(v)) *out = json_is_true(v);
	else if (json_is_real(v) && d == floor(d) && fabs(d) < 9e15) *out = (int64_t)d;
	else return wrong_type(s, name, "an integer");
	return LORA_OK;
}

lora_status lora_settings_get_float(const lora_settings *s, const char *name, double *out)
{
	const json_t *v;
	lora_status st = get(s, name, out, &v);
	if (st) return st;
	if (!json_is_number(v)) return wrong_type(s, name, "a number");
	*out = json_number_value(v);
	return LORA_OK;
}

lora_status lora_settings_get_string(const lora_settings *s, const char *name, const char **out)
{
	const json_t *v;
	lora_status st = get(s, name, out, &v);
	if (st) return st;
	if (!json_is_string(v)) return wrong_type(s, name, "a string");
	*out = json_string_value(v);
	return LORA_OK;
}

lora_status lora_settings_from_json(lora_settings *s, const char *json, size_t n)
{
	json_t *v;
	if (!s) return LORA_E_ARGUMENT;
	if (!json) return lora__fail(s->ctx, LORA_E_ARGUMENT, "settings", "json is NULL");
	lora_status st = lora__json_parse(s->ctx, json, n, "settings", &v);
	if (st) return st;
	json_t *merged = json_is_object(v) ? json_copy(s->object) : NULL;
	if (!json_is_object(v)) st = lora__fail(s->ctx, LORA_E_FORMAT, "settings", "settings: a JSON object is expected");
	else if (!merged || json_object_update(merged, v)) st = lora__fail(s->ctx, LORA_E_MEMORY, "settings", "out of memory");
	if (st == LORA_OK) {
		json_decref(s->object);
		s->object = merged;
		merged = NULL;
	}
	json_decref(merged);
	json_decref(v);
	return st;
}

lora_status lora_settings_to_json(const lora_settings *s, char *buf, size_t size, size_t *needed)
{
	if (!s) return LORA_E_ARGUMENT;
	lora__text t;
	lora__text_init(&t, s->ctx);
	lora_status st = lora__json_dump(s->ctx, s->object, 0, &t);
	if (st == LORA_OK) st = lora__text_give(s->ctx, t.data, t.n, buf, size, needed);
	lora__text_free(&t);
	return st;
}

lora_status lora__settings_copy(lora_context *ctx, const lora_settings *from, lora_settings **out)
{
	lora_settings *s;
	lora_status st = lora_settings_create(ctx, &s);
	if (st) return st;
	if (from) {
		json_t *copy = json_deep_copy(from->object);
		if (!copy) {
			lora_settings_destroy(s);
			return lora__fail(ctx, LORA_E_MEMORY, "settings", "out of memory");
		}
		json_decref(s->object);
		s->object = copy;
	}
	*out = s;
	return LORA_OK;
}
