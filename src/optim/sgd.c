/* Stochastic gradient descent: g = g + d p; b = mu b + (1 - damp) g (b = g at the first step); p = p - lr b, or p - lr (g + mu b) with nesterov.
 * Source: Sutskever et al. 2013 (momentum); arithmetic, names and defaults of torch.optim.SGD; learning_rate 5e-5 as transformers'
 * TrainingArguments have it for every optimizer. */
#include "optim/optim.h"

enum { LR, DECAY, MOMENTUM, DAMPENING, NESTEROV };

static const lora__param params[] = {
	{ "learning_rate", LORA__FLOAT, "5e-5", 0, 1e6, NULL, "step size; a schedule multiplies it" },
	{ "weight_decay", LORA__FLOAT, "0.0", 0, 1e6, NULL, "L2 term: weight_decay * parameter is added to the gradient" },
	{ "momentum", LORA__FLOAT, "0.0", 0, 1, NULL, "share of the previous step that is kept" },
	{ "dampening", LORA__FLOAT, "0.0", 0, 1, NULL, "the gradient enters the momentum with 1 - dampening" },
	{ "nesterov", LORA__BOOL, "false", 0, 0, NULL, "look ahead: needs momentum and no dampening" },
	{ .name = NULL }
};

static const char *const slots[] = { "momentum_buffer", NULL };

static lora_status read(lora_context *ctx, const lora_settings *s, double *h, int *n_slots)
{
	h[LR] = lora__get_float(s, params, "learning_rate");
	h[DECAY] = lora__get_float(s, params, "weight_decay");
	h[MOMENTUM] = lora__get_float(s, params, "momentum");
	h[DAMPENING] = lora__get_float(s, params, "dampening");
	h[NESTEROV] = lora__get_bool(s, params, "nesterov");
	*n_slots = h[MOMENTUM] != 0;
	if (h[NESTEROV] != 0 && (h[MOMENTUM] == 0 || h[DAMPENING] != 0))
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "optimizer", "nesterov", -1, "sgd: nesterov needs momentum above 0 and dampening 0");
	return LORA_OK;
}

static lora_status step(const lora__update *u)
{
	lora_call c = { .struct_size = sizeof c, .prim = LORA_PRIM_SGD, .n_views = 3 };
	c.v[0] = lora__view1(u->p, LORA_F32, u->n), c.v[1] = lora__view1(u->g, LORA_F32, u->n);
	c.v[2] = lora__view1(u->slot[0], LORA_F32, u->n); /* NULL without momentum */
	c.i[0] = u->hyper[NESTEROV] != 0, c.i[1] = u->t == 1;
	c.f[0] = u->lr, c.f[1] = u->hyper[MOMENTUM], c.f[2] = u->hyper[DAMPENING], c.f[3] = u->hyper[DECAY], c.f[4] = u->grad_factor;
	return lora__run(u->ctx, &c);
}

const lora__optim lora__optim_sgd = { .m = { "sgd", "stochastic gradient descent with momentum", "torch.optim.SGD", params },
	.slots = slots, .read = read, .step = step };
