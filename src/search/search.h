/* Searching without gradients: the least value of a function of a few numbers within a box, from its values alone. A member of family "search" is
 * one file plus one line in list.h; it proposes points, search.c evaluates them, counts them and keeps the best. */
#ifndef LORA_SEARCH_SEARCH_H
#define LORA_SEARCH_SEARCH_H

#include "base/rng.h"
#include "base/schema.h"
#include "lora/combine.h"

enum { LORA__SEARCH_MOST = 100000 }; /* variables */

/* One search under way. */
typedef struct lora__hunt {
	lora_context            *ctx;
	const lora_settings     *settings; /* checked against the member's table */
	const lora__param       *params;
	int64_t                  n, budget;
	double                   lower, upper, sigma; /* the box, and the first step */
	double                   l1;                  /* of the mean of |x| */
	lora__rng                rng;
	lora_search_fn           fn;
	void                    *user;
	lora_search_progress_fn  progress;
	void                    *progress_user;
	double                  *best; /* [n] */
	lora_search_result       result;
	int                      over; /* budget used up, or cancelled */
} lora__hunt;

/* Member of family "search". run() goes on until hunt->over or until it cannot get further; x[n] = start, evaluated already, value of it *fx. */
typedef struct lora__search {
	lora__member m;
	lora_status (*run)(lora__hunt *h, const double *x, double fx);
} lora__search;

#define LORA__SEARCH(name) extern const lora__search lora__search_##name;
#include "search/list.h"
#undef LORA__SEARCH
extern const lora__search *const lora__searches[]; /* NULL-ended */
const lora__search *lora__search_find(const char *name);

/* The settings that all members have, at the head of their tables. */
#define LORA__SEARCH_SETTINGS \
	{ "budget", LORA__INT, "40", 1, 1e9, NULL, "evaluations at most, that of the start among them" }, \
	{ "lower_bound", LORA__FLOAT, "-1.5", 0, 0, NULL, "of every weight" }, { "upper_bound", LORA__FLOAT, "1.5", 0, 0, NULL, "of every weight" }, \
	{ "l1", LORA__FLOAT, "0.05", 0, 1e9, NULL, "added to the loss: l1 times the mean of |weight|" }, \
	{ "seed", LORA__INT, "0", 0, 9e15, NULL, "seed of everything drawn" }
#define LORA__SEARCH_SIGMA { "sigma", LORA__FLOAT, "0.3", 1e-12, 1e12, NULL, "deviation of the first steps" }

/* Clip x into the box and evaluate it; *value is never NaN (a loss that is not finite counts as the worst). Afterwards look at h->over. */
lora_status lora__hunt_try(lora__hunt *h, double *x, double *value);

/* The whole search; x[n] start and best. */
lora_status lora__search_run(lora_context *ctx, const lora__search *s, const lora_settings *settings, int64_t n, lora_search_fn fn, void *user,
                             lora_search_progress_fn progress, void *progress_user, double *x, lora_search_result *result);

#endif
