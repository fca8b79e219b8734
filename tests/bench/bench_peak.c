/* GFLOP/s of GEMM on every backend that can be had: the peak that a training step is measured against. The shapes are those of Llama models
 * (15m, 135m, 1.1b): y = x W^T and dx = dy W of each linear, 512 and 1,024 rows, 1 and 2 threads, F32 and BF16, with W as it is and packed.
 *
 *     bench_peak [--shape 15m|135m|1.1b] [--dtype F32|BF16] [--backend NAME] [--threads N] [--rows N] [--rounds N] [--plugins DIR]
 *
 * One CSV line per case: the median and the best of the rounds, after one that is not counted. Backends take turns within a round, so that what
 * else the machine does falls on all of them. A backend that does not take a case itself (naive would run it) is left out of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/backend.h"
#include "lora/lora.h"

enum { MAX_ROUNDS = 64, MAX_RUNNERS = 8 };

static const struct shape { const char *name; int hidden, inner, kv; } shapes[] = { { "15m", 288, 768, 288 }, { "135m", 576, 1536, 192 }, { "1.1b", 2048, 5632, 256 } };
static const char *const backends[] = { "naive", "blis", "onednn" };

static struct { const char *shape, *dtype, *backend, *plugins; int threads, rows, rounds; } opt = { .rounds = 7 };

/* A backend in one form. */
typedef struct runner { lora_context *ctx; const char *name; lora_call call; void *packed; double seconds[MAX_ROUNDS]; } runner;

/* Seconds of processor time for one thread, which others on the machine disturb less; of the clock for several. */
static double spent(int threads)
{
	struct timespec t;
	clock_gettime(threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void must(lora_context *ctx, lora_status st)
{
	if (st) fprintf(stderr, "bench_peak: %s\n", lora_context_last_error(ctx)), exit(1);
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void *random_matrix(int64_t n, lora_dtype type)
{
	float *f = malloc((size_t)n * sizeof *f);
	void *out = aligned_alloc(64, ((size_t)n * lora__dtype_size(type) + 63) / 64 * 64);
	uint32_t seed = 1;
	for (int64_t i = 0; i < n; i++) seed = seed * 1664525u + 1013904223u, f[i] = (float)(seed >> 8) * 0x1p-24f - 0.5f;
	lora__convert(out, type, f, LORA_F32, (size_t)n);
	free(f);
	return out;
}

/* One product on all backends. */
static void measure(lora_context **ctx, int threads, const char *shape, const char *what, lora_dtype type, int64_t m, int64_t n, int64_t k, int transposed)
{
	runner r[MAX_RUNNERS];
	int count = 0;
	void *a = random_matrix(m * k, type), *w = random_matrix(n * k, type), *c = random_matrix(m * n, type);
	lora_view b = transposed ? lora__view_t(lora__view2(w, type, n, k, k)) : lora__view2(w, type, k, n, n);
	lora_call call = { .struct_size = sizeof call, .prim = LORA_PRIM_GEMM, .n_views = 3, .f = { 1, 0 },
		.v = { lora__view2(c, type, m, n, n), lora__view2(a, type, m, k, k), b } };
	for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
		if (!ctx[i] || !ctx[i]->backend->supports(ctx[i]->backend_self, &call, NULL)) continue;
		r[count++] = (runner){ .ctx = ctx[i], .name = backends[i], .call = call };
		if (!ctx[i]->backend->weight_pack) continue;
		runner *p = &r[count];
		*p = (runner){ .ctx = ctx[i], .name = backends[i], .call = call };
		must(p->ctx, p->ctx->backend->weight_pack(p->ctx->backend_self, &b, &p->packed, NULL));
		p->call.packed = p->packed, count++;
	}
	int rounds = 0;
	for (double t0 = now(); rounds <= opt.rounds && (rounds < 4 || now() - t0 < 20); rounds++)
		for (int i = 0; i < count; i++) {
			double t = spent(threads);
			must(r[i].ctx, lora__run(r[i].ctx, &r[i].call));
			if (rounds) r[i].seconds[rounds - 1] = spent(threads) - t;
		}
	double flop = 2e-9 * (double)m * (double)n * (double)k;
	for (int i = 0; i < count; i++) {
		qsort(r[i].seconds, (size_t)rounds - 1, sizeof(double), ascending);
		printf("%s,%s,%s,%d,%s,%s,%lld,%lld,%lld,%.1f,%.1f,%d\n", r[i].name, r[i].packed ? "packed" : "plain", lora__dtype_name(type), threads, shape, what,
		       (long long)m, (long long)n, (long long)k, flop / r[i].seconds[(rounds - 1) / 2], flop / r[i].seconds[0], rounds - 1);
		if (r[i].packed) r[i].ctx->backend->weight_free(r[i].ctx->backend_self, r[i].packed);
	}
	fflush(stdout);
	free(a), free(w), free(c);
}

static void measure_shape(lora_context **ctx, int threads, const struct shape *s, lora_dtype type, int64_t m)
{
	measure(ctx, threads, s->name, "q", type, m, s->hidden, s->hidden, 1);
	measure(ctx, threads, s->name, "dq", type, m, s->hidden, s->hidden, 0);
	if (s->kv != s->hidden) measure(ctx, threads, s->name, "k", type, m, s->kv, s->hidden, 1), measure(ctx, threads, s->name, "dk", type, m, s->hidden, s->kv, 0);
	measure(ctx, threads, s->name, "up", type, m, s->inner, s->hidden, 1);
	measure(ctx, threads, s->name, "dup", type, m, s->hidden, s->inner, 0);
	measure(ctx, threads, s->name, "down", type, m, s->hidden, s->inner, 1);
	measure(ctx, threads, s->name, "ddown", type, m, s->inner, s->hidden, 0);
}

static void with_threads(int threads)
{
	static const lora_dtype types[] = { LORA_F32, LORA_BF16 };
	lora_context *ctx[sizeof backends / sizeof *backends] = { 0 };
	for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
		lora_context_options o;
		if (opt.backend && strcmp(opt.backend, backends[i])) continue;
		lora_context_options_init(&o, sizeof o);
		o.threads = threads, o.backend = backends[i], o.plugin_dir = opt.plugins;
		if (lora_context_create(LORA_ABI, &o, &ctx[i])) ctx[i] = NULL, fprintf(stderr, "bench_peak: %s is not there\n", backends[i]);
	}
	for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
		for (int t = 0; t < 2; t++)
			for (int64_t m = 512; m <= 1024; m *= 2) {
				if (opt.shape && strcmp(opt.shape, shapes[s].name)) continue;
				if (opt.dtype && strcmp(opt.dtype, lora__dtype_name(types[t]))) continue;
				if (!opt.rows || opt.rows == m) measure_shape(ctx, threads, &shapes[s], types[t], m);
				else if (opt.rows != 512 && opt.rows != 1024 && m == 512) measure_shape(ctx, threads, &shapes[s], types[t], opt.rows);
			}
	for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
		if (ctx[i]) lora_context_destroy(ctx[i]);
}

int main(int argc, char **argv)
{
	opt.plugins = getenv("LORA_PLUGIN_DIR");
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--shape")) opt.shape = argv[i + 1];
		else if (!strcmp(argv[i], "--dtype")) opt.dtype = argv[i + 1];
		else if (!strcmp(argv[i], "--backend")) opt.backend = argv[i + 1];
		else if (!strcmp(argv[i], "--threads")) opt.threads = (int)strtol(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--rows")) opt.rows = (int)strtol(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--rounds")) opt.rounds = (int)strtol(argv[i + 1], NULL, 10);
		else if (!strcmp(argv[i], "--plugins")) opt.plugins = argv[i + 1];
	}
	if (opt.rounds < 3) opt.rounds = 3;
	if (opt.rounds > MAX_ROUNDS) opt.rounds = MAX_ROUNDS;
	const char *commit = getenv("LORA_COMMIT");
	printf("# %s; commit %s\nbackend,weights,dtype,threads,shape,product,m,n,k,gflops_median,gflops_best,rounds\n", lora_build_info(), commit ? commit : "unknown");
	for (int threads = 1; threads <= 2; threads++)
		if (!opt.threads || opt.threads == threads) with_threads(threads);
	return 0;
}
