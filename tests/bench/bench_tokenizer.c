/* CPU seconds of encoding and decoding a text on one thread: bench_tokenizer TOKENIZER TEXT [rounds]. One line of CSV: tokenizer, bytes, ids, open,
 * encode and decode (each the lowest of the rounds), MB/s of encoding. tests/bench/tokenizers.py gives the same line for the package tokenizers. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "lora/lora.h"

static double cpu(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(lora_context *ctx, lora_status st)
{
	if (!st) return;
	fprintf(stderr, "bench_tokenizer: %s\n", lora_context_last_error(ctx));
	exit(1);
}

int main(int argc, char **argv)
{
	lora_context *ctx = NULL;
	lora_tokenizer *t = NULL;
	int rounds = argc > 3 ? atoi(argv[3]) : 5;
	FILE *f = argc > 2 ? fopen(argv[2], "rb") : NULL;
	if (!f) return fprintf(stderr, "usage: bench_tokenizer TOKENIZER TEXT [rounds]\n"), 2;
	fseek(f, 0, SEEK_END);
	size_t bytes = (size_t)ftell(f), n = 0, back = 0;
	rewind(f);
	char *text = malloc(bytes + 1), *out = malloc(bytes * 4 + 64);
	int32_t *ids = malloc((bytes + 1) * sizeof *ids);
	if (!text || !out || !ids || fread(text, 1, bytes, f) != bytes) return 1;
	fclose(f);
	if (lora_context_create(LORA_ABI, NULL, &ctx)) return 1;
	double open = cpu(), encode = 1e9, decode = 1e9;
	must(ctx, lora_tokenizer_open(ctx, argv[1], &t));
	open = cpu() - open;
	for (int i = 0; i < rounds; i++) {
		double start = cpu();
		must(ctx, lora_tokenizer_encode(t, text, bytes, 0, ids, bytes + 1, &n));
		double middle = cpu();
		must(ctx, lora_tokenizer_decode(t, ids, n, out, bytes * 4 + 64, &back));
		double end = cpu();
		if (middle - start < encode) encode = middle - start;
		if (end - middle < decode) decode = end - middle;
	}
	printf("liblora,%s,%zu,%zu,%.3f,%.3f,%.3f,%.1f\n", argv[1], bytes, n, open, encode, decode, (double)bytes / encode / 1e6);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
	free(text), free(out), free(ids);
	return 0;
}
