/* Added tokens: texts that are cut out before anything else happens (special tokens, chat markers, runs of spaces).
 * Source: huggingface/tokenizers, tokenizer/added_vocabulary.rs. Ids follow its rule, not the file's word: a text that the model has keeps
 * the model's id, another gets the next free one; in a well-made file both agree. */
#include <stdlib.h>

#include "tokenizer/tok.h"

static lora_status read_token(lora__tok_build *b, const json_t *j, lora__tok_added_token *t, int64_t *stated)
{
	const char *s;
	int flag[5];
	static const char *const keys[] = { "special", "single_word", "lstrip", "rstrip", "normalized" };
	lora_status st = lora__tok_required(b, j, "content", &s, &t->n);
	if (st) return st;
	if (!t->n) return lora__tok_fail(b, LORA_E_FORMAT, "content", "empty");
	if (t->n > LORA__TOK_ADDED_BYTES) return lora__tok_fail(b, LORA_E_LIMIT, "content", "%zu bytes, the limit is %d", t->n, LORA__TOK_ADDED_BYTES);
	for (int i = 0; i < 5; i++)
		if ((st = lora__tok_bool(b, j, keys[i], 0, &flag[i]))) return st;
	t->special = (uint8_t)flag[0], t->single_word = (uint8_t)flag[1], t->lstrip = (uint8_t)flag[2];
	t->rstrip = (uint8_t)flag[3], t->normalized = (uint8_t)flag[4];
	if (!json_object_get(j, "id")) return lora__tok_fail(b, LORA_E_FORMAT, "id", "missing");
	if ((st = lora__tok_int(b, j, "id", -1, 0, INT32_MAX - 1, stated))) return st;
	t->text = lora__tok_copy(b, s, t->n);
	return t->text ? LORA_OK : LORA_E_MEMORY;
}

/* The id that the token gets; *max is the highest so far. */
static lora_status assign(lora__tok_build *b, lora__tok_added_token *t, int64_t stated, int64_t *max)
{
	const lora__tok_vocab *v = &b->t->vocab;
	int64_t id = lora__tok_vocab_find(v, t->text, t->n), tokens = (int64_t)v->n_tokens;
	size_t n = 0;
	if (id >= 0 && id != stated)
		return lora__tok_fail(b, LORA_E_FORMAT, "id", "%s has id %lld here and %lld in the vocabulary", lora__quote_n(t->text, t->n).text,
			(long long)stated, (long long)id);
	if (id < 0 && b->stated) {
		const char *other = lora__tok_vocab_text(v, stated, &n);
		if (other) return lora__tok_fail(b, LORA_E_FORMAT, "id", "id %lld of %s belongs to %s", (long long)stated,
			lora__quote_n(t->text, t->n).text, lora__quote_n(other, n).text);
		if (stated > LORA__TOK_ID_ROOM && stated > (int64_t)v->n_ids * 16) return lora__tok_fail(b, LORA_E_LIMIT, "id", "%lld", (long long)stated);
		id = stated;
	}
	if (id < 0) {
		const char *other = lora__tok_vocab_text(v, stated, &n);
		id = *max >= tokens ? *max + 1 : tokens;
		if (!other) other = lora__tok_vocab_text(v, id, &n);
		if (other) return lora__tok_fail(b, LORA_E_FORMAT, "id", "id %lld of %s belongs to %s", (long long)stated,
			lora__quote_n(t->text, t->n).text, lora__quote_n(other, n).text);
		if (id != stated) lora__log(b->ctx, LORA_LOG_WARN, "tokenizer", "%s: added token %s says id %lld, but its place in the vocabulary gives %lld",
			b->what, lora__quote_n(t->text, t->n).text, (long long)stated, (long long)id);
	}
	if (id >= INT32_MAX - 1) return lora__tok_fail(b, LORA_E_LIMIT, "id", "%lld", (long long)id);
	if (id > *max) *max = id;
	t->id = (int32_t)id;
	return LORA_OK;
}

static int by_id(const void *x, const void *y)
{
	const lora__tok_added_token *a = x, *b = y;
	return a->id < b->id ? -1 : a->id > b->id;
}

static int ascending(const void *x, const void *y)
{
	int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
	return a < b ? -1 : a > b;
}

static lora_status add_source(lora__tok_build *b, const lora__tok_entry *e, int32_t id)
{
	lora__tok_added *a = &b->t->added;
	const lora__tok_source *src = b->source;
	int quiet = (e->type == LORA__TOK_CONTROL && !src->show_control) || (e->type == LORA__TOK_UNKNOWN && src->unk_surface);
	const char *shown = e->type == LORA__TOK_CONTROL ? "" : src->unk_surface;
	if (!e->n) return lora__tok_fail(b, LORA_E_FORMAT, "vocab", "token %d is empty", (int)id);
	if (e->n > LORA__TOK_ADDED_BYTES) return lora__tok_fail(b, LORA_E_LIMIT, "vocab", "token %d has %zu bytes, the limit is %d", (int)id, e->n, LORA__TOK_ADDED_BYTES);
	lora__tok_added_token *t = &a->list[a->n++];
	t->id = id, t->n = e->n, t->special = e->type != LORA__TOK_USER, t->control = t->special;
	t->text = lora__tok_copy(b, e->s, e->n);
	if (t->text && quiet) t->shown = lora__tok_copy(b, shown, t->n_shown = strlen(shown));
	if (!t->text || (quiet && !t->shown)) return LORA_E_MEMORY;
	return lora__map_add(&a->by_text, t->text, t->n, id, NULL);
}

lora_status lora__tok_added_source(lora__tok_build *b)
{
	const lora__tok_source *src = b->source;
	int sentencepiece = src->kind == LORA__TOK_BPE_SCORES || src->kind == LORA__TOK_UNIGRAM;
	int user = src->cut_user || !sentencepiece;
	size_t n = 0;
	lora_status st = LORA_OK;
	for (int pass = 0; pass < 2 && !st; pass++) {
		for (size_t i = 0; i < src->n && !st; i++) {
			const lora__tok_entry *e = &src->entries[i];
			if (e->type != LORA__TOK_CONTROL && e->type != LORA__TOK_UNKNOWN && !(user && e->type == LORA__TOK_USER)) continue;
			if (!pass) n++;
			else st = add_source(b, e, (int32_t)i);
		}
		if (!pass && !(b->t->added.list = lora__calloc(b->ctx, n + 1, sizeof *b->t->added.list))) st = LORA_E_MEMORY;
	}
	return st;
}

/* A token that the source has already (its tokens stand first, in the order of their ids): what the list says about it counts. */
static int replace_source(lora__tok_build *b, lora__tok_added_token *new, size_t n_source)
{
	lora__tok_added_token *list = b->t->added.list;
	size_t lo = 0, hi = n_source;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (list[mid].id < new->id) lo = mid + 1;
		else hi = mid;
	}
	if (lo == n_source || list[lo].id != new->id) return 0;
	char *text = list[lo].text; /* the key of the map */
	lora__free(b->ctx, list[lo].shown);
	lora__free(b->ctx, new->text);
	list[lo] = *new;
	list[lo].text = text;
	*new = (lora__tok_added_token){ 0 };
	return 1;
}

/* The list stays sorted by id: tokens are looked up by id when decoding. */
lora_status lora__tok_added_read(lora__tok_build *b, const json_t *list)
{
	lora__tok_added *a = &b->t->added;
	lora__tok_place place;
	int64_t max = -1, *stated = NULL, old;
	size_t n_source = a->n;
	if (!list || json_is_null(list)) return LORA_OK;
	if (!json_is_array(list)) return lora__tok_fail(b, LORA_E_FORMAT, "added_tokens", "must be a list");
	size_t n = json_array_size(list);
	lora__tok_added_token *more = lora__calloc(b->ctx, n_source + n + 1, sizeof *more);
	stated = lora__calloc(b->ctx, n + 1, sizeof *stated);
	lora_status st = more && stated ? LORA_OK : LORA_E_MEMORY;
	if (more && n_source) memcpy(more, a->list, n_source * sizeof *more);
	if (more) lora__free(b->ctx, a->list), a->list = more;
	for (size_t i = 0; i < n && !st; i++) {
		lora__tok_added_token *t = &a->list[a->n++];
		st = lora__tok_enter(b, json_array_get(list, i), &place, "added_tokens[%zu]", i);
		if (!st) st = read_token(b, json_array_get(list, i), t, &stated[i]);
		if (!st) st = assign(b, t, stated[i], &max);
		if (!st && n_source && replace_source(b, t, n_source)) a->n--;
		else if (!st && (st = lora__map_add(&a->by_text, t->text, t->n, t->id, &old)) == LORA_E_EXISTS)
			st = lora__tok_fail(b, LORA_E_FORMAT, "content", "%s is there twice", lora__quote_n(t->text, t->n).text);
		lora__tok_leave(b, place);
	}
	if (!st) qsort(a->list, a->n, sizeof *a->list, by_id);
	if (!st) qsort(stated, n, sizeof *stated, ascending);
	for (size_t i = 1; i < n && !st; i++)
		if (stated[i] == stated[i - 1]) st = lora__tok_fail(b, LORA_E_FORMAT, "added_tokens", "two tokens have id %lld", (long long)stated[i]);
	lora__free(b->ctx, stated);
	return st;
}

lora_status lora__tok_added_ready(lora__tok_build *b)
{
	lora__tok_added *a = &b->t->added;
	lora__tok_call c;
	lora__tok_buf texts = { 0 };
	size_t n_raw = 0, n_norm = 0, n_control = 0, *at = lora__calloc(b->ctx, a->n + 1, sizeof *at);
	lora__tok_key *keys = lora__calloc(b->ctx, a->n + 1, sizeof *keys);
	lora_status st = at && keys ? LORA_OK : LORA_E_MEMORY;
	if (!st) st = lora__tok_call_begin(b->t, &c);
	if (st) goto done;
	for (size_t i = 0; i < a->n; i++)
		if (!a->list[i].normalized && !a->list[i].control) keys[n_raw++] = (lora__tok_key){ a->list[i].text, a->list[i].n, (int32_t)i, 0 };
	st = lora__tok_trie_build(b->ctx, keys, n_raw, &a->raw);
	for (size_t i = n_raw = 0; i < a->n; i++)
		if (!a->list[i].normalized) n_control += a->list[i].control, keys[n_raw++] = (lora__tok_key){ a->list[i].text, a->list[i].n, (int32_t)i, 0 };
	if (!st && n_control) st = lora__tok_trie_build(b->ctx, keys, n_raw, &a->control);
	for (size_t i = 0; i < a->n && !st; i++) {
		lora__tok_added_token *t = &a->list[i];
		const char *s;
		size_t n;
		int first = 1;
		if (!t->normalized) continue;
		st = lora__tok_normalize(&c, t->text, t->n, &first, &s, &n);
		if (!st && !(t->shown = lora__tok_copy(b, s, n))) st = LORA_E_MEMORY;
		t->n_shown = n;
		if (st || !n) continue; /* one that vanishes can't be found */
		at[n_norm] = texts.n;
		keys[n_norm++] = (lora__tok_key){ NULL, n, (int32_t)i, 0 };
		st = lora__tok_put(b->ctx, &texts, s, n);
	}
	for (size_t i = 0; i < n_norm; i++) keys[i].s = texts.p + at[i];
	if (!st) st = lora__tok_trie_build(b->ctx, keys, n_norm, &a->norm);
	lora__tok_call_end(&c);
done:
	lora__free(b->ctx, at);
	lora__free(b->ctx, keys);
	lora__free(b->ctx, texts.p);
	return st;
}

void lora__tok_added_free(lora_context *ctx, lora__tok_added *a)
{
	for (size_t i = 0; i < a->n; i++) lora__free(ctx, a->list[i].text), lora__free(ctx, a->list[i].shown);
	lora__free(ctx, a->list);
	if (a->by_text.ctx) lora__map_free(&a->by_text);
	lora__tok_trie_free(ctx, &a->raw);
	lora__tok_trie_free(ctx, &a->norm);
	lora__tok_trie_free(ctx, &a->control);
}

const lora__tok_added_token *lora__tok_added_by_id(const lora__tok_added *a, int64_t id)
{
	size_t lo = 0, hi = a->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (a->list[mid].id < id) lo = mid + 1;
		else hi = mid;
	}
	return lo < a->n && a->list[lo].id == id ? &a->list[lo] : NULL;
}

/* Start of the character before s[at]. */
static size_t back(const char *s, size_t at)
{
	do at--; while (at && ((unsigned char)s[at] & 0xc0) == 0x80);
	return at;
}

static int is_alone(const char *s, size_t n, size_t start, size_t end)
{
	size_t step;
	if (start && lora__tok_is_word(lora__tok_char(s + back(s, start), &step))) return 0;
	return end == n || !lora__tok_is_word(lora__tok_char(s + end, &step));
}

const lora__tok_added_token *lora__tok_added_find(const lora__tok_added *a, const lora__tok_trie *trie, const char *s, size_t n, size_t *at,
                                                  size_t done, size_t *start, size_t *end)
{
	size_t step;
	if (trie->n < 2) return NULL;
	for (size_t i = *at; i < n; i++) {
		int32_t node = trie->root[(uint8_t)s[i]], best = -1;
		for (size_t k = i + 1; node >= 0; k++) {
			if (trie->nodes[node].value >= 0) best = trie->nodes[node].value, *end = k;
			node = k < n ? lora__tok_trie_step(trie, node, (uint8_t)s[k]) : -1;
		}
		if (best < 0) continue;
		const lora__tok_added_token *t = &a->list[best];
		*start = i, *at = *end;
		if (t->single_word && !is_alone(s, n, *start, *end)) {
			i = *end - 1;
			continue;
		}
		while (t->lstrip && *start > done && lora__tok_is_space(lora__tok_char(s + back(s, *start), &step))) *start = back(s, *start);
		if (t->lstrip && *start < done) *start = done;
		while (t->rstrip && *end < n && lora__tok_is_space(lora__tok_char(s + *end, &step))) *end += step;
		return t;
	}
	return NULL;
}
