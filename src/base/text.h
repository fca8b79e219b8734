/* A growing byte buffer for text and file images. */
#ifndef LORA_BASE_TEXT_H
#define LORA_BASE_TEXT_H

#include "base/context.h"

typedef struct lora__text {
	lora_context *ctx;
	char         *data; /* always terminated when not NULL */
	size_t        n, cap;
	lora_status   status; /* first failure sticks; later appends are no-ops */
} lora__text;

void lora__text_init(lora__text *t, lora_context *ctx);
void lora__text_add(lora__text *t, const void *bytes, size_t n);
void lora__text_puts(lora__text *t, const char *s);
void lora__text_printf(lora__text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void lora__text_free(lora__text *t);
/* Copy out to a caller's (buf, size, needed) triple: LORA_E_LIMIT when it does not fit. */
lora_status lora__text_give(lora_context *ctx, const char *s, size_t n, char *buf, size_t size, size_t *needed);

#endif
