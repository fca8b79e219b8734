/* Which files a path to a tokenizer means, and reading them: tokenizer.json first, else tokenizer.model, vocab.json with merges.txt, vocab.txt; the
 * files beside them (tokenizer_config.json and so on) say the rest. */
#include "api/tokenfiles.h"

#include "format/file.h"
#include "tokenizer/sentencepiece.h"

typedef enum kind { JSON, MODEL, BPE, LINES } kind;
static const struct { const char *name; kind kind; } known[] = { { "tokenizer.json", JSON }, { "tokenizer.model", MODEL }, { "spiece.model", MODEL },
	{ "vocab.json", BPE }, { "vocab.txt", LINES } };

typedef struct files { lora_context *ctx; char *dir, *file; kind kind; lora__tok_beside beside; lora__blob jinja; } files;

static int ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);
	return n >= m && !strcmp(s + n - m, end);
}

/* A file beside, when it is there (*found). */
static lora_status beside(const files *f, const char *name, lora__blob *blob, int *found)
{
	char *path = lora__path_join(f->ctx, f->dir, name);
	lora_status st = path ? LORA_OK : LORA_E_MEMORY;
	*found = path && lora__path_exists(path);
	if (!st && *found) st = lora__blob_read(f->ctx, path, f->ctx->limits.json_bytes, blob);
	lora__free(f->ctx, path);
	return st;
}

static lora_status beside_json(const files *f, const char *name, json_t **out)
{
	lora__blob blob = { 0 };
	char *path = lora__path_join(f->ctx, f->dir, name);
	lora_status st = path ? LORA_OK : LORA_E_MEMORY;
	if (!st && lora__path_exists(path)) {
		lora__quoted shown = lora__quote(path);
		st = lora__blob_read(f->ctx, path, f->ctx->limits.json_bytes, &blob);
		if (!st) st = lora__json_parse(f->ctx, (const char *)blob.data, blob.n, shown.text, out);
		if (!st && !json_is_object(*out)) st = lora__fail_at(f->ctx, LORA_E_FORMAT, "tokenizer", name, -1, "%s: must be an object", shown.text);
		lora__blob_close(f->ctx, &blob);
	}
	lora__free(f->ctx, path);
	return st;
}

/* The file and the folder around it. */
static lora_status find(files *f, const char *path)
{
	const char *slash = strrchr(path, '/');
	if (!lora__path_is_dir(path)) {
		f->dir = slash ? lora__strndup(f->ctx, path, slash == path ? 1 : (size_t)(slash - path)) : lora__strdup(f->ctx, ".");
		f->file = lora__strdup(f->ctx, path);
		f->kind = ends_with(path, ".model") ? MODEL : ends_with(path, "vocab.json") ? BPE : ends_with(path, ".txt") ? LINES : JSON;
		return f->dir && f->file ? LORA_OK : LORA_E_MEMORY;
	}
	if (!(f->dir = lora__strdup(f->ctx, path))) return LORA_E_MEMORY;
	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		char *file = lora__path_join(f->ctx, path, known[i].name);
		if (!file) return LORA_E_MEMORY;
		if (lora__path_exists(file)) {
			f->file = file, f->kind = known[i].kind;
			return LORA_OK;
		}
		lora__free(f->ctx, file);
	}
	return lora__fail_at(f->ctx, LORA_E_NOTFOUND, "tokenizer", path, -1,
		"%s: no tokenizer in this directory (tokenizer.json, tokenizer.model, vocab.json with merges.txt, or vocab.txt)", lora__quote(path).text);
}

static lora_status open_bpe(const files *f, const lora__blob *blob, const char *what, lora_tokenizer **out)
{
	lora__blob merges = { 0 };
	json_t *vocab = NULL;
	int found = 0;
	lora_status st = lora__json_parse(f->ctx, (const char *)blob->data, blob->n, what, &vocab);
	if (!st) st = beside(f, "merges.txt", &merges, &found);
	if (!st && !found) st = beside(f, "vocab.bpe", &merges, &found);
	if (!st && !found)
		st = lora__fail_at(f->ctx, LORA_E_NOTFOUND, "tokenizer", "merges.txt", -1, "%s: there is no merges.txt beside it", what);
	if (!st) st = lora__tokenizer_from_bpe(f->ctx, vocab, (const char *)merges.data, merges.n, what, &f->beside, out);
	json_decref(vocab);
	lora__blob_close(f->ctx, &merges);
	return st;
}

static lora_status open_file(const files *f, lora_tokenizer **out)
{
	lora__quoted what = lora__quote(f->file);
	lora__blob blob = { 0 };
	lora_status st = lora__blob_read(f->ctx, f->file, f->ctx->limits.json_bytes, &blob);
	const char *text = (const char *)blob.data;
	if (st) return st;
	switch (f->kind) {
	case JSON: st = lora__tokenizer_from_json(f->ctx, text, blob.n, what.text, out); break;
	case MODEL: st = lora__tokenizer_from_spm(f->ctx, blob.data, blob.n, what.text, &f->beside, out); break;
	case BPE: st = open_bpe(f, &blob, what.text, out); break;
	case LINES: st = lora__tokenizer_from_lines(f->ctx, text, blob.n, what.text, &f->beside, out); break;
	}
	lora__blob_close(f->ctx, &blob);
	if (!st) st = lora__tok_chat_read(*out, &f->beside, (const char *)f->jinja.data, f->jinja.n, "tokenizer_config.json");
	if (st && *out) {
		lora__tokenizer_destroy(*out);
		*out = NULL;
	}
	return st;
}

static lora_status open_gguf(lora_context *ctx, const char *path, lora_tokenizer **out)
{
	lora__gguf g;
	lora_status st = lora__gguf_open(ctx, path, &g);
	if (st) return st;
	st = lora__tokenizer_from_gguf(ctx, &g, out);
	lora__gguf_close(&g);
	return st;
}

lora_status lora__tokenizer_open(lora_context *ctx, const char *path, lora_tokenizer **out)
{
	if (lora__gguf_is(path)) return open_gguf(ctx, path, out);
	files f = { .ctx = ctx };
	int found;
	lora_status st = find(&f, path);
	if (!st) st = beside_json(&f, "tokenizer_config.json", &f.beside.config);
	if (!st) st = beside_json(&f, "special_tokens_map.json", &f.beside.special);
	if (!st && f.kind != JSON) st = beside_json(&f, "added_tokens.json", &f.beside.added);
	if (!st) st = beside(&f, "chat_template.jinja", &f.jinja, &found);
	if (!st) st = open_file(&f, out);
	json_decref(f.beside.config);
	json_decref(f.beside.special);
	json_decref(f.beside.added);
	lora__blob_close(ctx, &f.jinja);
	lora__free(ctx, f.dir);
	lora__free(ctx, f.file);
	return st;
}
