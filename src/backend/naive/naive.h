/* The naive backend: the reference for every primitive of lora/backend.h. Internal to this folder.
 *
 * A primitive is one function lora__naive_<group>() over a checked call. Its loops are a template (*.inc) that naive_each.h includes for
 * real = double, and for real = float and for BF16 activations once per instruction set; PICK() takes the one for this processor. The
 * order of sums does not depend on the vector length. Matrix products (GEMM, attention) and exp fuse a multiply with an add where the
 * instruction set can, so there the copies differ by at most the roundings that are left out; XENT and SiLU in BF16 have
 * forms of their own on AVX-512 (other order of sums, an approximate reciprocal refined to 2^-27); elsewhere all copies give the same bits.
 * BF16: loaded as F32, computed in F32, rounded once when stored (norms, rotary and SiLU of isa 3 and above take subnormals for
 * zero); there products of BF16 instructions (naive_block.c, naive_attention_block.c) round the second operand as well, as lora/backend.h allows. F32
 * products that are not thin run there too, without such rounding but in an order of their own (naive_block_f32.c).
 * Loops are parallel over outputs, never over a sum: the bits are the same for any number of threads. */
#ifndef LORA_BACKEND_NAIVE_H
#define LORA_BACKEND_NAIVE_H

#include <math.h>
#include <stdatomic.h>

#include "base/small.h"
#include "tensor/dtype.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define NAIVE_X86 1
#include <immintrin.h>
#endif

/* One instance. One call at a time, except for calls from inside a parallel task, which find the scratch taken and get their own. */
typedef struct lora__naive {
	lora_host_services host;
	int32_t     isa;     /* 0 portable, 1 AVX2, 2 AVX-512, 3 AVX-512 with BF16, 4 and AMX */
	atomic_flag taken;   /* the scratch is in use */
	void       *scratch; /* kept between calls: fresh pages are dear */
	size_t      scratch_bytes;
} lora__naive;

/* The copy for activations of type real; PICK_WIDE of a group without BF16 copies, PICK_PORTABLE of one without copies by
 * instruction set, PICK_AVX2 and PICK_WIDE_AVX2 of one without AVX-512. */
#define PICK_PORTABLE(real, f) ((real) == LORA_F64 ? f##_f64 : (real) == LORA_BF16 ? f##_bf16 : f##_f32)
#ifdef NAIVE_X86
#define PICK_WIDE(self, real, f) \
	((real) == LORA_F64 ? f##_f64 : (self)->isa >= 2 ? f##_avx512 : (self)->isa == 1 ? f##_avx2 : f##_f32)
#define PICK(self, real, f) \
	((real) != LORA_BF16 ? PICK_WIDE(self, real, f) : (self)->isa >= 2 ? f##_bf16_avx512 : (self)->isa == 1 ? f##_bf16_avx2 : f##_bf16)
#define PICK_WIDE_AVX2(self, real, f) ((real) == LORA_F64 ? f##_f64 : (self)->isa >= 1 ? f##_avx2 : f##_f32)
#define PICK_AVX2(self, real, f) ((self)->isa < 1 || (real) == LORA_F64 ? PICK_PORTABLE(real, f) : (real) == LORA_BF16 ? f##_bf16_avx2 : f##_avx2)
#else
#define PICK_AVX2(self, real, f) PICK_PORTABLE(real, f)
#define PICK_WIDE(self, real, f) ((real) == LORA_F64 ? f##_f64 : f##_f32)
#define PICK_WIDE_AVX2(self, real, f) PICK_WIDE(self, real, f)
#define PICK(self, real, f) ((real) == LORA_BF16 ? f##_bf16 : PICK_WIDE(self, real, f))
#endif

/* Scratch of one call, 64-byte aligned; NULL and an error when there is none. Give it back before the call returns. */
void *lora__naive_scratch(lora__naive *self, size_t bytes);
void  lora__naive_release(lora__naive *self, void *scratch);

lora_status lora__naive_fail(lora__naive *self, lora_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Parallel loop; serial when the work (in multiply-adds or elements) is too small to pay for waking threads. */
void lora__naive_parallel(lora__naive *self, int64_t n_tasks, double work, lora_task_fn fn, void *arg);

/* A parallel loop over an [n,d] array in pieces of whole rows, or (flat) of one long row when every view is contiguous. */
typedef struct lora__naive_grid { int64_t n, d, rows, cols, row_blocks, col_blocks; } lora__naive_grid;
lora__naive_grid lora__naive_split(const lora_call *c, int first, int last, int flat);
/* Piece number task: rows r0..r1, columns c0..c1. */
static inline void lora__naive_piece(const lora__naive_grid *g, int64_t task, int64_t *r0, int64_t *r1, int64_t *c0, int64_t *c1)
{
	int64_t i = task / g->col_blocks, j = task % g->col_blocks;
	*r0 = i * g->rows, *r1 = *r0 + g->rows < g->n ? *r0 + g->rows : g->n;
	*c0 = j * g->cols, *c1 = *c0 + g->cols < g->d ? *c0 + g->cols : g->d;
}

/* All of n ids in 0 .. limit-1 (and below zero too when negative_ok). */
lora_status lora__naive_check_ids(lora__naive *self, const lora_view *ids, int64_t limit, int negative_ok, const char *what);

static inline lora_dtype lora__real_of(size_t size) { return size == 8 ? LORA_F64 : LORA_F32; }

/* Address of an element of a view. */
static inline void *lora__at(const lora_view *v, int64_t row, int64_t col)
{
	return (char *)v->data + (row * v->stride[0] + col * v->stride[1]) * (int64_t)lora__dtype_size(v->dtype);
}

typedef lora_status (*lora__naive_fn)(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_gemm(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_copy(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_axpby(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_add(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_bias(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_colsum(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_sumsq(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_embed(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_rmsnorm(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_rmsnorm_bwd(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_layernorm(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_layernorm_bwd(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_rope(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_attention(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_attention_bwd(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_gated(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_gated_bwd(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_xent(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_dropout(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_adamw(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_topk(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_topk_bwd(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_rowscale(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_rowdot(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_lowrank(lora__naive *self, const lora_call *c, lora_dtype real);
lora_status lora__naive_sgd(lora__naive *self, const lora_call *c, lora_dtype real);

#endif
