/* The text that a prompt begins with, as tokens of the model's own tokenizer or of one that the caller names. Only on creating an adapter: a file
 * that is opened never names what else is opened. Source: PEFT 0.21, PromptEmbedding (prompt_tuning_init "TEXT"). */
#include <string.h>

#include "adapter/adapter.h"
#include "api/prompt_text.h"
#include "lora/tokenizer.h"

lora_status lora__prompt_text(lora_model *m, lora_settings *s)
{
	lora_context *ctx = m->s.ctx;
	const char *how = json_string_value(lora__get_json(s, "prompt_tuning_init")), *text = json_string_value(lora__get_json(s, "prompt_tuning_init_text"));
	const char *from = json_string_value(lora__get_json(s, "tokenizer_name_or_path"));
	lora_tokenizer *t = NULL;
	json_t *list = NULL;
	int32_t *ids = NULL;
	size_t n = 0;
	if (!how || strcmp(how, "TEXT") || !text) return LORA_OK;
	if (!from && !m->path) return lora__fail_at(ctx, LORA_E_ARGUMENT, "adapter", "tokenizer_name_or_path", -1, "this model has no tokenizer beside it: tokenizer_name_or_path is needed");
	lora_status st = lora_tokenizer_open(ctx, from ? from : m->path, &t);
	if (st) return lora__fail_prefix(ctx, st, "prompt_tuning_init_text: ");
	st = lora_tokenizer_encode(t, text, strlen(text), LORA_TOKENIZE_SPECIAL, NULL, 0, &n);
	if (st != LORA_OK && st != LORA_E_LIMIT) goto done;
	if (!(ids = lora__calloc(ctx, n + 1, sizeof *ids))) st = LORA_E_MEMORY;
	else st = lora_tokenizer_encode(t, text, strlen(text), LORA_TOKENIZE_SPECIAL, ids, n, &n);
	if (st == LORA_OK && !from) st = lora_settings_set_string(s, "tokenizer_name_or_path", m->path); /* PEFT wants a name there */
	if (st) goto done;
	list = json_array();
	for (size_t i = 0; i < n && list; i++)
		if (json_array_append_new(list, json_integer(ids[i]))) json_decref(list), list = NULL;
	if (!list || json_object_set_new(s->object, LORA__PROMPT_IDS, list)) st = lora__fail(ctx, LORA_E_MEMORY, "adapter", "out of memory");
done:
	lora__free(ctx, ids);
	lora_tokenizer_destroy(t);
	return st;
}
