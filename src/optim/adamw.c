/* AdamW: m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p = p (1 - lr d) - lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps).
 * Source: Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2; arithmetic of torch.optim.AdamW; names and defaults of transformers'
 * TrainingArguments (learning_rate 5e-5, weight_decay 0, betas 0.9 and 0.999, epsilon 1e-8). */
#include <math.h>

#include "optim/optim.h"

enum { LR, DECAY, BETA1, BETA2, EPS };

static const lora__param params[] = {
	{ "learning_rate", LORA__FLOAT, "5e-5", 0, 1e6, NULL, "step size; a schedule multiplies it" },
	{ "weight_decay", LORA__FLOAT, "0.0", 0, 1e6, NULL, "decoupled decay: parameters shrink by learning_rate * weight_decay per step" },
	{ "adam_beta1", LORA__FLOAT, "0.9", 0, 0.9999999, NULL, "decay of the mean of gradients" },
	{ "adam_beta2", LORA__FLOAT, "0.999", 0, 0.9999999, NULL, "decay of the mean of squared gradients" },
	{ "adam_epsilon", LORA__FLOAT, "1e-8", 1e-30, 1, NULL, "added to the root of the mean square" },
	{ .name = NULL }
};

static const char *const slots[] = { "exp_avg", "exp_avg_sq", NULL };

static lora_status read(lora_context *ctx, const lora_settings *s, double *h, int *n_slots)
{
	(void)ctx;
	h[LR] = lora__get_float(s, params, "learning_rate");
	h[DECAY] = lora__get_float(s, params, "weight_decay");
	h[BETA1] = lora__get_float(s, params, "adam_beta1");
	h[BETA2] = lora__get_float(s, params, "adam_beta2");
	h[EPS] = lora__get_float(s, params, "adam_epsilon");
	*n_slots = 2;
	return LORA_OK;
}

static lora_status step(const lora__update *u)
{
	lora_call c = { .struct_size = sizeof c, .prim = LORA_PRIM_ADAMW, .n_views = 4 };
	c.v[0] = lora__view1(u->p, LORA_F32, u->n), c.v[1] = lora__view1(u->g, LORA_F32, u->n);
	c.v[2] = lora__view1(u->slot[0], LORA_F32, u->n), c.v[3] = lora__view1(u->slot[1], LORA_F32, u->n);
	c.f[0] = u->lr, c.f[1] = u->hyper[BETA1], c.f[2] = u->hyper[BETA2], c.f[3] = u->hyper[EPS], c.f[4] = u->hyper[DECAY];
	c.f[5] = 1.0 - pow(u->hyper[BETA1], (double)u->t), c.f[6] = 1.0 - pow(u->hyper[BETA2], (double)u->t), c.f[7] = u->grad_factor;
	return lora__run(u->ctx, &c);
}

const lora__optim lora__optim_adamw = { .m = { "adamw", "Adam with decoupled weight decay", "arXiv:1711.05101 alg. 2; torch.optim.AdamW", params },
	.slots = slots, .read = read, .step = step };
