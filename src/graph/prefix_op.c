/* Prefix: virtual keys and values in front of each sequence's own, K' = [P_K; K], V' = [P_V; V]. in: k, v [n,w] of space 0; out: k', v' [m,w] of
 * space 1, where the attention that follows finds them by rows->cross. Prefix keys come behind the rotary embedding: they are not turned.
 * i[0] block: columns 2 i[0] w .. of a virtual token's values are its key here, then its value. Backward: dk, dv are cut out, the virtual rows'
 * gradients are summed over sequences. In decoding a sequence's first pass brings its prefix along, and the cache keeps it.
 * Source: Li & Liang 2021, arXiv:2101.00190, section 4.2; order of the values as in PEFT 0.21, PeftModel.get_prompt(). */
#include <string.h>

#include "graph/graph.h"
#include "site/virtual.h"

typedef struct walk { const lora__exec *e; const int32_t *g; int64_t segment, row, width; const lora_adapter *who; int every; } walk;

static walk start(const lora__exec *e, int64_t s)
{
	walk w = { .e = e, .g = e->rows->cross + 4 * s, .segment = s };
	w.row = w.g[2], w.width = e->node->i[1];
	w.who = lora__virtual_whose(e->rows->runs, w.g[0], &w.every);
	return w;
}

/* The virtual tokens of a sequence, one adapter after the other. */
static void each_token(walk *w, int backward)
{
	const lora__node *n = w->e->node;
	double weight[LORA__VERTICES_MAX];
	size_t row = lora__dtype_size(w->e->real) * (size_t)w->width;
	for (size_t i = 0; i < n->all->n_virtuals && w->g[3]; i++) {
		const lora__virtual *v = n->all->virtuals[i];
		if (v->where != LORA__VIRTUAL_KEYS || !lora__virtual_acts(v, w->who, w->every)) continue;
		lora__virtual_weights(v, w->e->rows->train, w->e->rows->key, w->segment, n->i[0], weight);
		for (int64_t t = 0; t < v->tokens; t++, w->row++)
			for (int k = 0; k < 2; k++) {
				int64_t at = (2 * n->i[0] + k) * w->width;
				if (!backward) lora__virtual_read(v, weight, t, at, w->width, w->e->real, (char *)w->e->out[k].data + (size_t)w->row * row);
				else if (v->trainable) lora__virtual_add(v, weight, t, at, w->width, w->e->real, (char *)w->e->dout[k].data + (size_t)w->row * row);
			}
	}
}

static lora_status forward(lora__exec *e)
{
	for (int64_t s = 0; s < e->rows->n_segments; s++) {
		walk w = start(e, s);
		size_t row = lora__dtype_size(e->real) * (size_t)w.width;
		each_token(&w, 0);
		for (int k = 0; k < 2; k++)
			memcpy((char *)e->out[k].data + (size_t)w.row * row, (const char *)e->in[k].data + (size_t)w.g[0] * row, (size_t)w.g[1] * row);
	}
	return LORA_OK;
}

static lora_status backward(lora__exec *e)
{
	lora_status st = LORA_OK;
	for (int64_t s = 0; s < e->rows->n_segments && st == LORA_OK; s++) {
		walk w = start(e, s);
		size_t row = lora__dtype_size(e->real) * (size_t)w.width;
		each_token(&w, 1);
		for (int k = 0; k < 2 && st == LORA_OK; k++) {
			if (!e->din[k].data) continue;
			lora_view to = lora__view2((char *)e->din[k].data + (size_t)w.g[0] * row, e->real, w.g[1], w.width, w.width);
			lora_view from = lora__view2((char *)e->dout[k].data + (size_t)w.row * row, e->real, w.g[1], w.width, w.width);
			st = e->din_beta[k] == 0 ? lora__copy(e->ctx, to, from) : lora__axpby(e->ctx, 1.0, from, 1.0, to);
		}
	}
	return st;
}

const lora__op lora__op_prefix = { .m = { "prefix", "virtual keys and values before a sequence's own", "arXiv:2101.00190 section 4.2", NULL }, .forward = forward,
	.backward = backward };
