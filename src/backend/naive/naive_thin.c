/* GEMM with a thin side: few columns (shrink, dB, dH of LoRA), few rows (dA, seen transposed), or a short depth (expand, dX). What a library packs
 * for reuse is here used once or twice, so A is not packed: its elements are spread over vectors from where they are (F32), or from a block
 * of rows that was converted. The whole of B is packed once. The depth is cut in blocks of THIN_KC as in naive_gemm.c. */
#include "backend/naive/naive_gemm.h"

#define SMALL LORA__SMALL __attribute__((noinline))
#define NAIVE_NO_BF16
#define NAIVE_TEMPLATE "backend/naive/naive_thin.inc"
#include "backend/naive/naive_each.h"

LORA__SMALL int lora__naive_thin(lora__naive *self, const lora_call *c, lora_dtype real, lora_status *st)
{
	lora_view cv = c->v[0], av = c->v[1], bv = c->v[2];
	int vl, nr;
	PICK_WIDE(self, real, thin_shape)(&vl, &nr);
	if (!(cv.dtype == real || (real == LORA_F32 && cv.dtype == LORA_BF16)) || av.size[1] < 1) return 0;
	int narrow = cv.size[1] <= nr, flat = av.size[1] <= THIN_K;
	if (!narrow && (cv.size[0] <= nr || (flat && cv.stride[1] != 1 && cv.stride[0] == 1))) {
		lora_view t = lora__view_t(av);
		cv = lora__view_t(cv), av = lora__view_t(bv), bv = t;
		narrow = cv.size[1] <= nr;
	}
	if ((!narrow && !flat) || (av.stride[0] != 1 && av.stride[1] != 1) || (bv.stride[0] != 1 && bv.stride[1] != 1)) return 0;
	thin_job j = { .a = &av, .c = &cv, .m = cv.size[0], .n = cv.size[1], .k = av.size[1], .alpha = c->f[0], .beta = c->f[1] };
	j.width = j.n <= vl ? vl : (j.n + nr - 1) / nr * nr;
	int64_t depth = j.k < THIN_KC ? j.k : THIN_KC;
	size_t size = lora__dtype_size(real), row = (size_t)(j.k > j.n ? j.k : j.n) + 16, b = ((size_t)(j.k * j.width) * size + 63) & ~(size_t)63;
	j.per_thread = ((size_t)(THIN_ROWS * (depth + nr)) * size + 63) & ~(size_t)63;
	char *scratch = lora__naive_scratch(self, b + j.per_thread * (size_t)self->host.threads + row * size);
	if (!scratch) return *st = LORA_E_MEMORY, 1;
	j.b = scratch, j.scratch = scratch + b;
	PICK_WIDE(self, real, thin_pack)(&j, &bv, j.scratch + j.per_thread * (size_t)self->host.threads);
	lora__naive_parallel(self, (j.m + THIN_ROWS - 1) / THIN_ROWS, (double)j.m * (double)j.n * (double)j.k, PICK_WIDE(self, real, thin), &j);
	lora__naive_release(self, scratch);
	return *st = LORA_OK, 1;
}
