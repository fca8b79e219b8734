/* OPT: learned positions after two unused rows, LayerNorm before (350M: after) attention and MLP, biases, ReLU, and in the 350M model
 * embeddings of another width with projections around the blocks. Dropout of the base is for pre-training and is not applied.
 * Source: Zhang et al. 2022, arXiv:2205.01068; transformers' OPTForCausalLM. */
#include "model/decoder.h"

static const lora__param params[] = {
	KEY_COUNT("vocab_size", "50272", 1, 1 << 24, "number of token ids"),
	KEY_COUNT("hidden_size", "768", 1, 1 << 20, "width of the residual stream"),
	KEY_COUNT("ffn_dim", "3072", 1, 1 << 22, "width of the MLP"),
	KEY_COUNT("num_hidden_layers", "12", 1, 4096, "number of blocks"),
	KEY_COUNT("num_attention_heads", "12", 1, 65536, "heads"),
	KEY_ACT("activation_function", "relu"),
	KEY_COUNT("max_position_embeddings", "2048", 1, 1 << 24, "size of the position table"),
	KEY_BOOL("do_layer_norm_before", "true", "norms before attention and MLP, else behind them"),
	KEY_COUNT("word_embed_proj_dim", NULL, 1, 1 << 20, "width of the embeddings; null = hidden_size"),
	KEY_BOOL("enable_bias", "true", "biases in the blocks' linear layers"),
	KEY_BOOL("layer_norm_elementwise_affine", "true", "only true is supported"),
	KEY_BOOL("_remove_final_layer_norm", "false", "no norm behind the blocks"),
	KEY_TIED("true"),
	KEYS_TOKENS("init_std", "0.02", "2", "2", "1"),
	{ 0 }
};

static int32_t block(lora__builder *b, int32_t x, const lora__decoder *d, int before)
{
	static const char first[] = "model.decoder.layers.%d.self_attn_layer_norm", second[] = "model.decoder.layers.%d.final_layer_norm";
	int32_t n = before ? lora__b_layernorm(b, x, first, d->eps, 1) : x;
	int32_t q = lora__b_linear(b, n, "model.decoder.layers.%d.self_attn.q_proj", d->hidden, d->bias);
	int32_t k = lora__b_linear(b, n, "model.decoder.layers.%d.self_attn.k_proj", d->hidden, d->bias);
	int32_t v = lora__b_linear(b, n, "model.decoder.layers.%d.self_attn.v_proj", d->hidden, d->bias);
	x = lora__b_add(b, x, lora__b_linear(b, lora__b_heads(b, q, k, v, d), "model.decoder.layers.%d.self_attn.out_proj", d->hidden, d->bias));
	n = x = before ? x : lora__b_layernorm(b, x, first, d->eps, 1);
	if (before) n = lora__b_layernorm(b, x, second, d->eps, 1);
	n = lora__b_gated(b, lora__b_linear(b, n, "model.decoder.layers.%d.fc1", d->inter, d->bias), -1, d->act);
	x = lora__b_add(b, x, lora__b_linear(b, n, "model.decoder.layers.%d.fc2", d->hidden, d->bias));
	return before ? x : lora__b_layernorm(b, x, second, d->eps, 1);
}

static void build(lora__builder *b)
{
	b->m->position_kept = 1;
	lora__decoder d = lora__b_decoder(b, NULL, "activation_function");
	lora_model *m = b->m;
	int64_t wide = lora__key_int_or(b, "word_embed_proj_dim", d.hidden);
	int before = lora__key_bool(b, "do_layer_norm_before"), last = before && !lora__key_bool(b, "_remove_final_layer_norm");
	d.eps = 1e-5, d.inter = lora__key_int(b, "ffn_dim"), d.bias = lora__key_bool(b, "enable_bias"), d.rope = -1;
	lora__key_only(b, "layer_norm_elementwise_affine", 1);
	int32_t x = lora__b_embed_of(b, "model.decoder.embed_tokens", wide, 1.0);
	if (wide != d.hidden) x = lora__b_linear(b, x, "model.decoder.project_in", d.hidden, 0);
	x = lora__b_add(b, x, lora__b_position(b, "model.decoder.embed_positions", m->max_positions, 2));
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) x = block(b, x, &d, before);
	b->layer = -1;
	if (last) x = lora__b_layernorm(b, x, "model.decoder.final_layer_norm", d.eps, 1);
	if (wide != d.hidden) x = lora__b_linear(b, x, "model.decoder.project_out", wide, 0);
	lora__b_head(b, x, "lm_head", m->tied ? "model.decoder.embed_tokens" : NULL, 0.0);
}

static const char *const types[] = { "opt", NULL };
static const char *const targets[] = { "q_proj", "v_proj", NULL };

const lora__arch lora__arch_opt = { .m = { "opt", "OPT", "arXiv:2205.01068; transformers OPTForCausalLM", params }, .model_types = types,
	.targets = targets, .build = build, .hf_class = "OPTForCausalLM" };
