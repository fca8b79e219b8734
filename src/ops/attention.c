/* Scaled dot-product attention over segments, with grouped heads: softmax(scale * q k^T) v. Vaswani et al. 2017, arXiv:1706.03762, eq. 1;
 * no T x T matrix is stored: Dao et al. 2022, arXiv:2205.14135. in: q[n,h*d], k[n,kv*d], v[n,kv*d]; out[n,h*d].
 * i[0] heads, i[1] kv heads, i[2] head_dim, i[3] causal, i[4] window (0 = none), i[5] number of this layer's cache, i[6] 1: k and v are rows of
 * space 1, virtual ones in front (see rows->cross); f[0] scale, f[1] soft cap.
 * w[0] bias by head and distance in columns [h, 2r+1], wide, or none. Saved: log-sum-exp[n,h] in the wide type. With a cache, new keys and values are appended to it and the whole cache is attended. */
#include <string.h>

#include "ops/op.h"

static uint32_t keeps(const lora__node *n) { return (void)n, LORA__KEEP_IN0 | LORA__KEEP_IN1 | LORA__KEEP_IN2 | LORA__KEEP_OUT0; }

static size_t saved_bytes(const lora__node *n, lora_dtype real, int64_t rows) { return lora__dtype_size(lora__wide(real)) * (size_t)rows * (size_t)n->i[0]; }

static void common(const lora__exec *e, lora_call *c, int first)
{
	const lora__node *n = e->node;
	int apart = n->i[6] && !e->rows->cache;
	const lora__rowinfo *keys = apart ? e->rows->source : e->rows;
	c->v[first] = lora__view2(apart ? e->rows->cross : e->rows->segments, LORA_I32, e->rows->n_segments, 4, 4);
	/* with a cache, keys are those of the cache, whose sequences have no padding: a key's column is its index */
	c->v[first + 1] = lora__view1((n->i[4] || n->w[0].data) && !e->rows->cache ? keys->columns : NULL, LORA_I32, keys->n);
	if (n->w[0].data) c->v[first + 2] = n->w[0], c->n_views = first + 3;
	memcpy(c->i, n->i, 5 * sizeof *c->i);
	c->f[0] = n->f[0], c->f[1] = n->f[1];
}

/* Append the new rows of each segment to the cache: they are the last keys of their segment. */
static lora_status append(const lora__exec *e, const lora__cache *cache, char *dst, lora_view src)
{
	size_t row = (size_t)cache->width * lora__dtype_size(e->real);
	for (int64_t s = 0; s < e->rows->n_segments; s++) {
		const int32_t *g = e->rows->segments + 4 * s, *x = e->node->i[6] ? e->rows->cross + 4 * s : g;
		int64_t from = e->node->i[6] ? x[2] : g[0], n = e->node->i[6] ? x[3] : g[1], to = (int64_t)g[2] + g[3] - n;
		memcpy(dst + (size_t)to * row, (const char *)src.data + (size_t)from * row, (size_t)n * row);
	}
	return LORA_OK;
}

static lora_status forward(lora__exec *e)
{
	const lora__cache *cache = e->rows->cache;
	lora_call c = lora__prim(LORA_PRIM_ATTENTION, 7);
	c.v[0] = e->out[0], c.v[1] = e->in[0], c.v[2] = e->in[1], c.v[3] = e->in[2];
	if (cache) {
		char *k = cache->k[e->node->i[5]], *v = cache->v[e->node->i[5]];
		append(e, cache, k, e->in[1]);
		append(e, cache, v, e->in[2]);
		c.v[2] = lora__view2(k, e->real, cache->slots * cache->capacity, cache->width, cache->width);
		c.v[3] = lora__view2(v, e->real, cache->slots * cache->capacity, cache->width, cache->width);
	}
	c.v[4] = lora__view2(e->saved, lora__wide(e->real), e->rows->n, e->node->i[0], e->node->i[0]);
	common(e, &c, 5);
	return lora__run(e->ctx, &c);
}

static size_t scratch_bytes(const lora__node *n, lora_dtype real, int64_t rows)
{
	/* for gradients that nobody wants or that must be added: dq, dk, dv */
	return lora__dtype_size(real) * (size_t)rows * (size_t)((n->i[0] + 2 * n->i[1]) * n->i[2]);
}

static lora_status backward(lora__exec *e)
{
	lora_call c = lora__prim(LORA_PRIM_ATTENTION_BWD, 11);
	char *spare = e->scratch;
	lora_status st;
	for (int k = 0; k < 3; k++) {
		c.v[k] = e->din[k].data ? e->din[k] : e->in[k];
		if (!e->din[k].data || e->din_beta[k] != 0) {
			c.v[k].data = spare;
			c.v[k].stride[0] = c.v[k].size[1];
			spare += lora__dtype_size(e->real) * (size_t)(c.v[k].size[0] * c.v[k].size[1]);
		}
	}
	c.v[3] = e->in[0], c.v[4] = e->in[1], c.v[5] = e->in[2], c.v[6] = e->out[0];
	c.v[7] = lora__view2(e->saved, lora__wide(e->real), e->rows->n, e->node->i[0], e->node->i[0]);
	c.v[8] = e->dout[0];
	common(e, &c, 9);
	if ((st = lora__run(e->ctx, &c))) return st;
	for (int k = 0; k < 3; k++)
		if (e->din[k].data && e->din_beta[k] != 0 && (st = lora__axpby(e->ctx, 1.0, c.v[k], 1.0, e->din[k]))) return st;
	return LORA_OK;
}

const lora__op lora__op_attention = { .m = { "attention", "scaled dot-product attention with grouped heads", "arXiv:1706.03762 eq. 1, arXiv:2305.13245", NULL },
	.flags = LORA__OP_PAIRS, .keeps = keeps, .saved_bytes = saved_bytes, .scratch_bytes = scratch_bytes, .forward = forward, .backward = backward };
