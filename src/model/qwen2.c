/* Qwen2: Llama's blocks with biases in q, k and v, and a window in the later blocks when the configuration asks for it.
 * Source: Yang et al. 2024, arXiv:2407.10671; transformers' Qwen2ForCausalLM. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("151936", "4096", "22016", "32", "32"),
	KEY_KV("32"),
	KEY_ACT("hidden_act", "silu"),
	KEY_POSITIONS("max_position_embeddings", "32768"),
	KEY_EPS("rms_norm_eps", "1e-6"),
	KEYS_ROPE("10000.0"),
	KEY_TIED("false"),
	KEY_BOOL("use_sliding_window", "false", "blocks from max_window_layers on see only sliding_window keys"),
	KEY_WINDOW("4096"),
	KEY_COUNT("max_window_layers", "28", 0, 1 << 20, "first block with a window"),
	KEY_LAYER_TYPES,
	KEYS_TOKENS("initializer_range", "0.02", NULL, NULL, NULL),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_act");
	int64_t window = lora__key_bool(b, "use_sliding_window") ? lora__key_window(b) : 0, from = lora__key_int(b, "max_window_layers");
	d.bias = 1;
	lora__b_rotary(b, d.dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) {
		d.window = lora__key_sliding(b, b->layer, window > 0 && b->layer >= from) ? window : 0;
		x = lora__b_llama_block(b, x, &d);
	}
	lora__b_llama_head(b, x, &d, 0.0);
}

static const char *const types[] = { "qwen2", NULL };
static const char *const targets[] = { "q_proj", "v_proj", NULL };

const lora__arch lora__arch_qwen2 = { .m = { "qwen2", "Qwen2 and Qwen2.5", "arXiv:2407.10671; transformers Qwen2ForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "Qwen2ForCausalLM" };
