/* Mixtral: Llama's block with a mixture of experts for the MLP, the chosen experts' weights summing to 1; sliding window where the config has one.
 * Source: Jiang et al. 2024, arXiv:2401.04088; transformers' MixtralForCausalLM (config keys, names, defaults). */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("32000", "4096", "14336", "32", "32"),
	KEY_KV("8"),
	KEY_HEAD_DIM(NULL),
	KEY_ACT("hidden_act", "silu"),
	KEY_POSITIONS("max_position_embeddings", "131072"),
	KEY_EPS("rms_norm_eps", "1e-5"),
	KEYS_ROPE("1000000.0"),
	KEY_TIED("false"),
	KEY_WINDOW(NULL),
	KEY_COUNT("num_local_experts", "8", 1, 4096, "experts of a block"),
	KEY_COUNT("num_experts_per_tok", "2", 1, 4096, "experts that a token goes to"),
	KEYS_TOKENS("initializer_range", "0.02", "1", "2", NULL),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_act");
	lora__moe moe = { .router = "model.layers.%d.block_sparse_moe.gate", .gate = "model.layers.%d.block_sparse_moe.experts.%d.w1",
		.up = "model.layers.%d.block_sparse_moe.experts.%d.w3", .down = "model.layers.%d.block_sparse_moe.experts.%d.w2",
		.router_module = "model.layers.%d.mlp.gate", .module = "model.layers.%d.mlp.experts", .normalise = 1, .activation = d.act, .width = d.inter,
		.experts = lora__key_int(b, "num_local_experts"), .chosen = lora__key_int(b, "num_experts_per_tok") };
	if (moe.chosen > moe.experts) lora__cfg_unsupported(b, "num_experts_per_tok", "it must not be above num_local_experts");
	d.window = lora__key_window(b);
	lora__b_rotary(b, d.dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) {
		x = lora__b_add(b, x, lora__b_self_attention(b, lora__b_rmsnorm(b, x, "model.layers.%d.input_layernorm", d.eps, 0.0), &d));
		x = lora__b_add(b, x, lora__b_moe(b, lora__b_rmsnorm(b, x, "model.layers.%d.post_attention_layernorm", d.eps, 0.0), &moe));
	}
	lora__b_llama_head(b, x, &d, 0.0);
}

static const char *const types[] = { "mixtral", NULL };
static const char *const targets[] = { "q_proj", "v_proj", NULL };

const lora__arch lora__arch_mixtral = { .m = { "mixtral", "Mixtral: Llama with a mixture of experts", "arXiv:2401.04088; transformers MixtralForCausalLM", params },
	.model_types = types, .targets = targets, .build = build, .hf_class = "MixtralForCausalLM" };
