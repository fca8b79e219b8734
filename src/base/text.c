/* A growing byte buffer; the first failure sticks, so that callers check once at the end. */
#include "base/text.h"

#include <stdio.h>
#include <string.h>

void lora__text_init(lora__text *t, lora_context *ctx) { *t = (lora__text){ .ctx = ctx, .status = LORA_OK }; }

static int room(lora__text *t, size_t n)
{
	size_t need;
	if (t->status) return 0;
	if (!lora__add_size(t->n, n, &need) || !lora__add_size(need, 1, &need)) {
		t->status = lora__fail(t->ctx, LORA_E_MEMORY, "base", "text too long");
		return 0;
	}
	t->status = lora__grow(t->ctx, &t->data, &t->cap, need, 1);
	return t->status == LORA_OK;
}

void lora__text_add(lora__text *t, const void *bytes, size_t n)
{
	if (!room(t, n)) return;
	if (n) memcpy(t->data + t->n, bytes, n);
	t->n += n;
	t->data[t->n] = 0;
}

void lora__text_puts(lora__text *t, const char *s) { lora__text_add(t, s, strlen(s)); }

void lora__text_printf(lora__text *t, const char *format, ...)
{
	va_list args, again;
	va_start(args, format);
	va_copy(again, args);
	int n = vsnprintf(NULL, 0, format, args);
	if (n >= 0 && room(t, (size_t)n)) {
		vsnprintf(t->data + t->n, (size_t)n + 1, format, again);
		t->n += (size_t)n;
	}
	va_end(again);
	va_end(args);
}

void lora__text_free(lora__text *t)
{
	lora__free(t->ctx, t->data);
	t->data = NULL, t->n = t->cap = 0;
}

lora_status lora__text_give(lora_context *ctx, const char *s, size_t n, char *buf, size_t size, size_t *needed)
{
	if (needed) *needed = n + 1;
	if (!size && needed) return LORA_OK; /* a question for the size */
	if (!buf || size < n + 1) return lora__fail(ctx, LORA_E_LIMIT, "base", "buffer of %zu bytes is too small, %zu needed", size, n + 1);
	memcpy(buf, s, n);
	buf[n] = 0;
	return LORA_OK;
}
