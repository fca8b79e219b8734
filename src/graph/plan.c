/* Making a plan: forward steps, then backward steps in reverse, every value and gradient as a buffer with a first and last step, and all
 * buffers placed in one arena so that those alive at the same time do not overlap.
 *
 * Checkpointing keeps only values that cross a block boundary; before a block's backward its forward runs again into new buffers
 * (Chen et al. 2016, arXiv:1604.06174), leaving out ops whose results backward does not read. Without it the results of cheap ops (norms, gated
 * units) are not kept either: they are computed again, by the same code from the same values, right before the first backward step that reads them. */
#include <stdlib.h>
#include <string.h>

#include "graph/graph.h"

typedef struct maker {
	const lora__graph *g;
	lora__plan        *p;
	lora_dtype         real;
	int32_t           *value; /* current buffer of each value */
	int32_t           *grad;  /* gradient buffer of each value, -1 = none yet */
	int32_t           *saved; /* saved buffer of each node, -1 = none */
	char              *needs; /* value needs a gradient */
	char              *again; /* node runs again in its block's recomputation */
	size_t             turn;   /* steps of the forward pass; 0 while it is made */
} maker;

static size_t padded(size_t n) { return (n + 63) & ~(size_t)63; }

static int32_t new_buffer(maker *k, int64_t cols, size_t bytes)
{
	lora__plan *p = k->p;
	if (lora__grow(k->g->ctx, &p->buffers, &p->cap_buffers, p->n_buffers + 1, sizeof *p->buffers)) return -2;
	p->buffers[p->n_buffers] = (lora__buffer){ .cols = cols, .bytes = padded(bytes), .first = (int32_t)p->n_steps, .last = (int32_t)p->n_steps };
	return (int32_t)p->n_buffers++;
}

static int64_t rows_in(const maker *k, int32_t space) { return space ? k->p->source_rows : k->p->rows; }

/* Buffer for value v, or for its gradient. */
static int32_t new_value(maker *k, int32_t v)
{
	int64_t cols = k->g->values[v].cols;
	int32_t space = k->g->values[v].space, b = new_buffer(k, cols, lora__dtype_size(k->real) * (size_t)cols * (size_t)rows_in(k, space));
	if (b >= 0) k->p->buffers[b].space = space;
	return b;
}

static void touch(maker *k, int32_t buffer)
{
	if (buffer >= 0 && k->p->buffers[buffer].last < (int32_t)k->p->n_steps) k->p->buffers[buffer].last = (int32_t)k->p->n_steps;
}

static lora__step *new_step(maker *k, int32_t node, int backward)
{
	lora__plan *p = k->p;
	if (lora__grow(k->g->ctx, &p->steps, &p->cap_steps, p->n_steps + 1, sizeof *p->steps)) return NULL;
	lora__step *s = &p->steps[p->n_steps];
	memset(s, 0, sizeof *s);
	s->node = node, s->backward = (int8_t)backward, s->saved = s->scratch = -1;
	for (int i = 0; i < LORA__MAX_IN; i++) s->in[i] = s->din[i] = -1;
	for (int i = 0; i < LORA__MAX_OUT; i++) s->out[i] = s->dout[i] = -1;
	return s;
}

/* What the step needs while it runs: a buffer of its own. */
static lora_status give_scratch(maker *k, const lora__node *n, lora__step *s)
{
	int64_t rows = rows_in(k, n->space);
	for (int i = 0; i < n->n_in; i++)
		if (rows_in(k, k->g->values[n->in[i]].space) > rows) rows = rows_in(k, k->g->values[n->in[i]].space);
	size_t b = n->op->scratch_bytes ? padded(n->op->scratch_bytes(n, k->real, rows)) : 0;
	if (b > k->p->scratch_bytes) k->p->scratch_bytes = b;
	s->scratch = b ? new_buffer(k, 0, b) : -1;
	return s->scratch == -2 ? LORA_E_MEMORY : LORA_OK;
}

/* An in-place op may take over its input's buffer when nobody else reads the input and its producer does not keep it. */
static int may_share(const maker *k, const lora__node *n)
{
	const lora__value *v = &k->g->values[n->in[0]];
	const lora__node *from = &k->g->nodes[v->producer];
	uint32_t keeps = from->op->keeps ? from->op->keeps(from) : 0;
	return (n->op->flags & LORA__OP_INPLACE) && v->n_uses == 1 && !(keeps & (LORA__KEEP_OUT0 | LORA__KEEP_OUT1));
}

static lora_status add_forward(maker *k, int32_t index)
{
	const lora__node *n = &k->g->nodes[index];
	lora__step *s = new_step(k, index, 0);
	if (!s) return LORA_E_MEMORY;
	for (int i = 0; i < n->n_in; i++) {
		s->in[i] = k->value[n->in[i]];
		touch(k, s->in[i]);
	}
	for (int i = 0; i < n->n_out; i++) {
		int32_t b = i == 0 && may_share(k, n) ? s->in[0] : new_value(k, n->out[i]);
		if (b == -2) return LORA_E_MEMORY;
		s->out[i] = k->value[n->out[i]] = b;
	}
	int keeps = n->op->saved_bytes && !(n->site && lora__plan_infers(k->p->mode)); /* a site keeps for its backward alone */
	size_t bytes = keeps ? n->op->saved_bytes(n, k->real, rows_in(k, n->space)) : 0;
	k->saved[index] = bytes ? new_buffer(k, 0, bytes) : -1;
	if (k->saved[index] == -2) return LORA_E_MEMORY;
	s->saved = k->saved[index];
	if (give_scratch(k, n, s)) return LORA_E_MEMORY;
	k->p->n_steps++;
	return LORA_OK;
}

/* Multiply-adds of the products of n's block, for a row. */
static int64_t products_of(const maker *k, const lora__node *n)
{
	int64_t products = 0;
	for (size_t i = 0; i < k->g->n_nodes; i++)
		if (k->g->nodes[i].layer == n->layer && k->g->nodes[i].site) products += k->g->nodes[i].site->in * k->g->nodes[i].site->out;
	return products;
}

/* Attention costs up to rows x width operations for a row: cheap below 1/64 of the products of its block. With BF16 products as quick as they are on
 * tile units the time would show, but in the widest models, where what is kept is large too and norms and gated units cost less than 1/128. */
static int cheap(const maker *k, const lora__node *n)
{
	enum { WIDE = 1 << 25 };
	if (n->op->flags & LORA__OP_PAIRS) return k->real != LORA_BF16 && rows_in(k, n->space) * k->g->values[n->out[0]].cols < products_of(k, n) / 64;
	return (n->op->flags & LORA__OP_CHEAP) && (k->real != LORA_BF16 || products_of(k, n) >= WIDE);
}

/* Make the cheap values that n's backward reads anew, unless that was done: their producer's backward comes later and keeps all that goes in. */
static lora_status renew(maker *k, const lora__node *n, uint32_t keeps)
{
	lora_status st = LORA_OK;
	for (int i = 0; i < n->n_in && st == LORA_OK && k->p->mode == LORA__PLAN_TRAIN; i++) {
		int32_t v = n->in[i], from = k->g->values[v].producer;
		if (!(keeps & (uint32_t)(LORA__KEEP_IN0 << i)) || (n->op->flags & LORA__OP_LOSS) || !cheap(k, &k->g->nodes[from])) continue;
		if (k->needs[v] && k->p->buffers[k->value[v]].first < (int32_t)k->turn) st = add_forward(k, from);
	}
	return st;
}

/* The gradient buffer of value v is about to be added to. If another value whose producer's backward has not run yet shares it,
 * v gets a copy of its own first. */
static lora_status own_gradient(maker *k, int32_t v, int32_t node)
{
	int shared = 0;
	for (size_t u = 0; u < k->g->n_values; u++)
		if ((int32_t)u != v && k->grad[u] == k->grad[v] && k->g->values[u].producer < node) shared = 1;
	if (!shared) return LORA_OK;
	lora__step *s = new_step(k, -1, 1);
	int32_t b = s ? new_value(k, v) : -2;
	if (b == -2) return LORA_E_MEMORY;
	s->in[0] = k->grad[v], s->out[0] = b;
	touch(k, s->in[0]);
	k->grad[v] = b;
	k->p->n_steps++;
	return LORA_OK;
}

static lora_status prepare_gradients(maker *k, const lora__node *n, int32_t index)
{
	for (int i = 0; i < n->n_in; i++) {
		int32_t v = n->in[i];
		if (!k->needs[v] || k->grad[v] < 0) continue;
		lora_status st = own_gradient(k, v, index);
		if (st) return st;
	}
	return LORA_OK;
}

static lora_status add_backward(maker *k, int32_t index)
{
	const lora__node *n = &k->g->nodes[index];
	uint32_t keeps = n->op->keeps ? n->op->keeps(n) : 0;
	lora_status st = renew(k, n, keeps);
	if (st == LORA_OK) st = prepare_gradients(k, n, index);
	lora__step *s = st ? NULL : new_step(k, index, 1);
	if (!s) return LORA_E_MEMORY;
	for (int i = 0; i < n->n_in; i++)
		if (keeps & (uint32_t)(LORA__KEEP_IN0 << i)) touch(k, s->in[i] = k->value[n->in[i]]);
	for (int i = 0; i < n->n_out; i++) {
		if (keeps & (uint32_t)(LORA__KEEP_OUT0 << i)) touch(k, s->out[i] = k->value[n->out[i]]);
		touch(k, s->dout[i] = k->grad[n->out[i]]);
	}
	for (int i = 0; i < n->n_in; i++) {
		int32_t v = n->in[i];
		if (!k->needs[v]) continue;
		int fresh = k->grad[v] < 0;
		if (fresh) {
			int pass = (n->op->flags & LORA__OP_SUM) || (i == 0 && (n->op->flags & LORA__OP_INPLACE));
			k->grad[v] = pass ? s->dout[0] : new_value(k, v);
			if (k->grad[v] == -2) return LORA_E_MEMORY;
		}
		touch(k, s->din[i] = k->grad[v]);
		s->din_beta[i] = fresh ? 0.0 : 1.0;
	}
	touch(k, s->saved = k->saved[index]);
	if (give_scratch(k, n, s)) return LORA_E_MEMORY;
	k->p->n_steps++;
	return LORA_OK;
}

/* Which values need a gradient: those downstream of a site that trains. */
static void find_needs(maker *k)
{
	for (size_t i = 0; i < k->g->n_nodes; i++) {
		const lora__node *n = &k->g->nodes[i];
		int need = lora__node_trains(n);
		for (int j = 0; j < n->n_in; j++) need |= k->needs[n->in[j]];
		for (int j = 0; j < n->n_out; j++) k->needs[n->out[j]] = (char)need;
	}
}

static int runs_backward(const maker *k, const lora__node *n)
{
	if (n->op->flags & LORA__OP_LOSS) return 1;
	if (!n->op->backward) return 0;
	for (int j = 0; j < n->n_out; j++)
		if (k->needs[n->out[j]]) return k->grad[n->out[j]] >= 0;
	return 0;
}

/* Mark the nodes of a block whose results its backward reads, and what these need in turn. */
static void find_again(maker *k, int32_t layer)
{
	for (size_t i = k->g->n_nodes; i-- > 0;) {
		const lora__node *n = &k->g->nodes[i];
		if (n->layer != layer) continue;
		uint32_t keeps = n->op->keeps ? n->op->keeps(n) : 0;
		int back = 0, all = k->again[i];
		for (int j = 0; j < n->n_out; j++) back |= k->needs[n->out[j]];
		/* ops without sites write their saved values in forward; a site recomputes its own when saved is absent */
		if (back && ((n->op->saved_bytes && !n->site) || (keeps & (LORA__KEEP_OUT0 | LORA__KEEP_OUT1)))) all = k->again[i] = 1;
		for (int j = 0; j < n->n_in; j++) {
			int32_t from = k->g->values[n->in[j]].producer;
			if (k->g->nodes[from].layer == layer && (all || (back && (keeps & (uint32_t)(LORA__KEEP_IN0 << j))))) k->again[from] = 1;
		}
	}
}

static lora_status recompute(maker *k, int32_t layer)
{
	lora_status st = LORA_OK;
	find_again(k, layer);
	for (size_t i = 0; i < k->g->n_nodes && st == LORA_OK; i++) {
		if (k->g->nodes[i].layer != layer) continue;
		if (k->again[i]) st = add_forward(k, (int32_t)i);
		else k->saved[i] = -1;
	}
	return st;
}

static lora_status add_steps(maker *k)
{
	const lora__graph *g = k->g;
	lora_status st = LORA_OK;
	int train = !lora__plan_infers(k->p->mode);
	for (size_t i = 0; i < g->n_nodes && st == LORA_OK; i++)
		if ((!train || !(g->nodes[i].op->flags & LORA__OP_LOSS)) && (!g->nodes[i].aside || k->p->mode == LORA__PLAN_HIDDEN)) st = add_forward(k, (int32_t)i);
	if (!train) return st;
	find_needs(k);
	k->turn = k->p->n_steps;
	int32_t block = -1;
	for (size_t i = g->n_nodes; i-- > 0 && st == LORA_OK;) {
		const lora__node *n = &g->nodes[i];
		if (!runs_backward(k, n)) continue;
		if (k->p->mode == LORA__PLAN_CHECKPOINT && n->layer >= 0 && n->layer != block) {
			st = recompute(k, n->layer);
			block = n->layer;
		}
		if (st == LORA_OK) st = add_backward(k, (int32_t)i);
	}
	return st;
}

/* What the forward made and a backward step reads lives until the end. */
static void hold(maker *k)
{
	lora__plan *p = k->p;
	size_t turn = lora__plan_turn(p);
	for (size_t i = turn; i < p->n_steps; i++) {
		const lora__step *s = &p->steps[i];
		int32_t reads[LORA__MAX_IN + LORA__MAX_OUT + 1] = { s->saved };
		memcpy(reads + 1, s->in, sizeof s->in), memcpy(reads + 1 + LORA__MAX_IN, s->out, sizeof s->out);
		for (size_t j = 0; j < sizeof reads / sizeof *reads; j++)
			if (reads[j] >= 0 && p->buffers[reads[j]].first < (int32_t)turn) p->buffers[reads[j]].last = (int32_t)p->n_steps;
	}
}

static int by_size(const void *a, const void *b)
{
	const lora__buffer *x = *(lora__buffer *const *)a, *y = *(lora__buffer *const *)b;
	if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
	return x < y ? -1 : x > y;
}

/* Greedy by size: each buffer goes to the lowest gap left by the placed ones that live at the same time. */
static lora_status place(maker *k)
{
	lora__plan *p = k->p;
	lora_context *ctx = k->g->ctx;
	size_t n = p->n_buffers, top = 0;
	lora__buffer **order = lora__calloc(ctx, 2 * n + 1, sizeof *order), **placed = order + n; /* by size; by offset */
	if (!order) return LORA_E_MEMORY;
	for (size_t i = 0; i < n; i++) order[i] = &p->buffers[i];
	qsort(order, n, sizeof *order, by_size);
	for (size_t i = 0; i < n; i++) {
		lora__buffer *b = order[i];
		size_t at = 0, j = 0;
		for (; j < i; j++) {
			if (placed[j]->last < b->first || b->last < placed[j]->first) continue;
			if (placed[j]->offset >= at + b->bytes) break;
			if (placed[j]->offset + placed[j]->bytes > at) at = placed[j]->offset + placed[j]->bytes;
		}
		b->offset = at;
		for (j = i; j > 0 && placed[j - 1]->offset > at; j--) placed[j] = placed[j - 1];
		placed[j] = b;
		if (at + b->bytes > top) top = at + b->bytes;
	}
	p->arena_bytes = top + 64;
	lora__free(ctx, order);
	return LORA_OK;
}

lora_status lora__plan_make(const lora__graph *g, lora_dtype real, lora__plan_mode mode, int64_t rows, int64_t source_rows,
                            lora__plan *out)
{
	size_t nv = g->n_values, nn = g->n_nodes;
	lora__plan plan = { .mode = mode, .rows = rows, .source_rows = source_rows };
	maker k = { .g = g, .p = &plan, .real = real };
	char *memory = lora__zalloc(g->ctx, (2 * nv + nn) * sizeof(int32_t) + nv + nn);
	if (!memory) return LORA_E_MEMORY;
	k.value = (int32_t *)(void *)memory, k.grad = k.value + nv, k.saved = k.grad + nv;
	k.needs = (char *)(k.saved + nn), k.again = k.needs + nv;
	for (size_t i = 0; i < nv; i++) k.value[i] = k.grad[i] = -1;
	for (size_t i = 0; i < nn; i++) k.saved[i] = -1;
	lora_status st = add_steps(&k);
	if (st == LORA_OK && mode == LORA__PLAN_REPEAT) hold(&k);
	if (st == LORA_OK) st = place(&k);
	lora__free(g->ctx, memory);
	if (st) lora__plan_free(g->ctx, &plan);
	else *out = plan;
	return st;
}

void lora__plan_free(lora_context *ctx, lora__plan *p)
{
	lora__free(ctx, p->steps);
	lora__free(ctx, p->buffers);
	p->steps = NULL, p->buffers = NULL;
}
