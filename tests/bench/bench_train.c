/* Training speed on random Llama shapes: tokens per second of whole steps (forward, backward, clipping, AdamW), LoRA r=16 on all linears.
 * usage: bench_train SHAPE [backend] [threads] [batch] [length] [steps] [dtype] [weight_dtype]
 * Prints one CSV line: shape,backend,threads,batch,length,dtype,tokens_per_second,step_seconds,first_step_seconds,loss,peak_rss_mib. Shapes as tests/bench/peft.py. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "lora/lora.h"

static const struct { const char *name; int hidden, inter, layers, heads, kv, vocab, tied; } shapes[] = {
	{ "tiny", 64, 172, 5, 8, 4, 512, 1 },
	{ "15m", 288, 768, 6, 6, 6, 32000, 1 },
	{ "135m", 576, 1536, 30, 9, 3, 49152, 1 },
	{ "0.5b", 896, 4864, 24, 14, 2, 151936, 1 },
	{ "1.1b", 2048, 5632, 22, 32, 4, 32000, 0 },
};

static lora_context *ctx;

static void check(lora_status st)
{
	if (st == LORA_OK) return;
	fprintf(stderr, "%s: %s\n", lora_status_name(st), lora_context_last_error(ctx));
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

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
	while (k < 4 && strcmp(shapes[k].name, shape)) k++;
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
		"\"vocab_size\":%d,\"tie_word_embeddings\":%s,\"max_position_embeddings\":4096,\"dtype\":\"%s\",\"weight_dtype\":\"%s\"}", shapes[k].hidden, shapes[k].inter,
		shapes[k].layers, shapes[k].heads, shapes[k].kv, shapes[k].vocab, shapes[k].tied ? "true" : "false", dtype, weight);
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
	int32_t *ids = malloc(sizeof *ids * (size_t)(batch * length));
	double *seconds = malloc(sizeof *seconds * (size_t)steps);
	lora_metrics metrics = { .struct_size = sizeof metrics };
	srand(1);
	for (int i = 0; i < steps; i++) {
		for (int j = 0; j < batch * length; j++) ids[j] = rand() % shapes[k].vocab;
		lora_batch b = { .struct_size = sizeof b, .n_sequences = batch, .length = length, .input_ids = ids, .labels = ids };
		double start = now();
		check(lora_trainer_step(t, &b, &metrics));
		seconds[i] = now() - start;
	}
	double first = seconds[0];
	qsort(seconds + 1, (size_t)(steps - 1), sizeof *seconds, by_value);
	double median = seconds[1 + (steps - 1) / 2];
	struct rusage r;
	getrusage(RUSAGE_SELF, &r);
	printf("%s,%s,%d,%d,%d,%s,%.1f,%.4f,%.4f,%.5f,%.0f\n", shape, lora_context_backend_name(ctx), threads, batch, length, dtype, batch * length / median, median, first,
		metrics.loss, (double)r.ru_maxrss / 1024);
	free(ids), free(seconds);
	lora_trainer_destroy(t);
	lora_optimizer_destroy(opt);
	lora_adapter_destroy(a);
	lora_model_destroy(m);
	lora_context_destroy(ctx);
	return 0;
}
