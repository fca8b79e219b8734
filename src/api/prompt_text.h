/* Tokens of prompt_tuning_init_text, put into the settings for the kind to read. */
#ifndef LORA_API_PROMPT_TEXT_H
#define LORA_API_PROMPT_TEXT_H

#include "model/model.h"

lora_status lora__prompt_text(lora_model *m, lora_settings *s);

#endif
