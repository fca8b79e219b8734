/* lora: the command line. One table of options for all commands, so an option means the same everywhere; each command names those it takes.
 * Forms: -o VALUE, -oVALUE, --option VALUE, --option=VALUE; -- ends the options; options and other words mix freely. */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum { TEXT, LIST, INTEGER, REAL, FLAG, ADAPTER, SETTING } option_kind;

typedef struct option {
	const char *name;
	char letter;
	option_kind kind;
	size_t at; /* in struct args */
	const char *value;
	const char *help;
} option;

#define AT(field) offsetof(args, field)

static const option options[] = {
	{ "model", 'm', TEXT, AT(model), "MODEL", "Hugging Face directory, .gguf file, or .safetensors file with config.json beside it" },
	{ "adapter", 'a', ADAPTER, 0, "ADAPTER[=SCALE]", "PEFT directory or .gguf file; SCALE multiplies its own scale (1); may repeat" },
	{ "set", 's', SETTING, 0, "NAME=VALUE", "a setting ('lora methods' explains them); may repeat" },
	{ "input", 'i', TEXT, AT(input), "FILE", "input tensors (.safetensors)" },
	{ "output", 'o', TEXT, AT(output), "PATH", "what to write" },
	{ "data", 'd', TEXT, AT(data), "FILE", "data: .txt, .jsonl or .safetensors" },
	{ "config", 'c', TEXT, AT(config), "FILE", "adapter_config.json to take settings from; -s wins over it" },
	{ "init", 0, TEXT, AT(init), "ADAPTER", "start from a saved adapter" },
	{ "skip-bad", 0, FLAG, AT(skip_bad), NULL, "leave out bad lines of the data and count them" },
	{ "chat-template", 0, TEXT, AT(chat_template), "NAME", "how conversations are written; default the model's own ('lora methods chat_template')" },
	{ "resume", 0, FLAG, AT(resume), NULL, "go on from the newest checkpoint below the output" },
	{ "dry-run", 0, FLAG, AT(dry_run), NULL, "tell the memory that training would take, and do nothing else" },
	{ "plan", 0, FLAG, AT(plan), NULL, "show the order of multiplications at every site" },
	{ "prompt", 'p', LIST, AT(prompts), "TEXT", "text to go on from; may repeat, then all go on side by side" },
	{ "chat", 0, FLAG, AT(chat), NULL, "prompts are questions of a conversation" },
	{ "system", 0, TEXT, AT(system), "TEXT", "system message of the conversation" },
	{ "stop", 0, LIST, AT(stops), "TEXT", "end before this text; may repeat" },
	{ "adapter-rows", 0, TEXT, AT(adapter_rows), "0,1", "which -a acts on which prompt, counted from 0; without it all act on all" },
	{ "text", 't', TEXT, AT(text), "TEXT", "the text; without it, standard input" },
	{ "tokens", 0, TEXT, AT(tokens), "1,2,3", "token ids instead of a text" },
	{ "decode", 0, TEXT, AT(decode), "1,2,3", "token ids to turn into text" },
	{ "count", 'n', INTEGER, AT(count), "N", "how many tokens at most" },
	{ "temperature", 0, TEXT, AT(temperature_text), "T", "generate: 0 (default) takes the likeliest token; eval: divides the logits, fit:FILE finds T on a file" },
	{ "top-k", 0, INTEGER, AT(top_k), "K", "sample from the K likeliest tokens; 0 = all" },
	{ "top-p", 0, REAL, AT(top_p), "P", "sample from the likeliest tokens that together reach P" },
	{ "repetition-penalty", 0, REAL, AT(repetition_penalty), "P", "above 1 makes tokens that were there before less likely" },
	{ "no-special", 0, FLAG, AT(no_special), NULL, "do not add special tokens such as BOS" },
	{ "ignore-eos", 0, FLAG, AT(ignore_eos), NULL, "go on after an end-of-sequence token" },
	{ "hidden", 0, FLAG, AT(hidden), NULL, "also write hidden states" },
	{ "grad", 0, FLAG, AT(grad), NULL, "also compute gradients of the adapters' tensors" },
	{ "dtype-out", 0, TEXT, AT(dtype_out), "D", "type of the written weights: keep (default), f32, f16, bf16" },
	{ "max-shard-size", 0, INTEGER, AT(max_shard), "BYTES", "weights of a directory in several files of at most so many bytes; 0 (default) = one file" },
	{ "type", 0, TEXT, AT(type), "T", "how to combine; default linear" },
	{ "tuned", 't', TEXT, AT(tuned), "TUNED", "the model after training" },
	{ "rank", 'r', INTEGER, AT(rank), "RANK", "rank of the new adapter; default 8" },
	{ "keep", 0, REAL, AT(keep), "SHARE", "share of the layers that stay; default 0.5" },
	{ "by", 0, TEXT, AT(by), "HOW", "which layers stay: shapley (default), norm, random" },
	{ "points", 0, INTEGER, AT(points), "N", "points from one adapter to the next; default 11" },
	{ "posterior", 'p', TEXT, AT(posterior), "FILE", "what 'lora posterior fit' wrote" },
	{ "validation", 0, TEXT, AT(validation), "FILE", "data that chooses the prior precision" },
	{ "ensemble", 0, FLAG, AT(ensemble), NULL, "every -a is a model of its own, and their probabilities are averaged" },
	{ "mc-dropout", 0, INTEGER, AT(mc_dropout), "N", "average the probabilities of N passes with the adapters' dropout on" },
	{ "to", 0, TEXT, AT(to), "TYPE", "nf4, fp4, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k" },
	{ "force", 0, FLAG, AT(force), NULL, "replace an output that is something else" },
	{ "backend", 0, TEXT, AT(backend), "NAME", "auto (default), naive, blis, ..." },
	{ "threads", 0, INTEGER, AT(threads), "N", "threads; default all cores" },
	{ "dtype", 0, TEXT, AT(dtype), "D", "arithmetic of activations: auto (default), f32, bf16" },
	{ "seed", 0, INTEGER, AT(seed), "N", "seed of everything random; default 0" },
	{ "json", 0, FLAG, AT(json), NULL, "one JSON object per line on standard output" },
	{ "quiet", 'q', FLAG, AT(quiet), NULL, "no progress and no warnings on standard error" },
	{ "help", 'h', FLAG, AT(help), NULL, "explain this command" },
};
#define N_OPTIONS (sizeof options / sizeof options[0])

static const char common[] = "backend threads dtype seed json quiet help";

static int word_in(const char *word, const char *list)
{
	size_t n = strlen(word);
	for (const char *p = list; p && *p;) {
		size_t m = strcspn(p, " ");
		if (m == n && !memcmp(p, word, n)) return 1;
		p += m + (p[m] == ' ');
	}
	return 0;
}

static int takes(const command *cmd, const option *o) { return word_in(o->name, common) || word_in(o->name, cmd->options); }

static const option *by_name(const char *name)
{
	for (size_t i = 0; i < N_OPTIONS; i++)
		if (!strcmp(options[i].name, name)) return &options[i];
	return NULL;
}

int parse_int(const char *text, int64_t *out)
{
	char *end;
	errno = 0;
	long long v = strtoll(text, &end, 10);
	if (end == text || *end || errno || isspace((unsigned char)text[0])) return 0;
	*out = v;
	return 1;
}

int parse_real(const char *text, double *out)
{
	char *end;
	if (!*text || isspace((unsigned char)*text)) return 0;
	double v = strtod(text, &end); /* the program never calls setlocale(), so the decimal point is a point */
	if (end == text || *end || !isfinite(v)) return 0;
	*out = v;
	return 1;
}

int parse_tokens(const char *what, const char *text, int32_t **out, size_t *count)
{
	size_t n = 0;
	int32_t *ids = new_array(strlen(text) / 2 + 1, sizeof *ids);
	const char *p = text;
	if (!ids) return FAILED;
	while (*p) {
		if (*p == ',' || isspace((unsigned char)*p)) {
			p++;
			continue;
		}
		char *end;
		errno = 0;
		long v = strtol(p, &end, 10);
		if (end == p || errno || v < 0 || v > INT32_MAX || (*end && *end != ',' && !isspace((unsigned char)*end))) {
			free(ids);
			return fail(USAGE, what, "expected token ids such as 1,2,3, found \"%.20s\"", p);
		}
		ids[n++] = (int32_t)v;
		p = end;
	}
	*out = ids;
	*count = n;
	return OK;
}

static size_t edit_distance(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b), row[65];
	if (n > 64 || m > 64) return 64;
	for (size_t j = 0; j <= m; j++) row[j] = j;
	for (size_t i = 1; i <= n; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j <= m; j++) {
			size_t up = row[j], best = diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
			if (up + 1 < best) best = up + 1;
			if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
			diagonal = up;
			row[j] = best;
		}
	}
	return row[m];
}

const char *nearest_name(const char *name, const char *const *names, size_t n)
{
	const char *best = NULL;
	size_t least = strlen(name) / 3 + 2;
	for (size_t i = 0; i < n; i++) {
		size_t d = edit_distance(name, names[i]);
		/* what is begun and not finished is near, too */
		if (strlen(name) > 2 && !strncmp(name, names[i], strlen(name))) d = 1;
		if (d < least) {
			least = d;
			best = names[i];
		}
	}
	return best;
}

static int unknown_option(const command *cmd, const char *given, size_t n)
{
	const char *names[N_OPTIONS];
	char bare[64];
	size_t count = 0;
	while (n && *given == '-') given++, n--;
	snprintf(bare, sizeof bare, "%.*s", (int)(n < 60 ? n : 60), given);
	char *shown = new_format(strlen(bare) == 1 ? "-%s" : "--%s", bare);
	for (size_t i = 0; i < N_OPTIONS; i++)
		if (takes(cmd, &options[i])) names[count++] = options[i].name;
	const char *near = strlen(bare) > 1 ? nearest_name(bare, names, count) : NULL;
	int status;
	if (near) status = fail(USAGE, shown, "no such option of 'lora %s'; did you mean --%s?", cmd->name, near);
	else status = fail(USAGE, shown, "no such option of 'lora %s'; see 'lora help %s'", cmd->name, cmd->name);
	free(shown);
	return status;
}

/* PATH or PATH=SCALE. A path that exists as it stands is taken as it stands. */
static int add_adapter(args *a, const char *value)
{
	adapter_arg *list = grow(a->adapters, a->n_adapters + 1, sizeof *list);
	if (!list) return FAILED;
	a->adapters = list;
	adapter_arg *new = &list[a->n_adapters];
	new->scale = 1;
	new->path = new_string(value);
	if (!new->path) return FAILED;
	a->n_adapters++;
	char *equals = strrchr(new->path, '=');
	if (equals && !path_exists(value)) {
		if (!parse_real(equals + 1, &new->scale)) return fail(USAGE, value, "the scale after '=' is not a number");
		*equals = 0;
	}
	if (!new->path[0]) return fail(USAGE, "-a", "the path is empty");
	return OK;
}

static int add_setting(args *a, const char *value)
{
	const char *equals = strchr(value, '=');
	if (!equals || equals == value) return fail(USAGE, value, "a setting is given as NAME=VALUE");
	setting_arg *list = grow(a->settings, a->n_settings + 1, sizeof *list);
	if (!list) return FAILED;
	a->settings = list;
	setting_arg *new = &list[a->n_settings];
	new->name = new_format("%.*s", (int)(equals - value), value);
	new->text = new_string(equals + 1);
	a->n_settings++;
	return new->name &&new->text ? OK : FAILED;
}

static int add_word(word_list *l, const char *value)
{
	const char **more = grow(l->list, l->n + 1, sizeof *more);
	if (!more) return FAILED;
	l->list = more;
	l->list[l->n++] = value;
	return OK;
}

static int store(args *a, const option *o, const char *shown, const char *value)
{
	char *base = (char *)a;
	switch (o->kind) {
	case FLAG: *(int *)(void *)(base + o->at) = 1; return OK;
	case TEXT:
		if (*(const char **)(void *)(base + o->at)) return fail(USAGE, shown, "given twice");
		if (!*value && o->at != AT(text) && o->at != AT(tokens) && o->at != AT(decode) && o->at != AT(system)) return fail(USAGE, shown, "is empty");
		*(const char **)(void *)(base + o->at) = value;
		return OK;
	case LIST: return add_word((word_list *)(void *)(base + o->at), value);
	case INTEGER:
		if (!parse_int(value, (int64_t *)(void *)(base + o->at)))
			return fail(USAGE, shown, "\"%s\" is not a whole number", value);
		return OK;
	case REAL:
		if (!parse_real(value, (double *)(void *)(base + o->at))) return fail(USAGE, shown, "\"%s\" is not a number", value);
		return OK;
	case ADAPTER: return add_adapter(a, value);
	case SETTING: return add_setting(a, value);
	}
	return OK;
}

static const option *find_option(const command *cmd, const char *word, size_t n)
{
	for (size_t i = 0; i < N_OPTIONS; i++) {
		const option *o = &options[i];
		if (!takes(cmd, o)) continue;
		if (n > 2 && word[1] == '-' ? strlen(o->name) == n - 2 && !memcmp(o->name, word + 2, n - 2)
									: o->letter && word[1] == o->letter)
			return o;
	}
	return NULL;
}

/* One option at argv[0]; *used counts the words taken. */
static int parse_option(const command *cmd, int argc, char **argv, args *a, int *used)
{
	const char *word = argv[0];
	const char *value = NULL;
	char shown[72];
	int is_long = word[1] == '-';
	size_t n = is_long ? strcspn(word, "=") : 2;

	*used = 1;
	snprintf(shown, sizeof shown, "%.*s", (int)(n < 64 ? n : 64), word);
	const option *o = find_option(cmd, word, n);
	if (!o) return unknown_option(cmd, word, n);
	if (is_long && word[n] == '=') value = word + n + 1;
	if (!is_long && word[2]) value = word + 2 + (word[2] == '=');
	if (o->kind == FLAG) {
		if (value) return fail(USAGE, shown, "takes no value");
	} else if (!value) {
		if (argc < 2) return fail(USAGE, shown, "needs a value (%s)", o->value);
		value = argv[1];
		*used = 2;
	}
	return store(a, o, shown, value);
}

static int check_ranges(const args *a)
{
	if (a->threads != UNSET && (a->threads < 0 || a->threads > 4096))
		return fail(USAGE, "--threads", "must be 0 (all cores) to 4096");
	if (a->count != UNSET && a->count < 0) return fail(USAGE, "-n", "must not be negative");
	if (a->max_shard != UNSET && a->max_shard < 0) return fail(USAGE, "--max-shard-size", "must not be negative");
	if (a->rank != UNSET && a->rank < 1) return fail(USAGE, "-r", "must be at least 1");
	if (a->top_k != UNSET && a->top_k < 0) return fail(USAGE, "--top-k", "must not be negative");
	if (!isnan(a->temperature) && a->temperature < 0) return fail(USAGE, "--temperature", "must not be negative");
	if (a->mc_dropout != UNSET && a->mc_dropout < 1) return fail(USAGE, "--mc-dropout", "must be above 0");
	if (!isnan(a->top_p) && (a->top_p <= 0 || a->top_p > 1)) return fail(USAGE, "--top-p", "must be above 0 and at most 1");
	if (!isnan(a->repetition_penalty) && a->repetition_penalty <= 0) return fail(USAGE, "--repetition-penalty", "must be above 0");
	for (size_t i = 0; i < a->stops.n; i++)
		if (!a->stops.list[i][0]) return fail(USAGE, "--stop", "the text is empty");
	return OK;
}

int options_parse(const command *cmd, int argc, char **argv, args *out)
{
	int i = 0, plain = 0, used = 0, status;

	memset(out, 0, sizeof *out);
	out->cmd = cmd;
	out->count = out->threads = out->seed = out->top_k = out->rank = out->points = out->mc_dropout = out->max_shard = UNSET;
	out->temperature = out->top_p = out->repetition_penalty = out->keep = NAN;
	out->positional = new_array((size_t)argc + 1, sizeof *out->positional);
	if (!out->positional) return FAILED;
	while (i < argc) {
		char *word = argv[i];
		if (plain || word[0] != '-' || !word[1]) {
			out->positional[out->n_positional++] = word;
			i++;
		} else if (!strcmp(word, "--")) {
			plain = 1;
			i++;
		} else {
			status = parse_option(cmd, argc - i, argv + i, out, &used);
			if (status) return status;
			i += used;
		}
	}
	if (out->help) return OK;
	if ((int)out->n_positional > cmd->max_positional)
		return fail(USAGE, out->positional[cmd->max_positional], "one word too many; usage: lora %s %s", cmd->name, cmd->usage);
	if ((int)out->n_positional < cmd->min_positional) return fail(USAGE, cmd->name, "usage: lora %s %s", cmd->name, cmd->usage);
	const char *t = out->temperature_text;
	if (t && !(takes(cmd, by_name("ensemble")) && !strncmp(t, "fit:", 4)) && !parse_real(t, &out->temperature)) return fail(USAGE, "--temperature", "\"%s\" is not a number", t);
	return check_ranges(out);
}

void options_free(args *a)
{
	for (size_t i = 0; i < a->n_adapters; i++) free(a->adapters[i].path);
	for (size_t i = 0; i < a->n_settings; i++) {
		free(a->settings[i].name);
		free(a->settings[i].text);
	}
	free(a->adapters);
	free(a->settings);
	free(a->positional);
	free(a->prompts.list);
	free(a->stops.list);
}

static void help_option(const option *o, FILE *to)
{
	char left[64];
	int n = o->letter ? snprintf(left, sizeof left, "-%c, --%s", o->letter, o->name)
					  : snprintf(left, sizeof left, "    --%s", o->name);
	if (o->value) snprintf(left + n, sizeof left - (size_t)n, " %s", o->value);
	fprintf(to, "  %-32s %s\n", left, o->help);
}

void options_help(const command *cmd, FILE *to)
{
	fprintf(to, "usage: lora %s%s%s\n\n%s\n", cmd->name, cmd->usage[0] ? " " : "", cmd->usage, cmd->help);
	if (cmd->more) fprintf(to, "\n%s", cmd->more);
	if (cmd->options && cmd->options[0]) {
		fprintf(to, "\nOptions\n");
		for (size_t i = 0; i < N_OPTIONS; i++)
			if (word_in(options[i].name, cmd->options)) help_option(&options[i], to);
	}
	fprintf(to, "\nOptions of every command\n");
	for (size_t i = 0; i < N_OPTIONS; i++)
		if (word_in(options[i].name, common)) help_option(&options[i], to);
}
