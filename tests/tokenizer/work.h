/* What the parts of test_tokenizer share. */
#ifndef TESTS_TOKENIZER_WORK_H
#define TESTS_TOKENIZER_WORK_H

#include <check.h>

#include "check_alloc.h"
#include "tokenizer/tok.h"

/* A tokenizer from JSON text; the test fails when it does not open. */
static inline lora_tokenizer *tok_from(lora_context *ctx, const char *json)
{
	lora_tokenizer *t = NULL;
	check_ok(ctx, lora__tokenizer_from_json(ctx, json, strlen(json), "test.json", &t));
	return t;
}

/* All lines of a file of references through a tokenizer; returns how many. */
int tok_check_lines(const char *tokenizer, const char *file);

TCase *tok_golden_case(void);
TCase *tok_files_case(void);
TCase *tok_spm_case(void);
TCase *tok_chat_case(void);
TCase *tok_rows_case(void);
TCase *tok_parts_case(void);
TCase *tok_merge_case(void);
TCase *tok_api_case(void);

#endif
