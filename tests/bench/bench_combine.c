/* Time of every combination: 20 LoRA adapters of rank 16 on all linear layers of the 135m shape, in both modes.
 * usage: bench_combine [--adapters 20] [--rank 16] [--threads 2] [--rounds 3] [--mode exact|peft] [TYPE...]; CSV: type, mode,
 * wall and processor seconds: medians of the rounds, after one that is not counted */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lora/lora.h"

static double seconds(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

enum { ROUNDS = 99 };
static lora_context *ctx;

static void must(lora_status st)
{
	if (!st) return;
	fprintf(stderr, "bench_combine: %s\n", lora_context_last_error(ctx));
	exit(1);
}

static lora_settings *from_json(const char *text)
{
	lora_settings *s;
	must(lora_settings_create(ctx, &s));
	must(lora_settings_from_json(s, text, strlen(text)));
	return s;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *v, int n)
{
	qsort(v, (size_t)n, sizeof *v, by_size);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void measure(lora_adapter *const *a, const double *w, int n, const char *type, const char *mode, int rounds)
{
	char json[64];
	double wall[ROUNDS], processor[ROUNDS];
	if (*mode) snprintf(json, sizeof json, "{\"mode\":\"%s\"}", mode);
	else snprintf(json, sizeof json, "{}");
	lora_settings *s = from_json(json);
	for (int i = -1; i < rounds; i++) {
		lora_adapter *made;
		double t = seconds(CLOCK_MONOTONIC), p = seconds(CLOCK_PROCESS_CPUTIME_ID);
		must(lora_adapter_combine(a, w, n, type, s, &made));
		if (i >= 0) wall[i] = seconds(CLOCK_MONOTONIC) - t, processor[i] = seconds(CLOCK_PROCESS_CPUTIME_ID) - p;
		lora_adapter_destroy(made);
	}
	lora_settings_destroy(s);
	printf("%s,%s,%.3f,%.3f\n", type, mode, median(wall, rounds), median(processor, rounds));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	int n = 20, rank = 16, rounds = 3, first = 1;
	const char *modes[] = { "exact", "peft" }, *only = NULL;
	lora_context_options o;
	lora_context_options_init(&o, sizeof o);
	o.threads = 2;
	for (; first + 1 < argc && argv[first][0] == '-'; first += 2) {
		int v = atoi(argv[first + 1]);
		if (!strcmp(argv[first], "--adapters")) n = v;
		else if (!strcmp(argv[first], "--rank")) rank = v;
		else if (!strcmp(argv[first], "--threads")) o.threads = v;
		else if (!strcmp(argv[first], "--rounds")) rounds = v < 1 ? 1 : v < ROUNDS ? v : ROUNDS;
		else if (!strcmp(argv[first], "--mode")) only = argv[first + 1];
		else return fprintf(stderr, "bench_combine: no such option: %s\n", argv[first]), 2;
	}
	if (lora_context_create(LORA_ABI, &o, &ctx)) return 1;
	lora_model *m;
	lora_settings *shape = from_json("{\"hidden_size\":576,\"intermediate_size\":1536,\"num_hidden_layers\":30,\"num_attention_heads\":9,\"num_key_value_heads\":3,"
		"\"vocab_size\":1024,\"weight_dtype\":\"BF16\"}"); /* a small vocabulary: the head is not adapted */
	must(lora_model_build(ctx, "llama", shape, &m));
	lora_settings_destroy(shape);
	lora_adapter **a = calloc((size_t)n, sizeof *a);
	double *w = calloc((size_t)n, sizeof *w);
	if (!a || !w) return 1;
	for (int i = 0; i < n; i++) {
		char json[128];
		snprintf(json, sizeof json, "{\"r\":%d,\"lora_alpha\":%d,\"init_lora_weights\":false,\"seed\":%d,\"target_modules\":\"all-linear\"}", rank, 2 * rank, i + 1);
		lora_settings *s = from_json(json);
		must(lora_adapter_create(m, "lora", s, &a[i]));
		lora_settings_destroy(s);
		w[i] = 1.0 / n;
	}
	printf("type,mode,seconds,processor_seconds\n");
	for (int32_t i = 0; i < lora_family_count("combination"); i++) {
		const char *type = lora_family_name("combination", i);
		int wanted = first >= argc;
		for (int k = first; k < argc; k++) wanted |= !strcmp(argv[k], type);
		int plain = !strcmp(type, "lorahub"); /* has no modes */
		for (int k = 0; k < 2 - plain && wanted; k++)
			if (!only || !strcmp(only, modes[k])) measure(a, w, n, type, plain ? "" : modes[k], rounds);
	}
	for (int i = 0; i < n; i++) lora_adapter_destroy(a[i]);
	free(a);
	free(w);
	lora_model_destroy(m);
	lora_context_destroy(ctx);
	return 0;
}
