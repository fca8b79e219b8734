/* GPT-NeoX and Pythia: LayerNorm, biases, rotary embedding of a part of each head, q, k, v of a head side by side in one weight; attention
 * and MLP read the same residual stream (parallel) or one after the other.
 * Source: Black et al. 2022, arXiv:2204.06745; transformers' GPTNeoXForCausalLM. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("50432", "6144", "24576", "44", "64"),
	KEY_ACT("hidden_act", "gelu"),
	KEY_POSITIONS("max_position_embeddings", "2048"),
	KEY_EPS("layer_norm_eps", "1e-5"),
	KEY_NUMBER("rotary_emb_base", "10000.0", 1e-3, 1e15, "base of the rotary frequencies"),
	KEY_NUMBER("rotary_pct", "0.25", 0, 1, "part of a head that is rotated"),
	KEY_ANY("rope_scaling", "rotary scaling: linear, llama3, yarn or longrope"),
	KEY_ANY("rope_parameters", "rope_theta, partial_rotary_factor and scaling in transformers 5's spelling"),
	KEY_BOOL("use_parallel_residual", "true", "attention and MLP read the same input"),
	KEY_BOOL("attention_bias", "true", "biases in attention"),
	KEY_TIED("false"),
	KEYS_TOKENS("initializer_range", "0.02", "0", "2", NULL),
	{ 0 }
};

static void build(lora__builder *b)
{
	static const lora__rope_keys rope = { .theta = "rotary_emb_base", .partial = "rotary_pct", .theta_default = 1e4, .partial_default = 0.25 };
	lora__decoder d = lora__b_decoder(b, "layer_norm_eps", "hidden_act");
	int parallel = lora__key_bool(b, "use_parallel_residual"), bias = lora__key_bool(b, "attention_bias");
	lora__b_rotary_as(b, d.dim, &rope);
	int32_t x = lora__b_embed(b, "gpt_neox.embed_in", 1.0);
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) {
		const int64_t third[3] = { d.dim, d.dim, d.dim };
		int32_t n = lora__b_layernorm(b, x, "gpt_neox.layers.%d.input_layernorm", d.eps, 1), p[3];
		lora__b_split(b, lora__b_linear(b, n, "gpt_neox.layers.%d.attention.query_key_value", 3 * d.hidden, bias), d.heads, 3, third, p);
		int32_t a = lora__b_linear(b, lora__b_heads(b, p[0], p[1], p[2], &d), "gpt_neox.layers.%d.attention.dense", d.hidden, bias);
		int32_t y = lora__b_add(b, x, a);
		n = lora__b_layernorm(b, parallel ? x : y, "gpt_neox.layers.%d.post_attention_layernorm", d.eps, 1);
		n = lora__b_gated(b, lora__b_linear(b, n, "gpt_neox.layers.%d.mlp.dense_h_to_4h", d.inter, 1), -1, d.act);
		x = lora__b_add(b, y, lora__b_linear(b, n, "gpt_neox.layers.%d.mlp.dense_4h_to_h", d.hidden, 1));
	}
	b->layer = -1;
	lora__b_head(b, lora__b_layernorm(b, x, "gpt_neox.final_layer_norm", d.eps, 1), "embed_out", b->m->tied ? "gpt_neox.embed_in" : NULL, 0.0);
}

static const char *const types[] = { "gpt_neox", NULL };
static const char *const targets[] = { "query_key_value", NULL };

const lora__arch lora__arch_gpt_neox = { .m = { "gpt_neox", "GPT-NeoX and Pythia", "arXiv:2204.06745; transformers GPTNeoXForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "GPTNeoXForCausalLM" };
