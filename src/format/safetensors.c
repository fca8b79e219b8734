/* safetensors: open and close one file, bytes in memory, or a model directory with its shards.
 * File: 8 bytes little-endian length N, N bytes of JSON, data. Source: huggingface/safetensors README. Reading partners:
 * safetensors_header.c (the JSON), safetensors_check.c (the layout), safetensors_write.c. */
#include "format/safetensors.h"

#include <string.h>

#include "base/map.h"
#include "format/safetensors_header.h"

#define HEADER_LIMIT 100000000u /* the reference reader's; a context can set a smaller one */

enum { SHARDS_MAX = 10000 };

typedef struct magic { const char *bytes; size_t n; lora_status status; const char *text; } magic;

/* What people give us instead. Looked at only when the file can't be safetensors. */
static const magic magics[] = {
	{ "version https://git-lfs", 23, LORA_E_FORMAT,
	  "looks like a git-lfs pointer, not the file itself; fetch it with 'git lfs pull' or download it again" },
	{ "PK\x03\x04", 4, LORA_E_UNSUPPORTED, "a zip archive, as torch.save() and numpy.savez() write; convert it to safetensors" },
	{ "\x80\x02", 2, LORA_E_UNSUPPORTED, "a Python pickle (old torch.save()); convert it to safetensors" },
	{ "\x80\x03", 2, LORA_E_UNSUPPORTED, "a Python pickle; convert it to safetensors" },
	{ "\x80\x04", 2, LORA_E_UNSUPPORTED, "a Python pickle; convert it to safetensors" },
	{ "\x80\x05", 2, LORA_E_UNSUPPORTED, "a Python pickle; convert it to safetensors" },
	{ "GGUF", 4, LORA_E_UNSUPPORTED, "a GGUF file, not safetensors" },
	{ "\x93NUMPY", 6, LORA_E_UNSUPPORTED, "a numpy .npy file, not safetensors" },
	{ "\x89HDF\r\n\x1a\n", 8, LORA_E_UNSUPPORTED, "an HDF5 file, not safetensors" },
	{ "<!DOCTYPE", 9, LORA_E_FORMAT, "a web page, not safetensors; the download went wrong" },
	{ "<html", 5, LORA_E_FORMAT, "a web page, not safetensors; the download went wrong" },
};

/* The file is no safetensors file: st and text say why, unless its first bytes tell better. */
static lora_status not_ours(lora_context *ctx, const char *what, const uint8_t *p, size_t n, lora_status st, const char *text)
{
	for (size_t i = 0; i < sizeof magics / sizeof *magics; i++)
		if (n >= magics[i].n && memcmp(p, magics[i].bytes, magics[i].n) == 0) st = magics[i].status, text = magics[i].text;
	return lora__fail_at(ctx, st, "safetensors", NULL, 0, "%s: %s", what, text);
}

static int begins_object(const char *s, size_t n)
{
	size_t i = 0;
	while (i < n && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n' || s[i] == '\r')) i++;
	return i < n && s[i] == '{';
}

/* Give the tensors of a big-endian host a data section of their own in its byte order. The one place where reading swaps. */
static lora_status to_native(lora__st_file *f)
{
	lora__tensors *t = f->set;
	lora_status    st = lora__grow(f->ctx, &t->blobs, &t->cap_blobs, t->n_blobs + 1, sizeof *t->blobs);
	if (st || !f->data_n) return st;
	uint8_t *copy = lora__alloc(f->ctx, f->data_n);
	if (!copy) return LORA_E_MEMORY;
	t->blobs[t->n_blobs++] = (lora__blob){ copy, f->data_n, 0 };
	for (size_t i = f->first; i < t->n; i++) {
		lora__tensor        *x = &t->list[i];
		const lora__st_type *type = lora__st_type_named(x->stored, strlen(x->stored));
		uint8_t             *to = copy + (x->data - f->data);
		lora__swap_bytes(to, x->data, (size_t)x->bytes, type->swap);
		x->data = to;
	}
	return LORA_OK;
}

/* Read one file's bytes into set. The order of the checks is the reference reader's. */
static lora_status read_bytes(lora_context *ctx, const char *what, const uint8_t *p, size_t n, lora__tensors *set)
{
	uint64_t header = 0, limit = ctx->limits.header_bytes < HEADER_LIMIT ? ctx->limits.header_bytes : HEADER_LIMIT;
	size_t   where = 0;
	if (n < 8) return not_ours(ctx, what, p, n, LORA_E_FORMAT, n ? "shorter than the 8-byte length of a header" : "empty: shorter than the 8-byte length of a header");
	for (int i = 7; i >= 0; i--) header = header << 8 | p[i];
	const char *text = (const char *)p + 8;
	if (header > limit) {
		lora_status st = not_ours(ctx, what, p, n, LORA_E_LIMIT, "");
		if (st != LORA_E_LIMIT) return st;
		return lora__fail_at(ctx, st, "safetensors", NULL, 0, "%s: header of %llu bytes, the limit is %llu", what, (unsigned long long)header,
		                     (unsigned long long)limit);
	}
	if (header > n - 8) return not_ours(ctx, what, p, n, LORA_E_FORMAT, "header runs past end of file");
	if (header == 0) return not_ours(ctx, what, p, n, LORA_E_FORMAT, "empty header");
	if (!lora__utf8_valid(text, (size_t)header, &where))
		return lora__fail_at(ctx, LORA_E_FORMAT, "safetensors", NULL, (int64_t)where + 8, "%s: header is not UTF-8 (byte %zu)", what, where + 8);
	const char *nul = memchr(text, 0, (size_t)header); /* legal UTF-8, never legal JSON */
	if (nul)
		return lora__fail_at(ctx, LORA_E_FORMAT, "safetensors", NULL, nul - text + 8, "%s: header holds a NUL byte (byte %zu)", what,
		                     (size_t)(nul - text) + 8);
	if (!begins_object(text, (size_t)header)) return not_ours(ctx, what, p, n, LORA_E_FORMAT, "the header is not a JSON object");
	lora__st_file f = { .ctx = ctx, .what = what, .text = text, .n = (size_t)header, .data = p + 8 + header, .data_n = n - 8 - (size_t)header,
		                .set = set, .first = set->n };
	lora_status   st = lora__st_header(&f);
	if (!st) st = lora__st_check_tiles(&f, 1);
	if (!st && LORA__BIG_ENDIAN) st = to_native(&f);
	return st;
}

/* Take over a blob, read it. */
static lora_status read_blob(lora_context *ctx, const char *path, lora__blob *blob, lora__tensors *set)
{
	lora_status st = lora__grow(ctx, &set->blobs, &set->cap_blobs, set->n_blobs + 1, sizeof *set->blobs);
	if (st) {
		lora__blob_close(ctx, blob);
		return st;
	}
	set->blobs[set->n_blobs++] = *blob;
	lora__quoted what = lora__quote(path);
	return read_bytes(ctx, what.text, blob->data, blob->n, set);
}

static lora_status finish(lora__tensors *set, const char *what, lora_status st, lora__tensors *out)
{
	if (!st) st = lora__st_sort_names(set, what);
	if (st) lora__tensors_close(set);
	else *out = *set;
	return st;
}

static lora_status open_path(lora_context *ctx, const char *path, int map, lora__tensors *out)
{
	lora__tensors set = { .ctx = ctx };
	lora__blob    blob;
	*out = set;
	lora_status st = map ? lora__blob_map(ctx, path, &blob) : lora__blob_read(ctx, path, UINT64_MAX, &blob);
	if (st) return st;
	st = read_blob(ctx, path, &blob, &set);
	return finish(&set, lora__quote(path).text, st, out);
}

lora_status lora__safetensors_open(lora_context *ctx, const char *path, lora__tensors *out) { return open_path(ctx, path, 1, out); }
lora_status lora__safetensors_read(lora_context *ctx, const char *path, lora__tensors *out) { return open_path(ctx, path, 0, out); }

lora_status lora__safetensors_open_memory(lora_context *ctx, const void *bytes, size_t n, const char *what, lora__tensors *out)
{
	lora__tensors set = { .ctx = ctx };
	lora__quoted  name = lora__quote(what);
	*out = set;
	lora_status st = read_bytes(ctx, name.text, bytes, n, &set);
	return finish(&set, name.text, st, out);
}

void lora__tensors_close(lora__tensors *t)
{
	if (!t->ctx) return;
	for (size_t i = 0; i < t->n_blobs; i++) lora__blob_close(t->ctx, &t->blobs[i]);
	for (size_t i = 0; i < t->n_names; i++) lora__free(t->ctx, t->names[i]);
	lora__free(t->ctx, t->blobs);
	lora__free(t->ctx, t->names);
	lora__free(t->ctx, t->list);
	lora__free(t->ctx, t->by_name);
	json_decref(t->metadata);
	*t = (lora__tensors){ 0 };
}

/* --- shards --- */

typedef struct shards {
	lora_context  *ctx;
	const char    *dir;
	char          *index; /* path of the index */
	const json_t  *weight_map;
	lora__tensors *set;
	const char   **files; /* shard names, in the order of first mention; borrowed from the index */
	size_t         n_files, cap_files;
} shards;

static lora_status index_fault(const shards *s, lora_status st, const char *name, const char *format_tail)
{
	return lora__fail_at(s->ctx, st, "safetensors", name, -1, "%s: '%s' %s", lora__quote(s->index).text, lora__quote(name).text, format_tail);
}

/* The index may name only plain files beside it. */
static lora_status list_shards(shards *s)
{
	const char *name;
	json_t     *file;
	lora__map   seen;
	lora_status st = LORA_OK;
	lora__map_init(&seen, s->ctx);
	json_object_foreach((json_t *)(uintptr_t)s->weight_map, name, file)
	{
		const char *f = json_string_value(file);
		if (!f) st = index_fault(s, LORA_E_FORMAT, name, "has no shard name");
		else if (!*f || *f == '.' || strchr(f, '/') || strchr(f, '\\') || strlen(f) > 255)
			st = index_fault(s, LORA_E_FORMAT, f, "is not a plain file name of a shard");
		if (st) break;
		lora_status added = lora__map_add(&seen, f, strlen(f), (int64_t)s->n_files, NULL);
		if (added == LORA_E_EXISTS) continue;
		st = added;
		if (!st && s->n_files >= SHARDS_MAX) st = index_fault(s, LORA_E_LIMIT, f, "is one shard more than the limit of 10000");
		if (!st) st = lora__grow(s->ctx, &s->files, &s->cap_files, s->n_files + 1, sizeof *s->files);
		if (st) break;
		s->files[s->n_files++] = f;
	}
	lora__map_free(&seen);
	return st;
}

static lora_status read_shard(shards *s, const char *file)
{
	lora_context *ctx = s->ctx;
	lora__blob    blob;
	size_t        first = s->set->n;
	char         *path = lora__path_join(ctx, s->dir, file);
	if (!path) return LORA_E_MEMORY;
	lora_status st = lora__blob_map(ctx, path, &blob);
	if (st == LORA_E_NOTFOUND)
		st = lora__fail_at(ctx, st, "safetensors", file, -1, "%s: shard is missing, the index names it", lora__quote(path).text);
	if (!st) st = read_blob(ctx, path, &blob, s->set);
	for (size_t i = first; !st && i < s->set->n; i++) {
		const char *name = s->set->list[i].name, *says = json_string_value(json_object_get(s->weight_map, name));
		if (!says || strcmp(says, file))
			st = lora__fail_at(ctx, LORA_E_FORMAT, "safetensors", name, -1, "%s: holds tensor '%s', which the index %s%s", lora__quote(path).text,
			                   lora__quote(name).text, says ? "puts into " : "does not list", says ? lora__quote(says).text : "");
	}
	lora__free(ctx, path);
	return st;
}

static lora_status read_shards(shards *s, json_t *document)
{
	s->weight_map = json_object_get(document, "weight_map");
	if (!json_is_object(s->weight_map)) return index_fault(s, LORA_E_FORMAT, "weight_map", "is missing or not an object");
	lora_status st = list_shards(s);
	for (size_t i = 0; i < s->n_files && !st; i++) st = read_shard(s, s->files[i]);
	if (!st) st = lora__st_sort_names(s->set, lora__quote(s->index).text);
	const char *name;
	json_t     *file;
	if (st) return st;
	json_object_foreach((json_t *)(uintptr_t)s->weight_map, name, file)
		if (!lora__tensors_find(s->set, name))
			return lora__fail_at(s->ctx, LORA_E_FORMAT, "safetensors", name, -1, "%s: tensor '%s' is not in its shard %s", lora__quote(s->index).text,
			                     lora__quote(name).text, lora__quote(json_string_value(file)).text);
	return LORA_OK;
}

static lora_status open_index(lora_context *ctx, const char *dir, char *index, lora__tensors *out)
{
	lora__tensors set = { .ctx = ctx };
	shards        s = { .ctx = ctx, .dir = dir, .index = index, .set = &set };
	lora__blob    text = { 0 };
	json_t       *document = NULL;
	lora_status   st = lora__blob_read(ctx, index, ctx->limits.json_bytes, &text);
	if (!st) st = lora__json_parse(ctx, (const char *)text.data, text.n, lora__quote(index).text, &document);
	lora__blob_close(ctx, &text);
	if (!st) st = read_shards(&s, document);
	lora__free(ctx, s.files);
	json_decref(document);
	if (st) lora__tensors_close(&set);
	else *out = set;
	return st;
}

lora_status lora__safetensors_open_model(lora_context *ctx, const char *dir, lora__tensors *out)
{
	*out = (lora__tensors){ .ctx = ctx };
	char       *single = lora__path_join(ctx, dir, "model.safetensors");
	char       *index = lora__path_join(ctx, dir, "model.safetensors.index.json");
	lora_status st = LORA_E_MEMORY;
	if (!single || !index) goto done;
	if (lora__path_exists(single)) st = lora__safetensors_open(ctx, single, out);
	else if (lora__path_exists(index)) st = open_index(ctx, dir, index, out);
	else
		st = lora__fail_at(ctx, LORA_E_NOTFOUND, "safetensors", dir, -1, "%s: neither model.safetensors nor model.safetensors.index.json is there",
		                   lora__quote(dir).text);
done:
	lora__free(ctx, single);
	lora__free(ctx, index);
	return st;
}
