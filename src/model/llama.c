/* Llama: pre-norm blocks of grouped-query attention with rotary positions and a gated MLP, tied or untied head.
 * Source: Touvron et al. 2023, arXiv:2307.09288; transformers' LlamaForCausalLM (config keys, names, defaults). */
#include <math.h>

#include "model/model.h"

static const lora__param params[] = {
	{ "vocab_size", LORA__INT, "32000", 1, 1 << 24, NULL, "number of token ids" },
	{ "hidden_size", LORA__INT, "4096", 1, 1 << 20, NULL, "width of the residual stream" },
	{ "intermediate_size", LORA__INT, "11008", 1, 1 << 22, NULL, "width of the MLP" },
	{ "num_hidden_layers", LORA__INT, "32", 1, 4096, NULL, "number of blocks" },
	{ "num_attention_heads", LORA__INT, "32", 1, 65536, NULL, "query heads" },
	{ "num_key_value_heads", LORA__INT, NULL, 1, 65536, NULL, "key and value heads; null = num_attention_heads" },
	{ "head_dim", LORA__INT, NULL, 2, 65536, NULL, "width of a head; null = hidden_size / num_attention_heads" },
	{ "hidden_act", LORA__STRING, "silu", 0, 0, "silu|gelu|gelu_pytorch_tanh|relu", "activation of the gate" },
	{ "max_position_embeddings", LORA__INT, "2048", 1, 1 << 28, NULL, "longest sequence the model was made for" },
	{ "rms_norm_eps", LORA__FLOAT, "1e-6", 0, 1, NULL, "epsilon of the norms" },
	{ "rope_theta", LORA__FLOAT, "10000.0", 0, 0, NULL, "base of the rotary frequencies" },
	{ "rope_scaling", LORA__ANY, NULL, 0, 0, NULL, "rotary scaling: linear, llama3 or yarn" },
	{ "rope_parameters", LORA__ANY, NULL, 0, 0, NULL, "rope_theta and scaling in transformers 5's spelling" },
	{ "tie_word_embeddings", LORA__BOOL, "false", 0, 0, NULL, "the head is the embedding" },
	{ "attention_bias", LORA__BOOL, "false", 0, 0, NULL, "biases in q, k, v, o" },
	{ "mlp_bias", LORA__BOOL, "false", 0, 0, NULL, "biases in gate, up, down" },
	{ "initializer_range", LORA__FLOAT, "0.02", 0, 10, NULL, "standard deviation of fresh weights" },
	{ "bos_token_id", LORA__ANY, "1", 0, 0, NULL, "id of the begin token" },
	{ "eos_token_id", LORA__ANY, "2", 0, 0, NULL, "id of the end token (or a list)" },
	{ "pad_token_id", LORA__ANY, NULL, 0, 0, NULL, "id of the padding token" },
	{ 0 }
};

static void build(lora__builder *b)
{
	lora_model *m = b->m;
	int64_t hidden = lora__cfg_int(b, "hidden_size", 4096, 1, 1 << 20), inter = lora__cfg_int(b, "intermediate_size", 11008, 1, 1 << 22);
	int64_t layers = lora__cfg_int(b, "num_hidden_layers", 32, 1, 4096), heads = lora__cfg_int(b, "num_attention_heads", 32, 1, 65536);
	int64_t kv = lora__cfg_int(b, "num_key_value_heads", heads, 1, 65536), dim = lora__cfg_int(b, "head_dim", heads ? hidden / heads : 0, 2, 65536);
	double eps = lora__cfg_float(b, "rms_norm_eps", 1e-6, 0, 1);
	int64_t act = lora__cfg_activation(b, "hidden_act");
	int bias = lora__cfg_bool(b, "attention_bias", 0), mlp_bias = lora__cfg_bool(b, "mlp_bias", 0);
	if (lora__cfg_int(b, "pretraining_tp", 1, 1, 1024) != 1) lora__cfg_unsupported(b, "pretraining_tp", "only 1 is supported");
	if (kv && heads % kv) lora__cfg_unsupported(b, "num_key_value_heads", "it must divide num_attention_heads");
	m->vocab = lora__cfg_int(b, "vocab_size", 32000, 1, 1 << 24);
	m->hidden = hidden, m->layers = layers, m->kv_width = kv * dim;
	m->max_positions = lora__cfg_int(b, "max_position_embeddings", 2048, 1, 1 << 28);
	m->tied = lora__cfg_bool(b, "tie_word_embeddings", 0);
	lora__b_rotary(b, dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < layers && b->status == LORA_OK; b->layer++) {
		int32_t h = lora__b_rmsnorm(b, x, "model.layers.%d.input_layernorm", eps, 0.0);
		int32_t q = lora__b_rope(b, lora__b_linear(b, h, "model.layers.%d.self_attn.q_proj", heads * dim, bias), heads, dim);
		int32_t k = lora__b_rope(b, lora__b_linear(b, h, "model.layers.%d.self_attn.k_proj", kv * dim, bias), kv, dim);
		int32_t v = lora__b_linear(b, h, "model.layers.%d.self_attn.v_proj", kv * dim, bias);
		int32_t a = lora__b_attention(b, q, k, v, heads, kv, dim, 0, 1.0 / sqrt((double)dim), 0.0);
		x = lora__b_add(b, x, lora__b_linear(b, a, "model.layers.%d.self_attn.o_proj", hidden, bias));
		h = lora__b_rmsnorm(b, x, "model.layers.%d.post_attention_layernorm", eps, 0.0);
		int32_t g = lora__b_linear(b, h, "model.layers.%d.mlp.gate_proj", inter, mlp_bias);
		int32_t u = lora__b_linear(b, h, "model.layers.%d.mlp.up_proj", inter, mlp_bias);
		x = lora__b_add(b, x, lora__b_linear(b, lora__b_gated(b, g, u, act), "model.layers.%d.mlp.down_proj", hidden, mlp_bias));
	}
	b->layer = -1;
	lora__b_head(b, lora__b_rmsnorm(b, x, "model.norm", eps, 0.0), "lm_head", m->tied ? "model.embed_tokens" : NULL, 0.0);
}

static const char *const types[] = { "llama", NULL };
static const char *const targets[] = { "q_proj", "v_proj", NULL };

const lora__arch lora__arch_llama = { .m = { "llama", "Llama 1 to 3 and models of the same shape", "arXiv:2307.09288; transformers LlamaForCausalLM", params },
	.model_types = types, .targets = targets, .build = build };
