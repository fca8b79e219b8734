/* StarCoder2: pre-norm blocks with LayerNorm, biases, a window, and an MLP without gate.
 * Source: Lozhkov et al. 2024, arXiv:2402.19173; transformers' Starcoder2ForCausalLM. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("49152", "3072", "12288", "30", "24"),
	KEY_KV("2"),
	KEY_HEAD_DIM(NULL),
	KEY_ACT("hidden_act", "gelu_pytorch_tanh"),
	KEY_POSITIONS("max_position_embeddings", "4096"),
	KEY_EPS("norm_epsilon", "1e-5"),
	KEYS_ROPE("10000.0"),
	KEY_TIED("true"),
	KEY_BOOL("use_bias", "true", "biases in all linear layers"),
	KEY_WINDOW(NULL),
	KEYS_TOKENS("initializer_range", "0.018042", "50256", "50256", NULL),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora__decoder d = lora__b_decoder(b, "norm_epsilon", "hidden_act");
	d.bias = d.out_bias = d.mlp_bias = lora__key_bool(b, "use_bias");
	d.window = lora__key_window(b);
	lora__b_rotary(b, d.dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) {
		int32_t n = lora__b_layernorm(b, x, "model.layers.%d.input_layernorm", d.eps, 1);
		x = lora__b_add(b, x, lora__b_self_attention(b, n, &d));
		n = lora__b_layernorm(b, x, "model.layers.%d.post_attention_layernorm", d.eps, 1);
		n = lora__b_gated(b, lora__b_linear(b, n, "model.layers.%d.mlp.c_fc", d.inter, d.mlp_bias), -1, d.act);
		x = lora__b_add(b, x, lora__b_linear(b, n, "model.layers.%d.mlp.c_proj", d.hidden, d.mlp_bias));
	}
	b->layer = -1;
	lora__b_head(b, lora__b_layernorm(b, x, "model.norm", d.eps, 1), "lm_head", b->m->tied ? "model.embed_tokens" : NULL, 0.0);
}

static const char *const types[] = { "starcoder2", NULL };
static const char *const targets[] = { NULL };

const lora__arch lora__arch_starcoder2 = { .m = { "starcoder2", "StarCoder2", "arXiv:2402.19173; transformers Starcoder2ForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "Starcoder2ForCausalLM" };
