/* Vocabularies without tokenizer.json: the golden tokenizers taken apart into the older files must give the same lines; and the rows of bad input
 * for those files. */
#include <jansson.h>
#include <unistd.h>

#include "work.h"

typedef struct folder { char dir[64]; } folder;

static folder make_folder(void)
{
	folder f = { "/tmp/lora-vocabulary-XXXXXX" };
	ck_assert_ptr_nonnull(mkdtemp(f.dir));
	return f;
}

static FILE *create(const folder *f, const char *name)
{
	char path[128];
	snprintf(path, sizeof path, "%s/%s", f->dir, name);
	FILE *out = fopen(path, "wb");
	ck_assert_ptr_nonnull(out);
	return out;
}

static void put(const folder *f, const char *name, const char *text)
{
	FILE *out = create(f, name);
	fputs(text, out);
	fclose(out);
}

static void drop(const folder *f)
{
	static const char *const names[] = { "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt",
		"chat_template.jinja" };
	char path[128];
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		snprintf(path, sizeof path, "%s/%s", f->dir, names[i]);
		unlink(path);
	}
	ck_assert_int_eq(rmdir(f->dir), 0);
}

static json_t *golden(const char *family)
{
	char path[128];
	snprintf(path, sizeof path, "tests/golden/tokenizers/%s/tokenizer.json", family);
	json_t *j = json_load_file(path, 0, NULL);
	ck_assert_ptr_nonnull(j);
	return j;
}

/* vocab.json without the added tokens, merges.txt, and the added tokens as tokenizer_config.json has them. */
static void take_apart(const folder *f, json_t *j, const char *class, const char *merges_name)
{
	json_t *model = json_object_get(j, "model"), *vocab = json_deep_copy(json_object_get(model, "vocab")), *m, *decoder = json_object();
	char path[128], id[32];
	size_t i;
	json_array_foreach(json_object_get(j, "added_tokens"), i, m) {
		json_t *copy = json_deep_copy(m);
		json_object_del(vocab, json_string_value(json_object_get(m, "content")));
		snprintf(id, sizeof id, "%d", (int)json_integer_value(json_object_get(m, "id")));
		json_object_del(copy, "id");
		json_object_set_new(decoder, id, copy);
	}
	snprintf(path, sizeof path, "%s/vocab.json", f->dir);
	ck_assert_int_eq(json_dump_file(vocab, path, 0), 0);
	FILE *out = create(f, merges_name);
	fputs("#version: 0.2\n", out);
	json_array_foreach(json_object_get(model, "merges"), i, m)
		fprintf(out, "%s %s\n", json_string_value(json_array_get(m, 0)), json_string_value(json_array_get(m, 1)));
	fclose(out);
	json_t *config = json_pack("{ss so sb}", "tokenizer_class", class, "added_tokens_decoder", decoder, "add_prefix_space", 0);
	snprintf(path, sizeof path, "%s/tokenizer_config.json", f->dir);
	ck_assert_int_eq(json_dump_file(config, path, 0), 0);
	json_decref(config);
	json_decref(vocab);
}

START_TEST(bpe_files)
{
	static const char *const table[][2] = { { "fam-gpt2", "GPT2Tokenizer" }, { "fam-qwen2", "Qwen2Tokenizer" }, { "fam-qwen2", "Qwen2TokenizerFast" } };
	char cases[128];
	folder f = make_folder();
	json_t *j = golden(table[_i][0]);
	take_apart(&f, j, table[_i][1], "merges.txt");
	snprintf(cases, sizeof cases, "tests/golden/tokenizers/%s/cases.jsonl", table[_i][0]);
	ck_assert_int_ge(tok_check_lines(f.dir, cases), 40);
	json_decref(j);
	drop(&f);
}
END_TEST

START_TEST(word_files)
{
	folder f = make_folder();
	json_t *j = golden("fam-wordpiece"), *vocab = json_object_get(json_object_get(j, "model"), "vocab"), *id;
	const char *lines[1000] = { NULL }, *text;
	json_object_foreach(vocab, text, id) lines[json_integer_value(id)] = text;
	FILE *out = create(&f, "vocab.txt");
	for (size_t i = 0; i < json_object_size(vocab); i++) fprintf(out, "%s\n", lines[i]);
	fclose(out);
	ck_assert_int_ge(tok_check_lines(f.dir, "tests/golden/tokenizers/fam-wordpiece/cases.jsonl"), 40);
	/* the case is a setting */
	put(&f, "tokenizer_config.json", "{\"tokenizer_class\":\"BertTokenizer\",\"do_lower_case\":false}");
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = NULL;
	int32_t ids[8];
	size_t n;
	check_ok(ctx, lora_tokenizer_open(ctx, f.dir, &t));
	check_ok(ctx, lora_tokenizer_encode(t, "Q", 1, 0, ids, 8, &n));
	ck_assert_int_eq(ids[0], lora_tokenizer_id(t, "[UNK]"));
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
	json_decref(j);
	drop(&f);
}
END_TEST

#define VOCAB "{\"a\":0,\"b\":1,\"ab\":2,\"<|endoftext|>\":3,\"<s>\":4,\"</s>\":5}"
typedef struct row { const char *id, *vocab, *merges, *lines, *config, *added; lora_status st; const char *says; } row;
static const row rows[] = {
	{ "no merges", VOCAB, NULL, NULL, NULL, NULL, LORA_E_NOTFOUND, "merges.txt" },
	{ "T01 vocabulary cut", "{\"a\":", "a b\n", NULL, NULL, NULL, LORA_E_FORMAT, "vocab.json" },
	{ "T01 config cut", VOCAB, "a b\n", NULL, "{\"a\"", NULL, LORA_E_FORMAT, "tokenizer_config.json" },
	{ "T01 config a list", VOCAB, "a b\n", NULL, "[]", NULL, LORA_E_FORMAT, "tokenizer_config.json" },
	{ "T01 vocabulary a list", "[]", "a b\n", NULL, NULL, NULL, LORA_E_FORMAT, "vocab" },
	{ "T03 negative", "{\"a\":-1}", "", NULL, NULL, NULL, LORA_E_FORMAT, "id of a is -1" },
	{ "T04 twice", "{\"a\":0,\"a\":1}", "", NULL, NULL, NULL, LORA_E_FORMAT, "vocab.json" },
	{ "T04 one id", "{\"a\":0,\"b\":0}", "", NULL, NULL, NULL, LORA_E_FORMAT, "both have id 0" },
	{ "T05 unknown", VOCAB, "#version: 0.2\na b\na x\n", NULL, NULL, NULL, LORA_E_FORMAT, "merge 1 names x" },
	{ "T06 makes nothing", VOCAB, "ab ab\n", NULL, NULL, NULL, LORA_E_FORMAT, "merge 0 makes abab" },
	{ "T08 three parts", VOCAB, "a b c\n", NULL, NULL, NULL, LORA_E_FORMAT, "merge 0 is not two tokens" },
	{ "merges not UTF-8", VOCAB, "a \xff\n", NULL, NULL, NULL, LORA_E_FORMAT, "not UTF-8 at byte 2" },
	{ "T02 class unknown", VOCAB, "a b\n", NULL, "{\"tokenizer_class\":\"MagicTokenizer\"}", NULL, LORA_E_UNSUPPORTED, "tokenizer_class MagicTokenizer" },
	{ "T11 id of another", VOCAB, "a b\n", NULL, "{\"added_tokens_decoder\":{\"1\":{\"content\":\"<x>\"}}}", NULL, LORA_E_FORMAT, "id 1 of <x> belongs to b" },
	{ "T11 key is no id", VOCAB, "a b\n", NULL, "{\"added_tokens_decoder\":{\"x\":{\"content\":\"<x>\"}}}", NULL, LORA_E_FORMAT, "x is no id" },
	{ "T11 far away", VOCAB, "a b\n", NULL, "{\"added_tokens_decoder\":{\"99999999\":{\"content\":\"<x>\"}}}", NULL, LORA_E_LIMIT, "99999999" },
	{ "T11 not a number", VOCAB, "a b\n", NULL, NULL, "{\"<x>\":\"9\"}", LORA_E_FORMAT, "added_tokens.json" },
	{ "lines twice", NULL, NULL, "[UNK]\na\na\n", NULL, NULL, LORA_E_FORMAT, "a is there twice: 1 and 2" },
	{ "line empty", NULL, NULL, "[UNK]\n\na\n", NULL, NULL, LORA_E_FORMAT, "token 1 is empty" },
	{ "lines not UTF-8", NULL, NULL, "[UNK]\n\xff\n", NULL, NULL, LORA_E_FORMAT, "token 1 is not UTF-8" },
	{ "basic tokenizing off", NULL, NULL, "[UNK]\na\n", "{\"do_basic_tokenize\":false}", NULL, LORA_E_UNSUPPORTED, "do_basic_tokenize" },
	{ "chat template a number", VOCAB, "a b\n", NULL, "{\"chat_template\":7}", NULL, LORA_E_FORMAT, "chat_template" },
	{ "good", VOCAB, "a b\n", NULL, NULL, NULL, LORA_OK, "" },
};

START_TEST(refused)
{
	const row *r = &rows[_i];
	check_alloc ca;
	check_alloc_init(&ca);
	lora_context *ctx = check_context(&ca);
	lora_tokenizer *t = NULL;
	folder f = make_folder();
	if (r->vocab) put(&f, "vocab.json", r->vocab);
	if (r->merges) put(&f, "merges.txt", r->merges);
	if (r->lines) put(&f, "vocab.txt", r->lines);
	if (r->config) put(&f, "tokenizer_config.json", r->config);
	if (r->added) put(&f, "added_tokens.json", r->added);
	lora_status st = lora_tokenizer_open(ctx, f.dir, &t);
	ck_assert_msg(st == r->st, "%s: %s (%s)", r->id, lora_status_name(st), lora_context_last_error(ctx));
	if (st) ck_assert_msg(strstr(lora_context_last_error(ctx), r->says) != NULL, "%s: %s", r->id, lora_context_last_error(ctx));
	lora_tokenizer_destroy(t);
	drop(&f);
	lora_context_destroy(ctx);
	check_alloc_done(&ca);
}
END_TEST

/* Special tokens, gaps, ends, and flags from the files beside. */
START_TEST(beside)
{
	folder f = make_folder();
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = NULL;
	int32_t ids[16];
	size_t n;
	char text[32];
	put(&f, "vocab.json", VOCAB);
	put(&f, "merges.txt", "a b\n");
	put(&f, "tokenizer_config.json", "{\"tokenizer_class\":\"GPT2Tokenizer\",\"add_bos_token\":true,\"bos_token\":{\"content\":\"</s>\"}}");
	put(&f, "added_tokens.json", "{\"<far>\":9}");
	put(&f, "special_tokens_map.json", "{\"additional_special_tokens\":[\"<s>\"]}");
	check_ok(ctx, lora_tokenizer_open(ctx, f.dir, &t));
	static const char sample[] = "ab<far>a<s><|endoftext|>";
	static const int32_t want[] = { 5, 2, 9, 0, 4, 3 };
	check_ok(ctx, lora_tokenizer_encode(t, sample, sizeof sample - 1, LORA_TOKENIZE_SPECIAL, ids, 16, &n));
	ck_assert_uint_eq(n, 6);
	ck_assert_mem_eq(ids, want, sizeof want);
	ck_assert_int_eq(lora_tokenizer_size(t), 10);
	check_ok(ctx, lora_tokenizer_decode(t, want + 1, 5, text, sizeof text, &n));
	ck_assert_str_eq(text, sample);
	lora_tokenizer_destroy(t);
	put(&f, "tokenizer_config.json", "{\"tokenizer_class\":\"RobertaTokenizer\"}");
	check_ok(ctx, lora_tokenizer_open(ctx, f.dir, &t));
	check_ok(ctx, lora_tokenizer_encode(t, "ab", 2, LORA_TOKENIZE_SPECIAL, ids, 16, &n));
	static const int32_t around[] = { 4, 2, 5 };
	ck_assert_uint_eq(n, 3);
	ck_assert_mem_eq(ids, around, sizeof around);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
	drop(&f);
}
END_TEST

TCase *tok_files_case(void)
{
	TCase *c = tcase_create("files");
	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, bpe_files, 0, 3);
	tcase_add_test(c, word_files);
	tcase_add_loop_test(c, refused, 0, (int)(sizeof rows / sizeof *rows));
	tcase_add_test(c, beside);
	return c;
}
