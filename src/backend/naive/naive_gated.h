/* What the two files of GATED share. Internal to this folder. */
#ifndef LORA_BACKEND_NAIVE_GATED_H
#define LORA_BACKEND_NAIVE_GATED_H

#include "backend/naive/naive.h"

typedef struct gated_job { const lora_call *c; lora__naive_grid g; const lora_view *up, *dup; int half; } gated_job;

/* SiLU of BF16 on processors of isa 3 and above; dup may lie over up, dgate over gate or dout. */
void lora__gated_silu_bf16(void *arg, int64_t task, int32_t thread);
void lora__gated_silu_bwd_bf16(void *arg, int64_t task, int32_t thread);
#endif
