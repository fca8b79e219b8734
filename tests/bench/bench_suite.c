/* Everything that is timed, on random Llama shapes with LoRA r = 16 on all linears: training, forward, decoding, merging and its undoing, attaching; with the
 * GEMM peak measured in the same rounds. CSV first, then the same as a table.
 *
 *     bench_suite [--shapes 15m,135m] [--dtypes f32,bf16] [--cases train,forward,decode,merge,files] (and host) [--rounds 5] [--threads 2] [--backend auto]
 *                 [--batch 4] [--length 256] [--dir build/bench] [--format both|csv|table]
 *
 * Rounds take turns (peak, train, forward, peak, train, ...) after one that is not counted. Median and best of the rounds are told: on a machine that
 * others use the best says what the code can do, the median what one gets; cpu is processor seconds per wall second of the median round.
 * host, a part of merge, merges into weights that a host owns and reads; it makes an undo record and takes long.
 * The peak is that of the fastest backend that is there, weights packed where it packs, on the products of the model with the rows of the batch. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bench/shapes.h"
#include "lora/lora.h"
#include "model/model.h"

enum { MAX_ROUNDS = 64, MAX_ROWS = 256, PEAK_BACKENDS = 3, DECODE = 16, PROMPT = 32 };

static struct { const char *shapes, *dtypes, *cases, *backend, *dir, *format; int rounds, threads, batch, length; } opt = { "15m,135m", "f32,bf16",
	"train,forward,decode,merge,files", "auto", "build/bench", "both", 5, 2, 0, 256 };

static lora_context *ctx, *peaks[PEAK_BACKENDS];

/* ---- results ---- */

typedef struct row { char shape[8], dtype[8], backend[16], name[24], unit[16]; int batch, length, rounds; double median, best, cpu; } row;

static row rows[MAX_ROWS];
static int n_rows;
static const bench_shape *shape;
static const char *dtype;
static int batch_size;

typedef struct series { double value[MAX_ROUNDS], wall[MAX_ROUNDS], cpu[MAX_ROUNDS]; int n; } series;

static void must(lora_status st)
{
	if (st) fprintf(stderr, "bench: %s: %s\n", lora_status_name(st), lora_context_last_error(ctx)), exit(1);
}

static double clock_of(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void) { return clock_of(CLOCK_MONOTONIC); }

typedef struct watch { double wall, cpu; } watch;

static watch start(void) { return (watch){ now(), clock_of(CLOCK_PROCESS_CPUTIME_ID) }; }

/* Note one round of so much work; round < 0 is not counted. Returns the work per second. */
static double stop(series *s, watch w, int round, double work)
{
	double wall = now() - w.wall, cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID) - w.cpu;
	if (round >= 0) s->wall[s->n] = wall, s->cpu[s->n] = cpu, s->value[s->n++] = work > 0 ? work / wall : wall;
	return work / wall;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(const double *v, int n)
{
	double copy[MAX_ROUNDS];
	memcpy(copy, v, sizeof *v * (size_t)n);
	qsort(copy, (size_t)n, sizeof *copy, by_value);
	return n ? copy[n / 2] : 0;
}

static void csv(FILE *f, const row *r)
{
	fprintf(f, "%s,%s,%s,%d,%d,%d,%s,%s,%d,%.6g,%.6g,%.3g\n", r->shape, r->dtype, r->backend, opt.threads, r->batch, r->length, r->name, r->unit, r->rounds, r->median,
		r->best, r->cpu);
	fflush(f);
}

/* less: the smaller value is the better one. */
static void report(const char *name, const char *unit, const series *s, int less)
{
	row *r = &rows[n_rows];
	double best = s->n ? s->value[0] : 0, ratio[MAX_ROUNDS];
	if (n_rows == MAX_ROWS || !s->n) return;
	for (int i = 0; i < s->n; i++) {
		if (less ? s->value[i] < best : s->value[i] > best) best = s->value[i];
		ratio[i] = s->wall[i] > 0 ? s->cpu[i] / s->wall[i] : 0;
	}
	*r = (row){ .batch = batch_size, .length = opt.length, .rounds = s->n, .median = median(s->value, s->n), .best = best, .cpu = median(ratio, s->n) };
	snprintf(r->shape, sizeof r->shape, "%s", shape->name), snprintf(r->dtype, sizeof r->dtype, "%s", dtype);
	snprintf(r->backend, sizeof r->backend, "%s", lora_context_backend_name(ctx)), snprintf(r->name, sizeof r->name, "%s", name);
	snprintf(r->unit, sizeof r->unit, "%s", unit);
	n_rows++;
	if (strcmp(opt.format, "table")) csv(stdout, r);
}

static void table(void)
{
	printf("\n%-6s %-5s %-7s %9s  %-20s %12s %12s  %-9s %5s\n", "shape", "dtype", "backend", "batch", "case", "median", "best", "unit", "cpu");
	for (int i = 0; i < n_rows; i++) {
		const row *r = &rows[i];
		char shown[24];
		snprintf(shown, sizeof shown, "%d x %d", r->batch, r->length);
		if (i && (strcmp(r->shape, r[-1].shape) || strcmp(r->dtype, r[-1].dtype))) printf("\n");
		printf("%-6s %-5s %-7s %9s  %-20s %12.5g %12.5g  %-9s", r->shape, r->dtype, r->backend, shown, r->name, r->median, r->best, r->unit);
		if (r->cpu > 0) printf(" %5.2f", r->cpu);
		printf("\n");
	}
}

static void machine(void)
{
	char line[256], cpu[200] = "unknown";
	FILE *f = fopen("/proc/cpuinfo", "r");
	while (f && fgets(line, sizeof line, f)) {
		char *colon = strchr(line, ':');
		if (strncmp(line, "model name", 10) || !colon) continue;
		line[strcspn(line, "\n")] = 0;
		snprintf(cpu, sizeof cpu, "%.190s", colon + 2);
		break;
	}
	if (f) fclose(f);
	const char *commit = getenv("LORA_COMMIT");
	printf("# machine: %s; %ld cores; commit: %s; seed: 1; %s\n", cpu, sysconf(_SC_NPROCESSORS_ONLN), commit && *commit ? commit : "unknown", lora_build_info());
	if (strcmp(opt.format, "table")) printf("shape,dtype,backend,threads,batch,length,case,unit,rounds,median,best,cpu\n");
	fflush(stdout);
}

static int wanted(const char *list, const char *word)
{
	size_t n = strlen(word);
	for (const char *p = list; p && *p; p += strcspn(p, ","), p += *p == ',')
		if (strcspn(p, ",") == n && !strncmp(p, word, n)) return 1;
	return 0;
}

/* ---- the peak ---- */

typedef struct product { lora_call call; void *packed; double flop; } product;
typedef struct runner { lora_context *ctx; product list[32]; int n; } runner;

static void *noise(int64_t n, lora_dtype type)
{
	size_t size = lora__dtype_size(type);
	char *out = malloc((size_t)n * size);
	uint32_t seed = 1;
	if (!out) fprintf(stderr, "bench: out of memory\n"), exit(1);
	for (int64_t i = 0; i < n; i++) {
		seed = seed * 1664525u + 1013904223u;
		float v = (float)(seed >> 8) * 0x1p-24f - 0.5f;
		lora__convert(out + (size_t)i * size, type, &v, LORA_F32, 1);
	}
	return out;
}

/* Buffers as large as the largest product needs; contents do not matter for the time. */
typedef struct peak_work { void *a, *w, *c; runner run[PEAK_BACKENDS]; int n; } peak_work;

static void add_product(runner *r, peak_work *p, lora_dtype type, int64_t m, const bench_linear *l, int which)
{
	int64_t k = which ? l->out : l->in, n = which ? l->in : l->out;
	lora_view w = lora__view2(p->w, type, l->out, l->in, l->in), b = which ? w : lora__view_t(w);
	product *q = &r->list[r->n++];
	*q = (product){ .flop = 2.0 * (double)m * (double)k * (double)n * (double)l->count };
	q->call = (lora_call){ .struct_size = sizeof q->call, .prim = LORA_PRIM_GEMM, .n_views = 3, .f = { 1, 0 },
		.v = { lora__view2(p->c, type, m, n, n), lora__view2(p->a, type, m, k, k), b } };
	if (lora__pack_takes(r->ctx, type, type)) must(r->ctx->backend->weight_pack(r->ctx->backend_self, &b, &q->packed, NULL));
	q->call.packed = q->packed;
}

static void peak_open(peak_work *p, lora_dtype type, int64_t m)
{
	bench_linear l[8];
	int n = bench_linears(shape, l);
	int64_t largest = 0;
	for (int i = 0; i < n; i++) {
		if (l[i].out * l[i].in > largest) largest = l[i].out * l[i].in;
	}
	int64_t head = m < 256 ? m : 256, cells = head * shape->vocabulary > m * shape->inner ? head * shape->vocabulary : m * shape->inner;
	*p = (peak_work){ .a = noise(cells, type), .w = noise(largest, type), .c = noise(cells, type) };
	for (int b = 0; b < PEAK_BACKENDS; b++) {
		if (!peaks[b]) continue;
		runner *r = &p->run[p->n];
		*r = (runner){ .ctx = peaks[b] };
		for (int i = 0; i < n; i++)
			for (int which = 0; which < 2; which++) {
				add_product(r, p, type, l[i].out == shape->vocabulary ? head : m, &l[i], which);
				if (l[i].out == shape->vocabulary) r->list[r->n - 1].flop *= (double)m / (double)head;
			}
		if (peaks[b]->backend != peaks[b]->naive && !peaks[b]->backend->supports(peaks[b]->backend_self, &r->list[0].call, NULL)) continue;
		p->n++;
	}
}

/* FLOP/s over the products of a step, each counted as often as the model has it: the fastest backend of the round. */
static double peak_round(const peak_work *p)
{
	double best = 0;
	for (int b = 0; b < p->n; b++) {
		double seconds = 0, flop = 0;
		for (int i = 0; i < p->run[b].n; i++) {
			const product *q = &p->run[b].list[i];
			double t = now(), once = 2.0 * (double)q->call.v[1].size[0] * (double)q->call.v[1].size[1] * (double)q->call.v[0].size[1];
			must(lora__run(p->run[b].ctx, &q->call));
			seconds += (now() - t) * q->flop / once, flop += q->flop;
		}
		if (flop / seconds > best) best = flop / seconds;
	}
	return best;
}

static void peak_close(peak_work *p)
{
	for (int b = 0; b < PEAK_BACKENDS; b++)
		for (int i = 0; i < p->run[b].n; i++)
			if (p->run[b].list[i].packed) p->run[b].ctx->backend->weight_free(p->run[b].ctx->backend_self, p->run[b].list[i].packed);
	free(p->a), free(p->w), free(p->c);
}

/* ---- the model ---- */

static lora_settings *settings(const char *json)
{
	lora_settings *s;
	must(lora_settings_create(ctx, &s));
	must(lora_settings_from_json(s, json, strlen(json)));
	return s;
}

static int is_bf16(void) { return !strcmp(dtype, "bf16"); }

/* The model on disk, made once. */
static const char *model_dir(void)
{
	static char path[400];
	char json[600], mark[500];
	snprintf(path, sizeof path, "%s/%s-%s", opt.dir, shape->name, dtype);
	snprintf(mark, sizeof mark, "%s/config.json", path);
	if (!access(mark, R_OK)) return path;
	mkdir(opt.dir, 0777);
	snprintf(json, sizeof json, "{\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d,"
		"\"vocab_size\": %d, \"tie_word_embeddings\": %s, \"max_position_embeddings\": 4096, \"seed\": 1, \"weight_dtype\": \"%s\"}", shape->hidden, shape->inner,
		shape->layers, shape->heads, shape->kv, shape->vocabulary, shape->tied ? "true" : "false", is_bf16() ? "BF16" : "F32");
	lora_settings *given = settings(json);
	lora_model *m;
	must(lora_model_build(ctx, "llama", given, &m));
	must(lora_model_save(m, path, NULL));
	lora_model_destroy(m);
	lora_settings_destroy(given);
	return path;
}

static lora_model *open_model(void)
{
	lora_settings *s = settings(is_bf16() ? "{\"dtype\": \"bf16\"}" : "{\"dtype\": \"f32\"}");
	lora_model *m;
	must(lora_model_open(ctx, model_dir(), s, &m));
	lora_settings_destroy(s);
	return m;
}

static lora_adapter *adapter(lora_model *m, int random)
{
	lora_settings *s = settings(random ? "{\"r\": 16, \"lora_alpha\": 32, \"target_modules\": \"all-linear\", \"init_lora_weights\": false, \"seed\": 3}"
									   : "{\"r\": 16, \"lora_alpha\": 32, \"target_modules\": \"all-linear\"}");
	lora_adapter *a;
	must(lora_adapter_create(m, "lora", s, &a));
	must(lora_adapter_attach(a, 1.0));
	lora_settings_destroy(s);
	return a;
}

static double peak_memory(void)
{
	struct rusage use;
	getrusage(RUSAGE_SELF, &use);
	return (double)use.ru_maxrss / 1048576;
}

/* ---- cases ---- */

static void bench_train(void)
{
	static series peak, train, rate, share, forward, memory;
	peak = train = rate = share = forward = memory = (series){ .n = 0 };
	int64_t n = (int64_t)batch_size * opt.length;
	int32_t *ids = malloc(sizeof *ids * (size_t)n);
	lora_model *m = open_model();
	lora_adapter *a = adapter(m, 0);
	lora_optimizer *o;
	lora_trainer *t;
	peak_work p;
	uint32_t seed = 1;
	for (int64_t i = 0; i < n; i++) seed = seed * 1664525u + 1013904223u, ids[i] = (int32_t)(seed >> 8) % shape->vocabulary;
	lora_batch b = { .struct_size = sizeof b, .n_sequences = batch_size, .length = opt.length, .input_ids = ids, .labels = ids };
	must(lora_optimizer_create(a, "adamw", NULL, &o));
	must(lora_trainer_create(m, a, o, NULL, &t));
	for (int i = 0; i < 2; i++) must(lora_trainer_step(t, &b, NULL));
	memory.value[0] = peak_memory(), memory.n = 1;
	peak_open(&p, is_bf16() ? LORA_BF16 : LORA_F32, n);
	for (int i = -1; i < opt.rounds; i++) {
		double top = peak_round(&p), loss;
		watch w = start();
		must(lora_trainer_step(t, &b, NULL));
		double step = stop(&train, w, i, (double)n) * bench_flops(shape, opt.length);
		if (i >= 0) peak.value[peak.n++] = top / 1e9, rate.value[rate.n++] = step / 1e9, share.value[share.n++] = 100 * step / top;
		if (!wanted(opt.cases, "forward")) continue;
		w = start();
		must(lora_trainer_evaluate(t, &b, 1, &loss, NULL));
		stop(&forward, w, i, (double)n);
	}
	report("train", "tokens/s", &train, 0);
	report("GEMM peak", "GFLOP/s", &peak, 0);
	report("train model FLOPs", "GFLOP/s", &rate, 0);
	report("train of peak", "%", &share, 0);
	report("peak memory", "GiB", &memory, 1);
	report("forward and loss", "tokens/s", &forward, 0);
	peak_close(&p);
	lora_trainer_destroy(t), lora_optimizer_destroy(o), lora_adapter_destroy(a), lora_model_destroy(m);
	free(ids);
}

static void bench_decode(void)
{
	static series one, many;
	one = many = (series){ .n = 0 };
	int32_t prompt[PROMPT], got[8];
	lora_model *m = open_model();
	lora_adapter *a = adapter(m, 0);
	for (int i = 0; i < PROMPT; i++) prompt[i] = (i * 37 + 5) % shape->vocabulary;
	for (int size = 1; size <= 8; size += 7) {
		char json[80];
		lora_generator *g;
		snprintf(json, sizeof json, "{\"max_length\": %d, \"batch_size\": %d}", PROMPT + DECODE + 2, size);
		lora_settings *s = settings(json);
		must(lora_generator_create(m, s, &g));
		for (int i = -1; i < opt.rounds; i++) {
			must(lora_generator_reset(g, -1));
			for (int k = 0; k < size; k++) must(lora_generator_feed(g, k, NULL, prompt, PROMPT));
			must(lora_generator_next(g, got, NULL));
			watch w = start();
			for (int k = 0; k < DECODE; k++) must(lora_generator_next(g, got, NULL));
			stop(size == 1 ? &one : &many, w, i, (double)size * DECODE);
		}
		lora_generator_destroy(g);
		lora_settings_destroy(s);
	}
	report("decode 1 sequence", "tokens/s", &one, 0);
	report("decode 8 sequences", "tokens/s", &many, 0);
	lora_adapter_destroy(a), lora_model_destroy(m);
}

typedef struct copying { char *const *to; const char *const *from; const size_t *bytes; } copying;

static void copy_one(void *arg, int64_t i, int32_t thread)
{
	const copying *c = arg;
	(void)thread;
	memcpy(c->to[i], c->from[i], c->bytes[i]);
}

/* The same weights owned by a host. */
static lora_model *host_model(const lora_model *m, char **copy)
{
	lora_model *h;
	must(lora_model_create(ctx, &h));
	for (size_t i = 0; i < m->s.n; i++) {
		const lora__site *s = m->s.list[i];
		if (s->is_head) continue;
		lora_site_info d = { .struct_size = sizeof d, .dtype = s->dtype, .name = s->name, .out = s->out, .in = s->in, .data = copy[i], .layer = -1 };
		must(lora_model_add_site(h, &d, NULL));
	}
	return h;
}

static void bench_merge(void)
{
	static series in, out, host_in, host_out, copy, share;
	in = out = host_in = host_out = copy = share = (series){ .n = 0 };
	lora_model *m = open_model();
	lora_adapter *a = adapter(m, 1);
	size_t n = m->s.n, total = 0, bytes[4096];
	char *to[4096];
	const char *from[4096];
	for (size_t i = 0; i < n; i++) {
		const lora__site *s = m->s.list[i];
		bytes[i] = s->is_head ? 0 : lora__site_bytes(s), from[i] = s->base, total += bytes[i];
		if (!(to[i] = lora__alloc(ctx, bytes[i] + 64))) must(LORA_E_MEMORY);
		memcpy(to[i], from[i], bytes[i]);
	}
	copying c = { to, from, bytes };
	for (int i = -1; i < opt.rounds; i++) {
		double work = 2e-9 * (double)total;
		watch w = start();
		lora__parallel(ctx, (int64_t)n, copy_one, &c);
		double bound = stop(&copy, w, i, work);
		w = start();
		must(lora_adapter_merge(a, NULL));
		double rate = stop(&in, w, i, work);
		w = start();
		must(lora_adapter_unmerge(a));
		stop(&out, w, i, work);
		if (i >= 0) share.value[share.n++] = 100 * rate / bound;
	}
	lora_adapter_destroy(a);
	lora_model *h = host_model(m, to);
	a = adapter(h, 1);
	for (int i = -1; i < (opt.rounds < 3 ? opt.rounds : 3) && wanted(opt.cases, "host"); i++) {
		watch w = start();
		must(lora_adapter_merge(a, NULL));
		stop(&host_in, w, i, 2e-9 * (double)total);
		w = start();
		must(lora_adapter_unmerge(a));
		stop(&host_out, w, i, 2e-9 * (double)total);
	}
	report("memcpy", "GB/s", &copy, 0);
	report("merge", "GB/s", &in, 0);
	report("merge of memcpy", "%", &share, 0);
	report("unmerge", "GB/s", &out, 0);
	report("merge host weights", "GB/s", &host_in, 0);
	report("unmerge host weights", "GB/s", &host_out, 0);
	lora_adapter_destroy(a), lora_model_destroy(h), lora_model_destroy(m);
	for (size_t i = 0; i < n; i++) lora__free(ctx, to[i]);
}

static void bench_files(void)
{
	static series open, attach, off;
	open = attach = off = (series){ .n = 0 };
	char path[420];
	lora_model *m = open_model();
	lora_adapter *a = adapter(m, 1);
	snprintf(path, sizeof path, "%s-adapter", model_dir());
	must(lora_adapter_save(a, path, NULL));
	lora_adapter_destroy(a), lora_model_destroy(m);
	for (int i = -1; i < opt.rounds; i++) {
		watch w = start();
		m = open_model();
		stop(&open, w, i, 0);
		w = start();
		must(lora_adapter_open(m, path, NULL, &a));
		must(lora_adapter_attach(a, 1.0));
		stop(&attach, w, i, 0);
		w = start();
		must(lora_adapter_detach(a));
		stop(&off, w, i, 0);
		lora_adapter_destroy(a), lora_model_destroy(m);
	}
	series *all[] = { &open, &attach, &off };
	for (int k = 0; k < 3; k++)
		for (int i = 0; i < all[k]->n; i++) all[k]->value[i] *= 1e3;
	report("open the model", "ms", &open, 1);
	report("attach from disk", "ms", &attach, 1);
	report("detach", "ms", &off, 1);
}

/* ---- */

static lora_context *context(const char *backend)
{
	lora_context_options o;
	lora_error why = { .struct_size = sizeof why };
	lora_context *c = NULL;
	must(lora_context_options_init(&o, sizeof o));
	o.threads = opt.threads, o.backend = backend, o.error = &why;
	if (lora_context_create(LORA_ABI, &o, &c)) fprintf(stderr, "bench: %s: %s\n", backend, why.message);
	return c;
}

static int read_options(int argc, char **argv)
{
	const struct { const char *name; const char **text; int *number; } options[] = { { "--shapes", &opt.shapes, NULL }, { "--dtypes", &opt.dtypes, NULL },
		{ "--cases", &opt.cases, NULL }, { "--backend", &opt.backend, NULL }, { "--dir", &opt.dir, NULL }, { "--format", &opt.format, NULL },
		{ "--rounds", NULL, &opt.rounds }, { "--threads", NULL, &opt.threads }, { "--batch", NULL, &opt.batch }, { "--length", NULL, &opt.length } };
	enum { N_OPTIONS = sizeof options / sizeof *options };
	for (int i = 1; i < argc; i += 2) {
		int o = 0;
		while (o < N_OPTIONS && strcmp(argv[i], options[o].name)) o++;
		if (o == N_OPTIONS || i + 1 == argc) return fprintf(stderr, "bench: what is %s?\n", argv[i]), 2;
		if (options[o].text) *options[o].text = argv[i + 1];
		else *options[o].number = (int)strtol(argv[i + 1], NULL, 10);
	}
	if (opt.rounds < 1 || opt.rounds > MAX_ROUNDS || opt.batch < 0 || opt.length < 2 || opt.threads < 1) return fprintf(stderr, "bench: a number is out of range\n"), 2;
	return 0;
}

int main(int argc, char **argv)
{
	static const char *const dtypes[] = { "f32", "bf16" }, *const backends[PEAK_BACKENDS] = { "naive", "blis", "onednn" };
	int found = 0, status = read_options(argc, argv);
	if (status) return status;
	if (!(ctx = context(opt.backend))) return 1;
	for (int b = 0; b < PEAK_BACKENDS && wanted(opt.cases, "train"); b++) peaks[b] = context(backends[b]);
	machine();
	for (int s = 0; s < BENCH_SHAPES; s++)
		for (int d = 0; d < 2; d++) {
			shape = &bench_shapes[s], dtype = dtypes[d], batch_size = opt.batch ? opt.batch : shape->batch;
			if (!wanted(opt.shapes, shape->name) || !wanted(opt.dtypes, dtype)) continue;
			found = 1;
			if (wanted(opt.cases, "train")) bench_train();
			if (wanted(opt.cases, "decode")) bench_decode();
			if (wanted(opt.cases, "merge")) bench_merge();
			if (wanted(opt.cases, "files")) bench_files();
		}
	if (!found) return fprintf(stderr, "bench: no shape of %s with a dtype of %s\n", opt.shapes, opt.dtypes), 2;
	if (strcmp(opt.format, "csv")) table();
	for (int b = 0; b < PEAK_BACKENDS; b++) lora_context_destroy(peaks[b]);
	lora_context_destroy(ctx);
	return 0;
}
