/* The list of ops with those of virtual tokens in their places: a prompt op behind the embedding, a prefix op before every attention. Values keep
 * their numbers, new ones come behind them; the nodes' own memory (sites) stays with the list that was read. */
#include <string.h>

#include "graph/graph.h"

/* Append a copy of n; the values of its outputs know their producer then. */
static lora__node *push(lora__graph *to, const lora__node *n)
{
	lora__node *copy = &to->nodes[to->n_nodes];
	*copy = *n;
	for (int32_t k = 0; k < n->n_out; k++) to->values[n->out[k]].producer = (int32_t)to->n_nodes;
	for (int32_t k = 0; k < n->n_in; k++) to->values[n->in[k]].n_uses++;
	to->n_nodes++;
	return copy;
}

static int32_t value(lora__graph *to, int64_t cols, int32_t space)
{
	to->values[to->n_values] = (lora__value){ .cols = cols, .space = space };
	return (int32_t)to->n_values++;
}

lora_status lora__graph_weave(const lora__graph *from, const struct lora__sites *all, int keys, int rows, lora__graph *to)
{
	*to = (lora__graph){ .ctx = from->ctx, .n_values = from->n_values, .n_layers = from->n_layers };
	to->nodes = lora__calloc(from->ctx, 2 * from->n_nodes, sizeof *to->nodes);
	to->values = lora__calloc(from->ctx, from->n_values + 2 * from->n_nodes, sizeof *to->values);
	if (!to->nodes || !to->values) {
		lora__graph_unweave(to);
		return LORA_E_MEMORY;
	}
	memcpy(to->values, from->values, from->n_values * sizeof *to->values);
	for (size_t v = 0; v < from->n_values; v++) to->values[v].n_uses = 0;
	int32_t table = -1, prompted = -1; /* the embedding's value, and what stands for it */
	for (size_t i = 0; i < from->n_nodes; i++) {
		lora__node n = from->nodes[i];
		for (int32_t k = 0; k < n.n_in; k++)
			if (n.in[k] == table) n.in[k] = prompted;
		if (keys && n.op == &lora__op_attention) {
			int64_t width = n.i[1] * n.i[2];
			lora__node p = { .op = &lora__op_prefix, .n_in = 2, .n_out = 2, .in = { n.in[1], n.in[2] }, .layer = n.layer, .space = 1, .all = all,
				.i = { n.i[5], width } };
			n.in[1] = p.out[0] = value(to, width, 1), n.in[2] = p.out[1] = value(to, width, 1);
			n.i[6] = 1;
			push(to, &p);
		}
		push(to, &n);
		if (rows && n.op == &lora__op_embed && table < 0) {
			lora__node p = { .op = &lora__op_prompt, .n_in = 1, .n_out = 1, .in = { n.out[0] }, .layer = n.layer, .space = n.space, .all = all,
				.i = { from->values[n.out[0]].cols } };
			table = n.out[0], p.out[0] = prompted = value(to, p.i[0], n.space);
			push(to, &p);
		}
	}
	return LORA_OK;
}

void lora__graph_unweave(lora__graph *g)
{
	lora__free(g->ctx, g->nodes);
	lora__free(g->ctx, g->values);
	*g = (lora__graph){ .ctx = g->ctx };
}
