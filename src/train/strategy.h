/* Training strategies: which layers of an adapter take part in a step. A member is one descriptor in a file here plus one line in list.h. */
#ifndef LORA_TRAIN_STRATEGY_H
#define LORA_TRAIN_STRATEGY_H

#include "adapter/adapter.h"
#include "optim/optim.h"

enum { LORA__STRATEGY_VALUES = 4, LORA__STRATEGY_TOTAL = 1 /* needs max_steps */ };

/* A strategy with its settings read, over the layers of one adapter. */
typedef struct lora__strat {
	const struct lora__strategy *kind;
	lora_adapter *a;       /* the owner holds a reference */
	int64_t       total;   /* max_steps, 0 = not known */
	uint64_t      seed;
	double        v[LORA__STRATEGY_VALUES];
	int32_t       n;       /* layers */
	int32_t      *layer;   /* [parts] lora__adapter_layers() */
	int64_t      *done;    /* [n] steps before this one in which the layer took part */
	char         *active;  /* [n] in the step that runs */
	int64_t       n_active, step; /* of that step */
} lora__strat;

/* Member of family "strategy". */
typedef struct lora__strategy {
	lora__member m;
	uint32_t     flags;
	void (*read)(const lora_settings *s, double *v);                             /* NULL = no settings */
	void (*choose)(const lora__strat *s, int64_t step, char *active); /* by settings, seed and step alone, so that a resume needs no state; NULL = all */
} lora__strategy;

#define LORA__STRATEGY(name) extern const lora__strategy lora__strategy_##name;
#include "train/list.h"
#undef LORA__STRATEGY
extern const lora__strategy *const lora__strategies[]; /* NULL-ended */

/* The member that setting "strategy" names; the default is none. */
lora_status lora__strategy_find(lora_context *ctx, const lora_settings *s, const lora__strategy **out);
lora_status lora__strat_create(lora_adapter *a, const lora__strategy *kind, const lora_settings *s, int64_t total, uint64_t seed, lora__strat *out);
void        lora__strat_free(lora__strat *s);
/* Go to a step (forward, or anywhere): what was drawn before it is drawn again. */
void        lora__strat_seek(lora__strat *s, int64_t step);
/* Put layers to rest for the passes of a step, and all to work again. */
void        lora__strat_begin(lora__strat *s);
void        lora__strat_end(lora__strat *s);
/* lora__opt_step() on the layers that took part; each counts its own steps, as torch does where a gradient is None. */
lora_status lora__strat_update(lora__strat *s, lora__opt *o, double lr_scale, double grad_factor);
/* Name and values as JSON, NULL for the strategy none. */
json_t     *lora__strat_config(const lora__strat *s);

#endif
