/* Schedules: factors of the learning rate by step. All expressions are those of transformers.optimization, term by term, so that the doubles agree.
 * Here: making one from settings, and the polynomial kinds: constant, constant_with_warmup, linear, polynomial, inverse_sqrt. */
#include <math.h>

#include "optim/optim.h"

lora_status lora__sched_create(lora_context *ctx, const lora__schedule *kind, const lora_settings *settings, int64_t warmup, int64_t total, double lr,
                               lora__sched *out)
{
	lora__sched s = { .kind = kind, .warmup = warmup, .total = total, .lr = lr };
	if ((kind->flags & LORA__SCHEDULE_TOTAL) && total <= 0)
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "schedule", "max_steps", -1, "schedule %s needs max_steps", kind->m.name);
	lora_status st = kind->read ? kind->read(ctx, settings, &s) : LORA_OK;
	if (st == LORA_OK) *out = s;
	return st;
}

static double rise(const lora__sched *s, int64_t step) { return (double)step / (double)(s->warmup > 1 ? s->warmup : 1); }

static double constant(const lora__sched *s, int64_t step) { return (void)s, (void)step, 1.0; }

static double constant_with_warmup(const lora__sched *s, int64_t step) { return step < s->warmup ? rise(s, step) : 1.0; }

static double linear(const lora__sched *s, int64_t step)
{
	int64_t fall = s->total - s->warmup;
	return step < s->warmup ? rise(s, step) : fmax(0.0, (double)(s->total - step) / (double)(fall > 1 ? fall : 1));
}

enum { LR_END, POWER };
static const lora__param polynomial_params[] = {
	{ "lr_end", LORA__FLOAT, "1e-7", 0, 1e6, NULL, "learning rate at the end; must be below learning_rate" },
	{ "power", LORA__FLOAT, "1.0", 0, 1000, NULL, "exponent of the fall" },
	{ .name = NULL }
};

static lora_status polynomial_read(lora_context *ctx, const lora_settings *s, lora__sched *o)
{
	o->v[LR_END] = lora__get_float(s, polynomial_params, "lr_end");
	o->v[POWER] = lora__get_float(s, polynomial_params, "power");
	if (!(o->lr > o->v[LR_END]))
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "schedule", "lr_end", -1, "lr_end is %g, must be below learning_rate %g", o->v[LR_END], o->lr);
	return LORA_OK;
}

static double polynomial(const lora__sched *s, int64_t step)
{
	if (step < s->warmup) return rise(s, step);
	int64_t fall = s->total - s->warmup;
	if (step > s->total || fall <= 0) return s->v[LR_END] / s->lr;
	double left = 1.0 - (double)(step - s->warmup) / (double)fall;
	return ((s->lr - s->v[LR_END]) * pow(left, s->v[POWER]) + s->v[LR_END]) / s->lr;
}

enum { TIMESCALE };
static const lora__param inverse_sqrt_params[] = {
	{ "timescale", LORA__INT, NULL, 1, 1e15, NULL, "time scale; default warmup_steps, or 10000 without warm-up" },
	{ .name = NULL }
};

static lora_status inverse_sqrt_read(lora_context *ctx, const lora_settings *s, lora__sched *o)
{
	(void)ctx;
	if (lora__has(s, "timescale")) o->v[TIMESCALE] = (double)lora__get_int(s, inverse_sqrt_params, "timescale");
	else o->v[TIMESCALE] = o->warmup ? (double)o->warmup : 10000.0;
	return LORA_OK;
}

static double inverse_sqrt(const lora__sched *s, int64_t step)
{
	if (step < s->warmup) return rise(s, step);
	double shift = s->v[TIMESCALE] - (double)s->warmup;
	return 1.0 / sqrt(((double)step + shift) / s->v[TIMESCALE]);
}

#define SOURCE "transformers.optimization"
const lora__schedule lora__schedule_constant = { .m = { "constant", "no change", SOURCE, NULL }, .factor = constant };
const lora__schedule lora__schedule_constant_with_warmup = { .m = { "constant_with_warmup", "linear rise, then no change", SOURCE, NULL },
	.flags = LORA__SCHEDULE_WARMUP, .factor = constant_with_warmup };
const lora__schedule lora__schedule_linear = { .m = { "linear", "linear rise, linear fall to 0", SOURCE, NULL },
	.flags = LORA__SCHEDULE_WARMUP | LORA__SCHEDULE_TOTAL, .factor = linear };
const lora__schedule lora__schedule_polynomial = { .m = { "polynomial", "linear rise, fall to lr_end with a power", SOURCE, polynomial_params },
	.flags = LORA__SCHEDULE_WARMUP | LORA__SCHEDULE_TOTAL, .read = polynomial_read, .factor = polynomial };
const lora__schedule lora__schedule_inverse_sqrt = { .m = { "inverse_sqrt", "linear rise, fall with the inverse square root", SOURCE, inverse_sqrt_params },
	.flags = LORA__SCHEDULE_WARMUP, .read = inverse_sqrt_read, .factor = inverse_sqrt };
