/* Fuzz target: adapter_config.json, and the splitting of tensor names. A config that is accepted is written and read again: the same values. A
 * text that begins with '/' is taken as a tensor name. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/peft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static lora_context *ctx;

static void fail(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	__builtin_trap();
}

static void name(const uint8_t *data, size_t size)
{
	char           *s = malloc(size + 1);
	lora__peft_name n;
	memcpy(s, data, size);
	s[size] = 0;
	int found = lora__peft_split_name(s, &n);
	if (found != (*n.leaf != 0) || n.module < s || n.module + n.module_n > s + strlen(s)) fail("module");
	if (n.adapter && (n.adapter <= n.module || n.adapter + n.adapter_n > s + strlen(s) || !n.adapter_n)) fail("adapter");
	free(s);
}

static void again(const lora__peft_config *c)
{
	lora__text        t;
	lora__peft_config two;
	lora__text_init(&t, ctx);
	if (lora__peft_config_text(ctx, c->object, NULL, &t)) fail("what was read can't be written");
	lora_status st = lora__peft_parse(ctx, t.data, t.n, "again", &two);
	if (st && t.n <= ctx->limits.json_bytes) fail("what was written is refused");
	if (!st && (two.r != c->r || two.lora_alpha != c->lora_alpha || two.lora_dropout != c->lora_dropout || strcmp(two.bias, c->bias) ||
	            !two.inference_mode))
		fail("other values came back");
	lora__peft_close(&two);
	lora__text_free(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	lora__peft_config c;
	uint64_t          before, after;
	if (!ctx && lora_context_create(LORA_ABI, NULL, &ctx)) abort();
	if (size && data[0] == '/') {
		name(data + 1, size - 1);
		return 0;
	}
	lora_context_memory(ctx, &before, NULL);
	if (lora__peft_parse(ctx, (const char *)data, size, "fuzz", &c) == LORA_OK) {
		void *iter = NULL;
		if (!isfinite(c.lora_alpha) || c.r < 0 || !c.peft_type || !c.bias) fail("unchecked value");
		while (lora__peft_next_unknown(&c, &iter)) {}
		again(&c);
	} else if (!*lora_context_last_error(ctx)) {
		fail("no message");
	}
	lora__peft_close(&c);
	lora_context_memory(ctx, &after, NULL);
	if (after != before) fail("leak");
	return 0;
}
