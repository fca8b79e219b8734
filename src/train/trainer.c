/* The training step. A call is one micro-batch; when gradient_accumulation_steps of them are in, the update follows:
 *   g = sum of gradients / labelled tokens of all micro-batches (loss_average tokens), or mean of the micro-batches' means;
 *   norm = |g|; g = g * min(1, max_grad_norm / (norm + 1e-6)); lr = learning_rate * schedule(step); parameters by the optimizer.
 * Source: transformers.Trainer and torch.nn.utils.clip_grad_norm_. Averaging and clipping are one factor handed to the optimizer, so they cost
 * no pass over the gradients. Dropout of micro-batch k draws from a key made of seed and k: what was done before does not matter. */
#include <math.h>
#include <stddef.h>

#include "base/rng.h"
#include "train/train.h"

static const lora__param params[] = {
	{ "max_steps", LORA__INT, "-1", -1, 1e15, NULL, "optimizer steps planned; most schedules need it; -1 = not known. Training past it is not stopped" },
	{ "lr_scheduler_type", LORA__STRING, NULL, 0, 0, NULL, "member of family schedule, whose settings are taken here too; default linear when max_steps is "
	  "set, else constant" },
	{ "warmup_steps", LORA__INT, "0", 0, 1e15, NULL, "steps of the schedule's rise" },
	{ "warmup_ratio", LORA__FLOAT, "0.0", 0, 1, NULL, "the same as a share of max_steps, rounded up; counts when warmup_steps is 0" },
	{ "max_grad_norm", LORA__FLOAT, "1.0", 0, 1e30, NULL, "gradients with a larger global norm are scaled down to it; 0 = off" },
	{ "gradient_accumulation_steps", LORA__INT, "1", 1, 1e9, NULL, "micro-batches per optimizer step" },
	{ "loss_average", LORA__STRING, "tokens", 0, 0, "tokens|micro_batches", "mean over all labelled tokens of a step, or mean of the micro-batches' means" },
	{ "gradient_checkpointing", LORA__BOOL, "false", 0, 0, NULL, "keep block boundaries only and compute each block's forward again: less memory, same bits" },
	{ "seed", LORA__INT, "0", 0, 9e15, NULL, "seed of dropout and of the strategy" },
	{ "strategy", LORA__STRING, "none", 0, 0, NULL, "member of family strategy, whose settings are taken here too" },
	{ "save_total_limit", LORA__INT, "2", 1, 1e6, NULL, "checkpoints kept by lora_trainer_save" },
	{ .name = NULL }
};
const lora__member lora__trainer_member = { "trainer", "the training step: accumulation, clipping, schedule, checkpoints", "transformers.Trainer", params };

/* ---- creation ---- */

static lora_status check_objects(lora_model *m, lora_adapter *a, lora_optimizer *o)
{
	lora_context *ctx = m->s.ctx;
	if (!m->arch) return lora__fail(ctx, LORA_E_STATE, "trainer", "this model has host-owned sites and no graph to train through");
	if (a->sites != &m->s) return lora__fail(ctx, LORA_E_STATE, "trainer", "the adapter is of another model");
	if (o->a != a) return lora__fail(ctx, LORA_E_STATE, "trainer", "the optimizer is of another adapter");
	return LORA_OK;
}

lora_status lora__trainer_usable(const lora_trainer *t)
{
	if (t->a->merged) return lora__fail(t->ctx, LORA_E_STATE, "trainer", "the adapter is merged; unmerge it to train");
	if (!t->a->attached) return lora__fail(t->ctx, LORA_E_STATE, "trainer", "the adapter is not attached");
	if (!t->a->trainable) return lora__fail(t->ctx, LORA_E_STATE, "trainer", "the adapter is frozen (lora_adapter_set_trainable)");
	return LORA_OK;
}

static lora_status choose_schedule(lora_context *ctx, const lora_settings *s, const lora__schedule **out)
{
	const json_t *v = lora__get_json(s, "lr_scheduler_type");
	const char *standard = lora__get_int(s, params, "max_steps") > 0 ? "linear" : "constant", *name = v ? json_string_value(v) : standard;
	*out = lora__schedule_find(name);
	if (*out || !name) return LORA_OK; /* not a string: the check of all settings says so */
	const char *names[64];
	size_t n = 0;
	for (; lora__schedules[n] && n < 64; n++) names[n] = lora__schedules[n]->m.name;
	const char *near = lora__nearest(name, names, n);
	return lora__fail_at(ctx, LORA_E_ARGUMENT, "trainer", "lr_scheduler_type", -1, "lr_scheduler_type: there is no schedule \"%s\"%s%s%s",
		lora__quote(name).text, near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
}

static lora_status read_schedule(lora_trainer *t, const lora_settings *s, const lora__schedule *kind)
{
	int64_t total = lora__get_int(s, params, "max_steps"), warmup = lora__get_int(s, params, "warmup_steps");
	double ratio = lora__get_float(s, params, "warmup_ratio");
	if (warmup == 0 && ratio > 0) {
		if (total <= 0) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "trainer", "warmup_ratio", -1, "warmup_ratio needs max_steps");
		warmup = (int64_t)ceil((double)total * ratio);
	}
	return lora__sched_create(t->ctx, kind, s, warmup, total > 0 ? total : 0, t->o->opt->hyper[0], &t->sched);
}

static lora_status read_settings(lora_trainer *t, const lora_settings *s)
{
	const lora__schedule *kind = NULL;
	const lora__strategy *strategy = NULL;
	lora_status st = choose_schedule(t->ctx, s, &kind);
	if (st == LORA_OK) st = lora__strategy_find(t->ctx, s, &strategy);
	if (st == LORA_OK) st = lora__settings_check(t->ctx, s, "trainer", params, kind ? kind->m.params : NULL, strategy ? strategy->m.params : NULL);
	if (st == LORA_OK) st = read_schedule(t, s, kind);
	if (st == LORA_OK) st = lora__strat_create(t->a, strategy, s, lora__get_int(s, params, "max_steps"), (uint64_t)lora__get_int(s, params, "seed"), &t->strat);
	if (st) return st;
	t->accumulation = lora__get_int(s, params, "gradient_accumulation_steps");
	t->by_tokens = strcmp(lora__get_string(s, params, "loss_average"), "tokens") == 0;
	t->checkpointing = lora__get_bool(s, params, "gradient_checkpointing");
	t->max_norm = lora__get_float(s, params, "max_grad_norm");
	t->seed = (uint64_t)lora__get_int(s, params, "seed");
	t->keep = lora__get_int(s, params, "save_total_limit");
	if (t->accumulation > 1 && !(t->undo = lora__calloc(t->ctx, t->a->n_params, lora__dtype_size(lora__wide(t->m->s.real))))) return LORA_E_MEMORY;
	return LORA_OK;
}

lora_status lora__trainer_create(lora_model *m, lora_adapter *a, lora_optimizer *o, const lora_settings *settings, lora_trainer **out)
{
	lora_context *ctx = m->s.ctx;
	lora_status st = check_objects(m, a, o);
	if (st) return st;
	lora_trainer *t = lora__zalloc(ctx, sizeof *t);
	if (!t) return LORA_E_MEMORY;
	t->ctx = ctx, t->m = m, t->a = a, t->o = o;
	atomic_init(&t->busy, 0);
	lora__context_retain(ctx);
	lora__sites_retain(&m->s);
	lora__adapter_retain(a);
	lora__optimizer_retain(o);
	st = lora__trainer_usable(t);
	if (st == LORA_OK) st = read_settings(t, settings);
	if (st) lora__trainer_free(t);
	else *out = t;
	return st;
}

void lora__trainer_free(lora_trainer *t)
{
	lora_context *ctx = t->ctx;
	lora__strat_free(&t->strat);
	lora__optimizer_release(t->o);
	lora__adapter_release(t->a);
	lora__sites_release(&t->m->s);
	lora__free(ctx, t->undo);
	lora__free(ctx, t);
	lora__context_release(ctx);
}

/* ---- the step ---- */

static size_t grad_bytes(const lora_trainer *t) { return t->a->n_params * lora__dtype_size(lora__wide(t->m->s.real)); }

/* Pack every weight in one go before the first batch: packed one by one as the passes reach them, all plain weights would still be in memory. */
static lora_status first_time(lora_trainer *t, const lora_batch *batch)
{
	if (t->reserved || batch->struct_size < offsetof(lora_batch, reserved) || batch->n_sequences < 1 || batch->length < 1) return LORA_OK;
	lora_status st = lora__trainer_reserve(t, batch->n_sequences, batch->length, 0);
	return st == LORA_E_ARGUMENT ? LORA_OK : st; /* a bad shape: the pass says so in its own words */
}

/* One forward and backward. A loss that is not finite is noted; any other failure leaves gradients and sums as they were. */
static lora_status micro_batch(lora_trainer *t, const lora_batch *batch)
{
	double start = lora__now();
	lora__pass p = { .batch = batch, .backward = 1, .checkpoint = t->checkpointing, .train = 1, .mean = !t->by_tokens,
		.key = lora__rng_key(t->seed, LORA__RNG_DROPOUT, (uint64_t)t->micro_total), .grad_scale = t->by_tokens ? 1.0 : 1.0 / (double)t->accumulation };
	lora_status st = first_time(t, batch);
	if (st) return st;
	if (t->micro == 0) lora__adapter_clear_grads(t->a);
	else memcpy(t->undo, t->a->grads, grad_bytes(t));
	lora__strat_begin(&t->strat);
	st = lora__model_pass(t->m, &p);
	lora__strat_end(&t->strat);
	if (st && st != LORA_E_NUMERIC) {
		if (t->micro == 0) lora__adapter_clear_grads(t->a);
		else memcpy(t->a->grads, t->undo, grad_bytes(t));
		return st;
	}
	if (t->micro == 0) t->run = (lora__running){ .loss = 0 };
	t->run.labels += p.n_labels;
	t->run.rows += p.n_rows;
	t->run.loss += t->by_tokens ? p.loss_sum : p.n_labels ? p.loss_sum / (double)p.n_labels : 0.0;
	t->run.poisoned |= st == LORA_E_NUMERIC;
	t->run.seconds += lora__now() - start;
	t->micro++;
	t->micro_total++;
	return LORA_OK;
}

static lora_status skip(lora_trainer *t)
{
	const char *why = t->run.labels ? "loss or gradient not finite" : "no labelled tokens";
	t->skipped++;
	t->skipped_in_row++;
	lora__log(t->ctx, LORA_LOG_WARN, "trainer", "step %lld skipped: %s", (long long)t->step + 1, why);
	if (t->skipped_in_row < LORA__SKIPS_IN_A_ROW) return LORA_OK;
	return lora__fail(t->ctx, LORA_E_NUMERIC, "trainer", "%lld steps in a row were skipped, the last one because of: %s", (long long)t->skipped_in_row, why);
}

/* All micro-batches are in. */
static lora_status update(lora_trainer *t, int *updated)
{
	double start = lora__now(), sum = 0, factor = t->by_tokens && t->run.labels ? 1.0 / (double)t->run.labels : 1.0, clip = 1.0;
	lora_dtype real = lora__wide(t->m->s.real);
	lora_status st = lora__opt_sumsq(t->ctx, t->a->grads, real, t->a->n_params, &sum);
	if (st == LORA_OK) {
		t->grad_norm = sqrt(sum) * factor;
		if (t->run.poisoned || !isfinite(t->grad_norm) || !t->run.labels) {
			st = skip(t);
		} else {
			if (t->max_norm > 0 && t->grad_norm + 1e-6 > t->max_norm) clip = t->max_norm / (t->grad_norm + 1e-6);
			st = lora__strat_update(&t->strat, t->o->opt, lora__sched_factor(&t->sched, t->step), factor * clip);
			*updated = st == LORA_OK;
		}
	}
	if (*updated) t->step++, t->skipped_in_row = 0;
	lora__adapter_clear_grads(t->a);
	t->micro = 0;
	t->run.seconds += lora__now() - start;
	return st;
}

/* out: always filled when the micro-batch was taken. */
lora_status lora__trainer_step(lora_trainer *t, const lora_batch *batch, lora_metrics *out, int *updated)
{
	*updated = 0;
	lora_status st = lora__trainer_usable(t);
	if (st) return st;
	lora__strat_seek(&t->strat, t->step);
	t->lr = t->sched.lr * lora__sched_factor(&t->sched, t->step);
	t->grad_norm = 0;
	int64_t within = t->micro + 1;
	if ((st = micro_batch(t, batch))) return st;
	if (within == t->accumulation) st = update(t, updated);
	*out = (lora_metrics){ .struct_size = sizeof *out, .updated = *updated, .step = t->step, .micro_step = t->micro, .lr = t->lr, .grad_norm = t->grad_norm,
		.loss = t->by_tokens ? t->run.labels ? t->run.loss / (double)t->run.labels : 0.0 : t->run.loss / (double)within, .tokens = t->run.rows,
		.loss_tokens = t->run.labels, .skipped = t->skipped, .seconds = t->run.seconds, .layers = t->strat.n, .layers_active = t->strat.n_active };
	return st;
}

lora_status lora__trainer_evaluate(lora_trainer *t, const lora_batch *batches, int64_t n, double *loss, int64_t *tokens)
{
	double sum = 0;
	int64_t labels = 0;
	for (int64_t i = 0; i < n; i++) {
		/* the caller's batches may be of an older, shorter layout */
		lora__pass p = { .batch = (const lora_batch *)(const void *)((const char *)batches + (size_t)i * batches->struct_size) };
		if (!p.batch->labels) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "trainer", "labels", -1, "batch %lld has no labels", (long long)i);
		lora_status st = lora__model_pass(t->m, &p);
		if (st) return st;
		sum += p.loss_sum;
		labels += p.n_labels;
	}
	*loss = labels ? sum / (double)labels : 0.0;
	*tokens = labels;
	return LORA_OK;
}
