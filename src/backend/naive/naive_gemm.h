/* What the GEMM templates and naive_gemm.c share. */
#ifndef LORA_BACKEND_NAIVE_GEMM_H
#define LORA_BACKEND_NAIVE_GEMM_H

#include "backend/naive/naive.h"

enum {
	GEMM_KC = 256,      /* depth of a packed block: a strip of B stays in the nearest cache; part of the order of sums, the same for all copies */
	GEMM_MC = 1024, GEMM_NC = 4096, /* rows of A and columns of B packed at once: 1 and 4 MiB in float */
	GEMM_MC_ACC = 512, GEMM_NC_ACC = 1024, /* the same when C is not real: the sums are kept in scratch over the whole depth */
	GEMM_TILE_M = 96, GEMM_TILE_N = 256, /* a task's part of C */
	THIN_ROWS = 48, THIN_KC = 256, /* rows of a task, a multiple of every 2 MR, and depth of a block; part of the order of sums */
	THIN_K = 64,        /* products no deeper than this are thin for any width */
	GEMM_TINY = 8,      /* up to here B is read once per row or two: not even a thin product pays */
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

/* Products with a thin side (LoRA's): a block of rows of A, all of B packed as [k][width] in real. */
typedef struct thin_job {
	const lora_view *a, *c;
	int64_t m, n, k, width;
	void   *b;
	double  alpha, beta;
	char   *scratch;
	size_t  per_thread;
} thin_job;

/* Run c on the thin form when it has one: 1, and the status in *st. */
int lora__naive_thin(lora__naive *self, const lora_call *c, lora_dtype real, lora_status *st);

/* Run c in blocks when it has that form on this processor: 1, and the status in *st. */
int lora__naive_block(lora__naive *self, const lora_call *c, lora_status *st);

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
