/* Fuzz target: GGUF. What is accepted is walked in full: every key by every getter, every tensor's first and last byte; the file is described,
 * written and read again with the same keys and tensors; its vocabulary is tried as a tokenizer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/tokenfiles.h"
#include "format/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static lora_context *ctx;

static void fail(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	__builtin_trap();
}

static void setup(void)
{
	lora_context_options o;
	lora_context_options_init(&o, sizeof o);
	o.backend = "naive", o.threads = 1, o.log_level = 0;
	o.memory_limit = 256u << 20;
	if (lora_context_create(LORA_ABI, &o, &ctx)) fail("context");
}

static void get(const lora__gguf *g, const char *key)
{
	lora__gguf_value v;
	int64_t i;
	double d;
	int b;
	const char *s;
	size_t n;
	lora__gguf_int(g, key, 0, INT64_MIN, INT64_MAX, &i);
	lora__gguf_float(g, key, 0, &d);
	lora__gguf_bool(g, key, 0, &b);
	lora__gguf_string(g, key, &s, &n);
	if (!lora__gguf_array(g, key, LORA__GGUF_STRING, &v) && v.p)
		for (uint64_t k = 0; k < v.n; k++) lora__gguf_next(g, &v.p, &s, &n);
	if (!lora__gguf_array(g, key, LORA__GGUF_I32, &v) && v.p && v.n) lora__gguf_u32(g, v.p + 4 * (v.n - 1));
	if (!lora__gguf_array(g, key, LORA__GGUF_F32, &v) && v.p && v.n) lora__gguf_f32(g, v.p + 4 * (v.n - 1));
}

static void walk(const lora__gguf *g)
{
	volatile uint8_t sum = 0;
	for (size_t i = 0; i < g->n_keys; i++) {
		const char *name;
		size_t n;
		lora__gguf_value v;
		lora__gguf_key(g, i, &name, &n, &v);
		char *key = malloc(n + 1);
		memcpy(key, name, n);
		key[n] = 0;
		if (!lora__gguf_find(g, key, &v)) fail("a key is not found again");
		get(g, key);
		free(key);
	}
	for (size_t i = 0; i < g->set.n; i++) {
		const lora__tensor *t = &g->set.list[i];
		if (t->bytes) sum = (uint8_t)(sum + t->data[0] + t->data[t->bytes - 1]);
		if (lora__tensors_find(&g->set, t->name) != t) fail("a tensor is not found again");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	lora__gguf g;
	lora_tokenizer *t = NULL;
	if (!ctx) setup();
	if (lora__gguf_open_memory(ctx, data, size, "fuzz", &g)) return 0;
	walk(&g);
	if (!lora__tokenizer_from_gguf(ctx, &g, &t)) {
		int32_t ids[64];
		size_t n;
		lora_tokenizer_encode(t, "Hello, w\xc3\xb6rld <s>", 18, LORA_TOKENIZE_SPECIAL, ids, 64, &n);
		lora_tokenizer_destroy(t);
	}
	lora__gguf_close(&g);
	return 0;
}
