/* GPT-2: learned positions, LayerNorm, biases everywhere, an MLP without gate; weights of linear layers are stored [in,out] (Conv1D), and q, k, v
 * are one weight. Dropout of the base is for pre-training and is not applied.
 * Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners; transformers' GPT2LMHeadModel. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEY_COUNT("vocab_size", "50257", 1, 1 << 24, "number of token ids"),
	KEY_COUNT("n_positions", "1024", 1, 1 << 24, "size of the position table"),
	KEY_COUNT("n_embd", "768", 1, 1 << 20, "width of the residual stream"),
	KEY_COUNT("n_layer", "12", 1, 4096, "number of blocks"),
	KEY_COUNT("n_head", "12", 1, 65536, "heads"),
	KEY_COUNT("n_inner", NULL, 1, 1 << 22, "width of the MLP; null = 4 n_embd"),
	KEY_ACT("activation_function", "gelu_new"),
	KEY_EPS("layer_norm_epsilon", "1e-5"),
	KEY_BOOL("scale_attn_weights", "true", "attention scores are divided by sqrt(head width)"),
	KEY_BOOL("scale_attn_by_inverse_layer_idx", "false", "and by the number of the block"),
	KEY_BOOL("add_cross_attention", "false", "only false is supported"),
	KEY_TIED("true"),
	KEYS_TOKENS("initializer_range", "0.02", "50256", "50256", NULL),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora_model *m = b->m;
	int64_t hidden = lora__key_int(b, "n_embd"), layers = lora__key_int(b, "n_layer"), heads = lora__key_int(b, "n_head");
	int64_t inter = lora__key_int_or(b, "n_inner", 4 * hidden), act = lora__cfg_activation(b, "activation_function"), dim = hidden / heads;
	double eps = lora__key_float(b, "layer_norm_epsilon"), scale = lora__key_bool(b, "scale_attn_weights") ? 1.0 / sqrt((double)(dim ? dim : 1)) : 1.0;
	int by_layer = lora__key_bool(b, "scale_attn_by_inverse_layer_idx");
	if (hidden % heads) lora__cfg_unsupported(b, "n_head", "it must divide n_embd");
	lora__key_only(b, "add_cross_attention", 0);
	m->vocab = lora__key_int(b, "vocab_size"), m->hidden = hidden, m->layers = layers, m->kv_width = hidden;
	m->max_positions = lora__key_int(b, "n_positions");
	m->tied = lora__key_bool(b, "tie_word_embeddings");
	int32_t x = lora__b_add(b, lora__b_embed(b, "transformer.wte", 1.0), lora__b_position(b, "transformer.wpe", m->max_positions, 0));
	for (b->layer = 0; b->layer < layers && b->status == LORA_OK; b->layer++) {
		const int64_t third[3] = { hidden, hidden, hidden };
		int32_t n = lora__b_layernorm(b, x, "transformer.h.%d.ln_1", eps, 1), p[3];
		lora__b_split(b, lora__b_linear_turned(b, n, "transformer.h.%d.attn.c_attn", 3 * hidden), 1, 3, third, p);
		n = lora__b_attention(b, p[0], p[1], p[2], heads, heads, dim, 0, by_layer ? scale / (double)(b->layer + 1) : scale, 0.0);
		x = lora__b_add(b, x, lora__b_linear_turned(b, n, "transformer.h.%d.attn.c_proj", hidden));
		n = lora__b_layernorm(b, x, "transformer.h.%d.ln_2", eps, 1);
		n = lora__b_gated(b, lora__b_linear_turned(b, n, "transformer.h.%d.mlp.c_fc", inter), -1, act);
		x = lora__b_add(b, x, lora__b_linear_turned(b, n, "transformer.h.%d.mlp.c_proj", hidden));
	}
	b->layer = -1;
	lora__b_head(b, lora__b_layernorm(b, x, "transformer.ln_f", eps, 1), "lm_head", m->tied ? "transformer.wte" : NULL, 0.0);
}

static const char *const types[] = { "gpt2", NULL };
static const char *const targets[] = { "c_attn", NULL };

const lora__arch lora__arch_gpt2 = { .m = { "gpt2", "GPT-2", "Radford et al. 2019; transformers GPT2LMHeadModel", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "GPT2LMHeadModel" };
