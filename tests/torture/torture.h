/* The allocation sweep: every public call runs once for each n with its n-th allocation failing, once only that one, once it and all
 * later ones. It must answer LORA_E_MEMORY, leave every object as it was, leak nothing, and then succeed with the result of a call that
 * was never disturbed. A call is one row in a table calls_*.c; a world holds the objects that it works on. */
#ifndef LORA_TESTS_TORTURE_H
#define LORA_TESTS_TORTURE_H

#include "check_alloc.h"

/* What a call needs before it runs; later ones imply earlier ones where they must. */
enum {
	WITH_SETTINGS  = 1,    /* w->settings, three pairs */
	WITH_HOST      = 2,    /* w->model: two F32 sites of the host's */
	WITH_LLAMA     = 4,    /* w->model: a tiny Llama, BF16 */
	WITH_ADAPTER   = 8,    /* w->a on w->model, attached, B not zero */
	WITH_SECOND    = 16,   /* w->b likewise */
	WITH_OPTIMIZER = 32,   /* w->optimizer of w->a */
	WITH_TRAINER   = 64,   /* w->trainer */
	WITH_TOKENIZER = 128,  /* w->tokenizer: the demo's */
	WITH_GENERATOR = 256,  /* w->generator, fed with three tokens */
	WITH_DIR       = 512,  /* w->dir, empty and writable */
	NO_CONTEXT     = 1024  /* not even w->ctx */
};

enum { HOST_OUT = 6, HOST_IN = 10, BATCH_B = 2, BATCH_T = 7, VOCABULARY = 48 };

typedef struct world {
	check_alloc     ca;
	unsigned        needs;
	lora_context   *ctx;
	lora_settings  *settings;
	lora_model     *model;
	lora_adapter   *a, *b;
	lora_optimizer *optimizer;
	lora_trainer   *trainer;
	lora_tokenizer *tokenizer;
	lora_generator *generator;
	void           *made;                  /* what the call made, and how to release it */
	void (*destroy_made)(void *made);
	char            dir[96];
	float           host[2][HOST_OUT * HOST_IN];
	float           x[4 * HOST_IN], y[4 * HOST_OUT], dx[4 * HOST_IN];
	int32_t         ids[BATCH_B * BATCH_T];
	float           logits[BATCH_B * BATCH_T * VOCABULARY];
	double          loss;
	int32_t         tokens[4];
	lora_batch      batch;
	char            text[4096];
	size_t          size;
} world;

typedef struct torture_call {
	const char *name;
	unsigned    needs;
	lora_status (*prepare)(world *w); /* after the world is made, before the failing call; may be NULL */
	lora_status (*call)(world *w);
} torture_call;

/* Build and take down. A world that can't be built names the reason. */
lora_status world_make(world *w, unsigned needs);
void        world_free(world *w);
/* A number that changes when any object of the world changes. */
uint64_t world_digest(world *w);
/* A setting set from JSON; w->ctx must be there. */
lora_status world_settings(world *w, const char *json, lora_settings **out);

#define MADE(w, destroy, handle) ((w)->made = (handle), (w)->destroy_made = (void (*)(void *))(destroy))

/* Leave a function when a step of it fails. */
#define TRY_FIRST(call)                 \
	do {                                \
		lora_status try_st = (call);    \
		if (try_st) return try_st;      \
	} while (0)

/* Tables end with a row without name. */
extern const torture_call calls_base[], calls_model[], calls_adapter[], calls_train[], calls_text[];

#endif
