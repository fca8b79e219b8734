/* Checkpoints that resume bit for bit. One directory per checkpoint, written beside and put in place by one rename; in it one safetensors file:
 * parameters, moments and (in the middle of an accumulation) gradients in their training precision, and in the metadata the trainer's state, the
 * settings that decide the arithmetic, a digest of the base, and a digest over everything. Dropout needs no generator state: its draws are a
 * function of seed and micro-batch number. A resume looks at everything before it changes anything. */
#include <stdio.h>

#include "train/train.h"

#define FORMAT "liblora-checkpoint"

static uint32_t contents(int64_t micro) { return LORA__STATE_PARAMS | LORA__STATE_SLOTS | (micro > 0 ? LORA__STATE_GRADS : 0); }

/* ---- save ---- */

static lora_status write_one(lora_trainer *t, const char *dir, const char *state)
{
	lora_context *ctx = t->ctx;
	lora__statelist live = { .n = 0 };
	lora__dir d;
	char digest[17];
	lora_status st = lora__state_list(t->o, contents(t->micro), &live);
	if (st) return st;
	lora__state_digest(live.list, live.n, state, digest);
	json_t *metadata = json_pack("{s:s, s:s, s:s, s:s}", "format", FORMAT, "version", "1", "state", state, "digest", digest);
	if (!metadata) st = lora__fail(ctx, LORA_E_MEMORY, "trainer", "out of memory");
	if (st == LORA_OK && (st = lora__dir_begin(ctx, dir, &d)) == LORA_OK) {
		st = lora__safetensors_write_dir(&d, LORA__CHECKPOINT_FILE, live.list, live.n, metadata);
		if (st) lora__dir_abort(&d);
		else st = lora__dir_commit(&d);
	}
	json_decref(metadata);
	lora__state_free(ctx, &live);
	return st;
}

/* Everything but the newest t->keep readable checkpoints goes. found is what was there before; written is the new one. */
static void prune(lora_trainer *t, const lora__ckpts *found, const char *written)
{
	int64_t kept = 1;
	for (size_t i = 0; i < found->n; i++) {
		if (found->list[i].sequence < 0 || strcmp(found->list[i].dir, written) == 0) continue;
		if (++kept > t->keep) lora__ckpt_remove(t->ctx, found->list[i].dir);
	}
}

lora_status lora__trainer_save(lora_trainer *t, const char *path, int64_t cursor)
{
	lora_context *ctx = t->ctx;
	lora__ckpts found = { .n = 0 };
	lora__text state;
	char name[64], *dir = NULL;
	lora__text_init(&state, ctx);
	lora_status st = lora__ckpt_folder(ctx, path);
	if (st == LORA_OK) st = lora__ckpts_find(ctx, path, &found);
	if (st) goto done;
	int64_t sequence = found.n && found.list[0].sequence >= 0 ? found.list[0].sequence + 1 : 1;
	if ((st = lora__trainer_state_text(t, sequence, cursor, &state))) goto done;
	if (t->micro) snprintf(name, sizeof name, "step-%08lld-%lld", (long long)t->step, (long long)t->micro);
	else snprintf(name, sizeof name, "step-%08lld", (long long)t->step);
	st = LORA_E_MEMORY;
	if (!(dir = lora__path_join(ctx, path, name))) goto done;
	if ((st = write_one(t, dir, state.data))) goto done;
	prune(t, &found, dir);
done:
	lora__free(ctx, dir);
	lora__text_free(&state);
	lora__ckpts_free(ctx, &found);
	return st;
}

/* ---- resume ---- */

static const char *meta(const lora__tensors *t, const char *key)
{
	const char *v = json_string_value(json_object_get(t->metadata, key));
	return v ? v : "";
}

/* Whole and of this format: whether it fits this trainer is another question. */
static lora_status check_whole(lora_context *ctx, const lora__tensors *file)
{
	char digest[17];
	if (strcmp(meta(file, "format"), FORMAT)) return lora__fail(ctx, LORA_E_FORMAT, "trainer", "this is no checkpoint of liblora");
	if (strcmp(meta(file, "version"), "1"))
		return lora__fail(ctx, LORA_E_UNSUPPORTED, "trainer", "version %s of the checkpoint is not known to this library", lora__quote(meta(file, "version")).text);
	lora__state_digest(file->list, file->n, meta(file, "state"), digest);
	if (strcmp(digest, meta(file, "digest"))) return lora__fail(ctx, LORA_E_FORMAT, "trainer", "the digest is wrong: the file was damaged");
	return LORA_OK;
}

static void take(lora_trainer *t, const lora__tensors *file, const lora__statelist *live, const lora__trainer_state *s)
{
	lora__adapter_clear_grads(t->a);
	lora__state_take(file, live);
	lora__adapter_changed(t->a);
	t->o->opt->t = s->optimizer_step;
	t->step = s->step, t->micro = s->micro, t->micro_total = s->micro_total;
	t->skipped = s->skipped, t->skipped_in_row = s->skipped_in_row;
	t->run = s->run;
}

/* Shapes first, then settings, then everything: so that the first thing that differs is what the error names. */
static lora_status take_up(lora_trainer *t, const lora__tensors *file, int64_t *cursor)
{
	lora__statelist params = { .n = 0 }, live = { .n = 0 };
	lora__trainer_state s;
	lora_status st = lora__state_list(t->o, LORA__STATE_PARAMS, &params);
	if (st == LORA_OK) st = lora__state_check(t->ctx, file, &params, 0);
	if (st == LORA_OK) st = lora__trainer_state_read(t, meta(file, "state"), &s);
	if (st == LORA_OK) st = lora__state_list(t->o, contents(s.micro), &live);
	if (st == LORA_OK) st = lora__state_check(t->ctx, file, &live, 1);
	if (st == LORA_OK) {
		take(t, file, &live, &s);
		*cursor = s.cursor;
	}
	lora__state_free(t->ctx, &params);
	lora__state_free(t->ctx, &live);
	return st;
}

/* LORA_OK with *whole 0 when this checkpoint is damaged and an older one may serve. */
static lora_status try_one(lora_trainer *t, const char *dir, int64_t *cursor, int *whole)
{
	lora__tensors file;
	char *path = lora__path_join(t->ctx, dir, LORA__CHECKPOINT_FILE);
	*whole = 0;
	if (!path) return LORA_E_MEMORY;
	lora_status st = lora__safetensors_read(t->ctx, path, &file);
	if (st == LORA_OK) {
		st = check_whole(t->ctx, &file);
		*whole = st == LORA_OK;
		if (st == LORA_OK) st = take_up(t, &file, cursor);
		lora__tensors_close(&file);
	}
	if (st) st = lora__fail_prefix(t->ctx, st, "%s: ", lora__quote(path).text);
	lora__free(t->ctx, path);
	if (*whole || st == LORA_E_MEMORY || st == LORA_E_IO || st == LORA_E_UNSUPPORTED) return st;
	lora__log(t->ctx, LORA_LOG_WARN, "trainer", "checkpoint passed over: %s", lora_context_last_error(t->ctx));
	return LORA_OK;
}

lora_status lora__trainer_resume(lora_trainer *t, const char *path, int64_t *cursor)
{
	lora__ckpts found;
	int whole = 0;
	if (t->a->merged) return lora__fail(t->ctx, LORA_E_STATE, "trainer", "the adapter is merged; unmerge it to resume");
	lora_status st = lora__ckpts_find(t->ctx, path, &found);
	if (st) return st;
	for (size_t i = 0; i < found.n && !whole && st == LORA_OK; i++) st = try_one(t, found.list[i].dir, cursor, &whole);
	if (st == LORA_OK && !whole) {
		if (found.n) st = lora__fail(t->ctx, LORA_E_FORMAT, "trainer", "%s: no checkpoint is whole; the last one: %s", lora__quote(path).text, t->ctx->error.message);
		else st = lora__fail(t->ctx, LORA_E_NOTFOUND, "trainer", "%s: no checkpoint there", lora__quote(path).text);
	}
	lora__ckpts_free(t->ctx, &found);
	return st;
}
