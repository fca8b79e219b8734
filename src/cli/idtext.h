/* lora: text and token ids through the session's tokenizer. Arrays given back are new. */
#ifndef LORA_CLI_IDTEXT_H
#define LORA_CLI_IDTEXT_H

#include "cli/cli.h"

/* what: where the text comes from, for messages */
int encode_text(const session *s, const char *what, const char *text, size_t n, int special, int32_t **ids, size_t *count);
int decode_text(const session *s, const int32_t *ids, size_t count, char **text, size_t *n);
json_t *json_ids(const int32_t *ids, size_t n);

#endif
