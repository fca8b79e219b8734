/* The encoder of BERT and RoBERTa: sums of three embeddings, post-norm blocks of attention in both directions and a plain MLP.
 * Source: Devlin et al. 2018, arXiv:1810.04805; transformers' BertModel and RobertaModel (names, config keys). The base's own dropout is not done. */
#include <stdio.h>
#include <string.h>

#include "model/encoder.h"

enum { NAME_BYTES = 160, BLOCK_VALUES = 16 };

/* Does architectures name a class that ends so? */
static int is_class(const lora_model *m, const char *end)
{
	const json_t *list = json_object_get(m->config, "architectures");
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *s = json_string_value(json_array_get(list, i));
		if (s && strlen(s) >= strlen(end) && strcmp(s + strlen(s) - strlen(end), end) == 0) return 1;
	}
	return 0;
}

/* A model that becomes a classifier says so when it is saved. */
static void rename_config(lora__builder *b, int64_t n)
{
	json_t *names = json_object(), *numbers = json_object(), *c = b->m->config;
	char key[32], label[32];
	int bad = !names || !numbers;
	for (int64_t i = 0; i < n && !bad; i++) {
		snprintf(key, sizeof key, "%lld", (long long)i);
		snprintf(label, sizeof label, "LABEL_%lld", (long long)i);
		bad = json_object_set_new(names, key, json_string(label)) || json_object_set_new(numbers, label, json_integer(i));
	}
	bad = bad || json_object_set(c, "id2label", names) || json_object_set(c, "label2id", numbers) ||
		json_object_set_new(c, "architectures", json_pack("[s]", b->m->arch->hf_class));
	json_decref(names);
	json_decref(numbers);
	if (bad && b->status == LORA_OK) b->status = lora__fail(b->m->s.ctx, LORA_E_MEMORY, "model", "out of memory");
}

static void read_classes(lora__builder *b, lora__encoder *e)
{
	lora_model *m = b->m;
	const json_t *names = json_object_get(m->config, "id2label");
	e->classifies = m->want_labels > 0 || b->fresh || is_class(m, "ForSequenceClassification");
	if (!e->classifies) return;
	const char *problem = lora__cfg_string(b, "problem_type", "single_label_classification");
	if (strcmp(problem, "single_label_classification")) lora__cfg_unknown(b, "problem_type", problem);
	m->n_labels = json_is_object(names) && json_object_size(names) ? (int64_t)json_object_size(names) : lora__key_int_or(b, "num_labels", 2);
	if (m->want_labels && m->want_labels != m->n_labels && is_class(m, "ForSequenceClassification"))
		lora__cfg_unsupported(b, "id2label", "the model is a classifier of another number of classes than num_labels asks for");
	if (m->want_labels && !is_class(m, "ForSequenceClassification")) rename_config(b, m->n_labels = m->want_labels);
	if (m->n_labels < 2) lora__cfg_unsupported(b, json_is_object(names) ? "id2label" : "num_labels", "one label means regression, which is not supported");
}

lora__encoder lora__b_encoder(lora__builder *b, const char *prefix)
{
	lora_model *m = b->m;
	lora__encoder e = { .hidden = lora__key_int(b, "hidden_size"), .heads = lora__key_int(b, "num_attention_heads"), .layers = lora__key_int(b, "num_hidden_layers"),
		.inter = lora__key_int(b, "intermediate_size"), .act = lora__cfg_activation(b, "hidden_act"), .eps = lora__key_float(b, "layer_norm_eps") };
	const char *kind = lora__cfg_string(b, "position_embedding_type", "absolute");
	if (strcmp(kind, "absolute")) lora__cfg_unknown(b, "position_embedding_type", kind);
	lora__key_only(b, "is_decoder", 0);
	if (e.heads && e.hidden % e.heads) lora__cfg_unsupported(b, "num_attention_heads", "it must divide hidden_size");
	m->form = LORA__FORM_ENCODER;
	m->vocab = lora__key_int(b, "vocab_size"), m->n_types = lora__key_int(b, "type_vocab_size");
	m->hidden = e.hidden, m->layers = e.layers;
	m->max_positions = lora__key_int(b, "max_position_embeddings");
	read_classes(b, &e);
	e.prefix = e.classifies ? prefix : "";
	return e;
}

static const char *named(const lora__encoder *e, const char *name, char *out)
{
	snprintf(out, NAME_BYTES, "%s%s", e->prefix, name);
	return out;
}

int32_t lora__b_encoder_linear(lora__builder *b, const lora__encoder *e, int32_t x, const char *name, int64_t out)
{
	char full[NAME_BYTES];
	return lora__b_linear(b, x, named(e, name, full), out, 1);
}

static int32_t norm(lora__builder *b, const lora__encoder *e, int32_t x, const char *name)
{
	char full[NAME_BYTES];
	return lora__b_layernorm(b, x, named(e, name, full), e->eps, 1);
}

static int32_t embed(lora__builder *b, const lora__encoder *e)
{
	char full[NAME_BYTES];
	lora_model *m = b->m;
	int32_t x = lora__b_embed(b, named(e, "embeddings.word_embeddings", full), 1.0);
	lora_view types = lora__b_view(lora__b_weight(b, named(e, "embeddings.token_type_embeddings", full), ".weight", m->n_types, m->hidden, 0));
	lora__node *n = lora__b_append(b, &lora__op_types, 0, NULL, 1, m->hidden);
	if (!n) return -1;
	n->w[0] = types;
	x = lora__b_add(b, x, n->out[0]);
	x = lora__b_add(b, x, lora__b_position(b, named(e, "embeddings.position_embeddings", full), m->max_positions, 0));
	return norm(b, e, x, "embeddings.LayerNorm");
}

static int32_t first_rows(lora__builder *b, int32_t x)
{
	b->m->graph.space = 0;
	lora__node *n = lora__b_append(b, &lora__op_first, 1, &x, 1, b->m->hidden);
	return n ? n->out[0] : -1;
}

/* Hidden states of all tokens where the last block is of the first ones alone: its ops from the node at from on once more, over the rows of x in
 * place of first's. */
static void list_aside(lora__builder *b, size_t from, int32_t first, int32_t x)
{
	lora__graph *g = &b->m->graph;
	int32_t now[BLOCK_VALUES], n_now = (int32_t)g->n_values - first; /* values first .. here */
	for (int32_t v = 0; v < n_now && v < BLOCK_VALUES; v++) now[v] = v ? first + v : x;
	g->space = 1, b->layer = -1;
	for (size_t i = from, end = g->n_nodes; i < end && b->status == LORA_OK; i++) {
		lora__node old = g->nodes[i];
		if (old.space) continue; /* keys and values are of all tokens anyway */
		int32_t in[LORA__MAX_IN];
		for (int32_t k = 0; k < old.n_in; k++) in[k] = old.in[k] < first ? old.in[k] : now[old.in[k] - first];
		lora__node *n = lora__b_append(b, old.op, old.n_in, in, 1, g->values[old.out[0]].cols);
		if (!n) return;
		now[old.out[0] - first] = n->out[0];
		n->site = old.site, n->aside = 1;
		memcpy(n->w, old.w, sizeof n->w), memcpy(n->i, old.i, sizeof n->i), memcpy(n->f, old.f, sizeof n->f);
		n->i[6] = old.op == &lora__op_attention ? 0 : n->i[6];
		x = n->out[0];
	}
	lora__b_hidden(b, x);
	if (b->status == LORA_OK) g->nodes[g->n_nodes - 1].aside = 1;
	g->space = 0;
}

/* One block. only: what comes out is wanted of those rows alone, in space 0; -1 = of all. */
static int32_t block(lora__builder *b, const lora__encoder *e, int32_t x, int32_t only)
{
	int64_t dim = e->heads ? e->hidden / e->heads : 1;
	int32_t from = only < 0 ? x : only, space = b->m->graph.space;
	int32_t q = lora__b_encoder_linear(b, e, from, "encoder.layer.%d.attention.self.query", e->hidden);
	b->m->graph.space = 1;
	int32_t k = lora__b_encoder_linear(b, e, x, "encoder.layer.%d.attention.self.key", e->hidden);
	int32_t v = lora__b_encoder_linear(b, e, x, "encoder.layer.%d.attention.self.value", e->hidden);
	b->m->graph.space = space;
	int32_t a = lora__b_attention(b, q, k, v, e->heads, e->heads, dim, 0, 1.0 / sqrt((double)dim), 0.0);
	if (b->status) return -1;
	lora__node *n = &b->m->graph.nodes[b->m->graph.n_nodes - 1];
	n->i[3] = 0, n->i[6] = only >= 0; /* both directions; keys in space 1 */
	a = lora__b_encoder_linear(b, e, a, "encoder.layer.%d.attention.output.dense", e->hidden);
	x = norm(b, e, lora__b_add(b, from, a), "encoder.layer.%d.attention.output.LayerNorm");
	int32_t h = lora__b_gated(b, lora__b_encoder_linear(b, e, x, "encoder.layer.%d.intermediate.dense", e->inter), -1, e->act);
	h = lora__b_encoder_linear(b, e, h, "encoder.layer.%d.output.dense", e->hidden);
	return norm(b, e, lora__b_add(b, x, h), "encoder.layer.%d.output.LayerNorm");
}

int32_t lora__b_encode(lora__builder *b, const lora__encoder *e)
{
	lora__graph *g = &b->m->graph;
	g->space = 1;
	int32_t x = embed(b, e), last = e->classifies ? (int32_t)e->layers - 1 : -1;
	for (b->layer = 0; b->layer < e->layers && b->status == LORA_OK; b->layer++) {
		int32_t all = x, first = b->layer == last ? first_rows(b, x) : -1;
		size_t from = g->n_nodes;
		x = block(b, e, x, first);
		if (first >= 0 && b->status == LORA_OK) list_aside(b, from, first, all);
		if (first >= 0) break;
	}
	b->layer = -1;
	if (!e->classifies) lora__b_hidden(b, x);
	else if (b->m->want_labels) b->fresh = 1;
	return x;
}
