/* liblora: new adapters from others: weighted combinations of adapters of one model, and the adapter that is closest to the difference of two
 * models. The members of family "combination" and their settings: lora_family_describe(). */
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
 * type     member of family "combination": "linear", "cat", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune", "ties_svd", ...
 * settings mode, svd_rank, density, majority_sign_method, seed, name, as far as the type has them; NULL = defaults
 * out      returned owned; a LoRA adapter, not attached yet; keeps the model alive
 * Errors   LORA_E_NOTFOUND type; LORA_E_ARGUMENT a setting, a weight, adapters of different models, or (mode "peft") of different ranks where
 *          PEFT needs equal ones; LORA_E_UNSUPPORTED modules_to_save, target_parameters, a kind other than LoRA; LORA_E_NUMERIC parameters
 *          that are not finite; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Source   PEFT 0.21 tuners/lora/model.py; Yadav et al. 2023, arXiv:2306.01708 (TIES); Yu et al. 2023, arXiv:2311.03099 (DARE)
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

#ifdef __cplusplus
}
#endif
#endif
