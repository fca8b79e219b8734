/* Modules that are trained as a whole (PEFT's modules_to_save): y = x W'^T + b' instead of the base's x W^T + b, W' and b' starting as copies.
 * Backward: dW' += dy^T x, db' += column sums of dy, dx = dy W'. As a delta: W' - W. Neither the adapter's own scale nor that of the attachment
 * acts here, as in PEFT. Source: PEFT 0.21, utils/other.py, ModulesToSaveWrapper. */
#include "adapter/adapter.h"

enum { WEIGHT = 0, BIAS = 1 };

static lora__part *part(const lora__slot *s) { return (lora__part *)(uintptr_t)s; }
static lora_view weight(const lora__slot *s) { return lora__view2(part(s)->param[WEIGHT], LORA_F32, s->site->out, s->site->in, s->site->in); }

static size_t no_bytes(const lora__slot *s, lora_dtype real, int64_t n) { return (void)s, (void)real, (void)n, (size_t)0; }

static lora_status prepare(lora__slot *s) { return lora__adapter_need_grads(s->adapter); }

static lora_status forward(lora__slot *s, const lora__site_call *c)
{
	lora_status st = lora__gemm(c->ctx, 1.0, c->x, lora__view_t(weight(s)), 0.0, c->y);
	if (st || !part(s)->param[BIAS]) return st;
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_BIAS, .n_views = 2 };
	call.v[0] = c->y, call.v[1] = lora__view1(part(s)->param[BIAS], LORA_F32, s->site->out);
	return lora__run(c->ctx, &call);
}

static lora_status backward(lora__slot *s, const lora__site_call *c)
{
	lora_dtype wide = lora__wide(c->real);
	lora_status st = LORA_OK;
	if (s->trainable) {
		lora_view dw = lora__view2(part(s)->grad[WEIGHT], wide, s->site->out, s->site->in, s->site->in);
		st = lora__site_gradient(s, c, WEIGHT, 1.0, c->dy, c->x, dw);
		if (st == LORA_OK && part(s)->param[BIAS] && !s->site->all->tap) {
			lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_COLSUM, .n_views = 2, .f = { 1.0 } };
			call.v[0] = lora__view1(part(s)->grad[BIAS], wide, s->site->out), call.v[1] = c->dy;
			st = lora__run(c->ctx, &call);
		}
	}
	return st || !c->dx.data ? st : lora__gemm(c->ctx, 1.0, c->dy, weight(s), c->dx_beta, c->dx);
}

/* D[first..first+n, in] += W' - W */
static lora_status delta(const lora__slot *s, lora_context *ctx, double factor, int64_t first, int64_t n, float *d)
{
	int64_t in = s->site->in, row = s->site->flags & LORA_SITE_TRANSPOSED ? 1 : in;
	lora_view to = lora__view2(d, LORA_F32, n, in, in), from = lora__site_weight(s->site);
	(void)factor;
	from.data = (char *)(uintptr_t)s->site->base + (size_t)(first * row) * lora__dtype_size(from.dtype);
	from.size[0] = n;
	lora_status st = lora__axpby(ctx, 1.0, lora__view2(part(s)->param[WEIGHT] + first * in, LORA_F32, n, in, in), 1.0, to);
	if (st == LORA_OK && lora__site_is_quant(s->site)) {
		float *w = lora__alloc(ctx, (size_t)(n * in) * sizeof *w);
		if (!w) return LORA_E_MEMORY;
		lora__site_rows(s->site, s->site->base, first, n, LORA_F32, w);
		for (int64_t i = 0; i < n * in; i++) d[i] -= w[i];
		lora__free(ctx, w);
		return LORA_OK;
	}
	for (int64_t r = 0; r < n && st == LORA_OK; r++)
		for (int64_t c = 0; c < in; c++) {
			float w;
			lora__convert(&w, LORA_F32, (const char *)from.data + (r * from.stride[0] + c * from.stride[1]) * (int64_t)lora__dtype_size(from.dtype), from.dtype, 1);
			d[r * in + c] -= w;
		}
	return st;
}

const lora__slot_ops lora__whole_ops = { .saved_bytes = no_bytes, .scratch_bytes = no_bytes, .forward = forward, .prepare = prepare, .backward = backward,
	.delta = delta };
