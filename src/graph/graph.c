/* The list of ops. */
#include "graph/graph.h"

#include <string.h>

#include "site/virtual.h"

void lora__graph_init(lora__graph *g, lora_context *ctx) { *g = (lora__graph){ .ctx = ctx }; }

void lora__graph_free(lora__graph *g)
{
	for (size_t i = 0; i < g->n_nodes; i++) lora__free(g->ctx, g->nodes[i].sites);
	lora__free(g->ctx, g->nodes);
	lora__free(g->ctx, g->values);
	g->nodes = NULL, g->values = NULL;
	g->n_nodes = g->n_values = 0;
}

lora__node *lora__graph_add(lora__graph *g, const lora__op *op, int32_t layer, int32_t n_in, const int32_t *in, int32_t n_out,
                            const int64_t *out_cols)
{
	if (lora__grow(g->ctx, &g->nodes, &g->cap_nodes, g->n_nodes + 1, sizeof *g->nodes)) return NULL;
	if (lora__grow(g->ctx, &g->values, &g->cap_values, g->n_values + (size_t)n_out, sizeof *g->values)) return NULL;
	lora__node *n = &g->nodes[g->n_nodes];
	*n = (lora__node){ .op = op, .n_in = n_in, .n_out = n_out, .layer = layer, .space = g->space };
	for (int32_t k = 0; k < n_in; k++) {
		n->in[k] = in[k];
		g->values[in[k]].n_uses++;
	}
	for (int32_t k = 0; k < n_out; k++) {
		n->out[k] = (int32_t)g->n_values;
		g->values[g->n_values++] = (lora__value){ out_cols[k], (int32_t)g->n_nodes, 0, g->space };
	}
	if (layer >= g->n_layers) g->n_layers = layer + 1;
	g->n_nodes++;
	return n;
}

int lora__node_trains(const lora__node *n)
{
	lora__site *s;
	if (n->all) return lora__virtual_trains(n->all, n->op == &lora__op_prompt ? LORA__VIRTUAL_ROWS : LORA__VIRTUAL_KEYS);
	for (int32_t i = 0; (s = lora__node_site(n, i)); i++)
		if (lora__site_trains(s)) return 1;
	return 0;
}
