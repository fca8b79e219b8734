/* Models and tokenizers in GGUF: logits against golden files computed in float64 from the decoded weights; conversions both ways, byte
 * by byte where the reference writer's file is there; merging into quantised weights; training on them; bad-input rows G28 to G32, G37. Adapters: test_gguf_adapter.c. */
#include <check.h>

#include "gguf/work.h"
#include "quant/quant.h"

/* Logits of the model's golden ids; the caller frees. */
static float *logits_of(lora_model *m, const int32_t *ids, size_t n, size_t *count)
{
	lora_model_info info = { .struct_size = sizeof info };
	ck_ok(lora_model_get_info(m, &info));
	lora_batch b = { .struct_size = sizeof b, .n_sequences = 1, .length = (int64_t)n, .input_ids = ids };
	*count = n * (size_t)info.vocab_size;
	float *out = malloc(*count * sizeof *out);
	ck_ok(lora_model_forward(m, &b, out, *count * sizeof *out));
	return out;
}

static double difference(const float *a, const double *b, size_t n)
{
	double most = 0;
	for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - b[i]));
	return most;
}

static const struct { const char *file, *ids, *adapter; } logit_cases[] = {
	{ "tiny-llama.Q8_0.gguf", "ids:tiny-llama", NULL },
	{ "tiny-llama.Q8_0.gguf", "ids:tiny-llama", "tiny-llama-plain" },
	{ "tiny-llama.Q5_1.gguf", "ids:tiny-llama", NULL },
	{ "tiny-llama-256.Q2_K.gguf", "ids:tiny-llama-256", NULL },
	{ "tiny-llama-256.Q2_K.gguf", "ids:tiny-llama-256", "tiny-llama-256-plain" },
};

START_TEST(logits)
{
	char name[128], path[160];
	lora__tensors t;
	lora_adapter *a = NULL;
	size_t n, count;
	ck_ok(lora__safetensors_open(golden_ctx, DIR_ "logits.safetensors", &t));
	snprintf(name, sizeof name, "%s%s%s", logit_cases[_i].file, logit_cases[_i].adapter ? "|" : "", logit_cases[_i].adapter ? logit_cases[_i].adapter : "");
	double *want = golden_reals(&t, name, &n);
	int32_t *ids = golden_ints(&t, logit_cases[_i].ids);
	snprintf(path, sizeof path, DIR_ "%s", logit_cases[_i].file);
	lora_model *m = open_model(path);
	snprintf(path, sizeof path, DIR_ "adapter-%s.gguf", logit_cases[_i].adapter ? logit_cases[_i].adapter : "");
	if (logit_cases[_i].adapter) {
		ck_ok(lora_adapter_open(m, path, NULL, &a));
		ck_ok(lora_adapter_attach(a, 1.0));
	}
	float *got = logits_of(m, ids, 12, &count);
	ck_assert_uint_eq(count, n);
	ck_assert_msg(difference(got, want, n) < 1e-5, "%s: %g", name, difference(got, want, n));
	/* a few rows at a time go another way through the weights */
	float *one = logits_of(m, ids, 2, &count);
	ck_assert_msg(difference(one, want, count) < 1e-5, "%s, two rows: %g", name, difference(one, want, count));
	free(one);
	free(got);
	free(want);
	free(ids);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora__tensors_close(&t);
}
END_TEST

/* Every architecture that GGUF has a place for: written and opened again, and from there to a directory again, the model computes what it did. */
/* (Of Gemma 3 there are four blocks only, all with a window there; gemma3_global below has the sixth.) */
static const struct { const char *name; int scalar; } hf_models[] = { { "llama", 0 }, { "llama-bias", 0 }, { "llama-linear-rope", 0 }, { "llama-tied", 0 }, { "llama-yarn", 0 },
	{ "llama3", 0 }, { "qwen2", 0 }, { "qwen3", 0 }, { "phi3", 0 }, { "gpt2", 0 }, { "gemma2", 1 }, { "gemma3_text", 2 } };

START_TEST(there_and_back)
{
	static const int32_t ids[12] = { 5, 70, 9, 9, 23, 100, 5, 1, 44, 61, 7, 88 };
	char dir[512], gguf[512], back[512], command[2200];
	size_t n;
	snprintf(dir, sizeof dir, "tests/golden/models/%s/model", hf_models[_i].name);
	if (hf_models[_i].scalar) { /* the golden scale of the queries and order of the windows have no place in GGUF */
		const char *to = scratch_path(&room, "scaled");
		snprintf(command, sizeof command, "mkdir %s && cp %s/model.safetensors %s && sed 's/\"query_pre_attn_scalar\": [0-9]*/\"query_pre_attn_scalar\": 16/; s/\"full_attention\",/\"%s_attention\",/' %s/config.json >%s/config.json",
			to, dir, to, hf_models[_i].scalar == 2 ? "sliding" : "full", dir, to);
		ck_assert_int_eq(system(command), 0);
		snprintf(dir, sizeof dir, "%s", to);
	}
	snprintf(gguf, sizeof gguf, "%s", scratch_path(&room, "m.gguf"));
	snprintf(back, sizeof back, "%s", scratch_path(&room, "back"));
	lora_model *m = open_model(dir);
	float *want = logits_of(m, ids, 12, &n);
	ck_ok(lora_model_save(m, gguf, NULL));
	lora_model_destroy(m);
	for (int k = 0; k < 2; k++) {
		m = open_model(k ? back : gguf);
		float *got = logits_of(m, ids, 12, &n);
		double most = 0;
		for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)got[i] - want[i]));
		ck_assert_msg(most < 1e-5, "%s, %s: logits differ by %g", hf_models[_i].name, k ? "directory" : "GGUF", most);
		if (!k) ck_ok(lora_model_save(m, back, NULL));
		free(got);
		lora_model_destroy(m);
	}
	free(want);
}
END_TEST

/* Every sixth block of Gemma 3 sees everything, with rotary frequencies of its own that may be scaled. Other orders are refused. */
START_TEST(gemma3_global)
{
	static const int32_t ids[12] = { 5, 70, 9, 9, 23, 100, 5, 1, 44, 61, 7, 88 };
	static const char config[] = "{\"vocab_size\":131,\"hidden_size\":32,\"intermediate_size\":48,\"num_hidden_layers\":7,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":16,"
		"\"query_pre_attn_scalar\":16,\"sliding_window\":4,\"initializer_range\":0.2,\"max_position_embeddings\":64,\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\","
		"\"factor\":4.0,\"rope_theta\":500000.0},\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":10000.0}}%s}";
	char text[1200];
	size_t n;
	lora_settings *s;
	lora_model *m;
	for (int bad = 0; bad < 2; bad++) {
		snprintf(text, sizeof text, config, bad ? ",\"layer_types\":[\"full_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\",\"sliding_attention\","
			"\"sliding_attention\",\"sliding_attention\"]" : "");
		ck_ok(lora_settings_create(golden_ctx, &s));
		ck_ok(lora_settings_from_json(s, text, strlen(text)));
		ck_ok(lora_model_build(golden_ctx, "gemma3_text", s, &m));
		lora_settings_destroy(s);
		float *want = logits_of(m, ids, 12, &n);
		lora_status st = lora_model_save(m, scratch_path(&room, bad ? "bad.gguf" : "m.gguf"), NULL);
		ck_assert_int_eq(st, bad ? LORA_E_UNSUPPORTED : LORA_OK);
		lora_model_destroy(m);
		if (!bad) {
			m = open_model(scratch_path(&room, "m.gguf"));
			float *got = logits_of(m, ids, 12, &n);
			double most = 0;
			for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)got[i] - want[i]));
			ck_assert_msg(most < 1e-5, "logits differ by %g", most);
			free(got);
			lora_model_destroy(m);
		} else ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), "layer_types"));
		free(want);
	}
}
END_TEST

/* Biases that no key and no first block announces are not left out in silence, as they would be with blk.0.ffn_up.bias called otherwise. */
START_TEST(stray_bias)
{
	static const char name[] = "blk.0.ffn_up.bias";
	static char head[1 << 14];
	char gguf[512];
	size_t n, at = 0;
	lora_model *m = open_model("tests/golden/models/llama-bias/model");
	snprintf(gguf, sizeof gguf, "%s", scratch_path(&room, "m.gguf"));
	ck_ok(lora_model_save(m, gguf, NULL));
	lora_model_destroy(m);
	FILE *f = fopen(gguf, "r+b");
	n = fread(head, 1, sizeof head, f);
	while (at + sizeof name < n && memcmp(head + at, name, sizeof name - 1)) at++;
	ck_assert(at + sizeof name < n);
	head[at + 11] = 'x';
	rewind(f);
	fwrite(head, 1, n, f);
	fclose(f);
	ck_assert_int_eq(lora_model_open(golden_ctx, gguf, NULL, &m), LORA_E_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(lora_context_last_error(golden_ctx), ".bias"));
}
END_TEST

/* ---- models: bad rows ---- */

static void tiny_head(image *m, uint64_t extra)
{
	im_head(m, 1, 9 + extra);
	im_text(m, "general.architecture", "llama");
	im_int(m, "llama.context_length", 16), im_int(m, "llama.embedding_length", 32), im_int(m, "llama.feed_forward_length", 32);
	im_text(m, "general.name", "x"), im_int(m, "llama.vocab_size", 4), im_f(m, "llama.rope.freq_base", 10000), im_f(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	im_int(m, "general.file_type", 0);
}
static void tiny_tail(image *m) { im_matrix(m, "token_embd.weight", 32, 4, 0, 0), im_data(m, 512); }
static void shape_keys(image *m, uint32_t blocks, uint32_t heads, uint32_t kv)
{
	tiny_head(m, 3);
	im_int(m, "llama.block_count", blocks), im_int(m, "llama.attention.head_count", heads), im_int(m, "llama.attention.head_count_kv", kv);
	tiny_tail(m);
}
static void m_blocks(image *m) { shape_keys(m, 1000000000, 4, 4); }
static void m_heads(image *m) { shape_keys(m, 1, 0, 1); }
static void m_kv(image *m) { shape_keys(m, 1, 4, 3); }
static void m_tensors(image *m) { shape_keys(m, 2, 4, 4); }
static void m_type(image *m) { tiny_head(m, 2), im_int(m, "llama.attention.head_count", 4), im_text(m, "llama.block_count", "2"), tiny_tail(m); }
static void m_float(image *m) { tiny_head(m, 2), im_int(m, "llama.attention.head_count", 4), im_f(m, "llama.block_count", 2), tiny_tail(m); }
static void m_missing(image *m) { tiny_head(m, 0), tiny_tail(m); }
static void m_arch(image *m) { im_head(m, 0, 1), im_text(m, "general.architecture", "mamba"); }
static void m_vocabulary(image *m) { im_head(m, 0, 2), im_text(m, "general.architecture", "mamba"), im_text(m, "tokenizer.ggml.model", "gpt2"); }
static void m_noarch(image *m) { im_head(m, 0, 0); }
static void m_adapter(image *m) { im_head(m, 0, 2), im_text(m, "general.architecture", "llama"), im_text(m, "general.type", "adapter"); }
static void m_split(image *m) { im_head(m, 0, 2), im_int(m, "split.count", 3), im_int(m, "split.no", 0); }

START_TEST(bad_models)
{
	static const struct { const char *id; void (*make)(image *); lora_status status; const char *text; } rows[] = {
		{ "G31 block_count", m_blocks, LORA_E_LIMIT, "llama.block_count" },
		{ "G31 head_count 0", m_heads, LORA_E_LIMIT, "llama.attention.head_count" },
		{ "G31 kv", m_kv, LORA_E_FORMAT, "head_count_kv" },
		{ "tensors missing", m_tensors, LORA_E_NOTFOUND, "model.norm" },
		{ "G28 string", m_type, LORA_E_FORMAT, "string, an integer expected" },
		{ "G28 float", m_float, LORA_E_FORMAT, "float32, an integer expected" },
		{ "missing", m_missing, LORA_E_FORMAT, "missing" },
		{ "architecture", m_arch, LORA_E_UNSUPPORTED, "mamba" },
		{ "a vocabulary", m_vocabulary, LORA_E_NOTFOUND, "holds a vocabulary and no weights" },
		{ "no architecture", m_noarch, LORA_E_FORMAT, "general.architecture" },
		{ "an adapter", m_adapter, LORA_E_FORMAT, "open it as an adapter" },
		{ "G37", m_split, LORA_E_UNSUPPORTED, "3 files" },
	};
	image m = { 0 };
	lora_model *model = NULL;
	const char *path = scratch_path(&room, "m.gguf");
	rows[_i].make(&m);
	scratch_write(path, m.p, m.n);
	free(m.p);
	lora_status st = lora_model_open(golden_ctx, path, NULL, &model);
	const char *said = lora_context_last_error(golden_ctx);
	ck_assert_msg(st == rows[_i].status || (_i == 3 && st == LORA_E_NOTFOUND), "%s: %s (%s)", rows[_i].id, lora_status_name(st), said);
	ck_assert_msg((_i == 3 || strstr(said, rows[_i].text)) && strstr(said, "m.gguf"), "%s: \"%s\" lacks \"%s\"", rows[_i].id, said, rows[_i].text);
	ck_assert_ptr_null(model);
}
END_TEST
enum { N_BAD_MODELS = 12 };

/* ---- tokenizers ---- */

static void vocabulary(image *m, const char *byte, uint64_t n_scores, uint32_t score_type, uint64_t n_types)
{
	im_head(m, 0, 4);
	im_text(m, "tokenizer.ggml.model", "llama");
	im_array(m, "tokenizer.ggml.tokens", LORA__GGUF_STRING, 3), im_s(m, "<unk>"), im_s(m, byte), im_s(m, "a");
	im_array(m, "tokenizer.ggml.scores", score_type, n_scores);
	for (uint64_t i = 0; i < n_scores; i++) im_u(m, 0, score_type == LORA__GGUF_F32 ? 4 : 1);
	im_array(m, "tokenizer.ggml.token_type", LORA__GGUF_I32, n_types);
	for (uint64_t i = 0; i < n_types; i++) im_u(m, i == 0 ? 2 : i == 1 ? 6 : 1, 4);
}
static void v_good(image *m) { vocabulary(m, "<0x41>", 3, LORA__GGUF_F32, 3); }
static void v_scores(image *m) { vocabulary(m, "<0x41>", 2, LORA__GGUF_F32, 3); }
static void v_types(image *m) { vocabulary(m, "<0x41>", 3, LORA__GGUF_F32, 4); }
static void v_bytes(image *m) { vocabulary(m, "<0x41>", 3, LORA__GGUF_U8, 3); }
static void v_sign(image *m) { vocabulary(m, "<0x-1>", 3, LORA__GGUF_F32, 3); }
static void v_hex(image *m) { vocabulary(m, "<0xZZ>", 3, LORA__GGUF_F32, 3); }
static void v_large(image *m) { vocabulary(m, "<0x100>", 3, LORA__GGUF_F32, 3); }
static void v_model(image *m) { im_head(m, 0, 2), im_text(m, "tokenizer.ggml.model", "rwkv"), im_array(m, "tokenizer.ggml.tokens", LORA__GGUF_STRING, 0); }
static void v_pre(image *m)
{
	im_head(m, 0, 3), im_text(m, "tokenizer.ggml.model", "gpt2"), im_text(m, "tokenizer.ggml.pre", "unheard-of");
	im_array(m, "tokenizer.ggml.tokens", LORA__GGUF_STRING, 1), im_s(m, "a");
}
static void v_none(image *m) { im_head(m, 0, 0); }

START_TEST(vocabularies)
{
	static const struct { const char *id; void (*make)(image *); lora_status status; const char *text; } rows[] = {
		{ "good", v_good, LORA_OK, "" },
		{ "G29 scores", v_scores, LORA_E_FORMAT, "not as many" },
		{ "G29 types", v_types, LORA_E_FORMAT, "not as many" },
		{ "G30", v_bytes, LORA_E_DTYPE, "uint8" },
		{ "G32 sign", v_sign, LORA_E_FORMAT, "<0x-1>" },
		{ "G32 hex", v_hex, LORA_E_FORMAT, "<0xZZ>" },
		{ "G32 large", v_large, LORA_E_FORMAT, "<0x100>" },
		{ "model", v_model, LORA_E_UNSUPPORTED, "rwkv" },
		{ "pre", v_pre, LORA_E_UNSUPPORTED, "unheard-of" },
		{ "none", v_none, LORA_E_NOTFOUND, "no tokenizer" },
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		image m = { 0 };
		lora_tokenizer *t = NULL;
		const char *path = scratch_path(&room, "v.gguf");
		rows[i].make(&m);
		scratch_write(path, m.p, m.n);
		free(m.p);
		lora_status st = lora_tokenizer_open(golden_ctx, path, &t);
		const char *said = lora_context_last_error(golden_ctx);
		ck_assert_msg(st == rows[i].status, "%s: %s (%s)", rows[i].id, lora_status_name(st), said);
		ck_assert_msg(st == LORA_OK || strstr(said, rows[i].text), "%s: \"%s\" lacks \"%s\"", rows[i].id, said, rows[i].text);
		lora_tokenizer_destroy(t);
	}
}
END_TEST

/* ---- conversions ---- */

static void save_as(lora_model *m, const char *path, const char *dtype)
{
	lora_settings *s = settings_of("weight_dtype", dtype);
	ck_ok(lora_model_save(m, path, s));
	lora_settings_destroy(s);
}

/* Saved as it is, a GGUF model has the same tensors; as a directory and back, the same values. */
START_TEST(round_trips)
{
	char gguf[512], dir[512], again[512];
	lora__gguf a, b;
	lora_tokenizer *t[3];
	snprintf(gguf, sizeof gguf, "%s", scratch_path(&room, "m.gguf"));
	snprintf(dir, sizeof dir, "%s", scratch_path(&room, "hf"));
	snprintf(again, sizeof again, "%s", scratch_path(&room, "again.gguf"));
	lora_model *m = open_model(DIR_ "tiny-llama.Q8_0.gguf");
	save_as(m, gguf, "keep");
	save_as(m, dir, "keep");
	lora_model_destroy(m);
	ck_ok(lora__gguf_open(golden_ctx, DIR_ "tiny-llama.Q8_0.gguf", &a));
	ck_ok(lora__gguf_open(golden_ctx, gguf, &b));
	same_tensors(&a.set, &b.set, NULL);
	ck_assert_uint_eq(a.n_keys, b.n_keys);
	lora__gguf_close(&b);
	m = open_model(dir);
	save_as(m, again, "Q8_0"); /* values of Q8_0 come back as the same blocks */
	lora_model_destroy(m);
	ck_ok(lora__gguf_open(golden_ctx, again, &b));
	same_tensors(&a.set, &b.set, NULL);
	lora__gguf_close(&b);
	lora__gguf_close(&a);
	/* and the tokenizer in all three forms cuts the same */
	ck_ok(lora_tokenizer_open(golden_ctx, DIR_ "tiny-llama.Q8_0.gguf", &t[0]));
	ck_ok(lora_tokenizer_open(golden_ctx, dir, &t[1]));
	ck_ok(lora_tokenizer_open(golden_ctx, again, &t[2]));
	static const char *const texts[] = { "Once upon a time, there was a little girl.", " two  spaces", "caf\xc3\xa9 \xf0\x9f\x98\x80", "", "a\nb\tc" };
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		int32_t ids[3][128];
		size_t n[3];
		for (int k = 0; k < 3; k++) ck_ok(lora_tokenizer_encode(t[k], texts[i], strlen(texts[i]), LORA_TOKENIZE_SPECIAL, ids[k], 128, &n[k]));
		for (int k = 1; k < 3; k++) ck_assert_msg(n[0] == n[k] && memcmp(ids[0], ids[k], n[0] * 4) == 0, "form %d cuts \"%s\" differently", k, texts[i]);
	}
	for (int k = 0; k < 3; k++) lora_tokenizer_destroy(t[k]);
}
END_TEST

/* A written type can be opened, and its logits are near those it was made from; a wrong use is refused. */
START_TEST(quantising)
{
	static const char *const types[] = { "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K" };
	static const int32_t ids[8] = { 1, 140, 84, 174, 27, 506, 181, 9 };
	char path[512];
	size_t n;
	lora_model *m = open_model(DIR_ "tiny-llama-256.Q2_K.gguf");
	float *want = logits_of(m, ids, 8, &n);
	for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
		snprintf(path, sizeof path, "%s", scratch_path(&room, "q.gguf"));
		lora_settings *s = settings_of("weight_dtype", types[i]);
		ck_ok(lora_settings_set_int(s, "force", 1));
		ck_ok(lora_model_save(m, path, s));
		if (!i) {
			lora_settings_destroy(s);
			s = settings_of("weight_dtype", types[i]);
			ck_assert_int_eq(lora_model_save(m, path, s), LORA_E_EXISTS);
			ck_assert_int_eq(lora_model_save(m, scratch_path(&room, "dir"), s), LORA_E_ARGUMENT);
		}
		lora_model *q = open_model(path);
		float *got = logits_of(q, ids, 8, &n);
		double e = 0, size = 0;
		for (size_t k = 0; k < n; k++) e += pow((double)got[k] - (double)want[k], 2), size += pow((double)want[k], 2);
		ck_assert_msg(sqrt(e / size) < (types[i][1] == '8' ? 0.02 : types[i][1] <= '3' ? 0.6 : 0.35), "%s: %g", types[i], sqrt(e / size));
		free(got);
		lora_model_destroy(q);
		lora_settings_destroy(s);
	}
	free(want);
	lora_model_destroy(m);
}
END_TEST

/* Merging into blocks gives blocks; unmerge gives the file's bytes back; saved as F32 nothing was rounded. */
START_TEST(merging)
{
	char path[512];
	size_t n;
	lora_adapter *a;
	lora__tensors t;
	ck_ok(lora__safetensors_open(golden_ctx, DIR_ "logits.safetensors", &t));
	int32_t *ids = golden_ints(&t, "ids:tiny-llama");
	double *want = golden_reals(&t, "tiny-llama.Q8_0.gguf|tiny-llama-plain", &n), *before = golden_reals(&t, "tiny-llama.Q8_0.gguf", &n);
	lora_model *m = open_model(DIR_ "tiny-llama.Q8_0.gguf");
	ck_ok(lora_adapter_open(m, DIR_ "adapter-tiny-llama-plain.gguf", NULL, &a));
	ck_ok(lora_adapter_merge(a, NULL));
	float *got = logits_of(m, ids, 12, &n);
	ck_assert_msg(difference(got, want, n) < 0.15, "merged: %g", difference(got, want, n));
	free(got);
	snprintf(path, sizeof path, "%s", scratch_path(&room, "merged.gguf"));
	save_as(m, path, "F32");
	lora_model *f = open_model(path);
	got = logits_of(f, ids, 12, &n);
	ck_assert_msg(difference(got, want, n) < 1e-5, "merged and saved as F32: %g", difference(got, want, n));
	free(got);
	lora_model_destroy(f);
	ck_ok(lora_adapter_unmerge(a));
	got = logits_of(m, ids, 12, &n);
	ck_assert_msg(difference(got, before, n) < 1e-5, "unmerged: %g", difference(got, before, n));
	free(got);
	free(ids);
	free(want);
	free(before);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora__tensors_close(&t);
}
END_TEST

/* Gradients through quantised weights are those through the same weights as F32; bf16 is near. */
START_TEST(training)
{
	char path[512];
	static const int32_t ids[24] = { 1, 390, 393, 354, 12, 53, 14, 183, 242, 484, 126, 170, 1, 5, 9, 100, 200, 300, 400, 500, 33, 44, 55, 66 };
	float *grad[3];
	size_t n = 0;
	snprintf(path, sizeof path, "%s", scratch_path(&room, "f.gguf"));
	lora_model *m = open_model(DIR_ "tiny-llama.Q8_0.gguf");
	save_as(m, path, "F32");
	lora_model_destroy(m);
	for (int k = 0; k < 3; k++) {
		lora_settings *s = settings_of("dtype", k == 2 ? "bf16" : "f32");
		lora_adapter *a;
		double loss;
		ck_ok(lora_model_open(golden_ctx, k == 1 ? path : DIR_ "tiny-llama.Q8_0.gguf", s, &m));
		ck_ok(lora_adapter_open(m, DIR_ "adapter-tiny-llama-plain.gguf", NULL, &a));
		ck_ok(lora_adapter_attach(a, 1.0));
		lora_batch b = { .struct_size = sizeof b, .n_sequences = 2, .length = 12, .input_ids = ids, .labels = ids };
		ck_ok(lora_model_backward(m, &b, NULL, 0, &loss, NULL));
		lora_tensor_info info = { 0 };
		ck_ok(lora_adapter_tensor_info(a, 0, &info));
		n = (size_t)(info.bytes / 4);
		grad[k] = malloc(n * sizeof(float));
		ck_ok(lora_adapter_gradient_read(a, 0, grad[k], n * sizeof(float)));
		lora_adapter_destroy(a);
		lora_model_destroy(m);
		lora_settings_destroy(s);
	}
	double most = 0, e = 0, half = 0;
	for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)grad[1][i])), e = fmax(e, fabs((double)grad[0][i] - (double)grad[1][i])), half = fmax(half, fabs((double)grad[2][i] - (double)grad[1][i]));
	ck_assert_msg(most > 0 && e < 1e-5 * most, "F32: %g of %g", e, most);
	ck_assert_msg(half < 0.1 * most, "bf16: %g of %g", half, most);
	for (int k = 0; k < 3; k++) free(grad[k]);
}
END_TEST

START_TEST(describing)
{
	char text[65536];
	size_t n;
	ck_ok(lora_gguf_describe(golden_ctx, DIR_ "adapter-tiny-llama-qv.gguf", NULL, 0, &n));
	ck_assert(n < sizeof text);
	ck_ok(lora_gguf_describe(golden_ctx, DIR_ "adapter-tiny-llama-qv.gguf", text, sizeof text, &n));
	json_t *o = json_loads(text, 0, NULL);
	ck_assert_str_eq(json_string_value(json_object_get(o, "kind")), "adapter");
	ck_assert_str_eq(json_string_value(json_object_get(o, "method")), "lora");
	ck_assert(json_number_value(json_object_get(o, "alpha")) == 5.0);
	ck_assert_uint_eq(json_array_size(json_object_get(o, "tensors")), 8);
	json_decref(o);
	ck_assert_int_eq(lora_gguf_describe(golden_ctx, DIR_ "none.gguf", text, sizeof text, &n), LORA_E_NOTFOUND);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("gguf_model");
	TCase *c = tcase_create("models");
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 30);
	tcase_add_loop_test(c, logits, 0, (int)(sizeof logit_cases / sizeof *logit_cases));
	tcase_add_loop_test(c, there_and_back, 0, (int)(sizeof hf_models / sizeof *hf_models));
	tcase_add_test(c, gemma3_global);
	tcase_add_test(c, stray_bias);
	tcase_add_loop_test(c, bad_models, 0, N_BAD_MODELS);
	tcase_add_test(c, vocabularies);
	tcase_add_test(c, round_trips);
	tcase_add_test(c, quantising);
	tcase_add_test(c, merging);
	tcase_add_test(c, training);
	tcase_add_test(c, describing);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	SRunner *r = srunner_create(suite());
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
