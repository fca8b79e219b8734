/* PEFT directories: the config rows of the bad-input table (A01 to A10, A13 to A22, A33), JSON as such (A02), tensor names (A29), and saving:
 * PEFT's own bytes, keys carried over, faults. The golden directory was saved by PEFT 0.21.2. */
#include <check.h>

#include "room.h"
#include "format/peft.h"

#define GOLDEN "tests/golden/peft-saved"

static void says(const char *id, const char *text)
{
	ck_assert_msg(strstr(lora_context_last_error(ctx), text), "%s: message \"%s\" lacks \"%s\"", id, lora_context_last_error(ctx), text);
}

/* --- JSON as such: one input of each kind that parsers have been seen to get wrong --- */

static const struct json_row { const char *text; size_t n; int good; const char *message; } json_rows[] = {
#define Y(s) { s, sizeof s - 1, 1, "" }
#define N(s, m) { s, sizeof s - 1, 0, m }
	Y("[]"), Y("{}"), Y("null"), Y("true"), Y("-0"), Y("0"), Y("\"\""), Y(" [1 , 2]\r\n\t"), Y("[[[[]]]]"), Y("{\"\":0}"), Y("[0e+1]"), Y("[1E-2]"),
	Y("[1.5e3]"), Y("[-123456789012345678]"), Y("[\"\\u0060\\u012a\\u12AB\"]"), Y("[\"\\uD801\\udc37\"]"), Y("[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"]"),
	Y("[\"\x7f\"]"), Y("[\"\xf4\x8f\xbf\xbf\"]"), Y("[\"\\uFFFF\xe2\x80\xa8\"]"), Y("[\"a/*b*/c\"]"), Y("[123.456e-789]"),
	N("", "empty"), N(" ", "line 1"), N("[", "line 1"), N("]", "line 1"), N("[1,]", "line 1, column 4"), N("[,1]", "column 2"), N("[1,,2]", "column 4"),
	N("[1 2]", "column 4"), N("[1]]", "column 4"), N("[1],", "column 4"), N("[\n1,\n]", "line 3, column 1"), N("{\"a\":1,}", "line 1"),
	N("{\"a\" 1}", "line 1"), N("{a:1}", "line 1"), N("{'a':1}", "line 1"), N("{1:1}", "line 1"), N("{\"a\":1 \"b\":2}", "line 1"), N("{\"a\"}", "line 1"),
	N("{\"a\":}", "line 1"), N("{\"a\":1}x", "line 1"), N("{} {}", "line 1"), N("[01]", "line 1"), N("[-01]", "line 1"), N("[+1]", "line 1"),
	N("[.5]", "line 1"), N("[1.]", "line 1"), N("[1.e1]", "line 1"), N("[1e]", "line 1"), N("[1e+]", "line 1"), N("[1eE2]", "line 1"), N("[-]", "line 1"),
	N("[- 1]", "line 1"), N("[0x1]", "line 1"), N("[1_0]", "line 1"), N("[1+2]", "line 1"), N("[NaN]", "line 1"), N("[Infinity]", "line 1"),
	N("[-Infinity]", "line 1"), N("[inf]", "line 1"), N("[1e999]", "real number overflow"), N("[-1e999]", "real number overflow"), N("[nul]", "line 1"),
	N("[True]", "line 1"), N("[fals", "line 1"), N("[\"a", "line 1"), N("[\"\\x61\"]", "invalid escape"), N("[\"\\u00\"]", "line 1"), N("[\"\\u00g0\"]", "line 1"),
	N("[\"\\uD800\"]", "line 1"), N("[\"\\uDC00\"]", "line 1"), N("[\"\\uD800\\u0041\"]", "line 1"), N("[\"\\", "line 1"), N("[\"\t\"]", "line 1"),
	N("[\"\n\"]", "line 1"), N("[\"\x01\"]", "line 1"), N("[\"\0\"]", "NUL byte"), N("123\0", "NUL byte"), N("{}\0", "NUL byte"), N("[\"\xff\"]", "unable to decode byte"), N("[\"\xc0\xaf\"]", "unable to decode byte"), N("[\"\xed\xa0\x80\"]", "unable to decode byte"),
	N("[\"\xe0\x80\x80\"]", "unable to decode byte"), N("[\"\xf4\x90\x80\x80\"]", "unable to decode byte"), N("[\"\xe9\"]", "unable to decode byte"), N("[\xe9]", "unable to decode byte"), N("[1]\xe2\x81\xa0", "line 1"),
	N("[\f1]", "line 1"), N("[\v1]", "line 1"), N("// x\n[1]", "line 1"), N("[1/**/]", "line 1"), N("[1]#", "line 1"), N("<a>", "line 1"), N("*", "line 1"),
	N("\xef\xbb\xbf{}", "byte order mark"), N("\xff\xfe[\0]\0", "UTF-16"), N("\0[\0]", "UTF-16"), N("[\0]\0", "UTF-16"), N("{\"a\":1,\"a\":1}", "duplicate"),
	N("{\"a\":1,\"\\u0061\":1}", "duplicate"),
	/* refused although legal: names and texts with NUL can't be carried in C strings */
	N("[\"\\u0000\"]", "\\u0000"), N("{\"a\\u0000b\":1}", "NUL"),
#undef Y
#undef N
};

START_TEST(A02_json)
{
	const struct json_row *r = &json_rows[_i];
	char                  *exact = malloc(r->n ? r->n : 1); /* no terminator behind: reading on would be seen */
	json_t                *v = NULL;
	memcpy(exact, r->text, r->n);
	lora_status st = lora__json_parse(ctx, exact, r->n, "x.json", &v);
	ck_assert_msg(st == (r->good ? LORA_OK : LORA_E_FORMAT), "row %d, %s: %s", _i, r->text, lora_status_name(st));
	ck_assert((v != NULL) == r->good);
	if (!r->good) says(r->text, r->message), says(r->text, "x.json");
	json_decref(v);
	free(exact);
}
END_TEST

START_TEST(A02_json_deep)
{
	size_t  n = 100000;
	char   *text = malloc(2 * n);
	json_t *v = NULL;
	memset(text, '[', n), memset(text + n, ']', n);
	lora_status st = lora__json_parse(ctx, text, 2 * n, "x.json", &v);
	ck_assert_int_eq(st, LORA_E_LIMIT);
	says("deep", "nested too deeply");
	st = lora__json_parse(ctx, text + n - 500, 1000, "x.json", &v);
	ck_assert_int_eq(st, LORA_OK);
	json_decref(v);
	free(text);
}
END_TEST

/* --- configurations --- */

/* A LoRA config with one more key, or another value of a key. */
#define BASE_KEYS "\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]"
#define WITH(more) "{" BASE_KEYS "," more "}"
#define RANK(r) "{\"peft_type\":\"LORA\",\"lora_alpha\":16,\"target_modules\":[\"q\"]" r "}"
#define ALPHA(a) "{\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[\"q\"]" a "}"
#define TARGETS(t) "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16" t "}"

static const struct config_row { const char *id, *text; lora_status status; const char *message; } config_rows[] = {
	{ "A01 empty", "", LORA_E_FORMAT, "empty" },
	{ "A01 no JSON", "peft_type: LORA", LORA_E_FORMAT, "line 1, column" },
	{ "A01 trailing comma", "{\n" BASE_KEYS ",\n}", LORA_E_FORMAT, "line 3, column 1" },
	{ "A01 comment", "{ // rank\n" BASE_KEYS "}", LORA_E_FORMAT, "line 1, column" },
	{ "A01 BOM", "\xef\xbb\xbf{" BASE_KEYS "}", LORA_E_FORMAT, "byte order mark" },
	{ "A01 list", "[]", LORA_E_FORMAT, "an object is expected" },
	{ "A03 missing", "{\"r\":8}", LORA_E_FORMAT, "peft_type is missing" },
	{ "A03 lower case", "{\"peft_type\":\"lora\"}", LORA_E_UNSUPPORTED, "did you mean \"LORA\"?" },
	{ "A03 unknown", "{\"peft_type\":\"\\u001b[1mX\"}", LORA_E_UNSUPPORTED, "peft_type \"\\x1b[1mX\" is not one of PEFT's" },
	{ "A03 number", "{\"peft_type\":1}", LORA_E_FORMAT, "peft_type must be a string" },
	{ "A03 another method", "{\"peft_type\":\"IA3\",\"target_modules\":null}", LORA_OK, "" },
	{ "A04 0", RANK(",\"r\":0"), LORA_E_ARGUMENT, "r is 0, it must be 1 or more" },
	{ "A04 -5", RANK(",\"r\":-5"), LORA_E_ARGUMENT, "r is -5" },
	{ "A04 1.5", RANK(",\"r\":1.5"), LORA_E_ARGUMENT, "r must be a whole number" },
	{ "A04 string", RANK(",\"r\":\"8\""), LORA_E_ARGUMENT, "r must be a whole number" },
	{ "A04 true", RANK(",\"r\":true"), LORA_E_ARGUMENT, "r must be a whole number" },
	{ "A04 null", RANK(",\"r\":null"), LORA_E_ARGUMENT, "r must be a whole number" },
	{ "A04 2^31", RANK(",\"r\":2147483648"), LORA_E_LIMIT, "r is 2147483648, the limit is 2147483647" },
	{ "A04 1e30", RANK(",\"r\":1e30"), LORA_E_ARGUMENT, "r must be a whole number" },
	{ "A04 absent", RANK(""), LORA_E_ARGUMENT, "r is missing" },
	{ "A04 8.0", RANK(",\"r\":8.0"), LORA_OK, "" },
	{ "A06 NaN", ALPHA(",\"lora_alpha\":NaN"), LORA_E_FORMAT, "not valid JSON" },
	{ "A06 Infinity", ALPHA(",\"lora_alpha\":Infinity"), LORA_E_FORMAT, "not valid JSON" },
	{ "A06 1e309", ALPHA(",\"lora_alpha\":1e309"), LORA_E_FORMAT, "real number overflow" },
	{ "A06 string", ALPHA(",\"lora_alpha\":\"16\""), LORA_E_FORMAT, "lora_alpha must be a number" },
	{ "A06 null", ALPHA(",\"lora_alpha\":null"), LORA_E_FORMAT, "lora_alpha must be a number" },
	{ "A06 absent", ALPHA(""), LORA_E_FORMAT, "lora_alpha is missing" },
	{ "A06 0", ALPHA(",\"lora_alpha\":0"), LORA_OK, "" },
	{ "A06 negative", ALPHA(",\"lora_alpha\":-3.5"), LORA_OK, "" },
	{ "A08 null", TARGETS(",\"target_modules\":null"), LORA_E_ARGUMENT, "target_modules names nothing" },
	{ "A08 absent", TARGETS(""), LORA_E_ARGUMENT, "target_modules names nothing" },
	{ "A08 []", TARGETS(",\"target_modules\":[]"), LORA_E_ARGUMENT, "target_modules names nothing" },
	{ "A08 [\"\"]", TARGETS(",\"target_modules\":[\"a\",\"\"]"), LORA_E_ARGUMENT, "target_modules holds an empty name" },
	{ "A08 \"\"", TARGETS(",\"target_modules\":\"\""), LORA_E_ARGUMENT, "target_modules is an empty pattern" },
	{ "A08 number", TARGETS(",\"target_modules\":7"), LORA_E_ARGUMENT, "target_modules must be a string or a list" },
	{ "A08 numbers", TARGETS(",\"target_modules\":[7]"), LORA_E_ARGUMENT, "target_modules must be a string or a list" },
	{ "A08 parameters", TARGETS(",\"target_modules\":[],\"target_parameters\":[\"w\"]"), LORA_OK, "" },
	{ "A09 pattern", TARGETS(",\"target_modules\":\"(a+)+$\""), LORA_OK, "" },
	{ "A10 all-linear", TARGETS(",\"target_modules\":\"all-linear\""), LORA_OK, "" },
	{ "A13 rank_pattern", WITH("\"rank_pattern\":{\"q\":4}"), LORA_OK, "" },
	{ "A13 rank_pattern list", WITH("\"rank_pattern\":[4]"), LORA_E_FORMAT, "rank_pattern must be an object of whole numbers, or null" },
	{ "A13 rank_pattern value", WITH("\"rank_pattern\":{\"q\":4.5}"), LORA_E_FORMAT, "rank_pattern must be" },
	{ "A13 alpha_pattern", WITH("\"alpha_pattern\":{\"q\":4.5}"), LORA_OK, "" },
	{ "A13 alpha_pattern value", WITH("\"alpha_pattern\":{\"q\":\"4\"}"), LORA_E_FORMAT, "alpha_pattern must be an object of numbers" },
	{ "A13 other method", "{\"peft_type\":\"ADALORA\",\"rank_pattern\":{\"q\":[true,false]}}", LORA_OK, "" },
	{ "A15", WITH("\"use_rslora\":1"), LORA_E_FORMAT, "use_rslora must be true or false" },
	{ "A16", WITH("\"use_dora\":\"yes\""), LORA_E_FORMAT, "use_dora must be true or false" },
	{ "A17 bias", WITH("\"bias\":\"some\""), LORA_E_FORMAT, "bias must be \"none\", \"all\" or \"lora_only\"" },
	{ "A17 bias type", WITH("\"bias\":false"), LORA_E_FORMAT, "bias must be a string" },
	{ "A17 modules_to_save", WITH("\"modules_to_save\":\"head\""), LORA_E_FORMAT, "modules_to_save must be a list of strings, or null" },
	{ "A17 lora_bias", WITH("\"lora_bias\":null"), LORA_E_FORMAT, "lora_bias must be true or false" },
	{ "A18", WITH("\"fan_in_fan_out\":\"true\""), LORA_E_FORMAT, "fan_in_fan_out must be true or false" },
	{ "A19", WITH("\"auto_mapping\":{\"parent_library\":\"os\"},\"megatron_core\":\"evil\",\"runtime_config\":7,\"eva_config\":[],\"loftq_config\":{\"x\":1}"), LORA_OK, "" },
	{ "A20", WITH("\"a_key_of_tomorrow\":{\"x\":[1,2]},\"b\":null"), LORA_OK, "" },
	{ "A21", WITH("\"r\":8"), LORA_E_FORMAT, "duplicate object key" },
	{ "A22 number", WITH("\"base_model_name_or_path\":3"), LORA_E_FORMAT, "base_model_name_or_path must be a string, or null" },
	{ "A22 path", WITH("\"base_model_name_or_path\":\"../../etc/passwd\""), LORA_OK, "" },
	{ "A22 null", WITH("\"base_model_name_or_path\":null"), LORA_OK, "" },
	{ "dropout", WITH("\"lora_dropout\":1.5"), LORA_E_NUMERIC, "lora_dropout must be between 0 and 1" },
	{ "dropout type", WITH("\"lora_dropout\":\"0\""), LORA_E_FORMAT, "lora_dropout must be a number" },
	{ "layers", WITH("\"layers_to_transform\":[1,\"2\"]"), LORA_E_FORMAT, "layers_to_transform must be a whole number, or a list of whole numbers, or null" },
	{ "init", WITH("\"init_lora_weights\":3"), LORA_E_FORMAT, "init_lora_weights must be true or false, or a string, or null" },
};

START_TEST(config_row)
{
	const struct config_row *r = &config_rows[_i];
	lora__peft_config        c;
	lora_status              st = lora__peft_parse(ctx, r->text, strlen(r->text), "dir/adapter_config.json", &c);
	ck_assert_msg(st == r->status, "%s: %s (%s)", r->id, lora_status_name(st), lora_context_last_error(ctx));
	if (st) says(r->id, r->message), says(r->id, "dir/adapter_config.json");
	ck_assert((c.object != NULL) == (st == LORA_OK));
	lora__peft_close(&c);
}
END_TEST

START_TEST(A08_A22_large)
{
	lora__peft_config c;
	lora__text        t;
	lora__text_init(&t, ctx);
	lora__text_puts(&t, TARGETS(",\"target_modules\":[\"q\""));
	t.n--; /* the closing brace */
	for (int i = 0; i < 1000000; i++) lora__text_puts(&t, ",\"abcdefg\"");
	lora__text_puts(&t, "]}");
	check_fails(LORA_E_ARGUMENT, lora__peft_parse(ctx, t.data, t.n, "x", &c));
	says("A08 10 MB", "target_modules is over the limit");
	t.n = 0;
	lora__text_puts(&t, "{" BASE_KEYS ",\"base_model_name_or_path\":\"");
	for (int i = 0; i < 100000; i++) lora__text_puts(&t, "0123456789");
	lora__text_puts(&t, "\"}");
	check_ok(ctx, lora__peft_parse(ctx, t.data, t.n, "x", &c));
	ck_assert_uint_eq(strlen(c.base_model_name_or_path), 1000000);
	lora__peft_close(&c);
	ctx->limits.json_bytes = 1000;
	check_fails(LORA_E_LIMIT, lora__peft_parse(ctx, t.data, t.n, "x", &c));
	lora__text_free(&t);
}
END_TEST

START_TEST(config_values)
{
	lora__peft_config c;
	const char       *text = "{\"peft_type\":\"LORA\",\"r\":4.0,\"lora_alpha\":0.5,\"lora_dropout\":0.25,\"use_rslora\":true,\"bias\":\"all\","
	                         "\"target_modules\":\"x\",\"zz\":1,\"task_type\":\"CAUSAL_LM\",\"revision\":null,\"aa\":2}";
	check_ok(ctx, lora__peft_parse(ctx, text, strlen(text), "x", &c));
	ck_assert(c.r == 4 && c.lora_alpha == 0.5 && c.lora_dropout == 0.25 && c.use_rslora == 1 && c.use_dora == 0 && !c.fan_in_fan_out);
	ck_assert_str_eq(c.bias, "all");
	ck_assert_str_eq(c.task_type, "CAUSAL_LM");
	ck_assert_ptr_null(c.base_model_name_or_path);
	ck_assert(lora__peft_get(&c, "zz") && !lora__peft_get(&c, "revision") && !lora__peft_get(&c, "none"));
	int         n = 0;
	void       *iter = NULL;
	const char *key;
	while ((key = lora__peft_next_unknown(&c, &iter))) n += !strcmp(key, "zz") || !strcmp(key, "aa") ? 1 : 100;
	ck_assert_int_eq(n, 2);
	lora__peft_close(&c);
	lora__peft_close(&c);
}
END_TEST

/* --- names (A29) --- */

static const struct name_row { const char *name, *module, *leaf, *adapter; int prefix; } name_rows[] = {
	{ "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj", "lora_A.weight", NULL, LORA__PEFT_FULL },
	{ "base_model.model.h.3.attn.c_attn.lora_B.weight", "h.3.attn.c_attn", "lora_B.weight", NULL, LORA__PEFT_FULL },
	{ "base_model.model.x.lora_A.default.weight", "x", "lora_A.weight", "default", LORA__PEFT_FULL },
	{ "base_model.layers.0.q.lora_A.weight", "layers.0.q", "lora_A.weight", NULL, LORA__PEFT_SHORT },
	{ "layers.0.q.lora_B.weight", "layers.0.q", "lora_B.weight", NULL, LORA__PEFT_BARE },
	{ "roberta.encoder.layer.0.attention.self.query.lora_A", "roberta.encoder.layer.0.attention.self.query", "lora_A.weight", NULL, LORA__PEFT_BARE },
	{ "x.lora_A.my-adapter", "x", "lora_A.weight", "my-adapter", LORA__PEFT_BARE },
	{ "base_model.model.x.lora_B.bias", "x", "lora_B.bias", NULL, LORA__PEFT_FULL },
	{ "base_model.model.x.lora_B.default.bias", "x", "lora_B.bias", "default", LORA__PEFT_FULL },
	{ "base_model.model.model.embed_tokens.lora_embedding_A", "model.embed_tokens", "lora_embedding_A", NULL, LORA__PEFT_FULL },
	{ "base_model.model.model.embed_tokens.lora_embedding_B.default", "model.embed_tokens", "lora_embedding_B", "default", LORA__PEFT_FULL },
	{ "base_model.model.x.lora_magnitude_vector", "x", "lora_magnitude_vector", NULL, LORA__PEFT_FULL },
	{ "base_model.model.x.lora_magnitude_vector.default.weight", "x", "lora_magnitude_vector", "default", LORA__PEFT_FULL },
	{ "base_model.model.x.lora_magnitude_vector.weight", "x", "lora_magnitude_vector", NULL, LORA__PEFT_FULL },
	{ "base_model.model.x.base_layer.lora_A.weight", "x.base_layer", "lora_A.weight", NULL, LORA__PEFT_FULL },
	{ "base_model.vera_A", "", "vera_A", NULL, LORA__PEFT_SHORT },
	{ "lora_A.weight", "", "lora_A.weight", NULL, LORA__PEFT_BARE },
	{ "base_model.model.x.vera_lambda_b", "x", "vera_lambda_b", NULL, LORA__PEFT_FULL },
	{ "base_model.model.x.lokr_w2_a", "x", "lokr_w2_a", NULL, LORA__PEFT_FULL },
	{ "base_model.model.x.oft_R.weight", "x", "oft_R.weight", NULL, LORA__PEFT_FULL },
	{ "base_model.model.e.token_adapter.trainable_tokens_delta", "e", "token_adapter.trainable_tokens_delta", NULL, LORA__PEFT_FULL },
	{ "base_model.model.e.trainable_tokens_delta", "e", "trainable_tokens_delta", NULL, LORA__PEFT_FULL },
	/* no leaf of any method */
	{ "base_model.model.classifier.weight", "classifier.weight", "", NULL, LORA__PEFT_FULL },
	{ "base_model.model.x.base_layer.bias", "x.base_layer.bias", "", NULL, LORA__PEFT_FULL },
	{ "base_model.model.xlora_A.weight", "xlora_A.weight", "", NULL, LORA__PEFT_FULL },
	{ "x.lora_AB.weight", "x.lora_AB.weight", "", NULL, LORA__PEFT_BARE },
	{ "x.lora_A.a.b.weight", "x.lora_A.a.b.weight", "", NULL, LORA__PEFT_BARE },
	{ "base_model.modelling.x", "modelling.x", "", NULL, LORA__PEFT_SHORT },
	{ "", "", "", NULL, LORA__PEFT_BARE },
	{ ".", ".", "", NULL, LORA__PEFT_BARE },
	{ ".weight", ".weight", "", NULL, LORA__PEFT_BARE },
	{ "base_model.model.", "", "", NULL, LORA__PEFT_FULL },
};

START_TEST(splits_names)
{
	const struct name_row *r = &name_rows[_i];
	lora__peft_name        n;
	int                    found = lora__peft_split_name(r->name, &n);
	ck_assert_msg(found == (*r->leaf != 0), "%s: found %d", r->name, found);
	ck_assert_msg(n.module_n == strlen(r->module) && !memcmp(n.module, r->module, n.module_n), "%s: module %.*s", r->name, (int)n.module_n, n.module);
	ck_assert_str_eq(n.leaf, r->leaf);
	ck_assert_int_eq(n.prefix, r->prefix);
	ck_assert_msg((n.adapter != NULL) == (r->adapter != NULL), "%s: adapter", r->name);
	if (r->adapter) ck_assert(n.adapter_n == strlen(r->adapter) && !memcmp(n.adapter, r->adapter, n.adapter_n));
}
END_TEST

/* --- directories --- */

START_TEST(opens_what_peft_saved)
{
	lora__peft_config c;
	lora__tensors     t;
	check_ok(ctx, lora__peft_open(ctx, GOLDEN, &c, &t));
	ck_assert(c.r == 2 && c.lora_alpha == 3 && c.lora_dropout == 0.25 && c.use_dora && c.inference_mode);
	ck_assert_str_eq(c.base_model_name_or_path, "mod\xc3\xa8le/\xf0\x9f\x98\x80\"x\x7f");
	ck_assert_uint_eq(t.n, 9);
	for (size_t i = 0; i < t.n; i++) {
		lora__peft_name n;
		ck_assert_msg(lora__peft_split_name(t.list[i].name, &n), "%s", t.list[i].name);
	}
	lora__peft_close(&c);
	lora__tensors_close(&t);
}
END_TEST

/* Open PEFT's directory, save it: both files have PEFT's bytes. */
START_TEST(saves_as_peft_does)
{
	static const char *const names[] = { LORA__PEFT_CONFIG, LORA__PEFT_WEIGHTS };
	lora__peft_config        c;
	lora__tensors            t;
	char                     dir[512], name[600];
	check_ok(ctx, lora__peft_open(ctx, GOLDEN, &c, &t));
	snprintf(dir, sizeof dir, "%s", scratch_path(&room, "adapter"));
	check_ok(ctx, lora__peft_save(ctx, dir, c.object, NULL, t.list, t.n));
	ck_assert_int_eq(scratch_count(dir), 2);
	for (int i = 0; i < 2; i++) {
		lora__blob want;
		snprintf(name, sizeof name, GOLDEN "/%s", names[i]);
		check_ok(ctx, lora__blob_read(ctx, name, 1 << 20, &want));
		snprintf(name, sizeof name, "%s/%s", dir, names[i]);
		ck_assert_msg(scratch_is(name, want.data, want.n), "%s: other bytes than PEFT's", names[i]);
		lora__blob_close(ctx, &want);
	}
	lora__peft_close(&c);
	lora__tensors_close(&t);
}
END_TEST

START_TEST(A20_keys_are_carried)
{
	lora__text t;
	json_t    *carried = json_pack("{s:s, s:i, s:b, s:{s:i}, s:[i]}", "peft_type", "LORA", "r", 8, "inference_mode", 0, "runtime_config", "x", 1, "new_key", 5);
	json_t    *set = json_pack("{s:i, s:s}", "r", 4, "bias", "none");
	lora__text_init(&t, ctx);
	check_ok(ctx, lora__peft_config_text(ctx, carried, set, &t));
	ck_assert_str_eq(t.data, "{\n  \"bias\": \"none\",\n  \"inference_mode\": true,\n  \"new_key\": [\n    5\n  ],\n  \"peft_type\": \"LORA\",\n  \"r\": 4\n}");
	ck_assert(json_integer_value(json_object_get(carried, "r")) == 8 && json_object_get(carried, "runtime_config")); /* the caller's is as it was */
	t.n = 0;
	check_ok(ctx, lora__peft_config_text(ctx, NULL, set, &t));
	ck_assert_str_eq(t.data, "{\n  \"bias\": \"none\",\n  \"inference_mode\": true,\n  \"r\": 4\n}");
	lora__text_free(&t);
	json_decref(carried);
	json_decref(set);
}
END_TEST

START_TEST(A33_halves)
{
	lora__peft_config c;
	lora__tensors     t;
	const char       *config = "{" BASE_KEYS "}";
	check_fails(LORA_E_NOTFOUND, lora__peft_open(ctx, scratch_path(&room, "none"), &c, &t));
	says("nothing", "not an adapter directory");
	scratch_write(scratch_path(&room, LORA__PEFT_WEIGHTS), "x", 1);
	check_fails(LORA_E_NOTFOUND, lora__peft_open(ctx, room.dir, &c, &t));
	says("weights only", LORA__PEFT_CONFIG ": missing, though the weights are there");
	unlink(scratch_path(&room, LORA__PEFT_WEIGHTS));
	scratch_write(scratch_path(&room, LORA__PEFT_CONFIG), config, strlen(config));
	check_fails(LORA_E_NOTFOUND, lora__peft_open(ctx, room.dir, &c, &t));
	says("config only", LORA__PEFT_WEIGHTS ": missing, though the config is there");
	scratch_write(scratch_path(&room, "adapter_model.bin"), "\x80\2", 2);
	check_fails(LORA_E_UNSUPPORTED, lora__peft_open(ctx, room.dir, &c, &t));
	says("pickle", "adapter_model.bin: weights are a Python pickle");
	ck_assert(c.object == NULL && t.list == NULL);
}
END_TEST

/* --- a save under faults: the adapter is the old or the new one --- */

static char               adapter_dir[512];
static lora__peft_config  loaded;
static lora__tensors      tensors;

static lora_status save(int version)
{
	json_t     *set = json_pack("{s:i}", "r", version);
	lora_status st = lora__peft_save(ctx, adapter_dir, loaded.object, set, tensors.list, tensors.n - (version == 2));
	json_decref(set);
	return st;
}

static void save_2(void *arg)
{
	(void)arg;
	save(2);
}

/* 1 or 2, or 0 when the two files are not of one save. */
static int version_there(void)
{
	lora__peft_config c;
	lora__tensors     t;
	lora_status       st = lora__peft_open(ctx, adapter_dir, &c, &t);
	int               version = st == LORA_OK && (t.n == tensors.n - (c.r == 2)) ? (int)c.r : 0;
	lora__peft_close(&c);
	lora__tensors_close(&t);
	return version;
}

START_TEST(save_survives) /* _i: 0 EIO, 1 ENOSPC, 2 short writes, 3 kill; + 4: without exchange of names */
{
	faults f;
	int    kind = _i % 4 == 3 ? FAULT_KILL : _i % 4 == 2 ? FAULT_SHORT : FAULT_ERRNO, seen[3] = { 0 };
	check_ok(ctx, lora__peft_open(ctx, GOLDEN, &loaded, &tensors));
	snprintf(adapter_dir, sizeof adapter_dir, "%s", scratch_path(&room, "adapter"));
	for (long n = 1;; n++) {
		faults_on(&f, 0, FAULT_NONE, 0, 0);
		check_ok(ctx, save(1));
		faults_off(&f);
		faults_on(&f, n, kind, _i % 4 ? ENOSPC : EIO, 0);
		f.no_exchange = _i >= 4;
		int killed = kind == FAULT_KILL && faults_in_child(save_2, NULL);
		if (kind != FAULT_KILL) save(2);
		faults_off(&f);
		int version = version_there();
		ck_assert_msg(version == 1 || version == 2, "call %ld (%s): the adapter is torn", n, f.hit);
		seen[version]++;
		if (kind == FAULT_KILL ? !killed : !f.hit) break;
		ck_assert_int_lt(n, 200);
	}
	ck_assert(seen[2] && (kind == FAULT_SHORT || seen[1] >= 5));
	lora__peft_close(&loaded);
	lora__tensors_close(&tensors);
}
END_TEST

START_TEST(allocations_fail)
{
	snprintf(adapter_dir, sizeof adapter_dir, "%s", scratch_path(&room, "adapter"));
	for (int forever = 0; forever < 2; forever++)
		for (long n = 1;; n++) {
			long live = ca.live;
			check_alloc_arm(&ca, n, forever);
			lora_status st = lora__peft_open(ctx, GOLDEN, &loaded, &tensors);
			if (!st) st = save(2);
			int hit = ca.failures > 0;
			check_alloc_arm(&ca, 0, 0);
			lora__peft_close(&loaded);
			lora__tensors_close(&tensors);
			ck_assert_msg(st == (hit ? LORA_E_MEMORY : LORA_OK), "allocation %ld: %s (%s)", n, lora_status_name(st), lora_context_last_error(ctx));
			ck_assert_int_eq(ca.live, live);
			ck_assert_int_eq(scratch_count(room.dir), !hit || forever);
			if (!hit) break;
		}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("peft");
	TCase *t = tcase_create("peft");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, A02_json, 0, (int)(sizeof json_rows / sizeof *json_rows));
	tcase_add_test(t, A02_json_deep);
	tcase_add_loop_test(t, config_row, 0, (int)(sizeof config_rows / sizeof *config_rows));
	tcase_add_test(t, A08_A22_large);
	tcase_add_test(t, config_values);
	tcase_add_loop_test(t, splits_names, 0, (int)(sizeof name_rows / sizeof *name_rows));
	tcase_add_test(t, opens_what_peft_saved);
	tcase_add_test(t, saves_as_peft_does);
	tcase_add_test(t, A20_keys_are_carried);
	tcase_add_test(t, A33_halves);
	tcase_add_loop_test(t, save_survives, 0, 8);
	tcase_add_test(t, allocations_fail);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
