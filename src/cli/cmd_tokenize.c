/* lora tokenize: text to token ids and back. */
#include "cli/commands.h"
#include "cli/idtext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int read_stdin(char **out, size_t *n)
{
	size_t room = 1 << 16, have = 0;
	char *text = new_bytes(room);
	if (!text) return FAILED;
	for (;;) {
		size_t got = fread(text + have, 1, room - have, stdin);
		have += got;
		if (have < room) break;
		char *more = grow(text, room * 2, 1);
		if (!more) {
			free(text);
			return FAILED;
		}
		text = more;
		room *= 2;
	}
	if (ferror(stdin)) {
		free(text);
		return fail_system("standard input", "cannot read");
	}
	*out = text;
	*n = have;
	return OK;
}

static int show_tokens(const args *a, const int32_t *ids, size_t n)
{
	if (a->json) {
		json_t *root = json_object();
		json_object_set_new(root, "tokens", json_ids(ids, n));
		return print_json(root);
	}
	for (size_t i = 0; i < n; i++) say("%s%d", i ? " " : "", ids[i]);
	say("\n");
	return OK;
}

static int decode(const session *s, const args *a, const int32_t *ids, size_t n)
{
	size_t bytes = 0;
	char *text = NULL;
	int status = decode_text(s, ids, n, &text, &bytes);
	if (!status && a->json) {
		json_t *root = json_object();
		json_object_set_new(root, "text", json_text(text, bytes));
		status = print_json(root);
	} else if (!status) {
		fwrite(text, 1, bytes, stdout);
		say("\n");
	}
	free(text);
	return status;
}

static int encode(const session *s, const args *a)
{
	char *input = NULL;
	const char *text = a->text;
	int32_t *ids = NULL;
	size_t n = text ? strlen(text) : 0, count = 0;
	int status = OK;
	if (!text) {
		status = read_stdin(&input, &n);
		text = input;
	}
	if (!status) status = encode_text(s, input ? "standard input" : "-t", text, n, !a->no_special, &ids, &count);
	if (!status) status = show_tokens(a, ids, count);
	free(ids);
	free(input);
	return status;
}

static int run(const args *a)
{
	session s;
	int32_t *ids = NULL;
	size_t n = 0;
	int status;
	if (!a->model) return fail(USAGE, "-m", "a model or tokenizer.json is needed");
	if (a->text && a->decode) return fail(USAGE, "--decode", "cannot go with -t");
	if (a->decode && (status = parse_tokens("--decode", a->decode, &ids, &n))) return status;
	args plain = *a;
	if (!plain.backend) plain.backend = "naive"; /* nothing is computed here */
	plain.threads = 1;
	status = session_context(&s, &plain);
	if (!status) status = session_tokenizer(&s, a->model);
	if (!status) status = a->decode ? decode(&s, a, ids, n) : encode(&s, a);
	free(ids);
	session_close(&s);
	return status;
}

const command command_tokenize = { "tokenize", "-m MODEL [-t TEXT] [--no-special] | --decode 1,2,3",
	"turn text into token ids, or ids into text",
	"Without -t the text is read from standard input, as it is. MODEL may also be a tokenizer.json.\n"
	"JSON: tokens, or text with --decode.\n",
	"model text decode no-special", 0, 0, run };
