/* Golden lines: text -> ids, ids with special tokens, and back. See tests/golden/tokenizers/README.md. */
#include "work.h"

static const char *const families[] = { "fam-gpt2", "fam-llama3", "fam-qwen2", "fam-o200k", "fam-deepseek", "fam-smollm", "fam-llama2", "fam-gemma",
	"fam-unigram", "fam-wordpiece", "conv-tok512-legacy", "conv-tok512-metaspace", "conv-tok512-exact", "spm-tok512", "spm-rules", "spm-bytes", "spm-user", "gguf-bert" };

enum { ROOM = 1 << 16, BYTES = 1 << 19 };

static void ids_equal(const lora_tokenizer *t, const char *file, int line, const json_t *text, const json_t *want, uint32_t flags)
{
	static int32_t ids[ROOM];
	size_t n = 0;
	lora_status st = lora_tokenizer_encode(t, json_string_value(text), json_string_length(text), flags, ids, ROOM, &n);
	ck_assert_msg(st == LORA_OK, "%s:%d: %s", file, line, lora_context_last_error(t->ctx));
	ck_assert_msg(n == json_array_size(want), "%s:%d: %zu ids, wanted %zu (flags %u)", file, line, n, json_array_size(want), flags);
	for (size_t i = 0; i < n; i++)
		ck_assert_msg(ids[i] == json_integer_value(json_array_get(want, i)), "%s:%d: id %zu is %d, wanted %d (flags %u)", file, line, i, ids[i],
			(int)json_integer_value(json_array_get(want, i)), flags);
}

/* most: tokens of more bytes are missing in the recorded text (llama-cpp-python asks for each token with room for 32 bytes); 0 = none are. */
static void text_equal(const lora_tokenizer *t, const char *file, int line, const json_t *ids, const json_t *want, size_t most)
{
	static int32_t list[ROOM];
	static char buf[BYTES];
	size_t n = 0, bytes = 0;
	for (size_t i = 0; i < json_array_size(ids) && i < ROOM; i++) {
		list[n] = (int32_t)json_integer_value(json_array_get(ids, i));
		if (!most || (lora_tokenizer_decode(t, list + n, 1, buf, BYTES, &bytes) == LORA_OK && bytes <= most)) n++;
	}
	lora_status st = lora_tokenizer_decode(t, list, n, buf, BYTES, &bytes);
	ck_assert_msg(st == LORA_OK, "%s:%d: %s", file, line, lora_context_last_error(t->ctx));
	ck_assert_msg(bytes == json_string_length(want) && !memcmp(buf, json_string_value(want), bytes), "%s:%d: decoded to %.200s, wanted %.200s", file,
		line, buf, json_string_value(want));
}

/* Returns the number of lines. */
int tok_check_lines(const char *tokenizer, const char *file)
{
	size_t length = strlen(tokenizer), most = length > 5 && !strcmp(tokenizer + length - 5, ".gguf") ? 32 : 0;
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = NULL;
	char *line = NULL;
	size_t cap = 0;
	int n = 0;
	check_ok(ctx, lora_tokenizer_open(ctx, tokenizer, &t));
	FILE *f = fopen(file, "rb");
	ck_assert_msg(f != NULL, "%s: can't be read", file);
	for (ssize_t len; (len = getdelim(&line, &cap, '\n', f)) > 0; ) {
		json_error_t e;
		json_t *j = json_loadb(line, (size_t)len, JSON_ALLOW_NUL, &e);
		n++;
		ck_assert_msg(j != NULL, "%s:%d: %s", file, n, e.text);
		ids_equal(t, file, n, json_object_get(j, "text"), json_object_get(j, "ids"), 0);
		ids_equal(t, file, n, json_object_get(j, "text"), json_object_get(j, "ids_special"), LORA_TOKENIZE_SPECIAL);
		text_equal(t, file, n, json_object_get(j, "ids"), json_object_get(j, "decoded"), most);
		json_decref(j);
	}
	free(line);
	fclose(f);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
	return n;
}

START_TEST(golden_lines)
{
	char dir[256], file[300], path[300];
	snprintf(dir, sizeof dir, "tests/golden/tokenizers/%s", families[_i]);
	snprintf(file, sizeof file, "%s/cases.jsonl", dir);
	snprintf(path, sizeof path, "%s%s", dir, strncmp(families[_i], "gguf-", 5) ? "" : "/vocab.gguf");
	int n = tok_check_lines(path, file);
	ck_assert_msg(n >= 40, "%s: only %d lines", file, n);
}
END_TEST

/* The whole set of references, when there is one on this machine. */
START_TEST(golden_all)
{
	const char *root = getenv("LORA_GOLDEN");
	char index[600], path[1200], file[1200];
	json_error_t e;
	const char *name;
	json_t *entry;
	int cases = 0, lines = 0;
	if (!root || !*root) {
		check_skip("the whole set of tokenizer references: LORA_GOLDEN is not set");
		return;
	}
	snprintf(index, sizeof index, "%s/tokenizers/index.json", root);
	json_t *j = json_load_file(index, 0, &e);
	ck_assert_msg(j != NULL, "%s: %s", index, e.text);
	json_object_foreach(json_object_get(j, "cases"), name, entry) {
		const char *where = json_string_value(json_object_get(entry, "tokenizer"));
		if (!where) continue;
		snprintf(path, sizeof path, "%s/tokenizers/%s", root, where);
		snprintf(file, sizeof file, "%s/tokenizers/%s/cases.jsonl", root, name);
		FILE *f = fopen(path, "rb");
		if (f) fclose(f);
		else {
			snprintf(path, sizeof path, "%s/../data/%s", root, where);
			snprintf(file, sizeof file, "%s/tokenizers/%s.jsonl", root, name);
		}
		lines += tok_check_lines(path, file);
		cases++;
	}
	json_decref(j);
	printf("tokenizer references: %d tokenizers, %d lines equal\n", cases, lines);
	ck_assert_int_gt(cases, 0);
}
END_TEST

TCase *tok_golden_case(void)
{
	TCase *c = tcase_create("golden");
	tcase_set_timeout(c, 300);
	tcase_add_loop_test(c, golden_lines, 0, (int)(sizeof families / sizeof *families));
	tcase_add_test(c, golden_all);
	return c;
}
