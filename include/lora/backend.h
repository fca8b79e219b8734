/* liblora: the plug-in table of a compute backend. Versioned on its own: LORA_BACKEND_ABI.
 *
 * A backend runs primitives. A primitive call is one struct of views (pointer, dtype, sizes, strides), integers and reals, so a new
 * primitive changes no table. naive knows every primitive and is the reference; another backend says by supports() which calls it
 * takes; the core runs the rest on naive when the backend's memory is host memory.
 *
 * A plug-in is a shared object liblora_<name>.so in the plug-in directory that exports lora_backend_entry(). It links to nothing of
 * liblora; what it needs comes in lora_host_services. It is loaded with RTLD_NOW | RTLD_LOCAL and never unloaded.
 * Tables and structs only grow at the end; struct_size says how much is there. */
#ifndef LORA_BACKEND_H
#define LORA_BACKEND_H

#include "lora/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LORA_BACKEND_ABI 1u

/* A strided array. Strides count elements. Unused sizes are 1 and strides 0. data may be unaligned only for byte types. */
typedef struct lora_view {
	void      *data;
	lora_dtype dtype;
	int32_t    rank;
	int64_t    size[4];
	int64_t    stride[4];
} lora_view;

/* Primitives. "real" is the dtype of activations: F32, BF16, or F64 (naive only). "wide" is the dtype of statistics and tables (rstd, lse, cos, sin),
 * of sums and of gradients of parameters: F64 for F64, else F32. With BF16 values are loaded as F32, computed in F32, and rounded once to
 * nearest even when stored, but for what GEMM and ATTENTION allow. Weights and embedding tables may be of any float type.
 * v[] are the views, i[] the integers, f[] the reals of lora_call. [n,d] row-major with unit last stride unless "any strides".
 * Outputs must not overlap inputs unless "in place" is said. beta = 0 never reads the output. */
typedef int32_t lora_prim;
enum {
	/* v0 C[m,n] = f0 * v1 A[m,k] * v2 B[k,n] + f1 * C; any strides; A, B, C of any float type, sums in F64 when one of them is, else F32.
	 * With v3 A2[m,r] and v4 B2[r,n] also + f2 * A2 B2 (LoRA's product in the same pass over C); a backend that does not know them refuses the call,
	 * and the core runs it as two. When A is BF16, a backend may round a B or B2 of F32 or F16 to BF16 first, with f2 already in B2, and take subnormals
	 * for zero. When A is F32, a backend may take numbers below 2^-110 with fewer bits and give NaN where a number from 2^128 - 2^119 on or an
	 * infinite one takes part. i0 = 1: for this call numbers of A, B, A2 and B2 rounded to BF16 will do, with sums as ever; a backend may pass over it.
	 * With packed set, v2 still tells B's sizes; its data may be NULL where supports() takes that. */
	LORA_PRIM_GEMM = 1,
	/* v0 out[n,d] = cast(v1 in[n,d]); any strides and float types; round to nearest even */
	LORA_PRIM_COPY = 2,
	/* v0 y[n,d] = f0 * v1 x[n,d] + f1 * y; y real, x any float type; in place allowed */
	LORA_PRIM_AXPBY = 3,
	/* v0 out[n,d] = v1 a + v2 b; in place allowed */
	LORA_PRIM_ADD = 4,
	/* v0 out[n,d] = f0 * v1 table[v2 ids[n] I32, :]; table any float type */
	LORA_PRIM_EMBED = 5,
	/* v0 y[n,d] = v1 x * rstd * (f1 + v2 w[d]); v3 rstd[n] wide (written); f0 eps. arXiv:1910.07467 eq. 4 */
	LORA_PRIM_RMSNORM = 6,
	/* v0 dx[n,d] = f1 * dx + ...; v1 x, v2 w[d], v3 rstd[n] wide, v4 dy[n,d]; f0 weight offset */
	LORA_PRIM_RMSNORM_BWD = 7,
	/* in place v0 x[n, heads*head_dim]; v1 cos, v2 sin [positions, rot/2] wide; v3 pos[n] I32; i0 heads, i1 head_dim, i2 rot,
	 * i3 1 = inverse (backward); halves j and j + rot/2 of a head form a pair. arXiv:2104.09864 eq. 34 */
	LORA_PRIM_ROPE = 8,
	/* v0 out[n, h*d]; v1 q[n, h*d]; v2 k[m, kv*d]; v3 v[m, kv*d]; v4 lse[n, h] wide (written); v5 segments[s,4] I32: first query row, query
	 * rows, first key row, key rows (query rows are the last ones of the keys: query j of a segment sees keys 0 .. keys-queries+j);
	 * i0 h, i1 kv, i2 d, i3 causal (0 = sees all keys of the segment), i4 window (0 = none; counted in v6); v6 columns[m] I32 or data NULL;
	 * f0 scale; f1 soft cap (0 = none). Never stores a T x T matrix. arXiv:2205.14135. A query sees the keys less than window behind it in columns
	 * (index in the segment without v6); not causal: less than window away on either side. Query rows of segments must not overlap, key rows
	 * may. Query rows in no segment are left alone. v7 bias[h,2r+1] wide, dense, or absent: bias[head][r + distance] is added to the scaled score, distance
	 * being the key's column (index in the segment without v6) minus the query's, cut to -r .. r. arXiv:1910.10683 section 2.1.
	 * BF16: probabilities and their gradients may be rounded to BF16 before they are multiplied. */
	LORA_PRIM_ATTENTION = 9,
	/* v0 dq, v1 dk, v2 dv (overwritten, zero where no segment reaches); v3 q, v4 k, v5 v, v6 out, v7 lse wide, v8 dout, v9 segments, v10 columns,
	 * v11 bias (no gradient);
	 * integers and reals as forward */
	LORA_PRIM_ATTENTION_BWD = 10,
	/* v0 h[n,d] = act(v1 gate) * v2 up; i0 activation (LORA_ACT_*); v2 data NULL: plain act(gate). arXiv:2002.05202 */
	LORA_PRIM_GATED = 11,
	/* v0 dgate, v1 dup (overwritten; dup data NULL when plain); v2 gate, v3 up, v4 dh; i0 activation; dgate may be in place over dh */
	LORA_PRIM_GATED_BWD = 12,
	/* v0 logits[n,V] real, in BF16 widened before anything is computed; overwritten by f0 * (softmax - onehot) when i0 = 1; v1 labels[n] I32 (< 0: row's loss and gradient are 0);
	 * v2 loss[n] F64 (written); f1 soft cap (0 = none) */
	LORA_PRIM_XENT = 13,
	/* v0 out[n,d] = v1 x * mask / (1 - f0); in place allowed; f1: out = f1 * out + ... Element (row, col) has index e = (row + i1) * d + col; its
	 * word is word e % 4 of Philox4x32-10 with key i0 and counter e / 4; it is kept when (word >> 8) * 2^-24 >= f0. So the mask depends on
	 * neither threads nor slicing. */
	LORA_PRIM_DROPOUT = 14,
	/* v0 y[n,d] += v1 bias[d] */
	LORA_PRIM_BIAS = 15,
	/* v0 out[d] wide = f0 * out + column sums of v1 x[n,d], fixed order */
	LORA_PRIM_COLSUM = 16,
	/* v0 out[1] F64 = sum of squares of v1 x[n] real or wide, fixed order; not finite when x is not */
	LORA_PRIM_SUMSQ = 17,
	/* AdamW over flat arrays, all wide: v0 p, v1 g (read), v2 m, v3 v [n]; f0 lr, f1 beta1, f2 beta2, f3 eps, f4 decoupled decay, f5 1 - beta1^t,
	 * f6 1 - beta2^t, f7 gradient factor; i0 1 = L2 decay in the gradient instead (Adam). arXiv:1711.05101 alg. 2, order of torch.optim */
	LORA_PRIM_ADAMW = 18,
	/* SGD, all wide: v0 p, v1 g (read), v2 buf[n] (data NULL without momentum); f0 lr, f1 momentum, f2 dampening, f3 weight decay, f4 gradient factor;
	 * i0 1 = nesterov, i1 1 = first step (buf = g) */
	LORA_PRIM_SGD = 19,
	/* v0 y[n,d] = (v1 x - mean) * rstd * v2 w[d] + v3 b[d] (b's data NULL: none); v4 mean[n], v5 rstd[n] wide (written); f0 eps; the variance is the
	 * biased one. arXiv:1607.06450 eq. 3 */
	LORA_PRIM_LAYERNORM = 20,
	/* v0 dx[n,d] = f0 * dx + ...; v1 x, v2 w[d], v3 mean[n], v4 rstd[n] wide, v5 dy[n,d] */
	LORA_PRIM_LAYERNORM_BWD = 21,
	/* v0 w[n,k] wide (written); v1 x[n,m]; v2 ids[n,k] I32 (written): the k largest x of each row in falling order, the lower index first among
	 * equals, and w = exp(x) over its sum over the row (i0 0) or over the chosen ones (i0 1). arXiv:2401.04088 section 2.1 */
	LORA_PRIM_TOPK = 22,
	/* v0 dx[n,m] (overwritten); v1 x, v2 ids[n,k] I32, v3 dw[n,k] wide; i0 as forward */
	LORA_PRIM_TOPK_BWD = 23,
	/* v0 y[n,d] = v1 x[n,d] * v2 s[n] wide; in place allowed */
	LORA_PRIM_ROWSCALE = 24,
	/* v0 out[n] wide = sums over d of v1 a[n,d] * v2 b[n,d] */
	LORA_PRIM_ROWDOT = 25,
	/* v0 out[n,d] = v1 base[n,d] + f0 * v2 b[n,r] * v3 a[r,d]; out and base of one float type, rounded once; b (any strides) and a wide; v4 F64 [1]
	 * (written): 0 when all of out is finite. The merge of a low-rank adapter. arXiv:2106.09685 section 4.1 */
	LORA_PRIM_LOWRANK = 26,
	LORA_PRIM_COUNT = 27
};

enum { LORA_ACT_SILU = 1, LORA_ACT_GELU_TANH = 2, LORA_ACT_GELU = 3, LORA_ACT_RELU = 4, LORA_ACT_TANH = 5 };

/* One primitive call. */
typedef struct lora_call {
	uint32_t    struct_size;
	lora_prim   prim;
	int32_t     n_views;
	int32_t     reserved0;
	lora_view   v[12];
	int64_t     i[8];
	double      f[8];
	const void *packed; /* GEMM: B in the backend's packed form (weight_pack), or NULL. One for another dtype of A is passed over */
} lora_call;

/* A task of a parallel loop. thread is 0 .. threads-1. */
typedef void (*lora_task_fn)(void *arg, int64_t task, int32_t thread);

enum { LORA_HOST_BF16_GEMM = 1 }; /* GEMM of BF16 activations with BF16 instructions (AVX-512 BF16, AMX), without packed weights */

/* What a backend may use of its host. All functions may be called from any thread, parallel only from the calling one. */
typedef struct lora_host_services {
	uint32_t struct_size;
	uint32_t abi;
	void    *host;
	void *(*alloc)(void *host, size_t bytes); /* 64-byte aligned; NULL when there is none */
	void (*free)(void *host, void *p);
	void (*log)(void *host, int32_t level, const char *module, const char *message);
	void (*error)(void *host, lora_status status, const char *message); /* detail of the failure about to be returned */
	void (*parallel)(void *host, int64_t n_tasks, lora_task_fn fn, void *arg); /* each thread begins with an equal run of tasks and then helps the others; nested calls run serially */
	int32_t threads;
	int32_t features; /* LORA_HOST_*: what the library's own code does best here and a backend chosen by "auto" need not take */
} lora_host_services;

/* What a backend runs on. Text is borrowed from the backend. */
typedef struct lora_device_info {
	uint32_t    struct_size;
	int32_t     host_memory; /* 1: pointers of the host are usable as they are */
	const char *device;
	const char *library;     /* name and version of what it wraps */
	uint64_t    memory_bytes; /* 0 = unknown */
} lora_device_info;

/* The table. Required: name .. run. The rest is required for device memory (host_memory 0) only, except weight_*, which is optional. */
typedef struct lora_backend_v1 {
	uint32_t    struct_size;
	uint32_t    abi;
	const char *name;
	const char *help;
	/* Make an instance for one context. */
	lora_status (*open)(const lora_host_services *host, void **self);
	void (*close)(void *self);
	/* How good this is here: naive 0, or 30 with BF16 instructions (AVX-512 BF16, AMX); higher is better, negative: can't run on this machine. */
	int32_t (*score)(void *self);
	lora_status (*info)(void *self, lora_device_info *out);
	/* 1 when run() takes a call of this prim, dtypes and strides; else 0 and a reason (may be NULL). Looks at no data. */
	int32_t (*supports)(void *self, const lora_call *call, const char **reason);
	/* Run one call on a stream (NULL = default). Host backends return when it is done. */
	lora_status (*run)(void *self, void *stream, const lora_call *call);
	/* Device memory. */
	lora_status (*buffer_create)(void *self, uint64_t bytes, void **buffer);
	void (*buffer_destroy)(void *self, void *buffer);
	lora_status (*upload)(void *self, void *stream, void *dst, const void *src, uint64_t bytes);
	lora_status (*download)(void *self, void *stream, void *dst, const void *src, uint64_t bytes);
	lora_status (*copy)(void *self, void *stream, void *dst, const void *src, uint64_t bytes);
	lora_status (*stream_create)(void *self, void **stream);
	void (*stream_destroy)(void *self, void *stream);
	lora_status (*stream_sync)(void *self, void *stream);
	/* Packed weights for GEMM's B (transposed view of W[out,in] or W itself); valid until the weight changes. */
	lora_status (*weight_pack)(void *self, const lora_view *b, void **packed, uint64_t *bytes);
	void (*weight_free)(void *self, void *packed);
	/* members above: v1 */
	/* Optional: the same for activations (A) of dtype real, where weight_pack takes those of b's dtype: F32 activations of half weights. */
	lora_status (*weight_pack_as)(void *self, const lora_view *b, lora_dtype real, void **packed, uint64_t *bytes);
	/* Optional: about what the instance will come to hold beside packed weights (scratch, kernels made at run time) when it works on a model with
	 * activations of dtype real whose widest matrix has widest columns; an estimate is made with it. */
	uint64_t (*working_bytes)(void *self, lora_dtype real, int64_t widest);
} lora_backend_v1;

/* The one symbol that a plug-in exports.
 * host_min, host_max  range of LORA_BACKEND_ABI that the core can use
 * out      returned borrowed from the plug-in, for ever
 * Errors   LORA_E_VERSION the plug-in is outside the range
 * Thread   setup
 * Since    0.1 */
LORA_API lora_status lora_backend_entry(uint32_t host_min, uint32_t host_max, const lora_backend_v1 **out);

#ifdef __cplusplus
}
#endif
#endif
