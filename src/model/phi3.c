/* Phi-3: Llama's blocks with q, k, v in one weight (qkv_proj) and gate, up in one (gate_up_proj). Each is one site: an adapter acts on the
 * whole projection, which is cut afterwards.
 * Source: Abdin et al. 2024, arXiv:2404.14219; transformers' Phi3ForCausalLM. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("32064", "3072", "8192", "32", "32"),
	KEY_KV(NULL),
	KEY_HEAD_DIM(NULL),
	KEY_ACT("hidden_act", "silu"),
	KEY_POSITIONS("max_position_embeddings", "4096"),
	KEY_COUNT("original_max_position_embeddings", "4096", 1, 1 << 28, "length before rotary scaling"),
	KEY_EPS("rms_norm_eps", "1e-5"),
	KEYS_ROPE("10000.0"),
	KEY_TIED("false"),
	KEY_WINDOW(NULL),
	KEYS_TOKENS("initializer_range", "0.02", "1", "32000", "32000"),
	{ 0 }
};

static void build(lora__builder *b)
{
	static const lora__rope_keys rope = { .theta = "rope_theta", .partial = "partial_rotary_factor", .theta_default = 1e4, .partial_default = 1.0, .yarn_is_long = 1 };
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_act");
	d.window = lora__key_window(b);
	lora__b_rotary_as(b, d.dim, &rope);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) {
		const int64_t qkv[3] = { d.heads * d.dim, d.kv * d.dim, d.kv * d.dim }, half[2] = { d.inter, d.inter };
		int32_t n = lora__b_rmsnorm(b, x, "model.layers.%d.input_layernorm", d.eps, 0.0), p[3], g[2];
		lora__b_split(b, lora__b_linear(b, n, "model.layers.%d.self_attn.qkv_proj", qkv[0] + qkv[1] + qkv[2], 0), 1, 3, qkv, p);
		n = lora__b_heads(b, p[0], p[1], p[2], &d);
		x = lora__b_add(b, x, lora__b_linear(b, n, "model.layers.%d.self_attn.o_proj", d.hidden, 0));
		n = lora__b_rmsnorm(b, x, "model.layers.%d.post_attention_layernorm", d.eps, 0.0);
		lora__b_split(b, lora__b_linear(b, n, "model.layers.%d.mlp.gate_up_proj", 2 * d.inter, 0), 1, 2, half, g);
		x = lora__b_add(b, x, lora__b_linear(b, lora__b_gated(b, g[0], g[1], d.act), "model.layers.%d.mlp.down_proj", d.hidden, 0));
	}
	lora__b_llama_head(b, x, &d, 0.0);
}

static const char *const types[] = { "phi3", NULL };
static const char *const targets[] = { NULL };

const lora__arch lora__arch_phi3 = { .m = { "phi3", "Phi-3 and Phi-4 text models", "arXiv:2404.14219; transformers Phi3ForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "Phi3ForCausalLM" };
