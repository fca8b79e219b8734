/* The public calls: arguments, sizes, texts that are none, memory, threads, files. */
#include <sys/stat.h>
#include <unistd.h>

#include "work.h"

static const char family[] = "tests/golden/tokenizers/fam-llama3";

START_TEST(p01_null)
{
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = (lora_tokenizer *)(uintptr_t)8;
	int32_t ids[4] = { 0 };
	char buf[16];
	size_t n;
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_open(NULL, family, &t));
	ck_assert_ptr_null(t);
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_open(ctx, NULL, &t));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_open(ctx, "", &t));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_open(ctx, family, NULL));
	check_ok(ctx, lora_tokenizer_open(ctx, family, &t));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_encode(NULL, "a", 1, 0, ids, 4, &n));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_encode(t, NULL, 1, 0, ids, 4, &n));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_encode(t, "a", 1, 4, ids, 4, &n));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_encode(t, "a", 1, 0, NULL, 4, &n));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_encode(t, "a", 1, 0, ids, 4, NULL));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_decode(NULL, ids, 1, buf, 16, &n));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_decode(t, NULL, 1, buf, 16, &n));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_decode(t, ids, 1, NULL, 16, &n));
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_decode(t, ids, 1, buf, 16, NULL));
	check_ok(ctx, lora_tokenizer_encode(t, NULL, 0, 0, NULL, 0, &n));
	ck_assert_uint_eq(n, 0);
	ck_assert_int_eq(lora_tokenizer_size(NULL), 0);
	ck_assert_int_eq(lora_tokenizer_id(NULL, "a"), -1);
	ck_assert_int_eq(lora_tokenizer_id(t, NULL), -1);
	ck_assert_int_eq(lora_tokenizer_id(t, "<|begin_of_text|>"), 595);
	ck_assert_int_eq(lora_tokenizer_id(t, "no such token"), -1);
	ck_assert_int_eq(lora_tokenizer_size(t), 600);
	lora_context_destroy(ctx); /* the tokenizer keeps the context alive */
	check_ok(NULL, lora_tokenizer_encode(t, "abc", 3, 0, ids, 4, &n));
	lora_tokenizer_destroy(t);
	lora_tokenizer_destroy(NULL);
}
END_TEST

/* T17 ids that are none, T18 buffers that are too small. */
START_TEST(t17_t18_bounds)
{
	static const char text[] = "First Citizen: speak!";
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = NULL;
	check_ok(ctx, lora_tokenizer_open(ctx, family, &t));
	size_t all = 0, n = 0, bytes;
	int32_t ids[64], probe[64];
	char buf[64], out[64];
	check_fails(LORA_E_LIMIT, lora_tokenizer_encode(t, text, strlen(text), LORA_TOKENIZE_SPECIAL, NULL, 0, &all));
	check_ok(ctx, lora_tokenizer_encode(t, text, strlen(text), LORA_TOKENIZE_SPECIAL, ids, all, &n));
	ck_assert_uint_eq(n, all);
	ck_assert_int_eq(ids[0], 595);
	for (size_t room = 1; room < all; room++) {
		memset(probe, 0x55, sizeof probe);
		check_fails(LORA_E_LIMIT, lora_tokenizer_encode(t, text, strlen(text), LORA_TOKENIZE_SPECIAL, probe, room, &n));
		ck_assert_uint_eq(n, all);
		for (size_t i = 0; i < 64; i++) ck_assert_int_eq(probe[i], 0x55555555);
		ck_assert_ptr_nonnull(strstr(lora_context_last_error(ctx), "room for"));
	}
	check_ok(ctx, lora_tokenizer_decode(t, ids + 1, all - 1, buf, sizeof buf, &bytes));
	ck_assert_str_eq(buf, text);
	for (size_t room = 0; room <= bytes; room++) {
		memset(out, 0x55, sizeof out);
		check_fails(LORA_E_LIMIT, lora_tokenizer_decode(t, ids + 1, all - 1, room ? out : NULL, room, &n));
		ck_assert_uint_eq(n, bytes);
		for (size_t i = 0; i < 64; i++) ck_assert_int_eq(out[i], 0x55);
	}
	check_ok(ctx, lora_tokenizer_decode(t, ids + 1, all - 1, out, bytes + 1, &n));
	static const int32_t bad[] = { -1, 600, INT32_MAX, INT32_MIN };
	for (size_t i = 0; i < 4; i++) {
		int32_t list[2] = { 5, bad[i] };
		n = 99;
		check_fails(LORA_E_ARGUMENT, lora_tokenizer_decode(t, list, 2, out, sizeof out, &n));
		ck_assert_ptr_nonnull(strstr(lora_context_last_error(ctx), "at place 1"));
		ck_assert_uint_eq(n, 99);
	}
	check_ok(ctx, lora_tokenizer_decode(t, NULL, 0, out, sizeof out, &n));
	ck_assert_uint_eq(n, 0);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

/* T16: texts that are no UTF-8 are refused with their place; NUL is a character. */
START_TEST(t16_texts)
{
	static const struct { const char *text; size_t n; long bad; } table[] = { { "", 0, -1 }, { "\0", 1, -1 }, { "a\0b", 3, -1 },
		{ "ab\xed\xa0\x80", 5, 2 }, { "ab\xc3", 3, 2 }, { "\xf0\x9f\x98", 3, 0 }, { "\xff", 1, 0 }, { "a\xc0\x80", 3, 1 }, { "\xf4\x90\x80\x80", 4, 0 },
		{ "\xe2\x82\xac\xe2\x82", 5, 3 }, { "\x80", 1, 0 } };
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = NULL;
	check_ok(ctx, lora_tokenizer_open(ctx, family, &t));
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		int32_t ids[32];
		char back[32];
		size_t n = 0, bytes = 0;
		lora_status st = lora_tokenizer_encode(t, table[i].text, table[i].n, 0, ids, 32, &n);
		if (table[i].bad >= 0) {
			lora_error e = { .struct_size = sizeof e };
			ck_assert_int_eq(st, LORA_E_ARGUMENT);
			check_ok(ctx, lora_context_error(ctx, &e));
			ck_assert_int_eq(e.offset, table[i].bad);
			continue;
		}
		ck_assert_int_eq(st, LORA_OK);
		check_ok(ctx, lora_tokenizer_decode(t, ids, n, back, sizeof back, &bytes));
		ck_assert_uint_eq(bytes, table[i].n);
		ck_assert_mem_eq(back, table[i].text, bytes);
	}
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

static void put_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
}

static void opens(lora_context *ctx, const char *path, lora_status want, const char *says)
{
	lora_tokenizer *t = NULL;
	lora_status st = lora_tokenizer_open(ctx, path, &t);
	ck_assert_msg(st == want, "%s: %s (%s)", path, lora_status_name(st), lora_context_last_error(ctx));
	if (st) ck_assert_msg(strstr(lora_context_last_error(ctx), says) != NULL, "%s: %s", path, lora_context_last_error(ctx));
	lora_tokenizer_destroy(t);
}

START_TEST(files)
{
	char dir[] = "/tmp/lora-tokenizer-XXXXXX", path[64];
	lora_context *ctx = check_context(NULL);
	ck_assert_ptr_nonnull(mkdtemp(dir));
	opens(ctx, "tests/golden/tokenizers/fam-gpt2", LORA_OK, "");
	opens(ctx, "tests/golden/tokenizers/fam-gpt2/tokenizer.json", LORA_OK, "");
	opens(ctx, dir, LORA_E_NOTFOUND, "no tokenizer in this directory");
	snprintf(path, sizeof path, "%s/tokenizer.bin", dir); /* T15: not read at all */
	put_file(path, "x");
	opens(ctx, dir, LORA_E_NOTFOUND, "no tokenizer in this directory");
	unlink(path);
	snprintf(path, sizeof path, "%s/tokenizer.json", dir);
	put_file(path, "{\"model\":");
	opens(ctx, dir, LORA_E_FORMAT, "tokenizer.json");
	unlink(path);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	opens(ctx, path, LORA_E_IO, "");
	unlink(path);
	opens(ctx, path, LORA_E_NOTFOUND, "");
	rmdir(dir);
	lora_context_destroy(ctx);
}
END_TEST

/* A stream gives whole characters only, and in the end all of them; with ids of single bytes every cut occurs. */
START_TEST(stream)
{
	static const char text[] = "caf\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80 end";
	static const char *const names[] = { "fam-gpt2", "fam-llama2", "spm-tok512", "fam-qwen2" };
	lora_context *ctx = check_context(NULL);
	for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
		char path[128], got[256], piece[64];
		lora_tokenizer *t = NULL;
		int32_t ids[128];
		size_t n = 0, at = 0, bytes = 0, bad, parts = 0;
		uint64_t state[2] = { 0, 0 };
		snprintf(path, sizeof path, "tests/golden/tokenizers/%s", names[k]);
		check_ok(ctx, lora_tokenizer_open(ctx, path, &t));
		check_ok(ctx, lora_tokenizer_encode(t, text, sizeof text - 1, 0, ids, 128, &n));
		for (size_t i = 1; i <= n; i++) {
			lora_status st = lora_tokenizer_stream(t, state, ids, i, 0, NULL, 0, &bytes);
			ck_assert(st == LORA_OK ? !bytes : st == LORA_E_LIMIT && bytes);
			check_ok(ctx, lora_tokenizer_stream(t, state, ids, i, 0, piece, sizeof piece, &bytes));
			ck_assert_msg(lora__utf8_valid(piece, bytes, &bad), "%s: part of a character at id %zu", names[k], i);
			ck_assert_msg(!memmem(piece, bytes, "\xef\xbf\xbd", 3), "%s: a broken character at id %zu", names[k], i);
			memcpy(got + at, piece, bytes);
			at += bytes, parts += bytes > 0;
		}
		ck_assert_uint_gt(parts, 8);
		check_ok(ctx, lora_tokenizer_stream(t, state, ids, n, 1, piece, sizeof piece, &bytes));
		ck_assert_uint_eq(bytes, 0);
		ck_assert_msg(at == sizeof text - 1 && !memcmp(got, text, at), "%s: %.*s", names[k], (int)at, got);
		check_fails(LORA_E_ARGUMENT, lora_tokenizer_stream(t, (uint64_t[2]){ 0, n + 1 }, ids, n, 0, NULL, 0, &bytes));
		check_fails(LORA_E_ARGUMENT, lora_tokenizer_stream(t, (uint64_t[2]){ 2, 1 }, ids, n, 0, NULL, 0, &bytes));
		check_fails(LORA_E_ARGUMENT, lora_tokenizer_stream(t, NULL, ids, n, 0, NULL, 0, &bytes));
		/* bytes that never become a character are not waited for without end */
		int32_t lost = lora_tokenizer_id(t, "<0xE4>"), many[40];
		for (int i = 0; i < 40; i++) many[i] = lost;
		uint64_t waiting[2] = { 0, 0 };
		int came = 0;
		for (size_t i = 1; i <= 40 && lost >= 0; i++) {
			check_ok(ctx, lora_tokenizer_stream(t, waiting, many, i, 0, got, sizeof got, &bytes));
			came += bytes > 0;
		}
		if (lost >= 0) ck_assert_int_ge(came, 2);
		lora_tokenizer_destroy(t);
	}
	check_fails(LORA_E_ARGUMENT, lora_tokenizer_stream(NULL, (uint64_t[2]){ 0, 0 }, NULL, 0, 0, NULL, 0, NULL));
	lora_context_destroy(ctx);
}
END_TEST

/* Everything that can be in a tokenizer, in two files, for the allocation sweep. */
static const char *const swept[] = {
	"{\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true},{\"id\":7,\"content\":\"Q\",\"normalized\":true,\"lstrip\":true,\"rstrip\":true}],"
	"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Lowercase\"},{\"type\":\"BertNormalizer\"},{\"type\":\"Prepend\","
	"\"prepend\":\"a\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"b+\"},\"content\":\"b\"}]},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
	"{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{Han}|\\\\s+(?!\\\\S)\"},\"behavior\":\"MergedWithNext\"},{\"type\":\"Metaspace\"},{\"type\":\"Digits\"},"
	"{\"type\":\"ByteLevel\"}]},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}},"
	"{\"SpecialToken\":{\"id\":\"<s>\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[6]}}},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteLevel\"},"
	"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"b\"},\"content\":\"x\"},{\"type\":\"Metaspace\"},{\"type\":\"WordPiece\"},{\"type\":\"ByteFallback\"}]},"
	"\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":\"\",\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"ab\":3,"
	"\"\xc4\xa0\":4,\"abab\":5},\"merges\":[\"a b\",[\"ab\",\"ab\"]]}}",
	"{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"BAAAAAAAAAA=\"},\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},\"decoder\":{\"type\":"
	"\"Strip\",\"content\":\"a\",\"start\":1},\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"?\",0],[\"a\",-1],[\"ab\",-1.5]]}}",
	"{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"decoder\":{\"type\":\"BPEDecoder\"},\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":0,\"a\":1,"
	"\"##b\":2},\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":20}}",
};

static lora_status use(lora_context *ctx, const char *json, int32_t *ids, size_t *n, char *text)
{
	static const char sample[] = "abab ABAB 12<s> abababababababababababababababababababababababab \xe4\xb8\xad \xc3\xa9 e\xcc\x81 Q x";
	lora_tokenizer *t = NULL;
	lora_status st = lora__tokenizer_from_json(ctx, json, strlen(json), "test.json", &t);
	size_t bytes;
	if (!st) st = lora_tokenizer_encode(t, sample, sizeof sample - 1, LORA_TOKENIZE_SPECIAL, ids, 256, n);
	if (!st) st = lora_tokenizer_decode(t, ids, *n, text, 1024, &bytes);
	lora_tokenizer_destroy(t);
	return st;
}

START_TEST(out_of_memory)
{
	static int32_t want[256], ids[256];
	char text[1024], again[1024];
	size_t n_want = 0, n = 0;
	check_alloc ca;
	check_alloc_init(&ca);
	lora_context *ctx = check_context(&ca);
	check_alloc_arm(&ca, 0, 0);
	check_ok(ctx, use(ctx, swept[_i], want, &n_want, text));
	long calls = ca.calls;
	ck_assert_uint_gt(n_want, 10);
	for (long k = 1; k <= calls; k += check_quick() ? 7 : 1)
		for (int forever = 0; forever < 2; forever++) {
			check_alloc_arm(&ca, k, forever);
			lora_status st = use(ctx, swept[_i], ids, &n, again);
			check_alloc_arm(&ca, 0, 0);
			ck_assert_msg(st == LORA_E_MEMORY || st == LORA_OK, "allocation %ld: %s: %s", k, lora_status_name(st), lora_context_last_error(ctx));
			if (!st) ck_assert_msg(n == n_want && !memcmp(ids, want, n * sizeof *ids) && !strcmp(text, again), "allocation %ld: another result", k);
		}
	lora_context_destroy(ctx);
	check_alloc_done(&ca);
}
END_TEST

enum { THREADS = 4, ROUNDS = 30 };
static const char shared_text[] = "Before we proceed any further, hear me speak. 1234 \xe4\xb8\xad\xe6\x96\x87 caf\xc3\xa9 <|eot_id|> We'll \n\n  do it";

static void *many_rounds(void *arg)
{
	const lora_tokenizer *t = arg;
	static int32_t want[128];
	static size_t n_want;
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	int32_t ids[128];
	char back[256];
	size_t n, bytes;
	for (int k = 0; k < ROUNDS; k++) {
		if (lora_tokenizer_encode(t, shared_text, sizeof shared_text - 1, LORA_TOKENIZE_SPECIAL, ids, 128, &n)) return "encode failed";
		if (lora_tokenizer_decode(t, ids + 1, n - 1, back, sizeof back, &bytes)) return "decode failed";
		if (bytes != sizeof shared_text - 1 || memcmp(back, shared_text, bytes)) return "decoded to another text";
		pthread_mutex_lock(&lock);
		int same = !n_want || (n == n_want && !memcmp(ids, want, n * sizeof *ids));
		memcpy(want, ids, n * sizeof *ids), n_want = n;
		pthread_mutex_unlock(&lock);
		if (!same) return "threads differ";
	}
	return NULL;
}

START_TEST(threads)
{
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = NULL;
	pthread_t id[THREADS];
	check_ok(ctx, lora_tokenizer_open(ctx, family, &t));
	for (int i = 0; i < THREADS; i++) ck_assert_int_eq(pthread_create(&id[i], NULL, many_rounds, t), 0);
	for (int i = 0; i < THREADS; i++) {
		void *problem;
		pthread_join(id[i], &problem);
		ck_assert_msg(problem == NULL, "%s", (const char *)problem);
	}
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

TCase *tok_api_case(void)
{
	TCase *c = tcase_create("calls");
	tcase_set_timeout(c, 120);
	tcase_add_test(c, p01_null);
	tcase_add_test(c, t17_t18_bounds);
	tcase_add_test(c, t16_texts);
	tcase_add_test(c, files);
	tcase_add_test(c, stream);
	tcase_add_loop_test(c, out_of_memory, 0, (int)(sizeof swept / sizeof *swept));
	tcase_add_test(c, threads);
	return c;
}
