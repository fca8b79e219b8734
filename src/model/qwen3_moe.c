/* Qwen3 with experts: Qwen3's attention (norms over each head of q and k); a mixture of experts in every decoder_sparse_step-th block that
 * mlp_only_layers does not name, else a gated MLP. norm_topk_prob: the chosen experts' weights sum to 1.
 * Source: Yang et al. 2025, arXiv:2505.09388; transformers' Qwen3MoeForCausalLM (config keys, names, defaults). */
#include "model/decoder.h"

static const lora__param params[] = {
	KEYS_SIZE("151936", "2048", "6144", "24", "32"),
	KEY_KV("4"),
	KEY_HEAD_DIM("128"),
	KEY_ACT("hidden_act", "silu"),
	KEY_POSITIONS("max_position_embeddings", "32768"),
	KEY_EPS("rms_norm_eps", "1e-6"),
	KEYS_ROPE("10000.0"),
	KEY_TIED("false"),
	KEY_BOOL("attention_bias", "false", "biases in q, k, v, o"),
	KEY_BOOL("use_sliding_window", "false", "every block sees only sliding_window keys"),
	KEY_WINDOW("4096"),
	KEY_COUNT("num_experts", "128", 1, 65536, "experts of a block"),
	KEY_COUNT("num_local_experts", NULL, 1, 65536, "the same in transformers 5's spelling"),
	KEY_COUNT("num_experts_per_tok", "8", 1, 4096, "experts that a token goes to"),
	KEY_COUNT("moe_intermediate_size", "768", 1, 1 << 22, "width of an expert"),
	KEY_COUNT("decoder_sparse_step", "1", 1, 4096, "every so many blocks have experts"),
	KEY_ANY("mlp_only_layers", "blocks without experts"),
	KEY_BOOL("norm_topk_prob", "false", "weights of the chosen experts sum to 1"),
	KEYS_TOKENS("initializer_range", "0.02", NULL, NULL, NULL),
	{ 0 }
};

static int has_experts(lora__builder *b, int64_t layer, int64_t step)
{
	const json_t *list = json_object_get(b->m->config, "mlp_only_layers");
	if (list && !json_is_null(list) && !json_is_array(list)) lora__cfg_unsupported(b, "mlp_only_layers", "a list of block numbers is expected");
	for (size_t i = 0; i < json_array_size(list); i++)
		if (json_integer_value(json_array_get(list, i)) == layer) return 0;
	return (layer + 1) % step == 0;
}

static void build(lora__builder *b)
{
	lora__decoder d = lora__b_decoder(b, "rms_norm_eps", "hidden_act");
	lora__moe moe = { .router = "model.layers.%d.mlp.gate", .gate = "model.layers.%d.mlp.experts.%d.gate_proj", .up = "model.layers.%d.mlp.experts.%d.up_proj",
		.down = "model.layers.%d.mlp.experts.%d.down_proj", .router_module = "model.layers.%d.mlp.gate", .module = "model.layers.%d.mlp.experts",
		.normalise = lora__key_bool(b, "norm_topk_prob"), .activation = d.act, .width = lora__key_int(b, "moe_intermediate_size"),
		.experts = lora__key_int_or(b, "num_local_experts", 0), .chosen = lora__key_int(b, "num_experts_per_tok") };
	int64_t step = lora__key_int(b, "decoder_sparse_step");
	if (!moe.experts) moe.experts = lora__key_int(b, "num_experts");
	if (moe.chosen > moe.experts) lora__cfg_unsupported(b, "num_experts_per_tok", "it must not be above the number of experts");
	d.bias = d.out_bias = lora__key_bool(b, "attention_bias");
	d.qk_norm = LORA__QK_HEADS;
	d.window = lora__key_bool(b, "use_sliding_window") ? lora__key_window(b) : 0;
	lora__b_rotary(b, d.dim);
	int32_t x = lora__b_embed(b, "model.embed_tokens", 1.0);
	for (b->layer = 0; b->layer < d.layers && b->status == LORA_OK; b->layer++) {
		x = lora__b_add(b, x, lora__b_self_attention(b, lora__b_rmsnorm(b, x, "model.layers.%d.input_layernorm", d.eps, 0.0), &d));
		int32_t n = lora__b_rmsnorm(b, x, "model.layers.%d.post_attention_layernorm", d.eps, 0.0);
		x = lora__b_add(b, x, has_experts(b, b->layer, step) ? lora__b_moe(b, n, &moe) : lora__b_gated_mlp(b, n, &d));
	}
	lora__b_llama_head(b, x, &d, 0.0);
}

static const char *const types[] = { "qwen3_moe", NULL };
static const char *const targets[] = { NULL }; /* PEFT knows none */

const lora__arch lora__arch_qwen3_moe = { .m = { "qwen3_moe", "Qwen3 with experts", "arXiv:2505.09388; transformers Qwen3MoeForCausalLM", params },
	.model_types = types, .targets = targets, .build = build, .hf_class = "Qwen3MoeForCausalLM" };
