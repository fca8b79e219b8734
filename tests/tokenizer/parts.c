/* Each normalizer, pre-tokenizer, added-token option and decoder by itself. Expected values are those of the tokenizers library 0.23.3. */
#include "work.h"

static char seen[1024]; /* pieces that reached the model, each in brackets */

static lora_status record(const void *self, lora__tok_call *c, const char *s, size_t n)
{
	(void)self, (void)c;
	strcat(seen, "[");
	strncat(seen, s, n);
	strcat(seen, "]");
	return LORA_OK;
}
static void drop(lora_context *ctx, void *self) { (void)ctx, (void)self; }
static const lora__tok_model recorder = { "recorder", NULL, record, NULL, drop };

static void pieces_are(const char *part, const char *json, const char *text, const char *want)
{
	char all[2000];
	size_t n;
	lora_context *ctx = check_context(NULL);
	snprintf(all, sizeof all, "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{},\"unk_token\":\"u\"},\"%s\":%s}", part, json);
	lora_tokenizer *t = tok_from(ctx, all);
	const lora__tok_model *real = t->model;
	t->model = &recorder;
	seen[0] = 0;
	lora_status st = lora_tokenizer_encode(t, text, strlen(text), 0, NULL, 0, &n);
	t->model = real;
	ck_assert_msg(st == LORA_OK, "%s %s: %s", json, text, lora_context_last_error(ctx));
	ck_assert_msg(!strcmp(seen, want), "%s on \"%s\": %s, wanted %s", json, text, seen, want);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}

#define N(type, members) "normalizer", "{\"type\":\"" type "\"" members "}"
#define P(type, members) "pre_tokenizer", "{\"type\":\"" type "\"" members "}"
#define SPLIT(re, how)   P("Split", ",\"pattern\":{\"Regex\":\"" re "\"},\"behavior\":\"" how "\"")
#define REPLACE(re, by)  N("Replace", ",\"pattern\":{\"Regex\":\"" re "\"},\"content\":\"" by "\"")

static const struct { const char *part, *json, *text, *want; } pieces[] = {
	{ N("Lowercase", ""), "A\xc3\x89\xc4\xb0\xce\xa3", "[a\xc3\xa9i\xcc\x87\xcf\x83]" },
	{ N("Strip", ""), " \xc2\xa0 a b \n", "[a b]" },
	{ N("Strip", ",\"strip_left\":false"), " a ", "[ a]" },
	{ N("StripAccents", ""), "e\xcc\x81" "a", "[ea]" },
	{ N("NFC", ""), "e\xcc\x81 x\xcc\xa3\xcc\x81", "[\xc3\xa9 x\xcc\xa3\xcc\x81]" },
	{ N("NFD", ""), "\xc3\xa9\xea\xb0\x81", "[e\xcc\x81\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8]" },
	{ N("NFKC", ""), "\xef\xac\x81\xe2\x91\xa0", "[fi1]" },
	{ N("NFKD", ""), "\xef\xac\x81\xc3\xa9", "[fie\xcc\x81]" },
	{ N("Nmt", ""), "a\x01\x62\tc\xe2\x80\x8b", "[ab c ]" },
	{ N("Prepend", ",\"prepend\":\"_\""), "ab", "[_ab]" },
	{ N("ByteLevel", ""), "a \xc3\xa9\n", "[a\xc4\xa0\xc3\x83\xc2\xa9\xc4\x8a]" },
	{ N("BertNormalizer", ""), "A\x01\t\xe4\xb8\xad\xc3\x89", "[a  \xe4\xb8\xad e]" },
	{ N("BertNormalizer", ",\"lowercase\":false"), "\xc3\x89X", "[\xc3\x89X]" },
	{ N("BertNormalizer", ",\"strip_accents\":false"), "\xc3\x89", "[\xc3\xa9]" },
	{ N("BertNormalizer", ",\"clean_text\":false,\"handle_chinese_chars\":false"), "\t\xe4\xb8\xad", "[\t\xe4\xb8\xad]" },
	{ REPLACE("a+", "x"), "aabaa", "[xbx]" },
	{ REPLACE("a*", "x"), "baac", "[xbxcx]" },
	{ REPLACE("$", "!"), "a\\nb", "[a\\nb!]" },
	{ REPLACE("(?m).+", "x"), "a\nb", "[x]" },
	{ REPLACE("\\\\h", "x"), "fg 9", "[xg x]" },
	{ REPLACE("a{1,2}+", "x"), "aaab", "[xb]" },
	{ REPLACE("a{2}?", "x"), "aab", "[xbx]" },
	{ REPLACE("a{,2}b", "x"), "aaab{", "[ax{]" },
	{ REPLACE("\\\\s", "_"), "a\xe1\xa0\x8e\xc2\x85 b", "[a\xe1\xa0\x8e__b]" },
	{ REPLACE("\\\\bx", "y"), "x ax \xcc\x81x", "[y ax \xcc\x81x]" },
	{ REPLACE("\\\\u0041|\\\\x42|\\\\x{43}", "."), "ABCD", "[...D]" },
	{ REPLACE("\\\\p{Letter}|\\\\p{^Any}", "x"), "a1", "[x1]" },
	{ REPLACE("\\\\p{Han}", "x"), "\xe4\xb8\xad\xe3\x80\x81", "[x\xe3\x80\x81]" },
	{ REPLACE("[\\\\s\\\\d&]", "."), "a 1&b", "[a...b]" },
	{ REPLACE("[^\\\\S\\\\n]", "."), "a \n", "[a.\n]" },
	{ SPLIT(" ", "Isolated"), "a  b", "[a][ ][ ][b]" },
	{ SPLIT(" ", "Removed"), "a  b", "[a][b]" },
	{ SPLIT(" ", "MergedWithPrevious"), " a  b", "[ ][a ][ ][b]" },
	{ SPLIT(" ", "MergedWithNext"), "a  b ", "[a][ ][ b][ ]" },
	{ SPLIT(" ", "Contiguous"), "a  b", "[a][  ][b]" },
	{ P("Split", ",\"pattern\":{\"Regex\":\"[a-z]+\"},\"behavior\":\"Removed\",\"invert\":true"), "ab1c", "[ab][c]" },
	{ P("Split", ",\"pattern\":{\"String\":\"--\"},\"behavior\":\"Isolated\""), "a---b", "[a][--][-b]" },
	{ P("Punctuation", ""), "a.b\xe3\x80\x82$", "[a][.][b][\xe3\x80\x82][$]" },
	{ P("Digits", ""), "a12\xc2\xbd" "b", "[a][12\xc2\xbd][b]" },
	{ P("Digits", ",\"individual_digits\":true"), "a12", "[a][1][2]" },
	{ P("WhitespaceSplit", ""), " a\xe2\x80\xa8 b!", "[a][b!]" },
	{ P("Whitespace", ""), "a-b  c_1!?", "[a][-][b][c_1][!?]" },
	{ P("BertPreTokenizer", ""), "a-b  c", "[a][-][b][c]" },
	{ P("CharDelimiterSplit", ",\"delimiter\":\"-\""), "a--b", "[a][b]" },
	{ P("Metaspace", ""), "a b", "[\xe2\x96\x81" "a][\xe2\x96\x81" "b]" },
	{ P("Metaspace", ",\"prepend_scheme\":\"never\",\"split\":false"), "a b", "[a\xe2\x96\x81" "b]" },
	{ P("Metaspace", ",\"add_prefix_space\":false,\"replacement\":\"_\""), " a  b", "[_a][_][_b]" },
	{ P("ByteLevel", ""), "it's  \xc3\xa9", "[\xc4\xa0it]['s][\xc4\xa0][\xc4\xa0\xc3\x83\xc2\xa9]" },
	{ P("ByteLevel", ",\"add_prefix_space\":false,\"use_regex\":false"), "a b", "[a\xc4\xa0" "b]" },
	{ P("Sequence", ",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{\"type\":\"Digits\"}]"), "a1 2", "[a][1][2]" },
};

START_TEST(pieces_of_parts)
{
	pieces_are(pieces[_i].part, pieces[_i].json, pieces[_i].text, pieces[_i].want);
}
END_TEST

static const struct { const char *decoder, *want; } decoded[] = { /* of the tokens: _Hel, ##lo, <0xE2>, <0x82>, <0xAC>, <0x80>, _., </w> */
	{ "null", "_Hel ##lo <0xE2> <0x82> <0xAC> <0x80> _. </w>" },
	{ "{\"type\":\"Fuse\"}", "_Hel##lo<0xE2><0x82><0xAC><0x80>_.</w>" },
	{ "{\"type\":\"Metaspace\",\"replacement\":\"_\"}", "Hel##lo<0xE2><0x82><0xAC><0x80> .</w>" },
	{ "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"never\"}", " Hel##lo<0xE2><0x82><0xAC><0x80> .</w>" },
	{ "{\"type\":\"WordPiece\",\"prefix\":\"##\"}", "_Hello <0xE2> <0x82> <0xAC> <0x80> _. </w>" },
	{ "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"_\"},\"content\":\"\"},{\"type\":\"WordPiece\",\"prefix\":\"##\"}]}",
		"Hello <0xE2> <0x82> <0xAC> <0x80>. </w>" },
	{ "{\"type\":\"ByteFallback\"}", "_Hel##lo\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd_.</w>" },
	{ "{\"type\":\"BPEDecoder\",\"suffix\":\"</w>\"}", "_Hel##lo<0xE2><0x82><0xAC><0x80>_." },
	{ "{\"type\":\"Strip\",\"content\":\"_\",\"start\":1,\"stop\":0}", "Hel##lo<0xE2><0x82><0xAC><0x80>.</w>" },
	{ "{\"type\":\"ByteLevel\"}", "_Hel##lo<0xE2><0x82><0xAC><0x80>_.</w>" },
};

START_TEST(decoders)
{
	static const int32_t ids[] = { 0, 1, 2, 3, 4, 5, 6, 7 };
	char json[900], text[200];
	size_t n;
	lora_context *ctx = check_context(NULL);
	snprintf(json, sizeof json, "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"u\",\"vocab\":{\"_Hel\":0,\"##lo\":1,\"<0xE2>\":2,\"<0x82>\":3,\"<0xAC>\":4,"
		"\"<0x80>\":5,\"_.\":6,\"</w>\":7}},\"decoder\":%s}", decoded[_i].decoder);
	lora_tokenizer *t = tok_from(ctx, json);
	check_ok(ctx, lora_tokenizer_decode(t, ids, 8, text, sizeof text, &n));
	ck_assert_msg(!strcmp(text, decoded[_i].want), "%s: %s, wanted %s", decoded[_i].decoder, text, decoded[_i].want);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

/* Invalid bytes: U+FFFD for each maximal part of a character. */
START_TEST(byte_level_lossy)
{
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = tok_from(ctx, "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"u\",\"vocab\":{\"\xc3\xb0\xc4\x81\xc4\xa2\":0,\"\xc3\xa2\xc4\xa4\":1,\"a\":2,"
		"\"\xc2\xac\":3,\"\xc3\xad\xc5\x82\xc4\xa2\":4,\"\xe4\xb8\xad\":5}},\"decoder\":{\"type\":\"ByteLevel\"}}");
	static const struct { int32_t ids[3]; size_t n; const char *want; } table[] = {
		{ { 1, 3 }, 2, "\xe2\x82\xac" }, { { 1, 2 }, 2, "\xef\xbf\xbd" "a" }, { { 0 }, 1, "\xef\xbf\xbd\x01\xef\xbf\xbd" },
		{ { 4, 2 }, 2, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" "a" }, { { 3 }, 1, "\xef\xbf\xbd" }, { { 5, 2 }, 2, "\xe4\xb8\xad" "a" } };
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		char text[64];
		size_t n;
		check_ok(ctx, lora_tokenizer_decode(t, table[i].ids, table[i].n, text, sizeof text, &n));
		ck_assert_msg(!strcmp(text, table[i].want), "%zu: %s", i, text);
	}
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

/* A map with one rule: "A" becomes "xy"; made by hand as a double array. */
START_TEST(precompiled)
{
	uint8_t map[4 + 4 * 256 + 4] = { 0 };
	char base64[2000], json[2400];
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	map[1] = 4; /* 1024 bytes of trie */
	map[4] = 0, map[5] = 4; /* root: offset 1 */
	size_t child = 1 ^ 'A', leaf = child ^ 2;
	map[4 + 4 * child] = 'A', map[4 + 4 * child + 1] = 9; /* label A, has a leaf, offset 2 */
	map[4 + 4 * leaf + 3] = 0x80; /* the leaf: value 0 */
	memcpy(map + 4 + 1024, "xy", 2);
	size_t k = 0, n = sizeof map;
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)map[i] << 16 | (uint32_t)(i + 1 < n ? map[i + 1] : 0) << 8 | (i + 2 < n ? map[i + 2] : 0);
		for (int q = 0; q < 4; q++) base64[k++] = i + (size_t)q <= n ? digits[v >> (18 - 6 * q) & 63] : '=';
	}
	base64[k] = 0;
	snprintf(json, sizeof json, "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"%s\"}", base64);
	lora_context *ctx = check_context(NULL);
	char all[3000], want[] = "[xyBxyaxy]";
	snprintf(all, sizeof all, "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{},\"unk_token\":\"u\"},\"normalizer\":%s}", json);
	lora_tokenizer *t = tok_from(ctx, all);
	const lora__tok_model *real = t->model;
	size_t count;
	t->model = &recorder, seen[0] = 0;
	check_ok(ctx, lora_tokenizer_encode(t, "ABAaA\xcc\x81", 7, 0, NULL, 0, &count)); /* a cluster goes as a whole, its mark with it */
	t->model = real;
	ck_assert_str_eq(seen, want);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

static void ids_are(lora_tokenizer *t, const char *text, const char *want)
{
	int32_t ids[32];
	char got[200] = "";
	size_t n;
	check_ok(t->ctx, lora_tokenizer_encode(t, text, strlen(text), 0, ids, 32, &n));
	for (size_t i = 0; i < n; i++) snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", i ? " " : "", ids[i]);
	ck_assert_msg(!strcmp(got, want), "\"%s\": %s, wanted %s", text, got, want);
}

START_TEST(added_tokens)
{
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = tok_from(ctx, "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"a\":1,\"b\":2}},\"normalizer\":{\"type\":\"Lowercase\"},"
		"\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true},{\"id\":4,\"content\":\"<s>>\"},{\"id\":5,\"content\":\"word\",\"single_word\":true},"
		"{\"id\":6,\"content\":\"L\",\"lstrip\":true},{\"id\":7,\"content\":\"R\",\"rstrip\":true},{\"id\":8,\"content\":\"Nn\",\"normalized\":true}]}");
	ids_are(t, "a<s>b", "1 3 2");
	ids_are(t, "<s>>", "4"); /* the longest */
	ids_are(t, "<S>", "0");
	ids_are(t, "aword", "0");
	ids_are(t, "word", "5");
	ids_are(t, "a\xc3\xa9word", "0");
	ids_are(t, "<s>word<s>", "3 5 3");
	ids_are(t, "a \n L b", "1 6 0");
	ids_are(t, "aR  b", "1 7 2");
	ids_are(t, "AnNb", "1 8 2"); /* found in the normalised text */
	ids_are(t, "R L", "7 6");
	ck_assert_int_eq(lora_tokenizer_id(t, "<s>>"), 4);
	ck_assert_int_eq(lora_tokenizer_size(t), 9);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

TCase *tok_parts_case(void)
{
	TCase *c = tcase_create("parts");
	tcase_add_loop_test(c, pieces_of_parts, 0, (int)(sizeof pieces / sizeof *pieces));
	tcase_add_loop_test(c, decoders, 0, (int)(sizeof decoded / sizeof *decoded));
	tcase_add_test(c, byte_level_lossy);
	tcase_add_test(c, precompiled);
	tcase_add_test(c, added_tokens);
	return c;
}
