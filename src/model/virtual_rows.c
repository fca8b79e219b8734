/* Virtual tokens in a model: what adapters of them must know of its graph, the graph woven with their ops while some are attached, and the table of
 * keys (space 1) that the attention of a causal model then reads: every sequence's virtual keys, then its own. */
#include <string.h>

#include "model/model.h"
#include "site/virtual.h"

/* Virtual tokens fit where one embedding comes in and every block has one causal attention of the same shape. */
void lora__model_body(lora_model *m)
{
	lora__body *b = &m->s.body;
	int64_t blocks = 0, bad = m->form != LORA__FORM_CAUSAL;
	b->name = m->arch->m.name;
	for (size_t i = 0; i < m->graph.n_nodes; i++) {
		const lora__node *n = &m->graph.nodes[i];
		if (n->op == &lora__op_embed && !b->width) b->width = n->w[0].size[1], b->table = n->w[0], b->factor = n->f[0];
		if (n->op == &lora__op_cross) bad = 1;
		if (n->op != &lora__op_attention) continue;
		if (!blocks) b->heads = n->i[0], b->kv_heads = n->i[1], b->head_dim = n->i[2];
		bad |= n->i[1] != b->kv_heads || n->i[2] != b->head_dim || !n->i[3] || n->i[5] != blocks || n->w[0].data;
		blocks++;
	}
	b->layers = bad || !b->width ? 0 : blocks;
}

lora_status lora__model_graph(lora_model *m, const lora__graph **out)
{
	int keys = lora__virtual_any(&m->s, LORA__VIRTUAL_KEYS), rows = lora__virtual_any(&m->s, LORA__VIRTUAL_ROWS), is = 2 * keys + rows;
	if (is != m->woven_is) {
		lora__graph_unweave(&m->woven);
		m->woven_is = 0;
		lora_status st = is ? lora__graph_weave(&m->graph, &m->s, keys, rows, &m->woven) : LORA_OK;
		if (st) return st;
		m->woven_is = is;
	}
	*out = is ? &m->woven : &m->graph;
	return LORA_OK;
}

/* Most virtual rows, or keys, that a sequence may have: as if every attached adapter acted. */
int64_t lora__model_virtual(const lora_model *m, int where) { return lora__virtual_tokens(&m->s, where, NULL, 1); }

lora_status lora__model_keys(lora_model *m, const lora__runs *runs, const int64_t *fresh)
{
	struct lora__batchmem *b = m->batch, *to;
	int64_t most = lora__model_virtual(m, LORA__VIRTUAL_KEYS);
	if (b->n_rows + b->n_segments * most > INT32_MAX)
		return lora__fail(m->s.ctx, LORA_E_LIMIT, "batch", "%lld tokens and %lld virtual ones for each sequence are too many", (long long)b->n_rows, (long long)most);
	lora_status st = lora__batch_reserve(m, &m->source_batch, (size_t)(b->n_rows + b->n_segments * most), (size_t)b->n_segments);
	if (st) return st;
	to = m->source_batch;
	to->n_segments = b->n_segments;
	for (int64_t s = 0; s < b->n_segments; s++) {
		const int32_t *g = b->segments + 4 * s;
		int32_t *x = b->cross + 4 * s, *y = to->cross + 4 * s;
		int every;
		const lora_adapter *who = lora__virtual_whose(runs, g[0], &every);
		int64_t n = !fresh || fresh[s] ? lora__virtual_tokens(&m->s, LORA__VIRTUAL_KEYS, who, every) : 0;
		y[0] = x[0] = g[0], y[1] = x[1] = g[1], y[2] = x[2] = (int32_t)to->n_rows, y[3] = (int32_t)n, x[3] = (int32_t)(n + g[1]);
		for (int64_t t = 0; t < n; t++) to->columns[to->n_rows++] = (int32_t)t;
		memcpy(to->columns + to->n_rows, b->columns + g[0], (size_t)g[1] * sizeof *b->columns);
		to->n_rows += g[1];
	}
	return LORA_OK;
}
