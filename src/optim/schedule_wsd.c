/* Warm up, stay, decay. Expressions of transformers.optimization (warmup_stable_decay); Hu et al. 2024, arXiv:2404.06395, section 4. */
#include <math.h>

#include "optim/optim.h"

enum { STABLE, DECAY, RISE, FALL, MIN_RATIO, CYCLES };
enum { SHAPE_LINEAR, SHAPE_COSINE, SHAPE_ROOT };
#define PI 3.141592653589793

static const lora__param params[] = {
	{ "num_decay_steps", LORA__INT, NULL, 0, 1e15, NULL, "steps of the fall; must be set" },
	{ "num_stable_steps", LORA__INT, NULL, 0, 1e15, NULL, "steps at the full rate; default what max_steps leaves" },
	{ "warmup_type", LORA__STRING, "linear", 0, 0, "linear|cosine|1-sqrt", "shape of the rise" },
	{ "decay_type", LORA__STRING, "cosine", 0, 0, "linear|cosine|1-sqrt", "shape of the fall" },
	{ "min_lr_ratio", LORA__FLOAT, "0.0", 0, 1, NULL, "lowest rate as a share of learning_rate" },
	{ "num_cycles", LORA__FLOAT, "0.5", 0, 1e6, NULL, "waves of a cosine fall" },
	{ .name = NULL }
};

static double shape(const lora_settings *s, const char *name)
{
	const char *v = lora__get_string(s, params, name);
	return strcmp(v, "linear") == 0 ? SHAPE_LINEAR : strcmp(v, "cosine") == 0 ? SHAPE_COSINE : SHAPE_ROOT;
}

static lora_status read(lora_context *ctx, const lora_settings *s, lora__sched *o)
{
	if (!lora__has(s, "num_decay_steps"))
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "schedule", "num_decay_steps", -1, "schedule warmup_stable_decay needs num_decay_steps");
	int64_t decay = lora__get_int(s, params, "num_decay_steps"), stable = o->total - o->warmup - decay;
	if (lora__has(s, "num_stable_steps")) stable = lora__get_int(s, params, "num_stable_steps");
	else if (o->total <= 0)
		return lora__fail_at(ctx, LORA_E_ARGUMENT, "schedule", "num_stable_steps", -1, "schedule warmup_stable_decay needs num_stable_steps or max_steps");
	o->v[STABLE] = (double)stable, o->v[DECAY] = (double)decay;
	o->v[RISE] = shape(s, "warmup_type"), o->v[FALL] = shape(s, "decay_type");
	o->v[MIN_RATIO] = lora__get_float(s, params, "min_lr_ratio");
	o->v[CYCLES] = lora__get_float(s, params, "num_cycles");
	return LORA_OK;
}

static double rise(const lora__sched *s, double x)
{
	if (s->v[RISE] == SHAPE_LINEAR) return x;
	return s->v[RISE] == SHAPE_COSINE ? 0.5 * (1.0 - cos(PI * x)) : 1.0 - sqrt(1.0 - x);
}

static double fall(const lora__sched *s, double x)
{
	if (s->v[FALL] == SHAPE_LINEAR) return 1.0 - x;
	return s->v[FALL] == SHAPE_COSINE ? 0.5 * (1.0 + cos(PI * s->v[CYCLES] * 2.0 * x)) : 1.0 - sqrt(x);
}

static double factor(const lora__sched *s, int64_t step)
{
	double least = s->v[MIN_RATIO], k = (double)step, warmup = (double)s->warmup;
	if (k < warmup) return fmax(0.0, rise(s, k / fmax(1.0, warmup)) * (1.0 - least) + least);
	if (k < warmup + s->v[STABLE]) return 1.0;
	if (k < warmup + s->v[STABLE] + s->v[DECAY]) return fmax(0.0, fall(s, (k - warmup - s->v[STABLE]) / fmax(1.0, s->v[DECAY])) * (1.0 - least) + least);
	return least;
}

const lora__schedule lora__schedule_warmup_stable_decay = { .m = { "warmup_stable_decay", "rise, stay, fall", "arXiv:2404.06395; transformers.optimization", params },
	.flags = LORA__SCHEDULE_WARMUP, .read = read, .factor = factor };
