/* Combinations of adapters: the descriptor of a way to combine, a line in list.h each, and what all share. */
#ifndef LORA_COMBINE_COMBINE_H
#define LORA_COMBINE_COMBINE_H

#include "adapter/adapter.h"
#include "lora/combine.h"

enum { LORA__PRUNE_NONE = 0, LORA__PRUNE_SMALL, LORA__PRUNE_RANDOM };

/* Member of family "combination". */
typedef struct lora__combination {
	lora__member m;
	int8_t prune;  /* which entries are dropped before anything is added up */
	int8_t elect;  /* a sign is elected per entry, and only entries of that sign count (TIES) */
	int8_t cat;    /* factors side by side */
	int8_t low;    /* on deltas, then cut to the rank */
	int8_t both;   /* weights multiply A and B alike, and each is summed by itself (LoraHub) */
} lora__combination;

#define LORA__COMBINATION(name) extern const lora__combination lora__combination_##name;
#include "combine/list.h"
#undef LORA__COMBINATION
extern const lora__combination *const lora__combinations[]; /* NULL-ended */
const lora__combination *lora__combination_find(const char *name);

/* How a combination adds up n arrays of count floats. peft: PEFT's rules where they differ. */
typedef struct lora__mix { const lora__combination *type; int peft, by_count; double density; } lora__mix;
/* out = the combination of v[k] with weights w[k]; v is pruned in place; keys[k]: random stream of v[k]. */
lora_status lora__mix_run(lora_context *ctx, const lora__mix *m, float **v, const double *w, const uint64_t *keys, size_t n, int64_t count, float *out);
/* Set all but the keep entries of largest magnitude to zero; of equal ones the first stay. */
void lora__keep_largest(float *v, int64_t count, int64_t keep);

/* Run fn for the tasks 0 .. n-1, over the threads when bytes of memory per task leave room for that, else one by one; the first failure by number. */
typedef lora_status (*lora__site_fn)(void *arg, int64_t task, int32_t thread);
lora_status lora__each_site(lora_context *ctx, int64_t n, double bytes, lora__site_fn fn, void *arg);

lora_status lora__combine(lora_adapter *const *adapters, const double *weights, size_t n, const lora__combination *type, const lora_settings *s,
                          lora_adapter **out);
/* The same in pieces, for many weights: all checks and the new adapter, then its values for given weights, as often as wanted. */
typedef struct lora__combining lora__combining;
lora_status   lora__combining_start(lora_adapter *const *adapters, const double *weights, size_t n, const lora__combination *type, const lora_settings *s,
                                    lora__combining **out);
lora_status   lora__combining_fill(lora__combining *c, const double *weights);
lora_adapter *lora__combining_adapter(lora__combining *c); /* borrowed */
void          lora__combining_end(lora__combining *c);

/* Weights of least loss, by a search (combination_search.c). settings of both are checked already. */
typedef struct lora__search_job {
	const struct lora__search *method;
	const lora__combination   *type;
	const lora_search_options *opts;
	const lora_batch          *batches;
	int64_t                    n_batches;
} lora__search_job;
lora_status lora__combine_search(lora_adapter *const *adapters, size_t n, const lora__search_job *job, double *weights, lora_search_result *result);
/* settings: of the new adapter, taken over on success. */
lora_status lora__extract(lora__sites *base, const lora__sites *tuned, lora_settings *settings, double *norms, double *errors, lora_adapter **out);

extern const lora__member lora__shapley_member; /* family "call" */
lora_status lora__shapley(lora_context *ctx, int64_t n, lora_value_fn fn, void *user, const lora_settings *s, double *values, double *errors, int64_t *calls);

#endif
