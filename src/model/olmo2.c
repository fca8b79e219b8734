/* OLMo 2: no norm before attention and MLP but one after each, and an RMSNorm over the whole of q and of k.
 * Source: OLMo team 2025, arXiv:2501.00656; transformers' Olmo2ForCausalLM. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("50304", "4096", "11008", "32", "32"),
	KEY_KV(NULL),
	KEY_HEAD_DIM(NULL),
	KEY_ACT("hidden_act", "silu"),
	KEY_POSITIONS("max_position_embeddings", "2048"),
	KEY_EPS("rms_norm_eps", "1e-5"),
	KEYS_ROPE("10000.0"),
	KEY_TIED("false"),
	KEY_BOOL("attention_bias", "false", "biases in q, k, v, o"),
	KEYS_TOKENS("initializer_range", "0.02", NULL, "50279", "1"),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_act");
	d.bias = d.out_bias = lora__key_bool(b, "attention_bias");
	d.qk_norm = LORA__QK_WHOLE;
	lora__b_rotary(b, d.dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) {
		int32_t y = lora__b_rmsnorm(b, lora__b_self_attention(b, x, &d), "model.layers.%d.post_attention_layernorm", d.eps, 0.0);
		x = lora__b_add(b, x, y);
		y = lora__b_rmsnorm(b, lora__b_gated_mlp(b, x, &d), "model.layers.%d.post_feedforward_layernorm", d.eps, 0.0);
		x = lora__b_add(b, x, y);
	}
	lora__b_llama_head(b, x, &d, 0.0);
}

static const char *const types[] = { "olmo2", NULL };
static const char *const targets[] = { NULL };

const lora__arch lora__arch_olmo2 = { .m = { "olmo2", "OLMo 2", "arXiv:2501.00656; transformers Olmo2ForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "Olmo2ForCausalLM" };
