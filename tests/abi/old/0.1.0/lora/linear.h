/* liblora: one adapted linear layer, for engines that own their weights, their threads and their forward pass.
 * Each call has two forms: y = x W^T + adapters (LORA_LINEAR_BASE: we do the base product), and y += adapters (the host did it).
 * Source: Hu et al. 2021, arXiv:2106.09685; mixed batches as Punica's SGMV, arXiv:2310.18547. */
#ifndef LORA_LINEAR_H
#define LORA_LINEAR_H

#include "lora/adapter.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
	LORA_LINEAR_BASE  = 1, /* also the base product x W^T (forward) and dy W (backward) */
	LORA_LINEAR_ADD   = 2, /* backward: add to dx instead of overwriting it */
	LORA_LINEAR_TRAIN = 4  /* dropout is active */
};

/* One call on one site. All pointers are F32, row-major, strides in elements; memory is borrowed for the call. */
typedef struct lora_linear_args {
	uint32_t         struct_size;
	uint32_t         flags;        /* LORA_LINEAR_* */
	int64_t          site;
	int64_t          n_rows;
	const lora_rows *rows;         /* adapter of each row; NULL = every attached adapter on every row */
	const float     *x;            /* [n_rows,in] */
	int64_t          x_stride;
	float           *y;            /* forward output [n_rows,out] */
	int64_t          y_stride;
	const float     *dy;           /* backward input [n_rows,out] */
	int64_t          dy_stride;
	float           *dx;           /* backward output [n_rows,in]; NULL = not wanted */
	int64_t          dx_stride;
	void            *workspace;    /* lora_linear_workspace_bytes(), 64-byte aligned; NULL = the library allocates */
	size_t           workspace_bytes;
	uint64_t         dropout_key;  /* with LORA_LINEAR_TRAIN: the same number in forward and backward of one step */
	uint64_t         reserved[4];  /* zero */
} lora_linear_args;

/* Assign an adapter to each row of a batch; build once per step, use at every site.
 * adapters n_adapters attached adapters of model m
 * assign   [n_rows] index into adapters, -1 = base only; copied
 * out      returned owned; keeps the adapters alive
 * Errors   LORA_E_ARGUMENT an index out of range; LORA_E_STATE an adapter is not attached; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_rows_create(lora_model *m, lora_adapter *const *adapters, int64_t n_adapters, const int32_t *assign,
                                      int64_t n_rows, lora_rows **out);

/* Release a row assignment. NULL is a no-op.
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API void lora_rows_destroy(lora_rows *rows);

/* Scratch memory that lora_linear_forward() and _backward() need for up to n_rows rows at this site; 0 for a bad argument.
 * Thread   any while nobody changes the model
 * Since    0.1 */
LORA_API size_t lora_linear_workspace_bytes(const lora_model *m, int64_t site, int64_t n_rows);

/* Forward: y[n,out] = x W^T + sum_a scale_a * adapter_a(x) with LORA_LINEAR_BASE, else y += sum_a ...
 * Errors   LORA_E_ARGUMENT; LORA_E_SHAPE a stride smaller than the width, or rows of another count; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_linear_forward(lora_model *m, const lora_linear_args *args);

/* Backward: adds to the gradients of the trainable adapters, and dx[n,in] = (dy W with LORA_LINEAR_BASE) + adapters' share.
 * Errors   as lora_linear_forward; LORA_E_STATE an adapter is merged
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_linear_backward(lora_model *m, const lora_linear_args *args);

#ifdef __cplusplus
}
#endif
#endif
