/* One adapted linear layer: y[n,out] = x[n,in] W^T + b + sum of slots; backward dx = dy W + slots' shares. The base is frozen: it never gets
 * a gradient. Rows may be dealt out to different adapters in runs; each slot then sees only its rows. */
#include "site/site.h"

static size_t padded(size_t n) { return (n + 63) & ~(size_t)63; }

lora__order lora__site_order(const lora__site *s, const lora_context *ctx, lora_dtype real, int64_t rows, int64_t rank, int *fixed)
{
	int why = 0;
	if (s->flags & LORA_SITE_HOST) why = LORA_ORDER_HOST;
	else if (s->is_head) why = LORA_ORDER_HEAD;
	else if (real != LORA_F32) why = LORA_ORDER_PRECISION; /* M would be rounded to halves; a delta is a sum in F32 */
	else if (lora__site_packable(s, ctx, real, rows)) why = LORA_ORDER_PACKED; /* M would have to be packed in each step */
	lora__order_case c = { .rows = rows, .in = s->in, .out = s->out, .rank = rank, .real_bytes = (int)lora__dtype_size(real),
		.weight_bytes = (int)lora__dtype_size(s->dtype), .fixed = why };
	if (fixed) *fixed = why;
	return lora__order_choose(&c);
}

/* The same for the slots that are attached: M can stand for one adapter that acts on every row of a training step. */
static lora__order order_of(const lora__site *s, const lora_context *ctx, lora_dtype real, int64_t rows, int train)
{
	int64_t rank = 0;
	int acting = 0;
	for (size_t i = 0; i < s->n_chain && train; i++) {
		if (s->chain[i]->merged) continue;
		acting++;
		rank = s->chain[i]->ops->rank && s->chain[i]->trainable ? s->chain[i]->ops->rank(s->chain[i], train) : 0;
	}
	if (acting == 1 && rank > 0) return lora__site_order(s, ctx, real, rows, rank, NULL);
	return (lora__order){ .forward = 1, .backward = 1 };
}

size_t lora__site_saved_bytes(const lora__site *s, lora_dtype real, int64_t n)
{
	size_t total = 0;
	for (size_t i = 0; i < s->n_chain; i++) total += padded(s->chain[i]->ops->saved_bytes(s->chain[i], real, n));
	return total;
}

/* Of the slots, one after another. */
static size_t slot_scratch(const lora__site *s, lora_dtype real, int64_t n)
{
	size_t most = 0;
	for (size_t i = 0; i < s->n_chain; i++) {
		size_t b = padded(s->chain[i]->ops->scratch_bytes(s->chain[i], real, n)) + padded(s->chain[i]->ops->saved_bytes(s->chain[i], real, n));
		if (b > most) most = b;
	}
	return most;
}

/* And M behind it, when the order of a training step forms it; fewer rows never form it where more do not. */
size_t lora__site_scratch_bytes(const lora__site *s, lora_dtype real, int64_t n)
{
	lora__order o = order_of(s, s->all->ctx, real, n, 1);
	return slot_scratch(s, real, n) + (o.forward != 1 || o.backward != 1 ? padded(lora__dtype_size(real) * (size_t)(s->out * s->in)) : 0);
}

static lora_view rows_of(lora_view v, int64_t first, int64_t n)
{
	if (v.data) v.data = (char *)v.data + first * v.stride[0] * (int64_t)lora__dtype_size(v.dtype);
	v.size[0] = n;
	return v;
}

/* The call narrowed to rows first .. first+n, with saved memory at its place for these rows. */
static lora__site_call narrow(const lora__site_call *c, char *saved, size_t saved_row, int64_t first, int64_t n)
{
	lora__site_call d = *c;
	d.n = n;
	d.x = rows_of(c->x, first, n), d.y = rows_of(c->y, first, n), d.dy = rows_of(c->dy, first, n), d.dx = rows_of(c->dx, first, n);
	d.saved = saved ? saved + saved_row * (size_t)first : NULL;
	d.first_row = c->first_row + first;
	return d;
}

static lora_status each_slot(lora__site *s, const lora__site_call *c, lora__runs runs, int backward)
{
	char *saved = c->saved;
	const lora__stretch every = { 0, c->n, NULL, 1 };
	const lora__stretch *list = runs.n ? runs.run : &every;
	int64_t n_runs = runs.n ? runs.n : 1;
	for (size_t i = 0; i < s->n_chain; i++) {
		lora__slot *slot = s->chain[i];
		size_t row = slot->ops->saved_bytes(slot, c->real, 1); /* linear in rows by contract */
		for (int64_t k = 0; k < n_runs && !slot->merged; k++) {
			if (!list[k].n || (!list[k].all && list[k].adapter != slot->adapter)) continue;
			lora__site_call d = narrow(c, saved, row, list[k].first, list[k].n);
			lora_status st = backward ? slot->ops->backward(slot, &d) : slot->ops->forward(slot, &d);
			if (st) return st;
		}
		if (saved) saved += padded(slot->ops->saved_bytes(slot, c->real, c->saved_rows));
	}
	return LORA_OK;
}

static lora_status add_bias(lora__site *s, const lora__site_call *c)
{
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_BIAS, .n_views = 2 };
	call.v[0] = c->y, call.v[1] = s->bias;
	return lora__run(c->ctx, &call);
}

/* c = x W^T (which 0) or beta * c + dy W (which 1), on the packed weight where the backend takes it. */
static lora_status base_product(lora__site *s, const lora__site_call *c, int which, lora_view a, double beta, lora_view out)
{
	lora_view w = lora__site_weight(s);
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_GEMM, .n_views = 3, .v = { out, a, which ? w : lora__view_t(w) }, .f = { 1.0, beta } };
	call.packed = lora__site_packed(s, c->ctx, c->real, which, c->n);
	if (call.packed && !c->ctx->backend->supports(c->ctx->backend_self, &call, NULL)) call.packed = NULL;
	return lora__run(c->ctx, &call);
}

/* The same with M = W + s B A for W, formed in scratch. */
static lora_status sum_product(lora__site *s, const lora__site_call *c, int which, lora_view a, double beta, lora_view out)
{
	float *at = (float *)(void *)(c->scratch + slot_scratch(s, c->real, c->saved_rows > c->n ? c->saved_rows : c->n));
	lora_view m = lora__view2(at, LORA_F32, s->out, s->in, s->in);
	lora_status st = lora__copy(c->ctx, m, lora__site_weight(s));
	for (size_t i = 0; i < s->n_chain && st == LORA_OK; i++)
		if (!s->chain[i]->merged) st = s->chain[i]->ops->delta(s->chain[i], c->ctx, s->chain[i]->attach_scale, 0, s->out, at);
	return st ? st : lora__gemm(c->ctx, 1.0, a, which ? m : lora__view_t(m), beta, out);
}

static lora__order choose(const lora__site *s, const lora__site_call *c, lora__runs runs, int base)
{
	if (!base || runs.n || !c->train) return (lora__order){ .forward = 1, .backward = 1 };
	return order_of(s, c->ctx, c->real, c->n, 1);
}

lora_status lora__site_forward(lora__site *s, const lora__site_call *c, lora__runs runs, int base)
{
	lora_status st = LORA_OK;
	if (c->n == 0) return LORA_OK;
	int whole = choose(s, c, runs, base).forward == 2;
	if (base) {
		st = whole ? sum_product(s, c, 0, c->x, 0.0, c->y) : base_product(s, c, 0, c->x, 0.0, c->y);
		if (st == LORA_OK && s->bias.data) st = add_bias(s, c);
	}
	return st || whole ? st : each_slot(s, c, runs, 0);
}

lora_status lora__site_backward(lora__site *s, const lora__site_call *c, lora__runs runs, int base)
{
	lora_status st = LORA_OK;
	if (c->n == 0) return LORA_OK;
	lora__order o = choose(s, c, runs, base);
	lora__site_call rest = *c;
	if (o.forward == 2) rest.saved = NULL; /* the forward kept nothing */
	if (base && c->dx.data) {
		int whole = o.backward == 5;
		st = whole ? sum_product(s, c, 1, c->dy, c->dx_beta, c->dx) : base_product(s, c, 1, c->dy, c->dx_beta, c->dx);
		if (whole) rest.dx.data = NULL;
	}
	return st ? st : each_slot(s, &rest, runs, 1);
}
