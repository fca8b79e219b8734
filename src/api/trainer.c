/* Exported functions of trainer.h: argument checks, one call at a time, the progress callback. The work is in train/. */
#include <stddef.h>

#include "train/train.h"

static lora_status null(lora_context *ctx, const char *function, const char *argument)
{
	return lora__fail_at(ctx, LORA_E_ARGUMENT, "trainer", argument, -1, "%s: %s is NULL", function, argument);
}

/* A call from the callback or from a second thread must not find a half-done step. */
static lora_status enter(lora_trainer *t)
{
	if (atomic_exchange(&t->busy, 1) == 0) return LORA_OK;
	return lora__fail(t->ctx, LORA_E_STATE, "trainer", "a call on this trainer is running (the progress callback must not call back into it)");
}

static lora_status leave(lora_trainer *t, lora_status st)
{
	atomic_store(&t->busy, 0);
	if (t->doomed) lora__trainer_free(t);
	return st;
}

lora_status lora_trainer_create(lora_model *m, lora_adapter *a, lora_optimizer *o, const lora_settings *settings, lora_trainer **out)
{
	if (out) *out = NULL;
	if (!m) return LORA_E_ARGUMENT;
	if (!a || !o || !out) return null(m->s.ctx, "lora_trainer_create", !a ? "a" : !o ? "o" : "out");
	return lora__trainer_create(m, a, o, settings, out);
}

lora_status lora_trainer_set_progress(lora_trainer *t, lora_progress_fn fn, void *user)
{
	if (!t) return LORA_E_ARGUMENT;
	lora_status st = enter(t);
	if (st) return st;
	t->progress = fn, t->progress_user = user;
	return leave(t, LORA_OK);
}

static lora_status report(lora_trainer *t, const lora_metrics *m)
{
	int32_t answer = t->progress ? t->progress(t->progress_user, m) : 0;
	if (!answer) return LORA_OK;
	lora_status st = lora__fail(t->ctx, LORA_E_CANCELLED, "trainer", "cancelled by the progress callback after step %lld", (long long)m->step);
	t->ctx->error.value = answer;
	return st;
}

lora_status lora_trainer_step(lora_trainer *t, const lora_batch *batch, lora_metrics *metrics)
{
	lora_metrics m;
	int updated = 0;
	if (!t) return LORA_E_ARGUMENT;
	lora_status st = enter(t);
	if (st) return st;
	if (!batch || !batch->labels) return leave(t, null(t->ctx, "lora_trainer_step", batch ? "batch->labels" : "batch"));
	if (metrics && metrics->struct_size < offsetof(lora_metrics, step))
		return leave(t, lora__fail(t->ctx, LORA_E_ARGUMENT, "trainer", "lora_trainer_step: struct_size of metrics is not set"));
	st = lora__trainer_step(t, batch, &m, &updated);
	if (st == LORA_OK && updated) st = report(t, &m);
	if (metrics && (st == LORA_OK || st == LORA_E_CANCELLED)) {
		uint32_t size = metrics->struct_size;
		memcpy(metrics, &m, size < sizeof m ? size : sizeof m);
		metrics->struct_size = size;
	}
	return leave(t, st);
}

lora_status lora_trainer_estimate(lora_trainer *t, int64_t n_sequences, int64_t length, int64_t tokens, lora_memory_estimate *out)
{
	lora_memory_estimate e = { 0 };
	if (!t) return LORA_E_ARGUMENT;
	lora_status st = enter(t);
	if (st) return st;
	if (!out) return leave(t, null(t->ctx, "lora_trainer_estimate", "out"));
	if (out->struct_size < offsetof(lora_memory_estimate, tokens))
		return leave(t, lora__fail(t->ctx, LORA_E_ARGUMENT, "trainer", "lora_trainer_estimate: struct_size is not set"));
	if ((st = lora__trainer_estimate(t, n_sequences, length, tokens, &e)) == LORA_OK) {
		uint32_t size = out->struct_size;
		memcpy(out, &e, size < sizeof e ? size : sizeof e);
		out->struct_size = size;
	}
	return leave(t, st);
}

lora_status lora_trainer_reserve(lora_trainer *t, int64_t n_sequences, int64_t length, int64_t tokens)
{
	if (!t) return LORA_E_ARGUMENT;
	lora_status st = enter(t);
	return st ? st : leave(t, lora__trainer_reserve(t, n_sequences, length, tokens));
}

lora_status lora_trainer_evaluate(lora_trainer *t, const lora_batch *batches, int64_t n, double *loss, int64_t *tokens)
{
	double mean = 0;
	int64_t count = 0;
	if (!t) return LORA_E_ARGUMENT;
	lora_status st = enter(t);
	if (st) return st;
	if (n < 0) return leave(t, lora__fail_at(t->ctx, LORA_E_ARGUMENT, "trainer", "n", -1, "lora_trainer_evaluate: n is %lld", (long long)n));
	if ((n && !batches) || !loss) return leave(t, null(t->ctx, "lora_trainer_evaluate", loss ? "batches" : "loss"));
	if (n && (batches->struct_size < offsetof(lora_batch, reserved) || batches->struct_size % sizeof(int64_t)))
		return leave(t, lora__fail(t->ctx, LORA_E_ARGUMENT, "trainer", "lora_trainer_evaluate: struct_size of a batch is not set"));
	if ((st = lora__trainer_evaluate(t, batches, n, &mean, &count)) == LORA_OK) {
		*loss = mean;
		if (tokens) *tokens = count;
	}
	return leave(t, st);
}

lora_status lora_trainer_save(lora_trainer *t, const char *path, int64_t cursor)
{
	if (!t) return LORA_E_ARGUMENT;
	lora_status st = enter(t);
	if (st) return st;
	return leave(t, path && *path ? lora__trainer_save(t, path, cursor) : null(t->ctx, "lora_trainer_save", "path"));
}

lora_status lora_trainer_resume(lora_trainer *t, const char *path, int64_t *cursor)
{
	int64_t at = 0;
	if (!t) return LORA_E_ARGUMENT;
	lora_status st = enter(t);
	if (st) return st;
	st = path && *path ? lora__trainer_resume(t, path, &at) : null(t->ctx, "lora_trainer_resume", "path");
	if (st == LORA_OK && cursor) *cursor = at;
	return leave(t, st);
}

void lora_trainer_destroy(lora_trainer *t)
{
	if (!t) return;
	if (atomic_load(&t->busy)) t->doomed = 1; /* from its own callback: the running call frees it */
	else lora__trainer_free(t);
}
