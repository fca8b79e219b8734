/* lora generate: go on from one or several prompts, token by token. Text of a single prompt appears as soon as it is whole. */
#include "cli/commands.h"
#include "cli/idtext.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct sequence {
	int32_t *prompt, *out;
	size_t n_prompt, n_out, n_text; /* n_text: tokens of out that are text (without a final EOS) */
	uint64_t stream[2];
	char *text;                     /* so far, as the stream gives it */
	size_t n, room, shown;          /* bytes; shown: written to standard output */
	const char *finish;             /* NULL while it goes on */
} sequence;

typedef struct generation {
	session s;
	const args *a;
	lora_generator *generator;
	sequence *list;
	size_t n;
	int32_t *rows;    /* adapter of each sequence, or NULL */
	int32_t *tokens;
	char *end_mark;   /* of an answer in a conversation, or NULL */
	size_t hold;      /* bytes that may be the beginning of a stop text */
	double seconds;
} generation;

/* ---- prompts ---- */

static int add_sequence(generation *g, int32_t *prompt, size_t n)
{
	sequence *more = grow(g->list, g->n + 1, sizeof *more);
	if (!more) {
		free(prompt);
		return FAILED;
	}
	g->list = more;
	memset(&more[g->n], 0, sizeof *more);
	more[g->n].prompt = prompt;
	more[g->n++].n_prompt = n;
	return n ? OK : fail(USAGE, g->a->tokens ? "--tokens" : "-p", "the prompt has no tokens");
}

static int encode_chat(generation *g, const char *question)
{
	lora_chat_message m[2];
	size_t n = 0, count = 0, room = 256;
	int32_t *ids = NULL;
	lora_status status;
	if (g->a->system) m[n++] = (lora_chat_message){ "system", g->a->system, strlen(g->a->system) };
	m[n++] = (lora_chat_message){ "user", question, strlen(question) };
	for (;;) {
		free(ids);
		ids = new_array(room, sizeof *ids);
		if (!ids) return FAILED;
		status = lora_chat_encode(g->s.tokenizer, g->a->chat_template, m, n, LORA_CHAT_GENERATE, ids, NULL, room, &count);
		if (status != LORA_E_LIMIT || count <= room) break;
		room = count;
	}
	if (status) {
		free(ids);
		return fail(FAILED, "--chat", "%s%s", lora_context_last_error(g->s.ctx),
			status == LORA_E_UNSUPPORTED || (status == LORA_E_NOTFOUND && !g->a->chat_template) ? " (--chat-template NAME)" : "");
	}
	return add_sequence(g, ids, count);
}

/* What the template writes behind an answer: there an answer ends, whatever the model's EOS is. */
static int find_end_mark(generation *g)
{
	static const char word[] = "answer";
	const lora_chat_message m[] = { { "user", "x", 1 }, { "assistant", word, 6 } };
	char text[2048];
	size_t n = 0;
	if (lora_chat_render(g->s.tokenizer, g->a->chat_template, m, 2, 0, text, sizeof text, &n)) return OK;
	char *at = NULL;
	for (char *p = text; (p = strstr(p, word)); p++) at = p;
	if (!at) return OK;
	at += 6;
	at += strspn(at, " \n");
	at[strcspn(at, " \n")] = 0;
	if (!*at) return OK;
	g->end_mark = new_string(at);
	return g->end_mark ? OK : FAILED;
}

static int read_prompts(generation *g)
{
	const args *a = g->a;
	int32_t *ids = NULL;
	size_t n = 0;
	int status = OK;
	if (a->tokens) {
		status = parse_tokens("--tokens", a->tokens, &ids, &n);
		return status ? status : add_sequence(g, ids, n);
	}
	for (size_t i = 0; i < a->prompts.n && !status; i++) {
		const char *text = a->prompts.list[i];
		if (a->chat) {
			status = encode_chat(g, text);
			continue;
		}
		status = encode_text(&g->s, "-p", text, strlen(text), !a->no_special, &ids, &n);
		if (!status) status = add_sequence(g, ids, n);
	}
	if (!status && a->chat) status = find_end_mark(g);
	return status;
}

/* ---- text and where it ends ---- */

/* The first stop text in t->text from a place on, or SIZE_MAX. */
static size_t find_stop(const generation *g, const sequence *t, size_t from)
{
	size_t best = SIZE_MAX;
	for (size_t i = 0; i <= g->a->stops.n; i++) {
		const char *stop = i < g->a->stops.n ? g->a->stops.list[i] : g->end_mark;
		size_t m = stop ? strlen(stop) : 0;
		for (size_t at = from; m && at + m <= t->n && at < best; at++)
			if (!memcmp(t->text + at, stop, m)) best = at;
	}
	return best;
}

static int show(const generation *g, sequence *t, int last)
{
	size_t hold = last ? 0 : g->hold, end = t->n > hold ? t->n - hold : 0;
	if (!last) end = utf8_whole(t->text, end);
	if (g->a->json || g->n > 1 || end <= t->shown) return OK;
	size_t n = end - t->shown;
	if (fwrite(t->text + t->shown, 1, n, stdout) != n || fflush(stdout)) return finish_output();
	t->shown = end;
	return OK;
}

/* Take up the text of new tokens; sees whether a stop text is there. */
static int take_text(generation *g, sequence *t, int last)
{
	size_t needed = 0, from = t->n > g->hold ? t->n - g->hold : 0;
	lora_status status;
	if (!g->s.tokenizer) return OK;
	for (;;) {
		size_t room = t->room - t->n;
		status = lora_tokenizer_stream(g->s.tokenizer, t->stream, t->out, t->n_text, last, room ? t->text + t->n : NULL, room, &needed);
		if (status != LORA_E_LIMIT || needed < room) break;
		char *more = grow(t->text, t->n + needed + 256, 1);
		if (!more) return FAILED;
		t->text = more;
		t->room = t->n + needed + 256;
	}
	if (status) return fail_library(g->s.ctx, "tokens");
	t->n += needed;
	size_t stop = find_stop(g, t, from);
	if (stop != SIZE_MAX) {
		t->n = stop;
		t->finish = "stop";
	}
	return show(g, t, last || t->finish);
}

/* ---- the loop ---- */

static int make_generator(generation *g, int64_t n)
{
	const args *a = g->a;
	lora_settings *settings = NULL;
	lora_status status = lora_settings_create(g->s.ctx, &settings);
	int64_t longest = 0, length;

	for (size_t i = 0; i < g->n; i++)
		if ((int64_t)g->list[i].n_prompt > longest) longest = (int64_t)g->list[i].n_prompt;
	length = longest + n;
	if (g->s.info.has_decoder) length = n + 1; /* the prompt is the encoder's, and has its own room */
	else if (g->s.info.max_positions > 0 && length > g->s.info.max_positions) length = g->s.info.max_positions;
	if (!g->s.info.has_decoder && length < longest) length = longest;
	if (!status) status = lora_settings_set_int(settings, "max_length", length);
	if (!status) status = lora_settings_set_int(settings, "batch_size", (int64_t)g->n);
	if (!status && !isnan(a->temperature)) status = lora_settings_set_float(settings, "temperature", a->temperature);
	if (!status && a->top_k != UNSET) status = lora_settings_set_int(settings, "top_k", a->top_k);
	if (!status && !isnan(a->top_p)) status = lora_settings_set_float(settings, "top_p", a->top_p);
	if (!status && !isnan(a->repetition_penalty)) status = lora_settings_set_float(settings, "repetition_penalty", a->repetition_penalty);
	if (!status && a->seed != UNSET) status = lora_settings_set_int(settings, "seed", a->seed);
	if (!status) status = lora_generator_create(g->s.model, settings, &g->generator);
	lora_settings_destroy(settings);
	return status ? fail_library(g->s.ctx, a->model) : OK;
}

/* A sequence has a new token, or -1: the model's positions are used up. */
static int take_token(generation *g, size_t i, int32_t token, int64_t n)
{
	sequence *t = &g->list[i];
	int status = OK, end = lora_model_is_end(g->s.model, token) && !g->a->ignore_eos;
	if (token >= 0) {
		t->out[t->n_out++] = token;
		t->n_text = t->n_out - (size_t)end;
		if (!end) status = take_text(g, t, 0);
	}
	if (end) t->finish = "eos";
	else if (!t->finish && (token < 0 || (int64_t)t->n_out == n)) t->finish = "length";
	if (!t->finish) return status;
	if (!status && strcmp(t->finish, "stop")) {
		const char *finish = t->finish;
		status = take_text(g, t, 1);
		if (!t->finish) t->finish = finish;
	}
	lora_generator_reset(g->generator, (int64_t)i); /* costs nothing more */
	return status;
}

static int produce(generation *g, int64_t n)
{
	double start = seconds_now();
	size_t going = g->n;
	int status = OK;

	for (size_t i = 0; i < g->n; i++) {
		sequence *t = &g->list[i];
		lora_adapter *who = g->rows ? g->s.adapters[g->rows[i]] : NULL;
		if (!(t->out = new_array((size_t)n + 1, sizeof *t->out))) return FAILED;
		if (lora_generator_feed(g->generator, (int64_t)i, who, t->prompt, (int64_t)t->n_prompt)) return fail_library(g->s.ctx, "prompt");
		if (n == 0) t->finish = "length", going--;
	}
	while (going && !status) {
		if (lora_generator_next(g->generator, g->tokens, NULL)) return fail_library(g->s.ctx, g->a->model);
		for (size_t i = 0; i < g->n && !status; i++) {
			if (g->list[i].finish) continue;
			status = take_token(g, i, g->tokens[i], n);
			going -= g->list[i].finish != NULL;
		}
	}
	g->seconds = seconds_now() - start;
	return status;
}

/* ---- results ---- */

static json_t *describe(const generation *g, const sequence *t, double rate)
{
	json_t *root = json_object();
	json_object_set_new(root, "prompt_tokens", json_ids(t->prompt, t->n_prompt));
	json_object_set_new(root, "tokens", json_ids(t->out, t->n_out));
	json_object_set_new(root, "text", g->s.tokenizer ? json_text(t->text ? t->text : "", t->n) : json_null());
	json_object_set_new(root, "finish", json_string(t->finish));
	json_object_set_new(root, "tokens_per_second", json_number(rate));
	return root;
}

static int report(generation *g)
{
	const args *a = g->a;
	size_t total = 0;
	int status = OK;
	for (size_t i = 0; i < g->n; i++) total += g->list[i].n_out;
	double rate = g->seconds > 0 ? (double)total / g->seconds : 0;
	for (size_t i = 0; i < g->n && !status; i++) {
		const sequence *t = &g->list[i];
		if (a->json) {
			status = print_json(describe(g, t, rate));
			continue;
		}
		if (g->n > 1 && i) say("----\n");
		if (!g->s.tokenizer)
			for (size_t k = 0; k < t->n_out; k++) say("%s%d", k ? "," : "", t->out[k]);
		else if (g->n > 1 && fwrite(t->text ? t->text : "", 1, t->n, stdout) != t->n) return finish_output();
		say("\n");
	}
	if (!a->json && !a->quiet && is_terminal(stderr)) fprintf(stderr, "lora: %zu tokens, %.3g tokens/s\n", total, rate);
	return status;
}

/* With --tokens a model without tokenizer will do. */
static int wants_tokenizer(const session *s, const args *a)
{
	static const char *const names[] = { "tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt" };
	int yes = a->prompts.n > 0 || a->stops.n > 0;
	if (!yes && lora_gguf_is(a->model)) return gguf_has_tokenizer(s->ctx, a->model);
	char *dir = path_is_dir(a->model) ? new_string(a->model) : path_dir(a->model);
	for (size_t i = 0; i < 5 && dir && !yes; i++) {
		char *file = path_join(dir, names[i]);
		yes = file && path_exists(file);
		free(file);
	}
	free(dir);
	return yes;
}

static int check_usage(const args *a)
{
	if (!a->model) return fail(USAGE, "-m", "a model is needed");
	if (!a->prompts.n == !a->tokens)
		return fail(USAGE, "-p", a->tokens ? "cannot go with --tokens" : "a prompt is needed: -p TEXT or --tokens 1,2,3");
	if (a->chat && a->tokens) return fail(USAGE, "--chat", "needs -p");
	if (!a->chat && (a->system || a->chat_template)) return fail(USAGE, a->system ? "--system" : "--chat-template", "goes with --chat");
	return OK;
}

static int read_rows(generation *g)
{
	size_t n = 0;
	if (!g->a->adapter_rows) return OK;
	int status = parse_tokens("--adapter-rows", g->a->adapter_rows, &g->rows, &n);
	if (!status && n != g->n) status = fail(USAGE, "--adapter-rows", "has %zu numbers for %zu prompts", n, g->n);
	for (size_t i = 0; i < n && !status; i++)
		if ((size_t)g->rows[i] >= g->s.n_adapters) status = fail(USAGE, "--adapter-rows", "%d: there are %zu adapters", g->rows[i], g->s.n_adapters);
	return status;
}

static int run(const args *a)
{
	generation g;
	int64_t n = a->count == UNSET ? 128 : a->count;
	int status = check_usage(a);

	if (status) return status;
	memset(&g, 0, sizeof g);
	g.a = a;
	if (a->tokens) status = read_prompts(&g);
	if (!status) status = session_context(&g.s, a);
	if (!status) status = session_model(&g.s, a);
	if (!status && (!g.s.info.has_head || g.s.info.n_labels)) status = fail(FAILED, a->model, "is an encoder (%s): it does not generate", g.s.info.architecture);
	if (!status) status = session_adapters(&g.s, a, 1);
	if (!status && wants_tokenizer(&g.s, a)) status = session_tokenizer(&g.s, a->model);
	if (!status && !a->tokens) status = read_prompts(&g);
	if (!status) status = read_rows(&g);
	for (size_t i = 0; i < a->stops.n; i++)
		if (strlen(a->stops.list[i]) > g.hold + 1) g.hold = strlen(a->stops.list[i]) - 1;
	if (g.end_mark && strlen(g.end_mark) > g.hold + 1) g.hold = strlen(g.end_mark) - 1;
	if (!status && g.s.info.max_positions > 0 && n > g.s.info.max_positions) n = g.s.info.max_positions;
	if (!status && !(g.tokens = new_array(g.n, sizeof *g.tokens))) status = FAILED;
	if (!status) status = make_generator(&g, n);
	if (!status) status = produce(&g, n);
	if (!status) status = report(&g);
	lora_generator_destroy(g.generator);
	for (size_t i = 0; i < g.n; i++) {
		free(g.list[i].prompt);
		free(g.list[i].out);
		free(g.list[i].text);
	}
	free(g.list);
	free(g.rows);
	free(g.tokens);
	free(g.end_mark);
	session_close(&g.s);
	return status;
}

const command command_generate = { "generate",
	"-m MODEL [-a ADAPTER[=SCALE]]... -p TEXT... | --tokens 1,2,3 [-n N] [--chat] [--temperature T --top-k K --top-p P]",
	"go on from a prompt",
	"Stops after N tokens (128), at an end-of-sequence token, before a text given with --stop, or when the model's positions are\n"
	"used up. With --chat a prompt is a question, written by the model's chat template (or --chat-template NAME).\n"
	"JSON, a line per prompt: prompt_tokens, tokens (with the end-of-sequence token), text (without), finish (eos, stop, length),\n"
	"tokens_per_second (of all prompts together).\n",
	"model adapter prompt tokens count chat system chat-template stop temperature top-k top-p repetition-penalty adapter-rows no-special ignore-eos", 0, 0,
	run };
