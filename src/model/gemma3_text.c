/* Gemma 3, text part: Gemma 2's blocks with an RMSNorm over each head of q and k in place of the soft cap on scores; five blocks with a
 * window and a rotary base of their own for each block that sees everything.
 * Source: Gemma team 2025, arXiv:2503.19786; transformers' Gemma3ForCausalLM. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("262208", "2304", "9216", "26", "8"),
	KEY_KV("4"),
	KEY_HEAD_DIM("256"),
	KEY_ACT("hidden_activation", "gelu_pytorch_tanh"),
	KEY_POSITIONS("max_position_embeddings", "131072"),
	KEY_EPS("rms_norm_eps", "1e-6"),
	KEYS_ROPE("1000000.0"),
	KEY_NUMBER("rope_local_base_freq", "10000.0", 1e-3, 1e15, "rope_theta of blocks with a window"),
	KEY_TIED("true"),
	KEY_BOOL("attention_bias", "false", "biases in q, k, v, o"),
	KEY_NUMBER("query_pre_attn_scalar", "256", 1e-9, 1e9, "attention scores are divided by its square root"),
	KEY_WINDOW("4096"),
	KEY_COUNT("sliding_window_pattern", "6", 1, 1 << 20, "every block with a number that it divides (from 1) sees everything"),
	KEY_LAYER_TYPES,
	KEY_NUMBER("final_logit_softcapping", NULL, 1e-9, 1e9, "soft cap of the logits; null = none"),
	KEY_BOOL("use_bidirectional_attention", "false", "only false is supported"),
	KEYS_TOKENS("initializer_range", "0.02", "2", "1", "0"),
	{ 0 }
};

static void build(lora__builder *b)
{
	static const lora__rope_keys global = { .table = 0, .layer_type = "full_attention", .theta = "rope_theta", .partial = "partial_rotary_factor",
		.theta_default = 1e6, .partial_default = 1.0 };
	static const lora__rope_keys local = { .table = 1, .layer_type = "sliding_attention", .theta = "rope_local_base_freq", .partial = "partial_rotary_factor",
		.theta_default = 1e4, .partial_default = 1.0, .plain = 1 };
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_activation");
	int64_t window = lora__key_window(b), pattern = lora__key_int(b, "sliding_window_pattern");
	d.bias = d.out_bias = lora__key_bool(b, "attention_bias");
	d.offset = 1.0;
	d.scale = 1.0 / sqrt(lora__key_float(b, "query_pre_attn_scalar"));
	d.qk_norm = LORA__QK_HEADS;
	lora__key_only(b, "use_bidirectional_attention", 0);
	if (lora__cfg_float(b, "attn_logit_softcapping", 0.0, 0.0, 1e9) != 0) lora__cfg_unsupported(b, "attn_logit_softcapping", "Gemma 3 has none");
	lora__b_rotary_as(b, d.dim, &global);
	lora__b_rotary_as(b, d.dim, &local);
	int32_t x = lora__b_embed(b, "model.embed_tokens", sqrt((double)d.hidden));
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) {
		int sliding = lora__key_sliding(b, b->layer, (b->layer + 1) % pattern != 0);
		d.window = sliding ? window : 0, d.rope = sliding;
		x = lora__b_normed_block(b, x, &d);
	}
	lora__b_llama_head(b, x, &d, lora__key_float_or_none(b, "final_logit_softcapping"));
}

static const char *const types[] = { "gemma3_text", NULL };
static const char *const targets[] = { "q_proj", "v_proj", NULL };

const lora__arch lora__arch_gemma3_text = { .m = { "gemma3_text", "Gemma 3, text models", "arXiv:2503.19786; transformers Gemma3ForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "Gemma3ForCausalLM" };
