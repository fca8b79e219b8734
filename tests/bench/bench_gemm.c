/* GFLOP/s of C = X W^T, dX = dY W and small-rank products on every backend that can be had, for a few model shapes.
 * usage: gemm [plugin_dir]. Prints machine, then one line per backend, threads, dtype of W and shape: best of several runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/backend.h"

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const struct { const char *what; int64_t m, n, k; int trans_b; } shapes[] = {
	{ "square", 1024, 1024, 1024, 0 },      { "y = x W^T", 512, 2048, 2048, 1 },   { "y = x W^T", 512, 5632, 2048, 1 },
	{ "dx = dy W", 512, 2048, 5632, 0 },    { "y = x A^T, r 16", 512, 16, 2048, 1 }, { "y += u B^T, r 16", 512, 2048, 16, 1 },
	{ "y = x W^T", 64, 2048, 2048, 1 },     { "y = x W^T", 8, 2048, 2048, 1 },       { "decode", 1, 2048, 2048, 1 },
};

static double measure(lora_context *ctx, int64_t m, int64_t n, int64_t k, int trans_b, lora_dtype type)
{
	size_t size = lora__dtype_size(type);
	float *a = malloc((size_t)(m * k) * 4), *c = malloc((size_t)(m * n) * 4);
	char *b = malloc((size_t)(n * k) * size);
	double best = 1e9, t0 = now();
	for (int64_t i = 0; i < m * k; i++) a[i] = (float)(i % 17) - 8;
	for (int64_t i = 0; i < n; i++) {
		float row[8192];
		for (int64_t j = 0; j < k; j++) row[j] = (float)((i + j) % 13) - 6;
		lora__convert(b + (size_t)(i * k) * size, type, row, LORA_F32, (size_t)k);
	}
	lora_view bv = trans_b ? lora__view_t(lora__view2(b, type, n, k, k)) : lora__view2(b, type, k, n, n);
	for (int run = 0; run < 3 || (now() - t0 < 1.0 && run < 200); run++) {
		double t = now();
		if (lora__gemm(ctx, 1, lora__view2(a, LORA_F32, m, k, k), bv, 0, lora__view2(c, LORA_F32, m, n, n))) {
			fprintf(stderr, "%s\n", lora_context_last_error(ctx));
			exit(1);
		}
		t = now() - t;
		if (t < best) best = t;
	}
	free(a), free(b), free(c);
	return 2e-9 * (double)m * (double)n * (double)k / best;
}

int main(int argc, char **argv)
{
	static const char *const backends[] = { "naive", "blis", "onednn" };
	static const lora_dtype types[] = { LORA_F32, LORA_BF16 };
	printf("%s\n%-6s %7s %5s %-18s %6s %6s %6s %10s\n", lora_build_info(), "name", "threads", "W", "what", "m", "n", "k", "GFLOP/s");
	for (size_t b = 0; b < sizeof backends / sizeof *backends; b++)
		for (int threads = 1; threads <= 2; threads++) {
			lora_context_options o;
			lora_context *ctx;
			lora_context_options_init(&o, sizeof o);
			o.threads = threads, o.backend = backends[b], o.plugin_dir = argc > 1 ? argv[1] : NULL;
			if (lora_context_create(LORA_ABI, &o, &ctx)) {
				printf("%-6s not there\n", backends[b]);
				break;
			}
			for (size_t t = 0; t < sizeof types / sizeof *types; t++)
				for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
					printf("%-6s %7d %5s %-18s %6lld %6lld %6lld %10.1f\n", backends[b], threads, lora__dtype_name(types[t]), shapes[s].what,
					       (long long)shapes[s].m, (long long)shapes[s].n, (long long)shapes[s].k,
					       measure(ctx, shapes[s].m, shapes[s].n, shapes[s].k, shapes[s].trans_b, types[t]));
			lora_context_destroy(ctx);
		}
	return 0;
}
