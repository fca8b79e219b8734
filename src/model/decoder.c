/* Blocks that Llama and its relatives share, under the names that transformers gives to their weights. */
#include <string.h>

#include "model/decoder.h"

static int has_row(const lora__builder *b, const char *key)
{
	for (const lora__param *p = b->m->arch->m.params; p && p->name; p++)
		if (strcmp(p->name, key) == 0) return 1;
	return 0;
}

lora__decoder lora__b_decoder(lora__builder *b, const char *eps, const char *act)
{
	lora_model *m = b->m;
	lora__decoder d = { .hidden = lora__key_int(b, "hidden_size"), .layers = lora__key_int(b, "num_hidden_layers"), .heads = lora__key_int(b, "num_attention_heads"),
		.inter = has_row(b, "intermediate_size") ? lora__key_int(b, "intermediate_size") : 0, .eps = eps ? lora__key_float(b, eps) : 0.0,
		.act = lora__cfg_activation(b, act) };
	int own_dim = has_row(b, "head_dim") && lora__key_int_or(b, "head_dim", 0) > 0;
	d.kv = has_row(b, "num_key_value_heads") ? lora__key_int_or(b, "num_key_value_heads", d.heads) : d.heads;
	d.dim = own_dim ? lora__key_int(b, "head_dim") : d.heads ? d.hidden / d.heads : 0;
	if (!own_dim && d.heads && (d.hidden % d.heads || !d.dim)) lora__cfg_unsupported(b, "num_attention_heads", "it must divide hidden_size");
	if (d.kv && d.heads % d.kv) lora__cfg_unsupported(b, "num_key_value_heads", "it must divide num_attention_heads");
	d.scale = 1.0 / sqrt((double)(d.dim ? d.dim : 1));
	m->vocab = lora__key_int(b, "vocab_size");
	m->hidden = d.hidden, m->layers = d.layers, m->kv_width = d.kv * d.dim;
	m->max_positions = lora__key_int(b, "max_position_embeddings");
	m->tied = lora__key_bool(b, "tie_word_embeddings");
	return d;
}

int32_t lora__b_heads(lora__builder *b, int32_t q, int32_t k, int32_t v, const lora__decoder *d)
{
	if (d->rope >= 0) q = lora__b_rope_of(b, q, d->heads, d->dim, (int)d->rope), k = lora__b_rope_of(b, k, d->kv, d->dim, (int)d->rope);
	return lora__b_attention(b, q, k, v, d->heads, d->kv, d->dim, d->window, d->scale, d->softcap);
}

int32_t lora__b_self_attention(lora__builder *b, int32_t n, const lora__decoder *d)
{
	int32_t q = lora__b_linear(b, n, "model.layers.%d.self_attn.q_proj", d->heads * d->dim, d->bias);
	int32_t k = lora__b_linear(b, n, "model.layers.%d.self_attn.k_proj", d->kv * d->dim, d->bias);
	int32_t v = lora__b_linear(b, n, "model.layers.%d.self_attn.v_proj", d->kv * d->dim, d->bias);
	if (d->qk_norm != LORA__QK_PLAIN) {
		int whole = d->qk_norm == LORA__QK_WHOLE;
		q = lora__b_headnorm(b, q, "model.layers.%d.self_attn.q_norm", whole ? 1 : d->heads, d->eps, d->offset);
		k = lora__b_headnorm(b, k, "model.layers.%d.self_attn.k_norm", whole ? 1 : d->kv, d->eps, d->offset);
	}
	return lora__b_linear(b, lora__b_heads(b, q, k, v, d), "model.layers.%d.self_attn.o_proj", d->hidden, d->out_bias);
}

int32_t lora__b_gated_mlp(lora__builder *b, int32_t n, const lora__decoder *d)
{
	int32_t g = lora__b_linear(b, n, "model.layers.%d.mlp.gate_proj", d->inter, d->mlp_bias);
	int32_t u = lora__b_linear(b, n, "model.layers.%d.mlp.up_proj", d->inter, d->mlp_bias);
	return lora__b_linear(b, lora__b_gated(b, g, u, d->act), "model.layers.%d.mlp.down_proj", d->hidden, d->mlp_bias);
}

int32_t lora__b_llama_block(lora__builder *b, int32_t x, const lora__decoder *d)
{
	int32_t n = lora__b_rmsnorm(b, x, "model.layers.%d.input_layernorm", d->eps, d->offset);
	x = lora__b_add(b, x, lora__b_self_attention(b, n, d));
	n = lora__b_rmsnorm(b, x, "model.layers.%d.post_attention_layernorm", d->eps, d->offset);
	return lora__b_add(b, x, lora__b_gated_mlp(b, n, d));
}

/* Norms before and after each half of the block. */
int32_t lora__b_normed_block(lora__builder *b, int32_t x, const lora__decoder *d)
{
	int32_t n = lora__b_rmsnorm(b, x, "model.layers.%d.input_layernorm", d->eps, d->offset);
	n = lora__b_rmsnorm(b, lora__b_self_attention(b, n, d), "model.layers.%d.post_attention_layernorm", d->eps, d->offset);
	x = lora__b_add(b, x, n);
	n = lora__b_rmsnorm(b, x, "model.layers.%d.pre_feedforward_layernorm", d->eps, d->offset);
	n = lora__b_rmsnorm(b, lora__b_gated_mlp(b, n, d), "model.layers.%d.post_feedforward_layernorm", d->eps, d->offset);
	return lora__b_add(b, x, n);
}

void lora__b_llama_head(lora__builder *b, int32_t x, const lora__decoder *d, double softcap)
{
	b->layer = -1;
	lora__b_head(b, lora__b_rmsnorm(b, x, "model.norm", d->eps, d->offset), "lm_head", b->m->tied ? "model.embed_tokens" : NULL, softcap);
}
