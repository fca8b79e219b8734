/* Llama: pre-norm blocks of grouped-query attention with rotary positions and a gated MLP, tied or untied head.
 * Source: Touvron et al. 2023, arXiv:2307.09288; transformers' LlamaForCausalLM (config keys, names, defaults). */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("32000", "4096", "11008", "32", "32"),
	KEY_KV(NULL),
	KEY_HEAD_DIM(NULL),
	KEY_ACT("hidden_act", "silu"),
	KEY_POSITIONS("max_position_embeddings", "2048"),
	KEY_EPS("rms_norm_eps", "1e-6"),
	KEYS_ROPE("10000.0"),
	KEY_TIED("false"),
	KEY_BOOL("attention_bias", "false", "biases in q, k, v, o"),
	KEY_BOOL("mlp_bias", "false", "biases in gate, up, down"),
	KEYS_TOKENS("initializer_range", "0.02", "1", "2", NULL),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_act");
	d.bias = d.out_bias = lora__key_bool(b, "attention_bias"), d.mlp_bias = lora__key_bool(b, "mlp_bias");
	if (lora__cfg_int(b, "pretraining_tp", 1, 1, 1024) != 1) lora__cfg_unsupported(b, "pretraining_tp", "only 1 is supported");
	lora__b_rotary(b, d.dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) x = lora__b_llama_block(b, x, &d);
	lora__b_llama_head(b, x, &d, 0.0);
}

static const char *const types[] = { "llama", NULL };
static const char *const targets[] = { "q_proj", "v_proj", NULL };

const lora__arch lora__arch_llama = { .m = { "llama", "Llama 1 to 3 and models of the same shape", "arXiv:2307.09288; transformers LlamaForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "LlamaForCausalLM" };
