/* Reading config.json on behalf of an architecture. A wrong type, range or an unsupported value sets the builder's status and names the key. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model.h"

static const json_t *value(lora__builder *b, const char *key)
{
	const json_t *v = json_object_get(b->m->config, key);
	return v && !json_is_null(v) ? v : NULL;
}

static void refuse(lora__builder *b, lora_status st, const char *key, const char *why)
{
	if (b->status == LORA_OK) b->status = lora__fail_at(b->m->s.ctx, st, "model", key, -1, "config.json: %s: %s", key, why);
}

void lora__cfg_unsupported(lora__builder *b, const char *key, const char *why) { refuse(b, LORA_E_UNSUPPORTED, key, why); }

void lora__cfg_unknown(lora__builder *b, const char *key, const char *value)
{
	char why[sizeof(lora__quoted) + 32];
	snprintf(why, sizeof why, "\"%s\" is not supported", lora__quote(value).text);
	lora__cfg_unsupported(b, key, why);
}

int64_t lora__cfg_int(lora__builder *b, const char *key, int64_t def, int64_t min, int64_t max)
{
	const json_t *v = value(b, key);
	double d = v ? json_number_value(v) : (double)def;
	if (v && (!json_is_number(v) || d != floor(d))) return refuse(b, LORA_E_FORMAT, key, "an integer is expected"), def;
	if (d < (double)min || d > (double)max) {
		if (b->status == LORA_OK)
			b->status = lora__fail_at(b->m->s.ctx, LORA_E_LIMIT, "model", key, -1, "config.json: %s is %g, must be %lld to %lld", key, d, (long long)min,
				(long long)max);
		return min;
	}
	return (int64_t)d;
}

double lora__cfg_float(lora__builder *b, const char *key, double def, double min, double max)
{
	const json_t *v = value(b, key);
	if (!v) return def;
	double d = json_number_value(v);
	if (!json_is_number(v) || !isfinite(d)) return refuse(b, LORA_E_FORMAT, key, "a finite number is expected"), def;
	if (d < min || d > max) return refuse(b, LORA_E_LIMIT, key, "out of range"), def;
	return d;
}

int lora__cfg_bool(lora__builder *b, const char *key, int def)
{
	const json_t *v = value(b, key);
	if (!v) return def;
	if (!json_is_boolean(v)) return refuse(b, LORA_E_FORMAT, key, "true or false is expected"), def;
	return json_is_true(v);
}

const char *lora__cfg_string(lora__builder *b, const char *key, const char *def)
{
	const json_t *v = value(b, key);
	if (!v) return def;
	if (!json_is_string(v)) return refuse(b, LORA_E_FORMAT, key, "a string is expected"), def;
	return json_string_value(v);
}

static const lora__param *row(const lora__builder *b, const char *key)
{
	for (const lora__param *p = b->m->arch->m.params; p && p->name; p++)
		if (strcmp(p->name, key) == 0) return p;
	return NULL;
}

static int is_null(const lora__builder *b, const char *key) { return json_is_null(json_object_get(b->m->config, key)); }

int64_t lora__key_int(lora__builder *b, const char *key)
{
	const lora__param *p = row(b, key);
	return lora__cfg_int(b, key, lora__get_int(NULL, p, key), (int64_t)p->min, (int64_t)p->max);
}

int64_t lora__key_int_or(lora__builder *b, const char *key, int64_t fallback)
{
	const lora__param *p = row(b, key);
	if (is_null(b, key) || (!p->def && !value(b, key))) return fallback;
	return lora__key_int(b, key);
}

double lora__key_float(lora__builder *b, const char *key)
{
	const lora__param *p = row(b, key);
	int bounded = p->min < p->max;
	return lora__cfg_float(b, key, lora__get_float(NULL, p, key), bounded ? p->min : -1e300, bounded ? p->max : 1e300);
}

double lora__key_float_or_none(lora__builder *b, const char *key) { return is_null(b, key) ? 0.0 : lora__key_float(b, key); }
int lora__key_bool(lora__builder *b, const char *key) { return lora__cfg_bool(b, key, lora__get_bool(NULL, row(b, key), key)); }

void lora__key_only(lora__builder *b, const char *key, int wanted)
{
	if (lora__cfg_bool(b, key, wanted) != wanted) lora__cfg_unsupported(b, key, wanted ? "only true is supported" : "only false is supported");
}

int64_t lora__key_window(lora__builder *b) { return lora__key_int_or(b, "sliding_window", 0); }

int lora__key_sliding(lora__builder *b, int64_t n, int def)
{
	const json_t *list = value(b, "layer_types");
	if (!list) return def;
	const char *s = json_string_value(json_array_get(list, (size_t)n));
	if (!json_is_array(list) || !s) return refuse(b, LORA_E_FORMAT, "layer_types", "a list with a string for each block is expected"), def;
	if (strcmp(s, "sliding_attention") == 0) return 1;
	if (strcmp(s, "full_attention") != 0) lora__cfg_unknown(b, "layer_types", s);
	return 0;
}

int64_t lora__cfg_activation(lora__builder *b, const char *key)
{
	static const struct { const char *name; int64_t act; } table[] = { { "silu", LORA_ACT_SILU }, { "swish", LORA_ACT_SILU }, { "gelu", LORA_ACT_GELU },
		{ "gelu_pytorch_tanh", LORA_ACT_GELU_TANH }, { "gelu_new", LORA_ACT_GELU_TANH }, { "relu", LORA_ACT_RELU } };
	const lora__param *p = row(b, key);
	const char *s = lora__cfg_string(b, key, p && p->def ? p->def : "silu");
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (strcmp(s, table[i].name) == 0) return table[i].act;
	lora__cfg_unknown(b, key, s);
	return LORA_ACT_SILU;
}
