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

/* One entry of the header. data_bytes is the size of the data section. */
static int parse_tensor(const st_file *f, const char *key, json_t *value, uint64_t data_bytes, uint64_t *begin, st_tensor *t)
{
	json_t *dtype = json_object_get(value, "dtype"), *shape = json_object_get(value, "shape"),
		   *offsets = json_object_get(value, "data_offsets");
	uint64_t count = 1, end;
	size_t i;

	if (!json_is_object(value) || !json_is_string(dtype) || !json_is_array(shape) || !json_is_array(offsets) ||
		json_array_size(offsets) != 2 || json_object_size(value) != 3)
		return fail(FAILED, f->path, "tensor \"%.80s\": needs dtype, shape and two data_offsets, and nothing else", key);
	for (i = 0; i < N_DTYPES; i++)
		if (!strcmp(dtypes[i].name, json_string_value(dtype))) t->dtype = dtypes[i].dtype;
	uint64_t bits = t->dtype ? 8 * dtype_size(t->dtype) : foreign_bits(json_string_value(dtype));
	if (!bits)
		return fail(FAILED, f->path, "tensor \"%.80s\": dtype \"%.20s\" is not known here", key, json_string_value(dtype));
	snprintf(t->stored, sizeof t->stored, "%s", json_string_value(dtype));
	if (json_array_size(shape) > 8) return fail(FAILED, f->path, "tensor \"%.80s\": more than 8 dimensions", key);
	t->rank = (int)json_array_size(shape);
	for (i = 0; i < (size_t)t->rank; i++) {
		json_t *n = json_array_get(shape, i);
		if (!json_is_integer(n) || json_integer_value(n) < 0) return fail(FAILED, f->path, "tensor \"%.80s\": bad shape", key);
		t->shape[i] = json_integer_value(n);
		if (__builtin_mul_overflow(count, (uint64_t)t->shape[i], &count) || count > (UINT64_C(1) << 48))
			return fail(FAILED, f->path, "tensor \"%.80s\": too many elements", key);
	}
	json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
	if (!json_is_integer(b) || !json_is_integer(e) || json_integer_value(b) < 0 || json_integer_value(e) < json_integer_value(b))
		return fail(FAILED, f->path, "tensor \"%.80s\": bad data_offsets", key);
	*begin = (uint64_t)json_integer_value(b);
	end = (uint64_t)json_integer_value(e);
	if (end > data_bytes)
		return fail(FAILED, f->path, "tensor \"%.80s\": runs past the end of the file (%llu of %llu bytes)", key,
			(unsigned long long)end, (unsigned long long)data_bytes);
	t->count = (int64_t)count;
	if (count * bits % 8) return fail(FAILED, f->path, "tensor \"%.80s\": shape and dtype do not make whole bytes", key);
	t->bytes = count * bits / 8;
	if (end - *begin != t->bytes)
		return fail(FAILED, f->path, "tensor \"%.80s\": shape and dtype make %llu bytes, data_offsets %llu", key,
			(unsigned long long)t->bytes, (unsigned long long)(end - *begin));
	t->name = new_string(key);
	return t->name ? OK : FAILED;
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
	if (n) qsort(list, n, sizeof *list, by_place);
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

static int parse_header(st_file *f, const char *header, size_t bytes, uint64_t data_bytes)
{
	json_error_t err;
	placed *list = NULL;
	size_t n = 0;
	const char *key;
	json_t *value, *root;
	int status = FAILED;

	root = json_loadb(header, bytes, JSON_REJECT_DUPLICATES, &err);
	if (!root) return fail(FAILED, f->path, "header is not JSON: %s (column %d)", err.text, err.column);
	if (!json_is_object(root)) {
		fail(FAILED, f->path, "header is not a JSON object");
		goto done;
	}
	list = new_array(json_object_size(root), sizeof *list);
	if (!list) goto done;
	json_object_foreach(root, key, value)
	{
		if (!strcmp(key, "__metadata__")) {
			const char *k;
			json_t *v;
			if (!json_is_object(value)) {
				fail(FAILED, f->path, "__metadata__ is not an object");
				goto done;
			}
			json_object_foreach(value, k, v)
			{
				if (!json_is_string(v)) {
					fail(FAILED, f->path, "__metadata__ \"%.60s\" is not a string", k);
					goto done;
				}
			}
			f->metadata = json_incref(value);
			continue;
		}
		if (parse_tensor(f, key, value, data_bytes, &list[n].begin, &list[n].tensor)) goto done;
		n++;
	}
	status = lay_out(f, list, n, data_bytes);
	n = f->tensors ? 0 : n; /* the names moved */
done:
	for (size_t i = 0; list && i < n; i++) free(list[i].tensor.name);
	free(list);
	json_decref(root);
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
	status = parse_header(out, header, (size_t)n, size - 8 - n);
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
