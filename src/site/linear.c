/* One adapted linear layer: y[n,out] = x[n,in] W^T + b + sum of slots; backward dx = dy W + slots' shares. The base is frozen: it never gets
 * a gradient. Rows may be dealt out to different adapters in runs; each slot then sees only its rows. */
#include "site/few.h"

static size_t padded(size_t n) { return (n + 63) & ~(size_t)63; }

lora__order lora__site_order(const lora__site *s, const lora_context *ctx, lora_dtype real, int64_t rows, int64_t rank, int *fixed)
{
	int why = 0;
	if (s->flags & LORA_SITE_HOST) why = LORA_ORDER_HOST;
	else if (lora__site_is_quant(s)) why = LORA_ORDER_QUANT;
	else if (s->is_head) why = LORA_ORDER_HEAD;
	else if (real != LORA_F32 || s->dtype != LORA_F32) why = LORA_ORDER_PRECISION; /* M would be rounded to halves, or be twice as long as W */
	else if (lora__site_packable(s, ctx, real, rows)) why = LORA_ORDER_PACKED; /* M would have to be packed in each step */
	lora__order_case c = { .rows = rows, .in = s->in, .out = s->out, .rank = rank, .real_bytes = (int)lora__dtype_size(real),
		.weight_bytes = lora__site_is_quant(s) ? 1 : (int)lora__dtype_size(s->dtype), .fixed = why };
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
		if (s->chain[i]->whole) return (lora__order){ .forward = 1, .backward = 1 };
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
	size_t most = lora__site_quant_scratch(s, real, n);
	if (real != LORA_F32 && most < lora__few_scratch(s, 1)) most = lora__few_scratch(s, 1);
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
	if (d.ids) d.ids += first;
	d.first_row = c->first_row + first;
	return d;
}

static const lora__stretch *runs_of(const lora__runs *runs, const lora__stretch *every, int64_t *n) { return *n = runs->n ? runs->n : 1, runs->n ? runs->run : every; }

/* The slot that stands for the base in this run, or NULL. */
static const lora__slot *stand_in(const lora__site *s, const lora__stretch *run)
{
	for (size_t i = s->n_chain; i-- > 0;)
		if (s->chain[i]->whole && !s->chain[i]->merged && (run->all || run->adapter == s->chain[i]->adapter)) return s->chain[i];
	return NULL;
}

static int any_whole(const lora__site *s)
{
	for (size_t i = 0; i < s->n_chain; i++)
		if (s->chain[i]->whole && !s->chain[i]->merged) return 1;
	return 0;
}

/* All slots but the one that skip names (-1: none is left out). */
static lora_status each_slot(lora__site *s, const lora__site_call *c, lora__runs runs, int backward, int64_t skip)
{
	char *saved = c->saved;
	int64_t n_runs;
	const lora__stretch every = { 0, c->n, NULL, 1 }, *list = runs_of(&runs, &every, &n_runs);
	for (size_t i = 0; i < s->n_chain; i++) {
		lora__slot *slot = s->chain[i];
		size_t row = slot->ops->saved_bytes(slot, c->real, 1); /* linear in rows by contract */
		for (int64_t k = 0; k < n_runs && !slot->merged && !slot->idle && !slot->whole && (int64_t)i != skip; k++) {
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

/* c = x W^T (which 0) or beta * c + dy W (which 1), on the packed weight where the backend takes it; with pair->a also + f a b. */
static lora_status base_product(lora__site *s, const lora__site_call *c, int which, const lora__pair *pair)
{
	if (lora__site_is_quant(s)) return lora__site_quant_product(s, c, which);
	lora_view w = lora__site_weight(s);
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_GEMM, .n_views = 3, .f = { 1.0, which ? c->dx_beta : 0.0 } };
	call.v[0] = which ? c->dx : c->y, call.v[1] = which ? c->dy : c->x, call.v[2] = which ? w : lora__view_t(w);
	call.i[0] = which && s->all->rounded;
	call.packed = lora__site_packed(s, c->ctx, c->real, which, c->n);
	if (call.packed && !c->ctx->backend->supports(c->ctx->backend_self, &call, NULL)) call.packed = NULL;
	if (pair->a.data) call.n_views = 5, call.v[3] = pair->a, call.v[4] = pair->b, call.f[2] = pair->f;
	return lora__run(c->ctx, &call);
}

/* The base's share where slots stand for it in some of the runs. */
static lora_status with_stand_ins(lora__site *s, const lora__site_call *c, lora__runs runs, int backward)
{
	int64_t n_runs;
	const lora__stretch every = { 0, c->n, NULL, 1 }, *list = runs_of(&runs, &every, &n_runs);
	const lora__pair none = { .f = 0 };
	lora_status st = LORA_OK;
	for (int64_t k = 0; k < n_runs && st == LORA_OK; k++) {
		const lora__slot *slot = stand_in(s, &list[k]);
		lora__site_call d = narrow(c, NULL, 0, list[k].first, list[k].n);
		if (!d.n) continue;
		if (slot) st = backward ? slot->ops->backward((lora__slot *)(uintptr_t)slot, &d) : slot->ops->forward((lora__slot *)(uintptr_t)slot, &d);
		else if (!backward || d.dx.data) st = base_product(s, &d, backward, &none);
		if (!slot && !backward && st == LORA_OK && s->bias.data) st = add_bias(s, &d);
	}
	return st;
}

static int acts_on_all(const lora__slot *slot, const lora__runs *runs)
{
	if (slot->merged || slot->idle) return 0;
	return !runs->n || (runs->n == 1 && (runs->run[0].all || runs->run[0].adapter == slot->adapter));
}

/* Of a single row: the first slot whose product goes through the same loop as the base's, or -1. */
static int64_t few_slot(const lora__site *s, const lora__site_call *c, const lora__runs *runs, lora__pair *pair)
{
	int quant = lora__site_is_quant(s), plain = (s->dtype == LORA_BF16 || s->dtype == LORA_F16) && !(s->flags & LORA_SITE_TRANSPOSED) && c->ctx->backend_host_memory;
	for (size_t i = 0; c->n == 1 && !c->train && !c->saved && (quant || (plain && c->decode)) && i < s->n_chain; i++) {
		lora__slot *slot = s->chain[i];
		if (!acts_on_all(slot, runs) || !slot->ops->factors || !slot->ops->factors(slot, c->decode, pair) || !lora__few_takes(s, c, pair)) continue;
		pair->f *= slot->attach_scale;
		return (int64_t)i;
	}
	return -1;
}

/* The base product, together with that of the first slot that acts on all rows and can wait for it. *done: number of this slot, or -1. */
static lora_status base_and_pair(lora__site *s, const lora__site_call *c, lora__runs runs, int which, int64_t *done)
{
	lora__pair pair = { .f = 0 };
	lora_status st = LORA_OK;
	*done = which ? -1 : few_slot(s, c, &runs, &pair);
	if (*done >= 0) return lora__few(s, c, &pair), LORA_OK;
	pair = (lora__pair){ .f = 0 };
	/* weights in blocks: their tiles lie where the pair of more rows would */
	if (s->n_chain && acts_on_all(s->chain[0], &runs) && s->chain[0]->ops->pair && !lora__site_is_quant(s)) {
		lora__site_call d = narrow(c, c->saved, s->chain[0]->ops->saved_bytes(s->chain[0], c->real, 1), 0, c->n);
		st = s->chain[0]->ops->pair(s->chain[0], &d, which, &pair);
		if (pair.a.data) {
			*done = 0;
			st = base_product(s, c, which, &pair);
			return st || !which ? st : s->chain[0]->ops->gradients(s->chain[0], &d); /* last, so that a failure before it leaves them alone */
		}
	}
	return st ? st : base_product(s, c, which, &pair);
}

/* y = x M^T (which 0) or dx = beta dx + dy M (which 1), with M = W + s B A formed in scratch. */
static lora_status sum_product(lora__site *s, const lora__site_call *c, int which)
{
	float *at = (float *)(void *)(c->scratch + slot_scratch(s, c->real, c->saved_rows > c->n ? c->saved_rows : c->n));
	lora_view m = lora__view2(at, LORA_F32, s->out, s->in, s->in);
	lora_status st = lora__copy(c->ctx, m, lora__site_weight(s));
	for (size_t i = 0; i < s->n_chain && st == LORA_OK; i++)
		if (!s->chain[i]->merged) st = s->chain[i]->ops->delta(s->chain[i], c->ctx, s->chain[i]->attach_scale, 0, s->out, at);
	if (st) return st;
	return which ? lora__gemm(c->ctx, 1.0, c->dy, m, c->dx_beta, c->dx) : lora__gemm(c->ctx, 1.0, c->x, lora__view_t(m), 0.0, c->y);
}

static lora__order choose(const lora__site *s, const lora__site_call *c, lora__runs runs, int base)
{
	int idle = 0; /* scratch was measured for the case that all act */
	for (size_t i = 0; i < s->n_chain; i++) idle |= s->chain[i]->idle;
	if (!base || runs.n || !c->train || idle) return (lora__order){ .forward = 1, .backward = 1 };
	return order_of(s, c->ctx, c->real, c->n, 1);
}

lora_status lora__site_forward(lora__site *s, const lora__site_call *c, lora__runs runs, int base)
{
	lora_status st = LORA_OK;
	int64_t done = -1;
	if (c->n == 0) return LORA_OK;
	int sum = choose(s, c, runs, base).forward == 2;
	if (base && any_whole(s)) {
		st = with_stand_ins(s, c, runs, 0);
	} else if (base) {
		st = sum ? sum_product(s, c, 0) : base_and_pair(s, c, runs, 0, &done);
		if (st == LORA_OK && s->bias.data) st = add_bias(s, c);
	}
	return st || sum ? st : each_slot(s, c, runs, 0, done);
}

lora_status lora__site_backward(lora__site *s, const lora__site_call *c, lora__runs runs, int base)
{
	lora_status st = LORA_OK;
	int64_t done = -1;
	if (c->n == 0) return LORA_OK;
	lora__order o = choose(s, c, runs, base);
	lora__site_call rest = *c;
	if (o.forward == 2) rest.saved = NULL; /* the forward kept nothing */
	if (base && any_whole(s)) {
		st = with_stand_ins(s, &rest, runs, 1);
	} else if (base && c->dx.data && o.backward == 5) {
		st = sum_product(s, c, 1);
		rest.dx.data = NULL;
	} else if (base && c->dx.data) {
		st = base_and_pair(s, &rest, runs, 1, &done);
	}
	return st ? st : each_slot(s, &rest, runs, 1, done);
}
