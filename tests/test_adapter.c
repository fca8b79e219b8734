/* Adapters: which sites they take, what careless or hostile configurations and tensors get (rows A11 to A33 of the bad-input table; the rows on
 * the configuration's syntax are in test_peft.c), saving and opening again, and misuse of the calls (rows P). */
#include "adapter/adapter.h"
#include "golden.h"

#define MODEL "tests/golden/models/llama/model"
#define ADAPTER "tests/golden/peft/lora-default/adapter"

static lora_model *model;

static void begin(void)
{
	golden_context("naive", 1);
	ck_ok(lora_model_open(golden_ctx, MODEL, NULL, &model));
}

static void end(void)
{
	lora_model_destroy(model);
	uint64_t now;
	lora_context_destroy(golden_ctx);
	(void)now;
}

static lora_settings *settings_of(const char *json)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, json, strlen(json)));
	return s;
}

/* What PEFT chooses for these settings on the two-layer Llama (computed with PEFT 0.21.2; sites as <layer>.<last name>). */
static const struct { const char *json; const char *sites; } targets[] = {
	{ "{}", "0.q_proj 0.v_proj 1.q_proj 1.v_proj" },
	{ "{\"target_modules\":[\"k_proj\"]}", "0.k_proj 1.k_proj" },
	{ "{\"target_modules\":[\"model.layers.1.mlp.up_proj\"]}", "1.up_proj" },
	{ "{\"target_modules\":[\"mlp.up_proj\",\"o_proj\"]}", "0.o_proj 0.up_proj 1.o_proj 1.up_proj" },
	{ "{\"target_modules\":[\"q_proj\",\"v_proj\"],\"layers_to_transform\":[1]}", "1.q_proj 1.v_proj" },
	{ "{\"target_modules\":[\"q_proj\",\"v_proj\"],\"layers_to_transform\":0,\"layers_pattern\":\"layers\"}", "0.q_proj 0.v_proj" },
	{ "{\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0,1],\"layers_pattern\":[\"blocks\",\"layers\"]}", "0.q_proj 1.q_proj" },
	{ "{\"target_modules\":[\"q_proj\",\"k_proj\"],\"exclude_modules\":[\"layers.0.self_attn.q_proj\"]}", "0.k_proj 1.q_proj 1.k_proj" },
	{ "{\"target_modules\":[\"q_proj\",\"k_proj\"],\"exclude_modules\":\".*\\\\.1\\\\..*\"}", "0.q_proj 0.k_proj" },
	{ "{\"target_modules\":\".*layers\\\\.[01]\\\\.self_attn\\\\.(q|o)_proj\"}", "0.q_proj 0.o_proj 1.q_proj 1.o_proj" },
	{ "{\"target_modules\":\"all-linear\",\"layers_to_transform\":[0]}",
		"0.q_proj 0.k_proj 0.v_proj 0.o_proj 0.gate_proj 0.up_proj 0.down_proj" },
	{ "{\"target_modules\":[\"lm_head\"]}", "-1.lm_head" },
};

START_TEST(target_selection)
{
	begin();
	lora_settings *s = settings_of(targets[_i].json);
	lora_adapter *a;
	char got[1024] = "";
	ck_ok(lora_adapter_create(model, "lora", s, &a));
	for (size_t i = 0; i < a->n_parts; i++) {
		const lora__site *site = a->parts[i].slot.site;
		size_t n = strlen(got);
		snprintf(got + n, sizeof got - n, "%s%d.%s", n ? " " : "", (int)site->layer, strrchr(site->name, '.') ? strrchr(site->name, '.') + 1 : site->name);
	}
	ck_assert_str_eq(got, targets[_i].sites);
	lora_settings_destroy(s);
	lora_adapter_destroy(a);
	end();
}
END_TEST

/* Settings that lora_adapter_create() must refuse: status and a piece of the message. */
static const struct { const char *id, *json; lora_status status; const char *message; } refused[] = {
	{ "A04", "{\"r\":0}", LORA_E_ARGUMENT, "r is 0" },
	{ "A04", "{\"r\":-5}", LORA_E_ARGUMENT, "r is -5" },
	{ "A04", "{\"r\":1.5}", LORA_E_ARGUMENT, "r must be an integer" },
	{ "A04", "{\"r\":\"8\"}", LORA_E_ARGUMENT, "r must be an integer" },
	{ "A04", "{\"r\":true}", LORA_E_ARGUMENT, "r must be an integer" },
	{ "A04", "{\"r\":2147483648}", LORA_E_ARGUMENT, "r is" },
	{ "A06", "{\"lora_alpha\":\"16\"}", LORA_E_ARGUMENT, "lora_alpha must be a number" },
	{ "A08", "{\"target_modules\":[]}", LORA_E_ARGUMENT, "empty list" },
	{ "A08", "{\"target_modules\":[\"\"]}", LORA_E_ARGUMENT, "empty name" },
	{ "A08", "{\"target_modules\":3}", LORA_E_ARGUMENT, "target_modules must be" },
	{ "A09", "{\"target_modules\":\"(\"}", LORA_E_ARGUMENT, "bad regular expression" },
	{ "A09", "{\"target_modules\":\"(a+)+$\"}", LORA_E_NOTFOUND, "matches no module" },
	{ "A11", "{\"target_modules\":[\"q_prj\"]}", LORA_E_NOTFOUND, "q_proj" },
	{ "A16", "{\"use_dora\":true}", LORA_E_UNSUPPORTED, "use_dora" },
	{ "A17", "{\"bias\":\"all\"}", LORA_E_UNSUPPORTED, "bias" },
	{ "A17", "{\"modules_to_save\":[\"embed_tokens\"]}", LORA_E_UNSUPPORTED, "modules_to_save" },
	{ "A17", "{\"lora_bias\":true}", LORA_E_UNSUPPORTED, "lora_bias" },
	{ "P05", "{\"rank_pattern\":{\"q_proj\":0}}", LORA_E_ARGUMENT, "rank 0" },
	{ "P07", "{\"lora_dropout\":1.0}", LORA_E_ARGUMENT, "lora_dropout" },
	{ "P07", "{\"lora_dropout\":-0.1}", LORA_E_ARGUMENT, "lora_dropout" },
	{ "key", "{\"lora_alhpa\":16}", LORA_E_ARGUMENT, "did you mean lora_alpha" },
	{ "init", "{\"init_lora_weights\":\"pissa\"}", LORA_E_UNSUPPORTED, "pissa" },
	{ "layers", "{\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[9]}", LORA_E_NOTFOUND, "matches no module" },
};

START_TEST(refused_settings)
{
	begin();
	lora_settings *s = settings_of(refused[_i].json);
	lora_adapter *a = (lora_adapter *)1;
	ck_assert_msg(lora_adapter_create(model, "lora", s, &a) == refused[_i].status, "%s %s: %s", refused[_i].id, refused[_i].json,
		lora_context_last_error(golden_ctx));
	ck_assert_ptr_null(a);
	ck_assert_msg(strstr(lora_context_last_error(golden_ctx), refused[_i].message) != NULL, "%s: message is: %s", refused[_i].id, lora_context_last_error(golden_ctx));
	lora_settings_destroy(s);
	end();
}
END_TEST

/* --- opening: a small config and hand-made tensors --- */

typedef struct item { const char *name; lora_dtype dtype; int64_t d0, d1; } item;

static lora_status open_made(const char *config, const item *items, const char *options, lora_adapter **a)
{
	static float values[4096];
	lora__tensor list[8];
	size_t n = 0;
	for (; items[n].name; n++) {
		list[n] = (lora__tensor){ .name = items[n].name, .dtype = items[n].dtype, .rank = items[n].d1 ? 2 : items[n].d0 ? 1 : 0, .shape = { items[n].d0, items[n].d1 },
			.data = (const uint8_t *)values };
		list[n].bytes = (uint64_t)(items[n].d0 ? items[n].d0 : 1) * (uint64_t)(items[n].d1 ? items[n].d1 : 1) * lora__dtype_size(items[n].dtype);
		ck_assert_uint_le(list[n].bytes, sizeof values);
	}
	lora__text header;
	lora__piece pieces[9];
	lora__text_init(&header, golden_ctx);
	ck_ok(lora__safetensors_layout(golden_ctx, list, n, NULL, &header, pieces));
	lora__text file;
	lora__text_init(&file, golden_ctx);
	for (size_t i = 0; i <= n; i++) lora__text_add(&file, pieces[i].data, pieces[i].n);
	lora_settings *s = options ? settings_of(options) : NULL;
	lora_status st = lora_adapter_open_memory(model, config, strlen(config), file.data, file.n, s, a);
	lora_settings_destroy(s);
	lora__text_free(&file);
	lora__text_free(&header);
	return st;
}

#define P0 "base_model.model.model.layers.0.self_attn.q_proj."
#define P1 "base_model.model.model.layers.1.self_attn.q_proj."
#define CONFIG(more) "{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":6,\"target_modules\":[\"layers.0.self_attn.q_proj\"]" more "}"
#define PE "base_model.model.model.embed_tokens."
#define TABLE "{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":6,\"target_modules\":[\"embed_tokens\"]}"
static const item good[] = { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 }, { NULL } };

typedef struct opening { const char *id, *config; item items[5]; lora_status status; const char *message; } opening;

static const opening openings[] = {
	{ "good", CONFIG(""), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_OK, "" },
	{ "A05", CONFIG(",\"rank_pattern\":{\"q_proj\":60}"), { { P0 "lora_A.weight", LORA_F32, 60, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 60 } }, LORA_OK, "" },
	{ "A14", CONFIG(""), { { P0 "lora_A.weight", LORA_F32, 4, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 4 } }, LORA_E_SHAPE, "[4,48]" },
	{ "A13", CONFIG(",\"rank_pattern\":{\"q_proj\":4}"), { { P0 "lora_A.weight", LORA_F32, 4, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 4 } }, LORA_OK, "" },
	{ "A23a", CONFIG(""), { { P0 "lora_A.weight", LORA_F32, 3, 48 } }, LORA_E_FORMAT, "lora_B.weight" },
	{ "A23b", CONFIG(""), { { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_FORMAT, "lora_A.weight" },
	{ "A24", CONFIG(""), { { P0 "lora_A.weight", LORA_F32, 48, 3 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_SHAPE, "transposed" },
	{ "A25", CONFIG(""), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 }, { "model.nothing.weight", LORA_F32, 2, 2 } },
		LORA_E_NOTFOUND, "model.nothing.weight" },
	{ "A26", "{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":6,\"target_modules\":[\"q_proj\"]}",
		{ { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_FORMAT, "layers.1.self_attn.q_proj" },
	{ "A27", CONFIG(""), { { P0 "lora_A.weight", LORA_I8, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_DTYPE, "I8" },
	{ "A27b", CONFIG(""), { { P0 "lora_A.weight", LORA_F16, 3, 48 }, { P0 "lora_B.weight", LORA_BF16, 48, 3 } }, LORA_OK, "" },
	{ "A28", CONFIG(""), { { P0 "lora_A.weight", LORA_F16, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_OK, "" },
	{ "A32a", CONFIG(""), { { P0 "lora_A.weight", LORA_F32, 3, 64 }, { P0 "lora_B.weight", LORA_F32, 64, 3 } }, LORA_E_SHAPE, "[3,64]" },
	{ "A32b", CONFIG(""), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 64, 3 } }, LORA_E_SHAPE, "[64,3]" },
	{ "A29", CONFIG(""), { { "model.layers.0.self_attn.q_proj.lora_A.weight", LORA_F32, 3, 48 }, { "layers.0.self_attn.q_proj.lora_B.default.weight", LORA_F32, 48, 3 } },
		LORA_OK, "" },
	{ "A29b", CONFIG(""), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 },
		{ "model.layers.0.self_attn.q_proj.lora_A.weight", LORA_F32, 3, 48 } }, LORA_E_FORMAT, "same part" },
	{ "A30", "{\"peft_type\":\"LORA\",\"r\":3,\"lora_alpha\":6,\"target_modules\":[\"q_proj\"]}", { { "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight", LORA_F32, 3, 48 } },
		LORA_E_NOTFOUND, "layer 2, the model has 2 layers" },
	{ "A31", TABLE, { { PE "lora_embedding_A", LORA_F32, 3, 131 }, { PE "lora_embedding_B", LORA_F32, 48, 3 } }, LORA_OK, "" },
	{ "A31b", TABLE, { { PE "lora_embedding_A", LORA_F32, 3, 131 } }, LORA_E_FORMAT, "embed_tokens.lora_embedding_B" },
	{ "A31c", TABLE, { { PE "lora_embedding_A", LORA_F32, 131, 3 }, { PE "lora_embedding_B", LORA_F32, 48, 3 } }, LORA_E_SHAPE, "transposed" },
	{ "A31d", TABLE, { { PE "lora_embedding_A", LORA_F32, 3, 131 }, { PE "lora_embedding_B", LORA_F32, 48, 3 }, { PE "base_layer.weight", LORA_F32, 13, 48 } }, LORA_E_UNSUPPORTED,
		"base_layer.weight" },
	{ "A31e", TABLE, { { PE "lora_A.weight", LORA_F32, 3, 131 }, { PE "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_NOTFOUND, "embed_tokens.lora_A.weight" },
	{ "A31f", CONFIG(""), { { P0 "lora_embedding_A", LORA_F32, 3, 48 }, { P0 "lora_embedding_B", LORA_F32, 48, 3 } }, LORA_E_NOTFOUND, "lora_embedding_A" },
	{ "A16", CONFIG(",\"use_dora\":true"), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_UNSUPPORTED, "use_dora" },
	{ "A17b", CONFIG(",\"modules_to_save\":[\"lm_head\"]"), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_FORMAT,
		"lm_head, but there are no tensors" },
	{ "A17", CONFIG(",\"modules_to_save\":[\"embed_tokens\"]"), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_UNSUPPORTED,
		"modules_to_save" },
	{ "A19", CONFIG(",\"auto_mapping\":{\"parent_library\":\"os\"},\"megatron_core\":\"evil\",\"runtime_config\":{\"x\":1}"),
		{ { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_OK, "" },
	{ "A20", CONFIG(",\"some_future_key\":[1,2]"), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_OK, "" },
	{ "A21", CONFIG(",\"r\":4"), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_FORMAT, "duplicate" },
	{ "A22", CONFIG(",\"base_model_name_or_path\":\"../../etc/passwd\""), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_OK, "" },
	{ "A03", "{\"peft_type\":\"IA3\",\"target_modules\":[\"q_proj\"]}", { { P0 "lora_A.weight", LORA_F32, 3, 48 } }, LORA_E_UNSUPPORTED, "IA3" },
	{ "S30", CONFIG(""), { { P0 "lora_A.weight", LORA_F32, 0, 0 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_SHAPE, "[]" },
	{ "pissa", CONFIG(",\"init_lora_weights\":\"pissa\""), { { P0 "lora_A.weight", LORA_F32, 3, 48 }, { P0 "lora_B.weight", LORA_F32, 48, 3 } }, LORA_E_UNSUPPORTED, "pissa" },
	{ "none", CONFIG(""), { { NULL, 0, 0, 0 } }, LORA_E_FORMAT, "no tensors for it" },
};

START_TEST(opening_rows)
{
	const opening *o = &openings[_i];
	lora_adapter *a = NULL;
	begin();
	lora_status st = open_made(o->config, o->items, NULL, &a);
	ck_assert_msg(st == o->status, "%s: %s: %s", o->id, lora_status_name(st), lora_context_last_error(golden_ctx));
	if (st) {
		ck_assert_ptr_null(a);
		ck_assert_msg(strstr(lora_context_last_error(golden_ctx), o->message) != NULL, "%s: message is: %s", o->id, lora_context_last_error(golden_ctx));
	}
	lora_adapter_destroy(a);
	end();
}
END_TEST

START_TEST(ignore_extra)
{
	lora_adapter *a;
	begin();
	ck_ok(open_made(CONFIG(""), (item[]){ good[0], good[1], { "model.nothing.weight", LORA_F32, 2, 2 }, { NULL } }, "{\"ignore_extra\":true}", &a));
	lora_adapter_destroy(a);
	end();
}
END_TEST

/* A22 and A20: text is carried, unknown keys are listed by the settings query and saved again. */
START_TEST(carried_keys)
{
	lora_adapter *a;
	char json[4096];
	begin();
	ck_ok(open_made(CONFIG(",\"some_future_key\":[1,2],\"base_model_name_or_path\":\"../../etc/passwd\""), good, NULL, &a));
	ck_ok(lora_adapter_settings_json(a, json, sizeof json, NULL));
	ck_assert(strstr(json, "\"some_future_key\":[1,2]") != NULL);
	ck_ok(lora_adapter_save(a, "build/tmp-carried", NULL));
	lora_adapter *b;
	ck_ok(lora_adapter_open(model, "build/tmp-carried", NULL, &b));
	ck_ok(lora_adapter_settings_json(b, json, sizeof json, NULL));
	ck_assert(strstr(json, "\"some_future_key\":[1,2]") != NULL);
	ck_assert(strstr(json, "../../etc/passwd") != NULL);
	lora_adapter_destroy(a);
	lora_adapter_destroy(b);
	end();
}
END_TEST

/* save, open, save gives the same bytes; the parameters are those that were saved; all dtypes. */
START_TEST(save_open_save)
{
	static const char *const types[] = { "F32", "F16", "BF16" };
	lora_adapter *a, *b;
	begin();
	ck_ok(lora_adapter_open(model, ADAPTER, NULL, &a));
	lora_settings *s = settings_of("{}");
	ck_ok(lora_settings_set_string(s, "dtype", types[_i]));
	ck_ok(lora_adapter_save(a, "build/tmp-save-1", s));
	ck_ok(lora_adapter_open(model, "build/tmp-save-1", NULL, &b));
	ck_ok(lora_adapter_save(b, "build/tmp-save-2", s));
	ck_assert_int_eq(system("cmp build/tmp-save-1/adapter_model.safetensors build/tmp-save-2/adapter_model.safetensors && "
		"cmp build/tmp-save-1/adapter_config.json build/tmp-save-2/adapter_config.json"), 0);
	for (size_t i = 0; _i == 0 && i < a->n_params; i++) ck_assert(a->params[i] == b->params[i]);
	if (_i == 0) /* PEFT wrote the golden file: ours has the same bytes */
		ck_assert_int_eq(system("cmp build/tmp-save-1/adapter_model.safetensors " ADAPTER "/adapter_model.safetensors"), 0);
	lora_settings_destroy(s);
	lora_adapter_destroy(a);
	lora_adapter_destroy(b);
	end();
}
END_TEST

/* A folder with other content is refused; an adapter folder keeps what is not ours. */
START_TEST(save_targets)
{
	lora_adapter *a;
	begin();
	ck_ok(lora_adapter_create(model, "lora", NULL, &a));
	ck_assert_int_eq(system("rm -rf build/tmp-t && mkdir -p build/tmp-t/full build/tmp-t/empty && echo x > build/tmp-t/full/x && echo y > build/tmp-t/file"), 0);
	ck_assert_int_eq(lora_adapter_save(a, "build/tmp-t/full", NULL), LORA_E_EXISTS);
	ck_assert_int_eq(lora_adapter_save(a, "build/tmp-t/file", NULL), LORA_E_EXISTS);
	ck_ok(lora_adapter_save(a, "build/tmp-t/empty", NULL));
	ck_assert_int_eq(system("mkdir build/tmp-t/empty/checkpoint && echo z > build/tmp-t/empty/checkpoint/z && echo l > build/tmp-t/empty/log.jsonl"), 0);
	ck_ok(lora_adapter_save(a, "build/tmp-t/empty", NULL));
	ck_assert_int_eq(system("test -f build/tmp-t/empty/checkpoint/z && test -f build/tmp-t/empty/log.jsonl && test -f build/tmp-t/empty/adapter_config.json"), 0);
	lora_settings *s = settings_of("{\"force\":false}");
	ck_assert_int_eq(lora_adapter_save(a, "build/tmp-t/empty", s), LORA_E_EXISTS);
	ck_assert_int_eq(lora_adapter_save(a, "build/tmp-t/none/deep", NULL), LORA_E_IO);
	lora_settings_destroy(s);
	lora_adapter_destroy(a);
	end();
}
END_TEST

/* P14 to P18, P36: states of attaching; destroy in any order. */
START_TEST(states)
{
	lora_adapter *a;
	begin();
	ck_ok(lora_adapter_create(model, "lora", NULL, &a));
	ck_assert_int_eq(lora_adapter_detach(a), LORA_E_STATE);
	ck_assert_int_eq(lora_adapter_set_scale(a, 2.0), LORA_E_STATE);
	ck_assert_int_eq(lora_adapter_attach(a, NAN), LORA_E_ARGUMENT);
	ck_ok(lora_adapter_attach(a, 1.0));
	ck_assert_int_eq(lora_adapter_attach(a, 1.0), LORA_E_EXISTS);
	ck_assert_int_eq(lora_adapter_set_scale(a, INFINITY), LORA_E_ARGUMENT);
	ck_ok(lora_adapter_detach(a));
	ck_assert_int_eq(lora_adapter_detach(a), LORA_E_STATE);
	ck_ok(lora_adapter_attach(a, 1.0));
	lora_model_destroy(model); /* parents first: the adapter keeps them alive */
	lora_context *ctx = golden_ctx;
	lora_context_destroy(ctx);
	float v[144];
	ck_assert_int_eq(lora_adapter_tensor_read(a, 0, v, 5), LORA_E_SHAPE);
	lora_adapter_destroy(a);
}
END_TEST

/* S37: values that are not finite load, but do not attach. */
START_TEST(not_finite)
{
	lora_adapter *a;
	begin();
	ck_ok(lora_adapter_create(model, "lora", NULL, &a));
	float v[8 * 48] = { NAN };
	ck_assert_int_eq(lora_adapter_tensor_write(a, 0, v, sizeof v), LORA_E_NUMERIC);
	a->params[5] = INFINITY;
	ck_assert_int_eq(lora_adapter_attach(a, 1.0), LORA_E_NUMERIC);
	lora_adapter_destroy(a);
	end();
}
END_TEST

/* Batches that must be refused, by name. */
START_TEST(bad_batches)
{
	int32_t ids[4] = { 1, 2, 3, 4 }, bad_ids[4] = { 1, 131, 3, 4 }, mask[4] = { 1, 1, 2, 1 }, labels[4] = { -100, 5, -1, 7 }, positions[4] = { 0, 1, -1, 3 };
	float logits[4 * 131];
	double loss;
	begin();
	lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = 4, .input_ids = bad_ids };
	ck_assert_int_eq(lora_model_forward(model, &b, logits, sizeof logits), LORA_E_SHAPE);
	b.input_ids = ids;
	ck_assert_int_eq(lora_model_forward(model, &b, logits, sizeof logits - 1), LORA_E_SHAPE);
	b.attention_mask = mask;
	ck_assert_int_eq(lora_model_forward(model, &b, logits, sizeof logits), LORA_E_ARGUMENT);
	b.attention_mask = NULL, b.position_ids = positions;
	ck_assert_int_eq(lora_model_forward(model, &b, logits, sizeof logits), LORA_E_SHAPE);
	b.position_ids = NULL, b.labels = labels;
	ck_assert_int_eq(lora_model_loss(model, &b, &loss, NULL), LORA_E_SHAPE);
	b.labels = NULL;
	ck_assert_int_eq(lora_model_loss(model, &b, &loss, NULL), LORA_E_ARGUMENT);
	b.reserved[0] = 1;
	ck_assert_int_eq(lora_model_forward(model, &b, logits, sizeof logits), LORA_E_ARGUMENT);
	b.reserved[0] = 0, b.n_sequences = 0;
	ck_ok(lora_model_forward(model, &b, logits, sizeof logits)); /* P43: no rows, no work */
	b.n_sequences = 1, b.length = 1;
	ck_ok(lora_model_forward(model, &b, logits, sizeof logits));
	b.n_sequences = INT64_MAX, b.length = 3;
	ck_assert_int_eq(lora_model_forward(model, &b, logits, sizeof logits), LORA_E_ARGUMENT);
	end();
}
END_TEST

#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

int main(void)
{
	Suite *s = suite_create("adapter");
	TCase *t = tcase_create("adapter");
	tcase_set_timeout(t, 30);
	tcase_add_loop_test(t, target_selection, 0, COUNT(targets));
	tcase_add_loop_test(t, refused_settings, 0, COUNT(refused));
	tcase_add_loop_test(t, opening_rows, 0, COUNT(openings));
	tcase_add_test(t, ignore_extra);
	tcase_add_test(t, carried_keys);
	tcase_add_loop_test(t, save_open_save, 0, 3);
	tcase_add_test(t, save_targets);
	tcase_add_test(t, states);
	tcase_add_test(t, not_finite);
	tcase_add_test(t, bad_batches);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
