/* Mixtral: Llama's block with a mixture of experts for the MLP, the chosen experts' weights summing to 1; sliding window where the config has one.
 * Source: Jiang et al. 2024, arXiv:2401.04088; transformers' MixtralForCausalLM (config keys, names, defaults). */
#include <math.h>

#include "model/model.h"

static const lora__param params[] = {
	{ "vocab_size", LORA__INT, "32000", 1, 1 << 24, NULL, "number of token ids" },
	{ "hidden_size", LORA__INT, "4096", 1, 1 << 20, NULL, "width of the residual stream" },
	{ "intermediate_size", LORA__INT, "14336", 1, 1 << 22, NULL, "width of an expert" },
	{ "num_hidden_layers", LORA__INT, "32", 1, 4096, NULL, "number of blocks" },
	{ "num_attention_heads", LORA__INT, "32", 1, 65536, NULL, "query heads" },
	{ "num_key_value_heads", LORA__INT, "8", 1, 65536, NULL, "key and value heads" },
	{ "head_dim", LORA__INT, NULL, 2, 65536, NULL, "width of a head; null = hidden_size / num_attention_heads" },
	{ "hidden_act", LORA__STRING, "silu", 0, 0, "silu|gelu|gelu_pytorch_tanh|relu", "activation of the gate" },
	{ "max_position_embeddings", LORA__INT, "131072", 1, 1 << 28, NULL, "longest sequence the model was made for" },
	{ "rms_norm_eps", LORA__FLOAT, "1e-5", 0, 1, NULL, "epsilon of the norms" },
	{ "rope_theta", LORA__FLOAT, "1000000.0", 0, 0, NULL, "base of the rotary frequencies" },
	{ "rope_scaling", LORA__ANY, NULL, 0, 0, NULL, "rotary scaling: linear, llama3 or yarn" },
	{ "rope_parameters", LORA__ANY, NULL, 0, 0, NULL, "rope_theta and scaling in transformers 5's spelling" },
	{ "sliding_window", LORA__INT, NULL, 1, 1 << 28, NULL, "keys that a query sees; null = all" },
	{ "num_local_experts", LORA__INT, "8", 1, 4096, NULL, "experts" },
	{ "num_experts_per_tok", LORA__INT, "2", 1, 4096, NULL, "experts that a token goes to" },
	{ "tie_word_embeddings", LORA__BOOL, "false", 0, 0, NULL, "the head is the embedding" },
	{ "initializer_range", LORA__FLOAT, "0.02", 0, 10, NULL, "standard deviation of fresh weights" },
	{ "bos_token_id", LORA__ANY, "1", 0, 0, NULL, "id of the begin token" },
	{ "eos_token_id", LORA__ANY, "2", 0, 0, NULL, "id of the end token (or a list)" },
	{ "pad_token_id", LORA__ANY, NULL, 0, 0, NULL, "id of the padding token" },
	{ 0 }
};

static void build(lora__builder *b)
{
	lora_model *m = b->m;
	int64_t hidden = lora__cfg_int(b, "hidden_size", 4096, 1, 1 << 20), layers = lora__cfg_int(b, "num_hidden_layers", 32, 1, 4096);
	int64_t heads = lora__cfg_int(b, "num_attention_heads", 32, 1, 65536), kv = lora__cfg_int(b, "num_key_value_heads", 8, 1, 65536);
	int64_t dim = lora__cfg_int(b, "head_dim", heads ? hidden / heads : 0, 2, 65536), window = lora__cfg_int(b, "sliding_window", 0, 0, 1 << 28);
	double eps = lora__cfg_float(b, "rms_norm_eps", 1e-5, 0, 1), scale = 1.0 / sqrt((double)dim);
	lora__moe moe = { .router = "model.layers.%d.block_sparse_moe.gate", .gate = "model.layers.%d.block_sparse_moe.experts.%d.w1",
		.up = "model.layers.%d.block_sparse_moe.experts.%d.w3", .down = "model.layers.%d.block_sparse_moe.experts.%d.w2",
		.router_module = "model.layers.%d.mlp.gate", .module = "model.layers.%d.mlp.experts", .normalise = 1 };
	moe.experts = lora__cfg_int(b, "num_local_experts", 8, 1, 4096), moe.chosen = lora__cfg_int(b, "num_experts_per_tok", 2, 1, 4096);
	moe.width = lora__cfg_int(b, "intermediate_size", 14336, 1, 1 << 22), moe.activation = lora__cfg_activation(b, "hidden_act");
	if (moe.chosen > moe.experts) lora__cfg_unsupported(b, "num_experts_per_tok", "it must not be above num_local_experts");
	if (kv && heads % kv) lora__cfg_unsupported(b, "num_key_value_heads", "it must divide num_attention_heads");
	m->vocab = lora__cfg_int(b, "vocab_size", 32000, 1, 1 << 24);
	m->hidden = hidden, m->layers = layers, m->kv_width = kv * dim;
	m->max_positions = lora__cfg_int(b, "max_position_embeddings", 131072, 1, 1 << 28);
	m->tied = lora__cfg_bool(b, "tie_word_embeddings", 0);
	lora__b_rotary(b, dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < layers && b->status == LORA_OK; b->layer++) {
		int32_t h = lora__b_rmsnorm(b, x, "model.layers.%d.input_layernorm", eps, 0.0);
		int32_t q = lora__b_rope(b, lora__b_linear(b, h, "model.layers.%d.self_attn.q_proj", heads * dim, 0), heads, dim);
		int32_t k = lora__b_rope(b, lora__b_linear(b, h, "model.layers.%d.self_attn.k_proj", kv * dim, 0), kv, dim);
		int32_t v = lora__b_linear(b, h, "model.layers.%d.self_attn.v_proj", kv * dim, 0);
		int32_t a = lora__b_attention(b, q, k, v, heads, kv, dim, window, scale, 0.0);
		x = lora__b_add(b, x, lora__b_linear(b, a, "model.layers.%d.self_attn.o_proj", hidden, 0));
		h = lora__b_rmsnorm(b, x, "model.layers.%d.post_attention_layernorm", eps, 0.0);
		x = lora__b_add(b, x, lora__b_moe(b, h, &moe));
	}
	b->layer = -1;
	lora__b_head(b, lora__b_rmsnorm(b, x, "model.norm", eps, 0.0), "lm_head", m->tied ? "model.embed_tokens" : NULL, 0.0);
}

static const char *const types[] = { "mixtral", NULL };
static const char *const targets[] = { "q_proj", "v_proj", NULL };

const lora__arch lora__arch_mixtral = { .m = { "mixtral", "Mixtral: Llama with a mixture of experts", "arXiv:2401.04088; transformers MixtralForCausalLM", params },
	.model_types = types, .targets = targets, .build = build };
