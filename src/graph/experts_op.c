/* Mixture of experts: out[t] = sum over the k experts e that the router chooses of w_te down_e(act(gate_e(x_t)) * up_e(x_t)).
 * in: x[n,d], logits[n,E] of the router; out[n,d]. sites: gate, up, down of expert 0, then of expert 1, ...
 * i[0] E, i[1] k, i[2] 1 = weights are a softmax over the chosen ones, 0 = shares of the softmax over all, i[3] activation, i[4] width of an
 * expert, i[5] d. Source: Mixtral, Jiang et al. 2024, arXiv:2401.04088, section 2.1; transformers' MixtralSparseMoeBlock, Qwen3MoeSparseMoeBlock.
 *
 * Tokens are sorted by expert, so each expert is three ordinary products over its tokens. down sees w times its input: it is linear, so its
 * output has the factor, its adapters' gradients have it, and dw is a row's product of that input with its gradient, without computing the
 * output again. What is kept: the choice, and gate and up of the chosen rows. */
#include <string.h>

#include "graph/graph.h"

enum { GATE, UP, DOWN, PER_EXPERT };

static size_t padded(size_t n) { return (n + 63) & ~(size_t)63; }

/* Kept from forward to backward. Rows of gate, up, order and share are in the order of experts. */
typedef struct kept { char *w, *share, *gate, *up; int32_t *ids, *first, *token, *slot; size_t bytes; } kept;

static kept layout(const lora__node *n, lora_dtype real, int64_t rows, char *base)
{
	size_t chosen = (size_t)(rows * n->i[1]), wide = lora__dtype_size(lora__wide(real)), row = lora__dtype_size(real) * (size_t)n->i[4], at = 0;
	kept k;
	k.gate = base + at, at += padded(chosen * row);
	k.up = base + at, at += padded(chosen * row);
	k.w = base + at, at += padded(chosen * wide);
	k.share = base + at, at += padded(chosen * wide);
	k.ids = (int32_t *)(void *)(base + at), at += padded(chosen * sizeof(int32_t));
	k.token = (int32_t *)(void *)(base + at), at += padded(chosen * sizeof(int32_t));
	k.slot = (int32_t *)(void *)(base + at), at += padded(chosen * sizeof(int32_t));
	k.first = (int32_t *)(void *)(base + at), at += padded((size_t)(n->i[0] + 1) * sizeof(int32_t));
	k.bytes = at;
	return k;
}

/* Scratch of one expert (and of the whole op: dw, dlogits). */
typedef struct room { char *x, *h, *hw, *y, *dx, *dh, *du, *dw, *dwt, *dlogits, *site; lora__stretch *run; size_t bytes; } room;

static room carve(const lora__node *n, lora_dtype real, int64_t rows, char *base)
{
	size_t each = lora__dtype_size(real), wide = lora__dtype_size(lora__wide(real)), r = (size_t)rows, at = 0, most = 0;
	size_t thin = padded(each * r * (size_t)n->i[5]), fat = padded(each * r * (size_t)n->i[4]);
	room k;
	k.x = base + at, at += thin;
	k.y = base + at, at += thin;
	k.dx = base + at, at += thin;
	k.h = base + at, at += fat;
	k.hw = base + at, at += fat;
	k.dh = base + at, at += fat;
	k.du = base + at, at += fat;
	k.dw = base + at, at += padded(wide * r * (size_t)n->i[1]);
	k.dwt = base + at, at += padded(wide * r * (size_t)n->i[1]);
	k.dlogits = base + at, at += padded(each * r * (size_t)n->i[0]);
	k.run = (lora__stretch *)(void *)(base + at), at += padded(r * sizeof(lora__stretch));
	k.site = base + at;
	for (int32_t i = 0; i < n->n_sites; i++) {
		size_t b = lora__site_scratch_bytes(n->sites[i], real, rows);
		if (b > most) most = b;
	}
	k.bytes = at + most;
	return k;
}

static uint32_t keeps(const lora__node *n) { return (void)n, LORA__KEEP_IN0 | LORA__KEEP_IN1; }

static size_t saved_bytes(const lora__node *n, lora_dtype real, int64_t rows)
{
	static char origin;
	return layout(n, real, rows, &origin).bytes;
}

static size_t scratch_bytes(const lora__node *n, lora_dtype real, int64_t rows)
{
	static char origin;
	return carve(n, real, rows, &origin).bytes;
}

/* Choose experts and sort: for expert e the entries first[e] .. first[e+1] of token, slot and share, tokens ascending. */
static lora_status route(lora__exec *e, const kept *k)
{
	const lora__node *n = e->node;
	int64_t experts = n->i[0], top = n->i[1], rows = e->rows->n;
	size_t wide = lora__dtype_size(lora__wide(e->real));
	lora_call c = lora__prim(LORA_PRIM_TOPK, 3);
	c.v[0] = lora__view2(k->w, lora__wide(e->real), rows, top, top), c.v[1] = e->in[1], c.v[2] = lora__view2(k->ids, LORA_I32, rows, top, top);
	c.i[0] = n->i[2];
	lora_status st = lora__run(e->ctx, &c);
	if (st) return st;
	memset(k->first, 0, sizeof *k->first * (size_t)(experts + 1));
	for (int64_t i = 0; i < rows * top; i++) k->first[k->ids[i] + 1]++;
	for (int64_t i = 0; i < experts; i++) k->first[i + 1] += k->first[i];
	for (int64_t i = 0; i < rows * top; i++) {
		int32_t at = k->first[k->ids[i]]++; /* now the end of the part so far; moved back below */
		k->token[at] = (int32_t)(i / top), k->slot[at] = (int32_t)i;
		memcpy(k->share + wide * (size_t)at, k->w + wide * (size_t)i, wide);
	}
	for (int64_t i = experts; i > 0; i--) k->first[i] = k->first[i - 1];
	k->first[0] = 0;
	return LORA_OK;
}

static lora_status gather(lora__exec *e, lora_view from, const int32_t *token, int64_t m, lora_view to)
{
	lora_call c = lora__prim(LORA_PRIM_EMBED, 3);
	c.v[0] = to, c.v[1] = from, c.v[2] = lora__view1(token, LORA_I32, m);
	c.f[0] = 1.0;
	return lora__run(e->ctx, &c);
}

/* to[token[j], :] += from[j, :] */
static lora_status scatter(lora__exec *e, lora_view from, const int32_t *token, int64_t m, lora_view to)
{
	size_t row = lora__dtype_size(e->real);
	lora_status st = LORA_OK;
	for (int64_t j = 0; j < m && st == LORA_OK; j++) {
		lora_view a = lora__view2((char *)from.data + row * (size_t)(j * from.stride[0]), e->real, 1, from.size[1], from.size[1]);
		lora_view b = lora__view2((char *)to.data + row * (size_t)(token[j] * to.stride[0]), e->real, 1, to.size[1], to.size[1]);
		st = lora__axpby(e->ctx, 1.0, a, 1.0, b);
	}
	return st;
}

static lora_status row_call(lora__exec *e, int32_t prim, lora_view out, lora_view a, lora_view b)
{
	lora_call c = lora__prim(prim, 3);
	c.v[0] = out, c.v[1] = a, c.v[2] = b;
	return lora__run(e->ctx, &c);
}

/* One expert's share of the work: m entries from at on. */
typedef struct work {
	lora__site *const *sites;
	const int32_t     *token;
	int64_t            m;
	lora_view          x, gate, up, h, hw, share;
	lora__runs         runs;
} work;

/* Adapters by sequence: tokens ascend, so a run of the batch is a run here. */
static lora__runs cut_runs(const lora__exec *e, const int32_t *token, int64_t m, lora__stretch *out)
{
	const lora__runs *r = e->rows->runs;
	int64_t k = 0, made = 0;
	if (!r || !r->n) return (lora__runs){ NULL, 0 };
	for (int64_t j = 0; j < m;) {
		while (token[j] >= r->run[k].first + r->run[k].n) k++;
		int64_t first = j;
		while (j < m && token[j] < r->run[k].first + r->run[k].n) j++;
		out[made] = r->run[k];
		out[made].first = first, out[made].n = j - first;
		made++;
	}
	return (lora__runs){ out, made };
}

static work take(const lora__exec *e, const kept *k, const room *s, int64_t expert)
{
	const lora__node *n = e->node;
	int64_t at = k->first[expert], m = k->first[expert + 1] - at, inter = n->i[4], d = n->i[5];
	size_t row = lora__dtype_size(e->real) * (size_t)inter, wide = lora__dtype_size(lora__wide(e->real));
	return (work){ .sites = n->sites + expert * PER_EXPERT, .token = k->token + at, .m = m, .x = lora__view2(s->x, e->real, m, d, d),
		.gate = lora__view2(k->gate + row * (size_t)at, e->real, m, inter, inter), .up = lora__view2(k->up + row * (size_t)at, e->real, m, inter, inter),
		.h = lora__view2(s->h, e->real, m, inter, inter), .hw = lora__view2(s->hw, e->real, m, inter, inter),
		.share = lora__view1(k->share + wide * (size_t)at, lora__wide(e->real), m), .runs = cut_runs(e, k->token + at, m, s->run) };
}

static lora__site_call site_call(const lora__exec *e, const work *w, const room *s, lora_view x)
{
	return (lora__site_call){ .ctx = e->ctx, .real = e->real, .n = w->m, .x = x, .saved_rows = w->m, .scratch = s->site, .train = e->rows->train, .key = e->rows->key,
		.decode = e->rows->cache != NULL };
}

/* h = act(gate) * up, hw = share * h */
static lora_status activate(lora__exec *e, const work *w)
{
	lora_call c = lora__prim(LORA_PRIM_GATED, 3);
	c.v[0] = w->h, c.v[1] = w->gate, c.v[2] = w->up, c.i[0] = e->node->i[3];
	lora_status st = lora__run(e->ctx, &c);
	return st ? st : row_call(e, LORA_PRIM_ROWSCALE, w->hw, w->h, w->share);
}

static lora_status one_forward(lora__exec *e, const work *w, const room *s)
{
	lora_view y = lora__view2(s->y, e->real, w->m, e->node->i[5], e->node->i[5]);
	lora_status st = gather(e, e->in[0], w->token, w->m, w->x);
	for (int i = GATE; i <= UP && st == LORA_OK; i++) {
		lora__site_call c = site_call(e, w, s, w->x);
		c.y = i == GATE ? w->gate : w->up;
		st = lora__site_forward(w->sites[i], &c, w->runs, 1);
	}
	if (st == LORA_OK) st = activate(e, w);
	lora__site_call c = site_call(e, w, s, w->hw);
	c.y = y;
	if (st == LORA_OK) st = lora__site_forward(w->sites[DOWN], &c, w->runs, 1);
	return st ? st : scatter(e, y, w->token, w->m, e->out[0]);
}

static lora_status forward(lora__exec *e)
{
	kept k = layout(e->node, e->real, e->row_capacity, e->saved);
	room s = carve(e->node, e->real, e->row_capacity, e->scratch);
	lora_status st = route(e, &k);
	memset(e->out[0].data, 0, lora__dtype_size(e->real) * (size_t)(e->rows->n * e->node->i[5]));
	for (int64_t i = 0; i < e->node->i[0] && st == LORA_OK; i++) {
		work w = take(e, &k, &s, i);
		if (w.m) st = one_forward(e, &w, &s);
	}
	return st;
}

static lora_status one_backward(lora__exec *e, const work *w, const room *s, lora_view dw)
{
	const lora__node *n = e->node;
	lora_view dy = lora__view2(s->y, e->real, w->m, n->i[5], n->i[5]), dx = lora__view2(s->dx, e->real, w->m, n->i[5], n->i[5]);
	lora_view dh = lora__view2(s->dh, e->real, w->m, n->i[4], n->i[4]), du = lora__view2(s->du, e->real, w->m, n->i[4], n->i[4]);
	lora_status st = gather(e, e->in[0], w->token, w->m, w->x);
	if (st == LORA_OK) st = gather(e, e->dout[0], w->token, w->m, dy);
	if (st == LORA_OK) st = activate(e, w);
	lora__site_call c = site_call(e, w, s, w->hw);
	c.dy = dy, c.dx = dh;
	if (st == LORA_OK) st = lora__site_backward(w->sites[DOWN], &c, w->runs, 1);
	if (st == LORA_OK) st = row_call(e, LORA_PRIM_ROWDOT, dw, w->h, dh);
	if (st == LORA_OK) st = row_call(e, LORA_PRIM_ROWSCALE, dh, dh, w->share);
	if (st) return st;
	lora_call g = lora__prim(LORA_PRIM_GATED_BWD, 5);
	g.v[0] = dh, g.v[1] = du, g.v[2] = w->gate, g.v[3] = w->up, g.v[4] = dh, g.i[0] = n->i[3];
	st = lora__run(e->ctx, &g);
	for (int i = GATE; i <= UP && st == LORA_OK; i++) {
		c = site_call(e, w, s, w->x);
		c.dy = i == GATE ? dh : du, c.dx_beta = i == GATE ? 0.0 : 1.0;
		if (e->din[0].data) c.dx = dx;
		st = lora__site_backward(w->sites[i], &c, w->runs, 1);
	}
	return st || !e->din[0].data ? st : scatter(e, dx, w->token, w->m, e->din[0]);
}

static lora_status router_backward(lora__exec *e, const kept *k, const room *s)
{
	const lora__node *n = e->node;
	int64_t rows = e->rows->n, top = n->i[1];
	size_t wide = lora__dtype_size(lora__wide(e->real));
	for (int64_t j = 0; j < rows * top; j++) memcpy(s->dwt + wide * (size_t)k->slot[j], s->dw + wide * (size_t)j, wide);
	lora_call c = lora__prim(LORA_PRIM_TOPK_BWD, 4);
	c.v[0] = lora__view2(s->dlogits, e->real, rows, n->i[0], n->i[0]), c.v[1] = e->in[1], c.v[2] = lora__view2(k->ids, LORA_I32, rows, top, top);
	c.v[3] = lora__view2(s->dwt, lora__wide(e->real), rows, top, top), c.i[0] = n->i[2];
	lora_status st = lora__run(e->ctx, &c);
	return st ? st : lora__axpby(e->ctx, 1.0, c.v[0], e->din_beta[1], e->din[1]);
}

static lora_status backward(lora__exec *e)
{
	kept k = layout(e->node, e->real, e->row_capacity, e->saved);
	room s = carve(e->node, e->real, e->row_capacity, e->scratch);
	size_t wide = lora__dtype_size(lora__wide(e->real));
	lora_status st = LORA_OK;
	if (e->din[0].data && e->din_beta[0] == 0) memset(e->din[0].data, 0, lora__dtype_size(e->real) * (size_t)(e->rows->n * e->node->i[5]));
	for (int64_t i = 0; i < e->node->i[0] && st == LORA_OK; i++) {
		work w = take(e, &k, &s, i);
		if (w.m) st = one_backward(e, &w, &s, lora__view1(s.dw + wide * (size_t)k.first[i], lora__wide(e->real), w.m));
	}
	return st || !e->din[1].data ? st : router_backward(e, &k, &s);
}

const lora__op lora__op_experts = { .m = { "experts", "mixture of experts behind a router", "arXiv:2401.04088 section 2.1", NULL }, .keeps = keeps,
	.saved_bytes = saved_bytes, .scratch_bytes = scratch_bytes, .forward = forward, .backward = backward };
