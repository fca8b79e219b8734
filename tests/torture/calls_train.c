/* optimizer.h and trainer.h in the allocation sweep. */
#include "torture.h"

static lora_status optimizer_create(world *w)
{
	lora_optimizer *o = NULL;
	lora_status     st = lora_optimizer_create(w->a, "adamw", NULL, &o);
	MADE(w, lora_optimizer_destroy, o);
	return st;
}

static lora_status backward(world *w) { return lora_model_backward(w->model, &w->batch, NULL, 0, &w->loss, NULL); }
static lora_status optimizer_step(world *w) { return lora_optimizer_step(w->optimizer, 1.0); }
static lora_status optimizer_zero_grad(world *w) { return lora_optimizer_zero_grad(w->optimizer); }

static lora_status optimizer_save(world *w)
{
	char path[128];
	snprintf(path, sizeof path, "%s/state.safetensors", w->dir);
	return lora_optimizer_save(w->optimizer, path);
}

static lora_status step_save_step(world *w)
{
	TRY_FIRST(backward(w));
	TRY_FIRST(optimizer_step(w));
	TRY_FIRST(optimizer_save(w));
	return optimizer_step(w);
}

static lora_status optimizer_load(world *w)
{
	char path[128];
	snprintf(path, sizeof path, "%s/state.safetensors", w->dir);
	return lora_optimizer_load(w->optimizer, path);
}

static lora_status trainer_create(world *w)
{
	lora_trainer *t = NULL;
	lora_status   st = lora_trainer_create(w->model, w->a, w->optimizer, NULL, &t);
	MADE(w, lora_trainer_destroy, t);
	return st;
}

static lora_status trainer_step(world *w) { return lora_trainer_step(w->trainer, &w->batch, NULL); }

static lora_status trainer_other_shape(world *w)
{
	lora_batch small = w->batch;
	small.n_sequences = 1, small.length = 5;
	return lora_trainer_step(w->trainer, &small, NULL);
}

static lora_status trainer_evaluate(world *w) { return lora_trainer_evaluate(w->trainer, &w->batch, 1, &w->loss, NULL); }
static lora_status trainer_reserve(world *w) { return lora_trainer_reserve(w->trainer, 2, 9, 0); }

static lora_status trainer_estimate(world *w)
{
	lora_memory_estimate e = { .struct_size = sizeof e };
	return lora_trainer_estimate(w->trainer, 2, 9, 0, &e);
}

static lora_status trainer_save(world *w) { return lora_trainer_save(w->trainer, w->dir, 17); }

static lora_status step_save_twice(world *w)
{
	TRY_FIRST(trainer_step(w));
	TRY_FIRST(trainer_save(w));
	TRY_FIRST(trainer_step(w));
	return trainer_save(w);
}

static lora_status step_save_step_more(world *w)
{
	TRY_FIRST(step_save_twice(w));
	return trainer_step(w);
}

static lora_status trainer_resume(world *w) { return lora_trainer_resume(w->trainer, w->dir, NULL); }

enum { TRAIN = WITH_LLAMA | WITH_ADAPTER | WITH_OPTIMIZER, ALL = TRAIN | WITH_TRAINER };

const torture_call calls_train[] = {
	{ "lora_optimizer_create", WITH_LLAMA | WITH_ADAPTER, NULL, optimizer_create },
	{ "lora_optimizer_step, first", TRAIN, backward, optimizer_step },
	{ "lora_optimizer_step, later", TRAIN | WITH_DIR, step_save_step, optimizer_step },
	{ "lora_optimizer_zero_grad", TRAIN, backward, optimizer_zero_grad },
	{ "lora_optimizer_save", TRAIN | WITH_DIR, backward, optimizer_save },
	{ "lora_optimizer_load", TRAIN | WITH_DIR, step_save_step, optimizer_load },
	{ "lora_trainer_create", TRAIN, NULL, trainer_create },
	{ "lora_trainer_step, first", ALL, NULL, trainer_step },
	{ "lora_trainer_step, later", ALL, trainer_step, trainer_step },
	{ "lora_trainer_step, another shape", ALL, trainer_step, trainer_other_shape },
	{ "lora_trainer_evaluate", ALL, NULL, trainer_evaluate },
	{ "lora_trainer_estimate", ALL, NULL, trainer_estimate },
	{ "lora_trainer_reserve", ALL, NULL, trainer_reserve },
	{ "lora_trainer_save", ALL | WITH_DIR, trainer_step, trainer_save },
	{ "lora_trainer_save, third", ALL | WITH_DIR, step_save_twice, trainer_save },
	{ "lora_trainer_resume", ALL | WITH_DIR, step_save_step_more, trainer_resume },
	{ 0 },
};
