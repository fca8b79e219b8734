/* Post-processors: what is put before and behind the ids of one text. All of them come down to a list of ids in front and one behind;
 * what they do to offsets, pairs of texts and type ids plays no part here.
 * Source: huggingface/tokenizers, processors/{template,bert,roberta,sequence,byte_level}.rs. */
#include "tokenizer/tok.h"

static lora_status add_id(lora__tok_build *b, const char *key, const json_t *id, int behind)
{
	lora_tokenizer *t = b->t;
	if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX - 1)
		return lora__tok_fail(b, LORA_E_FORMAT, key, "ids must be whole numbers from 0");
	lora_status st = behind ? lora__grow(b->ctx, &t->suffix, &t->cap_suffix, t->n_suffix + 1, sizeof *t->suffix)
		: lora__grow(b->ctx, &t->prefix, &t->cap_prefix, t->n_prefix + 1, sizeof *t->prefix);
	if (st) return st;
	if (behind) t->suffix[t->n_suffix++] = (int32_t)json_integer_value(id);
	else t->prefix[t->n_prefix++] = (int32_t)json_integer_value(id);
	return LORA_OK;
}

static lora_status special(lora__tok_build *b, const json_t *table, const json_t *piece, int behind)
{
	const char *name = json_string_value(json_object_get(piece, "id"));
	lora_status st = LORA_OK;
	if (!name) return lora__tok_fail(b, LORA_E_FORMAT, "single", "a special token has no id");
	const json_t *ids = json_object_get(json_object_get(table, name), "ids");
	if (!json_is_array(ids)) return lora__tok_fail(b, LORA_E_FORMAT, "special_tokens", "nothing about %s, which single names", lora__quote(name).text);
	for (size_t i = 0; i < json_array_size(ids) && !st; i++) st = add_id(b, "special_tokens", json_array_get(ids, i), behind);
	return st;
}

/* A template inside another adds outside of what the earlier one added; so what it puts in front goes to the very front. */
static lora_status template(lora__tok_build *b, const json_t *j)
{
	const json_t *single = json_object_get(j, "single"), *table = json_object_get(j, "special_tokens");
	lora_tokenizer *t = b->t;
	size_t before = t->n_prefix;
	lora_status st = LORA_OK;
	int texts = 0;
	if (!json_is_array(single)) return lora__tok_fail(b, LORA_E_FORMAT, "single", "must be a list");
	for (size_t i = 0; i < json_array_size(single) && !st; i++) {
		const json_t *p = json_array_get(single, i), *sp = json_object_get(p, "SpecialToken"), *seq = json_object_get(p, "Sequence");
		if (sp) st = special(b, table, sp, texts);
		else if (seq && json_is_string(json_object_get(seq, "id")) && !strcmp(json_string_value(json_object_get(seq, "id")), "A")) texts++;
		else st = lora__tok_fail(b, LORA_E_FORMAT, "single", "item %zu is neither SpecialToken nor Sequence A", i);
	}
	if (!st && texts != 1) st = lora__tok_fail(b, LORA_E_UNSUPPORTED, "single", "the text stands in it %d times", texts);
	for (size_t i = before, k = t->n_prefix; !st && before && i < k; i++) { /* rotate the new ids to the front */
		int32_t id = t->prefix[i];
		memmove(t->prefix + (i - before) + 1, t->prefix + (i - before), before * sizeof *t->prefix);
		t->prefix[i - before] = id;
	}
	return st;
}

/* "cls": [text, id], "sep": [text, id]; BERT and RoBERTa differ for pairs only. */
static lora_status cls_sep(lora__tok_build *b, const json_t *j)
{
	const json_t *cls = json_object_get(j, "cls"), *sep = json_object_get(j, "sep");
	lora_tokenizer *t = b->t;
	if (!json_is_array(cls) || json_array_size(cls) != 2) return lora__tok_fail(b, LORA_E_FORMAT, "cls", "must be [text, id]");
	if (!json_is_array(sep) || json_array_size(sep) != 2) return lora__tok_fail(b, LORA_E_FORMAT, "sep", "must be [text, id]");
	lora_status st = add_id(b, "cls", json_array_get(cls, 1), 0);
	if (!st) st = add_id(b, "sep", json_array_get(sep, 1), 1);
	if (st) return st;
	int32_t id = t->prefix[t->n_prefix - 1];
	memmove(t->prefix + 1, t->prefix, (t->n_prefix - 1) * sizeof *t->prefix);
	t->prefix[0] = id;
	return LORA_OK;
}

static lora_status one(lora__tok_build *b, const json_t *j)
{
	const char *type;
	size_t n;
	lora__tok_place place;
	lora_status st = lora__tok_required(b, j, "type", &type, &n);
	if (st) return st;
	if (!strcmp(type, "ByteLevel")) return LORA_OK; /* offsets only */
	if (!strcmp(type, "TemplateProcessing")) return template(b, j);
	if (!strcmp(type, "BertProcessing") || !strcmp(type, "RobertaProcessing")) return cls_sep(b, j);
	if (strcmp(type, "Sequence")) return lora__tok_fail(b, LORA_E_UNSUPPORTED, "type", "unknown: %s", lora__quote(type).text);
	const json_t *list = json_object_get(j, "processors");
	if (!json_is_array(list)) return lora__tok_fail(b, LORA_E_FORMAT, "processors", "must be a list");
	for (size_t i = 0; i < json_array_size(list) && !st; i++) {
		st = lora__tok_enter(b, json_array_get(list, i), &place, ".processors[%zu]", i);
		if (!st) st = one(b, json_array_get(list, i));
		lora__tok_leave(b, place);
	}
	return st;
}

lora_status lora__tok_post_read(lora__tok_build *b, const json_t *j)
{
	lora__tok_place place;
	if (!j || json_is_null(j)) return LORA_OK;
	lora_status st = lora__tok_enter(b, j, &place, "post_processor");
	if (!st) st = one(b, j);
	lora__tok_leave(b, place);
	return st;
}
