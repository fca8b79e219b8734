/* liblora: attach, train, merge and unmerge LoRA adapters inside your program. This header includes all stable ones. */
#ifndef LORA_LORA_H
#define LORA_LORA_H

#include "lora/types.h"
#include "lora/status.h"
#include "lora/context.h"
#include "lora/settings.h"
#include "lora/model.h"
#include "lora/adapter.h"
#include "lora/linear.h"
#include "lora/optimizer.h"
#include "lora/trainer.h"
#include "lora/tokenizer.h"
#include "lora/generate.h"
#include "lora/combine.h"
#include "lora/posterior.h"

#endif
