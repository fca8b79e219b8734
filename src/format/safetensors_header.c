/* The header of a safetensors file, walked entry by entry: jansson sees one name or one entry of at most 16 KiB at a time, so what a header can
 * make us hold is in proportion to its size, and the first entry that can't be true ends the work.
 * Source: huggingface/safetensors, README "Format" and the reference reader (Metadata::validate); ours beyond it are listed in safetensors.h. */
#include <stdio.h>
#include <string.h>

#include "format/safetensors_header.h"

enum {
	ENTRY_MAX         = 16 << 10, /* bytes of one entry; an ordinary one has a hundred */
	ENTRY_MIN         = 48,       /* `"":{"dtype":"U8","shape":[],"data_offsets":[0,0]}` has 49: bounds the count before anything is allocated */
	METADATA_MAX      = 16 << 20,
	METADATA_KEYS_MAX = 4096
};

typedef struct walk {
	lora__st_file *f;
	size_t         at;                        /* next byte of the header */
	char          *names;                     /* arena */
	size_t         names_used, names_cap, room; /* room: entries that the list has place for */
	uint64_t       sum;                       /* bytes of all entries so far */
} walk;

static lora_status bad(walk *w, lora_status st, const char *name, size_t at, const char *text)
{
	if (name) return lora__fail_at(w->f->ctx, st, "safetensors", name, (int64_t)at + 8, "%s: tensor '%s': %s", w->f->what, lora__quote(name).text, text);
	return lora__fail_at(w->f->ctx, st, "safetensors", NULL, (int64_t)at + 8, "%s: %s (byte %zu)", w->f->what, text, at + 8);
}

/* Parse one JSON value at the current place; on failure say where in the file it is. */
static lora_status value(walk *w, const char *what, size_t n, json_t **out)
{
	lora_context *ctx = w->f->ctx;
	size_t        used = 0;
	lora_status   st = lora__json_value(ctx, w->f->text + w->at, n, what, out, &used);
	if (st) {
		if (ctx->error.offset >= 0) ctx->error.offset += (int64_t)w->at + 8;
		return lora__fail_prefix(ctx, st, "%s: header at byte %zu: ", w->f->what, w->at + 8);
	}
	w->at += used;
	return LORA_OK;
}

static int is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static void skip_space(walk *w)
{
	while (w->at < w->f->n && is_space(w->f->text[w->at])) w->at++;
}

static int peek(const walk *w) { return w->at < w->f->n ? (unsigned char)w->f->text[w->at] : -1; }

/* The end of the string that begins at the quote text[at]: one past its closing quote, or n. */
static size_t string_end(const char *text, size_t n, size_t at)
{
	for (at++; at < n && text[at] != '"'; at++)
		if (text[at] == '\\' && at + 1 < n) at++;
	return at < n ? at + 1 : n;
}

/* Where the bracketed value at text[at] ends (one past), with the commas at its own level; n when it does not end.
 * deepest: nesting reached, 1 = none inside. */
static size_t bracket_end(const char *text, size_t n, size_t at, size_t *commas, size_t *deepest)
{
	size_t depth = 0;
	*commas = *deepest = 0;
	while (at < n) {
		char c = text[at];
		if (c == '"') {
			at = string_end(text, n, at);
			continue;
		}
		if ((c == '{' || c == '[') && ++depth > *deepest) *deepest = depth;
		if (c == ',' && depth == 1) ++*commas;
		if ((c == '}' || c == ']') && --depth == 0) return at + 1;
		at++;
	}
	return n + 1;
}

/* Count the entries and the bytes of the strings at the first level, which bound the names: one pass, nothing parsed. */
static void measure(walk *w, size_t *entries, size_t *name_bytes)
{
	const char *text = w->f->text;
	size_t      n = w->f->n, depth = 0;
	*entries = 1, *name_bytes = 0;
	for (size_t at = w->at; at < n;) {
		char c = text[at];
		if (c == '"') {
			size_t end = string_end(text, n, at);
			if (depth == 1) *name_bytes += end - at;
			at = end;
			continue;
		}
		if (c == '{' || c == '[') depth++;
		if ((c == '}' || c == ']') && depth) depth--;
		if (c == ',' && depth == 1) ++*entries;
		at++;
	}
	if (*entries > n / ENTRY_MIN + 2) *entries = n / ENTRY_MIN + 2; /* + 2: __metadata__ may be shorter than an entry */
}

/* A name with NUL is legal JSON but can't be carried in a C string. */
static int has_nul_escape(const char *s, size_t n)
{
	for (size_t i = 0; i + 1 < n; i++)
		if (s[i] == '\\') {
			if (s[i + 1] == 'u' && n - i >= 6 && memcmp(s + i + 2, "0000", 4) == 0) return 1;
			i++;
		}
	return 0;
}

/* Read a key into the arena. */
static lora_status read_name(walk *w, const char **out)
{
	lora__st_file *f = w->f;
	size_t         begin = w->at;
	json_t        *key = NULL;
	if (peek(w) != '"') return bad(w, LORA_E_FORMAT, NULL, w->at, "a name in quotes was expected in the header");
	size_t end = string_end(f->text, f->n, begin);
	if (has_nul_escape(f->text + begin, end - begin)) return bad(w, LORA_E_LIMIT, NULL, begin, "a name with a NUL character can't be carried");
	lora_status st = value(w, "name", f->n - begin, &key);
	if (st) return st;
	size_t n = json_is_string(key) ? json_string_length(key) : SIZE_MAX;
	if (n >= w->names_cap - w->names_used || w->at > end) {
		st = bad(w, LORA_E_IO, NULL, begin, "the header changed while it was read");
	} else {
		memcpy(w->names + w->names_used, json_string_value(key), n + 1);
		*out = w->names + w->names_used;
		w->names_used += n + 1;
	}
	json_decref(key);
	return st;
}

static lora_status read_metadata(walk *w)
{
	lora__st_file *f = w->f;
	size_t         commas, deepest, begin = w->at;
	if (peek(w) != '{') return bad(w, LORA_E_FORMAT, NULL, begin, "__metadata__ is not an object of strings");
	size_t end = bracket_end(f->text, f->n, begin, &commas, &deepest);
	if (deepest > 1) return bad(w, LORA_E_FORMAT, NULL, begin, "__metadata__ holds a value that is not a string");
	if (end > f->n) return bad(w, LORA_E_FORMAT, NULL, begin, "__metadata__ does not end");
	if (end - begin > METADATA_MAX || commas >= METADATA_KEYS_MAX)
		return bad(w, LORA_E_LIMIT, NULL, begin, "__metadata__ is over the limit of 4096 entries and 16 MiB");
	json_t     *object = NULL;
	lora_status st = value(w, "__metadata__", end - begin, &object);
	if (st) return st;
	const char *key;
	json_t     *item;
	json_object_foreach(object, key, item)
		if (!json_is_string(item)) {
			st = lora__fail_at(f->ctx, LORA_E_FORMAT, "safetensors", key, (int64_t)begin + 8, "%s: __metadata__: the value of '%s' is not a string",
			                   f->what, lora__quote(key).text);
			break;
		}
	if (st || f->set->metadata) json_decref(object);
	else f->set->metadata = object;
	return st;
}

/* The field of an entry, or an error that names it. */
static lora_status field(walk *w, const char *name, size_t at, json_t *entry, const char *key, json_t **out)
{
	char text[64];
	*out = json_object_get(entry, key);
	if (*out) return LORA_OK;
	snprintf(text, sizeof text, "no field '%s'", key);
	return bad(w, LORA_E_FORMAT, name, at, text);
}

static lora_status read_type(walk *w, const char *name, size_t at, const json_t *dtype, const lora__st_type **out)
{
	if (!json_is_string(dtype)) return bad(w, LORA_E_FORMAT, name, at, "dtype is not a string");
	*out = lora__st_type_named(json_string_value(dtype), json_string_length(dtype));
	if (*out) return LORA_OK;
	return lora__fail_at(w->f->ctx, LORA_E_UNSUPPORTED, "safetensors", name, (int64_t)at + 8, "%s: tensor '%s': unknown dtype '%s'", w->f->what,
	                     lora__quote(name).text, lora__quote(json_string_value(dtype)).text);
}

static lora_status read_shape(walk *w, size_t at, const json_t *shape, lora__tensor *t)
{
	if (!json_is_array(shape)) return bad(w, LORA_E_FORMAT, t->name, at, "shape is not an array");
	if (json_array_size(shape) > LORA__TENSOR_RANK) return bad(w, LORA_E_LIMIT, t->name, at, "shape has more than 8 dimensions, the limit of this library");
	t->rank = (int32_t)json_array_size(shape);
	for (int32_t i = 0; i < t->rank; i++) {
		const json_t *d = json_array_get(shape, (size_t)i);
		if (!json_is_integer(d) || json_integer_value(d) < 0)
			return bad(w, LORA_E_FORMAT, t->name, at, "shape holds something that is not a whole number of 0 or more");
		t->shape[i] = json_integer_value(d);
	}
	return LORA_OK;
}

static lora_status read_offsets(walk *w, size_t at, const json_t *offsets, lora__tensor *t)
{
	lora__st_file *f = w->f;
	const json_t  *a = json_array_get(offsets, 0), *b = json_array_get(offsets, 1);
	if (!json_is_array(offsets) || json_array_size(offsets) != 2) return bad(w, LORA_E_FORMAT, t->name, at, "data_offsets is not an array of two numbers");
	if (!json_is_integer(a) || !json_is_integer(b) || json_integer_value(a) < 0 || json_integer_value(b) < 0)
		return bad(w, LORA_E_FORMAT, t->name, at, "data_offsets holds something that is not a whole number of 0 or more");
	uint64_t begin = (uint64_t)json_integer_value(a), end = (uint64_t)json_integer_value(b);
	if (begin > end) return bad(w, LORA_E_FORMAT, t->name, at, "data_offsets begin after their end");
	if (end > f->data_n)
		return lora__fail_at(f->ctx, LORA_E_FORMAT, "safetensors", t->name, (int64_t)at + 8,
		                     "%s: tensor '%s': data runs past end of file (to byte %llu of a data section of %zu)", f->what,
		                     lora__quote(t->name).text, (unsigned long long)end, f->data_n);
	if (end - begin != t->bytes)
		return lora__fail_at(f->ctx, LORA_E_FORMAT, "safetensors", t->name, (int64_t)at + 8,
		                     "%s: tensor '%s': shape and dtype make %llu bytes, data_offsets %llu", f->what, lora__quote(t->name).text,
		                     (unsigned long long)t->bytes, (unsigned long long)(end - begin));
	t->data = f->data + begin;
	return LORA_OK;
}

/* Check one parsed entry and put it into *t. */
static lora_status take_entry(walk *w, size_t at, json_t *entry, lora__tensor *t)
{
	const lora__st_type *type = NULL;
	json_t              *dtype, *shape, *offsets;
	const char          *key;
	json_t              *item;
	lora_status          st = field(w, t->name, at, entry, "dtype", &dtype);
	if (!st) st = field(w, t->name, at, entry, "shape", &shape);
	if (!st) st = field(w, t->name, at, entry, "data_offsets", &offsets);
	if (st) return st;
	if (json_object_size(entry) > 3)
		json_object_foreach(entry, key, item)
			if (item != dtype && item != shape && item != offsets)
				return lora__fail_at(w->f->ctx, LORA_E_FORMAT, "safetensors", t->name, (int64_t)at + 8, "%s: tensor '%s': unknown field '%s'",
				                     w->f->what, lora__quote(t->name).text, lora__quote(key).text);
	st = read_type(w, t->name, at, dtype, &type);
	if (!st) st = read_shape(w, at, shape, t);
	if (st) return st;
	t->dtype = type->dtype;
	t->stored = type->name;
	st = lora__st_bytes(type, t->shape, t->rank, &t->bytes);
	if (st == LORA_E_LIMIT) return bad(w, st, t->name, at, "shape is too large: its size in bytes wraps 64 bits");
	if (st) return bad(w, st, t->name, at, "shape and dtype do not make whole bytes");
	return read_offsets(w, at, offsets, t);
}

static lora_status read_entry(walk *w, const char *name)
{
	lora__st_file *f = w->f;
	size_t         begin = w->at, commas, deepest;
	json_t        *entry = NULL;
	lora__tensor   t = { .name = name };
	if (peek(w) != '{') return bad(w, LORA_E_FORMAT, name, begin, "its entry in the header is not an object");
	size_t room = f->n - begin < ENTRY_MAX ? f->n - begin : ENTRY_MAX;
	size_t end = bracket_end(f->text, begin + room, begin, &commas, &deepest);
	if (end > begin + room && room == ENTRY_MAX) return bad(w, LORA_E_LIMIT, name, begin, "its entry in the header is longer than 16384 bytes");
	if (end > begin + room) return bad(w, LORA_E_FORMAT, name, begin, "its entry in the header does not end");
	lora_status st = value(w, "entry", end - begin, &entry);
	if (st) return st;
	st = json_is_object(entry) ? take_entry(w, begin, entry, &t) : bad(w, LORA_E_IO, name, begin, "the header changed while it was read");
	json_decref(entry);
	if (st) return st;
	if (f->set->n - f->first >= w->room) return bad(w, LORA_E_IO, name, begin, "the header changed while it was read");
	f->set->list[f->set->n++] = t;
	/* more bytes than there are: some must be shared. Found here, a flood of entries over the same bytes ends at the second */
	if (!lora__add_u64(w->sum, t.bytes, &w->sum) || w->sum > f->data_n) return lora__st_check_tiles(f, 0);
	return LORA_OK;
}

static lora_status make_room(walk *w)
{
	lora__st_file *f = w->f;
	lora__tensors *t = f->set;
	size_t         entries, name_bytes;
	lora_status    st;
	measure(w, &entries, &name_bytes);
	if (entries > f->ctx->limits.tensors || entries + t->n > UINT32_MAX)
		return lora__fail(f->ctx, LORA_E_LIMIT, "safetensors", "%s: %zu tensors or more, the limit is %llu (max_tensors)", f->what, entries,
		                  (unsigned long long)f->ctx->limits.tensors);
	if (t->list) {
		st = lora__grow(f->ctx, &t->list, &t->cap, t->n + entries, sizeof *t->list);
		if (st) return st;
	} else {
		t->list = lora__calloc(f->ctx, entries, sizeof *t->list);
		if (!t->list) return LORA_E_MEMORY;
		t->cap = entries;
	}
	st = lora__grow(f->ctx, &t->names, &t->cap_names, t->n_names + 1, sizeof *t->names);
	if (st) return st;
	w->names_cap = name_bytes + entries; /* unescaping never lengthens; one terminator each */
	w->names = lora__alloc(f->ctx, w->names_cap);
	if (!w->names) return LORA_E_MEMORY;
	t->names[t->n_names++] = w->names;
	w->room = entries;
	return LORA_OK;
}

lora_status lora__st_header(lora__st_file *f)
{
	walk        w = { .f = f };
	int         seen_metadata = 0;
	lora_status st;
	skip_space(&w);
	if (peek(&w) != '{') return bad(&w, LORA_E_FORMAT, NULL, w.at, "the header is not a JSON object");
	st = make_room(&w);
	if (st) return st;
	w.at++;
	skip_space(&w);
	for (int first = 1; peek(&w) != '}'; first = 0) {
		const char *name = NULL;
		if (peek(&w) < 0) return bad(&w, LORA_E_FORMAT, NULL, w.at, "the header ends inside its object");
		if (!first && peek(&w) != ',') return bad(&w, LORA_E_FORMAT, NULL, w.at, "',' or '}' was expected in the header");
		if (!first) w.at++;
		skip_space(&w);
		size_t before = w.names_used;
		st = read_name(&w, &name);
		if (st) return st;
		skip_space(&w);
		if (peek(&w) != ':') return bad(&w, LORA_E_FORMAT, NULL, w.at, "':' was expected in the header");
		w.at++;
		skip_space(&w);
		if (strcmp(name, "__metadata__") == 0) {
			if (seen_metadata++) return bad(&w, LORA_E_FORMAT, NULL, w.at, "duplicate key '__metadata__'");
			w.names_used = before;
			st = read_metadata(&w);
		} else {
			st = read_entry(&w, name);
		}
		if (st) return st;
		skip_space(&w);
	}
	w.at++;
	skip_space(&w);
	if (w.at != f->n) return bad(&w, LORA_E_FORMAT, NULL, w.at, "something follows the header's object");
	return LORA_OK;
}
