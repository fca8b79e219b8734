/* An optimizer bound to one adapter: its parameters, its gradients, and the look for gradients that are not finite. */
#include <math.h>

#include "train/train.h"

lora_status lora__optimizer_create(lora_adapter *a, const char *name, const lora_settings *settings, lora_optimizer **out)
{
	lora_context *ctx = a->ctx;
	lora_status st = lora__adapter_need_grads(a);
	lora_optimizer *o = st ? NULL : lora__zalloc(ctx, sizeof *o);
	if (!o) return LORA_E_MEMORY;
	st = lora__opt_create(ctx, name, settings, a->n_params, lora__wide(a->sites->real), &o->opt);
	if (st) {
		lora__free(ctx, o);
		return st;
	}
	atomic_init(&o->refs, 1);
	o->ctx = ctx, o->a = a;
	lora__adapter_retain(a);
	lora__context_retain(ctx);
	*out = o;
	return LORA_OK;
}

void lora__optimizer_retain(lora_optimizer *o) { atomic_fetch_add(&o->refs, 1); }

void lora__optimizer_release(lora_optimizer *o)
{
	if (atomic_fetch_sub(&o->refs, 1) != 1) return;
	lora_context *ctx = o->ctx;
	lora__opt_destroy(o->opt);
	lora__adapter_release(o->a);
	lora__free(ctx, o);
	lora__context_release(ctx);
}

void lora__adapter_clear_grads(lora_adapter *a) { memset(a->grads, 0, a->n_params * lora__dtype_size(lora__wide(a->sites->real))); }

lora_status lora__optimizer_step(lora_optimizer *o, double lr_scale)
{
	lora_adapter *a = o->a;
	double sum;
	if (!isfinite(lr_scale) || lr_scale < 0)
		return lora__fail_at(o->ctx, LORA_E_ARGUMENT, "optimizer", "lr_scale", -1, "lr_scale is %g, must be finite and not negative", lr_scale);
	if (a->merged) return lora__fail(o->ctx, LORA_E_STATE, "optimizer", "the adapter is merged; unmerge it before changing its parameters");
	lora_status st = lora__opt_sumsq(o->ctx, a->grads, lora__wide(a->sites->real), a->n_params, &sum);
	if (st) return st;
	if (!isfinite(sum)) return lora__fail(o->ctx, LORA_E_NUMERIC, "optimizer", "a gradient is not finite; nothing was changed");
	lora__adapter_changed(a);
	return lora__opt_step(o->opt, a->params, a->grads, lora__wide(a->sites->real), lr_scale, 1.0);
}
