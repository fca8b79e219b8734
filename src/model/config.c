/* Reading config.json on behalf of an architecture. A wrong type, range or an unsupported value sets the builder's status and names the key. */
#include <math.h>
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

int64_t lora__cfg_activation(lora__builder *b, const char *key)
{
	static const struct { const char *name; int64_t act; } table[] = { { "silu", LORA_ACT_SILU }, { "swish", LORA_ACT_SILU }, { "gelu", LORA_ACT_GELU },
		{ "gelu_pytorch_tanh", LORA_ACT_GELU_TANH }, { "gelu_new", LORA_ACT_GELU_TANH }, { "relu", LORA_ACT_RELU } };
	const char *s = lora__cfg_string(b, key, "silu");
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (strcmp(s, table[i].name) == 0) return table[i].act;
	lora__cfg_unsupported(b, key, lora__quote(s).text);
	return LORA_ACT_SILU;
}
