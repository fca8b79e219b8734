/* Optimizers and learning-rate schedules. An optimizer sees flat parameter lists only and knows no model; a schedule sees step numbers only.
 * A member of either family is one descriptor in a file here plus one line in list.h. */
#ifndef LORA_OPTIM_OPTIM_H
#define LORA_OPTIM_OPTIM_H

#include "backend/backend.h"

enum { LORA__OPTIM_SLOTS = 4, LORA__OPTIM_HYPERS = 8, LORA__SCHEDULE_VALUES = 8 };

/* One update of n parameters. All arrays are F32 of n elements. */
typedef struct lora__update {
	lora_context *ctx;
	float        *p;
	const float  *g;
	float        *slot[LORA__OPTIM_SLOTS];
	int64_t       n;
	int64_t       t;           /* number of this step, counted from 1 */
	double        lr;          /* learning rate with the schedule's factor */
	double        grad_factor; /* multiplies the gradient: averaging and clipping cost no pass of their own */
	const double *hyper;       /* what read() made of the settings */
} lora__update;

/* Member of family "optimizer". The update must be elementwise: gradients of another type come in pieces. */
typedef struct lora__optim {
	lora__member       m;
	const char *const *slots; /* names of the state arrays per parameter, as torch's state_dict has them; NULL-ended; they start at zero */
	/* Settings to numbers, once; hyper[0] is the learning rate, *n_slots how many of the slots are used. */
	lora_status (*read)(lora_context *ctx, const lora_settings *s, double *hyper, int *n_slots);
	lora_status (*step)(const lora__update *u);
} lora__optim;

/* A schedule with its settings read. */
typedef struct lora__sched {
	const struct lora__schedule *kind;
	int64_t warmup, total; /* warmup_steps, max_steps (0 = not known) */
	double  lr;            /* the optimizer's learning rate: some settings are absolute rates */
	double  v[LORA__SCHEDULE_VALUES];
} lora__sched;

enum { LORA__SCHEDULE_WARMUP = 1, LORA__SCHEDULE_TOTAL = 2 }; /* depends on warmup_steps, on max_steps */

/* Member of family "schedule". */
typedef struct lora__schedule {
	lora__member m;
	uint32_t     flags;
	lora_status (*read)(lora_context *ctx, const lora_settings *s, lora__sched *out); /* fills out->v; NULL = no settings */
	double (*factor)(const lora__sched *s, int64_t step); /* of the optimizer step counted from 0; also beyond max_steps */
} lora__schedule;

#define LORA__OPTIM(name) extern const lora__optim lora__optim_##name;
#define LORA__SCHEDULE(name) extern const lora__schedule lora__schedule_##name;
#include "optim/list.h"
#undef LORA__OPTIM
#undef LORA__SCHEDULE
extern const lora__optim *const lora__optims[];       /* NULL-ended */
extern const lora__schedule *const lora__schedules[]; /* NULL-ended */

/* An optimizer over n parameters with its state. */
typedef struct lora__opt {
	lora_context      *ctx;
	const lora__optim *kind;
	json_t            *settings; /* every setting with its value in force */
	double             hyper[LORA__OPTIM_HYPERS];
	int64_t            n, t;     /* parameters; steps done */
	int                n_slots;
	float             *slot[LORA__OPTIM_SLOTS];
	float             *piece;    /* gradients of another type, piece by piece */
} lora__opt;

lora_status lora__opt_create(lora_context *ctx, const char *name, const lora_settings *settings, size_t n, lora_dtype grad_type, lora__opt **out);
void        lora__opt_destroy(lora__opt *o);
/* Sum of squares of n gradients in double, in a fixed order; not finite when a gradient is not. */
lora_status lora__opt_sumsq(lora_context *ctx, const void *g, lora_dtype type, size_t n, double *out);
/* p -= update(g). Gradients must be finite: the caller has looked. */
lora_status lora__opt_step(lora__opt *o, float *p, const void *g, lora_dtype type, double lr_scale, double grad_factor);

/* The same for parameters first .. first+n alone, as their step number t; the optimizer's own count stays. */
lora_status lora__opt_range(lora__opt *o, float *p, const void *g, lora_dtype type, double lr_scale, double grad_factor, int64_t first, int64_t n, int64_t t);

/* settings: those of the schedule among others. */
lora_status lora__sched_create(lora_context *ctx, const lora__schedule *kind, const lora_settings *settings, int64_t warmup, int64_t total, double lr,
                               lora__sched *out);
const lora__schedule *lora__schedule_find(const char *name);
static inline double lora__sched_factor(const lora__sched *s, int64_t step) { return s->kind->factor(s, step); }

/* Every setting of a table with its value in force (default where not set), as one JSON object. NULL = out of memory, recorded. */
json_t *lora__settings_in_force(lora_context *ctx, const lora_settings *s, const lora__param *table);

#endif
