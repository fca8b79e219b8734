/* What the GEMM templates and naive_gemm.c share. */
#ifndef LORA_BACKEND_NAIVE_GEMM_H
#define LORA_BACKEND_NAIVE_GEMM_H

#include "backend/naive/naive.h"

enum {
	GEMM_KC = 256,      /* depth of a packed block: a strip of B stays in the nearest cache; part of the order of sums, the same for all copies */
	GEMM_MC = 1024, GEMM_NC = 4096, /* rows of A and columns of B packed at once: 1 and 4 MiB in float */
	GEMM_MC_ACC = 512, GEMM_NC_ACC = 1024, /* the same when C is not real: the sums are kept in scratch over the whole depth */
	GEMM_TILE_M = 96, GEMM_TILE_N = 256, /* a task's part of C */
	GEMM_FEW = 16       /* this many rows or fewer are not worth packing B */
};

/* One packed block on its way: C block (m0, n0) of mb x nb, depth kb. */
typedef struct gemm_job {
	const lora_view *a, *b;
	int64_t m0, n0, k0, mb, nb, kb;
	int64_t a_strips, tile_m, tile_n, tiles_n;
	void   *pa, *pb, *c; /* c: element (m0, n0), real */
	int64_t rs, cs;
	double  alpha, beta;
} gemm_job;

/* Few rows: x[m][k] contiguous real. */
typedef struct gemm_few_job {
	const lora_view *b, *c;
	const void *x;
	int64_t m, n, k, cols;
	double  alpha, beta;
	char   *scratch;
	size_t  per_thread;
} gemm_few_job;

#endif
