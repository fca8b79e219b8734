/* tokenizer.model: rows of bad input (T14 and its like), cuts at every byte, memory that ends, added tokens and control tokens. */
#include <math.h>
#include <unistd.h>

#include "tokenizer/sentencepiece.h"
#include "work.h"

/* A small writer of protocol buffers. */
typedef struct proto { uint8_t p[4096]; size_t n; } proto;

static void put_varint(proto *o, uint64_t v)
{
	for (; v >= 0x80; v >>= 7) o->p[o->n++] = (uint8_t)(v | 0x80);
	o->p[o->n++] = (uint8_t)v;
}
static void put_bytes(proto *o, int field, const void *s, size_t n)
{
	put_varint(o, (uint64_t)field << 3 | 2);
	put_varint(o, n);
	memcpy(o->p + o->n, s, n);
	o->n += n;
}
static void put_number(proto *o, int field, uint64_t v)
{
	put_varint(o, (uint64_t)field << 3);
	put_varint(o, v);
}
static void put_piece(proto *o, const char *text, float score, int type)
{
	proto e = { .n = 0 };
	put_bytes(&e, 1, text, strlen(text));
	put_varint(&e, 2 << 3 | 5);
	memcpy(e.p + e.n, &score, 4);
	e.n += 4;
	if (type != 1) put_number(&e, 3, (uint64_t)type);
	put_bytes(o, 1, e.p, e.n);
}
static void put_trainer(proto *o, int field, uint64_t v)
{
	proto e = { .n = 0 };
	put_number(&e, field, v);
	put_bytes(o, 2, e.p, e.n);
}

/* <unk> <s> </s> a b ab, BPE. */
static void put_base(proto *o, int model_type)
{
	o->n = 0;
	put_piece(o, "<unk>", 0, 2);
	put_piece(o, "<s>", 0, 3);
	put_piece(o, "</s>", 0, 3);
	put_piece(o, "ab", -1, 1);
	put_piece(o, "a", -2, 1);
	put_piece(o, "b", -3, 1);
	put_piece(o, "\xe2\x96\x81", -4, 1);
	put_trainer(o, 3, (uint64_t)model_type);
}

static lora_status open_bytes(lora_context *ctx, const uint8_t *p, size_t n, lora_tokenizer **t)
{
	static const lora__tok_beside none;
	uint8_t *exact = malloc(n ? n : 1);
	memcpy(exact, p, n);
	lora_status st = lora__tokenizer_from_spm(ctx, exact, n, "test.model", &none, t);
	free(exact);
	return st;
}

static void row_empty(proto *o) { o->n = 0; }
static void row_text(proto *o) { o->n = (size_t)snprintf((char *)o->p, sizeof o->p, "IQ== 0\nIg== 1\nIw== 2\n"); }
static void row_past_end(proto *o) { put_varint(o, 1 << 3 | 2), put_varint(o, 100); }
static void row_huge(proto *o) { put_varint(o, 1 << 3 | 2), put_varint(o, UINT64_MAX); }
static void row_wire(proto *o) { put_number(o, 1, 5); }
static void row_group(proto *o) { put_varint(o, 9 << 3 | 3); }
static void row_field_zero(proto *o) { put_varint(o, 2); }
static void row_varint(proto *o) { put_varint(o, 9 << 3), memset(o->p + o->n, 0x80, 11), o->n += 11, o->p[o->n++] = 1; }
static void row_65_bits(proto *o) { put_varint(o, 9 << 3), memset(o->p + o->n, 0x80, 9), o->n += 9, o->p[o->n++] = 2; }
static void row_cut_number(proto *o) { put_varint(o, 9 << 3), o->p[o->n++] = 0x80; }
static void row_nan(proto *o) { put_piece(o, "x", NAN, 1); }
static void row_infinite(proto *o) { put_piece(o, "x", -INFINITY, 1); }
static void row_twice(proto *o) { put_piece(o, "ab", -9, 1); }
static void row_empty_piece(proto *o) { put_piece(o, "", -9, 1); }
static void row_bad_utf8(proto *o) { put_piece(o, "\xff", -9, 1); }
static void row_type(proto *o) { put_piece(o, "x", -9, 7); }
static void row_unknown(proto *o) { put_piece(o, "x", -9, 2); }
static void row_unused(proto *o) { put_piece(o, "aba", -9, 5); }
static void row_words(proto *o) { put_trainer(o, 3, 3); }
static void row_no_such_model(proto *o) { put_trainer(o, 3, 77); }
static void row_map(proto *o) { put_bytes(o, 3, "\x12\x03" "abc", 5); }
static void row_map_trie(proto *o) { put_bytes(o, 3, "\x12\x08\xff\xff\xff\x7f" "abcd", 10); }
static void row_back(proto *o) { put_bytes(o, 5, "\x12\x03" "abc", 5); }
static void row_float_as_bytes(proto *o) { put_bytes(o, 1, "\x0a\x01x\x12\x01x", 6); }
static void row_no_pieces(proto *o) { o->n = 0, put_trainer(o, 3, 2); }

typedef struct row { const char *id; void (*change)(proto *o); lora_status st; const char *says; } row;
static const row rows[] = {
	{ "empty", row_empty, LORA_E_FORMAT, "empty" }, { "tiktoken", row_text, LORA_E_UNSUPPORTED, "tiktoken" },
	{ "T14 length past end", row_past_end, LORA_E_FORMAT, "runs past the end" }, { "T14 length 2^64-1", row_huge, LORA_E_FORMAT, "runs past the end" },
	{ "T14 wrong wire type", row_wire, LORA_E_FORMAT, "another kind" }, { "T14 group", row_group, LORA_E_FORMAT, "unknown kind" },
	{ "T14 field 0", row_field_zero, LORA_E_FORMAT, "impossible number" }, { "T14 varint of 11 bytes", row_varint, LORA_E_FORMAT, "than" },
	{ "T14 varint of 65 bits", row_65_bits, LORA_E_FORMAT, "64 bits" }, { "T14 number cut", row_cut_number, LORA_E_FORMAT, "cut off" },
	{ "T14 NaN score", row_nan, LORA_E_FORMAT, "token 7 (x) is not finite" }, { "T14 infinite score", row_infinite, LORA_E_FORMAT, "not finite" },
	{ "T14 score as bytes", row_float_as_bytes, LORA_E_FORMAT, "another kind" }, { "T04 twice", row_twice, LORA_E_FORMAT, "ab is there twice: 3 and 7" },
	{ "T11 empty piece", row_empty_piece, LORA_E_FORMAT, "token 7 is empty" }, { "not UTF-8", row_bad_utf8, LORA_E_FORMAT, "token 7 is not UTF-8" },
	{ "type unknown", row_type, LORA_E_FORMAT, "token 7 (x) is of type 0" }, { "two unknown", row_unknown, LORA_E_FORMAT, "2 pieces are of the unknown type" },
	{ "unused that joins make", row_unused, LORA_E_UNSUPPORTED, "token 7 (aba) is unused" }, { "T02 words", row_words, LORA_E_UNSUPPORTED, "model_type 3" },
	{ "T02 model_type 77", row_no_such_model, LORA_E_FORMAT, "model_type 77" }, { "map too short", row_map, LORA_E_FORMAT, "precompiled_charsmap" },
	{ "map with a trie past its end", row_map_trie, LORA_E_FORMAT, "trie of 2147483647 bytes" },
	{ "map for decoding", row_back, LORA_E_UNSUPPORTED, "denormalizer_spec" }, { "no pieces", row_no_pieces, LORA_E_FORMAT, "no pieces" },
};

START_TEST(refused)
{
	const row *r = &rows[_i];
	check_alloc ca;
	check_alloc_init(&ca);
	lora_context *ctx = check_context(&ca);
	lora_tokenizer *t = NULL;
	proto o;
	put_base(&o, 2);
	r->change(&o);
	lora_status st = open_bytes(ctx, o.p, o.n, &t);
	const char *says = lora_context_last_error(ctx);
	ck_assert_msg(st == r->st, "%s: %s (%s)", r->id, lora_status_name(st), says);
	ck_assert_msg(strstr(says, r->says) && strstr(says, "test.model"), "%s: %s", r->id, says);
	ck_assert_ptr_null(t);
	lora_context_destroy(ctx);
	check_alloc_done(&ca);
}
END_TEST

static size_t read_golden(const char *name, uint8_t *buf, size_t room)
{
	char path[128];
	snprintf(path, sizeof path, "tests/golden/tokenizers/%s/tokenizer.model", name);
	FILE *f = fopen(path, "rb");
	ck_assert_ptr_nonnull(f);
	size_t n = fread(buf, 1, room, f);
	fclose(f);
	ck_assert_uint_lt(n, room);
	return n;
}

/* Cut anywhere, a file is refused or lacks its last parts; it never does harm. */
START_TEST(cuts)
{
	static uint8_t buf[1 << 14];
	static const char *const names[] = { "spm-rules", "spm-user" };
	size_t n = read_golden(names[_i], buf, sizeof buf), step = check_quick() ? 61 : 7;
	lora_context *ctx = check_context(NULL);
	for (size_t k = 0; k < n; k += step) {
		lora_tokenizer *t = NULL;
		lora_status st = open_bytes(ctx, buf, k, &t);
		ck_assert_msg(st == LORA_OK || st == LORA_E_FORMAT, "%zu: %s", k, lora_status_name(st));
		ck_assert_int_eq(st == LORA_OK, t != NULL);
		lora_tokenizer_destroy(t);
	}
	lora_context_destroy(ctx);
}
END_TEST

START_TEST(out_of_memory)
{
	proto o;
	check_alloc ca;
	check_alloc_init(&ca);
	lora_context *ctx = check_context(&ca);
	put_base(&o, _i + 1);
	put_piece(&o, "<x>", 0, 4);
	long calls = 0;
	for (long k = 0; k <= calls; k++) {
		lora_tokenizer *t = NULL;
		int32_t ids[32];
		char text[64];
		size_t n, bytes;
		check_alloc_arm(&ca, k, 0);
		lora_status st = open_bytes(ctx, o.p, o.n, &t);
		if (!st) st = lora_tokenizer_encode(t, "abba  <x>ab <s>", 15, LORA_TOKENIZE_CONTROL, ids, 32, &n);
		if (!st) st = lora_tokenizer_decode(t, ids, n, text, sizeof text, &bytes);
		if (!k) calls = ca.calls;
		check_alloc_arm(&ca, 0, 0);
		ck_assert_msg(st == LORA_E_MEMORY || !st, "allocation %ld: %s", k, lora_context_last_error(ctx));
		if (!st) ck_assert_str_eq(text, "abba <x>ab");
		lora_tokenizer_destroy(t);
	}
	lora_context_destroy(ctx);
	check_alloc_done(&ca);
}
END_TEST

/* Control tokens are text unless asked for; the unknown token shows as SentencePiece shows it. */
START_TEST(control)
{
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = NULL;
	int32_t ids[32];
	char text[64];
	size_t n;
	proto o;
	put_base(&o, 2);
	check_ok(ctx, open_bytes(ctx, o.p, o.n, &t));
	check_ok(ctx, lora_tokenizer_encode(t, "ab</s>ab", 8, LORA_TOKENIZE_SPECIAL | LORA_TOKENIZE_CONTROL, ids, 32, &n));
	static const int32_t want[] = { 1, 6, 3, 2, 6, 3 };
	ck_assert_uint_eq(n, 6);
	ck_assert_mem_eq(ids, want, sizeof want);
	check_ok(ctx, lora_tokenizer_encode(t, "ab</s>ab", 8, 0, ids, 32, &n));
	static const int32_t plain[] = { 6, 3, 0, 3 };
	ck_assert_uint_eq(n, 4);
	ck_assert_mem_eq(ids, plain, sizeof plain);
	check_ok(ctx, lora_tokenizer_decode(t, plain, 4, text, sizeof text, &n));
	ck_assert_str_eq(text, "ab \xe2\x81\x87 ab");
	ck_assert_int_eq(lora_tokenizer_id(t, "</s>"), 2);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

/* The files beside: tokens added behind, EOS, and a dummy prefix that comes once only. */
START_TEST(beside)
{
	static const struct { const char *config; int32_t want[12]; size_t n; } table[] = {
		{ "{\"tokenizer_class\":\"LlamaTokenizer\",\"added_tokens_decoder\":{\"7\":{\"content\":\"<go>\"}}}", { 1, 6, 3, 7, 6, 3 }, 6 },
		{ "{\"tokenizer_class\":\"LlamaTokenizer\",\"legacy\":false,\"added_tokens_decoder\":{\"7\":{\"content\":\"<go>\"}}}", { 1, 6, 3, 7, 3 }, 5 },
		{ "{\"tokenizer_class\":\"T5Tokenizer\",\"added_tokens_decoder\":{\"7\":{\"content\":\"<go>\"}}}", { 6, 3, 7, 6, 3, 2 }, 6 },
		{ "{\"add_bos_token\":false,\"add_eos_token\":true,\"added_tokens_decoder\":{\"7\":{\"content\":\"<go>\"}}}", { 6, 3, 7, 6, 3, 2 }, 6 },
		{ "{\"add_prefix_space\":false,\"added_tokens_decoder\":{\"7\":{\"content\":\"<go>\"}}}", { 1, 3, 7, 3 }, 4 },
	};
	lora_context *ctx = check_context(NULL);
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		lora_tokenizer *t = NULL;
		lora__tok_beside f = { .config = json_loads(table[i].config, 0, NULL) };
		int32_t ids[32];
		size_t n;
		proto o;
		put_base(&o, 2);
		check_ok(ctx, lora__tokenizer_from_spm(ctx, o.p, o.n, "test.model", &f, &t));
		check_ok(ctx, lora_tokenizer_encode(t, "ab<go>ab", 8, LORA_TOKENIZE_SPECIAL, ids, 32, &n));
		ck_assert_msg(n == table[i].n, "%zu: %zu ids", i, n);
		for (size_t k = 0; k < n; k++) ck_assert_msg(ids[k] == table[i].want[k], "%zu: id %zu is %d", i, k, ids[k]);
		lora_tokenizer_destroy(t);
		json_decref(f.config);
	}
	lora_context_destroy(ctx);
}
END_TEST

/* Joins of one score: the leftmost comes first, whatever the token. */
START_TEST(equal_scores)
{
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = NULL;
	int32_t ids[128], want[128];
	char text[121];
	size_t n;
	proto o;
	put_base(&o, 2);
	put_piece(&o, "ba", -1, 1);
	check_ok(ctx, open_bytes(ctx, o.p, o.n, &t));
	for (int i = 0; i < 120; i++) text[i] = i & 1 ? 'a' : 'b';
	text[120] = 0;
	for (size_t len = 2; len <= 120; len += 118) { /* a short word and a long one: two ways of merging */
		check_ok(ctx, lora_tokenizer_encode(t, text, len, 0, ids, 128, &n));
		want[0] = 6;
		for (size_t i = 0; i < len / 2; i++) want[i + 1] = 7;
		ck_assert_uint_eq(n, len / 2 + 1);
		ck_assert_mem_eq(ids, want, n * sizeof *ids);
	}
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

TCase *tok_spm_case(void)
{
	TCase *c = tcase_create("sentencepiece");
	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, refused, 0, (int)(sizeof rows / sizeof *rows));
	tcase_add_loop_test(c, cuts, 0, 2);
	tcase_add_loop_test(c, out_of_memory, 0, 2);
	tcase_add_test(c, control);
	tcase_add_test(c, beside);
	tcase_add_test(c, equal_scores);
	return c;
}
