/* lora generate: go on from a prompt, token by token; text appears as soon as it is whole. */
#include "cli/commands.h"
#include "cli/idtext.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Text of a growing list of tokens. A character may be spread over tokens, and how a token reads may depend on the one before it: so the
 * tokens since the last settled place are decoded twice, without and with the new ones, and the difference is what is new. */
typedef struct streamer {
	const session *s;
	const int32_t *ids;
	size_t from, settled; /* tokens */
} streamer;

static int ends_whole(const char *text, size_t n)
{
	if (utf8_whole(text, n) != n) return 0;
	return n < 3 || memcmp(text + n - 3, "\xEF\xBF\xBD", 3); /* how a decoder may show a character that is not complete yet */
}

/* New text of ids[0 .. count), or nothing while a character is cut; last = 1 takes what there is. *text is new, or NULL. */
static int stream(streamer *t, size_t count, int last, char **text, size_t *n)
{
	char *before = NULL, *after = NULL;
	size_t n_before = 0, n_after = 0;
	int status = OK;

	*text = NULL;
	*n = 0;
	if (t->settled > t->from) status = decode_text(t->s, t->ids + t->from, t->settled - t->from, &before, &n_before);
	if (!status && count > t->from) status = decode_text(t->s, t->ids + t->from, count - t->from, &after, &n_after);
	if (!status && after && n_after > n_before && (last || ends_whole(after, n_after))) {
		*n = n_after - n_before;
		memmove(after, after + n_before, *n);
		*text = after;
		after = NULL;
		t->from = t->settled;
		t->settled = count;
	}
	free(before);
	free(after);
	return status;
}

typedef struct generation {
	session s;
	lora_generator *generator;
	int32_t *prompt, *out;
	size_t n_prompt, n_out, n_text; /* n_text: tokens of out that are text (without a final EOS) */
	double seconds;
} generation;

static int make_generator(generation *g, const args *a, int64_t n)
{
	lora_settings *settings = NULL;
	lora_status status = lora_settings_create(g->s.ctx, &settings);
	int64_t length = (int64_t)g->n_prompt + n;

	if (g->s.info.has_decoder) length = n + 1; /* the prompt is the encoder's, and has its own room */
	else if (g->s.info.max_positions > 0 && length > g->s.info.max_positions) length = g->s.info.max_positions;
	if (!g->s.info.has_decoder && length < (int64_t)g->n_prompt) length = (int64_t)g->n_prompt;
	if (!status) status = lora_settings_set_int(settings, "max_length", length);
	if (!status && !isnan(a->temperature)) status = lora_settings_set_float(settings, "temperature", a->temperature);
	if (!status && a->top_k != UNSET) status = lora_settings_set_int(settings, "top_k", a->top_k);
	if (!status && !isnan(a->top_p)) status = lora_settings_set_float(settings, "top_p", a->top_p);
	if (!status && a->seed != UNSET) status = lora_settings_set_int(settings, "seed", a->seed);
	if (!status) status = lora_generator_create(g->s.model, settings, &g->generator);
	lora_settings_destroy(settings);
	return status ? fail_library(g->s.ctx, a->model) : OK;
}

static int has_tokens(const generation *g, const args *a)
{
	if (g->n_prompt) return OK;
	return fail(USAGE, a->tokens ? "--tokens" : "-p", "the prompt has no tokens");
}

static int produce(generation *g, const args *a, int64_t n)
{
	streamer t = { &g->s, g->out, 0, 0 };
	int32_t token = -1;
	double start = seconds_now();
	int status = OK, show = !a->json && g->s.tokenizer;
	char *text;
	size_t bytes;

	if (lora_generator_feed(g->generator, 0, NULL, g->prompt, (int64_t)g->n_prompt)) return fail_library(g->s.ctx, "prompt");
	while ((int64_t)g->n_out < n && !status) {
		if (lora_generator_next(g->generator, &token, NULL)) return fail_library(g->s.ctx, a->model);
		if (token < 0) break; /* the model's positions are used up */
		g->out[g->n_out++] = token;
		g->n_text = g->n_out;
		if (token == g->s.info.eos_token_id && !a->ignore_eos) {
			g->n_text--;
			break;
		}
		if (!show) continue;
		status = stream(&t, g->n_text, 0, &text, &bytes);
		if (text && (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout))) status = finish_output();
		free(text);
	}
	g->seconds = seconds_now() - start;
	if (show && !status) {
		status = stream(&t, g->n_text, 1, &text, &bytes);
		if (text) fwrite(text, 1, bytes, stdout);
		free(text);
		say("\n");
	} else if (!a->json) {
		for (size_t i = 0; i < g->n_out; i++) say("%s%d", i ? "," : "", g->out[i]);
		say("\n");
	}
	return status;
}

static int report(generation *g, const args *a)
{
	double rate = g->seconds > 0 ? (double)g->n_out / g->seconds : 0;
	if (!a->json) {
		if (!a->quiet && is_terminal(stderr)) fprintf(stderr, "lora: %zu tokens, %.3g tokens/s\n", g->n_out, rate);
		return OK;
	}
	json_t *root = json_object();
	json_object_set_new(root, "prompt_tokens", json_ids(g->prompt, g->n_prompt));
	json_object_set_new(root, "tokens", json_ids(g->out, g->n_out));
	if (g->s.tokenizer) {
		char *text = NULL;
		size_t n = 0;
		if (decode_text(&g->s, g->out, g->n_text, &text, &n)) {
			json_decref(root);
			return FAILED;
		}
		json_object_set_new(root, "text", json_text(text, n));
		free(text);
	} else {
		json_object_set_new(root, "text", json_null());
	}
	json_object_set_new(root, "tokens_per_second", json_number(rate));
	return print_json(root);
}

/* With --tokens a model without tokenizer will do. */
static int has_tokenizer(const char *model)
{
	char *dir = path_is_dir(model) ? new_string(model) : path_dir(model);
	char *file = dir ? path_join(dir, "tokenizer.json") : NULL;
	int yes = file && path_exists(file);
	free(file);
	free(dir);
	return yes;
}

static int run(const args *a)
{
	generation g;
	int64_t n = a->count == UNSET ? 128 : a->count;
	int status;

	memset(&g, 0, sizeof g);
	if (!a->model) return fail(USAGE, "-m", "a model is needed");
	if (!a->prompt == !a->tokens)
		return fail(USAGE, "-p", a->prompt ? "cannot go with --tokens" : "a prompt is needed: -p TEXT or --tokens 1,2,3");
	if (a->tokens && ((status = parse_tokens("--tokens", a->tokens, &g.prompt, &g.n_prompt)) || (status = has_tokens(&g, a)))) {
		free(g.prompt);
		return status;
	}
	status = session_context(&g.s, a);
	if (!status) status = session_model(&g.s, a);
	if (!status && (!g.s.info.has_head || g.s.info.n_labels)) status = fail(FAILED, a->model, "is an encoder (%s): it does not generate", g.s.info.architecture);
	if (!status) status = session_adapters(&g.s, a, 1);
	if (!status && (a->prompt || has_tokenizer(a->model))) status = session_tokenizer(&g.s, a->model);
	if (!status && a->prompt)
		status = encode_text(&g.s, "-p", a->prompt, strlen(a->prompt), !a->no_special, &g.prompt, &g.n_prompt);
	if (!status) status = has_tokens(&g, a);
	if (!status && g.s.info.max_positions > 0 && n > g.s.info.max_positions) n = g.s.info.max_positions;
	if (!status && !(g.out = new_array((size_t)n + 1, sizeof *g.out))) status = FAILED;
	if (!status) status = make_generator(&g, a, n);
	if (!status) status = produce(&g, a, n);
	if (!status) status = report(&g, a);
	lora_generator_destroy(g.generator);
	free(g.prompt);
	free(g.out);
	session_close(&g.s);
	return status;
}

const command command_generate = { "generate",
	"-m MODEL [-a ADAPTER[=SCALE]]... -p TEXT | --tokens 1,2,3 [-n N] [--temperature T --top-k K --top-p P]",
	"go on from a prompt",
	"Stops after N tokens (128), at an end-of-sequence token or when the model's positions are used up.\n"
	"JSON: prompt_tokens, tokens (with the end-of-sequence token), text (without), tokens_per_second.\n",
	"model adapter prompt tokens count temperature top-k top-p no-special ignore-eos", 0, 0, run };
