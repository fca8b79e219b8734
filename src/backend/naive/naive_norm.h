/* What the two files of RMSNORM share. Internal to this folder. */
#ifndef LORA_BACKEND_NAIVE_NORM_H
#define LORA_BACKEND_NAIVE_NORM_H

#include "backend/naive/naive.h"

/* w: weights in the type of arithmetic, the offset added. */
typedef struct norm_job { const lora_call *c; lora__naive_grid g; const void *w; } norm_job;

/* Of BF16, on processors of isa 3 and above. */
void lora__rmsnorm_bf16(void *arg, int64_t task, int32_t thread);
void lora__rmsnorm_bwd_bf16(void *arg, int64_t task, int32_t thread);
#endif
