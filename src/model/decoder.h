/* What the decoder architectures share: rows of their schemas, and the blocks that most of them are built of. */
#ifndef LORA_MODEL_DECODER_H
#define LORA_MODEL_DECODER_H

#include <math.h>

#include "model/model.h"

/* Rows of a schema of config.json keys. Defaults are those of transformers' configuration class. */
#define KEY_COUNT(name, def, min, max, help) { name, LORA__INT, def, min, max, NULL, help }
#define KEYS_SIZE(vocab, hidden, inter, layers, heads) \
	KEY_COUNT("vocab_size", vocab, 1, 1 << 24, "number of token ids"), \
	KEY_COUNT("hidden_size", hidden, 1, 1 << 20, "width of the residual stream"), \
	KEY_COUNT("intermediate_size", inter, 1, 1 << 22, "width of the MLP"), \
	KEY_COUNT("num_hidden_layers", layers, 1, 4096, "number of blocks"), \
	KEY_COUNT("num_attention_heads", heads, 1, 65536, "query heads")
#define KEY_KV(def) KEY_COUNT("num_key_value_heads", def, 1, 65536, "key and value heads; null = num_attention_heads")
#define KEY_HEAD_DIM(def) KEY_COUNT("head_dim", def, 1, 65536, "width of a head; null = hidden_size / num_attention_heads")
#define KEY_POSITIONS(name, def) KEY_COUNT(name, def, 1, 1 << 28, "longest sequence the model was made for")
#define KEY_ACT(name, def) \
	{ name, LORA__STRING, def, 0, 0, "silu|swish|gelu|gelu_new|gelu_pytorch_tanh|relu", "activation of the MLP" }
#define KEY_EPS(name, def) { name, LORA__FLOAT, def, 0, 1, NULL, "epsilon of the norms" }
#define KEY_BOOL(name, def, help) { name, LORA__BOOL, def, 0, 0, NULL, help }
#define KEY_NUMBER(name, def, min, max, help) { name, LORA__FLOAT, def, min, max, NULL, help }
#define KEY_ANY(name, help) { name, LORA__ANY, NULL, 0, 0, NULL, help }
#define KEYS_ROPE(theta) \
	KEY_NUMBER("rope_theta", theta, 1e-3, 1e15, "base of the rotary frequencies"), \
	KEY_NUMBER("partial_rotary_factor", "1.0", 0, 1, "part of a head that is rotated"), \
	KEY_ANY("rope_scaling", "rotary scaling: linear, llama3, yarn or longrope"), \
	KEY_ANY("rope_parameters", "rope_theta and scaling in transformers 5's spelling")
#define KEY_TIED(def) KEY_BOOL("tie_word_embeddings", def, "the head is the embedding")
#define KEY_WINDOW(def) KEY_COUNT("sliding_window", def, 1, 1 << 28, "keys that a query sees, itself among them; null = all")
#define KEY_LAYER_TYPES KEY_ANY("layer_types", "full_attention or sliding_attention for each block")
#define KEYS_TOKENS(range_name, range, bos, eos, pad) \
	KEY_NUMBER(range_name, range, 0, 10, "standard deviation of fresh weights"), \
	{ "bos_token_id", LORA__ANY, bos, 0, 0, NULL, "id of the begin token" }, \
	{ "eos_token_id", LORA__ANY, eos, 0, 0, NULL, "id of the end token (or a list)" }, \
	{ "pad_token_id", LORA__ANY, pad, 0, 0, NULL, "id of the padding token" }

/* The sizes of a model, and how its blocks differ from Llama's. */
typedef struct lora__decoder {
	int64_t hidden, inter, layers, heads, kv, dim, act;
	double  eps;
	int     bias, out_bias, mlp_bias; /* of q, k, v; of o; of the MLP */
	int64_t rope;                     /* rotary table, -1 = none here */
	int64_t window;
	double  scale, softcap;           /* of attention; scale 1 / sqrt(dim) unless changed */
	double  offset;                   /* of RMSNorm weights */
	enum { LORA__QK_PLAIN, LORA__QK_HEADS, LORA__QK_WHOLE } qk_norm;
} lora__decoder;

/* Read the keys that are in the architecture's schema; sets the model's sizes too. eps: key of the norms' epsilon, act: of the activation. */
lora__decoder lora__b_decoder(lora__builder *b, const char *eps, const char *act);

/* Attention of n[.,hidden] with projections model.layers.%d.self_attn.{q,k,v,o}_proj, and what norm q_norm and k_norm are. */
int32_t lora__b_self_attention(lora__builder *b, int32_t n, const lora__decoder *d);
/* The part between the projections: q[.,heads*dim], k and v[.,kv*dim] to [.,heads*dim]. */
int32_t lora__b_heads(lora__builder *b, int32_t q, int32_t k, int32_t v, const lora__decoder *d);
/* model.layers.%d.mlp.{gate,up,down}_proj */
int32_t lora__b_gated_mlp(lora__builder *b, int32_t n, const lora__decoder *d);
/* One block of Llama's shape: x + attention(norm(x)), then x + mlp(norm(x)). */
int32_t lora__b_llama_block(lora__builder *b, int32_t x, const lora__decoder *d);
/* One block of Gemma 2's and 3's shape: norms before and after attention and MLP. */
int32_t lora__b_normed_block(lora__builder *b, int32_t x, const lora__decoder *d);
/* model.norm and lm_head, which is model.embed_tokens when tied. */
void lora__b_llama_head(lora__builder *b, int32_t x, const lora__decoder *d, double softcap);

#endif
