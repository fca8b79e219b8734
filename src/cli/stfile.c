/* lora: safetensors files of input and output tensors: u64 header length, JSON header, data (format of huggingface/safetensors).
 * A strict reader: tensors fill the data section without hole or overlap, sizes fit their shapes, no key comes twice. */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_HEADER 100000000u

static const struct {
	const char *name;
	lora_dtype dtype;
	size_t size;
} dtypes[] = {
	{ "F32", LORA_F32, 4 },
	{ "F16", LORA_F16, 2 },
	{ "BF16", LORA_BF16, 2 },
	{ "F64", LORA_F64, 8 },
	{ "I64", LORA_I64, 8 },
	{ "I32", LORA_I32, 4 },
	{ "I16", LORA_I16, 2 },
	{ "I8", LORA_I8, 1 },
	{ "U64", LORA_U64, 8 },
	{ "U32", LORA_U32, 4 },
	{ "U16", LORA_U16, 2 },
	{ "U8", LORA_U8, 1 },
	{ "BOOL", LORA_BOOL, 1 },
};
#define N_DTYPES (sizeof dtypes / sizeof dtypes[0])

const char *dtype_name(lora_dtype t) { return lora_dtype_name(t); }

size_t dtype_size(lora_dtype t)
{
	for (size_t i = 0; i < N_DTYPES; i++)
		if (dtypes[i].dtype == t) return dtypes[i].size;
	return 0;
}

/* Bits of an element of a type of the format that this program has no use for, else 0: such tensors may be there, and are not looked at. */
static unsigned foreign_bits(const char *name)
{
	static const struct {
		const char *name;
		unsigned bits;
	} types[] = {
		{ "F8_E4M3", 8 },
		{ "F8_E5M2", 8 },
		{ "F8_E8M0", 8 },
		{ "F8_E4M3FNUZ", 8 },
		{ "F8_E5M2FNUZ", 8 },
		{ "F6_E2M3", 6 },
		{ "F6_E3M2", 6 },
		{ "F4", 4 },
		{ "C64", 64 },
	};
	for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
		if (!strcmp(types[i].name, name)) return types[i].bits;
	return 0;
}

static int wrong_magic(const char *path, const char *b, size_t n)
{
	static const struct {
		const char *magic;
		size_t n;
		const char *is;
	} kinds[] = {
		{ "PK\3\4", 4, "a zip archive (a torch or numpy file?)" },
		{ "GGUF", 4, "a GGUF file" },
		{ "\x93NUMPY", 6, "a numpy array" },
		{ "version https://git-lfs", 23, "a git-lfs pointer; fetch the file itself with 'git lfs pull'" },
		{ "\x80\x02", 2, "a Python pickle" },
		{ "{", 1, "JSON text" },
	};
	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
		if (n >= kinds[i].n && !memcmp(b, kinds[i].magic, kinds[i].n) && (kinds[i].n > 2 || n < 8 || b[7]))
			return fail(FAILED, path, "looks like %s, expected safetensors", kinds[i].is);
	return OK;
}

/* What the header says of one tensor. */
typedef struct listed {
	char dtype[16]; /* longer ones are cut, and not known */
	int64_t shape[8], begin, end;
	int rank;
} listed;

static int check_entry(const st_file *f, const char *key, const listed *e, uint64_t data_bytes, st_tensor *t)
{
	uint64_t count = 1;
	for (size_t i = 0; i < N_DTYPES; i++)
		if (!strcmp(dtypes[i].name, e->dtype)) t->dtype = dtypes[i].dtype;
	uint64_t bits = t->dtype ? 8 * dtype_size(t->dtype) : foreign_bits(e->dtype);
	if (!bits) return fail(FAILED, f->path, "tensor \"%.80s\": dtype \"%s\" is not known here", key, e->dtype);
	snprintf(t->stored, sizeof t->stored, "%s", e->dtype);
	t->rank = e->rank;
	for (int i = 0; i < e->rank; i++) {
		t->shape[i] = e->shape[i];
		if (__builtin_mul_overflow(count, (uint64_t)t->shape[i], &count) || count > (UINT64_C(1) << 48))
			return fail(FAILED, f->path, "tensor \"%.80s\": too many elements", key);
	}
	if (e->end < e->begin) return fail(FAILED, f->path, "tensor \"%.80s\": bad data_offsets", key);
	if ((uint64_t)e->end > data_bytes)
		return fail(FAILED, f->path, "tensor \"%.80s\": runs past the end of the file (%lld of %llu bytes)", key,
			(long long)e->end, (unsigned long long)data_bytes);
	t->count = (int64_t)count;
	if (count * bits % 8) return fail(FAILED, f->path, "tensor \"%.80s\": shape and dtype do not make whole bytes", key);
	t->bytes = count * bits / 8;
	if ((uint64_t)(e->end - e->begin) != t->bytes)
		return fail(FAILED, f->path, "tensor \"%.80s\": shape and dtype make %llu bytes, data_offsets %lld", key,
			(unsigned long long)t->bytes, (long long)(e->end - e->begin));
	t->name = new_string(key);
	return t->name ? OK : FAILED;
}

static int read_entry(const st_file *f, const char *key, json_t *value, listed *e)
{
	json_t *dtype = json_object_get(value, "dtype"), *shape = json_object_get(value, "shape"),
		   *offsets = json_object_get(value, "data_offsets");
	if (!json_is_object(value) || !json_is_string(dtype) || !json_is_array(shape) || !json_is_array(offsets) ||
		json_array_size(offsets) != 2 || json_object_size(value) != 3)
		return fail(FAILED, f->path, "tensor \"%.80s\": needs dtype, shape and two data_offsets, and nothing else", key);
	snprintf(e->dtype, sizeof e->dtype, "%s", json_string_value(dtype));
	if (json_array_size(shape) > 8) return fail(FAILED, f->path, "tensor \"%.80s\": more than 8 dimensions", key);
	e->rank = (int)json_array_size(shape);
	for (int i = 0; i < e->rank; i++) {
		json_t *n = json_array_get(shape, (size_t)i);
		if (!json_is_integer(n) || json_integer_value(n) < 0) return fail(FAILED, f->path, "tensor \"%.80s\": bad shape", key);
		e->shape[i] = json_integer_value(n);
	}
	json_t *b = json_array_get(offsets, 0), *n = json_array_get(offsets, 1);
	if (!json_is_integer(b) || !json_is_integer(n) || json_integer_value(b) < 0 || json_integer_value(n) < 0)
		return fail(FAILED, f->path, "tensor \"%.80s\": bad data_offsets", key);
	e->begin = json_integer_value(b), e->end = json_integer_value(n);
	return OK;
}

typedef struct placed {
	uint64_t begin;
	st_tensor tensor;
} placed;

static int by_place(const void *a, const void *b)
{
	const placed *x = a, *y = b;
	if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
	if (x->tensor.bytes != y->tensor.bytes) return x->tensor.bytes < y->tensor.bytes ? -1 : 1; /* empty ones first */
	return strcmp(x->tensor.name, y->tensor.name);
}

/* Sort by place and see that the data section is filled without hole or overlap. */
static int lay_out(st_file *f, placed *list, size_t n, uint64_t data_bytes)
{
	uint64_t at = 0;
	size_t sorted = 1;
	while (sorted < n && by_place(&list[sorted - 1], &list[sorted]) <= 0) sorted++;
	if (sorted < n) qsort(list, n, sizeof *list, by_place);
	f->tensors = new_array(n, sizeof *f->tensors);
	if (!f->tensors) return FAILED;
	for (size_t i = 0; i < n; i++) f->tensors[i] = list[i].tensor;
	f->n = n;
	for (size_t i = 0; i < n; i++) {
		st_tensor *t = &f->tensors[i];
		if (list[i].begin < at && i)
			return fail(FAILED, f->path, "tensors \"%.60s\" and \"%.60s\" overlap", f->tensors[i - 1].name, t->name);
		if (list[i].begin != at) return fail(FAILED, f->path, "hole in the data before tensor \"%.80s\"", t->name);
		if (f->data) t->data = f->data + at;
		at += t->bytes;
	}
	if (at != data_bytes) return fail(FAILED, f->path, "%llu bytes after the last tensor", (unsigned long long)(data_bytes - at));
	return OK;
}

/* ---- the plain form ---- */

/* Headers as programs write them are read in one pass without a tree: one of 10 MB has 200,000 entries. Whatever is not of this form (names with
 * escapes or beyond ASCII, other members, errors) makes ok 0, and the header goes through the JSON library instead. */
typedef struct scan {
	const char *p, *end;
	int ok;
} scan;

static char peek(scan *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t' || *s->p == '\r')) s->p++;
	return s->p < s->end ? *s->p : 0;
}

static int next_is(scan *s, char c)
{
	if (peek(s) != c) return 0;
	s->p++;
	return 1;
}

static void expect(scan *s, char c) { s->ok &= next_is(s, c); }

/* A string without its quotes, not ended. */
static const char *scan_string(scan *s, size_t *n)
{
	expect(s, '"');
	const char *from = s->p;
	while (s->p < s->end && *s->p >= ' ' && *s->p < 127 && *s->p != '"' && *s->p != '\\') s->p++;
	*n = (size_t)(s->p - from);
	if (s->p == s->end || *s->p++ != '"') s->ok = 0;
	return from;
}

static int64_t scan_number(scan *s)
{
	int64_t v = 0;
	peek(s);
	const char *from = s->p;
	for (; s->p < s->end && *s->p >= '0' && *s->p <= '9' && s->p - from < 18; s->p++) v = v * 10 + (*s->p - '0');
	if (s->p == from || (*from == '0' && s->p - from > 1) || (s->p < s->end && *s->p >= '0' && *s->p <= '9')) s->ok = 0;
	return v;
}

static int scan_numbers(scan *s, int64_t *list, int most)
{
	int n = 0;
	expect(s, '[');
	if (next_is(s, ']')) return 0;
	do {
		if (n == most) s->ok = 0;
		else list[n++] = scan_number(s);
	} while (s->ok && next_is(s, ','));
	expect(s, ']');
	return n;
}

static void scan_entry(scan *s, listed *e)
{
	int seen = 0;
	int64_t place[2] = { 0 };
	expect(s, '{');
	do {
		size_t n;
		const char *member = scan_string(s, &n);
		int which = n == 5 && !memcmp(member, "dtype", n) ? 1 : n == 5 && !memcmp(member, "shape", n) ? 2 : n == 12 && !memcmp(member, "data_offsets", n) ? 4 : 0;
		expect(s, ':');
		if (!which || (seen & which)) s->ok = 0;
		else if (which == 1) {
			const char *type = scan_string(s, &n);
			snprintf(e->dtype, sizeof e->dtype, "%.*s", (int)(n < sizeof e->dtype ? n : sizeof e->dtype), type);
		} else if (which == 2) e->rank = scan_numbers(s, e->shape, 8);
		else if (scan_numbers(s, place, 2) != 2) s->ok = 0;
		seen |= which;
	} while (s->ok && next_is(s, ','));
	expect(s, '}');
	if (seen != 7) s->ok = 0;
	e->begin = place[0], e->end = place[1];
}

/* The value of __metadata__, to be parsed by the JSON library. */
static void scan_metadata(scan *s, json_t **out)
{
	json_error_t err;
	peek(s);
	json_t *v = json_loadb(s->p, (size_t)(s->end - s->p), JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &err);
	const char *key;
	json_t *text;
	if (!v || !json_is_object(v) || *out) s->ok = 0;
	json_object_foreach(v, key, text)
	{
		if (!json_is_string(text)) s->ok = 0;
	}
	if (s->ok) s->p += err.position, *out = v;
	else json_decref(v);
}

typedef struct entries {
	placed *list;
	size_t n, room;
} entries;

static int add_entry(const st_file *f, const char *key, const listed *e, uint64_t data_bytes, entries *to)
{
	if (to->n == to->room) {
		placed *more = grow(to->list, to->room = to->room ? 2 * to->room : 64, sizeof *more);
		if (!more) return FAILED;
		to->list = more;
	}
	placed *p = &to->list[to->n];
	memset(p, 0, sizeof *p);
	p->begin = (uint64_t)e->begin;
	int status = check_entry(f, key, e, data_bytes, &p->tensor);
	if (!status) to->n++;
	return status;
}

static int by_key(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static int no_twins(const st_file *f, const entries *e)
{
	const char **names = new_array(e->n, sizeof *names);
	int status = names ? OK : FAILED;
	for (size_t i = 0; names && i < e->n; i++) names[i] = e->list[i].tensor.name;
	size_t sorted = 1;
	while (names && sorted < e->n && strcmp(names[sorted - 1], names[sorted]) < 0) sorted++;
	if (names && sorted < e->n) qsort(names, e->n, sizeof *names, by_key);
	for (size_t i = sorted < e->n ? 1 : e->n; names && !status && i < e->n; i++)
		if (!strcmp(names[i - 1], names[i])) status = fail(FAILED, f->path, "header is not JSON: duplicate object key \"%.80s\"", names[i]);
	free(names);
	return status;
}

/* *plain: 0 when the header is not of the plain form, and nothing was said of it. */
static int scan_header(st_file *f, const char *header, size_t bytes, uint64_t data_bytes, entries *to, int *plain)
{
	scan s = { header, header + bytes, 1 };
	int status = OK;
	expect(&s, '{');
	if (!next_is(&s, '}')) {
		do {
			char name[512];
			listed e = { .rank = 0 };
			size_t n;
			const char *key = scan_string(&s, &n);
			expect(&s, ':');
			if (!s.ok || n >= sizeof name) s.ok = 0;
			else if (n == 12 && !memcmp(key, "__metadata__", n)) scan_metadata(&s, &f->metadata);
			else if (scan_entry(&s, &e), s.ok) {
				memcpy(name, key, n), name[n] = 0;
				status = add_entry(f, name, &e, data_bytes, to);
			}
		} while (s.ok && !status && next_is(&s, ','));
		expect(&s, '}');
	}
	*plain = status || (s.ok && (peek(&s), s.p == s.end));
	return status || !*plain ? status : no_twins(f, to);
}

/* ---- any form ---- */

static int parse_header(st_file *f, const char *header, size_t bytes, uint64_t data_bytes, entries *to)
{
	json_error_t err;
	const char *key;
	json_t *value, *root;
	int status = OK;

	root = json_loadb(header, bytes, JSON_REJECT_DUPLICATES, &err);
	if (!root) return fail(FAILED, f->path, "header is not JSON: %s (column %d)", err.text, err.column);
	if (!json_is_object(root)) status = fail(FAILED, f->path, "header is not a JSON object");
	json_object_foreach(root, key, value)
	{
		listed e = { .rank = 0 };
		if (status) break;
		if (strcmp(key, "__metadata__")) {
			status = read_entry(f, key, value, &e);
			if (!status) status = add_entry(f, key, &e, data_bytes, to);
			continue;
		}
		const char *k;
		json_t *v;
		if (!json_is_object(value)) status = fail(FAILED, f->path, "__metadata__ is not an object");
		json_object_foreach(value, k, v)
		{
			if (!status && !json_is_string(v)) status = fail(FAILED, f->path, "__metadata__ \"%.60s\" is not a string", k);
		}
		if (!status) f->metadata = json_incref(value);
	}
	json_decref(root);
	return status;
}

static void forget(entries *e)
{
	for (size_t i = 0; i < e->n; i++) free(e->list[i].tensor.name);
	e->n = 0;
}

static int read_header(st_file *f, const char *header, size_t bytes, uint64_t data_bytes)
{
	entries all = { NULL, 0, 0 };
	int plain, status = scan_header(f, header, bytes, data_bytes, &all, &plain);
	if (!plain) {
		forget(&all);
		json_decref(f->metadata);
		f->metadata = NULL;
		status = parse_header(f, header, bytes, data_bytes, &all);
	}
	if (!status) {
		status = lay_out(f, all.list, all.n, data_bytes);
		if (f->tensors) all.n = 0; /* the names moved */
	}
	forget(&all);
	free(all.list);
	return status;
}

int st_read(const char *path, int header_only, st_file *out)
{
	struct stat s;
	FILE *f = NULL;
	char *header = NULL;
	unsigned char head[24];
	uint64_t size, n = 0;
	int status = FAILED;

	memset(out, 0, sizeof *out);
	out->path = new_string(path);
	if (!out->path) return FAILED;
	if (stat(path, &s)) return fail_system(path, "cannot open");
	if (!S_ISREG(s.st_mode))
		return fail(FAILED, path, S_ISDIR(s.st_mode) ? "is a directory, expected a file" : "is not a regular file");
	f = fopen(path, "rbe");
	if (!f) return fail_system(path, "cannot open");
	size = (uint64_t)s.st_size;
	size_t got = fread(head, 1, sizeof head, f);
	if (wrong_magic(path, (const char *)head, got)) goto done;
	if (size < 8 || got < 8) {
		fail(FAILED, path, "%llu bytes are too few for a safetensors file", (unsigned long long)size);
		goto done;
	}
	for (int i = 0; i < 8; i++) n |= (uint64_t)head[i] << 8 * i;
	if (n > MAX_HEADER || n > size - 8) {
		fail(FAILED, path, n > size - 8 ? "header of %llu bytes runs past the end of the file; is this a safetensors file?" : "header of %llu bytes, the limit is 100000000",
			(unsigned long long)n);
		goto done;
	}
	header = new_bytes((size_t)n + 1);
	if (!header) goto done;
	if (fseek(f, 8, SEEK_SET) || fread(header, 1, (size_t)n, f) != n) {
		fail(FAILED, path, "cannot read the header");
		goto done;
	}
	if (!n) {
		fail(FAILED, path, "empty header");
		goto done;
	}
	if (!header_only) {
		out->data = new_bytes((size_t)(size - 8 - n));
		if (!out->data) goto done;
		if (fread(out->data, 1, (size_t)(size - 8 - n), f) != size - 8 - n) {
			fail(FAILED, path, "cannot read the data");
			goto done;
		}
	}
	status = read_header(out, header, (size_t)n, size - 8 - n);
done:
	free(header);
	fclose(f);
	return status;
}

void st_free(st_file *f)
{
	for (size_t i = 0; i < f->n; i++) free(f->tensors[i].name);
	free(f->tensors);
	free(f->data);
	free(f->path);
	json_decref(f->metadata);
	memset(f, 0, sizeof *f);
}

const st_tensor *st_find(const st_file *f, const char *name)
{
	for (size_t i = 0; i < f->n; i++)
		if (!strcmp(f->tensors[i].name, name)) return &f->tensors[i];
	return NULL;
}

/* Element i as int64; 0 when it does not fit or the type is not an integer. Little-endian bytes, unaligned. */
static int integer_at(const st_tensor *t, int64_t i, int64_t *out)
{
	size_t size = dtype_size(t->dtype);
	uint64_t v = 0;
	const unsigned char *p = (const unsigned char *)t->data + (size_t)i * size;
	for (size_t b = 0; b < size; b++) v |= (uint64_t)p[b] << 8 * b;
	switch (t->dtype) {
	case LORA_I64: *out = (int64_t)v; return 1;
	case LORA_I32: *out = (int32_t)(uint32_t)v; return 1;
	case LORA_I16: *out = (int16_t)(uint16_t)v; return 1;
	case LORA_I8: *out = (int8_t)(uint8_t)v; return 1;
	case LORA_U64: *out = (int64_t)v; return v <= INT64_MAX;
	case LORA_U32:
	case LORA_U16:
	case LORA_U8:
	case LORA_BOOL: *out = (int64_t)v; return 1;
	default: return 0;
	}
}

int st_int32(const st_file *f, const st_tensor *t, int32_t **out)
{
	if (t->dtype == LORA_DTYPE_NONE || t->dtype == LORA_F32 || t->dtype == LORA_F16 || t->dtype == LORA_BF16 ||
		t->dtype == LORA_F64)
		return fail(FAILED, f->path, "tensor \"%.80s\": is %s, expected I32 or I64", t->name, dtype_name(t->dtype));
	int32_t *values = new_array((size_t)t->count, sizeof *values);
	if (!values) return FAILED;
	for (int64_t i = 0; i < t->count; i++) {
		int64_t v;
		if (!integer_at(t, i, &v) || v < INT32_MIN || v > INT32_MAX) {
			free(values);
			return fail(FAILED, f->path, "tensor \"%.80s\": element %lld is out of range", t->name, (long long)i);
		}
		values[i] = (int32_t)v;
	}
	*out = values;
	return OK;
}

static json_t *header_entry(const st_tensor *t, uint64_t *at)
{
	json_t *shape = json_array();
	for (int i = 0; i < t->rank; i++) json_array_append_new(shape, json_integer(t->shape[i]));
	json_t *entry = json_pack("{s:s, s:o, s:[I,I]}", "dtype", dtype_name(t->dtype), "shape", shape, "data_offsets",
		(json_int_t)*at, (json_int_t)(*at + t->bytes));
	*at += t->bytes;
	return entry;
}

/* Data is written as it lies in memory: this program runs on little-endian machines, as its library does. */
int st_write(const char *path, const st_tensor *tensors, size_t n, const char *key, const char *value)
{
	outfile o;
	uint64_t at = 0;
	json_t *root = json_object();
	char *header = NULL;
	int status = FAILED;

	if (key) json_object_set_new(root, "__metadata__", json_pack("{s:s}", key, value));
	for (size_t i = 0; i < n; i++)
		if (json_object_set_new(root, tensors[i].name, header_entry(&tensors[i], &at))) {
			json_decref(root);
			return fail(FAILED, path, "cannot name a tensor \"%.80s\"", tensors[i].name);
		}
	header = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	if (!header) return fail_memory();
	if (outfile_open(&o, path)) goto done;
	uint64_t length = strlen(header), padded = (length + 7) / 8 * 8;
	unsigned char head[8];
	for (int i = 0; i < 8; i++) head[i] = (unsigned char)(padded >> 8 * i);
	int bad = fwrite(head, 1, 8, o.f) != 8 || fwrite(header, 1, (size_t)length, o.f) != length;
	for (uint64_t i = length; i < padded; i++) bad |= fputc(' ', o.f) == EOF;
	for (size_t i = 0; i < n && !bad; i++)
		bad = tensors[i].bytes && fwrite(tensors[i].data, 1, (size_t)tensors[i].bytes, o.f) != tensors[i].bytes;
	if (bad) {
		fail_system(path, "cannot write");
		outfile_abort(&o);
		goto done;
	}
	status = outfile_commit(&o);
done:
	free(header);
	return status;
}
