/* adapter_config.json: parsing with types checked, and writing. The table lists every key of LoraConfig (PEFT 0.21) and of the configs it
 * derives from; other methods share many of them with the same types. Keys outside the table are data: kept, listed, never looked into. So are
 * auto_mapping, megatron_config and the like, which PEFT acts on: nothing here opens a file, a module or a connection because a config says so. */
#include <math.h>
#include <string.h>

#include "base/schema.h"
#include "format/peft.h"

enum { TARGETS_MAX = 65536, TARGET_BYTES_MAX = 1 << 20 };

/* Types as bits, so that a key can have several. */
enum {
	T_NULL = 1, T_BOOL = 2, T_INT = 4, T_NUMBER = 8, T_STRING = 16, T_STRINGS = 32, T_INTS = 64, T_OBJECT = 128, T_LIST = 256,
	T_INT_MAP = 512, T_NUMBER_MAP = 1024, T_ANY = 2048,
	LORA_ONLY = 4096 /* other methods use the name for something else */
};

typedef struct key_type { const char *key; int types; } key_type;

static const key_type keys[] = {
	{ "peft_type", T_STRING }, { "task_type", T_STRING | T_NULL }, { "auto_mapping", T_ANY }, { "peft_version", T_ANY },
	{ "base_model_name_or_path", T_STRING | T_NULL }, { "revision", T_STRING | T_NULL }, { "inference_mode", T_BOOL },
	{ "r", T_ANY }, { "lora_alpha", T_NUMBER }, { "lora_dropout", T_NUMBER }, { "bias", T_STRING }, { "fan_in_fan_out", T_BOOL },
	{ "use_rslora", T_BOOL }, { "use_dora", T_BOOL }, { "lora_bias", T_BOOL }, { "use_qalora", T_BOOL }, { "ensure_weight_tying", T_BOOL },
	{ "qalora_group_size", T_INT }, { "init_lora_weights", T_BOOL | T_STRING | T_NULL }, { "init_weights", T_ANY },
	{ "target_modules", T_ANY }, { "exclude_modules", T_STRING | T_STRINGS | T_NULL }, { "target_parameters", T_STRINGS | T_NULL },
	{ "modules_to_save", T_STRINGS | T_NULL }, { "layers_to_transform", T_INT | T_INTS | T_NULL },
	{ "layers_pattern", T_STRING | T_STRINGS | T_NULL }, { "rank_pattern", T_INT_MAP | T_NULL | LORA_ONLY },
	{ "alpha_pattern", T_NUMBER_MAP | T_NULL | LORA_ONLY }, { "megatron_config", T_ANY }, { "megatron_core", T_ANY },
	{ "trainable_token_indices", T_INTS | T_OBJECT | T_NULL }, { "layer_replication", T_LIST | T_NULL },
	{ "alora_invocation_tokens", T_INTS | T_NULL }, { "loftq_config", T_ANY }, { "eva_config", T_ANY }, { "corda_config", T_ANY },
	{ "lora_ga_config", T_ANY }, { "velora_config", T_ANY }, { "monteclora_config", T_ANY }, { "kasa_config", T_ANY },
	{ "use_bdlora", T_ANY }, { "arrow_config", T_ANY }, { "runtime_config", T_ANY },
};

static const char *const peft_types[] = {
	"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "LORA", "ADALORA", "ADAMSS", "BOFT", "ADAPTION_PROMPT", "IA3",
	"BEFT", "LILY", "LOHA", "LOKR", "OFT", "POLY", "LN_TUNING", "VERA", "FROD", "PVERA", "FOURIERFT", "GLORA", "XLORA", "HRA", "VBLORA",
	"UNILORA", "CPT", "MISS", "RANDLORA", "ROAD", "TRAINABLE_TOKENS", "HIRA", "SHIRA", "C3A", "WAVEFT", "OSF", "DELORA", "GRALORA",
	"CARTRIDGE", "TINYLORA", "PSOFT", "PEANUT", "SHADOW", "SUPERTUNING", "DEFT", "BONE",
};

/* --- types --- */

static int all_strings(const json_t *v)
{
	for (size_t i = 0; i < json_array_size(v); i++)
		if (!json_is_string(json_array_get(v, i))) return 0;
	return json_is_array(v);
}

static int all_ints(const json_t *v)
{
	for (size_t i = 0; i < json_array_size(v); i++)
		if (!json_is_integer(json_array_get(v, i))) return 0;
	return json_is_array(v);
}

static int is_whole(const json_t *v) /* 8 or 8.0 */
{
	double x = json_real_value(v);
	return json_is_integer(v) || (json_is_real(v) && fabs(x) < 9007199254740992.0 && x == floor(x));
}

static int map_of(const json_t *v, int whole)
{
	const char *key;
	json_t     *item;
	json_object_foreach((json_t *)(uintptr_t)v, key, item)
		if (!json_is_number(item) || (whole && !is_whole(item))) return 0;
	return json_is_object(v);
}

static int fits(const json_t *v, int types)
{
	return (types & T_ANY) || ((types & T_NULL) && json_is_null(v)) || ((types & T_BOOL) && json_is_boolean(v)) ||
		((types & T_INT) && is_whole(v)) || ((types & T_NUMBER) && json_is_number(v)) || ((types & T_STRING) && json_is_string(v)) ||
		((types & T_STRINGS) && all_strings(v)) || ((types & T_INTS) && all_ints(v)) || ((types & T_OBJECT) && json_is_object(v)) ||
		((types & T_LIST) && json_is_array(v)) || ((types & T_INT_MAP) && map_of(v, 1)) || ((types & T_NUMBER_MAP) && map_of(v, 0));
}

static void name_types(int types, char *out, size_t size)
{
	static const struct { int bit; const char *text; } names[] = {
		{ T_BOOL, "true or false" }, { T_INT, "a whole number" }, { T_NUMBER, "a number" }, { T_STRING, "a string" },
		{ T_STRINGS, "a list of strings" }, { T_INTS, "a list of whole numbers" }, { T_OBJECT, "an object" }, { T_LIST, "a list" },
		{ T_INT_MAP, "an object of whole numbers" }, { T_NUMBER_MAP, "an object of numbers" }, { T_NULL, "null" },
	};
	size_t n = 0;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (!(types & names[i].bit)) continue;
		size_t k = strlen(names[i].text);
		if (n + k + 6 > size) break;
		if (n) memcpy(out + n, ", or ", 5), n += 5;
		memcpy(out + n, names[i].text, k), n += k;
	}
	out[n] = 0;
}

/* --- reading --- */

static lora_status bad_key(lora_context *ctx, lora_status st, const char *what, const char *key, const char *text)
{
	return lora__fail_at(ctx, st, "peft", key, -1, "%s: %s %s", what, key, text);
}

static lora_status check_keys(lora_context *ctx, const char *what, const json_t *object, int is_lora)
{
	char expected[200];
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		const json_t *v = json_object_get(object, keys[i].key);
		if (!v || (!is_lora && (keys[i].types & LORA_ONLY)) || fits(v, keys[i].types)) continue;
		name_types(keys[i].types, expected, sizeof expected);
		return lora__fail_at(ctx, LORA_E_FORMAT, "peft", keys[i].key, -1, "%s: %s must be %s", what, keys[i].key, expected);
	}
	return LORA_OK;
}

static lora_status read_peft_type(lora_context *ctx, const char *what, const json_t *object, const char **out)
{
	const json_t *v = json_object_get(object, "peft_type");
	if (!v) return bad_key(ctx, LORA_E_FORMAT, what, "peft_type", "is missing");
	const char *s = json_string_value(v);
	if (!s) return bad_key(ctx, LORA_E_FORMAT, what, "peft_type", "must be a string");
	*out = s;
	for (size_t i = 0; i < sizeof peft_types / sizeof *peft_types; i++)
		if (strcmp(s, peft_types[i]) == 0) return LORA_OK;
	char upper[32] = "";
	for (size_t i = 0; s[i] && i + 1 < sizeof upper; i++) upper[i] = s[i] >= 'a' && s[i] <= 'z' ? (char)(s[i] - 32) : s[i];
	const char *near = lora__nearest(upper, peft_types, sizeof peft_types / sizeof *peft_types);
	return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "peft", "peft_type", -1, "%s: peft_type \"%s\" is not one of PEFT's%s%s%s", what,
	                     lora__quote(s).text, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
}

static lora_status read_rank(lora_context *ctx, const char *what, lora__peft_config *c, int is_lora)
{
	const json_t *v = json_object_get(c->object, "r");
	if (!v) return is_lora ? bad_key(ctx, LORA_E_ARGUMENT, what, "r", "is missing") : LORA_OK;
	if (!is_lora && !is_whole(v)) return LORA_OK; /* another method's own idea of r: left to it */
	if (!is_whole(v)) return bad_key(ctx, LORA_E_ARGUMENT, what, "r", "must be a whole number of 1 or more");
	double r = json_number_value(v);
	if (is_lora && r < 1)
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "peft", "r", -1, "%s: r is %.0f, it must be 1 or more", what, r);
	if (r > INT32_MAX) return lora__fail_at(ctx, LORA_E_LIMIT, "peft", "r", -1, "%s: r is %.0f, the limit is %d", what, r, INT32_MAX);
	c->r = (int64_t)r;
	return LORA_OK;
}

/* What the adapter acts on. null and [] are fine only where target_parameters names something instead. */
static lora_status check_targets(lora_context *ctx, const char *what, const json_t *object, int is_lora)
{
	const json_t *v = json_object_get(object, "target_modules");
	const char   *key = "target_modules";
	if (!v || json_is_null(v) || (json_is_array(v) && json_array_size(v) == 0)) {
		if (!is_lora || json_array_size(json_object_get(object, "target_parameters"))) return LORA_OK;
		return bad_key(ctx, LORA_E_ARGUMENT, what, key, "names nothing: a list of names or a pattern is needed");
	}
	if (json_is_string(v) && json_string_length(v) > TARGET_BYTES_MAX) return bad_key(ctx, LORA_E_LIMIT, what, key, "is a pattern longer than 1 MiB");
	if (json_is_string(v)) return json_string_length(v) ? LORA_OK : bad_key(ctx, LORA_E_ARGUMENT, what, key, "is an empty pattern");
	if (!all_strings(v)) return bad_key(ctx, LORA_E_ARGUMENT, what, key, "must be a string or a list of strings");
	size_t bytes = 0;
	for (size_t i = 0; i < json_array_size(v); i++) {
		size_t n = json_string_length(json_array_get(v, i));
		if (!n) return bad_key(ctx, LORA_E_ARGUMENT, what, key, "holds an empty name");
		bytes += n;
	}
	if (json_array_size(v) > TARGETS_MAX || bytes > TARGET_BYTES_MAX)
		return bad_key(ctx, LORA_E_ARGUMENT, what, key, "is over the limit of 65536 names and 1 MiB");
	return LORA_OK;
}

static int flag(const json_t *object, const char *key) { return json_is_true(json_object_get(object, key)); }

static lora_status read_values(lora_context *ctx, const char *what, lora__peft_config *c)
{
	int         is_lora = strcmp(c->peft_type, "LORA") == 0;
	lora_status st = check_keys(ctx, what, c->object, is_lora);
	if (!st) st = read_rank(ctx, what, c, is_lora);
	if (!st) st = check_targets(ctx, what, c->object, is_lora);
	if (st) return st;
	const json_t *alpha = json_object_get(c->object, "lora_alpha");
	if (!alpha && is_lora) return bad_key(ctx, LORA_E_FORMAT, what, "lora_alpha", "is missing");
	c->lora_alpha = alpha ? json_number_value(alpha) : 8;
	if (!isfinite(c->lora_alpha)) return bad_key(ctx, LORA_E_NUMERIC, what, "lora_alpha", "is not finite");
	c->lora_dropout = json_number_value(json_object_get(c->object, "lora_dropout"));
	if (!(c->lora_dropout >= 0 && c->lora_dropout <= 1)) return bad_key(ctx, LORA_E_NUMERIC, what, "lora_dropout", "must be between 0 and 1");
	c->use_rslora = flag(c->object, "use_rslora"), c->use_dora = flag(c->object, "use_dora");
	c->fan_in_fan_out = flag(c->object, "fan_in_fan_out"), c->lora_bias = flag(c->object, "lora_bias");
	c->inference_mode = flag(c->object, "inference_mode");
	const json_t *bias = json_object_get(c->object, "bias");
	c->bias = bias ? json_string_value(bias) : "none";
	if (is_lora && strcmp(c->bias, "none") && strcmp(c->bias, "all") && strcmp(c->bias, "lora_only"))
		return bad_key(ctx, LORA_E_FORMAT, what, "bias", "must be \"none\", \"all\" or \"lora_only\"");
	c->task_type = json_string_value(json_object_get(c->object, "task_type"));
	c->base_model_name_or_path = json_string_value(json_object_get(c->object, "base_model_name_or_path"));
	return LORA_OK;
}

lora_status lora__peft_parse(lora_context *ctx, const char *text, size_t n, const char *what, lora__peft_config *out)
{
	lora__peft_config c = { .ctx = ctx };
	lora__quoted      q = lora__quote(what);
	*out = c;
	lora_status st = lora__json_parse(ctx, text, n, q.text, &c.object);
	if (st) return st;
	if (!json_is_object(c.object)) st = lora__fail_at(ctx, LORA_E_FORMAT, "peft", what, 0, "%s: an object is expected", q.text);
	if (!st) st = read_peft_type(ctx, q.text, c.object, &c.peft_type);
	if (!st) st = read_values(ctx, q.text, &c);
	if (st) lora__peft_close(&c);
	else *out = c;
	return st;
}

void lora__peft_close(lora__peft_config *c)
{
	json_decref(c->object);
	*c = (lora__peft_config){ .ctx = c->ctx };
}

const json_t *lora__peft_get(const lora__peft_config *c, const char *key)
{
	const json_t *v = json_object_get(c->object, key);
	return json_is_null(v) ? NULL : v;
}

int lora__peft_key_known(const char *key)
{
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		if (strcmp(keys[i].key, key) == 0) return 1;
	return 0;
}

const char *lora__peft_next_unknown(const lora__peft_config *c, void **iter)
{
	for (;;) {
		*iter = *iter ? json_object_iter_next(c->object, *iter) : json_object_iter(c->object);
		if (!*iter) return NULL;
		const char *key = json_object_iter_key(*iter);
		if (!lora__peft_key_known(key)) return key;
	}
}
