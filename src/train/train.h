/* Training: an optimizer bound to one adapter, the trainer around both, and its checkpoints. */
#ifndef LORA_TRAIN_TRAIN_H
#define LORA_TRAIN_TRAIN_H

#include "adapter/adapter.h"
#include "lora/trainer.h"
#include "model/model.h"
#include "optim/optim.h"
#include "train/strategy.h"

/* ---- an optimizer of one adapter (binding.c, optstate.c) ---- */

struct lora_optimizer {
	lora_context *ctx;
	atomic_int    refs;
	lora_adapter *a; /* holds a reference */
	lora__opt    *opt;
};

lora_status lora__optimizer_create(lora_adapter *a, const char *name, const lora_settings *settings, lora_optimizer **out);
void        lora__optimizer_retain(lora_optimizer *o);
void        lora__optimizer_release(lora_optimizer *o);
lora_status lora__optimizer_step(lora_optimizer *o, double lr_scale);
lora_status lora__optimizer_save(lora_optimizer *o, const char *path);
lora_status lora__optimizer_load(lora_optimizer *o, const char *path);
void        lora__adapter_clear_grads(lora_adapter *a);

/* Tensors of a state file, with the memory of their names. */
typedef struct lora__statelist { lora__tensor *list; size_t n; char *names; } lora__statelist;
enum { LORA__STATE_PARAMS = 1, LORA__STATE_SLOTS = 2, LORA__STATE_GRADS = 4 };
/* The tensors "param.<name>", "<slot>.<name>", "grad.<name>" of the adapter and its optimizer, as views of the live memory. */
lora_status lora__state_list(lora_optimizer *o, uint32_t what, lora__statelist *out);
void        lora__state_free(lora_context *ctx, lora__statelist *l);
/* Look whether a file has the tensors of the live list (and_no_more: and no other), with their types and shapes and finite values.
 * LORA_E_SHAPE of another adapter; LORA_E_STATE gradients of another type; LORA_E_FORMAT. */
lora_status lora__state_check(lora_context *ctx, const lora__tensors *file, const lora__statelist *live, int and_no_more);
/* Copy the file's values into the live memory. Can't fail after lora__state_check(). */
void        lora__state_take(const lora__tensors *file, const lora__statelist *live);
/* Digest of tensors and of one text, as 16 hexadecimal digits. */
void        lora__state_digest(const lora__tensor *list, size_t n, const char *text, char out[17]);

/* ---- the trainer ---- */

enum { LORA__SKIPS_IN_A_ROW = 20 };

/* What the running accumulation has summed up so far. */
typedef struct lora__running {
	double  loss;     /* sum over tokens, or sum of the micro-batches' means */
	int64_t labels, rows;
	int     poisoned; /* a loss was not finite: the step will be skipped */
	double  seconds;
} lora__running;

struct lora_trainer {
	lora_context   *ctx;
	lora_model     *m;
	lora_adapter   *a;
	lora_optimizer *o;
	atomic_int      busy;     /* a call is running: no second one, and none from the callback */
	int             doomed;   /* destroyed from its own callback */
	lora_progress_fn progress;
	void           *progress_user;
	/* settings */
	int64_t         accumulation;
	int             by_tokens, checkpointing;
	double          max_norm;
	uint64_t        seed;
	int64_t         keep;     /* checkpoints kept */
	lora__sched     sched;
	lora__strat     strat;
	/* state */
	int64_t         step, micro, micro_total, skipped, skipped_in_row;
	lora__running   run;
	int             reserved; /* memory was taken for some batch */
	char           *undo;     /* gradients before the micro-batch; NULL without accumulation */
	double          grad_norm, lr;
};

extern const lora__member lora__trainer_member; /* family "trainer" */

lora_status lora__trainer_create(lora_model *m, lora_adapter *a, lora_optimizer *o, const lora_settings *settings, lora_trainer **out);
void        lora__trainer_free(lora_trainer *t);
lora_status lora__trainer_usable(const lora_trainer *t); /* the adapter is attached, not merged, not frozen */
lora_status lora__trainer_step(lora_trainer *t, const lora_batch *batch, lora_metrics *out, int *updated);
lora_status lora__trainer_evaluate(lora_trainer *t, const lora_batch *batches, int64_t n, double *loss, int64_t *tokens);

/* ---- memory (memory.c) ---- */

/* A micro-batch of n_sequences x length with tokens real ones (0 = all). reserve takes all memory that its steps need, packed weights too. */
lora_status lora__trainer_estimate(lora_trainer *t, int64_t n_sequences, int64_t length, int64_t tokens, lora_memory_estimate *out);
lora_status lora__trainer_reserve(lora_trainer *t, int64_t n_sequences, int64_t length, int64_t tokens);

/* ---- checkpoints ---- */

#define LORA__CHECKPOINT_FILE "state.safetensors"

lora_status lora__trainer_save(lora_trainer *t, const char *path, int64_t cursor);
lora_status lora__trainer_resume(lora_trainer *t, const char *path, int64_t *cursor);

/* One checkpoint directory found in path. sequence counts saves; -1 = unreadable. */
typedef struct lora__ckpt { char *dir; int64_t sequence; } lora__ckpt;
typedef struct lora__ckpts { lora__ckpt *list; size_t n, cap; } lora__ckpts;
/* All checkpoints in path, the newest first. A missing path has none. */
lora_status lora__ckpts_find(lora_context *ctx, const char *path, lora__ckpts *out);
void        lora__ckpts_free(lora_context *ctx, lora__ckpts *c);
/* Remove a checkpoint directory of ours; failures are logged only. */
void        lora__ckpt_remove(lora_context *ctx, const char *dir);
/* Make the folder that holds checkpoints, durably; LORA_OK when it is there. */
lora_status lora__ckpt_folder(lora_context *ctx, const char *path);

/* The settings and facts that decide the arithmetic, as one JSON object. NULL = out of memory, recorded. */
json_t *lora__trainer_config(lora_trainer *t);
/* The trainer's state as JSON text, and back: all of it is checked before anything is taken. */
lora_status lora__trainer_state_text(lora_trainer *t, int64_t sequence, int64_t cursor, lora__text *out);
typedef struct lora__trainer_state {
	int64_t       step, micro, micro_total, skipped, skipped_in_row, cursor, sequence, optimizer_step;
	lora__running run;
} lora__trainer_state;
lora_status lora__trainer_state_read(lora_trainer *t, const char *text, lora__trainer_state *out);

#endif
