/* Timings of the main jobs on a random Llama: train step, merge, unmerge, save, open, attach, as CSV with machine, commit and seed.
 *
 *     bench_model [--shape tiny|15m|135m|1.1b] [--dtype F32|BF16] [--threads N] [--backend NAME] [--batch B] [--length T] [--rounds N] [--dir DIR]
 *
 * The shapes are those that PEFT is measured on, with LoRA r = 16 on all seven linears and AdamW. Each case is timed over several rounds, the
 * median and the spread are printed: a single figure on a shared machine says little. The first round is not counted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <lora/lora.h>

enum { MAX_ROUNDS = 64, SEED = 1 };

static const struct shape { const char *name; int hidden, inner, layers, heads, kv, vocabulary, tied; } shapes[] = {
	{ "tiny", 64, 176, 2, 4, 2, 1024, 1 },
	{ "15m", 288, 768, 6, 6, 6, 32000, 1 },
	{ "135m", 576, 1536, 30, 9, 3, 49152, 1 },
	{ "1.1b", 2048, 5632, 22, 32, 4, 32000, 0 },
};

static struct { const char *shape, *dtype, *backend, *dir; int threads, batch, length, rounds; } opt = { "15m", "F32", "auto", "build", 2, 4, 256, 7 };
static lora_context *ctx;

static void must(lora_status st)
{
	if (st) fprintf(stderr, "bench: %s: %s\n", lora_status_name(st), lora_context_last_error(ctx)), exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static lora_settings *settings(const char *json)
{
	lora_settings *s;
	must(lora_settings_create(ctx, &s));
	must(lora_settings_from_json(s, json, strlen(json)));
	return s;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* One CSV line: median, lowest and highest of the rounds; work is what one round does in the given unit (0: seconds themselves). */
static void report(const char *what, double *seconds, int n, double work, const char *unit)
{
	struct rusage use;
	getrusage(RUSAGE_SELF, &use);
	qsort(seconds, (size_t)n, sizeof *seconds, by_value);
	double mid = seconds[n / 2], low = seconds[0], high = seconds[n - 1];
	printf("%s,%s,%s,%s,%d,%d,%d,%d,%.6g,%.6g,%.6g,%s,%.3f\n", what, opt.shape, opt.dtype, lora_context_backend_name(ctx), opt.threads, opt.batch, opt.length,
		n, work > 0 ? work / mid : mid, work > 0 ? work / high : low, work > 0 ? work / low : high, unit, (double)use.ru_maxrss / 1048576);
	fflush(stdout);
}

static void machine(void)
{
	char  line[256], cpu[200] = "unknown";
	FILE *f = fopen("/proc/cpuinfo", "r");
	while (f && fgets(line, sizeof line, f)) {
		char *colon = strchr(line, ':');
		if (strncmp(line, "model name", 10) || !colon) continue;
		snprintf(cpu, sizeof cpu, "%s", colon + 2);
		cpu[strcspn(cpu, "\n")] = 0;
		break;
	}
	if (f) fclose(f);
	const char *commit = getenv("LORA_COMMIT");
	printf("# machine: %s; commit: %s; seed: %d; %s\n", cpu, commit ? commit : "unknown", SEED, lora_build_info());
	printf("case,shape,dtype,backend,threads,batch,length,rounds,median,low,high,unit,peak_gib\n");
}

static lora_model *build(const struct shape *s)
{
	char json[600];
	snprintf(json, sizeof json, "{\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d,"
		"\"num_key_value_heads\": %d, \"vocab_size\": %d, \"tie_word_embeddings\": %s, \"max_position_embeddings\": 4096, \"seed\": %d, \"weight_dtype\": \"%s\"}",
		s->hidden, s->inner, s->layers, s->heads, s->kv, s->vocabulary, s->tied ? "true" : "false", SEED, opt.dtype);
	lora_settings *given = settings(json);
	lora_model    *m;
	must(lora_model_build(ctx, "llama", given, &m));
	lora_settings_destroy(given);
	return m;
}

static lora_adapter *adapter(lora_model *m, int random)
{
	lora_settings *s = settings(random ? "{\"r\": 16, \"lora_alpha\": 32, \"target_modules\": \"all-linear\", \"init_lora_weights\": false}"
									   : "{\"r\": 16, \"lora_alpha\": 32, \"target_modules\": \"all-linear\"}");
	lora_adapter  *a;
	must(lora_adapter_create(m, "lora", s, &a));
	lora_settings_destroy(s);
	return a;
}

static void bench_train(lora_model *m, int vocabulary)
{
	lora_adapter   *a = adapter(m, 0);
	lora_optimizer *o;
	lora_trainer   *t;
	double          seconds[MAX_ROUNDS];
	int32_t        *ids = malloc(sizeof *ids * (size_t)(opt.batch * opt.length));
	if (!ids) exit(1);
	uint32_t random = SEED;
	for (int i = 0; i < opt.batch * opt.length; i++) random = random * 1664525u + 1013904223u, ids[i] = (int32_t)(random >> 8) % vocabulary;
	lora_batch batch = { .struct_size = sizeof batch, .n_sequences = opt.batch, .length = opt.length, .input_ids = ids, .labels = ids };
	must(lora_adapter_attach(a, 1.0));
	must(lora_optimizer_create(a, "adamw", NULL, &o));
	must(lora_trainer_create(m, a, o, NULL, &t));
	for (int i = -1; i < opt.rounds; i++) {
		double start = now();
		must(lora_trainer_step(t, &batch, NULL));
		if (i >= 0) seconds[i] = now() - start;
	}
	report("train", seconds, opt.rounds, opt.batch * opt.length, "tokens/s");
	lora_trainer_destroy(t), lora_optimizer_destroy(o), lora_adapter_destroy(a);
	free(ids);
}

static void bench_merge(lora_model *m)
{
	lora_adapter *a = adapter(m, 1);
	double        in[MAX_ROUNDS], out[MAX_ROUNDS];
	must(lora_adapter_attach(a, 1.0));
	for (int i = -1; i < opt.rounds; i++) {
		double start = now();
		must(lora_adapter_merge(a, NULL));
		double middle = now();
		must(lora_adapter_unmerge(a));
		if (i >= 0) in[i] = middle - start, out[i] = now() - middle;
	}
	report("merge", in, opt.rounds, 0, "s");
	report("unmerge", out, opt.rounds, 0, "s");
	lora_adapter_destroy(a);
}

static void bench_files(lora_model *m)
{
	char          model[300], lora[300];
	lora_adapter *a = adapter(m, 1);
	double        open[MAX_ROUNDS], attach[MAX_ROUNDS];
	snprintf(model, sizeof model, "%s/bench-model", opt.dir), snprintf(lora, sizeof lora, "%s/bench-adapter", opt.dir);
	lora_settings *force = settings("{\"force\": true}");
	must(lora_model_save(m, model, force));
	must(lora_adapter_save(a, lora, NULL));
	for (int i = -1; i < opt.rounds; i++) {
		lora_model   *m2;
		lora_adapter *a2;
		double        start = now();
		must(lora_model_open(ctx, model, NULL, &m2));
		double middle = now();
		must(lora_adapter_open(m2, lora, NULL, &a2));
		must(lora_adapter_attach(a2, 1.0));
		if (i >= 0) open[i] = middle - start, attach[i] = now() - middle;
		lora_adapter_destroy(a2), lora_model_destroy(m2);
	}
	report("open model", open, opt.rounds, 0, "s");
	report("open and attach adapter", attach, opt.rounds, 0, "s");
	lora_settings_destroy(force);
	lora_adapter_destroy(a);
}

int main(int argc, char **argv)
{
	const struct { const char *name; const char **text; int *number; } options[] = { { "--shape", &opt.shape, NULL }, { "--dtype", &opt.dtype, NULL },
		{ "--backend", &opt.backend, NULL }, { "--dir", &opt.dir, NULL }, { "--threads", NULL, &opt.threads }, { "--batch", NULL, &opt.batch },
		{ "--length", NULL, &opt.length }, { "--rounds", NULL, &opt.rounds } };
	enum { N_OPTIONS = sizeof options / sizeof *options };
	for (int i = 1; i < argc; i += 2) {
		int o = 0;
		while (o < N_OPTIONS && strcmp(argv[i], options[o].name)) o++;
		if (o == N_OPTIONS || i + 1 == argc) return fprintf(stderr, "bench_model: what is %s?\n", argv[i]), 2;
		if (options[o].text) *options[o].text = argv[i + 1];
		else *options[o].number = atoi(argv[i + 1]);
	}
	if (opt.rounds < 1 || opt.rounds > MAX_ROUNDS || opt.batch < 1 || opt.length < 1) return fprintf(stderr, "bench_model: a number is out of range\n"), 2;
	const struct shape *s = NULL;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
		if (!strcmp(opt.shape, shapes[i].name)) s = &shapes[i];
	if (!s) return fprintf(stderr, "bench_model: no shape %s\n", opt.shape), 2;

	lora_context_options o;
	lora_error           why = { .struct_size = sizeof why };
	must(lora_context_options_init(&o, sizeof o));
	o.threads = opt.threads, o.backend = opt.backend, o.error = &why;
	if (lora_context_create(LORA_ABI, &o, &ctx)) return fprintf(stderr, "bench_model: %s\n", why.message), 1;
	opt.threads = lora_context_threads(ctx);
	machine();
	lora_model *m = build(s);
	bench_train(m, s->vocabulary);
	bench_merge(m);
	bench_files(m);
	lora_model_destroy(m);
	lora_context_destroy(ctx);
	return 0;
}
