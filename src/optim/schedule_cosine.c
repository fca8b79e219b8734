/* Cosine schedules: cosine, cosine_with_restarts, cosine_with_min_lr, cosine_warmup_with_min_lr. Expressions of transformers.optimization;
 * Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5. */
#include <math.h>

#include "optim/optim.h"

enum { CYCLES, MIN_RATE, WARMUP_RATE };
#define PI 3.141592653589793

static double rise(const lora__sched *s, int64_t step) { return (double)step / (double)(s->warmup > 1 ? s->warmup : 1); }

static double progress(const lora__sched *s, int64_t step)
{
	int64_t fall = s->total - s->warmup;
	return (double)(step - s->warmup) / (double)(fall > 1 ? fall : 1);
}

static const lora__param cosine_params[] = { { "num_cycles", LORA__FLOAT, "0.5", 0, 1e6, NULL, "waves over the fall; 0.5 falls once to 0" }, { .name = NULL } };
static const lora__param restart_params[] = { { "num_cycles", LORA__FLOAT, "1", 0, 1e6, NULL, "number of falls, each from the full rate" }, { .name = NULL } };
#define MIN_LR_PARAMS \
	{ "num_cycles", LORA__FLOAT, "0.5", 0, 1e6, NULL, "waves over the fall" }, \
	{ "min_lr", LORA__FLOAT, NULL, 0, 1e6, NULL, "lowest learning rate; this or min_lr_rate must be set" }, \
	{ "min_lr_rate", LORA__FLOAT, NULL, 0, 1, NULL, "lowest learning rate as a share of learning_rate" }
static const lora__param min_params[] = { MIN_LR_PARAMS, { .name = NULL } };
static const lora__param warmup_min_params[] = { MIN_LR_PARAMS,
	{ "warmup_lr_rate", LORA__FLOAT, NULL, 0, 1, NULL, "share of learning_rate at the first step; default 1 / warmup_steps" }, { .name = NULL } };

static lora_status cosine_read(lora_context *ctx, const lora_settings *s, lora__sched *o)
{
	(void)ctx;
	o->v[CYCLES] = lora__get_float(s, o->kind->m.params, "num_cycles");
	return LORA_OK;
}

static double cosine(const lora__sched *s, int64_t step)
{
	if (step < s->warmup) return rise(s, step);
	return fmax(0.0, 0.5 * (1.0 + cos(PI * s->v[CYCLES] * 2.0 * progress(s, step))));
}

static double restarts(const lora__sched *s, int64_t step)
{
	if (step < s->warmup) return rise(s, step);
	double x = progress(s, step);
	return x >= 1.0 ? 0.0 : fmax(0.0, 0.5 * (1.0 + cos(PI * fmod(s->v[CYCLES] * x, 1.0))));
}

static lora_status min_read(lora_context *ctx, const lora_settings *s, lora__sched *o)
{
	const lora__param *p = o->kind->m.params;
	int absolute = lora__has(s, "min_lr"), relative = lora__has(s, "min_lr_rate");
	if (absolute == relative)
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "schedule", absolute ? "min_lr" : "min_lr_rate", -1, "schedule %s: set %s of min_lr and min_lr_rate",
			o->kind->m.name, absolute ? "only one" : "one");
	if (absolute && !(o->lr > 0)) return lora__fail_at(ctx, LORA_E_ARGUMENT, "schedule", "min_lr", -1, "min_lr needs a learning_rate above 0");
	o->v[CYCLES] = lora__get_float(s, p, "num_cycles");
	o->v[MIN_RATE] = absolute ? lora__get_float(s, p, "min_lr") / o->lr : lora__get_float(s, p, "min_lr_rate");
	o->v[WARMUP_RATE] = lora__has(s, "warmup_lr_rate") ? lora__get_float(s, p, "warmup_lr_rate") : -1;
	return LORA_OK;
}

static double lifted(const lora__sched *s, double x)
{
	double factor = 0.5 * (1.0 + cos(PI * s->v[CYCLES] * 2.0 * x));
	return fmax(0.0, factor * (1 - s->v[MIN_RATE]) + s->v[MIN_RATE]);
}

static double with_min(const lora__sched *s, int64_t step) { return step < s->warmup ? rise(s, step) : lifted(s, progress(s, step)); }

static double warmup_with_min(const lora__sched *s, int64_t step)
{
	double warmup = (double)s->warmup, k = (double)step;
	if (step < s->warmup) {
		double from = s->v[WARMUP_RATE];
		return from < 0 ? (k + 1.0) / fmax(1.0, warmup) : from + (1.0 - from) * k / fmax(1.0, warmup - 1);
	}
	return lifted(s, (k - warmup + 1.0) / fmax(1.0, (double)s->total - warmup));
}

#define SOURCE "arXiv:1608.03983; transformers.optimization"
#define BOTH (LORA__SCHEDULE_WARMUP | LORA__SCHEDULE_TOTAL)
const lora__schedule lora__schedule_cosine = { .m = { "cosine", "linear rise, cosine fall to 0", SOURCE, cosine_params }, .flags = BOTH,
	.read = cosine_read, .factor = cosine };
const lora__schedule lora__schedule_cosine_with_restarts = { .m = { "cosine_with_restarts", "linear rise, several cosine falls", SOURCE, restart_params },
	.flags = BOTH, .read = cosine_read, .factor = restarts };
const lora__schedule lora__schedule_cosine_with_min_lr = { .m = { "cosine_with_min_lr", "linear rise, cosine fall to a lowest rate", SOURCE, min_params },
	.flags = BOTH, .read = min_read, .factor = with_min };
const lora__schedule lora__schedule_cosine_warmup_with_min_lr = { .m = { "cosine_warmup_with_min_lr", "rise from a first rate above 0, cosine fall to a lowest rate",
	SOURCE, warmup_min_params }, .flags = BOTH, .read = min_read, .factor = warmup_with_min };
