/* lora: text and token ids through the session's tokenizer. */
#include "cli/idtext.h"

#include <stdlib.h>

int encode_text(const session *s, const char *what, const char *text, size_t n, int special, int32_t **ids, size_t *count)
{
	uint32_t flags = special ? LORA_TOKENIZE_SPECIAL : 0;
	size_t room = n / 2 + 16;
	int32_t *list = new_array(room, sizeof *list);
	if (!list) return FAILED;
	lora_status status = lora_tokenizer_encode(s->tokenizer, text, n, flags, list, room, count);
	if (status == LORA_E_LIMIT && *count > room) {
		free(list);
		room = *count;
		list = new_array(room, sizeof *list);
		if (!list) return FAILED;
		status = lora_tokenizer_encode(s->tokenizer, text, n, flags, list, room, count);
	}
	if (status) {
		free(list);
		return fail_library(s->ctx, what);
	}
	*ids = list;
	return OK;
}

int decode_text(const session *s, const int32_t *ids, size_t count, char **text, size_t *n)
{
	size_t room = 8 * count + 64;
	char *buf = new_bytes(room);
	if (!buf) return FAILED;
	lora_status status = lora_tokenizer_decode(s->tokenizer, ids, count, buf, room, n);
	if (status == LORA_E_LIMIT && *n >= room) {
		room = *n + 1;
		free(buf);
		buf = new_bytes(room);
		if (!buf) return FAILED;
		status = lora_tokenizer_decode(s->tokenizer, ids, count, buf, room, n);
	}
	if (status) {
		free(buf);
		return fail_library(s->ctx, "tokens");
	}
	*text = buf;
	return OK;
}

json_t *json_ids(const int32_t *ids, size_t n)
{
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
	return list;
}
