/* Errors and log: a fixed-size record on the context, filled without allocating. */
#include <stdio.h>
#include <string.h>

#include "base/context.h"

static void clip(char *dst, size_t size, const char *src)
{
	size_t n = src ? strlen(src) : 0;
	if (n >= size) n = size - 1;
	if (n) memcpy(dst, src, n);
	dst[n] = 0;
}

static lora_status record(lora_context *ctx, lora_status status, const char *module, const char *name, int64_t offset, const char *format,
                          va_list args)
{
	if (!ctx) return status;
	while (atomic_flag_test_and_set(&ctx->error_busy)) {} /* calls that may run on many threads can fail on many */
	lora_error *e = &ctx->error;
	e->struct_size = sizeof *e;
	e->status = status;
	e->offset = offset;
	e->value = 0;
	clip(e->module, sizeof e->module, module);
	clip(e->tensor, sizeof e->tensor, name);
	vsnprintf(e->message, sizeof e->message, format, args);
	char text[sizeof e->message];
	clip(text, sizeof text, e->message);
	atomic_flag_clear(&ctx->error_busy);
	lora__log(ctx, LORA_LOG_DEBUG, module, "%s: %s", lora_status_name(status), text);
	return status;
}

lora_status lora__fail(lora_context *ctx, lora_status status, const char *module, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	record(ctx, status, module, NULL, -1, format, args);
	va_end(args);
	return status;
}

lora_status lora__fail_at(lora_context *ctx, lora_status status, const char *module, const char *name, int64_t offset, const char *format,
                          ...)
{
	va_list args;
	va_start(args, format);
	record(ctx, status, module, name ? lora__quote(name).text : NULL, offset, format, args);
	va_end(args);
	return status;
}

lora_status lora__fail_prefix(lora_context *ctx, lora_status status, const char *format, ...)
{
	if (!ctx) return status;
	char old[sizeof ctx->error.message];
	clip(old, sizeof old, ctx->error.message);
	va_list args;
	va_start(args, format);
	int n = vsnprintf(ctx->error.message, sizeof ctx->error.message, format, args);
	va_end(args);
	size_t at = n < 0 ? 0 : (size_t)n < sizeof ctx->error.message ? (size_t)n : sizeof ctx->error.message - 1;
	if (strncmp(old, ctx->error.message, at) == 0) at = 0; /* a lower layer has named it already */
	clip(ctx->error.message + at, sizeof ctx->error.message - at, old);
	return status;
}

void lora__log(lora_context *ctx, int32_t level, const char *module, const char *format, ...)
{
	if (!ctx || !ctx->log || level > ctx->log_level) return;
	char text[600];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	ctx->log(ctx->log_user, level, module, text);
}

/* Length of the UTF-8 sequence at s, or 0 when it is not valid. Table 3-7 of the Unicode standard. */
static size_t utf8_step(const unsigned char *s, size_t n)
{
	unsigned char c = s[0];
	if (c < 0x80) return 1;
	if (c < 0xc2 || c > 0xf4) return 0;
	size_t len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
	if (len > n) return 0;
	unsigned char lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80, hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
	if (s[1] < lo || s[1] > hi) return 0;
	for (size_t i = 2; i < len; i++)
		if (s[i] < 0x80 || s[i] > 0xbf) return 0;
	return len;
}

int lora__utf8_valid(const char *s, size_t n, size_t *bad)
{
	for (size_t i = 0; i < n;) {
		size_t step = utf8_step((const unsigned char *)s + i, n - i);
		if (!step) {
			if (bad) *bad = i;
			return 0;
		}
		i += step;
	}
	return 1;
}

lora__quoted lora__quote_n(const char *s, size_t n)
{
	static const char hex[] = "0123456789abcdef";
	lora__quoted q;
	size_t out = 0;
	for (size_t i = 0; i < n;) {
		size_t step = utf8_step((const unsigned char *)s + i, n - i);
		unsigned char c = (unsigned char)s[i];
		/* control characters, DEL, C1 controls and bidirectional marks (U+202A..202E, U+2066..2069, U+200E/F) could fool a terminal */
		int unsafe = !step || c < 0x20 || c == 0x7f || (step == 2 && c == 0xc2 && (unsigned char)s[i + 1] < 0xa0) ||
			(step == 3 && c == 0xe2 && ((unsigned char)s[i + 1] == 0x80 || (unsigned char)s[i + 1] == 0x81));
		size_t width = unsafe ? 4 * (step ? step : 1) : step;
		if (out + width > 128) {
			memcpy(q.text + out, "...", 4);
			return q;
		}
		for (size_t k = 0; k < (step ? step : 1); k++) {
			c = (unsigned char)s[i + k];
			if (unsafe) q.text[out] = '\\', q.text[out + 1] = 'x', q.text[out + 2] = hex[c >> 4], q.text[out + 3] = hex[c & 15], out += 4;
			else q.text[out++] = (char)c;
		}
		i += step ? step : 1;
	}
	q.text[out] = 0;
	return q;
}

lora__quoted lora__quote(const char *s) { return lora__quote_n(s, strlen(s)); }

void lora__context_retain(lora_context *ctx) { atomic_fetch_add(&ctx->refs, 1); }
