/* From the tree of tokenizer.json to a handle: each part is looked up by its type in the tables of its family; sequences are laid flat.
 * truncation and padding are rules for batches and are not looked at. */
#include "tokenizer/tok.h"

static const lora__tok_norm *const norm_tables[] = { lora__norms_text, lora__norms_unicode, lora__norms_bert, lora__norms_precompiled };
static const lora__tok_pre *const pre_tables[] = { lora__pres_split, lora__pres_bytelevel, lora__pres_metaspace };
static const lora__tok_dec *const dec_tables[] = { lora__decs_text, lora__decs_byte, lora__decs_wordpiece };
static const lora__tok_model *const models[] = { &lora__model_bpe, &lora__model_unigram, &lora__model_wordpiece, &lora__model_wordlevel };

enum family { NORMALIZER, PRE_TOKENIZER, DECODER };
static const char *const family_names[] = { "normalizer", "pre_tokenizer", "decoder" };
static const char *const family_lists[] = { "normalizers", "pretokenizers", "decoders" };

static lora_status full(lora__tok_build *b, size_t n)
{
	return n < LORA__TOK_DEPTH ? LORA_OK : lora__tok_fail(b, LORA_E_LIMIT, NULL, "more than %d parts", LORA__TOK_DEPTH);
}

/* The step is in the list before it is built, so that a failed build is released with the handle. */
static lora_status add_norm(lora__tok_build *b, const json_t *j, const char *type, int *found)
{
	lora_tokenizer *t = b->t;
	for (size_t k = 0; k < sizeof norm_tables / sizeof *norm_tables; k++)
		for (const lora__tok_norm *m = norm_tables[k]; m->name; m++) {
			if (strcmp(m->name, type)) continue;
			*found = 1;
			lora_status st = full(b, t->n_norms);
			if (!st) st = lora__grow(b->ctx, &t->norms, &t->cap_norms, t->n_norms + 1, sizeof *t->norms);
			if (st) return st;
			t->norms[t->n_norms++] = (lora__tok_norm_step){ m, NULL };
			return m->build ? m->build(b, j, &t->norms[t->n_norms - 1].self) : LORA_OK;
		}
	return LORA_OK;
}

static lora_status add_pre(lora__tok_build *b, const json_t *j, const char *type, int *found)
{
	lora_tokenizer *t = b->t;
	for (size_t k = 0; k < sizeof pre_tables / sizeof *pre_tables; k++)
		for (const lora__tok_pre *m = pre_tables[k]; m->name; m++) {
			if (strcmp(m->name, type)) continue;
			*found = 1;
			lora_status st = full(b, t->n_pres);
			if (!st) st = lora__grow(b->ctx, &t->pres, &t->cap_pres, t->n_pres + 1, sizeof *t->pres);
			if (st) return st;
			t->pres[t->n_pres++] = (lora__tok_pre_step){ m, NULL };
			return m->build ? m->build(b, j, &t->pres[t->n_pres - 1].self) : LORA_OK;
		}
	return LORA_OK;
}

static lora_status add_dec(lora__tok_build *b, const json_t *j, const char *type, int *found)
{
	lora_tokenizer *t = b->t;
	for (size_t k = 0; k < sizeof dec_tables / sizeof *dec_tables; k++)
		for (const lora__tok_dec *m = dec_tables[k]; m->name; m++) {
			if (strcmp(m->name, type)) continue;
			*found = 1;
			lora_status st = full(b, t->n_decs);
			if (!st) st = lora__grow(b->ctx, &t->decs, &t->cap_decs, t->n_decs + 1, sizeof *t->decs);
			if (st) return st;
			t->decs[t->n_decs++] = (lora__tok_dec_step){ m, NULL };
			return m->build ? m->build(b, j, &t->decs[t->n_decs - 1].self) : LORA_OK;
		}
	return LORA_OK;
}

static lora_status add_part(lora__tok_build *b, enum family f, const json_t *j)
{
	const char *type;
	size_t n;
	int found = 0;
	lora__tok_place place;
	lora_status st = lora__tok_required(b, j, "type", &type, &n);
	if (st) return st;
	if (!strcmp(type, "Sequence")) {
		const json_t *list = json_object_get(j, family_lists[f]);
		if (!json_is_array(list)) return lora__tok_fail(b, LORA_E_FORMAT, family_lists[f], "must be a list");
		for (size_t i = 0; i < json_array_size(list) && !st; i++) {
			st = lora__tok_enter(b, json_array_get(list, i), &place, ".%s[%zu]", family_lists[f], i);
			if (!st) st = add_part(b, f, json_array_get(list, i));
			lora__tok_leave(b, place);
		}
		return st;
	}
	switch (f) {
	case NORMALIZER: st = add_norm(b, j, type, &found); break;
	case PRE_TOKENIZER: st = add_pre(b, j, type, &found); break;
	case DECODER: st = add_dec(b, j, type, &found); break;
	}
	return st || found ? st : lora__tok_fail(b, LORA_E_UNSUPPORTED, "type", "unknown: %s", lora__quote_n(type, n).text);
}

static lora_status add_family(lora__tok_build *b, enum family f, const json_t *root)
{
	const json_t *j = json_object_get(root, family_names[f]);
	lora__tok_place place;
	if (!j || json_is_null(j)) return LORA_OK;
	lora_status st = lora__tok_enter(b, j, &place, "%s", family_names[f]);
	if (!st) st = add_part(b, f, j);
	lora__tok_leave(b, place);
	if (f == DECODER) b->t->has_decoder = 1;
	return st;
}

/* Old files do not name the type of the model; then its members tell. */
static const char *guess_type(const json_t *j)
{
	if (json_object_get(j, "merges")) return "BPE";
	if (json_is_array(json_object_get(j, "vocab"))) return "Unigram";
	if (json_object_get(j, "max_input_chars_per_word") || json_object_get(j, "continuing_subword_prefix")) return "WordPiece";
	return json_object_get(j, "vocab") && json_object_get(j, "unk_token") ? "WordLevel" : NULL;
}

/* From arrays: the kind says the model, and the tree need not have it. */
static lora_status add_model_source(lora__tok_build *b, const json_t *root)
{
	static const lora__tok_model *const kinds[] = { &lora__model_bpe, &lora__model_bpe, &lora__model_unigram, &lora__model_wordpiece };
	const json_t *j = json_object_get(root, "model");
	lora__tok_place place = { strlen(b->where), b->depth };
	lora_status st = j ? lora__tok_enter(b, j, &place, "model") : LORA_OK;
	b->t->model = kinds[b->source->kind];
	if (!st) st = b->t->model->build(b, j, &b->t->model_self);
	lora__tok_leave(b, place);
	return st;
}

static lora_status add_sentencepiece(lora__tok_build *b)
{
	lora_tokenizer *t = b->t;
	lora_status st = lora__grow(b->ctx, &t->norms, &t->cap_norms, t->n_norms + 1, sizeof *t->norms);
	if (st) return st;
	t->norms[t->n_norms++] = (lora__tok_norm_step){ &lora__norm_sentencepiece, NULL };
	if ((st = lora__norm_sentencepiece.build(b, NULL, &t->norms[t->n_norms - 1].self))) return st;
	if ((st = lora__grow(b->ctx, &t->decs, &t->cap_decs, t->n_decs + 1, sizeof *t->decs))) return st;
	t->decs[t->n_decs++] = (lora__tok_dec_step){ &lora__dec_sentencepiece, NULL };
	t->has_decoder = 1;
	return lora__dec_sentencepiece.build(b, NULL, &t->decs[t->n_decs - 1].self);
}

static lora_status add_ends(lora__tok_build *b)
{
	lora_tokenizer *t = b->t;
	lora_status st = LORA_OK;
	int32_t bos = b->source->bos, eos = b->source->eos;
	if (bos >= 0 && !(st = lora__grow(b->ctx, &t->prefix, &t->cap_prefix, t->n_prefix + 1, sizeof *t->prefix))) t->prefix[t->n_prefix++] = bos;
	if (!st && eos >= 0 && !(st = lora__grow(b->ctx, &t->suffix, &t->cap_suffix, t->n_suffix + 1, sizeof *t->suffix))) t->suffix[t->n_suffix++] = eos;
	t->parse_special = b->source->parse_special;
	return st;
}

static lora_status add_model(lora__tok_build *b, const json_t *root)
{
	const json_t *j = json_object_get(root, "model");
	const char *type;
	size_t n;
	lora__tok_place place;
	if (b->source) return add_model_source(b, root);
	if (!j) return lora__tok_fail(b, LORA_E_FORMAT, "model", "missing: this is no tokenizer.json");
	lora_status st = lora__tok_enter(b, j, &place, "model");
	if (!st) st = lora__tok_string(b, j, "type", NULL, &type, &n);
	if (st) goto done;
	if (!type && !(type = guess_type(j))) {
		st = lora__tok_fail(b, LORA_E_UNSUPPORTED, "type", "missing, and the model's members do not tell it");
		goto done;
	}
	for (size_t i = 0; i < sizeof models / sizeof *models && !b->t->model; i++)
		if (!strcmp(models[i]->name, type)) b->t->model = models[i];
	if (!b->t->model) st = lora__tok_fail(b, LORA_E_UNSUPPORTED, "type", "unknown: %s", lora__quote(type).text);
	else st = b->t->model->build(b, j, &b->t->model_self);
done:
	lora__tok_leave(b, place);
	return st;
}

lora_status lora__tok_build_all(lora__tok_build *b, const json_t *root)
{
	lora_tokenizer *t = b->t;
	const char *version;
	size_t n;
	if (!json_is_object(root) && !(b->source && !root)) return lora__fail(b->ctx, LORA_E_FORMAT, "tokenizer", "%s: must be an object", b->what);
	lora_status st = lora__tok_string(b, root, "version", "1.0", &version, &n);
	if (!st && strcmp(version, "1.0")) st = lora__tok_fail(b, LORA_E_UNSUPPORTED, "version", "%s, only 1.0 is known", lora__quote(version).text);
	if (!st) st = add_model(b, root);
	lora__map_init(&t->added.by_text, b->ctx);
	if (!st && b->source) st = lora__tok_added_source(b);
	if (!st) st = lora__tok_added_read(b, json_object_get(root, "added_tokens"));
	if (!st && b->source) st = add_ends(b);
	if (!st && b->source && (b->source->kind == LORA__TOK_BPE_SCORES || b->source->kind == LORA__TOK_UNIGRAM)) st = add_sentencepiece(b);
	if (!st) st = add_family(b, NORMALIZER, root);
	if (!st) st = add_family(b, PRE_TOKENIZER, root);
	if (!st) st = lora__tok_post_read(b, json_object_get(root, "post_processor"));
	if (!st) st = add_family(b, DECODER, root);
	if (st) return st;
	t->size = (int64_t)t->vocab.n_ids;
	if (t->added.n && t->added.list[t->added.n - 1].id >= t->size) t->size = (int64_t)t->added.list[t->added.n - 1].id + 1;
	for (size_t i = 0; i < t->n_prefix + t->n_suffix; i++) {
		int32_t id = i < t->n_prefix ? t->prefix[i] : t->suffix[i - t->n_prefix];
		if (id >= t->size)
			return lora__tok_fail(b, LORA_E_FORMAT, "post_processor", "adds id %d, the tokenizer has %lld ids", (int)id, (long long)t->size);
	}
	return lora__tok_added_ready(b);
}
