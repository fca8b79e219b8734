/* What the two files of XENT share. Internal to this folder. */
#ifndef LORA_BACKEND_NAIVE_LOSS_H
#define LORA_BACKEND_NAIVE_LOSS_H

#include "backend/naive/naive.h"

/* rows: one F32 row of so many bytes for each thread where logits are BF16, else NULL; fn: what makes a row in F32 or F64. */
typedef struct lora__xent_job { const lora_call *c; char *rows; size_t row; lora_task_fn fn; } lora__xent_job;

/* A row of F32 or BF16 logits without a soft cap, from isa 2 on; arg is a lora__xent_job. */
void lora__xent_avx512(void *arg, int64_t task, int32_t thread);
#endif
