/* lora: classes of a data file's rows, and logits of the classes. A causal model's answer is one of a few tokens, behind the token before its first label. */
#include "cli/classify.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *setting(const args *a, const char *name)
{
	const char *text = NULL;
	for (size_t i = 0; i < a->n_settings; i++)
		if (!strcmp(a->settings[i].name, name)) text = a->settings[i].text;
	return text;
}

/* The one token that a text is. */
static int token_of(session *s, const char *text, const char *path, int32_t *id)
{
	size_t n = 0;
	lora_status st = s->tokenizer ? LORA_OK : LORA_E_STATE;
	if (st && session_tokenizer(s, path)) return FAILED;
	int32_t ids[64];
	st = lora_tokenizer_encode(s->tokenizer, text, strlen(text), 0, ids, 64, &n);
	if (st && st != LORA_E_LIMIT) return fail_library(s->ctx, "classes");
	if (n != 1) return fail(USAGE, "classes", "\"%s\" is %zu tokens; a class is one token (with the space in front of it that it has in the data)", text, n);
	*id = ids[0];
	return OK;
}

int classes_read(classes *c, session *s, const args *a, const char *path)
{
	const char *text = setting(a, "classes");
	*c = (classes){ .n = s->info.n_labels };
	if (c->n || !text) return c->n && text ? fail(USAGE, "classes", "this model is a classifier and has its own") : OK;
	json_t *list = json_loads(text, 0, NULL);
	int status = OK;
	if (!json_is_array(list) || json_array_size(list) < 2) {
		json_decref(list);
		return fail(USAGE, "classes", "must be a list of at least two tokens, such as [\"yes\",\"no\"] or [9642,1217]");
	}
	c->n = (int64_t)json_array_size(list);
	if (!(c->ids = new_array((size_t)c->n, sizeof *c->ids))) status = FAILED;
	for (int64_t i = 0; i < c->n && !status; i++) {
		json_t *v = json_array_get(list, (size_t)i);
		if (json_is_string(v)) status = token_of(s, json_string_value(v), path, &c->ids[i]);
		else if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= s->info.vocab_size)
			status = fail(USAGE, "classes", "must be texts, or token ids below %lld", (long long)s->info.vocab_size);
		else c->ids[i] = (int32_t)json_integer_value(v);
		for (int64_t j = 0; j < i && !status; j++)
			if (c->ids[j] == c->ids[i]) status = fail(USAGE, "classes", "token %d stands for two classes", c->ids[i]);
	}
	json_decref(list);
	return status;
}

int classes_of(const classes *c, const lora_batch *b, const char *what, int32_t *label, int64_t *column)
{
	for (int64_t s = 0; s < b->n_sequences; s++) {
		int32_t token = -100;
		column[s] = -1, label[s] = -1;
		if (!c->ids) token = b->labels ? b->labels[s] : -100;
		for (int64_t t = 0; c->ids && t < b->length && token == -100; t++) {
			if (b->attention_mask && !b->attention_mask[s * b->length + t]) continue;
			column[s] = t;
			if (b->labels && t + 1 < b->length) token = b->labels[s * b->length + t + 1];
		}
		if (token == -100) continue;
		for (int64_t k = 0; k < c->n; k++)
			if (c->ids ? c->ids[k] == token : k == token) label[s] = (int32_t)k;
		if (label[s] < 0 && c->ids) return fail(FAILED, what, "an answer begins with token %d, which is not among the classes", token);
		if (label[s] < 0) return fail(FAILED, what, "label %d is out of the model's range", token);
	}
	return OK;
}

int classes_logits(const classes *c, session *s, const lora_batch *b, const int64_t *column, const uint64_t *dropout, logit_room *room, double *out)
{
	size_t width = c->ids ? (size_t)s->info.vocab_size : (size_t)c->n, need = (size_t)b->n_sequences * (c->ids ? (size_t)b->length : 1) * width;
	if (need > room->n) {
		free(room->p);
		room->n = 0;
		if (!(room->p = new_array(need, sizeof(float)))) return FAILED;
		room->n = need;
	}
	if (dropout ? lora_model_forward_dropout(s->model, b, *dropout, room->p, need * sizeof(float)) : lora_model_forward(s->model, b, room->p, need * sizeof(float))) return fail_library(s->ctx, "eval");
	for (int64_t r = 0; r < b->n_sequences; r++) {
		double *f = out + r * c->n, most = -INFINITY, sum = 0;
		const float *from = room->p + (c->ids ? (size_t)(r * b->length + (column[r] < 0 ? 0 : column[r])) * width : (size_t)r * width);
		for (int64_t k = 0; k < c->n; k++) f[k] = (double)from[c->ids ? c->ids[k] : k], most = fmax(most, f[k]);
		for (int64_t k = 0; k < c->n; k++) sum += exp(f[k] - most);
		for (int64_t k = 0; k < c->n; k++) f[k] -= most + log(sum);
	}
	return OK;
}
