/* GFLOP/s of C = X W^T, dX = dY W and small-rank products on every backend that can be had ($LORA_PLUGIN_DIR), for a few model shapes, with 1
 * and 2 threads and W in F32 and BF16. CSV, one line each: median, lowest and highest of the rounds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"

static const struct { const char *what; int64_t m, n, k; int trans_b; } shapes[] = {
	{ "square", 1024, 1024, 1024, 0 },  { "y=xW^T", 512, 2048, 2048, 1 },    { "y=xW^T", 512, 5632, 2048, 1 },
	{ "dx=dyW", 512, 2048, 5632, 0 },   { "u=xA^T", 512, 16, 2048, 1 },      { "y+=uB^T", 512, 2048, 16, 1 },
	{ "y=xW^T", 64, 2048, 2048, 1 },    { "y=xW^T", 16, 2048, 2048, 1 },     { "decode", 1, 2048, 2048, 1 },
};

enum { MAX_ROUNDS = 200 };

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Contents do not matter for the time, but must be neither zero nor subnormal. */
static void *matrix(int64_t n, int64_t d, lora_dtype type)
{
	size_t size = lora__dtype_size(type);
	float *row = malloc((size_t)d * sizeof *row);
	char *x = malloc((size_t)(n * d) * size);
	if (!row || !x) fprintf(stderr, "bench_gemm: out of memory\n"), exit(1);
	for (int64_t i = 0; i < n; i++) {
		for (int64_t j = 0; j < d; j++) row[j] = (float)((i + j) % 13) - 6.5f;
		lora__convert(x + (size_t)(i * d) * size, type, row, LORA_F32, (size_t)d);
	}
	free(row);
	return x;
}

static void measure(lora_context *ctx, size_t shape, lora_dtype type)
{
	int64_t m = shapes[shape].m, n = shapes[shape].n, k = shapes[shape].k;
	double rate[MAX_ROUNDS], t0 = lora__now();
	void *a = matrix(m, k, LORA_F32), *b = matrix(n, k, type), *c = matrix(m, n, LORA_F32);
	lora_view bv = shapes[shape].trans_b ? lora__view_t(lora__view2(b, type, n, k, k)) : lora__view2(b, type, k, n, n);
	int rounds = 0;
	while (rounds < 5 || (lora__now() - t0 < 1.0 && rounds < MAX_ROUNDS)) {
		double t = lora__now();
		if (lora__gemm(ctx, 1, lora__view2(a, LORA_F32, m, k, k), bv, 0, lora__view2(c, LORA_F32, m, n, n)))
			fprintf(stderr, "bench_gemm: %s\n", lora_context_last_error(ctx)), exit(1);
		rate[rounds++] = 2e-9 * (double)m * (double)n * (double)k / (lora__now() - t);
	}
	qsort(rate, (size_t)rounds, sizeof *rate, by_value);
	printf("%s,%s,%d,%s,%d,%d,%d,%d,%.4g,%.4g,%.4g\n", shapes[shape].what, lora_context_backend_name(ctx), lora_context_threads(ctx),
	       lora__dtype_name(type), (int)m, (int)n, (int)k, rounds, rate[rounds / 2], rate[0], rate[rounds - 1]);
	free(a), free(b), free(c);
}

static void machine(void)
{
	char line[256], cpu[256] = "unknown";
	FILE *f = fopen("/proc/cpuinfo", "r");
	while (f && fgets(line, sizeof line, f)) {
		char *colon = strchr(line, ':');
		if (strncmp(line, "model name", 10) || !colon) continue;
		line[strcspn(line, "\n")] = 0;
		snprintf(cpu, sizeof cpu, "%s", colon + 2);
		break;
	}
	if (f) fclose(f);
	const char *commit = getenv("LORA_COMMIT");
	printf("# machine: %s; commit: %s; seed: none; %s\n", cpu, commit ? commit : "unknown", lora_build_info());
	printf("case,backend,threads,w,m,n,k,rounds,median,low,high\n");
}

int main(void)
{
	static const char *const backends[] = { "naive", "blis", "onednn" };
	static const lora_dtype types[] = { LORA_F32, LORA_BF16 };
	machine();
	for (size_t b = 0; b < sizeof backends / sizeof *backends; b++)
		for (int threads = 1; threads <= 2; threads++) {
			lora_context_options o;
			lora_error why = { .struct_size = sizeof why };
			lora_context *ctx;
			lora_context_options_init(&o, sizeof o);
			o.threads = threads, o.backend = backends[b], o.error = &why;
			if (lora_context_create(LORA_ABI, &o, &ctx)) {
				printf("# %s: %s\n", backends[b], why.message);
				break;
			}
			for (size_t t = 0; t < sizeof types / sizeof *types; t++)
				for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) measure(ctx, s, types[t]);
			lora_context_destroy(ctx);
		}
	return 0;
}
