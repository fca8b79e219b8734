/* Backends: which one a context uses, and the one door to run a primitive. */
#ifndef LORA_BACKEND_BACKEND_H
#define LORA_BACKEND_BACKEND_H

#include "base/schema.h"
#include "tensor/dtype.h"

/* Choose the backend of a context by name ("auto": the best score among naive and the plug-ins found). Fills ctx->backend, ->naive.
 * Errors LORA_E_BACKEND unknown, missing, wrong version or broken; naive still works for a next try. */
lora_status lora__backend_select(lora_context *ctx, const char *name);
void        lora__backend_close(lora_context *ctx);

/* Run one primitive: on the chosen backend when it takes the call, else on naive. */
lora_status lora__run(lora_context *ctx, const lora_call *call);

/* Shorthands. C[m,n] = alpha * A[m,k] B[k,n] + beta * C; transposes are swapped strides (lora__view_t). */
lora_status lora__gemm(lora_context *ctx, double alpha, lora_view a, lora_view b, double beta, lora_view c);
lora_status lora__axpby(lora_context *ctx, double alpha, lora_view x, double beta, lora_view y);
lora_status lora__copy(lora_context *ctx, lora_view dst, lora_view src);

/* Family "backend": built-in ones, and plug-ins that were found by a context of this process. */
int32_t             lora__backend_count(void);
const lora__member *lora__backend_member(int32_t i);

extern const lora_backend_v1 lora__backend_naive;
int lora__bf16_ready(void); /* naive multiplies BF16: 1 in vector registers (AVX-512 BF16), 2 on AMX tiles, if the system lets this process use them; 0 no */

#endif
