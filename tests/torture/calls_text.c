/* tokenizer.h and generate.h in the allocation sweep. */
#include "torture.h"

static lora_status tokenizer_open(world *w)
{
	lora_tokenizer *t = NULL;
	lora_status     st = lora_tokenizer_open(w->ctx, "examples/demo/model", &t);
	MADE(w, lora_tokenizer_destroy, t);
	return st;
}

static lora_status encode(world *w)
{
	static const char text[] = "One morning Tom went to the market, and he bought 3 apples.";
	static int32_t    ids[128];
	return lora_tokenizer_encode(w->tokenizer, text, sizeof text - 1, LORA_TOKENIZE_SPECIAL, ids, 128, &w->size);
}

static lora_status decode(world *w)
{
	static const int32_t ids[] = { 1, 40, 41, 42, 300, 301, 2 };
	return lora_tokenizer_decode(w->tokenizer, ids, 7, w->text, sizeof w->text, &w->size);
}

static lora_status generator_create(world *w)
{
	lora_generator *g = NULL;
	lora_status     st = lora_generator_create(w->model, NULL, &g);
	MADE(w, lora_generator_destroy, g);
	return st;
}

static lora_status feed(world *w) { return lora_generator_feed(w->generator, 0, NULL, w->ids + 3, 2); }
static lora_status next(world *w) { return lora_generator_next(w->generator, w->tokens, NULL); }
static lora_status reset(world *w) { return lora_generator_reset(w->generator, -1); }

enum { READY = WITH_LLAMA | WITH_ADAPTER | WITH_GENERATOR };

const torture_call calls_text[] = {
	{ "lora_tokenizer_open", 0, NULL, tokenizer_open },
	{ "lora_tokenizer_encode", WITH_TOKENIZER, NULL, encode },
	{ "lora_tokenizer_decode", WITH_TOKENIZER, NULL, decode },
	{ "lora_generator_create", WITH_LLAMA, NULL, generator_create },
	{ "lora_generator_feed", READY, NULL, feed },
	{ "lora_generator_next, first", READY, NULL, next },
	{ "lora_generator_next, second", READY, next, next },
	{ "lora_generator_reset", READY, NULL, reset },
	{ 0 },
};
