/* Gemma: Llama's blocks with norms that multiply by 1 + weight, embeddings times sqrt(hidden_size) and tanh-GELU in the gate.
 * "gelu" in published configurations means the tanh form, as in transformers.
 * Source: Gemma team 2024, arXiv:2403.08295; transformers' GemmaForCausalLM. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("256000", "3072", "24576", "28", "16"),
	KEY_KV("16"),
	KEY_HEAD_DIM("256"),
	KEY_ACT("hidden_act", "gelu_pytorch_tanh"),
	KEY_POSITIONS("max_position_embeddings", "8192"),
	KEY_EPS("rms_norm_eps", "1e-6"),
	KEYS_ROPE("10000.0"),
	KEY_TIED("true"),
	KEY_BOOL("attention_bias", "false", "biases in q, k, v, o"),
	KEY_BOOL("use_bidirectional_attention", "false", "only false is supported"),
	KEYS_TOKENS("initializer_range", "0.02", "2", "1", "0"),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_act");
	if (d.act == LORA_ACT_GELU) d.act = LORA_ACT_GELU_TANH;
	d.bias = d.out_bias = lora__key_bool(b, "attention_bias");
	d.offset = 1.0;
	lora__key_only(b, "use_bidirectional_attention", 0);
	lora__b_rotary(b, d.dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", sqrt((double)d.hidden));
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) x = lora__b_llama_block(b, x, &d);
	lora__b_llama_head(b, x, &d, 0.0);
}

static const char *const types[] = { "gemma", NULL };
static const char *const targets[] = { "q_proj", "v_proj", NULL };

const lora__arch lora__arch_gemma = { .m = { "gemma", "Gemma 1", "arXiv:2403.08295; transformers GemmaForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "GemmaForCausalLM" };
