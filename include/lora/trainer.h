/* liblora: the training step: forward, backward, accumulation, clipping, schedule, optimizer; checkpoints that resume bit for bit. */
#ifndef LORA_TRAINER_H
#define LORA_TRAINER_H

#include "lora/optimizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What one step did. */
typedef struct lora_metrics {
	uint32_t struct_size;
	int32_t  updated;       /* 1 when the optimizer stepped; 0 in the middle of an accumulation, or when the step was skipped */
	int64_t  step;          /* optimizer steps done so far */
	int64_t  micro_step;    /* micro-batches in the current accumulation */
	double   loss;          /* mean loss of the step's batches, before the update */
	double   lr;            /* learning rate used */
	double   grad_norm;     /* global L2 norm before clipping */
	int64_t  tokens;        /* tokens computed in the step (padding excluded) */
	int64_t  loss_tokens;   /* labelled tokens */
	int64_t  skipped;       /* steps skipped so far because the loss or a gradient was not finite */
	double   seconds;       /* wall time of the step's batches */
	int64_t  layers;        /* layers of the adapter (lora_adapter_layers) */
	int64_t  layers_active; /* those of them that the strategy let take part */
} lora_metrics;

/* Progress callback: called after every optimizer step; another value than 0 cancels (the call returns LORA_E_CANCELLED, the
 * trainer's state is whole). Called on the caller's thread; must not call back into the trainer. */
typedef int32_t (*lora_progress_fn)(void *user, const lora_metrics *metrics);

/* Create a trainer. Dropout draws from a counter-based generator keyed by seed, step and site.
 * m, a, o  the model, the attached adapter, its optimizer
 * settings max_steps, lr_scheduler_type, warmup_steps, warmup_ratio, max_grad_norm, gradient_accumulation_steps,
 *          loss_average ("tokens", "micro_batches"), gradient_checkpointing, seed, save_total_limit, strategy, and the settings of the schedule
 *          (num_cycles, lr_end, ...) and of the strategy (initial_p, ...); NULL = defaults
 * out      returned owned; keeps the three alive
 * Errors   LORA_E_STATE a is not attached to m, or merged, or o is of another adapter; LORA_E_ARGUMENT a setting; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_trainer_create(lora_model *m, lora_adapter *a, lora_optimizer *o, const lora_settings *settings,
                                         lora_trainer **out);

/* Set the progress and cancel callback; NULL fn takes it away.
 * user     borrowed until changed or the trainer is destroyed
 * Errors   LORA_E_ARGUMENT
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_trainer_set_progress(lora_trainer *t, lora_progress_fn fn, void *user);

/* Memory that training takes, in bytes. */
typedef struct lora_memory_estimate {
	uint32_t struct_size;
	int32_t  reserved;
	int64_t  tokens;      /* rows that the estimate is for */
	uint64_t weights;     /* frozen weights that stay in memory as they are; pages of packed ones are given back */
	uint64_t packed;      /* frozen weights in the backend's layout */
	uint64_t adapter;     /* parameters and gradients */
	uint64_t optimizer;   /* its state */
	uint64_t activations; /* kept between forward and backward */
	uint64_t scratch;     /* of single operations */
	uint64_t other;       /* all else that the context holds: names, tables, plans */
	uint64_t backend;     /* about what the backend keeps for itself: scratch, kernels made at run time */
	uint64_t allocated;   /* what lora_context_memory() will tell, the backend's own apart: all of the above but mapped weights */
	uint64_t peak;        /* the sum: resident memory, the program and its data apart */
} lora_memory_estimate;

/* What training on micro-batches of this shape will take, computed from the plan that will run; nothing large is allocated and nothing computed.
 * n_sequences, length  of the largest micro-batch
 * tokens   of them without padding; 0 = all
 * out      caller's memory; out->struct_size must be set by the caller
 * Errors   LORA_E_ARGUMENT; LORA_E_STATE the adapter is not attached or merged; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_trainer_estimate(lora_trainer *t, int64_t n_sequences, int64_t length, int64_t tokens, lora_memory_estimate *out);

/* Take that memory now: the arena and all tables. Weights are packed by the first step; later ones, on batches that are no larger, allocate nothing.
 * Without this call the first step reserves for its own batch.
 * n_sequences, length, tokens  as of lora_trainer_estimate()
 * Errors   as lora_trainer_estimate()
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_trainer_reserve(lora_trainer *t, int64_t n_sequences, int64_t length, int64_t tokens);

/* One micro-batch: forward, backward, and the update when gradient_accumulation_steps batches are in.
 * batch    borrowed for the call; labels required
 * metrics  may be NULL; struct_size set by the caller
 * Errors   LORA_E_NUMERIC loss or gradient not finite: the step was skipped and counted (moments and step count unchanged; only after 20
 *          in a row is it an error); LORA_E_CANCELLED (the step is done and metrics are filled); LORA_E_STATE an adapter is merged; LORA_E_SHAPE; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_trainer_step(lora_trainer *t, const lora_batch *batch, lora_metrics *metrics);

/* Mean loss over batches without changing anything. Dropout is off.
 * batches  n batches
 * loss     mean over all counted tokens; tokens may be NULL
 * Errors   as lora_model_loss
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_trainer_evaluate(lora_trainer *t, const lora_batch *batches, int64_t n, double *loss, int64_t *tokens);

/* Write a checkpoint directory: adapter parameters, optimizer state, step and micro-step, accumulated gradients, generator state,
 * settings, digest of the base. The two newest checkpoints in path are kept. Atomic and durable.
 * cursor   a number of the caller's, given back by lora_trainer_resume() (position in the data)
 * Errors   LORA_E_IO, LORA_E_MEMORY; the older checkpoint is still there on error
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_trainer_save(lora_trainer *t, const char *path, int64_t cursor);

/* Take up the newest whole checkpoint in path; training goes on with the same bits as if it had never stopped (same backend and threads).
 * cursor   may be NULL
 * Errors   LORA_E_NOTFOUND none there; LORA_E_FORMAT, LORA_E_SHAPE, LORA_E_STATE other settings or another base; unchanged on error
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_trainer_resume(lora_trainer *t, const char *path, int64_t *cursor);

/* Release a trainer. NULL is a no-op.
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API void lora_trainer_destroy(lora_trainer *t);

#ifdef __cplusplus
}
#endif
#endif
