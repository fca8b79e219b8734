/* Bad input, one test per row: the file is refused with this status and a message that names the cause; or a call is. */
#include "work.h"

#define BPE(vocab, merges) "{\"model\":{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}}"
#define WORDS(more)        "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"a\":1}}" more "}"
#define ADDED(list)        WORDS(",\"added_tokens\":[" list "]")
#define ABC                "{\"a\":0,\"b\":1,\"c\":2,\"ab\":3}"
#define MORE(member)       "{\"model\":{\"type\":\"BPE\",\"vocab\":" ABC ",\"merges\":[\"a b\"]," member "}}"
#define UNIGRAM(members)   "{\"model\":{\"type\":\"Unigram\"," members "}}"

static const struct row { const char *id, *json; lora_status st; const char *says; } rows[] = {
	{ "T01 empty", "", LORA_E_FORMAT, "empty" },
	{ "T01 byte order mark", "\xef\xbb\xbf{}", LORA_E_FORMAT, "byte order mark" },
	{ "T01 trailing comma", "{\"model\":{},}", LORA_E_FORMAT, "line 1" },
	{ "T01 comment", "{} // no", LORA_E_FORMAT, "line 1" },
	{ "T01 not an object", "[]", LORA_E_FORMAT, "must be an object" },
	{ "T01 cut", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\"", LORA_E_FORMAT, "line 1" },
	{ "T01 no model", "{}", LORA_E_FORMAT, "model: missing" },
	{ "T01 version", WORDS(",\"version\":\"2.0\""), LORA_E_UNSUPPORTED, "version" },
	{ "T02 type missing", "{\"model\":{}}", LORA_E_UNSUPPORTED, "model.type: missing" },
	{ "T02 type unknown", "{\"model\":{\"type\":\"Magic\"}}", LORA_E_UNSUPPORTED, "unknown: Magic" },
	{ "T02 type a number", "{\"model\":{\"type\":3}}", LORA_E_FORMAT, "model.type: must be a string" },
	{ "T03 negative", BPE("{\"a\":-1}", "[]"), LORA_E_FORMAT, "id of a is -1" },
	{ "T03 float", BPE("{\"a\":1.5}", "[]"), LORA_E_FORMAT, "id of a is not a whole number" },
	{ "T03 string", BPE("{\"a\":\"1\"}", "[]"), LORA_E_FORMAT, "id of a is not a whole number" },
	{ "T03 2^31", BPE("{\"a\":2147483648}", "[]"), LORA_E_LIMIT, "2147483648" },
	{ "T03 huge gap", BPE("{\"a\":2000000000}", "[]"), LORA_E_LIMIT, "2000000000" },
	{ "T03 no vocabulary", "{\"model\":{\"type\":\"BPE\",\"merges\":[]}}", LORA_E_FORMAT, "model.vocab" },
	{ "T04 two tokens, one id", BPE("{\"a\":0,\"b\":0}", "[]"), LORA_E_FORMAT, "both have id 0" },
	{ "T04 token twice", BPE("{\"a\":0,\"a\":1}", "[]"), LORA_E_FORMAT, "duplicate" },
	{ "T04 token twice in a list", UNIGRAM("\"vocab\":[[\"a\",0],[\"a\",1]]"), LORA_E_FORMAT, "a is there twice: 0 and 1" },
	{ "T05 left unknown", BPE(ABC, "[\"a b\",\"x b\"]"), LORA_E_FORMAT, "merge 1 names x" },
	{ "T05 right unknown", BPE(ABC, "[[\"a\",\"y\"]]"), LORA_E_FORMAT, "merge 0 names y" },
	{ "T06 result unknown", BPE(ABC, "[\"ab ab\"]"), LORA_E_FORMAT, "merge 0 makes abab" },
	{ "T07 shorter than the prefix", "{\"model\":{\"type\":\"BPE\",\"continuing_subword_prefix\":\"##\",\"vocab\":" ABC ",\"merges\":[\"a b\"]}}", LORA_E_FORMAT,
		"merge 0: b does not begin with continuing_subword_prefix ##" },
	{ "T07 prefix ends within a character", "{\"model\":{\"type\":\"BPE\",\"continuing_subword_prefix\":\"x\",\"vocab\":{\"a\":0,\"\xc3\xa9\":1},"
		"\"merges\":[[\"a\",\"\xc3\xa9\"]]}}", LORA_E_FORMAT, "does not begin with" },
	{ "T08 one part", BPE(ABC, "[\"ab\"]"), LORA_E_FORMAT, "merge 0 is not two tokens: ab" },
	{ "T08 three parts", BPE(ABC, "[\"a b c\"]"), LORA_E_FORMAT, "merge 0 is not two tokens: a b c" },
	{ "T08 pair of one", BPE(ABC, "[[\"a\"]]"), LORA_E_FORMAT, "merge 0 is not two tokens" },
	{ "T08 pair of three", BPE(ABC, "[[\"a\",\"b\",\"c\"]]"), LORA_E_FORMAT, "merge 0 is not two tokens" },
	{ "T08 pair of numbers", BPE(ABC, "[[0,1]]"), LORA_E_FORMAT, "merge 0 is not two tokens" },
	{ "T08 no list", BPE(ABC, "{}"), LORA_E_FORMAT, "model.merges: must be a list" },
	{ "T10 unk_id outside", UNIGRAM("\"vocab\":[[\"a\",0]],\"unk_id\":1"), LORA_E_FORMAT, "unk_id: 1 is not in the vocabulary of 1" },
	{ "T10 unk_id negative", UNIGRAM("\"vocab\":[[\"a\",0]],\"unk_id\":-1"), LORA_E_FORMAT, "unk_id" },
	{ "T11 empty", ADDED("{\"id\":2,\"content\":\"\"}"), LORA_E_FORMAT, "added_tokens[0].content: empty" },
	{ "T11 no id", ADDED("{\"content\":\"x\"}"), LORA_E_FORMAT, "added_tokens[0].id: missing" },
	{ "T11 id of another token", ADDED("{\"id\":1,\"content\":\"x\"}"), LORA_E_FORMAT, "id 1 of x belongs to a" },
	{ "T11 other id in the vocabulary", ADDED("{\"id\":2,\"content\":\"a\"}"), LORA_E_FORMAT, "a has id 2 here and 1 in the vocabulary" },
	{ "T11 one id for two", ADDED("{\"id\":2,\"content\":\"x\"},{\"id\":2,\"content\":\"y\"}"), LORA_E_FORMAT, "two tokens have id 2" },
	{ "T11 twice", ADDED("{\"id\":2,\"content\":\"x\"},{\"id\":3,\"content\":\"x\"}"), LORA_E_FORMAT, "x is there twice" },
	{ "T11 no list", WORDS(",\"added_tokens\":{}"), LORA_E_FORMAT, "added_tokens: must be a list" },
	{ "T11 not an object", ADDED("7"), LORA_E_FORMAT, "added_tokens[0]: must be an object" },
	{ "T12 normalizer", WORDS(",\"normalizer\":{\"type\":\"Rot13\"}"), LORA_E_UNSUPPORTED, "normalizer.type: unknown: Rot13" },
	{ "T12 pre-tokenizer", WORDS(",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"), LORA_E_UNSUPPORTED, "pre_tokenizer.type: unknown: UnicodeScripts" },
	{ "T12 post-processor", WORDS(",\"post_processor\":{\"type\":\"Odd\"}"), LORA_E_UNSUPPORTED, "post_processor.type: unknown: Odd" },
	{ "T12 decoder", WORDS(",\"decoder\":{\"type\":\"CTC\"}"), LORA_E_UNSUPPORTED, "decoder.type: unknown: CTC" },
	{ "T12 inside a sequence", WORDS(",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"CTC\"}]}"), LORA_E_UNSUPPORTED,
		"decoder.decoders[1].type: unknown: CTC" },
	{ "T12 no type", WORDS(",\"normalizer\":{}"), LORA_E_FORMAT, "normalizer.type: missing" },
	{ "T12 no list", WORDS(",\"normalizer\":{\"type\":\"Sequence\"}"), LORA_E_FORMAT, "normalizer.normalizers: must be a list" },
	{ "T12 behaviour", WORDS(",\"pre_tokenizer\":{\"type\":\"Punctuation\",\"behavior\":\"Chopped\"}"), LORA_E_UNSUPPORTED, "behavior: unknown: Chopped" },
	{ "T12 prepend scheme", WORDS(",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"prepend_scheme\":\"often\"}"), LORA_E_UNSUPPORTED, "unknown: often" },
	{ "T12 dropout", MORE("\"dropout\":0.1"), LORA_E_UNSUPPORTED, "model.dropout" },
	{ "T12 base64", WORDS(",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"!!!!\"}"), LORA_E_FORMAT, "not base64" },
	{ "T12 map too short", WORDS(",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AAA=\"}"), LORA_E_FORMAT, "only 2 bytes" },
	{ "T12 trie past the end", WORDS(",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"/P///w==\"}"), LORA_E_FORMAT, "trie of 4294967292" },
	{ "T13 no such syntax", WORDS(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a-z&&[^b]]\"}}"), LORA_E_UNSUPPORTED, "intersection" },
	{ "T13 callout", WORDS(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(*LIMIT_MATCH=9)a\"}}"), LORA_E_UNSUPPORTED, "callout" },
	{ "T13 unclosed", WORDS(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a\"}}"), LORA_E_UNSUPPORTED, "group without end" },
	{ "T13 too large", WORDS(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"((a{1000}){1000}){1000}\"}}"), LORA_E_UNSUPPORTED, "pattern" },
	{ "T13 pattern of nothing", WORDS(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"\"}}"), LORA_E_UNSUPPORTED, "empty text" },
	{ "T13 no pattern", WORDS(",\"pre_tokenizer\":{\"type\":\"Split\"}"), LORA_E_FORMAT, "pattern: must be" },
	{ "template without text", WORDS(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}"), LORA_E_UNSUPPORTED, "stands in it 0 times" },
	{ "template with a stranger", WORDS(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},"
		"{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{}}"), LORA_E_FORMAT, "nothing about <s>" },
	{ "template with an id past the end", WORDS(",\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",1],\"sep\":[\"b\",2]}"), LORA_E_FORMAT,
		"adds id 2" },
	{ "unigram entry", UNIGRAM("\"vocab\":[[\"a\",\"0\"]]"), LORA_E_FORMAT, "entry 0 is not [text, score]" },
	{ "unigram without entries", UNIGRAM("\"vocab\":[]"), LORA_E_FORMAT, "vocab" },
};

START_TEST(refused)
{
	const struct row *r = &rows[_i];
	check_alloc ca;
	check_alloc_init(&ca);
	lora_context *ctx = check_context(&ca);
	lora_tokenizer *t = NULL;
	lora_status st = lora__tokenizer_from_json(ctx, r->json, strlen(r->json), "test.json", &t);
	const char *says = lora_context_last_error(ctx);
	ck_assert_msg(st == r->st, "%s: %s (%s) instead of %s", r->id, lora_status_name(st), says, lora_status_name(r->st));
	ck_assert_msg(strstr(says, r->says) != NULL, "%s: the message is: %s", r->id, says);
	ck_assert_msg(strstr(says, "test.json") != NULL, "%s: the message does not name the file: %s", r->id, says);
	ck_assert_ptr_null(t);
	lora_context_destroy(ctx);
	check_alloc_done(&ca);
}
END_TEST

static lora_status open_nested(lora_context *ctx, int depth, lora_tokenizer **t)
{
	lora__text text;
	lora__text_init(&text, ctx);
	lora__text_puts(&text, "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"a\",\"vocab\":{\"a\":0}},\"normalizer\":");
	for (int i = 0; i < depth; i++) lora__text_puts(&text, "{\"type\":\"Sequence\",\"normalizers\":[");
	lora__text_puts(&text, "{\"type\":\"NFC\"}");
	for (int i = 0; i < depth; i++) lora__text_puts(&text, "]}");
	lora__text_puts(&text, "}");
	lora_status st = lora__tokenizer_from_json(ctx, text.data, text.n, "test.json", t);
	lora__text_free(&text);
	return st;
}

START_TEST(t12_nested)
{
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = NULL;
	check_ok(ctx, open_nested(ctx, 50, &t));
	lora_tokenizer_destroy(t);
	check_fails(LORA_E_LIMIT, open_nested(ctx, 100, &t));
	ck_assert_ptr_nonnull(strstr(lora_context_last_error(ctx), "nested more than"));
	check_fails(LORA_E_LIMIT, open_nested(ctx, 10000, &t));
	lora_context_destroy(ctx);
}
END_TEST

/* Many rules that build on each other and on themselves: reading is linear, and encoding ends. */
START_TEST(t09_many_merges)
{
	lora_context *ctx = check_context(NULL);
	lora__text text;
	int n = check_quick() ? 200 : 1000;
	lora__text_init(&text, ctx);
	lora__text_puts(&text, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\":0");
	for (int i = 1; i <= n; i++) lora__text_printf(&text, ",\"%0*d\":%d", i, 0, i);
	lora__text_puts(&text, "},\"merges\":[[\"\",\"\"],[\"0\",\"\"],[\"\",\"0\"]");
	for (int i = 1; i < n; i++) lora__text_printf(&text, ",\"%0*d 0\"", i, 0);
	for (int k = 0; k < 100000; k++) lora__text_puts(&text, ",\"0 0\"");
	lora__text_puts(&text, "]}}");
	lora_tokenizer *t = NULL;
	check_ok(ctx, lora__tokenizer_from_json(ctx, text.data, text.n, "test.json", &t));
	char *zeros = malloc(100000);
	memset(zeros, '0', 100000);
	size_t count = 0;
	int32_t *ids = malloc(100000 * sizeof *ids);
	check_ok(ctx, lora_tokenizer_encode(t, zeros, 100000, 0, ids, 100000, &count));
	int64_t sum = 0; /* id k stands for k zeros */
	for (size_t i = 0; i < count; i++) sum += ids[i];
	ck_assert_int_eq(sum, 100000);
	free(zeros), free(ids);
	lora__text_free(&text);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

START_TEST(t08_both_forms)
{
	static const char *const forms[] = { BPE(ABC, "[\"a b\"]"), BPE(ABC, "[[\"a\",\"b\"]]"), BPE(ABC, "[\"#version: 0.2\",\"a b\"]"),
		"{\"model\":{\"vocab\":" ABC ",\"merges\":[\"a b\"]}}" /* old files name no type */ };
	lora_context *ctx = check_context(NULL);
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		lora_tokenizer *t = tok_from(ctx, forms[i]);
		int32_t ids[8];
		size_t n;
		check_ok(ctx, lora_tokenizer_encode(t, "cab", 3, 0, ids, 8, &n));
		ck_assert_uint_eq(n, 2);
		ck_assert_int_eq(ids[0], 2);
		ck_assert_int_eq(ids[1], 3);
		lora_tokenizer_destroy(t);
	}
	lora_context_destroy(ctx);
}
END_TEST

/* Gaps: an id without token decodes to nothing. */
START_TEST(t03_gaps)
{
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = tok_from(ctx, BPE("{\"a\":0,\"b\":100000}", "[]"));
	static const int32_t ids[] = { 0, 7, 100000 };
	char text[16];
	size_t n;
	ck_assert_int_eq(lora_tokenizer_size(t), 100001);
	check_ok(ctx, lora_tokenizer_decode(t, ids, 3, text, sizeof text, &n));
	ck_assert_str_eq(text, "a b");
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

/* Characters that nothing stands for. */
START_TEST(t10_unknown)
{
	static const struct { const char *json, *says; } table[] = {
		{ BPE(ABC, "[]"), "x is not in the vocabulary, and there is no unk_token" },
		{ MORE("\"unk_token\":\"<u>\""), "x is not in the vocabulary, and neither is unk_token <u>" },
		{ MORE("\"byte_fallback\":true"), "there is no unk_token" },
		{ UNIGRAM("\"vocab\":[[\"a\",0]]"), "there is no unk_id" },
		{ "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0},\"unk_token\":\"[U]\",\"max_input_chars_per_word\":9}}", "neither is unk_token [U]" },
		{ "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0},\"unk_token\":\"[U]\"}}", "neither is unk_token [U]" },
	};
	lora_context *ctx = check_context(NULL);
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		lora_tokenizer *t = tok_from(ctx, table[i].json);
		size_t n = 77;
		check_fails(LORA_E_NOTFOUND, lora_tokenizer_encode(t, "x", 1, 0, NULL, 0, &n));
		ck_assert_msg(strstr(lora_context_last_error(ctx), table[i].says) != NULL, "%zu: %s", i, lora_context_last_error(ctx));
		ck_assert_uint_eq(n, 77);
		lora_tokenizer_destroy(t);
	}
	lora_context_destroy(ctx);
}
END_TEST

/* Patterns of exponential cost end in an error after a bounded number of steps. */
START_TEST(t13_catastrophic)
{
	static const char *const patterns[] = { "(a+)+$", "(a|a)+b", "(?:a?){40}a{40}b", "(.*)*x", "((a*)*)*b" };
	char json[400], text[4001];
	lora_context *ctx = check_context(NULL);
	memset(text, 'a', 4000);
	text[4000] = '!';
	for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
		snprintf(json, sizeof json, WORDS(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"}}"), patterns[i]);
		lora_tokenizer *t = tok_from(ctx, json);
		size_t n;
		double before = lora__now();
		check_fails(LORA_E_LIMIT, lora_tokenizer_encode(t, text, sizeof text, 0, NULL, 0, &n));
		ck_assert_msg(strstr(lora_context_last_error(ctx), "gave up") != NULL, "%s: %s", patterns[i], lora_context_last_error(ctx));
		ck_assert_msg(lora__now() - before < 20, "%s took %.1f s", patterns[i], lora__now() - before);
		lora_tokenizer_destroy(t);
	}
	lora_context_destroy(ctx);
}
END_TEST

/* Byte tokens that are none are ordinary texts. */
START_TEST(t19_byte_tokens)
{
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = tok_from(ctx, "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"merges\":[],\"vocab\":{\"<unk>\":0,\"<0x0>\":1,"
		"\"<0x-1>\":2,\"<0xGG>\":3,\"<0x+1>\":4,\"<0x41>\":5,\"<0x100>\":6}},\"decoder\":{\"type\":\"ByteFallback\"}}");
	static const int32_t ids[] = { 1, 2, 3, 4, 5, 6 };
	int32_t got[4];
	char text[64];
	size_t n;
	check_ok(ctx, lora_tokenizer_decode(t, ids, 6, text, sizeof text, &n));
	ck_assert_str_eq(text, "<0x0><0x-1><0xGG><0x+1>A<0x100>");
	check_ok(ctx, lora_tokenizer_encode(t, "A\x01", 2, 0, got, 4, &n));
	ck_assert_uint_eq(n, 2);
	ck_assert_int_eq(got[0], 5);
	ck_assert_int_eq(got[1], 0);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

TCase *tok_rows_case(void)
{
	TCase *c = tcase_create("rows");
	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, refused, 0, (int)(sizeof rows / sizeof *rows));
	tcase_add_test(c, t03_gaps);
	tcase_add_test(c, t08_both_forms);
	tcase_add_test(c, t09_many_merges);
	tcase_add_test(c, t10_unknown);
	tcase_add_test(c, t12_nested);
	tcase_add_test(c, t13_catastrophic);
	tcase_add_test(c, t19_byte_tokens);
	return c;
}
