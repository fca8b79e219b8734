/* What the two files of XENT share. Internal to this folder. */
#ifndef LORA_BACKEND_NAIVE_LOSS_H
#define LORA_BACKEND_NAIVE_LOSS_H

#include "backend/naive/naive.h"

/* A row of F32 logits without a soft cap, from isa 2 on. */
void lora__xent_avx512(void *arg, int64_t task, int32_t thread);
#endif
