/* What the two files of ROPE share. Internal to this folder. */
#ifndef LORA_BACKEND_NAIVE_ROTARY_H
#define LORA_BACKEND_NAIVE_ROTARY_H

#include "backend/naive/naive.h"

typedef struct rope_job { const lora_call *c; lora__naive_grid g; } rope_job;

/* Of BF16, on processors of isa 3 and above. */
void lora__rope_bf16(void *arg, int64_t task, int32_t thread);
#endif
