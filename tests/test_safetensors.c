/* safetensors, reading: every row S01 to S42 of the bad-input table (status and message), bounds on memory and time, every cut, every changed
 * byte. Writing and shards are in test_safetensors_write.c. */
#include <check.h>
#include <stdarg.h>

#include "room.h"
#include "stimage.h"
#include "format/safetensors_type.h"

/* Open an image that must fail so; text must be in the message, and so must the file's name. */
static void refused(const char *id, image f, lora_status status, const char *text)
{
	lora__tensors t;
	uint64_t      now, after;
	lora_context_memory(ctx, &now, NULL);
	lora_status st = lora__safetensors_open_memory(ctx, f.bytes, f.n, "in.safetensors", &t);
	const char *said = lora_context_last_error(ctx);
	ck_assert_msg(st == status, "%s: %s (%s), wanted %s", id, lora_status_name(st), said, lora_status_name(status));
	ck_assert_msg(strstr(said, text) && strstr(said, "in.safetensors"), "%s: message \"%s\" lacks \"%s\"", id, said, text);
	ck_assert_msg(t.n == 0 && t.list == NULL, "%s: tensors handed out", id);
	lora_context_memory(ctx, &after, NULL);
	ck_assert_msg(now == after, "%s: memory is held after the failure", id);
	lora__tensors_close(&t);
	free(f.bytes);
}

static lora__tensors accepted(const char *id, image f)
{
	lora__tensors t;
	lora_status   st = lora__safetensors_open_memory(ctx, f.bytes, f.n, "in.safetensors", &t);
	ck_assert_msg(st == LORA_OK, "%s: %s", id, lora_context_last_error(ctx));
	return t;
}

static void accepted_n(const char *id, image f, size_t n)
{
	lora__tensors t = accepted(id, f);
	ck_assert_msg(t.n == n, "%s: %zu tensors, wanted %zu", id, t.n, n);
	lora__tensors_close(&t);
	free(f.bytes);
}

#define T(dtype, shape, offsets) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define A4 "{\"a\":" T("U8", "[4]", "[0,4]") "}"
#define SHAPED(shape) "{\"a\":" T("U8", shape, "[0,4]") "}"
#define OFFSET(offsets) "{\"a\":" T("U8", "[4]", offsets) "}"

static const struct row { const char *id, *header; size_t data_n; lora_status status; const char *text; } rows[] = {
	{ "S03", "", 0, LORA_E_FORMAT, "empty header" },
	{ "S07a", "{\"\xff\":1}", 0, LORA_E_FORMAT, "header is not UTF-8 (byte 10)" },
	{ "S07b overlong", "{\"\xc0\xaf\":1}", 0, LORA_E_FORMAT, "not UTF-8 (byte 10)" },
	{ "S07c surrogate", "{\"\xed\xa0\x80\":1}", 0, LORA_E_FORMAT, "not UTF-8 (byte 10)" },
	{ "S08a", "{", 0, LORA_E_FORMAT, "ends inside its object" },
	{ "S08b", "[]", 0, LORA_E_FORMAT, "not a JSON object" },
	{ "S08c", "null", 0, LORA_E_FORMAT, "not a JSON object" },
	{ "S08d", "{}{}", 0, LORA_E_FORMAT, "something follows the header's object (byte 10)" },
	{ "S08e", "   ", 0, LORA_E_FORMAT, "not a JSON object" },
	{ "S08f", "{\"a\"", 0, LORA_E_FORMAT, "':' was expected" },
	{ "S08g", "{\"a", 0, LORA_E_FORMAT, "header at byte 9" },
	{ "S08h", "{\"a\":" T("U8", "[4]", "[0,4]"), 4, LORA_E_FORMAT, "ends inside its object" },
	{ "S08i", "{\"a\":" T("U8", "[4]", "[0,4]") ",}", 4, LORA_E_FORMAT, "a name in quotes was expected" },
	{ "S08j", "{,}", 0, LORA_E_FORMAT, "a name in quotes was expected" },
	{ "S08k", "{1:2}", 0, LORA_E_FORMAT, "a name in quotes was expected" },
	{ "S08l", "{\"a\":" T("U8", "[4]", "[0,4]") " \"b\":1}", 4, LORA_E_FORMAT, "',' or '}' was expected" },
	{ "S08m", "{\"a\":{\"dtype\":\"U8\"", 4, LORA_E_FORMAT, "'a': its entry in the header does not end" },
	{ "S08n", "{\"a\":7}", 4, LORA_E_FORMAT, "'a': its entry in the header is not an object" },
	{ "S08o", "{\"a\\x\":7}", 4, LORA_E_FORMAT, "invalid escape" },
	{ "S08p", "{\"a\":{]}", 4, LORA_E_FORMAT, "header at byte 13" },
	{ "S10", "{\"a\":" T("U8", "[2]", "[0,2]") ",\"a\":" T("U8", "[2]", "[2,4]") "}", 4, LORA_E_FORMAT, "duplicate key 'a'" },
	{ "S11", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"shape\":[4],\"data_offsets\":[0,4]}}", 4, LORA_E_FORMAT, "duplicate object key" },
	{ "S12", "{\"a\":" T("U8", "[2]", "[0,2]") ",\"\\u0061\":" T("U8", "[2]", "[2,4]") "}", 4, LORA_E_FORMAT, "duplicate key 'a'" },
	{ "S13a", "{\"a\":{\"shape\":[4],\"data_offsets\":[0,4]}}", 4, LORA_E_FORMAT, "'a': no field 'dtype'" },
	{ "S13b", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", 4, LORA_E_FORMAT, "'a': no field 'shape'" },
	{ "S13c", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4, LORA_E_FORMAT, "'a': no field 'data_offsets'" },
	{ "S14", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4],\"strides\":[1]}}", 4, LORA_E_FORMAT, "'a': unknown field 'strides'" },
	{ "S15a", "{\"a\":" T("F17", "[4]", "[0,4]") "}", 4, LORA_E_UNSUPPORTED, "'a': unknown dtype 'F17'" },
	{ "S15b", "{\"a\":{\"dtype\":7,\"shape\":[4],\"data_offsets\":[0,4]}}", 4, LORA_E_FORMAT, "'a': dtype is not a string" },
	{ "S15c", "{\"a\":" T("u8", "[4]", "[0,4]") "}", 4, LORA_E_UNSUPPORTED, "unknown dtype 'u8'" },
	{ "S16a", SHAPED("[-4]"), 4, LORA_E_FORMAT, "'a': shape holds something" },
	{ "S16b", SHAPED("[4.0]"), 4, LORA_E_FORMAT, "'a': shape holds something" },
	{ "S16c", SHAPED("[4e0]"), 4, LORA_E_FORMAT, "'a': shape holds something" },
	{ "S16d", SHAPED("[\"4\"]"), 4, LORA_E_FORMAT, "'a': shape holds something" },
	{ "S16e", SHAPED("[null]"), 4, LORA_E_FORMAT, "'a': shape holds something" },
	{ "S16f", SHAPED("4"), 4, LORA_E_FORMAT, "'a': shape is not an array" },
	{ "S16g", SHAPED("[18446744073709551616]"), 4, LORA_E_FORMAT, "too big integer" },
	{ "S16h", SHAPED("[04]"), 4, LORA_E_FORMAT, "header at byte" },
	{ "S17", "{\"a\":" T("U8", "[4294967296,4294967296]", "[0,0]") "}", 0, LORA_E_LIMIT, "'a': shape is too large" },
	{ "S18", "{\"a\":" T("F32", "[2,9223372036854775807]", "[0,8]") "}", 8, LORA_E_LIMIT, "'a': shape is too large" },
	{ "S19", SHAPED("[1,1,1,1,1,1,1,1,4]"), 4, LORA_E_LIMIT, "'a': shape has more than 8 dimensions" },
	{ "S20a", OFFSET("[]"), 4, LORA_E_FORMAT, "'a': data_offsets is not an array of two numbers" },
	{ "S20b", OFFSET("[0]"), 4, LORA_E_FORMAT, "not an array of two numbers" },
	{ "S20c", OFFSET("[0,4,8]"), 4, LORA_E_FORMAT, "not an array of two numbers" },
	{ "S20d", OFFSET("{\"0\":0}"), 4, LORA_E_FORMAT, "not an array of two numbers" },
	{ "S20e", OFFSET("[-1,3]"), 4, LORA_E_FORMAT, "'a': data_offsets holds something" },
	{ "S20f", OFFSET("[0,4.0]"), 4, LORA_E_FORMAT, "'a': data_offsets holds something" },
	{ "S21", OFFSET("[4,0]"), 4, LORA_E_FORMAT, "'a': data_offsets begin after their end" },
	{ "S22", OFFSET("[1,5]"), 4, LORA_E_FORMAT, "'a': data runs past end of file (to byte 5 of a data section of 4)" },
	{ "S23a", SHAPED("[5]"), 4, LORA_E_FORMAT, "'a': shape and dtype make 5 bytes, data_offsets 4" },
	{ "S23b", SHAPED("[3]"), 4, LORA_E_FORMAT, "'a': shape and dtype make 3 bytes, data_offsets 4" },
	{ "S24a", "{\"a\":" T("U8", "[4]", "[0,4]") ",\"b\":" T("U8", "[4]", "[2,6]") "}", 8, LORA_E_FORMAT, "tensors 'a' and 'b' overlap" },
	{ "S24b", "{\"b\":" T("U8", "[2]", "[1,3]") ",\"a\":" T("U8", "[4]", "[0,4]") "}", 4, LORA_E_FORMAT, "tensors 'a' and 'b' overlap" },
	{ "S24c empty inside", "{\"a\":" T("U8", "[4]", "[0,4]") ",\"b\":" T("U8", "[0]", "[2,2]") "}", 4, LORA_E_FORMAT, "tensors 'a' and 'b' overlap" },
	{ "S25a", "{\"a\":" T("U8", "[2]", "[0,2]") ",\"b\":" T("U8", "[2]", "[3,5]") "}", 5, LORA_E_FORMAT, "hole of 1 bytes before tensor 'b'" },
	{ "S25b", OFFSET("[1,5]"), 5, LORA_E_FORMAT, "hole of 1 bytes before tensor 'a'" },
	{ "S26", A4, 9, LORA_E_FORMAT, "5 bytes after the last tensor" },
	{ "S26b", "{}", 1, LORA_E_FORMAT, "1 bytes after the last tensor" },
	{ "S27", A4, 2, LORA_E_FORMAT, "'a': data runs past end of file" },
	{ "S31a", "{\"__metadata__\":{\"k\":1}}", 0, LORA_E_FORMAT, "the value of 'k' is not a string" },
	{ "S31b", "{\"__metadata__\":{\"k\":{}}}", 0, LORA_E_FORMAT, "a value that is not a string" },
	{ "S31c", "{\"__metadata__\":[]}", 0, LORA_E_FORMAT, "not an object of strings" },
	{ "S31d", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, LORA_E_FORMAT, "duplicate key '__metadata__'" },
	{ "S31e", "{\"__metadata__\":{\"k\":\"a\",\"k\":\"b\"}}", 0, LORA_E_FORMAT, "duplicate object key" },
	{ "S31f", "{\"__metadata__\":{\"k\":null}}", 0, LORA_E_FORMAT, "the value of 'k' is not a string" },
	{ "S31g", "{\"__metadata__\":{\"k\":\"v\"", 0, LORA_E_FORMAT, "__metadata__ does not end" },
	{ "S33a NUL", "{\"a\\u0000b\":" T("U8", "[4]", "[0,4]") "}", 4, LORA_E_LIMIT, "a name with a NUL character" },
	{ "S33b raw newline", "{\"a\nb\":" T("U8", "[4]", "[0,4]") "}", 4, LORA_E_FORMAT, "unexpected newline" },
	{ "S35a", "{\"a\":" T("F4", "[3]", "[0,2]") "}", 2, LORA_E_FORMAT, "'a': shape and dtype do not make whole bytes" },
	{ "S35b", "{\"a\":" T("F6_E2M3", "[3]", "[0,3]") "}", 3, LORA_E_FORMAT, "whole bytes" },
	{ "S36a", SHAPED("[1e999]"), 4, LORA_E_FORMAT, "real number overflow" },
	{ "S22 huge", OFFSET("[9223372036854775803,9223372036854775807]"), 4, LORA_E_FORMAT, "runs past end of file" },
};

START_TEST(refused_headers)
{
	const struct row *r = &rows[_i];
	refused(r->id, make(r->header, r->data_n), r->status, r->text);
}
END_TEST

static const struct good { const char *id, *header; size_t data_n, n; } goods[] = {
	{ "empty set", "{}", 0, 0 },
	{ "S09a", A4 "   ", 4, 1 },
	{ "S09b", "\t\n \r" A4 "\n\t", 4, 1 },
	{ "S29", "{\"a\":" T("F32", "[2,0]", "[0,0]") ",\"b\":" T("U8", "[4]", "[0,4]") ",\"c\":" T("F64", "[0]", "[4,4]") "}", 4, 3 },
	{ "S30", "{\"a\":" T("F32", "[]", "[0,4]") "}", 4, 1 },
	{ "S33c", "{\"\":" T("U8", "[1]", "[0,1]") ",\"../x\":" T("U8", "[1]", "[1,2]") ",\"\\n\":" T("U8", "[1]", "[2,3]") ",\"\xe2\x80\x8f\":" T("U8", "[1]", "[3,4]") "}", 4, 4 },
	{ "S33d backslash", "{\"a\\\\u0000\":" T("U8", "[4]", "[0,4]") "}", 4, 1 },
	{ "S34", "{\"a\":" T("U8", "[1]", "[0,1]") ",\"b\":" T("F64", "[1]", "[1,9]") "}", 9, 2 },
	{ "S35c", "{\"a\":" T("F4", "[2,3]", "[0,3]") ",\"b\":" T("F6_E3M2", "[4]", "[3,6]") "}", 6, 2 },
	{ "rank 8", "{\"a\":" T("U8", "[1,1,1,1,1,1,1,4]", "[0,4]") "}", 4, 1 },
	{ "order of fields and white space", "{ \"a\" : { \"data_offsets\" : [ 0 , 4 ] , \"shape\" : [ 4 ] ,\n\"dtype\" : \"U8\" } }", 4, 1 },
	{ "out of order", "{\"a\":" T("U8", "[2]", "[2,4]") ",\"b\":" T("U8", "[2]", "[0,2]") "}", 4, 2 },
	{ "metadata", "{\"a\":" T("U8", "[4]", "[0,4]") ",\"__metadata__\":{\"k\":\"{,\\\"[\"}}", 4, 1 },
	{ "zero beside 2^62", "{\"a\":" T("U8", "[0,4611686018427387904]", "[0,0]") "}", 0, 1 },
};

START_TEST(accepted_headers) { accepted_n(goods[_i].id, make(goods[_i].header, goods[_i].data_n), goods[_i].n); }
END_TEST

static image raw(const void *bytes, size_t n)
{
	image f = { malloc(n ? n : 1), n };
	memcpy(f.bytes, bytes, n);
	return f;
}

START_TEST(S01_S02_short)
{
	refused("S01", raw("", 0), LORA_E_FORMAT, "shorter than the 8-byte length");
	for (size_t n = 1; n < 8; n++) refused("S02", raw("\2\0\0\0\0\0\0\0", n), LORA_E_FORMAT, "shorter than the 8-byte length");
}
END_TEST

START_TEST(S04_S05_S06_length)
{
	uint64_t before, peak;
	lora_context_memory(ctx, &before, NULL);
	refused("S04", raw("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), LORA_E_LIMIT, "header of 18446744073709551615 bytes, the limit is 100000000");
	refused("S04b", raw("\xf9\xff\xff\xff\xff\xff\xff\xff{}", 10), LORA_E_LIMIT, "the limit is");
	refused("S05", raw("\x01\xe1\xf5\x05\0\0\0\0{}", 10), LORA_E_LIMIT, "header of 100000001 bytes, the limit is 100000000");
	refused("S06", raw("\x03\0\0\0\0\0\0\0{}", 10), LORA_E_FORMAT, "header runs past end of file");
	refused("S06b", raw("\0\xe1\xf5\x05\0\0\0\0{}", 10), LORA_E_FORMAT, "header runs past end of file");
	lora_context_memory(ctx, NULL, &peak);
	ck_assert_msg(peak <= before + 1024, "memory was taken for a length alone");
}
END_TEST

START_TEST(limits_of_the_context)
{
	ctx->limits.header_bytes = 20;
	refused("header limit", make(A4, 4), LORA_E_LIMIT, "the limit is 20");
	ctx->limits.header_bytes = 1000;
	ctx->limits.tensors = 1;
	accepted_n("tensor limit", make(A4, 4), 1);
	refused("tensor limit", make("{\"a\":" T("U8", "[2]", "[0,2]") ",\"b\":" T("U8", "[2]", "[2,4]") "}", 4), LORA_E_LIMIT, "the limit is 1 (max_tensors)");
}
END_TEST

START_TEST(nul_bytes_are_refused)
{
	refused("NUL in white space", make_n("{}\0", 3, 0), LORA_E_FORMAT, "NUL byte (byte 10)");
	refused("NUL in an entry", make_n("{\"a\":{\0}}", 9, 0), LORA_E_FORMAT, "NUL byte (byte 14)");
}
END_TEST

/* --- memory and time --- */

typedef struct builder { char *text; size_t n, cap; } builder;
static void add(builder *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(builder *b, const char *format, ...)
{
	va_list args;
	if (b->cap - b->n < 256) b->text = realloc(b->text, b->cap = b->cap * 2 + 4096);
	va_start(args, format);
	b->n += (size_t)vsnprintf(b->text + b->n, b->cap - b->n, format, args);
	va_end(args);
}

/* Peak memory of a read from the heap, with the bound of the table: 4 times the input and 1 MiB. */
static lora_status bounded(const char *id, builder *b, size_t data_n, size_t *n)
{
	lora__tensors        t;
	image                f = make_n(b->text, b->n, data_n);
	lora_context        *own = NULL;
	lora_context_options o;
	uint64_t             peak, before;
	const char          *path = scratch_path(&room, "big");
	scratch_write(path, f.bytes, f.n);
	lora_context_options_init(&o, sizeof o);
	o.backend = "naive";
	ck_assert_int_eq(lora_context_create(LORA_ABI, &o, &own), LORA_OK);
	lora_context_memory(own, &before, NULL);
	double      start = lora__now();
	lora_status st = lora__safetensors_read(own, path, &t);
	double      seconds = lora__now() - start;
	lora_context_memory(own, NULL, &peak);
	ck_assert_msg(peak - before <= 4 * (uint64_t)f.n + (1 << 20), "%s: %llu bytes of memory for %zu of input", id, (unsigned long long)(peak - before), f.n);
	ck_assert_msg(seconds < 30, "%s: %.1f s", id, seconds); /* quadratic work on these sizes takes hours */
	if (n) *n = st ? 0 : t.n;
	ck_assert_msg(st == LORA_OK || strlen(lora_context_last_error(own)) > 10, "%s: no message", id);
	lora__tensors_close(&t);
	lora_context_destroy(own);
	free(f.bytes);
	free(b->text);
	*b = (builder){ 0 };
	return st;
}

START_TEST(S28_flood_of_overlaps)
{
	builder b = { 0 };
	size_t  n = 160000;
	for (size_t i = 0; i < n; i++) add(&b, "%c\"t%zu\":" T("F32", "[2,2]", "[0,16]"), i ? ',' : '{', i);
	add(&b, "}");
	ck_assert_int_eq(bounded("S28", &b, 16, NULL), LORA_E_FORMAT);
	/* the same with room enough that only the whole list shows it */
	for (size_t i = 0; i < n; i++) add(&b, "%c\"t%zu\":" T("U8", "[1]", "[0,1]"), i ? ',' : '{', i);
	add(&b, "}");
	ck_assert_int_eq(bounded("S28 late", &b, n, NULL), LORA_E_FORMAT);
}
END_TEST

START_TEST(many_tensors_in_bounded_memory)
{
	builder b = { 0 };
	size_t  n = 100000, got;
	for (size_t i = 0; i < n; i++) add(&b, "%c\"%zx\":" T("U8", "[]", "[%zu,%zu]"), i ? ',' : '{', i * 7919 % n, i, i + 1);
	add(&b, "}");
	ck_assert_int_eq(bounded("many", &b, n, &got), LORA_OK);
	ck_assert_uint_eq(got, n);
	for (size_t i = 0; i < n; i++) add(&b, "%c\"%zx\":" T("U8", "[]", "[%zu,%zu]"), i ? ',' : '{', i, i * 7919 % n, i * 7919 % n + 1);
	add(&b, "}");
	ck_assert_int_eq(bounded("many, shuffled data", &b, n, &got), LORA_OK);
	for (size_t i = 0; i < 3000000; i++) add(&b, "%c", i ? ',' : '{');
	ck_assert_int_eq(bounded("commas", &b, 0, NULL), LORA_E_FORMAT);
}
END_TEST

START_TEST(S32_large_metadata)
{
	builder b = { 0 };
	add(&b, "{\"__metadata__\":");
	for (size_t i = 0; i < 200000; i++) add(&b, "%c\"k%zu\":\"\"", i ? ',' : '{', i);
	add(&b, "}}");
	ck_assert_int_eq(bounded("S32 entries", &b, 0, NULL), LORA_E_LIMIT);
	add(&b, "{\"__metadata__\":{\"k\":\"");
	for (size_t i = 0; i < 200000; i++) add(&b, "%0100d", 0);
	add(&b, "\"}}");
	ck_assert_int_eq(bounded("S32 string", &b, 0, NULL), LORA_E_LIMIT);
	add(&b, "{\"__metadata__\":");
	for (size_t i = 0; i < 4096; i++) add(&b, "%c\"k%zu\":\"v\"", i ? ',' : '{', i);
	add(&b, "}}");
	ck_assert_int_eq(bounded("S32 within", &b, 0, NULL), LORA_OK);
}
END_TEST

START_TEST(S33_long_name)
{
	builder b = { 0 };
	add(&b, "{\"");
	for (size_t i = 0; i < 10000; i++) add(&b, "%0100d", 7);
	add(&b, "\":" T("U8", "[0]", "[0,0]") "}");
	ck_assert_int_eq(bounded("S33 1 MB", &b, 0, NULL), LORA_OK);
	/* and in a message it is cut and escaped */
	refused("S33 escaped", make("{\"evil\\u001b[31m\\u202e\\n\":7}", 0), LORA_E_FORMAT, "'evil\\x1b[31m\\xe2\\x80\\xae\\x0a'");
}
END_TEST

START_TEST(S19_S36_deep_and_long)
{
	builder b = { 0 };
	add(&b, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1");
	for (int i = 0; i < 999; i++) add(&b, ",1");
	add(&b, "],\"data_offsets\":[0,1]}}");
	ck_assert_int_eq(bounded("S19", &b, 1, NULL), LORA_E_LIMIT);
	static const char *const parts[] = { "[", "{\"a\":", "{\"a\":[" };
	for (int k = 0; k < 3; k++) {
		add(&b, "{\"a\":");
		for (int i = 0; i < 100000; i++) add(&b, "%s", parts[k]);
		lora_status st = bounded("S36 nesting", &b, 0, NULL);
		ck_assert(st == LORA_E_LIMIT || st == LORA_E_FORMAT);
	}
	add(&b, "{\"__metadata__\":");
	for (int i = 0; i < 100000; i++) add(&b, "{\"a\":");
	ck_assert_int_eq(bounded("S36 metadata", &b, 0, NULL), LORA_E_FORMAT);
	add(&b, "{\"a\":{\"shape\":[");
	for (int i = 0; i < 10000; i++) add(&b, "%0100d", 1);
	add(&b, "]}}");
	ck_assert_int_eq(bounded("S36 number", &b, 0, NULL), LORA_E_LIMIT);
}
END_TEST

/* --- what is read --- */

START_TEST(values_and_find)
{
	lora__tensors       t;
	const lora__tensor *a;
	check_ok(ctx, lora__safetensors_open(ctx, "tests/golden/safetensors/one.safetensors", &t));
	ck_assert_uint_eq(t.n, 1);
	a = lora__tensors_find(&t, "lora_A");
	ck_assert_ptr_nonnull(a);
	ck_assert(a->dtype == LORA_F32 && a->rank == 2 && a->shape[0] == 2 && a->shape[1] == 3 && a->shape[2] == 0 && a->bytes == 24);
	for (int i = 0; i < 6; i++) {
		float v;
		memcpy(&v, a->data + 4 * i, 4);
		ck_assert(v == (float)i);
	}
	ck_assert_ptr_null(lora__tensors_find(&t, "lora_B"));
	ck_assert_str_eq(json_string_value(json_object_get(t.metadata, "format")), "pt");
	lora__tensors_close(&t);
	lora__tensors_close(&t); /* twice is a no-op */
	ck_assert_ptr_null(lora__tensors_find(&t, "lora_A"));
}
END_TEST

START_TEST(S34_unaligned_data)
{
	image         f = make("{\"a\":" T("U8", "[1]", "[0,1]") ",\"b\":" T("F64", "[1]", "[1,9]") "}", 9);
	double        v = -2.5, got;
	lora__tensors t = accepted("S34", f);
	memcpy(f.bytes + f.n - 8, &v, 8);
	const lora__tensor *b = lora__tensors_find(&t, "b");
	memcpy(&got, b->data, 8);
	ck_assert(b->dtype == LORA_F64 && got == v);
	lora__tensors_close(&t);
	free(f.bytes);
}
END_TEST

START_TEST(S30_S35_S37_types)
{
	image         f = make("{\"s\":" T("F32", "[]", "[0,4]") ",\"q\":" T("F8_E4M3", "[2]", "[4,6]") ",\"c\":" T("C64", "[1]", "[6,14]") "}", 14);
	uint32_t      nan = 0x7fc00000u;
	lora__tensors t;
	memcpy(f.bytes + f.n - 14, &nan, 4); /* S37: values are not looked at */
	t = accepted("S37", f);
	ck_assert(lora__tensors_find(&t, "s")->rank == 0 && lora__tensors_find(&t, "s")->dtype == LORA_F32);
	ck_assert(lora__tensors_find(&t, "q")->dtype == LORA_DTYPE_NONE);
	ck_assert_str_eq(lora__tensors_find(&t, "q")->stored, "F8_E4M3");
	ck_assert(lora__tensors_find(&t, "c")->bytes == 8);
	lora__tensors_close(&t);
	free(f.bytes);
}
END_TEST

START_TEST(S38_file_changes_after_read)
{
	lora__tensors t;
	char          path[512];
	image         f = make(A4, 4);
	snprintf(path, sizeof path, "%s", scratch_path(&room, "f.safetensors"));
	scratch_write(path, f.bytes, f.n);
	check_ok(ctx, lora__safetensors_read(ctx, path, &t));
	ck_assert_int_eq(truncate(path, 3), 0);
	ck_assert(memcmp(lora__tensors_find(&t, "a")->data, "\0\1\2\3", 4) == 0);
	lora__tensors_close(&t);
	free(f.bytes);
}
END_TEST

START_TEST(S39_no_regular_file)
{
	lora__tensors t;
	const char   *fifo = scratch_path(&room, "fifo"), *dangling = scratch_path(&room, "dangling");
	ck_assert_int_eq(mkfifo(fifo, 0600), 0);
	ck_assert_int_eq(symlink("nowhere", dangling), 0);
	for (int i = 0; i < 2; i++) {
		lora_status (*open_it)(lora_context *, const char *, lora__tensors *) = i ? lora__safetensors_open : lora__safetensors_read;
		check_fails(LORA_E_IO, open_it(ctx, room.dir, &t));
		ck_assert(strstr(lora_context_last_error(ctx), strerror(EISDIR)));
		check_fails(LORA_E_IO, open_it(ctx, fifo, &t));
		check_fails(LORA_E_IO, open_it(ctx, "/dev/zero", &t));
		check_fails(LORA_E_IO, open_it(ctx, dangling, &t));
		ck_assert(strstr(lora_context_last_error(ctx), strerror(ENOENT)));
		check_fails(LORA_E_NOTFOUND, open_it(ctx, "no/such/file", &t));
		ck_assert(t.n == 0 && t.list == NULL);
	}
}
END_TEST

static const struct foreign { const char *id, *bytes; size_t n; lora_status status; const char *text; } foreigns[] = {
	{ "S40", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", 62, LORA_E_FORMAT, "looks like a git-lfs pointer" },
	{ "S41 zip", "PK\3\4\0\0\x08\x08\0\0\0\0", 12, LORA_E_UNSUPPORTED, "a zip archive" },
	{ "S41 zip, plain", "PK\3\4\0\0\0\0\0\0\0\0", 12, LORA_E_UNSUPPORTED, "a zip archive" },
	{ "S41 pickle 2", "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", 14, LORA_E_UNSUPPORTED, "a Python pickle" },
	{ "S41 pickle 4", "\x80\x04\x95\0\0\0\0\0\0\0", 10, LORA_E_UNSUPPORTED, "a Python pickle" },
	{ "S41 GGUF", "GGUF\3\0\0\0\0\0\0\0", 12, LORA_E_UNSUPPORTED, "a GGUF file" },
	{ "S41 npy", "\x93NUMPY\1\0v\0", 10, LORA_E_UNSUPPORTED, "a numpy .npy file" },
	{ "web page", "<!DOCTYPE html><html>", 21, LORA_E_FORMAT, "a web page" },
};

START_TEST(S40_S41_other_formats) { refused(foreigns[_i].id, raw(foreigns[_i].bytes, foreigns[_i].n), foreigns[_i].status, foreigns[_i].text); }
END_TEST

START_TEST(S42_byte_order)
{
	uint8_t in[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 }, out[16];
	static const uint8_t want[4][16] = { { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
		{ 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14 }, { 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12 },
		{ 7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8 } };
	for (int i = 0; i < 4; i++) {
		lora__swap_bytes(out, in, 16, (size_t)1 << i);
		ck_assert_mem_eq(out, want[i], 16);
		lora__swap_bytes(out, out, 16, (size_t)1 << i);
		ck_assert_mem_eq(out, in, 16);
	}
	/* a complex number is two numbers, a byte is itself */
	ck_assert_int_eq(lora__st_type_named("C64", 3)->swap, 4);
	ck_assert_int_eq(lora__st_type_of(LORA_BF16)->swap, 2);
	ck_assert_int_eq(lora__st_type_of(LORA_BOOL)->swap, 1);
}
END_TEST

/* --- every cut and every changed byte: no crash, no reading outside (the image is exactly sized, so a sanitizer sees it) --- */

START_TEST(every_cut_is_refused)
{
	image whole = make("{\"__metadata__\":{\"k\":\"v\"},\"a\":" T("F32", "[2,3]", "[0,24]") ",\"b\":" T("U8", "[3]", "[24,27]") "}", 27);
	for (size_t n = 0; n < whole.n; n++) {
		lora__tensors t;
		image         f = raw(whole.bytes, n);
		ck_assert_int_ne(lora__safetensors_open_memory(ctx, f.bytes, f.n, "cut", &t), LORA_OK);
		free(f.bytes);
	}
	accepted_n("whole", whole, 2);
}
END_TEST

START_TEST(changed_bytes_are_safe)
{
	image    f = make("{\"__metadata__\":{\"k\":\"v\"},\"a\":" T("F32", "[2,3]", "[0,24]") ",\"b\":" T("U8", "[3]", "[24,27]") "}", 27);
	uint8_t  sum = 0;
	uint64_t before, after;
	lora_context_memory(ctx, &before, NULL);
	for (size_t i = 0; i < f.n; i++)
		for (int v = 0; v < 256; v++) {
			lora__tensors t;
			uint8_t       old = f.bytes[i];
			f.bytes[i] = (uint8_t)v;
			if (lora__safetensors_open_memory(ctx, f.bytes, f.n, "changed", &t) == LORA_OK)
				for (size_t k = 0; k < t.n; k++)
					for (size_t j = 0; j < t.list[k].bytes; j++) sum ^= t.list[k].data[j];
			lora__tensors_close(&t);
			f.bytes[i] = old;
		}
	lora_context_memory(ctx, &after, NULL);
	ck_assert(before == after);
	if (sum == 1) puts(""); /* the sum is used, so the reads are made */
	free(f.bytes);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("safetensors");
	TCase *t = tcase_create("safetensors");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, refused_headers, 0, (int)(sizeof rows / sizeof *rows));
	tcase_add_loop_test(t, accepted_headers, 0, (int)(sizeof goods / sizeof *goods));
	tcase_add_test(t, S01_S02_short);
	tcase_add_test(t, S04_S05_S06_length);
	tcase_add_test(t, limits_of_the_context);
	tcase_add_test(t, nul_bytes_are_refused);
	tcase_add_test(t, S28_flood_of_overlaps);
	tcase_add_test(t, many_tensors_in_bounded_memory);
	tcase_add_test(t, S32_large_metadata);
	tcase_add_test(t, S33_long_name);
	tcase_add_test(t, S19_S36_deep_and_long);
	tcase_add_test(t, values_and_find);
	tcase_add_test(t, S34_unaligned_data);
	tcase_add_test(t, S30_S35_S37_types);
	tcase_add_test(t, S38_file_changes_after_read);
	tcase_add_test(t, S39_no_regular_file);
	tcase_add_loop_test(t, S40_S41_other_formats, 0, (int)(sizeof foreigns / sizeof *foreigns));
	tcase_add_test(t, S42_byte_order);
	tcase_add_test(t, every_cut_is_refused);
	tcase_add_test(t, changed_bytes_are_safe);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
