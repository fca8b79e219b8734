/* Mistral: Llama's blocks, where a query may see only the last sliding_window keys.
 * Source: Jiang et al. 2023, arXiv:2310.06825; transformers' MistralForCausalLM. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("32000", "4096", "14336", "32", "32"),
	KEY_KV("8"),
	KEY_HEAD_DIM(NULL),
	KEY_ACT("hidden_act", "silu"),
	KEY_POSITIONS("max_position_embeddings", "131072"),
	KEY_EPS("rms_norm_eps", "1e-6"),
	KEYS_ROPE("10000.0"),
	KEY_TIED("false"),
	KEY_WINDOW("4096"),
	KEYS_TOKENS("initializer_range", "0.02", "1", "2", NULL),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_act");
	d.window = lora__key_window(b);
	for (int64_t i = 0; i < d.layers; i++) /* kinds of layers belong to its successor Ministral */
		if (lora__key_sliding(b, i, d.window > 0) != (d.window > 0)) lora__cfg_unsupported(b, "layer_types", "all blocks of Mistral are alike");
	lora__b_rotary(b, d.dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) x = lora__b_llama_block(b, x, &d);
	lora__b_llama_head(b, x, &d, 0.0);
}

static const char *const types[] = { "mistral", NULL };
static const char *const targets[] = { "q_proj", "v_proj", NULL };

const lora__arch lora__arch_mistral = { .m = { "mistral", "Mistral 7B and models of the same shape", "arXiv:2310.06825; transformers MistralForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "MistralForCausalLM" };
