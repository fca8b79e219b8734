/* T5: encoder and decoder of pre-norm blocks (RMS norms), scores without scale and with a bias by bucketed distance, plain or gated MLP. The bias
 * belongs to each stack's first block and serves all. With a tied head the decoder's output is multiplied by d_model^-0.5.
 * Source: Raffel et al. 2019, arXiv:1910.10683, sections 2.1 and 3.1.1; T5 1.1, Flan-T5: Shazeer 2020, arXiv:2002.05202; transformers'
 * T5ForConditionalGeneration (names, config keys, buckets). The base's own dropout is not done. */
#include <stdio.h>
#include <string.h>

#include "model/decoder.h"

static const lora__param params[] = {
	KEY_COUNT("vocab_size", "32128", 1, 1 << 24, "number of token ids"),
	KEY_COUNT("d_model", "512", 1, 1 << 20, "width of the residual stream"),
	KEY_COUNT("d_kv", "64", 1, 65536, "width of a head"),
	KEY_COUNT("d_ff", "2048", 1, 1 << 22, "width of the MLP"),
	KEY_COUNT("num_layers", "6", 1, 4096, "blocks of the encoder"),
	KEY_COUNT("num_decoder_layers", NULL, 1, 4096, "blocks of the decoder; null = num_layers"),
	KEY_COUNT("num_heads", "8", 1, 65536, "heads"),
	KEY_COUNT("relative_attention_num_buckets", "32", 4, 65536, "buckets of distances"),
	KEY_COUNT("relative_attention_max_distance", "128", 2, 1 << 20, "distance from which on all share a bucket"),
	KEY_EPS("layer_norm_epsilon", "1e-6"),
	{ "feed_forward_proj", LORA__STRING, "relu", 0, 0, "relu|gelu|gelu_new|silu|gated-gelu|gated-silu|gated-relu", "MLP: activation, gated or not" },
	KEY_BOOL("tie_word_embeddings", "true", "the head is the embedding"),
	KEY_BOOL("scale_decoder_outputs", NULL, "decoder outputs times d_model^-0.5 before the head; null = tie_word_embeddings"),
	KEY_COUNT("n_positions", "512", 1, 1 << 28, "longest sequence the model was made for"),
	KEY_COUNT("decoder_start_token_id", "0", 0, 1 << 24, "first token of the decoder"),
	KEYS_TOKENS("initializer_range", "0.02", NULL, "1", "0"),
	{ 0 }
};

typedef struct t5 { int64_t d, dim, heads, inter, act; int gated; double eps; lora_view bias; } t5;

/* transformers' T5Attention._relative_position_bucket, in its float arithmetic. far: key's position minus query's. */
static int64_t bucket(int64_t far, int both, int64_t n, int64_t max)
{
	int64_t base = 0;
	if (both) n /= 2, base = far > 0 ? n : 0, far = far < 0 ? -far : far;
	else far = far > 0 ? 0 : -far;
	int64_t exact = n / 2;
	if (far < exact) return base + far;
	float share = (float)log((double)((float)far / (float)exact)) / (float)log((double)max / (double)exact) * (float)(n - exact);
	int64_t at = exact + (int64_t)share;
	return base + (at < n - 1 ? at : n - 1);
}

/* The stack's table [buckets, heads] as the attention op wants it: [heads, 2 max + 1] by distance. */
static lora_view relative(lora__builder *b, const char *name, const t5 *c, int decoder)
{
	int64_t n = lora__key_int(b, "relative_attention_num_buckets"), max = lora__key_int(b, "relative_attention_max_distance"), width = 2 * max + 1;
	lora__weight *w = lora__b_weight(b, name, ".weight", n, c->heads, 0);
	lora_dtype wide = lora__wide(b->m->s.real);
	size_t each = lora__dtype_size(wide);
	if (b->status) return (lora_view){ .data = NULL };
	if (max <= (decoder ? n / 2 : n / 4)) return lora__cfg_unsupported(b, "relative_attention_max_distance", "too small for so many buckets"), (lora_view){ .data = NULL };
	char *table = lora__alloc(b->m->s.ctx, each * (size_t)(c->heads * width));
	if (!table) return b->status = LORA_E_MEMORY, (lora_view){ .data = NULL };
	b->m->tables[decoder] = table;
	for (int64_t h = 0; h < c->heads; h++)
		for (int64_t i = 0; i < width; i++)
			lora__convert(table + each * (size_t)(h * width + i), wide,
				(const char *)w->data + lora__dtype_size(w->dtype) * (size_t)(bucket(i - max, !decoder, n, max) * c->heads + h), w->dtype, 1);
	return lora__view2(table, wide, c->heads, width, width);
}

/* "encoder.block.%d.layer.1.DenseReluDense" with ".wi" behind it, and the like. */
static int32_t linear(lora__builder *b, int32_t x, const char *module, const char *leaf, int64_t out)
{
	char name[128];
	snprintf(name, sizeof name, "%s.%s", module, leaf);
	return lora__b_linear(b, x, name, out, 0);
}

static int32_t mlp(lora__builder *b, int32_t x, const char *module, const t5 *c)
{
	int32_t h;
	if (c->gated) {
		int32_t gate = linear(b, x, module, "wi_0", c->inter);
		h = lora__b_gated(b, gate, linear(b, x, module, "wi_1", c->inter), c->act);
	} else h = lora__b_gated(b, linear(b, x, module, "wi", c->inter), -1, c->act);
	return linear(b, h, module, "wo", c->d);
}

static int32_t self_attention(lora__builder *b, int32_t x, const char *module, const t5 *c, int causal)
{
	int64_t width = c->heads * c->dim;
	int32_t q = linear(b, x, module, "q", width), k = linear(b, x, module, "k", width), v = linear(b, x, module, "v", width);
	int32_t a = lora__b_attention(b, q, k, v, c->heads, c->heads, c->dim, 0, 1.0, 0.0);
	if (b->status == LORA_OK) {
		lora__node *n = &b->m->graph.nodes[b->m->graph.n_nodes - 1];
		n->i[3] = causal, n->w[0] = c->bias;
	}
	return linear(b, a, module, "o", c->d);
}

/* Keys and values are of the encoder's rows. */
static int32_t cross_attention(lora__builder *b, int32_t x, int32_t source, const char *module, const t5 *c)
{
	int64_t width = c->heads * c->dim;
	int32_t in[3] = { linear(b, x, module, "q", width), -1, -1 };
	b->m->graph.space = 1;
	in[1] = linear(b, source, module, "k", width), in[2] = linear(b, source, module, "v", width);
	b->m->graph.space = 0;
	lora__node *n = lora__b_append(b, &lora__op_cross, 3, in, 1, width);
	if (!n) return -1;
	n->i[0] = c->heads, n->i[1] = c->dim, n->i[2] = b->layer, n->f[0] = 1.0;
	return linear(b, n->out[0], module, "o", c->d);
}

static t5 read_config(lora__builder *b)
{
	static const struct { const char *name; int64_t act; int gated; } kinds[] = { { "relu", LORA_ACT_RELU, 0 }, { "gelu", LORA_ACT_GELU, 0 },
		{ "gelu_new", LORA_ACT_GELU_TANH, 0 }, { "silu", LORA_ACT_SILU, 0 }, { "gated-gelu", LORA_ACT_GELU_TANH, 1 }, { "gated-silu", LORA_ACT_SILU, 1 },
		{ "gated-relu", LORA_ACT_RELU, 1 } };
	lora_model *m = b->m;
	t5 c = { .d = lora__key_int(b, "d_model"), .dim = lora__key_int(b, "d_kv"), .heads = lora__key_int(b, "num_heads"), .inter = lora__key_int(b, "d_ff"),
		.eps = lora__key_float(b, "layer_norm_epsilon") };
	const char *kind = lora__cfg_string(b, "feed_forward_proj", "relu");
	size_t i = 0, n = sizeof kinds / sizeof *kinds;
	while (i < n && strcmp(kinds[i].name, kind)) i++;
	if (i == n) lora__cfg_unknown(b, "feed_forward_proj", kind);
	else c.act = kinds[i].act, c.gated = kinds[i].gated;
	lora__key_only(b, "is_decoder", 0);
	m->form = LORA__FORM_SEQ2SEQ;
	m->vocab = lora__key_int(b, "vocab_size"), m->hidden = c.d, m->kv_width = c.heads * c.dim;
	m->max_positions = lora__key_int(b, "n_positions");
	m->tied = lora__key_bool(b, "tie_word_embeddings");
	m->decoder_start = lora__key_int(b, "decoder_start_token_id");
	return c;
}

static void build(lora__builder *b)
{
	lora_model *m = b->m;
	t5 c = read_config(b);
	int64_t blocks = lora__key_int(b, "num_layers"), more = lora__key_int_or(b, "num_decoder_layers", blocks);
	int scaled = lora__cfg_bool(b, "scale_decoder_outputs", m->tied);
	m->layers = more;
	m->graph.space = 1;
	int32_t x = lora__b_embed(b, "shared", 1.0);
	c.bias = relative(b, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias", &c, 0);
	for (b->layer = 0; b->layer < blocks && b->status == LORA_OK; b->layer++) {
		int32_t n = lora__b_rmsnorm(b, x, "encoder.block.%d.layer.0.layer_norm", c.eps, 0.0);
		x = lora__b_add(b, x, self_attention(b, n, "encoder.block.%d.layer.0.SelfAttention", &c, 0));
		n = lora__b_rmsnorm(b, x, "encoder.block.%d.layer.1.layer_norm", c.eps, 0.0);
		x = lora__b_add(b, x, mlp(b, n, "encoder.block.%d.layer.1.DenseReluDense", &c));
	}
	b->layer = -1;
	int32_t source = lora__b_rmsnorm(b, x, "encoder.final_layer_norm", c.eps, 0.0);
	m->graph.space = 0, b->layer_base = (int32_t)blocks;
	x = lora__b_embed(b, "shared", 1.0);
	c.bias = relative(b, "decoder.block.0.layer.0.SelfAttention.relative_attention_bias", &c, 1);
	for (b->layer = 0; b->layer < more && b->status == LORA_OK; b->layer++) {
		int32_t n = lora__b_rmsnorm(b, x, "decoder.block.%d.layer.0.layer_norm", c.eps, 0.0);
		x = lora__b_add(b, x, self_attention(b, n, "decoder.block.%d.layer.0.SelfAttention", &c, 1));
		n = lora__b_rmsnorm(b, x, "decoder.block.%d.layer.1.layer_norm", c.eps, 0.0);
		x = lora__b_add(b, x, cross_attention(b, n, source, "decoder.block.%d.layer.1.EncDecAttention", &c));
		n = lora__b_rmsnorm(b, x, "decoder.block.%d.layer.2.layer_norm", c.eps, 0.0);
		x = lora__b_add(b, x, mlp(b, n, "decoder.block.%d.layer.2.DenseReluDense", &c));
	}
	b->layer = -1;
	x = lora__b_rmsnorm(b, x, "decoder.final_layer_norm", c.eps, 0.0);
	lora__b_hidden(b, x);
	if (scaled) {
		lora__node *n = lora__b_append(b, &lora__op_scale, 1, &x, 1, c.d);
		if (n) n->f[0] = 1.0 / sqrt((double)c.d), x = n->out[0];
	}
	lora__b_head(b, x, "lm_head", m->tied ? "shared" : NULL, 0.0);
}

static const char *const types[] = { "t5", "mt5", NULL };
static const char *const targets[] = { "q", "v", NULL };

const lora__arch lora__arch_t5 = { .m = { "t5", "T5, T5 1.1, Flan-T5, mT5: encoder and decoder", "arXiv:1910.10683; transformers T5ForConditionalGeneration", params },
	.model_types = types, .targets = targets, .build = build, .hf_class = "T5ForConditionalGeneration" };
