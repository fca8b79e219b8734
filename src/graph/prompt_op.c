/* Prompt: rows of parameters at the head of each sequence, [P; E(x)]. in, out: x[n,d] in place; rows->lead says how many rows of a segment are
 * virtual. Backward: their gradients are summed over sequences; the embedding, where it trains, gets those of the other rows.
 * Source: Lester et al. 2021, arXiv:2104.08691, section 2. */
#include <string.h>

#include "graph/graph.h"
#include "site/virtual.h"

static void each_row(lora__exec *e, int64_t s, int backward)
{
	const lora__node *n = e->node;
	int64_t row = e->rows->segments[4 * s], end = row + e->rows->lead[s], d = n->i[0];
	double weight[LORA__VERTICES_MAX];
	int every;
	const lora_adapter *who = lora__virtual_whose(e->rows->runs, row, &every);
	for (size_t i = 0; i < n->all->n_virtuals && row < end; i++) {
		const lora__virtual *v = n->all->virtuals[i];
		if (v->where != LORA__VIRTUAL_ROWS || !lora__virtual_acts(v, who, every)) continue;
		lora__virtual_weights(v, e->rows->train, e->rows->key, s, -1, weight);
		for (int64_t t = 0; t < v->tokens && row < end; t++, row++) {
			size_t at = (size_t)(row * d) * lora__dtype_size(e->real);
			if (!backward) lora__virtual_read(v, weight, t, 0, d, e->real, (char *)e->out[0].data + at);
			else if (v->trainable) lora__virtual_add(v, weight, t, 0, d, e->real, (char *)e->dout[0].data + at);
		}
	}
}

static lora_status forward(lora__exec *e)
{
	lora_status st = e->out[0].data == e->in[0].data ? LORA_OK : lora__copy(e->ctx, e->out[0], e->in[0]);
	for (int64_t s = 0; st == LORA_OK && e->rows->lead && s < e->rows->n_segments; s++) each_row(e, s, 0);
	return st;
}

static lora_status backward(lora__exec *e)
{
	int64_t d = e->node->i[0];
	size_t row = (size_t)d * lora__dtype_size(e->real);
	for (int64_t s = 0; e->rows->lead && s < e->rows->n_segments; s++) each_row(e, s, 1);
	if (!e->din[0].data) return LORA_OK;
	for (int64_t s = 0; e->rows->lead && s < e->rows->n_segments; s++) /* what is at these rows now stands for no token */
		memset((char *)e->dout[0].data + row * (size_t)e->rows->segments[4 * s], 0, row * (size_t)e->rows->lead[s]);
	if (e->din_beta[0] != 0) return lora__axpby(e->ctx, 1.0, e->dout[0], 1.0, e->din[0]);
	return e->din[0].data == e->dout[0].data ? LORA_OK : lora__copy(e->ctx, e->din[0], e->dout[0]);
}

const lora__op lora__op_prompt = { .m = { "prompt", "virtual rows before the embedded tokens", "arXiv:2104.08691 section 2", NULL }, .flags = LORA__OP_INPLACE,
	.forward = forward, .backward = backward };
