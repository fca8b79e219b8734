/* Metadata of a GGUF model as a config.json, so that an architecture reads one spelling only.
 * Source: convert_hf_to_gguf.py (what is written from which key), llama.cpp's llama-model.cpp (what it takes for granted). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/model.h"

typedef struct reader { const lora__gguf *g; const lora__gguf_arch *a; json_t *out; lora_status status; } reader;

/* The first failure sticks. */
static void set(reader *r, const char *key, json_t *value)
{
	if (json_object_set_new(r->out, key, value) && !r->status) r->status = lora__fail(r->g->ctx, LORA_E_MEMORY, "model", "out of memory");
}

static void refuse(reader *r, lora_status st, const char *key, const char *why)
{
	if (!r->status) r->status = lora__fail_at(r->g->ctx, st, "model", key, -1, "%s.%s: %s", r->a->name, key, why);
}

static int has(const reader *r, const char *key)
{
	char full[128];
	lora__gguf_value v;
	snprintf(full, sizeof full, "%s.%s", r->a->name, key);
	return lora__gguf_find(r->g, full, &v);
}

static int64_t integer(reader *r, const char *key, int64_t def, int64_t min, int64_t max)
{
	char full[128];
	int64_t v = def;
	snprintf(full, sizeof full, "%s.%s", r->a->name, key);
	if (!r->status) r->status = lora__gguf_int(r->g, full, def, min, max, &v);
	if (!r->status && v < min) r->status = lora__fail_at(r->g->ctx, LORA_E_FORMAT, "model", full, -1, "%s is missing", full);
	return v;
}

static double real(reader *r, const char *key, double def)
{
	char full[128];
	double v = def;
	snprintf(full, sizeof full, "%s.%s", r->a->name, key);
	if (!r->status) r->status = lora__gguf_float(r->g, full, def, &v);
	return v;
}

/* Floats of the file are single: 1e-5 comes as 9.9999997e-06. The shortest decimal that gives the same float. */
static json_t *number(double v)
{
	char text[32];
	json_t *j = NULL;
	for (int digits = 1; digits <= 9 && !j; digits++) {
		snprintf(text, sizeof text, "%.*e", digits - 1, v);
		json_t *k = json_loads(text, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
		if (k && (float)json_number_value(k) == (float)v) j = k;
		else json_decref(k);
	}
	return j ? j : json_real(v);
}

static void put_int(reader *r, const char *to, const char *key, int64_t min, int64_t max) { set(r, to, json_integer(integer(r, key, min - 1, min, max))); }

static const lora__tensor *tensor(const reader *r, const char *name) { return lora__tensors_find(&r->g->set, name); }

static void vocabulary(reader *r)
{
	static const char *const ids[][2] = { { "bos_token_id", "tokenizer.ggml.bos_token_id" }, { "eos_token_id", "tokenizer.ggml.eos_token_id" },
		{ "pad_token_id", "tokenizer.ggml.padding_token_id" } };
	const lora__tensor *t = tensor(r, "token_embd.weight");
	if (!t || t->rank != 2) {
		if (!r->status) r->status = lora__fail_at(r->g->ctx, LORA_E_NOTFOUND, "model", "token_embd.weight", -1, "the model has no matrix token_embd.weight");
		return;
	}
	set(r, "vocab_size", json_integer((json_int_t)t->shape[0]));
	set(r, "tie_word_embeddings", json_boolean(!tensor(r, "output.weight")));
	for (int i = 0; i < 3; i++) {
		int64_t v = -1;
		if (!r->status) r->status = lora__gguf_int(r->g, ids[i][1], -1, -1, INT32_MAX, &v);
		if (v >= 0) set(r, ids[i][0], json_integer(v));
	}
	static const char *const more[] = { "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id" };
	for (int i = 0; i < 2 && !r->status; i++) { /* the end of a turn, or of a message for a tool */
		int64_t v = -1;
		r->status = lora__gguf_int(r->g, more[i], -1, -1, INT32_MAX, &v);
		json_t *eos = json_object_get(r->out, "eos_token_id");
		if (v < 0 || (json_is_integer(eos) && json_integer_value(eos) == v)) continue;
		if (json_is_array(eos)) json_array_append_new(eos, json_integer(v));
		else set(r, "eos_token_id", eos ? json_pack("[O, I]", eos, (json_int_t)v) : json_integer(v));
	}
}

/* head_count_kv may be one number or one for each layer; only equal ones are supported. */
static int64_t kv_heads(reader *r, int64_t heads)
{
	char full[128];
	lora__gguf_value v;
	snprintf(full, sizeof full, "%s.attention.head_count_kv", r->a->name);
	if (!lora__gguf_find(r->g, full, &v) || v.type != LORA__GGUF_ARRAY) return integer(r, "attention.head_count_kv", heads, 1, 65536);
	if (!r->status) r->status = lora__gguf_array(r->g, full, LORA__GGUF_I32, &v);
	if (r->status) return heads;
	for (uint64_t i = 1; i < v.n; i++)
		if (lora__gguf_u32(r->g, v.p + 4 * i) != lora__gguf_u32(r->g, v.p)) refuse(r, LORA_E_UNSUPPORTED, "attention.head_count_kv", "layers with different numbers of heads are not supported");
	return v.n ? (int64_t)lora__gguf_u32(r->g, v.p) : heads;
}

static double llama3_factor(double wave, double factor, double low, double high, double old)
{
	double smooth = (old / wave - low) / (high - low);
	return wave < old / high ? 1 : wave > old / low ? factor : 1 / ((1 - smooth) / factor + smooth);
}

static int llama3_fits(const float *v, double theta, int64_t dim, double factor, double low, double high, double old)
{
	for (int64_t j = 0; j < dim / 2; j++) {
		double want = llama3_factor(2 * 3.14159265358979323846 * pow(theta, 2.0 * (double)j / (double)dim), factor, low, high, old);
		if (!(fabs((double)v[j] - want) <= 1e-4 * want)) return 0;
	}
	return 1;
}

/* Parameters of a scaling that is none of the known ones: the largest value is the factor; smooth is linear in 1 / wavelength, so two values between
 * say where it is 0 and 1; of one value, with Llama's high = 4 low; of none, anywhere between the last kept and the first divided frequency. */
static int llama3_solve(const float *v, double theta, int64_t dim, double *factor, double *low, double *high, double old)
{
	double kept = 0, gone = 0, u[2] = { 0 }, s[2] = { 0 }; /* 1 / wavelength of the slowest kept and fastest divided; of two values between, with smooth */
	int between = 0;
	*factor = 1;
	for (int64_t j = 0; j < dim / 2; j++) *factor = fmax(*factor, v[j]);
	for (int64_t j = 0; j < dim / 2 && *factor > 1; j++) {
		double x = 1 / (2 * 3.14159265358979323846 * pow(theta, 2.0 * (double)j / (double)dim));
		if (v[j] == 1) kept = x;
		else if ((double)v[j] >= *factor * (1 - 1e-6)) gone = gone > 0 ? gone : x;
		else {
			int k = between > 0;
			u[k] = x, s[k] = (1 / (double)v[j] - 1 / *factor) / (1 - 1 / *factor), between++;
		}
	}
	if (!(*factor > 1)) return 0;
	double a = between > 1 ? u[0] - s[0] * (u[1] - u[0]) / (s[1] - s[0]) : between ? u[0] / (3 * s[0] + 1) : sqrt((kept > 0 ? kept : 1) * gone) * 0.999;
	double b = between > 1 ? u[0] + (1 - s[0]) * (u[1] - u[0]) / (s[1] - s[0]) : between ? 4 * a : a / 0.998;
	*low = a * old, *high = b * old; /* 1 / wavelength where smooth is 0, and where it is 1 */
	return isfinite(*low) && isfinite(*high) && *low > 0 && *high > *low;
}

/* llama.cpp stores Llama 3's scaling as the factors that it comes to: find the parameters that give them. */
static void llama3(reader *r, double theta, int64_t dim)
{
	static const double factors[] = { 8, 32, 16, 4, 2 };
	const lora__tensor *t = tensor(r, "rope_freqs.weight");
	if (!t || r->status) return;
	if (t->dtype != LORA_F32 || t->rank != 1 || t->shape[0] != dim / 2) {
		r->status = lora__fail_at(r->g->ctx, LORA_E_SHAPE, "model", "rope_freqs.weight", -1, "rope_freqs.weight must be F32 [%lld]", (long long)dim / 2);
		return;
	}
	float *v = lora__alloc(r->g->ctx, (size_t)t->bytes + 4); /* aligned */
	if (!v) return (void)(r->status = LORA_E_MEMORY);
	memcpy(v, t->data, (size_t)t->bytes);
	double factor = 0, low = 1, high = 4;
	int good = 0;
	for (size_t k = 0; k < sizeof factors / sizeof *factors && !good; k++) factor = factors[k], good = llama3_fits(v, theta, dim, factor, low, high, 8192);
	if (!good) good = llama3_solve(v, theta, dim, &factor, &low, &high, 8192) && llama3_fits(v, theta, dim, factor, low, high, 8192);
	lora__free(r->g->ctx, v);
	if (good) {
		set(r, "rope_scaling", json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", factor, "low_freq_factor", low, "high_freq_factor", high,
			"original_max_position_embeddings", 8192));
		return;
	}
	r->status = lora__fail_at(r->g->ctx, LORA_E_UNSUPPORTED, "model", "rope_freqs.weight", -1, "rope_freqs.weight is no scaling of Llama 3's kind");
}

static void rope_scaling(reader *r)
{
	char full[128];
	const char *type;
	size_t n;
	snprintf(full, sizeof full, "%s.rope.scaling.type", r->a->name);
	if (!r->status) r->status = lora__gguf_string(r->g, full, &type, &n);
	if (r->status || !type || (n == 4 && !memcmp(type, "none", 4))) return;
	int is_yarn = n == 4 && !memcmp(type, "yarn", 4), is_linear = n == 6 && !memcmp(type, "linear", 6);
	if (n == 8 && !memcmp(type, "longrope", 8)) return; /* its factors are tensors */
	if (!is_yarn && !is_linear) {
		refuse(r, LORA_E_UNSUPPORTED, "rope.scaling.type", lora__quote_n(type, n).text);
		return;
	}
	json_t *s = json_pack("{s:s, s:o}", "rope_type", is_yarn ? "yarn" : "linear", "factor", number(real(r, "rope.scaling.factor", 1)));
	if (is_yarn && has(r, "rope.scaling.original_context_length"))
		json_object_set_new(s, "original_max_position_embeddings", json_integer(integer(r, "rope.scaling.original_context_length", 0, 1, 1 << 28)));
	if (is_yarn && has(r, "rope.scaling.yarn_beta_fast")) json_object_set_new(s, "beta_fast", number(real(r, "rope.scaling.yarn_beta_fast", 32)));
	if (is_yarn && has(r, "rope.scaling.yarn_beta_slow")) json_object_set_new(s, "beta_slow", number(real(r, "rope.scaling.yarn_beta_slow", 1)));
	set(r, "rope_scaling", s);
}

static json_t *floats(reader *r, const char *name, int64_t n)
{
	const lora__tensor *t = tensor(r, name);
	json_t *list = json_array();
	if (!t || t->dtype != LORA_F32 || t->rank != 1 || t->shape[0] != n) {
		if (!r->status) r->status = lora__fail_at(r->g->ctx, LORA_E_SHAPE, "model", name, -1, "%s must be F32 [%lld]", name, (long long)n);
		return list;
	}
	for (int64_t i = 0; i < n; i++) {
		float v;
		memcpy(&v, t->data + 4 * i, 4);
		json_array_append_new(list, number(v));
	}
	return list;
}

static void longrope(reader *r, int64_t dim)
{
	if (!tensor(r, "rope_factors_long.weight")) return;
	json_t *s = json_pack("{s:s}", "rope_type", "longrope");
	json_object_set_new(s, "long_factor", floats(r, "rope_factors_long.weight", dim / 2));
	json_object_set_new(s, "short_factor", floats(r, "rope_factors_short.weight", dim / 2));
	set(r, "original_max_position_embeddings", json_integer(integer(r, "rope.scaling.original_context_length", 4096, 1, 1 << 28)));
	if (has(r, "rope.scaling.attn_factor")) json_object_set_new(s, "attention_factor", number(real(r, "rope.scaling.attn_factor", 1)));
	set(r, "rope_scaling", s);
}

static void gpt2(reader *r)
{
	put_int(r, "n_positions", "context_length", 1, 1 << 28);
	put_int(r, "n_embd", "embedding_length", 1, 1 << 20);
	put_int(r, "n_layer", "block_count", 1, 4096);
	put_int(r, "n_inner", "feed_forward_length", 1, 1 << 22);
	put_int(r, "n_head", "attention.head_count", 1, 65536);
	set(r, "layer_norm_epsilon", number(real(r, "attention.layer_norm_epsilon", 1e-5)));
	set(r, "activation_function", json_string("gelu_new"));
}

/* Gemma 2 and 3; what no key says is llama.cpp's. */
static void gemma(reader *r, int64_t hidden, int64_t layers, int64_t heads, int64_t dim)
{
	int two = strcmp(r->a->name, "gemma2") == 0, largest = layers == (two ? 46 : 62);
	if (strcmp(r->a->name, "gemma") == 0) return;
	set(r, "query_pre_attn_scalar", json_integer(largest && heads ? hidden / heads : dim));
	set(r, "sliding_window", json_integer(integer(r, "attention.sliding_window", two ? 4096 : 1024, 1, 1 << 28)));
	if (two || has(r, "final_logit_softcapping")) set(r, "final_logit_softcapping", number(real(r, "final_logit_softcapping", 30)));
	if (two) set(r, "attn_logit_softcapping", number(real(r, "attn_logit_softcapping", 50)));
	else set(r, "rope_local_base_freq", number(real(r, "rope.freq_base_swa", 10000))), set(r, "sliding_window_pattern", json_integer(6));
}

static void blocks(reader *r)
{
	int64_t hidden = integer(r, "embedding_length", 0, 1, 1 << 20), heads = integer(r, "attention.head_count", 0, 1, 65536);
	int64_t layers = integer(r, "block_count", 0, 1, 4096), kv = kv_heads(r, heads);
	int64_t dim = integer(r, "attention.key_length", heads ? hidden / heads : 1, 2, 65536);
	int64_t rot = integer(r, "rope.dimension_count", dim, 1, 65536);
	double theta = real(r, "rope.freq_base", 10000);
	if (integer(r, "attention.value_length", dim, 1, 65536) != dim) refuse(r, LORA_E_UNSUPPORTED, "attention.value_length", "it must be attention.key_length");
	if (integer(r, "expert_count", 0, 0, 65536)) refuse(r, LORA_E_UNSUPPORTED, "expert_count", "mixtures of experts are not read from GGUF");
	if (kv < 1 || heads % kv) refuse(r, LORA_E_FORMAT, "attention.head_count_kv", "it must divide attention.head_count");
	if (r->status) return;
	set(r, "hidden_size", json_integer(hidden));
	set(r, "num_hidden_layers", json_integer(layers));
	set(r, "num_attention_heads", json_integer(heads));
	set(r, "num_key_value_heads", json_integer(kv));
	set(r, "head_dim", json_integer(dim));
	put_int(r, "intermediate_size", "feed_forward_length", 1, 1 << 22);
	put_int(r, "max_position_embeddings", "context_length", 1, 1 << 28);
	set(r, "rms_norm_eps", number(real(r, "attention.layer_norm_rms_epsilon", 1e-6)));
	set(r, "rope_theta", number(theta));
	if (rot != dim) set(r, "partial_rotary_factor", json_real((double)rot / (double)dim));
	set(r, r->a->plus_one ? "hidden_activation" : "hidden_act", json_string(r->a->plus_one ? "gelu_pytorch_tanh" : "silu"));
	if (strcmp(r->a->name, "llama") == 0) {
		set(r, "attention_bias", json_boolean(tensor(r, "blk.0.attn_q.bias") != NULL));
		set(r, "mlp_bias", json_boolean(tensor(r, "blk.0.ffn_up.bias") != NULL));
	}
	rope_scaling(r);
	if (strcmp(r->a->name, "llama") == 0) llama3(r, theta, rot);
	if (strcmp(r->a->name, "phi3") == 0) {
		longrope(r, rot);
		if (has(r, "attention.sliding_window")) put_int(r, "sliding_window", "attention.sliding_window", 0, 1 << 28);
	}
	if (r->a->plus_one) gemma(r, hidden, layers, heads, dim);
}

lora_status lora__gguf_config(const lora__gguf *g, const lora__gguf_arch *a, json_t **out)
{
	reader r = { g, a, json_object(), LORA_OK };
	*out = r.out; /* the caller's, in any case */
	set(&r, "architectures", json_pack("[s]", a->hf_class));
	set(&r, "model_type", json_string(a->model_type));
	vocabulary(&r);
	if (strcmp(a->name, "gpt2") == 0) gpt2(&r);
	else blocks(&r);
	return r.status;
}
