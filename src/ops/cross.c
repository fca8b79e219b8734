/* Attention of decoder tokens to all tokens of their own source: softmax(scale * q k^T) v. in: q[n,h*d] of space 0, k[m,h*d] and v[m,h*d] of
 * space 1; out[n,h*d]. i[0] heads, i[1] head_dim, i[2] number of this layer's cache; f[0] scale. Saved: log-sum-exp[n,h] in the wide type.
 * With a cache, keys and values of new sources are put there and read from there ever after. Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3. */
#include <string.h>

#include "ops/op.h"

static uint32_t keeps(const lora__node *n) { return (void)n, LORA__KEEP_IN0 | LORA__KEEP_IN1 | LORA__KEEP_IN2 | LORA__KEEP_OUT0; }

static size_t saved_bytes(const lora__node *n, lora_dtype real, int64_t rows) { return lora__dtype_size(lora__wide(real)) * (size_t)(rows * n->i[0]); }

static void common(const lora__exec *e, lora_call *c, int first)
{
	c->v[first] = lora__view2(e->rows->cross, LORA_I32, e->rows->n_segments, 4, 4);
	c->v[first + 1] = lora__view1(NULL, LORA_I32, 0);
	c->i[0] = c->i[1] = e->node->i[0], c->i[2] = e->node->i[1];
	c->f[0] = e->node->f[0];
}

/* Sources of this pass: their rows go to where source->cross says. */
static void store(const lora__exec *e, const lora__cache *cache, char *dst, lora_view src)
{
	const lora__rowinfo *from = e->rows->source;
	size_t row = (size_t)cache->width * lora__dtype_size(e->real);
	for (int64_t s = 0; from && from->n && s < from->n_segments; s++) {
		const int32_t *g = from->cross + 4 * s;
		memcpy(dst + (size_t)g[2] * row, (const char *)src.data + (size_t)g[0] * row, (size_t)g[1] * row);
	}
}

static lora_status forward(lora__exec *e)
{
	const lora__cache *cache = e->rows->cache ? e->rows->cache->source : NULL;
	lora_call c = lora__prim(LORA_PRIM_ATTENTION, 7);
	c.v[0] = e->out[0], c.v[1] = e->in[0], c.v[2] = e->in[1], c.v[3] = e->in[2];
	if (cache) {
		char *k = cache->k[e->node->i[2]], *v = cache->v[e->node->i[2]];
		store(e, cache, k, e->in[1]);
		store(e, cache, v, e->in[2]);
		c.v[2] = lora__view2(k, e->real, cache->slots * cache->capacity, cache->width, cache->width);
		c.v[3] = lora__view2(v, e->real, cache->slots * cache->capacity, cache->width, cache->width);
	}
	c.v[4] = lora__view2(e->saved, lora__wide(e->real), e->rows->n, e->node->i[0], e->node->i[0]);
	common(e, &c, 5);
	return lora__run(e->ctx, &c);
}

/* For gradients that nobody wants or that must be added: dq, dk, dv; rows is the larger of both counts. */
static size_t scratch_bytes(const lora__node *n, lora_dtype real, int64_t rows) { return lora__dtype_size(real) * (size_t)(rows * 3 * n->i[0] * n->i[1]); }

static lora_status backward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_ATTENTION_BWD, 11);
	char *spare = e->scratch;
	for (int k = 0; k < 3; k++) {
		c.v[k] = e->din[k].data ? e->din[k] : e->in[k];
		if (e->din[k].data && e->din_beta[k] == 0) continue;
		c.v[k].data = spare;
		spare += lora__dtype_size(e->real) * (size_t)(c.v[k].size[0] * c.v[k].size[1]);
	}
	c.v[3] = e->in[0], c.v[4] = e->in[1], c.v[5] = e->in[2], c.v[6] = e->out[0];
	c.v[7] = lora__view2(e->saved, lora__wide(e->real), e->rows->n, e->node->i[0], e->node->i[0]);
	c.v[8] = e->dout[0];
	common(e, &c, 9);
	lora_status st = lora__run(e->ctx, &c);
	for (int k = 0; k < 3 && st == LORA_OK; k++)
		if (e->din[k].data && e->din_beta[k] != 0) st = lora__axpby(e->ctx, 1.0, c.v[k], 1.0, e->din[k]);
	return st;
}

const lora__op lora__op_cross = { .m = { "cross", "attention of a decoder to its source", "arXiv:1706.03762 section 3.2.3", NULL }, .keeps = keeps,
	.saved_bytes = saved_bytes, .scratch_bytes = scratch_bytes, .forward = forward, .backward = backward };
