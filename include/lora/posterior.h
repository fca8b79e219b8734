/* liblora: how sure an adapter is: a Gaussian around its trained parameters (Laplace approximation with Kronecker factors), and predictions that average over it.
 * For classifiers, and for causal models whose answer is one of a few tokens. Settings: family "call", members "posterior_fit" and "posterior_predict". */
#ifndef LORA_POSTERIOR_H
#define LORA_POSTERIOR_H

#include "lora/adapter.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Gives batch number index, 0 .. n - 1; *batch comes with struct_size set and all else zero. Its memory must stay until the next call. The same index must give the same
 * batch. Another value than 0 stops: the caller gets LORA_E_CALLBACK. */
typedef int32_t (*lora_batch_fn)(void *user, int64_t index, lora_batch *batch);

/* Memory of a posterior, in bytes. */
typedef struct lora_posterior_memory {
	uint32_t struct_size;
	int32_t  reserved;
	uint64_t factors;     /* sums of curvature while it is fitted */
	uint64_t kept;        /* the fitted posterior */
	uint64_t activations; /* of the model, kept between forward and backward passes */
	uint64_t scratch;     /* of fitting */
	uint64_t predict;     /* Jacobians of a batch */
	uint64_t peak;        /* the most of these at one time */
} lora_posterior_memory;

/* Facts about a posterior. */
typedef struct lora_posterior_info {
	uint32_t struct_size;
	int32_t  n_matrices;
	int64_t  n_classes;
	int64_t  n_examples;      /* that it was fitted on */
	int64_t  n_parameters;    /* that it is over */
	double   prior_precision; /* the geometric mean where matrices have their own */
	double   log_likelihood;  /* of the fitted examples, at the trained parameters */
	double   log_evidence;    /* log Z, up to a constant that does not depend on the prior */
	double   effective;       /* number of parameters that the data determines: sum h / (h + prior precision) */
} lora_posterior_info;

/* Fit. With all rows (tokens) r of the data and curvature H = (1/R) (sum g g^T) (x) (sum a a^T) for each of the adapter's matrices, inputs a and output gradients g. One
 * pass over the data (with prior "validation" two more over the last batches); nothing grows with its length. The adapter and its gradients are left as they are.
 * m, a     the model and its trained adapter, attached; no other trainable adapter may act
 * n, get, user  batches with labels: [B] of a classifier; [B,T] of a causal model, of which the first label of a sequence is the answer. Sequences without one are left out
 * settings classes (tokens, for causal models), fisher, layers, factor, factor_rank, full_up_to, prior, prior_precision, prior_per, validation_batches, seed; NULL = defaults
 * out      returned owned; keeps m and a alive. It belongs to a's parameters as they are now
 * Errors   LORA_E_ARGUMENT a setting, no labelled examples; LORA_E_STATE a is not attached to m, merged, frozen, or not alone; LORA_E_UNSUPPORTED a model or kind without
 *          posterior; LORA_E_SHAPE a label is no class; LORA_E_CALLBACK; LORA_E_NUMERIC; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Source   Yang et al. 2024, arXiv:2308.13111
 * Since    0.1 */
LORA_API lora_status lora_posterior_fit(lora_model *m, lora_adapter *a, int64_t n, lora_batch_fn get, void *user, const lora_settings *settings, lora_posterior **out);

/* What a fit and predictions on batches of this shape will take; nothing large is allocated and nothing computed.
 * n_sequences, length  of the largest batch
 * settings as of lora_posterior_fit()
 * out      caller's memory; out->struct_size must be set by the caller
 * Errors   as lora_posterior_fit()
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_posterior_estimate(lora_model *m, lora_adapter *a, int64_t n_sequences, int64_t length, const lora_settings *settings, lora_posterior_memory *out);

/* Predict: p = E softmax(f), f ~ N(f_MAP, V), with f linear in the parameters around the trained ones.
 * batch    borrowed for the call. Of a causal model the answer is behind the token before a sequence's first label, or behind its last token when it has no label
 * settings form, directions, jacobian, samples, prior_precision, seed; NULL = defaults. With form sampled and no covariance the backward passes of an F32 model may
 *          multiply numbers rounded to BF16, which moves p far less than another seed does; jacobian "exact" rules that out
 * probability, logits  [B,classes], each may be NULL: p; f_MAP. Sequences without tokens get zeros
 * covariance  [B,classes,classes]: V; NULL = not wanted (one backward pass less)
 * count    B * classes
 * Errors   LORA_E_ARGUMENT; LORA_E_STATE the adapter is not attached, merged, or attached with another scale; LORA_E_SHAPE; LORA_E_NUMERIC; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_posterior_predict(lora_posterior *p, const lora_batch *batch, const lora_settings *settings, double *probability, double *logits,
                                            double *covariance, int64_t count);

/* Facts about a posterior.
 * out      caller's memory with struct_size set
 * Errors   LORA_E_ARGUMENT
 * Thread   exclusive(posterior)
 * Since    0.1 */
LORA_API lora_status lora_posterior_get_info(const lora_posterior *p, lora_posterior_info *out);

/* Save as one safetensors file; written beside, synced, renamed.
 * Errors   LORA_E_IO; LORA_E_MEMORY; on any error what was at path is still there
 * Thread   exclusive(posterior)
 * Since    0.1 */
LORA_API lora_status lora_posterior_save(const lora_posterior *p, const char *path);

/* Load what lora_posterior_save() wrote, for the same base and the same adapter with the same parameters.
 * out      returned owned; keeps m and a alive
 * Errors   LORA_E_STATE of another base or adapter; LORA_E_FORMAT no posterior, damaged; LORA_E_SHAPE; LORA_E_UNSUPPORTED a later version; LORA_E_IO, LORA_E_NOTFOUND,
 *          LORA_E_LIMIT; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_posterior_load(lora_model *m, lora_adapter *a, const char *path, lora_posterior **out);

/* Release a posterior. NULL is a no-op.
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API void lora_posterior_destroy(lora_posterior *p);

#ifdef __cplusplus
}
#endif
#endif
