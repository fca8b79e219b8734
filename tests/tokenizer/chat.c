/* Conversations: equal to what transformers renders, for models' own templates and by name; masks; what is refused. */
#include "tokenizer/chat.h"
#include "work.h"

enum { MOST = 16, ROOM = 1 << 15 };
typedef struct conversation { lora_chat_message m[MOST]; size_t n; } conversation;

static conversation read_messages(const json_t *list)
{
	conversation c = { .n = json_array_size(list) };
	ck_assert_uint_le(c.n, MOST);
	for (size_t i = 0; i < c.n; i++) {
		const json_t *j = json_array_get(list, i), *text = json_object_get(j, "content");
		c.m[i] = (lora_chat_message){ json_string_value(json_object_get(j, "role")), json_string_value(text), json_string_length(text) };
	}
	return c;
}

static void text_is(const lora_tokenizer *t, const char *name, const conversation *c, uint32_t flags, const json_t *want, const char *what)
{
	static char buf[ROOM];
	size_t n = 0;
	lora_status st = lora_chat_render(t, name, c->m, c->n, flags, buf, ROOM, &n);
	if (!json_is_string(want)) {
		ck_assert_msg(st == LORA_E_ARGUMENT, "%s: %s, must be refused: %s", what, lora_status_name(st), buf);
		return;
	}
	ck_assert_msg(!st, "%s: %s", what, lora_context_last_error(t->ctx));
	ck_assert_msg(n == json_string_length(want) && !memcmp(buf, json_string_value(want), n), "%s: %s\nwanted %s", what, buf, json_string_value(want));
}

static void ids_are(const lora_tokenizer *t, const char *name, const conversation *c, uint32_t flags, const json_t *want, const json_t *want_mask)
{
	static int32_t ids[ROOM];
	static uint8_t mask[ROOM];
	size_t n = 0;
	check_ok(t->ctx, lora_chat_encode(t, name, c->m, c->n, flags, ids, mask, ROOM, &n));
	ck_assert_uint_eq(n, json_array_size(want));
	for (size_t i = 0; i < n; i++) {
		ck_assert_int_eq(ids[i], json_integer_value(json_array_get(want, i)));
		if (want_mask) ck_assert_msg(mask[i] == json_integer_value(json_array_get(want_mask, i)), "mask of id %zu", i);
	}
}

/* Every line of a .jsonl file. */
static int each_line(const char *path, void (*check)(const lora_tokenizer *t, const json_t *j), const lora_tokenizer *t)
{
	FILE *f = fopen(path, "rb");
	char *line = NULL;
	size_t cap = 0;
	int n = 0;
	ck_assert_ptr_nonnull(f);
	for (ssize_t len; (len = getdelim(&line, &cap, '\n', f)) > 0; n++) {
		json_t *j = json_loadb(line, (size_t)len, 0, NULL);
		ck_assert_ptr_nonnull(j);
		check(t, j);
		json_decref(j);
	}
	free(line);
	fclose(f);
	return n;
}

static void check_chat(const lora_tokenizer *t, const json_t *j)
{
	conversation c = read_messages(json_object_get(j, "messages"));
	uint32_t flags = json_is_true(json_object_get(j, "add_generation_prompt")) ? LORA_CHAT_GENERATE : 0;
	text_is(t, NULL, &c, flags, json_object_get(j, "rendered"), "golden");
	ids_are(t, NULL, &c, flags, json_object_get(j, "ids"), NULL);
}

static void check_mask(const lora_tokenizer *t, const json_t *j)
{
	conversation c = read_messages(json_object_get(j, "messages"));
	ids_are(t, "chatml", &c, 0, json_object_get(j, "ids"), json_object_get(j, "assistant_mask"));
}

START_TEST(golden)
{
	static const char *const families[] = { "fam-qwen2", "fam-llama3" };
	char path[128];
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = NULL;
	snprintf(path, sizeof path, "tests/golden/tokenizers/%s", families[_i]);
	check_ok(ctx, lora_tokenizer_open(ctx, path, &t));
	snprintf(path, sizeof path, "tests/golden/tokenizers/%s/chat.jsonl", families[_i]);
	ck_assert_int_eq(each_line(path, check_chat, t), 26);
	if (!_i) ck_assert_int_eq(each_line("tests/golden/tokenizers/fam-qwen2/chat_masks.jsonl", check_mask, t), 13);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

/* A tokenizer of single bytes with <s> and </s>, and any template. */
static lora_tokenizer *with_template(lora_context *ctx, const char *template)
{
	lora_tokenizer *t = NULL;
	check_ok(ctx, lora_tokenizer_open(ctx, "tests/golden/tokenizers/fam-gpt2", &t));
	check_ok(ctx, lora__tokenizer_set_chat(t, template, template ? strlen(template) : 0, "<s>", "</s>"));
	return t;
}

static json_t *load(const char *name)
{
	char path[128];
	snprintf(path, sizeof path, "tests/golden/tokenizers/chat/%s", name);
	json_t *j = json_load_file(path, 0, NULL);
	ck_assert_ptr_nonnull(j);
	return j;
}

START_TEST(templates)
{
	lora_context *ctx = check_context(NULL);
	json_t *all = load("templates.json"), *j, *list = json_object_get(all, "templates");
	size_t i;
	json_array_foreach(json_object_get(all, "cases"), i, j) {
		const char *name = json_string_value(json_object_get(j, "name"));
		conversation c = read_messages(json_object_get(j, "messages"));
		lora_tokenizer *t = with_template(ctx, json_string_value(json_object_get(list, name)));
		uint32_t flags = json_is_true(json_object_get(j, "add_generation_prompt")) ? LORA_CHAT_GENERATE : 0;
		text_is(t, NULL, &c, flags, json_object_get(j, "rendered"), name);
		/* what is written by name is the same, where the wording is that of the name */
		if (lora__chat_named(name) && strcmp(name, "phi3")) text_is(t, name, &c, flags, json_object_get(j, "rendered"), name);
		lora_tokenizer_destroy(t);
	}
	ck_assert_uint_ge(i, 140);
	json_decref(all);
	lora_context_destroy(ctx);
}
END_TEST

START_TEST(unknown)
{
	lora_context *ctx = check_context(NULL);
	json_t *all = load("templates.json"), *text;
	const lora_chat_message m = { "user", "Hi", 2 };
	const char *name;
	size_t n;
	json_object_foreach(json_object_get(all, "unknown"), name, text) {
		lora_tokenizer *t = with_template(ctx, json_string_value(text));
		lora_status st = lora_chat_render(t, NULL, &m, 1, 0, NULL, 0, &n);
		ck_assert_msg(st == LORA_E_UNSUPPORTED, "%s: %s", name, lora_status_name(st));
		ck_assert_msg(strstr(lora_context_last_error(ctx), "choose one by name: chatml, ") != NULL, "%s: %s", name, lora_context_last_error(ctx));
		lora_tokenizer_destroy(t);
	}
	/* a known template that was changed in one place is not known any more */
	const json_t *known = json_object_get(json_object_get(all, "templates"), "qwen2.5");
	char *changed = strdup(json_string_value(known)), *at = strstr(changed, "not loop.first");
	memcpy(at, "not loop.lasts", 14);
	lora_tokenizer *t = with_template(ctx, changed);
	check_fails(LORA_E_UNSUPPORTED, lora_chat_render(t, NULL, &m, 1, 0, NULL, 0, &n));
	lora_tokenizer_destroy(t);
	free(changed);
	t = with_template(ctx, NULL);
	check_fails(LORA_E_NOTFOUND, lora_chat_render(t, NULL, &m, 1, 0, NULL, 0, &n));
	ck_assert_ptr_nonnull(strstr(lora_context_last_error(ctx), "the model has no chat_template"));
	lora_tokenizer_destroy(t);
	json_decref(all);
	lora_context_destroy(ctx);
}
END_TEST

/* Messages that a template has no place for, and arguments. */
START_TEST(refused)
{
	static const struct { const char *name, *roles[4], *says; } table[] = { { "gemma", { "system", "user" }, "no place for this role" },
		{ "llama2", { "assistant" }, "take turns" }, { "llama2", { "system" }, "needs a user message" }, { "mistral-v1", { "user", "user" }, "take turns" },
		{ "mistral-v3", { "user", "system" }, "only come first" }, { "llama3.1", { "user", "system" }, "only come first" }, { "zephyr", { "tool" }, "no such role" },
		{ "chatml", { NULL }, "without messages" } };
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = with_template(ctx, NULL);
	lora_chat_message m[4];
	char buf[256];
	int32_t ids[8];
	size_t n = 77;
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		size_t k = 0;
		for (; k < 4 && table[i].roles[k]; k++) m[k] = (lora_chat_message){ table[i].roles[k], "x", 1 };
		check_fails(LORA_E_ARGUMENT, lora_chat_render(t, table[i].name, m, k, 0, buf, sizeof buf, &n));
		ck_assert_msg(strstr(lora_context_last_error(ctx), table[i].says) != NULL, "%s: %s", table[i].name, lora_context_last_error(ctx));
	}
	m[0] = (lora_chat_message){ "user", "\xff", 1 };
	check_fails(LORA_E_ARGUMENT, lora_chat_render(t, "chatml", m, 1, 0, buf, sizeof buf, &n));
	m[0] = (lora_chat_message){ "assistant", "<think></think>", 15 };
	check_fails(LORA_E_ARGUMENT, lora_chat_render(t, "qwen3", m, 1, 0, buf, sizeof buf, &n));
	check_fails(LORA_E_NOTFOUND, lora_chat_render(t, "no such", m, 1, 0, buf, sizeof buf, &n));
	check_fails(LORA_E_ARGUMENT, lora_chat_render(NULL, "chatml", m, 1, 0, buf, sizeof buf, &n));
	check_fails(LORA_E_ARGUMENT, lora_chat_render(t, "chatml", NULL, 1, 0, buf, sizeof buf, &n));
	check_fails(LORA_E_ARGUMENT, lora_chat_render(t, "chatml", m, 1, 2, buf, sizeof buf, &n));
	check_fails(LORA_E_ARGUMENT, lora_chat_render(t, "chatml", m, 1, 0, NULL, 4, &n));
	check_fails(LORA_E_ARGUMENT, lora_chat_render(t, "chatml", m, 1, 0, buf, sizeof buf, NULL));
	check_fails(LORA_E_ARGUMENT, lora_chat_encode(t, "chatml", m, 1, 0, NULL, NULL, 4, &n));
	check_fails(LORA_E_ARGUMENT, lora_chat_encode(t, "chatml", m, 1, 0, ids, NULL, 4, NULL));
	ck_assert_uint_eq(n, 77);
	check_fails(LORA_E_LIMIT, lora_chat_render(t, "chatml", m, 1, 0, buf, 4, &n));
	ck_assert_uint_gt(n, 20);
	check_fails(LORA_E_LIMIT, lora_chat_encode(t, "chatml", m, 1, 0, ids, NULL, 8, &n));
	ck_assert_uint_gt(n, 8);
	m[0].role = NULL;
	check_fails(LORA_E_ARGUMENT, lora_chat_render(t, "chatml", m, 1, 0, buf, sizeof buf, &n));
	ck_assert_int_eq(lora_family_count("chat_template"), lora__chat_count());
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

/* Of every template: the masked ids are those of the answers and their end marks. */
START_TEST(masks)
{
	static const lora_chat_message m[] = { { "user", "a question", 10 }, { "assistant", "the answer", 10 }, { "user", "again", 5 }, { "assistant", "Q.E.D", 5 } };
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = with_template(ctx, NULL);
	static int32_t ids[ROOM], got[ROOM];
	static uint8_t mask[ROOM];
	char text[256];
	for (const lora__chat_rules *r = lora__chat_table; r->m.name; r++) {
		size_t n = 0, k = 0, bytes = 0;
		check_ok(ctx, lora_chat_encode(t, r->m.name, m, 4, LORA_CHAT_GENERATE, ids, mask, ROOM, &n));
		for (size_t i = 0; i < n; i++)
			if (mask[i]) got[k++] = ids[i];
		check_ok(ctx, lora_tokenizer_decode(t, got, k, text, sizeof text, &bytes));
		const char *one = strstr(text, "the answer"), *two = strstr(text, "Q.E.D");
		ck_assert_msg(one && two && one < two && !strstr(text, "question") && !strstr(text, "again"), "%s: %s", r->m.name, text);
		ck_assert_msg(bytes == 0 || text[bytes - 1] != '\n', "%s: a newline behind the end mark", r->m.name);
		ck_assert_msg(r->turn[LORA__CHAT_ASSISTANT].behind[0] == 0 || strlen(two) > 5, "%s: without its end mark: %s", r->m.name, text);
	}
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}
END_TEST

START_TEST(out_of_memory)
{
	static const lora_chat_message m[] = { { "system", "s", 1 }, { "user", "a question", 10 }, { "assistant", "the answer", 10 } };
	static int32_t ids[ROOM];
	static uint8_t mask[ROOM];
	check_alloc ca;
	check_alloc_init(&ca);
	lora_context *ctx = check_context(&ca);
	json_t *all = load("templates.json"), *text;
	const char *name;
	json_object_foreach(json_object_get(all, "templates"), name, text) {
		if (strcmp(name, "llama2") && strcmp(name, "zephyr")) continue;
		lora_tokenizer *t = with_template(ctx, json_string_value(text));
		long calls = 0;
		for (long k = 0; k <= calls; k++) {
			size_t n;
			check_alloc_arm(&ca, k, 0);
			lora_status st = lora_chat_encode(t, NULL, m, 3, 0, ids, mask, ROOM, &n);
			if (!k) calls = ca.calls;
			check_alloc_arm(&ca, 0, 0);
			ck_assert_msg(st == LORA_E_MEMORY || !st, "%s, allocation %ld: %s", name, k, lora_context_last_error(ctx));
		}
		lora_tokenizer_destroy(t);
	}
	json_decref(all);
	lora_context_destroy(ctx);
	check_alloc_done(&ca);
}
END_TEST

TCase *tok_chat_case(void)
{
	TCase *c = tcase_create("chat");
	tcase_set_timeout(c, 120);
	tcase_add_loop_test(c, golden, 0, 2);
	tcase_add_test(c, templates);
	tcase_add_test(c, unknown);
	tcase_add_test(c, refused);
	tcase_add_test(c, masks);
	tcase_add_test(c, out_of_memory);
	return c;
}
