/* The known templates as rules, one entry each, and rendering. Source: the chat_template of the models named, in the form that a conversation
 * without tools takes. */
#include "tokenizer/chat.h"

#define SAME(before, behind) { before, behind, 0, 0, 0, 0 }
#define TRIM(before, behind) { before, behind, 1, 0, 0, 0 }
#define NONE { "", "", 0, 1, 0, 0 }
#define IM "<|im_start|>\3\n"
#define IM_TURNS { SAME(IM, "<|im_end|>\n"), SAME(IM, "<|im_end|>\n"), SAME(IM, "<|im_end|>\n") }
#define IM_ASK "<|im_start|>assistant\n"
#define HEADER "<|start_header_id|>\3<|end_header_id|>\n\n"
#define L3_TURN TRIM(HEADER, "<|eot_id|>")
#define L3_ASK "<|start_header_id|>assistant<|end_header_id|>\n\n"
#define L31_DATE "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
#define GEMMA_USER TRIM("<start_of_turn>user\n", "<end_of_turn>\n")
#define GEMMA_MODEL TRIM("<start_of_turn>model\n", "<end_of_turn>\n")

const lora__chat_rules lora__chat_table[] = {
	{ { "chatml", "<|im_start|>role, newline, text, <|im_end|>", "OpenAI; Nous Hermes, Yi, SmolLM", NULL }, "", "", IM_TURNS, LORA__CHAT_OWN_TURN,
		LORA__CHAT_ANY_ROLE, IM_ASK, "" },
	{ { "qwen2", "ChatML with Qwen 2's system prompt when there is none", "Qwen2-Instruct", NULL }, "",
		"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", IM_TURNS, LORA__CHAT_OWN_TURN, LORA__CHAT_ANY_ROLE, IM_ASK, "" },
	{ { "qwen2.5", "ChatML with Qwen 2.5's system prompt when there is none", "Qwen2.5-Instruct", NULL }, "",
		"<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n", IM_TURNS, LORA__CHAT_OWN_TURN, 0, IM_ASK, "" },
	{ { "qwen3", "ChatML; answers behind the last question begin with an empty thought", "Qwen3", NULL }, "", "", IM_TURNS, LORA__CHAT_OWN_TURN,
		LORA__CHAT_THINK_LAST | LORA__CHAT_NO_THOUGHT, IM_ASK, "" },
	{ { "llama2", "[INST] with the system prompt inside the first question", "Llama-2-chat", NULL }, "", "",
		{ SAME("<<SYS>>\n", "\n<</SYS>>\n\n"), SAME("\1[INST] ", " [/INST]"), TRIM(" ", " \2") }, LORA__CHAT_INTO_FIRST_USER,
		LORA__CHAT_ALTERNATE | LORA__CHAT_TRIM_TURN, "", "" },
	{ { "llama3", "<|start_header_id|>role<|end_header_id|>, text, <|eot_id|>", "Meta-Llama-3-Instruct", NULL }, "\1", "", { L3_TURN, L3_TURN, L3_TURN },
		LORA__CHAT_OWN_TURN, LORA__CHAT_ANY_ROLE, L3_ASK, "" },
	{ { "llama3.1", "Llama 3 with the dates of 3.1 in the system prompt", "Llama-3.1-Instruct", NULL }, "\1",
		"<|start_header_id|>system<|end_header_id|>\n\n" L31_DATE "<|eot_id|>", { TRIM(HEADER L31_DATE, "<|eot_id|>"), L3_TURN, L3_TURN }, LORA__CHAT_OWN_TURN,
		LORA__CHAT_SYSTEM_FIRST, L3_ASK, "" },
	{ { "gemma", "<start_of_turn>, no system prompt", "gemma-it, gemma-2-it", NULL }, "\1", "", { NONE, GEMMA_USER, GEMMA_MODEL }, LORA__CHAT_OWN_TURN,
		LORA__CHAT_ALTERNATE, "<start_of_turn>model\n", "" },
	{ { "gemma3", "<start_of_turn>, the system prompt in front of the first question", "gemma-3-it", NULL }, "\1", "",
		{ SAME("", "\n\n"), GEMMA_USER, GEMMA_MODEL }, LORA__CHAT_INTO_FIRST_USER, LORA__CHAT_ALTERNATE, "<start_of_turn>model\n", "" },
	{ { "mistral", "[INST], no system prompt", "Mistral-7B-Instruct-v0.1, v0.2", NULL }, "\1", "", { NONE, SAME("[INST] ", " [/INST]"), SAME("", "\2") },
		LORA__CHAT_OWN_TURN, LORA__CHAT_ALTERNATE, "", "" },
	{ { "mistral-v1", "[INST] with spaces, the system prompt in the first question", "mistral-common, v1", NULL }, "\1", "",
		{ SAME("", "\n\n"), SAME(" [INST] ", " [/INST]"), SAME(" ", "\2") }, LORA__CHAT_INTO_FIRST_USER, LORA__CHAT_ALTERNATE, "", "" },
	{ { "mistral-v3", "[INST], the system prompt in the last question", "Mistral-7B-Instruct-v0.3, Large 2407", NULL }, "\1", "",
		{ SAME("", "\n\n"), SAME("[INST] ", "[/INST]"), TRIM(" ", "\2") }, LORA__CHAT_INTO_LAST_USER, LORA__CHAT_ALTERNATE, "", "" },
	{ { "mistral-v3-tekken", "v3 without spaces", "Mistral-Nemo-Instruct-2407", NULL }, "\1", "", { SAME("", "\n\n"), SAME("[INST]", "[/INST]"), SAME("", "\2") },
		LORA__CHAT_INTO_LAST_USER, LORA__CHAT_ALTERNATE, "", "" },
	{ { "mistral-v7", "[SYSTEM_PROMPT] of its own", "Mistral-Large-2411", NULL }, "\1", "",
		{ SAME("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"), SAME("[INST] ", "[/INST]"), SAME(" ", "\2") }, LORA__CHAT_OWN_TURN, 0, "", "" },
	{ { "phi3", "<|role|>, text, <|end|>; EOS at the end", "Phi-3", NULL }, "", "",
		{ SAME("<|system|>\n", "<|end|>\n"), SAME("<|user|>\n", "<|end|>\n"), SAME("<|assistant|>\n", "<|end|>\n") }, LORA__CHAT_OWN_TURN, 0, "<|assistant|>\n", "\2" },
	{ { "phi4", "<|im_start|>role<|im_sep|>, text, <|im_end|>", "phi-4", NULL }, "", "",
		{ SAME("<|im_start|>system<|im_sep|>", "<|im_end|>"), SAME("<|im_start|>user<|im_sep|>", "<|im_end|>"),
		SAME("<|im_start|>assistant<|im_sep|>", "<|im_end|>") }, LORA__CHAT_OWN_TURN, 0, "<|im_start|>assistant<|im_sep|>", "" },
	{ { "zephyr", "<|role|>, text, EOS, newline", "zephyr-7b-beta, TinyLlama-1.1B-Chat", NULL }, "", "",
		{ SAME("<|system|>\n", "\2\n"), SAME("<|user|>\n", "\2\n"), SAME("<|assistant|>\n", "\2\n") }, LORA__CHAT_OWN_TURN, 0, "<|assistant|>\n", "" },
	{ { "deepseek", "User: and Assistant:", "DeepSeek-LLM, V2", NULL }, "\1", "", { SAME("", "\n\n"), SAME("User: ", "\n\n"), SAME("Assistant: ", "\2") },
		LORA__CHAT_OWN_TURN, 0, "Assistant:", "" },
	{ { "deepseek-coder", "### Instruction: and ### Response:", "deepseek-coder-instruct", NULL }, "\1",
		"You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and you only answer questions related to "
		"computer science. For politically sensitive questions, security and privacy issues, and other non-computer science questions, you will refuse to answer\n",
		{ SAME("", ""), SAME("### Instruction:\n", "\n"), SAME("### Response:\n", "\n<|EOT|>\n") }, LORA__CHAT_OWN_TURN, LORA__CHAT_SYSTEM_FIRST, "### Response:\n", "" },
	{ { "deepseek3", "<\xef\xbd\x9cUser\xef\xbd\x9c> and <\xef\xbd\x9c" "Assistant\xef\xbd\x9c>", "DeepSeek-V3", NULL }, "\1", "",
		{ SAME("", ""), SAME("<\xef\xbd\x9cUser\xef\xbd\x9c>", ""),
		SAME("<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>", "<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>") }, LORA__CHAT_OWN_TURN, LORA__CHAT_SYSTEM_FIRST,
		"<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>", "" },
	{ { "deepseek-r1", "DeepSeek 3; an answer to come begins with <think>", "DeepSeek-R1 and its distilled models", NULL }, "\1", "",
		{ SAME("", ""), SAME("<\xef\xbd\x9cUser\xef\xbd\x9c>", ""),
		SAME("<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>", "<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>") }, LORA__CHAT_OWN_TURN,
		LORA__CHAT_SYSTEM_FIRST | LORA__CHAT_NO_THOUGHT, "<\xef\xbd\x9c" "Assistant\xef\xbd\x9c><think>\n", "" },
	{ .m = { .name = NULL } },
};

int32_t lora__chat_count(void) { return (int32_t)(sizeof lora__chat_table / sizeof *lora__chat_table) - 1; }
const lora__member *lora__chat_member(int32_t i) { return &lora__chat_table[i].m; }

const lora__chat_rules *lora__chat_named(const char *name)
{
	for (const lora__chat_rules *r = lora__chat_table; r->m.name; r++)
		if (!strcmp(r->m.name, name)) return r;
	return NULL;
}

void lora__chat_text_free(lora__chat_text *t)
{
	lora_context *ctx = t->text.ctx;
	lora__text_free(&t->text);
	lora__free(ctx, t->spans);
	t->spans = NULL;
}

typedef struct drawing { const lora_tokenizer *t; const lora__chat_rules *r; const lora_chat_message *m; size_t n; lora__chat_text *out; } drawing;

static lora_status put(const drawing *d, const char *s, const char *role)
{
	lora__text *to = &d->out->text;
	for (; *s; s++) {
		const char *token = *s == 1 ? d->t->chat.bos : d->t->chat.eos;
		if (*s == 3) lora__text_puts(to, role);
		else if (*s != 1 && *s != 2) lora__text_add(to, s, 1);
		else if (!token && d->r->flags & LORA__CHAT_OWN) continue; /* what a template names and nobody defines is empty */
		else if (!token) return lora__fail_at(d->t->ctx, LORA_E_NOTFOUND, "chat", *s == 1 ? "bos_token" : "eos_token", -1,
			"chat template %s needs the text of %s, and the tokenizer's files do not say it", d->r->m.name, *s == 1 ? "bos_token" : "eos_token");
		else lora__text_puts(to, token);
	}
	return to->status;
}

/* White space as Python's strip() and Jinja's trim see it. */
static void trimmed(const char **s, size_t *n)
{
	size_t step;
	while (*n && lora__tok_is_space(lora__tok_char(*s, &step))) *s += step, *n -= step;
	while (*n) {
		size_t k = *n - 1;
		while (k && ((unsigned char)(*s)[k] & 0xc0) == 0x80) k--;
		if (!lora__tok_is_space(lora__tok_char(*s + k, &step))) break;
		*n = k;
	}
}

static int role_of(const char *name)
{
	static const char *const names[] = { "system", "user", "assistant" };
	for (int i = 0; i < LORA__CHAT_ROLES; i++)
		if (!strcmp(names[i], name)) return i;
	return -1;
}

static lora_status refuse(const drawing *d, size_t i, const char *says)
{
	return lora__fail_at(d->t->ctx, LORA_E_ARGUMENT, "chat", "messages", (int64_t)i, "message %zu (%s): %s", i, lora__quote(d->m[i].role).text, says);
}

/* Every rule that a conversation can break, before a byte is written. */
static lora_status check(const drawing *d)
{
	if (!d->n) return lora__fail_at(d->t->ctx, LORA_E_ARGUMENT, "chat", "messages", -1, "a conversation without messages");
	size_t bad, first = role_of(d->m[0].role) == LORA__CHAT_SYSTEM && d->r->system != LORA__CHAT_OWN_TURN;
	for (size_t i = 0; i < d->n; i++) {
		int role = role_of(d->m[i].role);
		if (!lora__utf8_valid(d->m[i].content, d->m[i].n, &bad)) return refuse(d, i, "the content is not UTF-8");
		if (!lora__utf8_valid(d->m[i].role, strlen(d->m[i].role), &bad)) return refuse(d, i, "the role is not UTF-8");
		if (role < 0 && !(d->r->flags & LORA__CHAT_ANY_ROLE)) return refuse(d, i, "the chat template has no such role");
		if (i < first) continue;
		if (role == LORA__CHAT_SYSTEM && d->r->system != LORA__CHAT_OWN_TURN) return refuse(d, i, "a system message can only come first in this chat template");
		if (i && role == LORA__CHAT_SYSTEM && d->r->flags & LORA__CHAT_SYSTEM_FIRST) return refuse(d, i, "a system message can only come first in this chat template");
		if (role >= 0 && d->r->turn[role].refused) return refuse(d, i, "the chat template has no place for this role");
		if (d->r->flags & LORA__CHAT_ALTERNATE && (role == LORA__CHAT_USER) != ((i - first) % 2 == 0))
			return refuse(d, i, "in this chat template user and assistant take turns, the user first");
		if (d->r->flags & LORA__CHAT_NO_THOUGHT && role == LORA__CHAT_ASSISTANT && d->m[i].n && memmem(d->m[i].content, d->m[i].n, "</think>", 8))
			return refuse(d, i, "answers that hold </think> are not supported with this chat template");
	}
	if (first && d->n == 1) return refuse(d, 0, "a system message needs a user message behind it in this chat template");
	return LORA_OK;
}

static lora_status add_span(const drawing *d, size_t start, size_t end)
{
	lora__chat_text *o = d->out;
	lora_status st = lora__grow(d->t->ctx, &o->spans, &o->cap, o->n + 1, sizeof *o->spans);
	if (!st && end > start) o->spans[o->n++] = (lora__chat_span){ start, end };
	return st;
}

/* A system message becomes part of a question: text of the question with it. */
static lora_status fold(const drawing *d, const char **s, size_t *n, lora__text *joined)
{
	const lora__chat_turn *turn = &d->r->turn[LORA__CHAT_SYSTEM];
	lora__text_puts(joined, turn->before);
	lora__text_add(joined, d->m[0].content, d->m[0].n);
	lora__text_puts(joined, turn->behind);
	lora__text_add(joined, *s, *n);
	*s = joined->data ? joined->data : "", *n = joined->n;
	return joined->status;
}

static lora_status draw_turn(const drawing *d, size_t i, int folded, int think)
{
	int role = role_of(d->m[i].role);
	const lora__chat_turn *turn = &d->r->turn[role < 0 ? LORA__CHAT_USER : role];
	const char *s = d->m[i].content ? d->m[i].content : "";
	size_t n = d->m[i].n, start;
	lora__text joined;
	if (turn->dropped || (turn->optional && !n)) return LORA_OK;
	lora__text_init(&joined, d->t->ctx);
	if (turn->trim) trimmed(&s, &n);
	lora_status st = folded ? fold(d, &s, &n, &joined) : LORA_OK;
	if (role == LORA__CHAT_USER && d->r->flags & LORA__CHAT_TRIM_TURN) trimmed(&s, &n);
	if (!st) st = put(d, turn->before, d->m[i].role);
	if (think) while (n && *s == '\n') s++, n--;
	start = d->out->text.n;
	if (!st && think) st = put(d, "<think>\n\n</think>\n\n", "");
	lora__text_add(&d->out->text, s, n);
	size_t content_end = d->out->text.n;
	if (!st) st = put(d, turn->behind, d->m[i].role);
	if (!st && role == LORA__CHAT_ASSISTANT) {
		size_t end = d->out->text.n;
		while (end > content_end && d->out->text.data[end - 1] == '\n') end--; /* what stands behind the end mark is not the assistant's */
		st = add_span(d, start, end);
	}
	lora__text_free(&joined);
	return st ? st : d->out->text.status;
}

lora_status lora__chat_render(const lora_tokenizer *t, const lora__chat_rules *r, const lora_chat_message *m, size_t n, int generate, lora__chat_text *out)
{
	drawing d = { t, r, m, n, out };
	size_t last_user = n;
	*out = (lora__chat_text){ .spans = NULL };
	lora__text_init(&out->text, t->ctx);
	lora_status st = check(&d);
	if (!st) st = put(&d, r->head, "");
	int has_system = n && role_of(m[0].role) == LORA__CHAT_SYSTEM, folds = has_system && r->system != LORA__CHAT_OWN_TURN;
	if (!st && !has_system && n) st = put(&d, r->no_system, "");
	for (size_t i = 0; i < n; i++)
		if (role_of(m[i].role) == LORA__CHAT_USER) last_user = i;
	for (size_t i = (size_t)folds; i < n && !st; i++) {
		int into = folds && (r->system == LORA__CHAT_INTO_FIRST_USER ? i == 1 : i == last_user && i + 1 == n); /* lost when an answer is last */
		int think = r->flags & LORA__CHAT_THINK_LAST && role_of(m[i].role) == LORA__CHAT_ASSISTANT && last_user < i && i + 1 == n;
		st = draw_turn(&d, i, into, think);
	}
	if (!st) st = put(&d, generate ? r->generate : r->end, "");
	if (!st) st = out->text.status;
	if (st) lora__chat_text_free(out);
	return st;
}
