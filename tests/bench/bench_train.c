/* Training speed on random Llama shapes: tokens per second of whole steps (forward, backward, clipping, AdamW), LoRA r=16 on all linears.
 * usage: bench_train SHAPE [backend] [threads] [batch] [length] [steps] [dtype] [weight_dtype] [shortest]
 * shortest: rows have lengths shortest .. length, evenly spread, padded on the right; tokens are counted without padding.
 * Prints one CSV line: shape,backend,threads,batch,length,dtype,tokens_per_second,step_seconds,first_step_seconds,loss,peak_rss_mib,best_tokens_per_second,
 * cpu_seconds of a step. Shapes as tests/bench/peft.py. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "bench/shapes.h"
#include "lora/lora.h"

static lora_context *ctx;

static void check(lora_status st)
{
	if (st == LORA_OK) return;
	fprintf(stderr, "%s: %s\n", lora_status_name(st), lora_context_last_error(ctx));
	exit(1);
}

static double clock_of(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void) { return clock_of(CLOCK_MONOTONIC); }

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static lora_settings *from_json(const char *json)
{
	lora_settings *s;
	check(lora_settings_create(ctx, &s));
	check(lora_settings_from_json(s, json, strlen(json)));
	return s;
}

int main(int argc, char **argv)
{
	const char *shape = argc > 1 ? argv[1] : "15m", *backend = argc > 2 ? argv[2] : "auto", *dtype = argc > 7 ? argv[7] : "f32";
	int threads = argc > 3 ? atoi(argv[3]) : 2, batch = argc > 4 ? atoi(argv[4]) : 4, length = argc > 5 ? atoi(argv[5]) : 256;
	int steps = argc > 6 ? atoi(argv[6]) : 6, k = 0;
	const char *weight = argc > 8 ? argv[8] : "F32";
	int shortest = argc > 9 ? atoi(argv[9]) : 0, tokens = 0;
	while (k < BENCH_SHAPES && strcmp(bench_shapes[k].name, shape)) k++;
	if (k == BENCH_SHAPES || steps < 2 || batch < 1 || length < 2 || shortest > length) return fprintf(stderr, "bench_train: a bad argument\n"), 2;
	lora_context_options o;
	lora_error e = { .struct_size = sizeof e };
	lora_context_options_init(&o, sizeof o);
	o.backend = backend, o.threads = threads, o.error = &e;
	if (lora_context_create(LORA_ABI, &o, &ctx)) {
		fprintf(stderr, "%s\n", e.message);
		return 1;
	}
	char json[512];
	snprintf(json, sizeof json, "{\"hidden_size\":%d,\"intermediate_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,"
		"\"vocab_size\":%d,\"tie_word_embeddings\":%s,\"max_position_embeddings\":4096,\"dtype\":\"%s\",\"weight_dtype\":\"%s\"}", bench_shapes[k].hidden, bench_shapes[k].inner,
		bench_shapes[k].layers, bench_shapes[k].heads, bench_shapes[k].kv, bench_shapes[k].vocabulary, bench_shapes[k].tied ? "true" : "false", dtype, weight);
	lora_model *m;
	lora_adapter *a;
	lora_optimizer *opt;
	lora_trainer *t;
	lora_settings *s = from_json(json);
	check(lora_model_build(ctx, "llama", s, &m));
	lora_settings_destroy(s);
	s = from_json("{\"r\":16,\"lora_alpha\":32,\"target_modules\":\"all-linear\"}");
	check(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	check(lora_adapter_attach(a, 1.0));
	s = from_json("{\"learning_rate\":1e-4}");
	check(lora_optimizer_create(a, "adamw", s, &opt));
	lora_settings_destroy(s);
	snprintf(json, sizeof json, "{\"max_steps\":%d,\"max_grad_norm\":1.0,\"lr_scheduler_type\":\"constant\"}", steps);
	s = from_json(json);
	check(lora_trainer_create(m, a, opt, s, &t));
	lora_settings_destroy(s);
	size_t cells = (size_t)(batch * length);
	int32_t *ids = malloc(3 * sizeof *ids * cells), *mask = ids + cells, *labels = mask + cells;
	if (!ids) return 1;
	for (int i = 0; i < batch; i++) {
		int n = shortest ? shortest + (batch > 1 ? i * (length - shortest) / (batch - 1) : 0) : length;
		for (int j = 0; j < length; j++) mask[i * length + j] = j < n;
		tokens += n;
	}
	double *seconds = malloc(sizeof *seconds * (size_t)steps);
	lora_metrics metrics = { .struct_size = sizeof metrics };
	double cpu = 0;
	srand(1);
	for (int i = 0; i < steps; i++) {
		for (int j = 0; j < batch * length; j++) labels[j] = ids[j] = rand() % bench_shapes[k].vocabulary;
		lora_batch b = { .struct_size = sizeof b, .n_sequences = batch, .length = length, .input_ids = ids, .labels = labels,
			.attention_mask = shortest ? mask : NULL };
		for (int j = 0; j < batch * length; j++)
			if (!mask[j]) labels[j] = -100;
		if (i == 1) cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID);
		double start = now();
		check(lora_trainer_step(t, &b, &metrics));
		seconds[i] = now() - start;
	}
	double first = seconds[0];
	cpu = (clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu) / (steps - 1);
	qsort(seconds + 1, (size_t)(steps - 1), sizeof *seconds, by_value);
	double median = seconds[1 + (steps - 1) / 2];
	struct rusage r;
	getrusage(RUSAGE_SELF, &r);
	printf("%s,%s,%d,%d,%d,%s,%.1f,%.4f,%.4f,%.5f,%.0f,%.1f,%.4f\n", shape, lora_context_backend_name(ctx), threads, batch, length, dtype, tokens / median, median, first,
		metrics.loss, (double)r.ru_maxrss / 1024, tokens / seconds[1], cpu);
	free(ids), free(seconds);
	lora_trainer_destroy(t);
	lora_optimizer_destroy(opt);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(ctx);
	return 0;
}
