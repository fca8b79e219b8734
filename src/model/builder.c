/* The calls with which an architecture lists its forward: look up (or make) a weight, check its shape, append an op. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "model/model.h"

enum { NAME_MAX_BYTES = 256 };

static void full_name(const lora__builder *b, const char *format, const char *suffix, char *out)
{
	const char *d = strstr(format, "%d");
	if (d) snprintf(out, NAME_MAX_BYTES, "%.*s%d%s%s", (int)(d - format), format, (int)b->layer, d + 2, suffix);
	else snprintf(out, NAME_MAX_BYTES, "%s%s", format, suffix);
}

/* Box-Muller as lora__rng_normal(), which takes one counter for each number: number i of the stream is made from counter i, by any thread. */
typedef struct fresh_job { uint64_t key, n; double range; lora_dtype dtype; char *data; } fresh_job;
enum { FRESH = 1024 };

static void fresh_task(void *arg, int64_t task, int32_t thread)
{
	const fresh_job *j = arg;
	double u[2 * FRESH], v[FRESH];
	uint64_t first = (uint64_t)task * FRESH, n = j->n - first < FRESH ? j->n - first : FRESH;
	lora__rng r;
	(void)thread;
	lora__rng_init(&r, j->key);
	r.counter = first;
	lora__rng_uniforms(&r, u, (int64_t)(2 * n));
	for (uint64_t i = 0; i < n; i++) v[i] = j->range * (sqrt(-2.0 * log(1.0 - u[2 * i])) * cos(6.283185307179586 * u[2 * i + 1]));
	lora__convert(j->data + first * lora__dtype_size(j->dtype), j->dtype, v, LORA_F64, (size_t)n);
}

/* Fresh weights: N(0, range) for matrices, ones for norms, zeros for biases; stream keyed by the weight's number. */
static lora__weight *make(lora__builder *b, const char *name, int32_t rank, const int64_t *shape, double mean)
{
	lora_model *m = b->m;
	uint64_t n = (uint64_t)shape[0], bytes;
	if (rank == 2 && !lora__mul_u64(n, (uint64_t)shape[1], &n)) n = UINT64_MAX;
	size_t each = lora__dtype_size(b->fresh_dtype);
	if (!lora__mul_u64(n, each, &bytes) || bytes > (1ull << 42)) {
		b->status = lora__fail_at(m->s.ctx, LORA_E_LIMIT, "model", name, -1, "weight %s is too large", name);
		return NULL;
	}
	char *data = lora__alloc(m->s.ctx, bytes);
	if (!data) return b->status = LORA_E_MEMORY, NULL;
	fresh_job j = { lora__rng_key(b->seed, LORA__RNG_WEIGHTS, m->n_weights), n, b->init_range, b->fresh_dtype, data };
	if (rank == 2) lora__parallel(m->s.ctx, (int64_t)((n + FRESH - 1) / FRESH), fresh_task, &j);
	for (uint64_t i = 0; i < n && rank != 2; i++) lora__convert(data + i * each, b->fresh_dtype, &mean, LORA_F64, 1);
	lora__weight *w = NULL;
	b->status = lora__model_add_weight(m, name, b->fresh_dtype, rank, shape, data, 1, &w);
	if (b->status) lora__free(m->s.ctx, data);
	return w;
}

static lora__weight *get(lora__builder *b, const char *format, const char *suffix, int64_t d0, int64_t d1, double mean)
{
	char name[NAME_MAX_BYTES];
	int64_t shape[2] = { d0, d1 };
	int32_t rank = d1 ? 2 : 1;
	if (b->status) return NULL;
	full_name(b, format, suffix, name);
	lora__weight *w;
	lora_context *ctx = b->m->s.ctx;
	if ((b->status = lora__model_weight(b->m, name, &w))) return NULL;
	if (b->fresh && !w) return make(b, name, rank, shape, mean); /* one that is there is shared: a tied head */
	if (!w) {
		b->status = lora__fail_at(ctx, LORA_E_NOTFOUND, "model", name, -1, "the model has no tensor %s", name);
		return NULL;
	}
	if (w->rank != rank || w->shape[0] != d0 || (d1 && w->shape[1] != d1)) {
		b->status = lora__fail_at(ctx, LORA_E_SHAPE, "model", name, -1, "tensor %s has shape [%lld%s%lld], config.json asks for [%lld%s%lld]", name,
			(long long)w->shape[0], w->rank > 1 ? "," : "", (long long)(w->rank > 1 ? w->shape[1] : w->rank), (long long)d0, d1 ? "," : "", (long long)d1);
		return NULL;
	}
	if (!lora__dtype_is_float(w->dtype) && !(rank == 2 && lora__dtype_block(w->dtype, NULL, NULL))) {
		b->status = lora__fail_at(ctx, LORA_E_DTYPE, "model", name, -1, "tensor %s is %s; F32, F16 and BF16 weights are supported", name,
			lora__dtype_name(w->dtype));
		return NULL;
	}
	return w;
}

static lora_view view(const lora__weight *w)
{
	if (!w) return (lora_view){ .data = NULL };
	return w->rank == 2 ? lora__view2(w->data, w->dtype, w->shape[0], w->shape[1], w->shape[1]) : lora__view1(w->data, w->dtype, w->shape[0]);
}

static lora__node *append(lora__builder *b, const lora__op *op, int32_t n_in, const int32_t *in, int32_t n_out, int64_t cols)
{
	if (b->status) return NULL;
	lora__node *n = lora__graph_add(&b->m->graph, op, b->layer < 0 ? b->layer : b->layer + b->layer_base, n_in, in, n_out, &cols);
	if (!n) b->status = LORA_E_MEMORY;
	return n;
}

static int64_t cols_of(const lora__builder *b, int32_t v) { return v < 0 ? 0 : b->m->graph.values[v].cols; }
static int32_t value_of(const lora__node *n) { return n ? n->out[0] : -1; }

int32_t lora__b_embed(lora__builder *b, const char *name, double factor) { return lora__b_embed_of(b, name, b->m->hidden, factor); }

int32_t lora__b_embed_of(lora__builder *b, const char *name, int64_t width, double factor)
{
	lora__weight *w = get(b, name, ".weight", b->m->vocab, width, 0);
	lora__node *n = append(b, &lora__op_embed, 0, NULL, 1, width);
	if (n) n->w[0] = view(w), n->f[0] = factor;
	if (n && b->n_tables < 2) { /* an encoder-decoder model's two have the names that they have there, whatever the stored one's */
		const char *module = b->m->form != LORA__FORM_SEQ2SEQ ? name : b->m->graph.space ? "encoder.embed_tokens" : "decoder.embed_tokens";
		full_name(b, module, "", b->tables[b->n_tables].name);
		b->tables[b->n_tables].node = (size_t)(n - b->m->graph.nodes), b->tables[b->n_tables++].weight = (size_t)(w - b->m->weights);
	}
	return value_of(n);
}

/* Embeddings as sites, behind all others so that their numbers do not depend on them: W[out,in] = [width, vocabulary], so that LoRA's B A on one is
 * the table's change turned. An encoder-decoder model reads one stored table in two places, each with adapters of its own, as in PEFT. */
void lora__b_finish(lora__builder *b)
{
	lora_model *m = b->m;
	for (size_t i = 0; i < b->n_tables && b->status == LORA_OK; i++) {
		lora__site *s = NULL;
		lora__weight *w = &m->weights[b->tables[i].weight];
		lora_site_info d = { .struct_size = sizeof d, .dtype = w->dtype, .name = b->tables[i].name, .out = w->shape[1], .in = w->shape[0], .data = (void *)(uintptr_t)w->data,
			.flags = (w->owned ? 0u : LORA_SITE_MAPPED) | LORA_SITE_TRANSPOSED | LORA_SITE_EMBEDDING, .layer = -1 };
		b->status = lora__sites_add(&m->s, &d, &s);
		if (b->status) return;
		if (b->n_tables == 1) w->site = s->index;
		m->graph.nodes[b->tables[i].node].site = s;
		m->s.n_tables++;
	}
}

int32_t lora__b_rmsnorm(lora__builder *b, int32_t x, const char *name, double eps, double offset)
{
	lora__weight *w = get(b, name, ".weight", cols_of(b, x), 0, 1.0 - offset);
	lora__node *n = append(b, &lora__op_rmsnorm, 1, &x, 1, cols_of(b, x));
	if (n) n->w[0] = view(w), n->f[0] = eps, n->f[1] = offset;
	return value_of(n);
}

int32_t lora__b_layernorm(lora__builder *b, int32_t x, const char *name, double eps, int bias)
{
	lora_view w = view(get(b, name, ".weight", cols_of(b, x), 0, 1.0)), c = view(bias ? get(b, name, ".bias", cols_of(b, x), 0, 0.0) : NULL);
	lora__node *n = append(b, &lora__op_layernorm, 1, &x, 1, cols_of(b, x));
	if (n) n->w[0] = w, n->w[1] = c, n->f[0] = eps;
	return value_of(n);
}

/* So that saving finds the bias as it is then. */
static void bias_of(lora_model *m, const void *data, int32_t site)
{
	for (size_t i = m->n_weights; i-- > 0;)
		if (m->weights[i].data == data) {
			m->weights[i].site = site, m->weights[i].is_bias = 1;
			return;
		}
}

int32_t lora__b_headnorm(lora__builder *b, int32_t x, const char *name, int64_t heads, double eps, double offset)
{
	lora__weight *w = get(b, name, ".weight", heads ? cols_of(b, x) / heads : 0, 0, 1.0 - offset);
	lora__node *n = append(b, &lora__op_rmsnorm, 1, &x, 1, cols_of(b, x));
	if (n) n->w[0] = view(w), n->f[0] = eps, n->f[1] = offset, n->i[0] = heads;
	return value_of(n);
}

int32_t lora__b_position(lora__builder *b, const char *name, int64_t positions, int64_t offset)
{
	lora__weight *w = get(b, name, ".weight", positions + offset, b->m->hidden, 0);
	lora__node *n = append(b, &lora__op_position, 0, NULL, 1, b->m->hidden);
	if (n) n->w[0] = view(w), n->i[0] = offset;
	b->m->table_positions = positions;
	return value_of(n);
}

/* turned: the weight is stored [in,out]. */
static lora__site *site(lora__builder *b, const char *name, int64_t out, int64_t in, int bias, const char *tied_to, int turned)
{
	char full[NAME_MAX_BYTES];
	lora__site *s = NULL;
	lora__weight *w = get(b, tied_to ? tied_to : name, ".weight", turned ? in : out, turned ? out : in, 0);
	if (!w) return NULL;
	size_t number = (size_t)(w - b->m->weights); /* the list may move when the bias is added */
	full_name(b, name, "", full);
	lora_site_info d = { .struct_size = sizeof d, .dtype = w->dtype, .name = full, .out = out, .in = in, .data = (void *)(uintptr_t)w->data,
		.flags = (w->owned ? 0u : LORA_SITE_MAPPED) | (turned ? LORA_SITE_TRANSPOSED : 0u), .layer = b->layer };
	lora_view c = view(bias ? get(b, name, ".bias", out, 0, 0) : NULL);
	if (b->status == LORA_OK) b->status = lora__sites_add(&b->m->s, &d, &s);
	if (b->status) return NULL;
	s->bias = s->base_bias = c;
	if (c.data) bias_of(b->m, c.data, s->index);
	if (!tied_to) b->m->weights[number].site = s->index;
	return s;
}

static int32_t linear(lora__builder *b, int32_t x, const char *name, int64_t out, int bias, int turned)
{
	lora__site *s = site(b, name, out, cols_of(b, x), bias, NULL, turned);
	lora__node *n = append(b, &lora__op_linear, 1, &x, 1, out);
	if (n) n->site = s;
	return value_of(n);
}

int32_t lora__b_linear(lora__builder *b, int32_t x, const char *name, int64_t out, int bias) { return linear(b, x, name, out, bias, 0); }
int32_t lora__b_linear_turned(lora__builder *b, int32_t x, const char *name, int64_t out)
{
	return linear(b, x, name, out, 1, b->m->gguf == NULL); /* GGUF stores it [out,in] */
}

void lora__b_split(lora__builder *b, int32_t x, int64_t groups, int32_t n_out, const int64_t *widths, int32_t *out)
{
	int64_t cols[LORA__MAX_OUT];
	for (int32_t k = 0; k < n_out; k++) out[k] = -1, cols[k] = groups * widths[k];
	if (b->status) return;
	lora__node *n = lora__graph_add(&b->m->graph, &lora__op_split, b->layer, 1, &x, n_out, cols);
	if (!n) {
		b->status = LORA_E_MEMORY;
		return;
	}
	n->i[0] = groups;
	for (int32_t k = 0; k < n_out; k++) n->i[1 + k] = widths[k], out[k] = n->out[k];
}

int32_t lora__b_rope_of(lora__builder *b, int32_t x, int64_t heads, int64_t head_dim, int table)
{
	if (b->m->rotary[table].rot <= 0) return x;
	lora__node *n = append(b, &lora__op_rope, 1, &x, 1, cols_of(b, x));
	if (n) n->i[0] = heads, n->i[1] = head_dim, n->i[2] = b->m->rotary[table].rot, n->i[3] = table;
	return value_of(n);
}

int32_t lora__b_rope(lora__builder *b, int32_t x, int64_t heads, int64_t head_dim) { return lora__b_rope_of(b, x, heads, head_dim, 0); }

int32_t lora__b_attention(lora__builder *b, int32_t q, int32_t k, int32_t v, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window,
                          double scale, double softcap)
{
	int32_t in[3] = { q, k, v };
	lora__node *n = append(b, &lora__op_attention, 3, in, 1, heads * head_dim);
	if (!n) return -1;
	n->i[0] = heads, n->i[1] = kv_heads, n->i[2] = head_dim, n->i[3] = 1, n->i[4] = window, n->i[5] = b->layer;
	n->f[0] = scale, n->f[1] = softcap;
	return n->out[0];
}

int32_t lora__b_gated(lora__builder *b, int32_t gate, int32_t up, int64_t activation)
{
	int32_t in[2] = { gate, up };
	lora__node *n = append(b, &lora__op_gated, up < 0 ? 1 : 2, in, 1, cols_of(b, gate));
	if (n) n->i[0] = activation, n->i[1] = cols_of(b, gate);
	return value_of(n);
}

int32_t lora__b_add(lora__builder *b, int32_t x, int32_t y)
{
	int32_t in[2] = { x, y };
	return value_of(append(b, &lora__op_add, 2, in, 1, cols_of(b, x)));
}

void lora__b_hidden(lora__builder *b, int32_t x)
{
	append(b, &lora__op_hidden, 1, &x, 0, 0);
	b->has_hidden = 1;
}

static void head(lora__builder *b, int32_t h, lora__site *s, double softcap)
{
	if (!b->has_hidden) lora__b_hidden(b, h);
	lora__node *n = append(b, &lora__op_head, 1, &h, 0, 0);
	if (!n) return;
	s->is_head = b->m->has_head = 1;
	n->site = s, n->i[0] = s->out, n->i[1] = s->in, n->f[0] = softcap;
}

void lora__b_head(lora__builder *b, int32_t h, const char *name, const char *tied_to, double softcap)
{
	head(b, h, site(b, name, b->m->vocab, cols_of(b, h), 0, tied_to, 0), softcap);
}

void lora__b_classifier(lora__builder *b, int32_t h, const char *name) { head(b, h, site(b, name, b->m->n_labels, cols_of(b, h), 1, NULL, 0), 0.0); }

/* The same for blocks in other files. */
lora__weight *lora__b_weight(lora__builder *b, const char *format, const char *suffix, int64_t d0, int64_t d1, double mean)
{
	return get(b, format, suffix, d0, d1, mean);
}

lora__site *lora__b_site(lora__builder *b, const char *name, int64_t out, int64_t in, int bias) { return site(b, name, out, in, bias, NULL, 0); }

lora__node *lora__b_append(lora__builder *b, const lora__op *op, int32_t n_in, const int32_t *in, int32_t n_out, int64_t cols)
{
	return append(b, op, n_in, in, n_out, cols);
}

lora_view lora__b_view(const lora__weight *w) { return view(w); }
int64_t   lora__b_cols(const lora__builder *b, int32_t v) { return cols_of(b, v); }
