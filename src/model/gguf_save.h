/* Parts of writing a model as GGUF. */
#ifndef LORA_MODEL_GGUF_SAVE_H
#define LORA_MODEL_GGUF_SAVE_H

#include "model/model.h"

/* The model's keys: those of the file that it came from, or what config.json says (gguf_meta.c). */
lora_status lora__gguf_put_config(lora_model *m, lora__gguf_out *o, lora_dtype type, const char *path);
/* The tokenizer beside the model, when there is one (gguf_vocab.c). */
lora_status lora__gguf_put_vocab(lora_model *m, lora__gguf_out *o);
/* Llama 3's and LongRoPE's factors as the tensors that GGUF has for them: *n tensors, data on the heap in list[].data. */
lora_status lora__gguf_rope_tensors(lora_model *m, lora__tensor list[2], size_t *n);

/* The file's tokenizer as trees of tokenizer.json and tokenizer_config.json; NULL when it has none (gguf_vocab_json.c). */
lora_status lora__gguf_vocab_json(const lora__gguf *g, json_t **tokenizer, json_t **config);

#endif
