/* Gemma 2: Gemma with soft caps on attention scores and logits, norms before and after attention and MLP, a window in every second
 * block, and scores divided by sqrt(query_pre_attn_scalar).
 * Source: Gemma team 2024, arXiv:2408.00118; transformers' Gemma2ForCausalLM. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("256000", "2304", "9216", "26", "8"),
	KEY_KV("4"),
	KEY_HEAD_DIM("256"),
	KEY_ACT("hidden_activation", "gelu_pytorch_tanh"),
	KEY_POSITIONS("max_position_embeddings", "8192"),
	KEY_EPS("rms_norm_eps", "1e-6"),
	KEYS_ROPE("10000.0"),
	KEY_TIED("true"),
	KEY_BOOL("attention_bias", "false", "biases in q, k, v, o"),
	KEY_NUMBER("query_pre_attn_scalar", "256", 1e-9, 1e9, "attention scores are divided by its square root"),
	KEY_WINDOW("4096"),
	KEY_LAYER_TYPES,
	KEY_NUMBER("final_logit_softcapping", "30.0", 1e-9, 1e9, "soft cap of the logits; null = none"),
	KEY_NUMBER("attn_logit_softcapping", "50.0", 1e-9, 1e9, "soft cap of the attention scores; null = none"),
	KEY_BOOL("use_bidirectional_attention", "false", "only false is supported"),
	KEYS_TOKENS("initializer_range", "0.02", "2", "1", "0"),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_activation");
	int64_t window = lora__key_window(b);
	d.bias = d.out_bias = lora__key_bool(b, "attention_bias");
	d.offset = 1.0;
	d.scale = 1.0 / sqrt(lora__key_float(b, "query_pre_attn_scalar"));
	d.softcap = lora__key_float_or_none(b, "attn_logit_softcapping");
	lora__key_only(b, "use_bidirectional_attention", 0);
	lora__b_rotary(b, d.dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", sqrt((double)d.hidden));
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) {
		d.window = lora__key_sliding(b, b->layer, b->layer % 2 == 0) ? window : 0;
		x = lora__b_normed_block(b, x, &d);
	}
	lora__b_llama_head(b, x, &d, lora__key_float_or_none(b, "final_logit_softcapping"));
}

static const char *const types[] = { "gemma2", NULL };
static const char *const targets[] = { "q_proj", "v_proj", NULL };

const lora__arch lora__arch_gemma2 = { .m = { "gemma2", "Gemma 2", "arXiv:2408.00118; transformers Gemma2ForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "Gemma2ForCausalLM" };
