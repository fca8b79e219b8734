/* lora: reading data files into examples or slabs, piece by piece, so that a file may be larger than memory. A bad line is an error that says which
 * line and what is wrong with it, or with --skip-bad is counted. */
#include "cli/data.h"
#include "cli/idtext.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IGNORED     (-100)
#define BAD         (-1)                /* besides OK and FAILED: this line is bad, and reader.problem says why */
#define LINE_MOST   ((size_t)256 << 20) /* bytes of one line */
#define TEXT_MOST   ((size_t)8 << 20)   /* bytes of a .txt that are tokenized at once: a 32nd of data_memory, which is about what tokenizing takes, */
#define TEXT_LEAST  ((size_t)64 << 10)  /* within these; the last eighth of a piece is where a good place to cut is looked for */
#define SHOWN_BAD   10

/* ---- examples ---- */

/* Append one example; labels NULL = the ids, for all examples of a file or for none. */
static int add_example(dataset *d, const int32_t *ids, const int32_t *labels, size_t n, int32_t class_label)
{
	size_t end = d->ids.n / sizeof *ids + n;
	if (!d->n_examples && store_put(&d->start, NULL, sizeof(size_t))) return FAILED;
	if (store_put(&d->ids, ids, n * sizeof *ids) || (labels && store_put(&d->labels, labels, n * sizeof *ids))) return FAILED;
	if (d->n_labels && store_put(&d->classes, &class_label, sizeof class_label)) return FAILED;
	if (store_put(&d->start, &end, sizeof end)) return FAILED;
	d->n_examples++;
	return OK;
}

/* A run of tokens cut into blocks; what is left at the end (less than a block) is moved to the front unless it is the last. *n: what is left. */
static int add_blocks(dataset *d, int32_t *ids, size_t *n, int last)
{
	size_t length = (size_t)d->options.sequence_length, at = 0;
	for (; *n - at >= length || (last && *n - at >= 2); at += *n - at < length ? *n - at : length)
		if (add_example(d, ids + at, NULL, *n - at < length ? *n - at : length, 0)) return FAILED;
	*n -= at;
	memmove(ids, ids + at, *n * sizeof *ids);
	return OK;
}

/* ---- texts ---- */

/* Where to cut a text that is not at its end: behind a single newline between two characters that are no white space, where tokenizers cut as well;
 * else behind a newline; else between characters. */
static size_t cut_place(const char *s, size_t n)
{
	size_t newline = 0, from = n - n / 8;
	for (size_t i = n - 1; i >= from && i >= 2; i--) {
		if (s[i - 1] != '\n') continue;
		if (!newline) newline = i;
		if ((unsigned char)s[i] > ' ' && (unsigned char)s[i - 2] > ' ') return i;
	}
	if (newline) return newline;
	size_t at = n;
	while (at > 1 && ((unsigned char)s[at - 1] & 0xc0) == 0x80) at--;
	return at > 1 ? at - 1 : n;
}

typedef struct text_reader {
	FILE *f;
	char *text;
	int32_t *ids; /* not yet in an example */
	size_t have, n, room, pieces;
} text_reader;

static int take_piece(dataset *d, session *s, text_reader *r, size_t bytes, int last)
{
	int32_t *ids = NULL;
	size_t n = 0;
	int status = encode_text(s, d->path, r->text, bytes, !r->pieces++, &ids, &n);
	if (!status && r->n + n > r->room) {
		int32_t *more = grow(r->ids, r->n + n, sizeof *more);
		if (more) r->ids = more, r->room = r->n + n;
		else status = FAILED;
	}
	if (!status && n) {
		memcpy(r->ids + r->n, ids, n * sizeof *ids);
		r->n += n;
	}
	free(ids);
	return status || !r->n ? status : add_blocks(d, r->ids, &r->n, last);
}

int data_read_text(dataset *d, session *s)
{
	text_reader r;
	int status = OK, last = 0;
	size_t piece = d->ids.limit / 8;

	if (piece > TEXT_MOST) piece = TEXT_MOST;
	if (piece < TEXT_LEAST) piece = TEXT_LEAST;
	memset(&r, 0, sizeof r);
	if (d->n_labels) return fail(FAILED, d->path, "a classifier learns from .jsonl with text and label, or from .safetensors");
	if (s->info.has_decoder) return fail(FAILED, d->path, "an encoder-decoder model learns from .jsonl with prompt and completion");
	if (open_regular(d->path, &r.f)) return FAILED;
	r.text = new_bytes(piece + 1);
	if (!r.text) status = FAILED;
	while (!status && !last) {
		r.have += fread(r.text + r.have, 1, piece + 1 - r.have, r.f);
		if (ferror(r.f)) {
			status = fail_system(d->path, "cannot read");
			break;
		}
		last = r.have <= piece;
		size_t bytes = last ? r.have : cut_place(r.text, r.have);
		status = take_piece(d, s, &r, bytes, last);
		r.have -= bytes;
		memmove(r.text, r.text + bytes, r.have);
	}
	fclose(r.f);
	free(r.text);
	free(r.ids);
	return status;
}

/* ---- lines ---- */

typedef struct line_reader {
	dataset *d;
	session *s;
	FILE *f;
	char *line;
	size_t n_line, room_line;
	size_t number;         /* of the line, from 1 */
	char problem[512];
	int template_known;
	int32_t *ids, *labels; /* of the example at hand */
	size_t n, room;
} line_reader;

static int bad(line_reader *r, const char *what)
{
	snprintf(r->problem, sizeof r->problem, "%s", what);
	return BAD;
}

/* The library refused this text: the line is bad, unless it is our memory. */
static int bad_by_library(line_reader *r, lora_status status)
{
	if (status == LORA_E_MEMORY) return fail_library(r->s->ctx, r->d->path);
	return bad(r, lora_context_last_error(r->s->ctx));
}

static int room_for(line_reader *r, size_t n)
{
	if (r->n + n <= r->room) return OK;
	size_t room = (r->n + n) * 2;
	int32_t *more = grow(r->ids, room, sizeof *more);
	if (!more) return FAILED;
	r->ids = more;
	if (!(more = grow(r->labels, room, sizeof *more))) return FAILED;
	r->labels = more;
	r->room = room;
	return OK;
}

static int append_text(line_reader *r, json_t *text, int special, int counts)
{
	const char *s = json_string_value(text);
	size_t bytes = json_string_length(text), count = 0;
	uint32_t flags = special ? LORA_TOKENIZE_SPECIAL : 0;
	if (room_for(r, bytes / 2 + 16)) return FAILED;
	lora_status status = lora_tokenizer_encode(r->s->tokenizer, s, bytes, flags, r->ids + r->n, r->room - r->n, &count);
	if (status == LORA_E_LIMIT && count > r->room - r->n) {
		if (room_for(r, count)) return FAILED;
		status = lora_tokenizer_encode(r->s->tokenizer, s, bytes, flags, r->ids + r->n, r->room - r->n, &count);
	}
	if (status) return bad_by_library(r, status);
	for (size_t i = 0; i < count; i++, r->n++) r->labels[r->n] = counts ? r->ids[r->n] : IGNORED;
	return OK;
}

static int append_eos(line_reader *r)
{
	int32_t eos = (int32_t)r->s->info.eos_token_id;
	if (eos < 0 || (r->n && lora_model_is_end(r->s->model, r->ids[r->n - 1]))) return OK;
	if (room_for(r, 1)) return FAILED;
	r->ids[r->n] = r->labels[r->n] = eos;
	r->n++;
	return OK;
}

/* The example at hand is complete: cut it to sequence_length and keep it when it still has something to learn. */
static int end_example(line_reader *r, int32_t class_label)
{
	dataset *d = r->d;
	size_t n = r->n, length = (size_t)d->options.sequence_length;
	int counted = d->n_labels > 0;
	if (n > length && d->n_labels) r->ids[length - 1] = r->ids[n - 1]; /* the closing token stays, as transformers' truncation has it */
	if (n > length) n = length;
	for (size_t i = 1; i < n; i++) counted |= r->labels[i] != IGNORED;
	if (!n || !counted) {
		d->dropped++;
		return OK;
	}
	return add_example(d, r->ids, r->labels, n, class_label);
}

static int read_classified(line_reader *r, json_t *text, json_t *label)
{
	int status;
	if (!json_is_string(text)) return bad(r, "\"text\" is missing or no string");
	if (!json_is_integer(label)) return bad(r, "\"label\" is missing or no whole number (the model is a classifier)");
	if (json_integer_value(label) < 0 || json_integer_value(label) >= r->d->n_labels)
		return bad(r, "\"label\" is out of the model's range");
	if ((status = append_text(r, text, 1, 1))) return status;
	return end_example(r, (int32_t)json_integer_value(label));
}

/* ---- conversations ---- */

static int take_message(line_reader *r, size_t i, json_t *m, lora_chat_message *out)
{
	json_t *role = json_object_get(m, "role"), *content = json_object_get(m, "content");
	const char *what = !json_is_object(m) ? "is no object" : !json_is_string(role) ? "has no \"role\"" : !json_is_string(content) ? "has no \"content\" that is a string" :
		json_is_array(json_object_get(m, "tool_calls")) ? "calls tools, which is not supported" : NULL;
	if (what) {
		snprintf(r->problem, sizeof r->problem, "message %zu of \"messages\" %s", i, what);
		return BAD;
	}
	*out = (lora_chat_message){ json_string_value(role), json_string_value(content), json_string_length(content) };
	return OK;
}

/* A template that is not known is no fault of a line. */
static int has_template(line_reader *r)
{
	static const lora_chat_message hello = { "user", "x", 1 };
	size_t n;
	if (r->template_known) return OK;
	lora_status result = lora_chat_render(r->s->tokenizer, r->d->options.chat_template, &hello, 1, 0, NULL, 0, &n);
	if (result == LORA_E_UNSUPPORTED || result == LORA_E_NOTFOUND)
		return fail(FAILED, r->d->options.chat_template ? "--chat-template" : r->d->path, "%s%s", lora_context_last_error(r->s->ctx),
			r->d->options.chat_template ? "" : " (--chat-template NAME)");
	r->template_known = 1;
	return OK;
}

static int read_messages(line_reader *r, json_t *messages)
{
	size_t n = json_array_size(messages), count = 0, bytes = 0;
	lora_chat_message *list = new_array(n, sizeof *list);
	unsigned char *mask = NULL;
	int status = list ? OK : FAILED;
	if (!status && (!json_is_array(messages) || !n)) status = bad(r, "\"messages\" is no list of messages");
	for (size_t i = 0; i < n && !status; i++) {
		status = take_message(r, i, json_array_get(messages, i), &list[i]);
		bytes += status ? 0 : list[i].n + 32;
	}
	if (!status) status = has_template(r);
	for (int pass = 0; pass < 2 && !status; pass++) {
		if (room_for(r, pass ? count : bytes / 2 + 64)) status = FAILED;
		free(mask);
		mask = status ? NULL : new_bytes(r->room);
		if (!status && !mask) status = FAILED;
		if (status) break;
		lora_status result = lora_chat_encode(r->s->tokenizer, r->d->options.chat_template, list, n, 0, r->ids, mask, r->room, &count);
		if (result && !(result == LORA_E_LIMIT && count > r->room)) status = bad_by_library(r, result);
		if (!result) break;
	}
	for (; !status && r->n < count; r->n++) r->labels[r->n] = mask[r->n] || !r->d->options.completion_only ? r->ids[r->n] : IGNORED;
	free(mask);
	free(list);
	return status;
}

/* Source and target, each of up to sequence_length tokens; the source keeps its closing token. */
static int read_pair(line_reader *r, json_t *prompt, json_t *completion)
{
	size_t length = (size_t)r->d->options.sequence_length, source;
	int status;
	if (!json_is_string(prompt) || !json_is_string(completion)) return bad(r, "\"prompt\" and \"completion\" must be there and be strings (the model has an encoder and a decoder)");
	if ((status = append_text(r, prompt, 1, 0))) return status;
	if (r->n > length) {
		r->ids[length - 1] = r->ids[r->n - 1];
		r->n = length;
	}
	source = r->n;
	if (!status) status = append_text(r, completion, 0, 1);
	if (!status) status = append_eos(r);
	if (status) return status;
	if (r->n > source + length) r->n = source + length;
	if (!source || r->n == source) {
		r->d->dropped++;
		return OK;
	}
	return add_example(r->d, r->ids, r->labels, r->n, 0);
}

static int read_object(line_reader *r, json_t *o)
{
	json_t *text = json_object_get(o, "text"), *prompt = json_object_get(o, "prompt"), *completion = json_object_get(o, "completion"),
		   *messages = json_object_get(o, "messages");
	int status = OK;

	r->n = 0;
	if (!json_is_object(o)) return bad(r, "is no JSON object");
	if (r->d->has_decoder) return read_pair(r, prompt, completion);
	if (r->d->n_labels) return read_classified(r, text, json_object_get(o, "label"));
	if (text) {
		if (!json_is_string(text)) return bad(r, "\"text\" is no string");
		status = append_text(r, text, 1, 1);
	} else if (prompt || completion) {
		if (!json_is_string(prompt) || !json_is_string(completion))
			return bad(r, "\"prompt\" and \"completion\" must both be there and be strings");
		status = append_text(r, prompt, 1, !r->d->options.completion_only);
		if (!status) status = append_text(r, completion, 0, 1);
	} else if (messages) {
		status = read_messages(r, messages);
		return status ? status : end_example(r, 0);
	} else {
		return bad(r, "has none of \"text\", \"prompt\" with \"completion\", \"messages\"");
	}
	if (!status) status = append_eos(r);
	return status ? status : end_example(r, 0);
}

static int read_line(line_reader *r)
{
	size_t n = r->n_line;
	json_error_t err;
	while (n && (r->line[n - 1] == '\r' || r->line[n - 1] == ' ' || r->line[n - 1] == '\t' || r->line[n - 1] == '\n')) n--;
	if (!n) return OK;
	if (n > LINE_MOST) return bad(r, "is longer than 256 MiB");
	if (r->number == 1 && n >= 3 && !memcmp(r->line, "\xEF\xBB\xBF", 3)) return bad(r, "the file begins with a byte order mark; save it as UTF-8 without one");
	json_t *o = json_loadb(r->line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &err);
	if (!o) {
		snprintf(r->problem, sizeof r->problem, "column %d: not JSON: %s", err.column, err.text);
		return BAD;
	}
	int status = read_object(r, o);
	json_decref(o);
	return status;
}

/* One line into r->line; what is beyond LINE_MOST is read over. 0 at the end of the file. */
static int next_line(line_reader *r)
{
	int c = 0;
	r->n_line = 0;
	while ((c = getc_unlocked(r->f)) != EOF) {
		if (r->n_line == r->room_line && r->n_line <= LINE_MOST) {
			char *more = grow(r->line, r->room_line ? r->room_line * 2 : 65536, 1);
			if (!more) return FAILED;
			r->line = more;
			r->room_line = r->room_line ? r->room_line * 2 : 65536;
		}
		if (r->n_line < r->room_line) r->line[r->n_line++] = (char)c;
		if (c == '\n') break;
	}
	r->number++;
	if (ferror(r->f)) return fail_system(r->d->path, "cannot read");
	return OK;
}

/* A bad line: the end, or one more that is left out. */
static int judge(line_reader *r)
{
	dataset *d = r->d;
	if (!d->options.skip_bad) return fail(FAILED, d->path, "line %zu: %s", r->number, r->problem);
	if (d->bad++ < SHOWN_BAD) warn(d->path, "line %zu left out: %s", r->number, r->problem);
	return OK;
}

int data_read_lines(dataset *d, session *s)
{
	line_reader r;
	int status;

	memset(&r, 0, sizeof r);
	r.d = d;
	r.s = s;
	if (open_regular(d->path, &r.f)) return FAILED;
	status = next_line(&r);
	while (!status && r.n_line) {
		status = read_line(&r);
		if (status == BAD) status = judge(&r);
		if (!status) status = next_line(&r);
	}
	fclose(r.f);
	free(r.line);
	free(r.ids);
	free(r.labels);
	return status;
}

/* ---- slabs ---- */

static int read_slab_tensor(const st_file *f, const char *name, const st_tensor *ids, int32_t **out)
{
	const st_tensor *t = st_find(f, name);
	if (!t) return OK;
	int same = t->rank == ids->rank;
	for (int i = 0; same && i < t->rank; i++) same = t->shape[i] == ids->shape[i];
	if (!same) return fail(FAILED, f->path, "tensor \"%s\": its shape is not that of input_ids", name);
	return st_int32(f, t, out);
}

static int read_class_labels(dataset *d, const st_file *f)
{
	const st_tensor *t = st_find(f, "labels");
	if (!t || t->count != d->n * d->rows)
		return fail(FAILED, f->path, "tensor \"labels\": a classifier needs it with shape [S, B]");
	return st_int32(f, t, &d->slab_classes);
}

/* Labels of an encoder-decoder model have a length of their own: [S,B,D]. */
static int read_targets(dataset *d, const st_file *f, const st_tensor *ids)
{
	const st_tensor *t = st_find(f, "labels");
	int same = t && t->rank == ids->rank;
	for (int i = 0; same && i + 1 < t->rank; i++) same = t->shape[i] == ids->shape[i];
	if (!same) return fail(FAILED, f->path, "tensor \"labels\": an encoder-decoder model needs it with shape [S, B, D]");
	d->target_length = t->shape[t->rank - 1];
	return st_int32(f, t, &d->slab_labels);
}

int data_read_slabs(dataset *d)
{
	st_file f;
	int status = st_read(d->path, 0, &f);
	const st_tensor *ids = status ? NULL : st_find(&f, "input_ids");

	if (!status && !ids) status = fail(FAILED, d->path, "has no tensor \"input_ids\"");
	if (!status && ((ids->rank != 3 && ids->rank != 2) || !ids->count))
		status = fail(FAILED, d->path, "tensor \"input_ids\": its shape is not [S, B, T] with S, B and T above 0");
	if (!status) {
		const int64_t *shape = ids->shape + (ids->rank == 3);
		d->slabs = 1;
		d->n = ids->rank == 3 ? ids->shape[0] : 1;
		d->rows = shape[0];
		d->length = shape[1];
		status = st_int32(&f, ids, &d->slab_ids);
	}
	if (!status) status = d->n_labels ? read_class_labels(d, &f) : d->has_decoder ? read_targets(d, &f, ids) : read_slab_tensor(&f, "labels", ids, &d->slab_labels);
	if (!status) status = read_slab_tensor(&f, "attention_mask", ids, &d->mask);
	if (!status) status = read_slab_tensor(&f, "position_ids", ids, &d->positions);
	st_free(&f);
	return status;
}
