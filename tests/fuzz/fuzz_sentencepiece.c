/* Fuzz target: tokenizer.model. A file that is accepted encodes a fixed text, and itself where it is UTF-8, and decodes what came out: never an id
 * out of range, the same result twice, and no memory left over. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/sentencepiece.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static lora_context *ctx;
static const char fixed[] = "Hello,  w\xc3\xb6rld! 12345\n\taaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa b\xcc\x81 \xe4\xb8\xad <s></s><unk> "
	"\xe2\x96\x81x \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80 \xef\xac\x81 ababababababababababababababababababababababababab\0 the king  ";

static void fail(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	__builtin_trap();
}

static void round_trip(const lora_tokenizer *t, const char *text, size_t n, uint32_t flags)
{
	size_t count = 0, again = 0, bytes = 0;
	lora_status st = lora_tokenizer_encode(t, text, n, flags, NULL, 0, &count);
	if (st && (st != LORA_E_LIMIT || !count)) return;
	int32_t *ids = malloc((count + 1) * sizeof *ids);
	if (lora_tokenizer_encode(t, text, n, flags, ids, count, &again) || again != count) fail("encoding differs from the first");
	for (size_t i = 0; i < count; i++)
		if (ids[i] < 0 || ids[i] >= lora_tokenizer_size(t)) fail("id out of range");
	st = lora_tokenizer_decode(t, ids, count, NULL, 0, &bytes);
	if (st == LORA_E_LIMIT) {
		char *back = malloc(bytes + 1);
		if (lora_tokenizer_decode(t, ids, count, back, bytes + 1, &again) || again != bytes || back[bytes]) fail("decoding differs from the first");
		if (!lora__utf8_valid(back, bytes, &again)) fail("decoded to what is not UTF-8");
		free(back);
	}
	free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const lora__tok_beside none;
	lora_tokenizer *t = NULL;
	uint64_t before, after;
	if (!ctx && lora_context_create(LORA_ABI, NULL, &ctx)) abort();
	lora_context_memory(ctx, &before, NULL);
	if (lora__tokenizer_from_spm(ctx, data, size, "fuzz", &none, &t) == LORA_OK) {
		round_trip(t, fixed, sizeof fixed - 1, LORA_TOKENIZE_SPECIAL);
		round_trip(t, fixed, sizeof fixed - 1, LORA_TOKENIZE_CONTROL);
		round_trip(t, (const char *)data, size, 0);
		lora_tokenizer_destroy(t);
	} else if (t) fail("a tokenizer came out of a failed call");
	lora_context_memory(ctx, &after, NULL);
	if (before != after) fail("memory left over");
	return 0;
}
