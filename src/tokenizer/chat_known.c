/* Known templates that are not plain, by the parts that decide what a conversation without tools becomes; and what to say about an unknown one. */
#include "tokenizer/chat.h"

enum { MOST_PARTS = 12 };
#define BAR "\xef\xbd\x9c" /* the wide bar of DeepSeek's marks */

/* Parts in the form of chat_lex.c, written {%statement%}, {{expression}} and text, in their order; anything may stand between. never: must not be. */
static const struct known { const char *name, *parts[MOST_PARTS], *never; } known[] = {
	{ "qwen2.5", { "{%if tools%}", "{%else%}{%if messages[0].role=='system'%}<|im_start|>system\n{{messages[0].content}}<|im_end|>\n{%else%}<|im_start|>system\n"
		"You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n{%endif%}{%endif%}",
		"{%for m in messages%}{%if(m.role=='user')or(m.role=='system' and not loop.first)or(m.role=='assistant' and not m.tool_calls)%}"
		"<|im_start|>{{m.role}}\n{{m.content}}<|im_end|>\n{%elif m.role=='assistant'%}", "{%endfor%}{%if add_generation_prompt%}<|im_start|>assistant\n{%endif%}" },
		"<think>" },
	{ "qwen3", { "{%if tools%}", "{%else%}{%if messages[0].role=='system'%}<|im_start|>system\n{{messages[0].content}}<|im_end|>\n{%endif%}{%endif%}",
		"last_query_index", "{%if(m.role=='user')or(m.role=='system' and not loop.first)%}<|im_start|>{{m.role}}\n", "<|im_end|>\n{%elif m.role=='assistant'%}",
		"{%if loop.last or(not loop.last and reasoning_content)%}<|im_start|>{{m.role}}\n<think>\n{{reasoning_content.strip('\n')}}\n</think>\n\n",
		"{%if add_generation_prompt%}<|im_start|>assistant\n{%if enable_thinking is defined and enable_thinking is false%}" }, NULL },
	{ "llama3", { "{%set loop_messages=messages%}{%for m in loop_messages%}{%set content='<|start_header_id|>'+m.role+'<|end_header_id|>\n\n'+m.content|trim+'<|eot_id|>'%}"
		"{%if loop.index0==0%}{%set content=bos_token+content%}{%endif%}{{content}}{%endfor%}{%if add_generation_prompt%}<|start_header_id|>assistant<|end_header_id|>\n\n{%endif%}" },
		NULL },
	{ "llama3.1", { "{{bos_token}}", "{%set date_string='26 Jul 2024'%}{%endif%}", "{%if messages[0].role=='system'%}{%set system_message=messages[0].content|trim%}"
		"{%set messages=messages[1:]%}{%else%}{%set system_message=''%}{%endif%}", "<|start_header_id|>system<|end_header_id|>\n\n",
		"Cutting Knowledge Date: December 2023\nToday Date: {{date_string}}\n\n", "{{system_message}}<|eot_id|>",
		"<|start_header_id|>{{m.role}}<|end_header_id|>\n\n{{m.content|trim}}<|eot_id|>", "{%if add_generation_prompt%}<|start_header_id|>assistant<|end_header_id|>\n\n{%endif%}" },
		"strftime_now" },
	{ "llama2", { "{%if messages[0].role=='system'%}{%set loop_messages=messages[1:]%}{%set system_message=messages[0].content%}{%else%}{%set loop_messages=messages%}"
		"{%set system_message=false%}{%endif%}{%for m in loop_messages%}{%if(m.role=='user')!=(loop.index0%2==0)%}{{raise_exception(",
		"{%endif%}{%if loop.index0==0 and system_message!=false%}{%set content='<<SYS>>\n'+system_message+'\n<</SYS>>\n\n'+m.content%}{%else%}{%set content=m.content%}{%endif%}"
		"{%if m.role=='user'%}{{bos_token}}[INST] {{content|trim}} [/INST]{%elif m.role=='assistant'%} {{content|trim}} {{eos_token}}{%endif%}{%endfor%}" }, NULL },
	{ "gemma3", { "{{bos_token}}{%if messages[0].role=='system'%}", "{%set first_user_prefix=messages[0].content+'\n\n'%}", "{%set loop_messages=messages[1:]%}{%else%}"
		"{%set first_user_prefix=''%}{%set loop_messages=messages%}{%endif%}{%for m in loop_messages%}", "{%set role='model'%}",
		"<start_of_turn>{{role}}\n{{first_user_prefix if loop.first else ''}}{%if m.content is string%}{{m.content|trim}}", "<end_of_turn>\n{%endfor%}"
		"{%if add_generation_prompt%}<start_of_turn>model\n{%endif%}" }, NULL },
	{ "mistral-v1", { "{%set system_message=messages[0].content%}{%set loop_messages=messages[1:]%}", "{{bos_token}}{%for m in loop_messages%}",
		"{%if m.role=='user'%}{%if loop.first and system_message is defined%} [INST] {{system_message}}\n\n{{m.content}} [/INST]{%else%} [INST] {{m.content}} [/INST]{%endif%}",
		"{%elif m.role=='assistant'%} {{m.content}}{{eos_token}}" }, "[AVAILABLE_TOOLS]" },
	{ "mistral-v3", { "{%set system_message=messages[0].content%}{%set loop_messages=messages[1:]%}", "{{bos_token}}", "{%if m.role=='user'%}",
		"{%if loop.last and system_message is defined%}[INST] {{system_message}}\n\n{{m.content}}[/INST]{%else%}[INST] {{m.content}}[/INST]{%endif%}",
		"{%elif m.role=='assistant'%} {{m.content|trim}}{{eos_token}}" }, NULL },
	{ "mistral-v3-tekken", { "{%set system_message=messages[0].content%}{%set loop_messages=messages[1:]%}", "{{bos_token}}", "{%if m.role=='user'%}",
		"{%if loop.last and system_message is defined%}[INST]{{system_message}}\n\n{{m.content}}[/INST]{%else%}[INST]{{m.content}}[/INST]{%endif%}",
		"{%elif m.role=='assistant'%}{{m.content}}{{eos_token}}" }, NULL },
	{ "deepseek3", { "{{bos_token}}{{ns.system_prompt}}{%for m in messages%}{%if m.role=='user'%}{%set ns.is_tool=false%}<" BAR "User" BAR ">{{m.content}}{%endif%}",
		"<" BAR "end\xe2\x96\x81of\xe2\x96\x81sentence" BAR ">", "{%if add_generation_prompt and not ns.is_tool%}<" BAR "Assistant" BAR ">{%endif%}" }, "think>" },
	{ "deepseek-r1", { "{{bos_token}}{{ns.system_prompt}}{%for m in messages%}{%if m.role=='user'%}{%set ns.is_tool=false%}<" BAR "User" BAR ">{{m.content}}{%endif%}",
		"<" BAR "end\xe2\x96\x81of\xe2\x96\x81sentence" BAR ">", "{%if add_generation_prompt and not ns.is_tool%}<" BAR "Assistant" BAR "><think>\n{%endif%}" }, NULL },
	{ "deepseek-coder", { "{%set ns=namespace(found=false)%}", "{{bos_token}}{%if not ns.found%}You are an AI programming assistant, utilizing the Deepseek Coder model",
		"{%if m.role=='system'%}{{m.content}}{%else%}{%if m.role=='user'%}### Instruction:\n{{m.content}}\n{%else%}### Response:\n{{m.content}}\n<|EOT|>\n{%endif%}{%endif%}"
		"{%endfor%}{%if add_generation_prompt%}### Response:\n{%endif%}" }, NULL },
	{ .name = NULL },
};

/* Marks that say what an unknown template may be like: a hint in the message, nothing else. */
static const struct hint { const char *mark, *name; } hints[] = { { "strftime_now", "llama3.1" }, { "<|start_header_id|>", "llama3" }, { "<think>", "qwen3" },
	{ "<|im_sep|>", "phi4" }, { "<|im_start|>", "chatml" }, { "<<SYS>>", "llama2" }, { "<start_of_turn>", "gemma" }, { "[SYSTEM_PROMPT]", "mistral-v7" },
	{ "[INST]", "mistral-v3" }, { "<|end|>", "phi3" }, { "<|assistant|>", "zephyr" }, { "<" BAR "User" BAR ">", "deepseek3" },
	{ "### Instruction:", "deepseek-coder" }, { "Assistant:", "deepseek" } };

/* All items as one text. */
static lora_status write_out(const lora__chat_items *l, lora__text *out)
{
	static const char *const marks[][2] = { { "", "" }, { "{{", "}}" }, { "{%", "%}" } };
	for (size_t i = 0; i < l->n; i++) {
		lora__text_puts(out, marks[l->list[i].kind][0]);
		lora__text_add(out, l->text.p + l->list[i].at, l->list[i].n);
		lora__text_puts(out, marks[l->list[i].kind][1]);
	}
	return out->status;
}

static int has_parts(const struct known *k, const char *s)
{
	if (k->never && strstr(s, k->never)) return 0;
	for (size_t i = 0; i < MOST_PARTS && k->parts[i]; i++) {
		const char *p = strstr(s, k->parts[i]);
		if (!p) return 0;
		s = p + strlen(k->parts[i]);
	}
	return 1;
}

static lora_status unknown(lora_context *ctx, const char *s, size_t n)
{
	char names[512] = "";
	const char *near = NULL;
	size_t at = 0;
	for (const lora__chat_rules *r = lora__chat_table; r->m.name; r++) {
		size_t m = strlen(r->m.name);
		if (at + m + 3 >= sizeof names) break;
		if (at) memcpy(names + at, ", ", 2), at += 2;
		memcpy(names + at, r->m.name, m + 1);
		at += m;
	}
	for (size_t i = 0; i < sizeof hints / sizeof *hints && !near; i++)
		if (n && memmem(s, n, hints[i].mark, strlen(hints[i].mark))) near = hints[i].name;
	return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "chat", "chat_template", -1, "the model's chat_template is not one that is known%s%s%s; choose one by name: %s",
		near ? " (its marks are those of " : "", near ? near : "", near ? ")" : "", names);
}

lora_status lora__chat_recognise(lora_context *ctx, const char *s, size_t n, lora__chat_own *out)
{
	lora__chat_items items;
	lora__text whole;
	int ok;
	*out = (lora__chat_own){ .texts = { 0 } };
	lora__text_init(&whole, ctx);
	lora_status st = lora__chat_lex(ctx, s, n, &items, &ok);
	int understood = ok;
	if (!st && ok) st = lora__chat_plain(&items, out, &ok);
	if (st || ok) goto done;
	if (understood) st = write_out(&items, &whole);
	for (const struct known *k = known; k->name && !st && whole.data && !ok; k++)
		if (has_parts(k, whole.data)) out->rules = *lora__chat_named(k->name), out->rules.flags |= LORA__CHAT_OWN, ok = 1;
	if (!st && !ok) st = unknown(ctx, s, n);
done:
	lora__chat_items_free(&items);
	lora__text_free(&whole);
	if (st) lora__chat_own_free(ctx, out);
	return st;
}

void lora__chat_own_free(lora_context *ctx, lora__chat_own *o)
{
	lora__free(ctx, o->texts.p);
	*o = (lora__chat_own){ .texts = { 0 } };
}
