/* liblora: new adapters from others: weighted combinations of adapters of one model, the search for good weights, and the adapter that is closest
 * to the difference of two models. The members of family "combination" and their settings: lora_family_describe(). */
#ifndef LORA_COMBINE_H
#define LORA_COMBINE_H

#include "lora/adapter.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Combine LoRA adapters. With D_k[out,in] = scale_k B_k A_k of adapter k at a site (its own scale, not that of an attachment), mode "exact" (the
 * default) gives sum_k w_k D_k, where needed as the closest matrix of the wanted rank; mode "peft" gives what PEFT's add_weighted_adapter gives.
 * Equal weights 1/n: the uniform soup; negative weights: task arithmetic. A site that some adapters do not have is combined from the others.
 * adapters n adapters of one model, borrowed; attached, merged or neither, it makes no difference; none is changed
 * weights  [n], borrowed for the call; any finite numbers
 * type     member of family "combination": "linear", "cat", "svd", "lorahub", "ties", "dare_linear", "dare_ties", "magnitude_prune", ...
 * settings mode, svd_rank, density, majority_sign_method, seed, name, as far as the type has them; NULL = defaults
 * out      returned owned; a LoRA adapter, not attached yet; keeps the model alive
 * Errors   LORA_E_NOTFOUND type; LORA_E_ARGUMENT a setting, a weight, adapters of different models, or of different ranks where the type
 *          ("lorahub", those of mode "peft") needs equal ones; LORA_E_UNSUPPORTED modules_to_save, target_parameters, a kind other than LoRA; LORA_E_NUMERIC parameters
 *          that are not finite; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Source   PEFT 0.21 tuners/lora/model.py; Yadav et al. 2023, arXiv:2306.01708 (TIES); Yu et al. 2023, arXiv:2311.03099 (DARE);
 *          Huang et al. 2023, arXiv:2307.13269 (LoraHub)
 * Since    0.1 */
LORA_API lora_status lora_adapter_combine(lora_adapter *const *adapters, const double *weights, int64_t n, const char *type, const lora_settings *settings,
                                          lora_adapter **out);

/* The closest adapter to the difference of two models: at every chosen site of base the best approximation of rank r of
 * D = W_tuned - W_base [out,in]. Weights are read as they are now, merged adapters included; one site at a time (small ones: one per thread).
 * base     the new adapter is one of this model
 * tuned    a model of the same context with sites of the same names and sizes
 * settings PEFT's keys of LoRA: r, target_modules (default "all-linear"), rank_pattern, name, ...; lora_alpha is r unless given; NULL = defaults
 * norms, errors  [count] by site of base, may be NULL: Frobenius norms of D and of what the adapter leaves of it (of D itself where the adapter
 *          does not act)
 * count    number of sites of base
 * out      returned owned; not attached yet
 * Errors   LORA_E_ARGUMENT a setting, or count; LORA_E_NOTFOUND a site that tuned lacks; LORA_E_SHAPE sites of different sizes; LORA_E_NUMERIC
 *          weights that are not finite, lora_alpha 0; LORA_E_UNSUPPORTED modules_to_save, target_parameters; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Source   Eckart and Young 1936; Halko, Martinsson and Tropp 2011, arXiv:0909.4061
 * Since    0.1 */
LORA_API lora_status lora_adapter_extract(lora_model *base, const lora_model *tuned, const lora_settings *settings, double *norms, double *errors,
                                          int64_t count, lora_adapter **out);

/* What a coalition of players is worth. active[n]: 1 = is in it. Another answer than 0 ends the call that asked. */
typedef int32_t (*lora_value_fn)(void *user, const uint8_t *active, int64_t n, double *value);

/* Shapley values of n players, for example of the layers of an adapter with v = -loss when only these act (lora_adapter_set_layers()):
 * phi_i = mean over orders of v(those before i, and i) - v(those before i). They sum to v(all) - v(none).
 * n        players, at least 1
 * fn, user called on the caller's thread with coalitions
 * settings permutations, seed; NULL = defaults
 * values   [n]
 * errors   [n], may be NULL: standard errors of the sampling; 0 where all coalitions were asked, NaN of one sample alone
 * calls    may be NULL: how often fn was called
 * Errors   LORA_E_ARGUMENT; LORA_E_CALLBACK fn gave up; LORA_E_NUMERIC a value is not finite; LORA_E_MEMORY
 * Thread   exclusive(context)
 * Source   Shapley 1953; Castro, Gomez and Tejada 2009
 * Since    0.1 */
LORA_API lora_status lora_shapley_values(lora_context *ctx, int64_t n, lora_value_fn fn, void *user, const lora_settings *settings, double *values,
                                         double *errors, int64_t *calls);

/* What a search has found so far, or in the end. */
typedef struct lora_search_result {
	uint32_t struct_size;
	int32_t  cancelled;   /* 1 = the progress callback ended it */
	int64_t  evaluations; /* of the function */
	double   objective;   /* of the best point: loss + l1 times the mean of |weight| */
	double   loss;        /* of the best point */
	double   start_loss;  /* of the point where it started, which is evaluated first */
} lora_search_result;

/* A function whose least value is searched: *loss at x[n]. A loss that is not finite counts as the worst of all; another status than LORA_OK ends the
 * search and is returned by it. */
typedef lora_status (*lora_search_fn)(void *user, const double *x, int64_t n, double *loss);

/* Progress callback: called after every evaluation, on the caller's thread; another value than 0 cancels. */
typedef int32_t (*lora_search_progress_fn)(void *user, const lora_search_result *so_far);

/* Options of a search. */
typedef struct lora_search_options {
	uint32_t                struct_size;
	uint32_t                flags;         /* zero */
	const char             *method;        /* member of family "search": "cmaes" (default), "one_plus_one", "random" */
	const lora_settings    *settings;      /* of the method: budget, lower_bound, upper_bound, l1, seed, sigma, ...; NULL = defaults */
	const char             *type;          /* how adapters are combined: member of family "combination"; default "lorahub" */
	const lora_settings    *type_settings; /* of the type; NULL = defaults */
	lora_search_progress_fn progress;      /* may be NULL */
	void                   *user;          /* of progress */
	uint64_t                reserved[4];   /* zero */
} lora_search_options;

/* Fill opts with the defaults.
 * Errors   LORA_E_ARGUMENT
 * Thread   any
 * Since    0.1 */
LORA_API lora_status lora_search_options_init(lora_search_options *opts, size_t size);

/* Search the least value of a function of n numbers within a box, from its values alone. The same seed gives the same points, bit for bit.
 * fn, user the function and its argument; called on the caller's thread, one call at a time
 * opts     method, settings and progress; NULL = defaults, which are LoraHub's (40 evaluations in -1.5 .. 1.5, l1 0.05)
 * x        [n], where to start, within the bounds; the best point afterwards
 * result   struct_size set by the caller; may be NULL
 * Errors   LORA_E_NOTFOUND method; LORA_E_ARGUMENT a setting, or x outside of the bounds; LORA_E_NUMERIC no loss was finite; LORA_E_CANCELLED (x and
 *          result are filled); LORA_E_MEMORY; what fn returns
 * Thread   exclusive(context)
 * Source   Hansen 2016, arXiv:1604.00772
 * Since    0.1 */
LORA_API lora_status lora_search_minimize(lora_context *ctx, lora_search_fn fn, void *user, int64_t n, const lora_search_options *opts, double *x,
                                          lora_search_result *result);

/* Search weights with which the combination of adapters has the least loss on a few examples, without gradients (LoraHub). Combine them with
 * lora_adapter_combine() and the same type afterwards. Each evaluation combines in memory and runs one forward per batch.
 * adapters n LoRA adapters of one model, borrowed, neither attached nor merged; others that are attached act meanwhile
 * batches  n_batches batches with labels; the loss is the mean over their counted tokens
 * opts     NULL = defaults: "cmaes" over type "lorahub"
 * weights  [n], where to start (zeros: the model without them); the best weights afterwards
 * result   struct_size set by the caller; may be NULL
 * Errors   as lora_search_minimize(), lora_adapter_combine() and lora_model_loss(); LORA_E_STATE one of the adapters is attached or merged
 * Thread   exclusive(model)
 * Source   Huang et al. 2023, arXiv:2307.13269
 * Since    0.1 */
LORA_API lora_status lora_adapter_search(lora_adapter *const *adapters, int64_t n, const lora_batch *batches, int64_t n_batches,
                                         const lora_search_options *opts, double *weights, lora_search_result *result);

#ifdef __cplusplus
}
#endif
#endif
