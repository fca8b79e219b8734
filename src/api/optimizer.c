/* Exported functions of optimizer.h: argument checks. The work is in train/binding.c and train/optstate.c. */
#include "train/train.h"

static lora_status null(lora_context *ctx, const char *function, const char *argument)
{
	return lora__fail_at(ctx, LORA_E_ARGUMENT, "optimizer", argument, -1, "%s: %s is NULL", function, argument);
}

lora_status lora_optimizer_create(lora_adapter *a, const char *name, const lora_settings *settings, lora_optimizer **out)
{
	if (out) *out = NULL;
	if (!a) return LORA_E_ARGUMENT;
	if (!name || !out) return null(a->ctx, "lora_optimizer_create", name ? "out" : "name");
	return lora__optimizer_create(a, name, settings, out);
}

lora_status lora_optimizer_step(lora_optimizer *o, double lr_scale) { return o ? lora__optimizer_step(o, lr_scale) : LORA_E_ARGUMENT; }

lora_status lora_optimizer_zero_grad(lora_optimizer *o)
{
	if (!o) return LORA_E_ARGUMENT;
	lora__adapter_clear_grads(o->a);
	return LORA_OK;
}

lora_status lora_optimizer_save(lora_optimizer *o, const char *path)
{
	if (!o) return LORA_E_ARGUMENT;
	return path ? lora__optimizer_save(o, path) : null(o->ctx, "lora_optimizer_save", "path");
}

lora_status lora_optimizer_load(lora_optimizer *o, const char *path)
{
	if (!o) return LORA_E_ARGUMENT;
	return path ? lora__optimizer_load(o, path) : null(o->ctx, "lora_optimizer_load", "path");
}

void lora_optimizer_destroy(lora_optimizer *o)
{
	if (o) lora__optimizer_release(o);
}
