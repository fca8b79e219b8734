/* JSON through jansson, with our rules: UTF-8 without BOM, no duplicate keys, bounded depth and size, line and column in every error. */
#ifndef LORA_BASE_JSON_H
#define LORA_BASE_JSON_H

#include <jansson.h>

#include "base/text.h"

/* Parse one document (any value). what names it in messages. out is a new reference.
 * Errors LORA_E_FORMAT, LORA_E_LIMIT, LORA_E_MEMORY. */
lora_status lora__json_parse(lora_context *ctx, const char *text, size_t n, const char *what, json_t **out);

/* Parse one value at text and say how many bytes it took; what follows is not looked at. For walking large objects piece by piece,
 * so that memory stays bounded by one entry. */
lora_status lora__json_value(lora_context *ctx, const char *text, size_t n, const char *what, json_t **out, size_t *used);

/* Append a value as JSON text: sorted keys; indent 0 = compact. Reals are printed so that they read back the same bits. */
lora_status lora__json_dump(lora_context *ctx, const json_t *value, int indent, lora__text *out);

#endif
