/* GGUF, the container: rows G01 to G29 of the bad-input table, cuts and changed bytes, memory, both byte orders, split files, writing.
 * Models and adapters in GGUF (G28 to G38 among them) are in test_gguf_model.c. */
#include <check.h>

#include "room.h"
#include "gguf/image.h"

static const uint64_t row4[1] = { 4 };

static void g01_empty(image *m) { (void)m; }
static void g01_short(image *m) { im_bytes(m, "GGU", 3); }
static void g01_magic(image *m) { im_bytes(m, "FUGG", 4), im_u(m, 3, 4), im_u(m, 0, 8), im_u(m, 0, 8); }
static void g01_lfs(image *m) { im_bytes(m, "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", 57); }
static void version(image *m, uint32_t v) { im_bytes(m, "GGUF", 4), im_u(m, v, 4), im_u(m, 0, 8), im_u(m, 0, 8); }
static void g02_zero(image *m) { version(m, 0); }
static void g02_one(image *m) { version(m, 1); }
static void g02_99(image *m) { version(m, 99); }
static void g03(image *m) { im_bytes(m, "GGUF\0\0\0\3", 8), im_u(m, 0, 8), im_u(m, 1, 8), im_int(m, "a", 1); }
static void g04_tensors(image *m) { im_head(m, 1ull << 63, 0); }
static void g04_keys(image *m) { im_head(m, 0, UINT64_MAX); }
static void g05(image *m) { im_head(m, 0, 2), im_int(m, "a", 1); }
static void g06(image *m) { im_head(m, 0, 1), im_int(m, "", 1); }
static void g07_key(image *m) { im_head(m, 0, 1), im_u(m, UINT64_MAX, 8), im_data(m, 64); }
static void g07_gib(image *m) { im_head(m, 0, 1), im_key(m, "a", LORA__GGUF_STRING), im_u(m, 1ull << 30, 8), im_data(m, 64); }
static void g07_one(image *m) { im_head(m, 0, 1), im_key(m, "ab", LORA__GGUF_STRING), im_u(m, 5, 8), im_bytes(m, "1234", 4); }
static void g08_utf8(image *m) { im_head(m, 0, 1), im_int(m, "a\xff", 1); }
static void g08_nul(image *m) { im_head(m, 0, 1), im_u(m, 3, 8), im_bytes(m, "a\0b", 3), im_u(m, 4, 4), im_u(m, 1, 4); }
static void g09(image *m) { im_head(m, 0, 3), im_int(m, "a", 1), im_int(m, "b", 1), im_int(m, "a", 2); }
static void g11_13(image *m) { im_head(m, 0, 1), im_key(m, "a", 13), im_u(m, 0, 8); }
static void g11_minus(image *m) { im_head(m, 0, 1), im_key(m, "a", 0xffffffffu), im_u(m, 0, 8); }
static void g11_big(image *m) { im_head(m, 0, 1), im_key(m, "a", 1u << 31), im_u(m, 0, 8); }
static void g12(image *m) { im_head(m, 0, 1), im_array(m, "a", LORA__GGUF_ARRAY, 1), im_u(m, 0, 8), im_u(m, 0, 8); }
static void g13_bytes(image *m) { im_head(m, 0, 1), im_array(m, "a", LORA__GGUF_U8, 1ull << 60), im_u(m, 0, 8); }
static void g13_strings(image *m) { im_head(m, 0, 1), im_array(m, "a", LORA__GGUF_STRING, 1ull << 61), im_u(m, 0, 8); }
static void g14(image *m) { im_head(m, 0, 1), im_array(m, "a", 77, 1ull << 40), im_u(m, 0, 8); }
static void g15(image *m) { im_head(m, 0, 1), im_key(m, "a", LORA__GGUF_BOOL), im_u(m, 2, 1); }
static void g15_array(image *m) { im_head(m, 0, 1), im_array(m, "a", LORA__GGUF_BOOL, 2), im_u(m, 1, 1), im_u(m, 7, 1); }
static void aligned(image *m, uint32_t v) { im_head(m, 0, 1), im_int(m, "general.alignment", v); }
static void g16_zero(image *m) { aligned(m, 0); }
static void g16_three(image *m) { aligned(m, 3); }
static void g16_large(image *m) { aligned(m, 1u << 31); }
static void g16_type(image *m) { im_head(m, 0, 1), im_text(m, "general.alignment", "32"); }
static void g16_signed(image *m) { im_head(m, 0, 1), im_key(m, "general.alignment", LORA__GGUF_I32), im_u(m, (uint64_t)-32, 4); }
static void g17(image *m)
{
	im_head(m, 2, 1), im_int(m, "general.alignment", 64), im_tensor(m, "a", 1, row4, 0, 0), im_tensor(m, "b", 1, row4, 0, 32);
	im_data(m, 128);
}
static void one(image *m, const char *name, uint32_t dims, const uint64_t *ne, uint32_t type, uint64_t offset, size_t data)
{
	im_head(m, 1, 0), im_tensor(m, name, dims, ne, type, offset), im_data(m, data);
}
static void g18_empty(image *m) { one(m, "", 1, row4, 0, 0, 32); }
static void g18_long(image *m) { one(m, "0123456789012345678901234567890123456789012345678901234567890123", 1, row4, 0, 0, 32); }
static void g18_twice(image *m) { im_head(m, 2, 0), im_tensor(m, "a", 1, row4, 0, 0), im_tensor(m, "a", 1, row4, 0, 32), im_data(m, 64); }
static void g19_zero(image *m) { one(m, "a", 0, row4, 0, 0, 32); }
static void g19_five(image *m) { one(m, "a", 5, (const uint64_t[5]){ 1, 1, 1, 1, 1 }, 0, 0, 32); }
static void g19_max(image *m) { im_head(m, 1, 0), im_s(m, "a"), im_u(m, UINT32_MAX, 4), im_data(m, 64); }
static void g21(image *m) { one(m, "a", 2, (const uint64_t[2]){ 4, (uint64_t)-4 }, 0, 0, 32); }
static void g22_elements(image *m) { one(m, "a", 2, (const uint64_t[2]){ 1ull << 32, 1ull << 32 }, 0, 0, 32); }
static void g22_bytes(image *m) { one(m, "a", 1, (const uint64_t[1]){ 1ull << 62 }, 0, 0, 32); }
static void g22_padded(image *m) { one(m, "a", 1, (const uint64_t[1]){ (1ull << 61) - 1 }, 28, 0, 32); }
static void g22_sum(image *m)
{
	im_head(m, 5, 0);
	for (uint64_t i = 0; i < 5; i++) im_tensor(m, (const char *[]){ "a", "b", "c", "d", "e" }[i], 1, (const uint64_t[1]){ (1ull << 62) - 64 }, 24, i * ((1ull << 62) - 64));
	im_data(m, 32);
}
static void g24_past(image *m) { one(m, "a", 1, row4, 43, 0, 32); }
static void g24_removed(image *m) { one(m, "a", 1, row4, 4, 0, 32); }
static void g24_negative(image *m) { one(m, "a", 1, row4, 0xffffffffu, 0, 32); }
static void g25(image *m) { one(m, "a", 1, (const uint64_t[1]){ 33 }, 8, 0, 68); }
static void two(image *m, uint64_t first, uint64_t second) { im_head(m, 2, 0), im_tensor(m, "a", 1, row4, 0, first), im_tensor(m, "b", 1, row4, 0, second), im_data(m, 64); }
static void g26_unaligned(image *m) { two(m, 0, 16); }
static void g26_overlap(image *m) { two(m, 0, 0); }
static void g26_decreasing(image *m) { two(m, 32, 0); }
static void g26_past(image *m) { two(m, 0, 1 << 20); }
static void g27(image *m) { one(m, "a", 1, row4, 0, 0, 15); }

static const struct row { const char *id; void (*make)(image *m); lora_status status; const char *text; } rows[] = {
	{ "G01 empty", g01_empty, LORA_E_FORMAT, "not a GGUF" },
	{ "G01 3 bytes", g01_short, LORA_E_FORMAT, "magic" },
	{ "G01 FUGG", g01_magic, LORA_E_FORMAT, "magic" },
	{ "S40 for GGUF", g01_lfs, LORA_E_FORMAT, "git-lfs pointer" },
	{ "G02 0", g02_zero, LORA_E_UNSUPPORTED, "version 0" },
	{ "G02 1", g02_one, LORA_E_UNSUPPORTED, "version 1" },
	{ "G02 99", g02_99, LORA_E_UNSUPPORTED, "version 99" },
	{ "G03", g03, LORA_E_LIMIT, "other endianness" }, /* big-endian files are read: here only the version is */
	{ "G04 tensors", g04_tensors, LORA_E_LIMIT, "9223372036854775808 tensors" },
	{ "G04 keys", g04_keys, LORA_E_LIMIT, "18446744073709551615 keys" },
	{ "G05", g05, LORA_E_FORMAT, "keys are declared" },
	{ "G06", g06, LORA_E_FORMAT, "empty key" },
	{ "G07 2^64-1", g07_key, LORA_E_LIMIT, "18446744073709551615 bytes" },
	{ "G07 1 GiB", g07_gib, LORA_E_FORMAT, "1073741824 bytes" },
	{ "G07 one", g07_one, LORA_E_FORMAT, "5 bytes, 4 are left" },
	{ "G08 UTF-8", g08_utf8, LORA_E_FORMAT, "UTF-8" },
	{ "G08 NUL", g08_nul, LORA_E_FORMAT, "NUL" },
	{ "G09", g09, LORA_E_FORMAT, "'a': duplicate key" },
	{ "G11 13", g11_13, LORA_E_FORMAT, "unknown type" },
	{ "G11 -1", g11_minus, LORA_E_FORMAT, "unknown type" },
	{ "G11 2^31", g11_big, LORA_E_FORMAT, "unknown type" },
	{ "G12", g12, LORA_E_FORMAT, "array of arrays" },
	{ "G13 bytes", g13_bytes, LORA_E_LIMIT, "more elements" },
	{ "G13 strings", g13_strings, LORA_E_LIMIT, "more elements" },
	{ "G14", g14, LORA_E_FORMAT, "array of an unknown type" },
	{ "G15", g15, LORA_E_FORMAT, "0 or 1" },
	{ "G15 array", g15_array, LORA_E_FORMAT, "0 or 1" },
	{ "G16 0", g16_zero, LORA_E_FORMAT, "general.alignment is 0" },
	{ "G16 3", g16_three, LORA_E_FORMAT, "general.alignment is 3" },
	{ "G16 2^31", g16_large, LORA_E_FORMAT, "general.alignment is 2147483648" },
	{ "G16 type", g16_type, LORA_E_FORMAT, "string, uint32 expected" },
	{ "G16 negative", g16_signed, LORA_E_FORMAT, "int32, uint32 expected" },
	{ "G17", g17, LORA_E_FORMAT, "'b': data at offset 32, 64 expected" },
	{ "G18 empty", g18_empty, LORA_E_FORMAT, "empty name" },
	{ "G18 64 bytes", g18_long, LORA_E_FORMAT, "longer than 63" },
	{ "G18 duplicate", g18_twice, LORA_E_FORMAT, "a" },
	{ "G19 0", g19_zero, LORA_E_FORMAT, "dimensions" },
	{ "G19 5", g19_five, LORA_E_FORMAT, "dimensions" },
	{ "G19 2^32-1", g19_max, LORA_E_FORMAT, "dimensions" },
	{ "G21", g21, LORA_E_FORMAT, "negative" },
	{ "G22 elements", g22_elements, LORA_E_LIMIT, "elements overflows" },
	{ "G22 bytes", g22_bytes, LORA_E_LIMIT, "bytes overflows" },
	{ "G22 padded", g22_padded, LORA_E_LIMIT, "bytes overflows" },
	{ "G22 sum", g22_sum, LORA_E_LIMIT, "sizes of the tensors overflow" },
	{ "G24 past the table", g24_past, LORA_E_UNSUPPORTED, "type 43" },
	{ "G24 removed", g24_removed, LORA_E_UNSUPPORTED, "type 4" },
	{ "G24 negative", g24_negative, LORA_E_UNSUPPORTED, "type -1" },
	{ "G25", g25, LORA_E_SHAPE, "33 elements" },
	{ "G26 unaligned", g26_unaligned, LORA_E_FORMAT, "offset 16" },
	{ "G26 overlap", g26_overlap, LORA_E_FORMAT, "offset 0, 32" },
	{ "G26 decreasing", g26_decreasing, LORA_E_FORMAT, "offset 32, 0" },
	{ "G26 past end", g26_past, LORA_E_FORMAT, "offset 1048576" },
	{ "G27", g27, LORA_E_FORMAT, "past the end" },
};

START_TEST(bad_rows)
{
	const struct row *r = &rows[_i];
	image m = { 0 };
	lora__gguf g;
	uint64_t now, after;
	r->make(&m);
	uint8_t *exact = malloc(m.n + 1); /* sized exactly, so that sanitizers see reading past the end */
	exact = realloc(exact, m.n ? m.n : 1);
	if (m.n) memcpy(exact, m.p, m.n);
	lora_context_memory(ctx, &now, NULL);
	lora_status st = lora__gguf_open_memory(ctx, exact, m.n, "in.gguf", &g);
	const char *said = lora_context_last_error(ctx);
	ck_assert_msg(st == r->status, "%s: %s (%s), wanted %s", r->id, lora_status_name(st), said, lora_status_name(r->status));
	ck_assert_msg(strstr(said, r->text) && strstr(said, "in.gguf"), "%s: message \"%s\" lacks \"%s\"", r->id, said, r->text);
	ck_assert_msg(g.set.n == 0 && !g.set.list, "%s: tensors handed out", r->id);
	lora__gguf_close(&g);
	lora_context_memory(ctx, &after, NULL);
	ck_assert_msg(now == after, "%s: memory is held after the failure", r->id);
	free(exact);
	free(m.p);
}
END_TEST

/* Counts whose product with the size of a record, an element or a length is small again modulo 2^32: G23, for builds of 32 bits (make check32). */
START_TEST(products_of_32_bits)
{
	static const uint32_t elements[] = { LORA__GGUF_U8, LORA__GGUF_STRING, LORA__GGUF_F32, LORA__GGUF_U64 };
	for (int kind = 0; kind < 8; kind++) {
		for (int shift = 24; shift <= 32; shift++) {
			for (uint64_t extra = 0; extra < 3; extra++) {
				uint64_t n = (1ull << shift) + extra;
				image m = { 0 };
				lora__gguf g;
				if (kind == 0) im_head(&m, n, 0), im_tensor(&m, "a", 1, row4, 0, 0);
				else if (kind == 1) im_head(&m, 0, n), im_int(&m, "a", 1);
				else if (kind == 2) im_head(&m, 0, 1), im_key(&m, "a", LORA__GGUF_STRING), im_u(&m, n, 8);
				else if (kind == 3) im_head(&m, 1, 0), im_tensor(&m, "a", 2, (const uint64_t[2]){ n, 1ull << (32 - shift) }, 0, 0);
				else im_head(&m, 0, 1), im_array(&m, "a", elements[kind - 4], n);
				im_pad(&m, 32);
				im_data(&m, 64);
				lora_status st = lora__gguf_open_memory(ctx, m.p, m.n, "in.gguf", &g);
				ck_assert_msg(st == LORA_E_LIMIT || st == LORA_E_FORMAT, "kind %d, %llu: %s", kind, (unsigned long long)n, lora_status_name(st));
				lora__gguf_close(&g);
				free(m.p);
			}
		}
	}
}
END_TEST

/* A small file with a bit of everything. */
static image sample(int big)
{
	image m = { .big = big };
	im_head(&m, 3, 8);
	im_text(&m, "general.name", "sample");
	im_int(&m, "x.count", 7);
	im_f(&m, "x.eps", 0.5f);
	im_key(&m, "x.flag", LORA__GGUF_BOOL), im_u(&m, 1, 1);
	im_key(&m, "x.long", LORA__GGUF_I64), im_u(&m, (uint64_t)-5, 8);
	im_array(&m, "x.words", LORA__GGUF_STRING, 2), im_s(&m, "one"), im_s(&m, "");
	im_array(&m, "x.numbers", LORA__GGUF_I32, 3), im_u(&m, 1, 4), im_u(&m, 2, 4), im_u(&m, (uint64_t)-3, 4);
	im_key(&m, "x.double", LORA__GGUF_F64), im_u(&m, 0x4000000000000000u, 8);
	im_matrix(&m, "w", 32, 2, 8, 0); /* Q8_0 */
	im_tensor(&m, "v", 1, row4, 0, 96);
	im_matrix(&m, "empty", 4, 0, 0, 128); /* G20: a dimension of 0 */
	im_pad(&m, 32);
	for (int b = 0; b < 2; b++) {
		im_u(&m, 0x3c00, 2);
		for (int i = 0; i < 32; i++) im_u(&m, (uint64_t)(i - 16 + b), 1);
	}
	im_pad(&m, 32);
	for (int i = 0; i < 4; i++) im_u(&m, 0x3f800000, 4);
	im_pad(&m, 32);
	return m;
}

static void check_sample(const lora__gguf *g)
{
	const char *s;
	size_t n;
	int64_t i;
	double d;
	int b;
	lora__gguf_value v;
	ck_assert_int_eq(lora__gguf_string(g, "general.name", &s, &n), LORA_OK);
	ck_assert(n == 6 && !memcmp(s, "sample", 6));
	ck_assert(!lora__gguf_int(g, "x.count", 0, 0, 100, &i) && i == 7);
	ck_assert(!lora__gguf_int(g, "x.long", 0, -10, 100, &i) && i == -5);
	ck_assert(!lora__gguf_float(g, "x.eps", 0, &d) && d == 0.5);
	ck_assert(!lora__gguf_float(g, "x.double", 0, &d) && d == 2.0);
	ck_assert(!lora__gguf_bool(g, "x.flag", 0, &b) && b == 1);
	ck_assert(!lora__gguf_array(g, "x.words", LORA__GGUF_STRING, &v) && v.n == 2);
	lora__gguf_next(g, &v.p, &s, &n);
	ck_assert(n == 3 && !memcmp(s, "one", 3));
	ck_assert(!lora__gguf_array(g, "x.numbers", LORA__GGUF_I32, &v) && v.n == 3 && (int32_t)lora__gguf_u32(g, v.p + 8) == -3);
	ck_assert(!lora__gguf_int(g, "absent", 42, 0, 100, &i) && i == 42);
	const lora__tensor *w = lora__tensors_find(&g->set, "w"), *x = lora__tensors_find(&g->set, "v"), *e = lora__tensors_find(&g->set, "empty");
	ck_assert(w && w->dtype == LORA_Q8_0 && w->rank == 2 && w->shape[0] == 2 && w->shape[1] == 32 && w->bytes == 68);
	ck_assert(w->data[0] == 0 && w->data[1] == 0x3c && (int8_t)w->data[2] == -16 && (int8_t)w->data[36] == -15);
	float one_f;
	memcpy(&one_f, x->data + 12, 4);
	ck_assert(x->rank == 1 && one_f == 1.0f);
	ck_assert(e && e->bytes == 0 && e->shape[0] == 0 && e->shape[1] == 4);
}

START_TEST(byte_orders)
{
	image m = sample(_i);
	lora__gguf g;
	ck_assert_int_eq(lora__gguf_open_memory(ctx, m.p, m.n, "in.gguf", &g), LORA_OK);
	ck_assert_int_eq(g.swap, _i);
	check_sample(&g);
	lora__gguf_close(&g);
	m.p[4 + 3 * _i] = 2; /* version 2 has the same layout */
	ck_assert_int_eq(lora__gguf_open_memory(ctx, m.p, m.n, "in.gguf", &g), LORA_OK);
	check_sample(&g);
	lora__gguf_close(&g);
	free(m.p);
}
END_TEST

/* G28: a key of another type names both types. */
START_TEST(wrong_types)
{
	image m = sample(0);
	lora__gguf g;
	lora__gguf_value v;
	const char *s;
	size_t n;
	int64_t i;
	double d;
	int b;
	ck_assert_int_eq(lora__gguf_open_memory(ctx, m.p, m.n, "in.gguf", &g), LORA_OK);
	ck_assert_int_eq(lora__gguf_int(&g, "general.name", 0, 0, 9, &i), LORA_E_FORMAT);
	ck_assert(strstr(lora_context_last_error(ctx), "string") && strstr(lora_context_last_error(ctx), "integer"));
	ck_assert_int_eq(lora__gguf_int(&g, "x.eps", 0, 0, 9, &i), LORA_E_FORMAT);
	ck_assert_int_eq(lora__gguf_float(&g, "x.count", 0, &d), LORA_E_FORMAT);
	ck_assert_int_eq(lora__gguf_bool(&g, "x.count", 0, &b), LORA_E_FORMAT);
	ck_assert_int_eq(lora__gguf_string(&g, "x.words", &s, &n), LORA_E_FORMAT);
	ck_assert_int_eq(lora__gguf_array(&g, "x.count", LORA__GGUF_I32, &v), LORA_E_FORMAT);
	ck_assert_int_eq(lora__gguf_array(&g, "x.words", LORA__GGUF_I32, &v), LORA_E_DTYPE);
	ck_assert_int_eq(lora__gguf_int(&g, "x.count", 0, 0, 5, &i), LORA_E_LIMIT);
	lora__gguf_close(&g);
	free(m.p);
}
END_TEST

/* Every cut and every changed byte: an answer, nothing leaked, nothing read outside. */
START_TEST(cuts_and_changes)
{
	image m = sample(_i);
	lora__gguf g;
	for (size_t n = 0; n < m.n - 31; n++) {
		uint8_t *exact = malloc(n ? n : 1);
		memcpy(exact, m.p, n);
		if (lora__gguf_open_memory(ctx, exact, n, "in.gguf", &g) == LORA_OK) ck_assert_msg(n > m.n - 32, "cut to %zu of %zu bytes was accepted", n, m.n);
		lora__gguf_close(&g);
		free(exact);
	}
	for (size_t at = 0; at < m.n; at++)
		for (int k = 0; k < 3; k++) {
			uint8_t old = m.p[at];
			m.p[at] = (uint8_t[]){ 0, 0xff, (uint8_t)(old ^ 0x80) }[k];
			if (lora__gguf_open_memory(ctx, m.p, m.n, "in.gguf", &g) == LORA_OK) lora__gguf_close(&g);
			m.p[at] = old;
		}
	free(m.p);
}
END_TEST

/* Each allocation fails once: LORA_E_MEMORY and nothing leaked. */
START_TEST(out_of_memory)
{
	image m = sample(_i);
	lora__gguf g;
	for (long n = 1;; n++) {
		ca.fail_at = n;
		lora_status st = lora__gguf_open_memory(ctx, m.p, m.n, "in.gguf", &g);
		int failed = ca.fail_at == 0;
		ca.fail_at = 0;
		ck_assert_int_eq(st, failed ? LORA_E_MEMORY : LORA_OK);
		lora__gguf_close(&g);
		if (!failed) break;
	}
	free(m.p);
}
END_TEST

/* G10: a million keys in linear time and bounded memory. */
START_TEST(many_keys)
{
	enum { N = 1000000 };
	image m = { 0 };
	lora__gguf g;
	uint64_t before, peak;
	char name[16];
	im_head(&m, 0, N);
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof name, "%07d", (int)((int64_t)i * 7919 % N));
		im_key(&m, name, LORA__GGUF_U8), im_u(&m, 1, 1);
	}
	lora_context_memory(ctx, &before, NULL);
	ck_assert_int_eq(lora__gguf_open_memory(ctx, m.p, m.n, "in.gguf", &g), LORA_OK);
	lora_context_memory(ctx, NULL, &peak);
	ck_assert_msg(peak - before < 4 * m.n + (1 << 20), "%llu bytes for a file of %zu", (unsigned long long)(peak - before), m.n);
	lora__gguf_close(&g);
	free(m.p);
}
END_TEST

static void part(image *m, int no, int count, const char *tensor)
{
	im_head(m, 1, 3), im_key(m, "split.no", LORA__GGUF_U16), im_u(m, (uint64_t)no, 2), im_key(m, "split.count", LORA__GGUF_U16), im_u(m, (uint64_t)count, 2);
	im_int(m, "split.tensors.count", 2);
	im_tensor(m, tensor, 1, row4, 0, 0), im_data(m, 32);
}

START_TEST(split_files)
{
	image a = { 0 }, b = { 0 };
	char first[512], second[512];
	lora__gguf g;
	snprintf(first, sizeof first, "%s", scratch_path(&room, "m-00001-of-00002.gguf"));
	snprintf(second, sizeof second, "%s", scratch_path(&room, "m-00002-of-00002.gguf"));
	part(&a, 0, 2, "a"), part(&b, 1, 2, "b");
	scratch_write(first, a.p, a.n);
	ck_assert_int_eq(lora__gguf_open(ctx, first, &g), LORA_E_NOTFOUND);
	ck_assert(strstr(lora_context_last_error(ctx), "00002-of-00002"));
	scratch_write(second, b.p, b.n);
	ck_assert_int_eq(lora__gguf_open(ctx, first, &g), LORA_OK);
	ck_assert(g.set.n == 2 && lora__tensors_find(&g.set, "a") && lora__tensors_find(&g.set, "b"));
	lora__gguf_close(&g);
	/* G37: a part alone */
	ck_assert_int_eq(lora__gguf_open(ctx, second, &g), LORA_E_UNSUPPORTED);
	ck_assert_int_eq(lora__gguf_open_memory(ctx, a.p, a.n, "in.gguf", &g), LORA_E_UNSUPPORTED);
	ck_assert(strstr(lora_context_last_error(ctx), "2 files"));
	scratch_write(second, a.p, a.n); /* the same part twice */
	ck_assert_int_eq(lora__gguf_open(ctx, first, &g), LORA_E_FORMAT);
	free(a.p);
	free(b.p);
}
END_TEST

START_TEST(writing)
{
	image m = sample(1);
	lora__gguf g, back;
	lora__gguf_out o;
	const char *path = scratch_path(&room, "out.gguf");
	ck_assert_int_eq(lora__gguf_open_memory(ctx, m.p, m.n, "in.gguf", &g), LORA_OK);
	lora__gguf_begin(&o, ctx);
	for (size_t i = 0; i < g.n_keys; i++) {
		const char *name;
		size_t n;
		lora__gguf_value v;
		lora__gguf_key(&g, i, &name, &n, &v);
		lora__gguf_copy(&o, &g, name, n, &v);
	}
	ck_assert_int_eq(lora__gguf_write(&o, path, g.set.list, g.set.n), LORA_OK);
	ck_assert_int_eq(lora__gguf_open(ctx, path, &back), LORA_OK);
	ck_assert(!back.swap && back.version == 3);
	check_sample(&back);
	lora__gguf_close(&back);
	lora__gguf_close(&g);
	free(m.p);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("gguf");
	TCase *c = tcase_create("container");
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 120); /* of the wall clock, on machines that others use */
	tcase_add_loop_test(c, bad_rows, 0, (int)(sizeof rows / sizeof *rows));
	tcase_add_test(c, products_of_32_bits);
	tcase_add_loop_test(c, byte_orders, 0, 2);
	tcase_add_test(c, wrong_types);
	tcase_add_loop_test(c, cuts_and_changes, 0, 2);
	tcase_add_loop_test(c, out_of_memory, 0, 2);
	tcase_add_test(c, many_keys);
	tcase_add_test(c, split_files);
	tcase_add_test(c, writing);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	SRunner *r = srunner_create(suite());
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
