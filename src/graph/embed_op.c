/* Token embedding: out[n,d] = factor * table[ids[n], :] + adapters. Frozen and first: no gradient goes further, only to adapters.
 * w[0] table[vocab,d], or site, whose weight it is; f[0] factor (1; sqrt(d) for Gemma). */
#include "graph/graph.h"

static lora_view table_of(const lora__exec *e)
{
	lora_view t = e->node->w[0];
	if (e->node->site) t.data = e->node->site->data; /* merged or not */
	return t;
}

static lora__site_call call(const lora__exec *e)
{
	return (lora__site_call){ .ctx = e->ctx, .real = e->real, .n = e->rows->n, .y = e->out[0], .dy = e->dout[0], .scratch = e->scratch, .train = e->rows->train,
		.key = e->rows->key, .ids = e->rows->ids, .factor = e->node->f[0] };
}

static lora__runs runs(const lora__exec *e) { return e->rows->runs ? *(const lora__runs *)e->rows->runs : (lora__runs){ NULL, 0 }; }

static lora_status forward(lora__exec *e)
{
	lora_status st = lora__embed_look_up(e, table_of(e));
	if (st || !e->node->site || !e->node->site->n_chain) return st;
	lora__site_call c = call(e);
	return lora__site_forward(e->node->site, &c, runs(e), 0);
}

static lora_status backward(lora__exec *e)
{
	lora__site_call c = call(e);
	return e->node->site ? lora__site_backward(e->node->site, &c, runs(e), 0) : LORA_OK;
}

static size_t scratch_bytes(const lora__node *n, lora_dtype real, int64_t rows)
{
	return n->site && n->site->n_chain ? lora__site_scratch_bytes(n->site, real, rows) : 0;
}

const lora__op lora__op_embed = { .m = { "embed", "token embedding with its adapters", "table lookup; PEFT 0.21, tuners/lora/layer.py, Embedding", NULL },
	.scratch_bytes = scratch_bytes, .forward = forward, .backward = backward };
