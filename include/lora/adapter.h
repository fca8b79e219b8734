/* liblora: adapters: one set of trained parameters of one kind over chosen sites of one model.
 * Create or open, attach, train, merge, unmerge, save. Parameters are kept in F32 whatever the file holds. */
#ifndef LORA_ADAPTER_H
#define LORA_ADAPTER_H

#include "lora/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Options of a merge. */
typedef struct lora_merge_options {
	uint32_t struct_size;
	uint32_t flags;       /* zero */
	double   scale;       /* multiplies the adapter's own scale and the attached scale; default 1 */
	uint64_t reserved[4]; /* zero */
} lora_merge_options;

/* Fill opts with the defaults.
 * Errors   LORA_E_ARGUMENT
 * Thread   any
 * Since    0.1 */
LORA_API lora_status lora_merge_options_init(lora_merge_options *opts, size_t size);

/* Create an adapter with fresh parameters.
 * kind     member of family "adapter", e.g. "lora"
 * settings PEFT's keys (r, lora_alpha, target_modules, ...) plus name and seed; NULL = defaults; copied
 * out      returned owned; keeps the model alive; not attached yet
 * Errors   LORA_E_NOTFOUND kind, or nothing matches target_modules (near names in the message); LORA_E_ARGUMENT a setting;
 *          LORA_E_UNSUPPORTED a setting of PEFT that this library does not do; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_create(lora_model *m, const char *kind, const lora_settings *settings, lora_adapter **out);

/* Open a PEFT directory (adapter_config.json, adapter_model.safetensors).
 * settings ignore_extra (tensors that belong to no module are an error unless 1), name; may be NULL
 * out      returned owned; not attached yet
 * Errors   LORA_E_IO, LORA_E_NOTFOUND, LORA_E_FORMAT, LORA_E_SHAPE (both sizes in the message), LORA_E_DTYPE, LORA_E_UNSUPPORTED, LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_open(lora_model *m, const char *path, const lora_settings *settings, lora_adapter **out);

/* Open an adapter from memory.
 * config   text of adapter_config.json, config_bytes long; borrowed for the call
 * weights  content of adapter_model.safetensors, weights_bytes long; borrowed for the call
 * Errors   as lora_adapter_open
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_open_memory(lora_model *m, const char *config, size_t config_bytes, const void *weights,
                                              size_t weights_bytes, const lora_settings *settings, lora_adapter **out);

/* Save as a PEFT directory; written beside, synced, renamed.
 * settings format ("peft"), dtype ("F32", "F16", "BF16"), force (replace an existing adapter, default 1); may be NULL
 * Errors   LORA_E_EXISTS path is there and is no adapter; LORA_E_IO; LORA_E_NUMERIC out of range for F16; LORA_E_MEMORY
 *          on any error what was at path is still there
 * Thread   exclusive(adapter)
 * Since    0.1 */
LORA_API lora_status lora_adapter_save(lora_adapter *a, const char *path, const lora_settings *settings);

/* Let the adapter act on its model's forward. scale multiplies the adapter's own scale (lora_alpha / r); 0 is allowed.
 * Errors   LORA_E_EXISTS attached already; LORA_E_ARGUMENT scale not finite; LORA_E_UNSUPPORTED a scale other than 1 of virtual tokens (kinds
 *          prefix_tuning and prompt_tuning); LORA_E_MEMORY; on error nothing is attached anywhere
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_attach(lora_adapter *a, double scale);

/* Stop acting on the model's forward. The parameters stay.
 * Errors   LORA_E_STATE not attached, or merged
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_detach(lora_adapter *a);

/* Change the scale given to lora_adapter_attach().
 * Errors   LORA_E_STATE not attached, or merged; LORA_E_ARGUMENT not finite; LORA_E_UNSUPPORTED other than 1 of virtual tokens
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_set_scale(lora_adapter *a, double scale);

/* Freeze or free an adapter's parameters: a frozen one acts, but gets no gradient. New and opened adapters are trainable.
 * Errors   LORA_E_ARGUMENT
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_set_trainable(lora_adapter *a, int32_t trainable);

/* Add the adapter's delta to its model's weights: W[out,in] + scale * delta, summed in F32 and rounded once to the weight's type.
 * Weights afterwards depend only on the base and the set of merged adapters, never on order or history.
 * While merged the adapter does not act a second time through the forward.
 * opts     borrowed for the call; NULL = defaults
 * Errors   LORA_E_STATE merged already, or the host changed a merged weight; LORA_E_UNSUPPORTED read-only weights, or a kind without delta;
 *          LORA_E_NUMERIC the sum is not finite or out of range; LORA_E_MEMORY; on any error all weights are as before
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_merge(lora_adapter *a, const lora_merge_options *opts);

/* Take the adapter's delta out again, bit for bit; other merged adapters stay.
 * Errors   LORA_E_STATE not merged, or the host changed a merged weight; LORA_E_MEMORY; on any error all weights are as before
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_unmerge(lora_adapter *a);

/* Facts about an adapter; text is borrowed from the adapter. */
typedef struct lora_adapter_info {
	uint32_t    struct_size;
	int32_t     attached;
	int32_t     merged;
	int32_t     trainable;
	double      scale;        /* of the attachment */
	const char *kind;
	const char *name;
	int64_t     n_sites;
	int64_t     n_tensors;
	int64_t     n_parameters;
} lora_adapter_info;

/* Facts about an adapter.
 * out      caller's memory with struct_size set
 * Errors   LORA_E_ARGUMENT
 * Thread   any while nobody changes the adapter
 * Since    0.1 */
LORA_API lora_status lora_adapter_get_info(const lora_adapter *a, lora_adapter_info *out);

/* The adapter's settings as JSON (all keys, PEFT's names).
 * buf, size, needed  as lora_settings_to_json()
 * Errors   LORA_E_LIMIT buf too small; LORA_E_MEMORY
 * Thread   exclusive(adapter)
 * Since    0.1 */
LORA_API lora_status lora_adapter_settings_json(const lora_adapter *a, char *buf, size_t size, size_t *needed);

/* Number of parameter tensors; 0 for NULL.
 * Thread   any while nobody changes the adapter
 * Since    0.1 */
LORA_API int64_t lora_adapter_tensor_count(const lora_adapter *a);

/* Name (PEFT's, "base_model.model.<site>.lora_A.weight"), shape and size of tensor i. dtype is LORA_F32.
 * Errors   LORA_E_ARGUMENT i out of range
 * Thread   any while nobody changes the adapter
 * Since    0.1 */
LORA_API lora_status lora_adapter_tensor_info(const lora_adapter *a, int64_t i, lora_tensor_info *out);

/* Copy tensor i out, F32 row-major.
 * Errors   LORA_E_ARGUMENT; LORA_E_SHAPE bytes is not the tensor's size
 * Thread   any while nobody changes the adapter
 * Since    0.1 */
LORA_API lora_status lora_adapter_tensor_read(const lora_adapter *a, int64_t i, float *out, size_t bytes);

/* Overwrite tensor i, F32 row-major.
 * Errors   LORA_E_ARGUMENT; LORA_E_SHAPE; LORA_E_NUMERIC a value is not finite; LORA_E_STATE the adapter is merged
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_tensor_write(lora_adapter *a, int64_t i, const float *values, size_t bytes);

/* Copy the accumulated gradient of tensor i out, F32 row-major; zero when there was no backward yet.
 * Errors   LORA_E_ARGUMENT; LORA_E_SHAPE
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_gradient_read(const lora_adapter *a, int64_t i, float *out, size_t bytes);

/* Set all accumulated gradients to zero.
 * Errors   LORA_E_ARGUMENT
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_zero_grad(lora_adapter *a);

/* The change that the adapter makes to one site's weight, with its own scale: delta[out,in] in F32.
 * site     index in the model
 * Errors   LORA_E_NOTFOUND the adapter does not act there; LORA_E_SHAPE bytes; LORA_E_UNSUPPORTED the kind has no delta
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_delta(lora_adapter *a, int64_t site, float *out, size_t bytes);

/* Layers of an adapter: its sites in groups, one per block of the model (the site's name up to its first number, "model.layers.3"; sites without
 * number are one group), counted in the order of sites. Modules trained as a whole belong to none.
 * layer    [count] by site of the model: the number of its layer, -1 = none; may be NULL
 * count    number of sites of the model
 * n        number of layers
 * Errors   LORA_E_ARGUMENT; LORA_E_SHAPE count; LORA_E_MEMORY
 * Thread   any while nobody changes the adapter
 * Since    0.1 */
LORA_API lora_status lora_adapter_layers(const lora_adapter *a, int32_t *layer, int64_t count, int64_t *n);

/* Put layers to rest: they add nothing and get no gradient, until the next call. Merging and saving take all layers all the same.
 * active   [n] by layer, 0 = rests; borrowed for the call; NULL = all act
 * n        number of layers
 * Errors   LORA_E_ARGUMENT; LORA_E_SHAPE n; LORA_E_STATE the adapter is merged; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_set_layers(lora_adapter *a, const uint8_t *active, int64_t n);

/* A new adapter with some of the layers only. Its settings choose just these (layers_to_transform where that can say it, else full names), so
 * that PEFT loads it, too.
 * keep     [n] by layer, 0 = left out; borrowed for the call
 * n        number of layers
 * out      returned owned; not attached yet
 * Errors   LORA_E_ARGUMENT no layer is kept; LORA_E_SHAPE n; LORA_E_UNSUPPORTED settings can't say which sites are kept; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_adapter_prune(const lora_adapter *a, const uint8_t *keep, int64_t n, lora_adapter **out);

/* Release an adapter; a merged one is unmerged and an attached one detached first. NULL is a no-op.
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API void lora_adapter_destroy(lora_adapter *a);

#ifdef __cplusplus
}
#endif
#endif
