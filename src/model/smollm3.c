/* SmolLM3: Llama's blocks, where some have no rotary embedding (NoPE) and may have a window instead.
 * Source: transformers' SmolLM3ForCausalLM; NoPE: Yang et al. 2025, arXiv:2501.18795. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("128256", "2048", "11008", "36", "16"),
	KEY_KV("4"),
	KEY_HEAD_DIM(NULL),
	KEY_ACT("hidden_act", "silu"),
	KEY_POSITIONS("max_position_embeddings", "32768"),
	KEY_EPS("rms_norm_eps", "1e-6"),
	KEYS_ROPE("2000000.0"),
	KEY_TIED("true"),
	KEY_BOOL("attention_bias", "false", "biases in q, k, v, o"),
	KEY_BOOL("mlp_bias", "false", "biases in gate, up, down"),
	KEY_ANY("no_rope_layers", "for each block 1 = rotary embedding, 0 = none"),
	KEY_COUNT("no_rope_layer_interval", "4", 1, 1 << 20, "without no_rope_layers: every such block has none"),
	KEY_BOOL("use_sliding_window", "false", "blocks without rotary embedding see only sliding_window keys"),
	KEY_WINDOW(NULL),
	KEY_LAYER_TYPES,
	KEYS_TOKENS("initializer_range", "0.02", "128000", "128001", "128004"),
	{ 0 }
};

static int has_rope(lora__builder *b)
{
	const json_t *list = json_object_get(b->m->config, "no_rope_layers");
	if (!list || json_is_null(list)) return (b->layer + 1) % lora__key_int(b, "no_rope_layer_interval") != 0;
	const json_t *v = json_array_get(list, (size_t)b->layer);
	if (!json_is_integer(v)) lora__cfg_unsupported(b, "no_rope_layers", "a list with 0 or 1 for each block is expected");
	return json_integer_value(v) != 0;
}

static void build(lora__builder *b)
{
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_act");
	int64_t window = lora__key_bool(b, "use_sliding_window") ? lora__key_window(b) : 0;
	d.bias = d.out_bias = lora__key_bool(b, "attention_bias"), d.mlp_bias = lora__key_bool(b, "mlp_bias");
	lora__b_rotary(b, d.dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) {
		int turns = has_rope(b);
		d.rope = turns ? 0 : -1;
		d.window = lora__key_sliding(b, b->layer, window > 0 && !turns) ? window : 0;
		x = lora__b_llama_block(b, x, &d);
	}
	lora__b_llama_head(b, x, &d, 0.0);
}

static const char *const types[] = { "smollm3", NULL };
static const char *const targets[] = { NULL };

const lora__arch lora__arch_smollm3 = { .m = { "smollm3", "SmolLM3", "transformers SmolLM3ForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "SmolLM3ForCausalLM" };
