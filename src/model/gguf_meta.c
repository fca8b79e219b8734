/* GGUF's keys of a model: copied from the file that it came from, or made of config.json. The inverse of gguf_config.c.
 * What llama.cpp takes for granted and a config says otherwise is refused by the key's name. Source: convert_hf_to_gguf.py. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/gguf_save.h"

typedef struct writer { lora_model *m; lora__gguf_out *o; const lora__gguf_arch *a; lora_status status; } writer;

static const json_t *get(const writer *w, const char *key)
{
	const json_t *v = json_object_get(w->m->config, key);
	return v && !json_is_null(v) ? v : NULL;
}

static void refuse(writer *w, const char *key, const char *why)
{
	if (!w->status) w->status = lora__fail_at(w->m->s.ctx, LORA_E_UNSUPPORTED, "model", key, -1, "config.json: %s: %s in GGUF", key, why);
}

static void put_int(writer *w, const char *key, int64_t v)
{
	char full[128];
	snprintf(full, sizeof full, "%s.%s", w->a->name, key);
	lora__gguf_put_int(w->o, full, LORA__GGUF_U32, v);
}

static void put_float(writer *w, const char *key, double v)
{
	char full[128];
	snprintf(full, sizeof full, "%s.%s", w->a->name, key);
	lora__gguf_put_float(w->o, full, v);
}

static int64_t integer(const writer *w, const char *key, int64_t def)
{
	const json_t *v = get(w, key);
	return json_is_number(v) ? (int64_t)json_number_value(v) : def;
}

static double real(const writer *w, const char *key, double def)
{
	const json_t *v = get(w, key);
	return json_is_number(v) ? json_number_value(v) : def;
}

static int64_t file_type(lora_dtype d)
{
	static const struct { lora_dtype d; int64_t id; } types[] = { { LORA_F32, 0 }, { LORA_F16, 1 }, { LORA_Q4_0, 2 }, { LORA_Q4_1, 3 }, { LORA_Q8_0, 7 },
		{ LORA_Q5_0, 8 }, { LORA_Q5_1, 9 }, { LORA_Q2_K, 10 }, { LORA_Q3_K, 12 }, { LORA_Q4_K, 14 }, { LORA_Q5_K, 16 }, { LORA_Q6_K, 18 }, { LORA_BF16, 32 } };
	for (size_t i = 0; i < sizeof types / sizeof *types; i++)
		if (types[i].d == d) return types[i].id;
	return -1;
}

static void general(writer *w, lora_dtype type)
{
	int64_t id = file_type(type);
	if (id >= 0) lora__gguf_put_int(w->o, "general.file_type", LORA__GGUF_U32, id);
	if (lora__dtype_block(type, NULL, NULL)) lora__gguf_put_int(w->o, "general.quantization_version", LORA__GGUF_U32, 2);
}

/* The rope recipe: rope_parameters, or rope_scaling with rope_theta beside it. */
static const json_t *recipe(const writer *w)
{
	const json_t *r = get(w, "rope_parameters"), *full = json_object_get(r, "full_attention"); /* Gemma 3: one for each kind of layer */
	return json_is_object(full) ? full : json_is_object(r) ? r : json_is_object(get(w, "rope_scaling")) ? get(w, "rope_scaling") : NULL;
}

static const char *rope_type(const writer *w)
{
	const json_t *r = recipe(w);
	const char *type = json_string_value(json_object_get(r, "rope_type"));
	return type ? type : json_string_value(json_object_get(r, "type"));
}

static double rope_number(const writer *w, const char *key, double def)
{
	const json_t *v = json_object_get(recipe(w), key);
	return json_is_number(v) ? json_number_value(v) : def;
}

static void rope(writer *w, int64_t rot)
{
	char full[128];
	const char *type = rope_type(w);
	put_float(w, "rope.freq_base", rope_number(w, "rope_theta", real(w, "rope_theta", strcmp(w->a->name, "gemma3") ? 10000 : 1e6)));
	put_int(w, "rope.dimension_count", rot);
	if (!type || !strcmp(type, "default") || !strcmp(type, "llama3")) return; /* Llama 3's factors are a tensor */
	int longrope = !strcmp(type, "longrope") || !strcmp(type, "su"), yarn = !strcmp(type, "yarn");
	if (!longrope && !yarn && strcmp(type, "linear")) {
		refuse(w, "rope_scaling", "this type has no place");
		return;
	}
	if (longrope) {
		int64_t old = integer(w, "original_max_position_embeddings", 4096), now = integer(w, "max_position_embeddings", old);
		double ratio = (double)now / (double)old, factor = ratio <= 1 ? 1 : sqrt(1 + log(ratio) / log((double)old));
		put_int(w, "rope.scaling.original_context_length", old);
		put_float(w, "rope.scaling.attn_factor", rope_number(w, "attention_factor", factor));
		return;
	}
	snprintf(full, sizeof full, "%s.rope.scaling.type", w->a->name);
	lora__gguf_put_string(w->o, full, type, strlen(type));
	put_float(w, "rope.scaling.factor", rope_number(w, "factor", 1));
	if (!yarn) return;
	put_int(w, "rope.scaling.original_context_length", (int64_t)rope_number(w, "original_max_position_embeddings", real(w, "max_position_embeddings", 0)));
	if (json_object_get(recipe(w), "beta_fast")) put_float(w, "rope.scaling.yarn_beta_fast", rope_number(w, "beta_fast", 32));
	if (json_object_get(recipe(w), "beta_slow")) put_float(w, "rope.scaling.yarn_beta_slow", rope_number(w, "beta_slow", 1));
	if (json_object_get(recipe(w), "attention_factor") || json_object_get(recipe(w), "mscale")) refuse(w, "rope_scaling", "attention_factor and mscale have no place");
}

static void need_activation(writer *w, const char *key, const char *a, const char *b)
{
	const char *v = json_string_value(get(w, key));
	if (v && strcmp(v, a) && strcmp(v, b)) refuse(w, key, "another activation than the architecture's has no place");
}

/* Which layers have the sliding window is the architecture's: every second but for one in Gemma 2, five of six in Gemma 3, none elsewhere. */
static void layer_types(writer *w)
{
	const json_t *list = get(w, "layer_types");
	int every = !strcmp(w->a->name, "gemma2") ? 2 : !strcmp(w->a->name, "gemma3") ? 6 : 0;
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *type = json_string_value(json_array_get(list, i));
		if (type && !strcmp(type, "sliding_attention") != (every && (i + 1) % (size_t)every != 0)) return refuse(w, "layer_types", "another order than the architecture's has no place");
	}
}

static void gemma(writer *w, int64_t hidden, int64_t layers, int64_t heads, int64_t dim)
{
	int two = strcmp(w->a->name, "gemma2") == 0;
	need_activation(w, "hidden_activation", "gelu_pytorch_tanh", "gelu_new");
	if (strcmp(w->a->name, "gemma") == 0) return;
	int64_t scalar = layers == (two ? 46 : 62) && heads ? hidden / heads : dim;
	if (integer(w, "query_pre_attn_scalar", two ? 256 : 256) != scalar) refuse(w, "query_pre_attn_scalar", "another value than the architecture's has no place");
	put_int(w, "attention.sliding_window", integer(w, "sliding_window", two ? 4096 : 4096));
	if (two) put_float(w, "attn_logit_softcapping", real(w, "attn_logit_softcapping", 50));
	if (two || get(w, "final_logit_softcapping")) put_float(w, "final_logit_softcapping", real(w, "final_logit_softcapping", 30));
	const json_t *local = json_object_get(get(w, "rope_parameters"), "sliding_attention"), *theta = json_object_get(local, "rope_theta");
	const char *type = json_string_value(json_object_get(local, "rope_type"));
	if (!two && (theta ? json_number_value(theta) : real(w, "rope_local_base_freq", 10000)) != 10000) refuse(w, "rope_local_base_freq", "only 10000 has a place");
	if (type && strcmp(type, "default")) refuse(w, "rope_parameters.sliding_attention", "a scaling has no place there");
	if (!two && integer(w, "sliding_window_pattern", 6) != 6) refuse(w, "sliding_window_pattern", "only 6 has a place");
}

static void blocks(writer *w)
{
	int64_t hidden = integer(w, "hidden_size", 0), heads = w->m->s.heads, layers = integer(w, "num_hidden_layers", 0);
	int64_t dim = integer(w, "head_dim", w->a->plus_one ? 256 : strcmp(w->a->name, "qwen3") == 0 ? 128 : heads ? hidden / heads : 0), context = integer(w, "max_position_embeddings", 2048);
	int64_t window = integer(w, "sliding_window", 0);
	const char *model_type = json_string_value(get(w, "model_type"));
	double partial = rope_number(w, "partial_rotary_factor", real(w, "partial_rotary_factor", 1));
	if (!w->a->plus_one) need_activation(w, "hidden_act", "silu", "swish");
	if (strcmp(model_type, "mistral") == 0 && window && window < context) {
		lora__log(w->m->s.ctx, LORA_LOG_WARN, "model", "llama.cpp has no sliding window for this architecture: context_length is cut to the window of %lld", (long long)window);
		context = window;
	}
	layer_types(w);
	if (json_is_true(get(w, "use_sliding_window")) && window) refuse(w, "use_sliding_window", "it has no place");
	put_int(w, "context_length", context);
	put_int(w, "embedding_length", hidden);
	put_int(w, "block_count", layers);
	put_int(w, "feed_forward_length", integer(w, "intermediate_size", 0));
	put_int(w, "attention.head_count", heads);
	put_int(w, "attention.head_count_kv", w->m->s.kv_heads);
	put_int(w, "vocab_size", w->m->vocab);
	put_int(w, "attention.key_length", dim);
	put_int(w, "attention.value_length", dim);
	put_float(w, "attention.layer_norm_rms_epsilon", real(w, "rms_norm_eps", 1e-6));
	rope(w, (int64_t)((double)dim * partial));
	if (strcmp(w->a->name, "phi3") == 0 && window) put_int(w, "attention.sliding_window", window);
	if (w->a->plus_one) gemma(w, hidden, layers, heads, dim);
}

static void gpt2(writer *w)
{
	int64_t hidden = integer(w, "n_embd", 768);
	need_activation(w, "activation_function", "gelu_new", "gelu_pytorch_tanh");
	if (json_is_false(get(w, "scale_attn_weights")) || json_is_true(get(w, "scale_attn_by_inverse_layer_idx"))) refuse(w, "scale_attn_weights", "another scale has no place");
	put_int(w, "context_length", integer(w, "n_positions", 1024));
	put_int(w, "embedding_length", hidden);
	put_int(w, "block_count", integer(w, "n_layer", 12));
	put_int(w, "feed_forward_length", integer(w, "n_inner", 4 * hidden));
	put_int(w, "attention.head_count", w->m->s.heads);
	put_int(w, "vocab_size", w->m->vocab);
	put_float(w, "attention.layer_norm_epsilon", real(w, "layer_norm_epsilon", 1e-5));
}

static int replaced(const char *name, size_t n)
{
	static const char *const keys[] = { "general.file_type", "general.quantization_version", "general.alignment", "split.no", "split.count", "split.tensors.count" };
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		if (strlen(keys[i]) == n && memcmp(keys[i], name, n) == 0) return 1;
	return 0;
}

lora_status lora__gguf_put_config(lora_model *m, lora__gguf_out *o, lora_dtype type, const char *path)
{
	writer w = { m, o, m->s.gguf, LORA_OK };
	if (m->gguf) {
		for (size_t i = 0; i < m->gguf->n_keys; i++) {
			const char *name;
			size_t n;
			lora__gguf_value v;
			lora__gguf_key(m->gguf, i, &name, &n, &v);
			if (!replaced(name, n)) lora__gguf_copy(o, m->gguf, name, n, &v);
		}
		general(&w, type);
		return o->kv.status;
	}
	const char *base = strrchr(path, '/');
	base = base ? base + 1 : path;
	size_t n = strlen(base);
	if (n > 5 && strcmp(base + n - 5, ".gguf") == 0) n -= 5;
	lora__gguf_put_string(o, "general.architecture", w.a->name, strlen(w.a->name));
	lora__gguf_put_string(o, "general.type", "model", 5);
	lora__gguf_put_string(o, "general.name", base, n);
	general(&w, type);
	if (strcmp(w.a->name, "gpt2") == 0) gpt2(&w);
	else blocks(&w);
	return w.status ? w.status : o->kv.status;
}

/* F32 vector from a JSON list. */
static lora_status list_tensor(writer *w, const char *key, const char *name, lora__tensor *t)
{
	const json_t *list = json_object_get(recipe(w), key);
	size_t n = json_array_size(list);
	float *v = n ? lora__alloc(w->m->s.ctx, n * sizeof *v) : NULL;
	if (!n) return lora__fail_at(w->m->s.ctx, LORA_E_FORMAT, "model", key, -1, "config.json: %s is missing", key);
	if (!v) return LORA_E_MEMORY;
	for (size_t i = 0; i < n; i++) v[i] = (float)json_number_value(json_array_get(list, i));
	*t = (lora__tensor){ .name = name, .dtype = LORA_F32, .rank = 1, .shape = { (int64_t)n }, .data = (uint8_t *)v, .bytes = n * sizeof *v };
	return LORA_OK;
}

lora_status lora__gguf_rope_tensors(lora_model *m, lora__tensor list[2], size_t *n)
{
	writer w = { m, NULL, m->s.gguf, LORA_OK };
	const char *type = rope_type(&w);
	*n = 0;
	if (!type) return LORA_OK;
	if (!strcmp(type, "longrope") || !strcmp(type, "su")) {
		lora_status st = list_tensor(&w, "long_factor", "rope_factors_long.weight", &list[0]);
		if (st == LORA_OK) *n = 1, st = list_tensor(&w, "short_factor", "rope_factors_short.weight", &list[1]);
		if (st == LORA_OK) *n = 2;
		return st;
	}
	if (strcmp(type, "llama3")) return LORA_OK;
	int64_t dim = integer(&w, "head_dim", m->s.heads ? m->hidden / m->s.heads : 0);
	double theta = rope_number(&w, "rope_theta", real(&w, "rope_theta", 10000)), factor = rope_number(&w, "factor", 8), low = rope_number(&w, "low_freq_factor", 1);
	double high = rope_number(&w, "high_freq_factor", 4), old = rope_number(&w, "original_max_position_embeddings", 8192);
	float *v = lora__alloc(m->s.ctx, (size_t)dim / 2 * sizeof *v + 64);
	if (!v) return LORA_E_MEMORY;
	for (int64_t j = 0; j < dim / 2; j++) {
		double wave = 2 * 3.14159265358979323846 * pow(theta, 2.0 * (double)j / (double)dim), smooth = (old / wave - low) / (high - low);
		v[j] = (float)(wave < old / high ? 1 : wave > old / low ? factor : 1 / ((1 - smooth) / factor + smooth));
	}
	list[0] = (lora__tensor){ .name = "rope_freqs.weight", .dtype = LORA_F32, .rank = 1, .shape = { dim / 2 }, .data = (uint8_t *)v,
		.bytes = (uint64_t)dim / 2 * sizeof *v };
	*n = 1;
	return LORA_OK;
}
