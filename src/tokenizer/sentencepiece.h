/* SentencePiece model files, and the files that stand around a vocabulary without tokenizer.json. */
#ifndef LORA_TOKENIZER_SENTENCEPIECE_H
#define LORA_TOKENIZER_SENTENCEPIECE_H

#include "tokenizer/tok.h"

/* A file read; texts point into its bytes. source is ready to build from: BOS is put in front where the file has one. */
typedef struct lora__spm {
	lora__tok_source source;
	lora__tok_entry *entries;
	char            *unk_text;
	uint64_t         model_type;
	lora__tok_slice  unk_surface, bos, eos;
	int32_t          eos_id; /* -1 = none */
} lora__spm;

lora_status lora__sentencepiece_read(lora_context *ctx, const uint8_t *data, size_t n, const char *what, lora__spm *out);
void        lora__sentencepiece_free(lora_context *ctx, lora__spm *s);

/* The files beside a vocabulary, parsed; NULL where there is none. */
typedef struct lora__tok_beside {
	json_t *config;  /* tokenizer_config.json */
	json_t *special; /* special_tokens_map.json */
	json_t *added;   /* added_tokens.json */
} lora__tok_beside;

/* Tokenizers whose rules are those of the class that tokenizer_config.json names (tok_class.c). what names the vocabulary's file. */
lora_status lora__tokenizer_from_spm(lora_context *ctx, const uint8_t *data, size_t n, const char *what, const lora__tok_beside *f, lora_tokenizer **out);
lora_status lora__tokenizer_from_bpe(lora_context *ctx, json_t *vocab, const char *merges, size_t n, const char *what, const lora__tok_beside *f,
                                     lora_tokenizer **out); /* vocab.json (becomes part of a tree; a reference is kept by the caller) and merges.txt */
lora_status lora__tokenizer_from_lines(lora_context *ctx, const char *text, size_t n, const char *what, const lora__tok_beside *f,
                                       lora_tokenizer **out); /* vocab.txt */
/* Chat template, BOS and EOS from the files beside. jinja: chat_template.jinja, which counts more than the config; or NULL. */
lora_status lora__tok_chat_read(lora_tokenizer *t, const lora__tok_beside *f, const char *jinja, size_t n, const char *what);

#endif
