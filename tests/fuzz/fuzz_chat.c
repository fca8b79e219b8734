/* Fuzz target: a model's chat template. What is recognised renders a conversation to UTF-8, the same twice, with spans inside the text; no memory is
 * left over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static lora_context *ctx;
static lora_tokenizer *t;
static const char words[] = "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"a\",\"vocab\":{\"a\":0}}}";

static void fail(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	__builtin_trap();
}

static void render(const lora__chat_rules *r, int generate)
{
	static const lora_chat_message m[] = { { "system", " s\n", 3 }, { "user", "\xc3\xa9{{ x }}", 9 }, { "assistant", "", 0 }, { "user", "u", 1 }, { "assistant", "b\n", 2 } };
	for (size_t from = 0; from < 2; from++) {
		lora__chat_text one, two;
		size_t bad;
		if (lora__chat_render(t, r, m + from, 5 - from, generate, &one)) continue;
		if (lora__chat_render(t, r, m + from, 5 - from, generate, &two)) fail("refused the second time");
		if (one.text.n != two.text.n || (one.text.n && memcmp(one.text.data, two.text.data, one.text.n))) fail("another text the second time");
		if (one.text.n && !lora__utf8_valid(one.text.data, one.text.n, &bad)) fail("not UTF-8");
		for (size_t i = 0; i < one.n; i++)
			if (one.spans[i].start >= one.spans[i].end || one.spans[i].end > one.text.n) fail("a span outside of the text");
		lora__chat_text_free(&one);
		lora__chat_text_free(&two);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t before, after;
	size_t bad;
	lora__chat_own own;
	if (!ctx && lora_context_create(LORA_ABI, NULL, &ctx)) abort();
	if (!t && (lora__tokenizer_from_json(ctx, words, sizeof words - 1, "fuzz", &t) || lora__tokenizer_set_chat(t, NULL, 0, "<s>", "</s>"))) abort();
	if (!lora__utf8_valid((const char *)data, size, &bad)) return 0; /* templates come out of JSON, or are checked before */
	lora_context_memory(ctx, &before, NULL);
	if (lora__chat_recognise(ctx, (const char *)data, size, &own) == LORA_OK) {
		render(&own.rules, 0);
		render(&own.rules, 1);
		lora__chat_own_free(ctx, &own);
	}
	lora_context_memory(ctx, &after, NULL);
	if (before != after) fail("memory left over");
	return 0;
}
