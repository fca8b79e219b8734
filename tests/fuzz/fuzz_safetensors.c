/* Fuzz target: a safetensors image from memory. What is accepted is read to its last byte, found by name, digested, laid out again, and the new
 * image must be accepted with the same digest. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static lora_context *ctx;

static void fail(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	__builtin_trap();
}

static void again(const lora__tensors *t)
{
	lora__text    header;
	lora__tensors two;
	lora__piece  *pieces = calloc(t->n + 1, sizeof *pieces);
	lora__text_init(&header, ctx);
	lora_status st = lora__safetensors_layout(ctx, t->list, t->n, t->metadata, &header, pieces);
	if (st == LORA_OK) {
		size_t n = 0, at = 0;
		for (size_t i = 0; i <= t->n; i++) n += pieces[i].n;
		uint8_t *image = malloc(n);
		for (size_t i = 0; i <= t->n; at += pieces[i++].n)
			if (pieces[i].n) memcpy(image + at, pieces[i].data, pieces[i].n);
		if (lora__safetensors_open_memory(ctx, image, n, "again", &two)) fail("what was written is refused");
		if (two.n != t->n || lora__tensors_digest(two.list, two.n) != lora__tensors_digest(t->list, t->n)) fail("other tensors came back");
		if (!json_equal(two.metadata, t->metadata) && (two.metadata || t->metadata)) fail("other metadata came back");
		lora__tensors_close(&two);
		free(image);
	} else if (st != LORA_E_LIMIT) { /* escapes can make a name longer than the bound on metadata allows */
		fail("what was read can't be written");
	}
	lora__text_free(&header);
	free(pieces);
}

static void one(const uint8_t *data, size_t size)
{
	lora__tensors t;
	uint64_t      before, peak, sum = 0;
	lora_context_memory(ctx, &before, NULL);
	atomic_store(&ctx->memory_peak, before);
	if (lora__safetensors_open_memory(ctx, data, size, "fuzz", &t) == LORA_OK) {
		lora_context_memory(ctx, NULL, &peak);
		if (peak - before > 4 * (uint64_t)size + (1 << 20)) fail("memory");
		for (size_t i = 0; i < t.n; i++) {
			for (uint64_t k = 0; k < t.list[i].bytes; k++) sum += t.list[i].data[k];
			if (lora__tensors_find(&t, t.list[i].name) != &t.list[i]) fail("not found");
		}
		again(&t);
	} else if (!*lora_context_last_error(ctx)) {
		fail("no message");
	}
	lora__tensors_close(&t);
	lora_context_memory(ctx, &peak, NULL);
	if (peak != before || (sum == 1 && size == 0)) fail("leak");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!ctx && lora_context_create(LORA_ABI, NULL, &ctx)) abort();
	one(data, size);
	if (size < 8) return 0;
	/* once more with a length that fits: the header ends at the last '}', so that mutations reach what lies behind the length */
	size_t n = size - 8;
	while (n && data[8 + n - 1] != '}') n--;
	uint8_t *image = malloc(size);
	memcpy(image, data, size);
	for (int i = 0; i < 8; i++) image[i] = (uint8_t)((uint64_t)n >> (8 * i));
	one(image, size);
	free(image);
	return 0;
}
