/* Exported functions for conversations: argument checks, and which rules count. */
#include "tokenizer/chat.h"

static lora_status check(const lora_tokenizer *t, const lora_chat_message *m, size_t n, uint32_t flags)
{
	if (!m && n) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "chat", "messages", -1, "messages is NULL, n is %zu", n);
	if (flags & ~(uint32_t)LORA_CHAT_GENERATE) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "chat", "flags", -1, "unknown bits in flags 0x%x", (unsigned)flags);
	for (size_t i = 0; i < n; i++)
		if (!m[i].role || (!m[i].content && m[i].n))
			return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "chat", "messages", -1, "message %zu: %s is NULL", i, m[i].role ? "content" : "role");
	return LORA_OK;
}

static lora_status render(const lora_tokenizer *t, const char *name, const lora_chat_message *m, size_t n, uint32_t flags, lora__chat_text *out)
{
	lora__chat_own own = { .texts = { 0 } };
	const lora__chat_rules *r = name ? lora__chat_named(name) : &own.rules;
	lora_status st = check(t, m, n, flags);
	if (st) return st;
	if (!r) return lora__fail_at(t->ctx, LORA_E_NOTFOUND, "chat", "template_name", -1, "no chat template is called %s", lora__quote(name).text);
	if (!name && !t->chat.template)
		return lora__fail_at(t->ctx, LORA_E_NOTFOUND, "chat", "chat_template", -1, "the model has no chat_template; choose one by name: chatml, llama3, ... (family chat_template)");
	if (!name) st = lora__chat_recognise(t->ctx, t->chat.template, strlen(t->chat.template), &own);
	if (!st) st = lora__chat_render(t, r, m, n, (flags & LORA_CHAT_GENERATE) != 0, out);
	lora__chat_own_free(t->ctx, &own);
	return st;
}

lora_status lora_chat_render(const lora_tokenizer *t, const char *template_name, const lora_chat_message *messages, size_t n, uint32_t flags, char *buf,
                             size_t size, size_t *needed)
{
	lora__chat_text text;
	if (!t) return LORA_E_ARGUMENT;
	if (!buf && size) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "chat", "buf", -1, "buf is NULL, size is %zu", size);
	if (!needed) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "chat", "needed", -1, "needed is NULL");
	lora_status st = render(t, template_name, messages, n, flags, &text);
	if (st) return st;
	*needed = text.text.n;
	if (size < text.text.n + 1) {
		st = LORA_E_LIMIT; /* a call without room is a question: it leaves the error record alone */
		if (size) st = lora__fail(t->ctx, st, "chat", "%zu bytes of text and a NUL, room for %zu", text.text.n, size);
	} else {
		if (text.text.n) memcpy(buf, text.text.data, text.text.n);
		buf[text.text.n] = 0;
	}
	lora__chat_text_free(&text);
	return st;
}

lora_status lora_chat_encode(const lora_tokenizer *t, const char *template_name, const lora_chat_message *messages, size_t n, uint32_t flags, int32_t *ids,
                             uint8_t *mask, size_t capacity, size_t *count)
{
	lora__chat_text text;
	size_t found = 0;
	if (!t) return LORA_E_ARGUMENT;
	if (!ids && capacity) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "chat", "ids", -1, "ids is NULL, capacity is %zu", capacity);
	if (!count) return lora__fail_at(t->ctx, LORA_E_ARGUMENT, "chat", "count", -1, "count is NULL");
	lora_status st = render(t, template_name, messages, n, flags, &text);
	if (st) return st;
	st = lora__tokenizer_encode_spans(t, text.text.data ? text.text.data : "", text.text.n, text.spans, text.n, ids, mask, capacity, &found);
	if (st == LORA_OK || found > capacity) *count = found;
	lora__chat_text_free(&text);
	return st;
}
