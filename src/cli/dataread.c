/* lora: reading data files into examples or slabs. A bad line is an error that says which. */
#include "cli/data.h"
#include "cli/idtext.h"

#include <stdlib.h>
#include <string.h>

#define IGNORED (-100)

/* ---- examples ---- */

/* Append one example; labels NULL = the ids. */
static int add_example(dataset *d, const int32_t *ids, const int32_t *labels, size_t n, int32_t class_label)
{
	if (d->n_ids + n > d->room) {
		size_t room = (d->n_ids + n) * 2;
		int32_t *more = grow(d->ids, room, sizeof *more);
		if (!more) return FAILED;
		d->ids = more;
		if (!(more = grow(d->labels, room, sizeof *more))) return FAILED;
		d->labels = more;
		d->room = room;
	}
	if ((size_t)d->n + 2 > d->room_examples) {
		size_t room = ((size_t)d->n + 2) * 2;
		size_t *starts = grow(d->start, room, sizeof *starts);
		if (!starts) return FAILED;
		d->start = starts;
		if (d->n_labels) {
			int32_t *classes = grow(d->classes, room, sizeof *classes);
			if (!classes) return FAILED;
			d->classes = classes;
		}
		d->room_examples = room;
	}
	if (!d->n) d->start[0] = 0;
	memcpy(d->ids + d->n_ids, ids, n * sizeof *ids);
	memcpy(d->labels + d->n_ids, labels ? labels : ids, n * sizeof *ids);
	d->n_ids += n;
	if (d->classes) d->classes[d->n] = class_label;
	d->start[++d->n] = d->n_ids;
	return OK;
}

/* A run of tokens cut into blocks; a last one of a single token has nothing to predict and is left out. */
static int add_blocks(dataset *d, const int32_t *ids, const int32_t *labels, size_t n)
{
	size_t length = (size_t)d->options.sequence_length;
	for (size_t at = 0; at < n; at += length) {
		size_t m = n - at < length ? n - at : length;
		if (m < 2) break;
		if (add_example(d, ids + at, labels ? labels + at : NULL, m, 0)) return FAILED;
	}
	return OK;
}

int data_read_text(dataset *d, session *s)
{
	char *text = NULL;
	int32_t *ids = NULL;
	size_t bytes, n;
	int status;

	if (d->n_labels) return fail(FAILED, d->path, "a classifier learns from .jsonl with text and label, or from .safetensors");
	status = read_file(d->path, 0, &text, &bytes);
	if (!status) status = encode_text(s, d->path, text, bytes, 1, &ids, &n);
	if (!status) status = add_blocks(d, ids, NULL, n);
	free(ids);
	free(text);
	return status;
}

/* ---- lines ---- */

typedef struct line_reader {
	dataset *d;
	session *s;
	size_t number;         /* of the line, from 1 */
	int32_t *ids, *labels; /* of the example at hand, or with packing of all so far */
	size_t n, room;
} line_reader;

static int bad_line(const line_reader *r, const char *what) { return fail(FAILED, r->d->path, "line %zu: %s", r->number, what); }

static int append(line_reader *r, const int32_t *ids, size_t n, int counts)
{
	if (r->n + n > r->room) {
		size_t room = (r->n + n) * 2;
		int32_t *more = grow(r->ids, room, sizeof *more);
		if (!more) return FAILED;
		r->ids = more;
		if (!(more = grow(r->labels, room, sizeof *more))) return FAILED;
		r->labels = more;
		r->room = room;
	}
	for (size_t i = 0; i < n; i++) {
		r->ids[r->n] = ids[i];
		r->labels[r->n++] = counts ? ids[i] : IGNORED;
	}
	return OK;
}

static int append_text(line_reader *r, json_t *text, int special, int counts)
{
	int32_t *ids = NULL;
	size_t n = 0;
	int status = encode_text(r->s, r->d->path, json_string_value(text), json_string_length(text), special, &ids, &n);
	if (!status) status = append(r, ids, n, counts);
	free(ids);
	return status;
}

static int append_eos(line_reader *r)
{
	int32_t eos = (int32_t)r->s->info.eos_token_id;
	if (eos < 0 || (r->n && r->ids[r->n - 1] == eos)) return OK;
	return append(r, &eos, 1, 1);
}

/* The example at hand is complete: cut it to sequence_length and keep it when it still has something to learn. */
static int end_example(line_reader *r, int32_t class_label)
{
	dataset *d = r->d;
	size_t n = r->n, length = (size_t)d->options.sequence_length;
	int counted = d->n_labels > 0;
	if (n > length) n = length;
	for (size_t i = 1; i < n; i++) counted |= r->labels[i] != IGNORED;
	r->n = 0;
	if (!n || !counted) {
		d->dropped++;
		return OK;
	}
	return add_example(d, r->ids, r->labels, n, class_label);
}

static int read_classified(line_reader *r, json_t *text, json_t *label)
{
	if (!json_is_string(text)) return bad_line(r, "\"text\" is missing or no string");
	if (!json_is_integer(label)) return bad_line(r, "\"label\" is missing or no whole number (the model is a classifier)");
	if (json_integer_value(label) < 0 || json_integer_value(label) >= r->d->n_labels)
		return bad_line(r, "\"label\" is out of the model's range");
	if (append_text(r, text, 1, 1)) return FAILED;
	return end_example(r, (int32_t)json_integer_value(label));
}

static int read_line(line_reader *r, json_t *o)
{
	json_t *text = json_object_get(o, "text"), *prompt = json_object_get(o, "prompt"),
		   *completion = json_object_get(o, "completion");
	dataset *d = r->d;

	if (!json_is_object(o)) return bad_line(r, "is no JSON object");
	if (d->n_labels) return read_classified(r, text, json_object_get(o, "label"));
	if (text) {
		if (!json_is_string(text)) return bad_line(r, "\"text\" is no string");
		if (append_text(r, text, 1, 1)) return FAILED;
	} else if (prompt || completion) {
		if (!json_is_string(prompt) || !json_is_string(completion))
			return bad_line(r, "\"prompt\" and \"completion\" must both be there and be strings");
		if (append_text(r, prompt, 1, !d->options.completion_only) || append_text(r, completion, 0, 1)) return FAILED;
	} else if (json_object_get(o, "messages")) {
		return bad_line(r, "\"messages\" needs a chat template, which is not supported; give \"prompt\" and \"completion\"");
	} else {
		return bad_line(r, "has none of \"text\", \"prompt\" with \"completion\", \"messages\"");
	}
	if (append_eos(r)) return FAILED;
	return d->options.packing ? OK : end_example(r, 0);
}

int data_read_lines(dataset *d, session *s)
{
	line_reader r = { .d = d, .s = s };
	char *text = NULL;
	size_t bytes = 0;
	int status = read_file(d->path, 0, &text, &bytes);

	for (size_t at = 0; !status && at < bytes;) {
		char *end = memchr(text + at, '\n', bytes - at);
		size_t n = end ? (size_t)(end - text) - at : bytes - at;
		char *line = text + at;
		r.number++;
		at += n + 1;
		while (n && (line[n - 1] == '\r' || line[n - 1] == ' ' || line[n - 1] == '\t')) n--;
		if (!n) continue;
		json_error_t err;
		json_t *o = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &err);
		if (!o) status = fail(FAILED, d->path, "line %zu, column %d: not JSON: %s", r.number, err.column, err.text);
		else status = read_line(&r, o);
		json_decref(o);
	}
	if (!status && d->options.packing && r.n) status = add_blocks(d, r.ids, r.labels, r.n);
	free(r.ids);
	free(r.labels);
	free(text);
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
	return st_int32(f, t, &d->classes);
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
		status = st_int32(&f, ids, &d->ids);
	}
	if (!status) status = d->n_labels ? read_class_labels(d, &f) : read_slab_tensor(&f, "labels", ids, &d->labels);
	if (!status) status = read_slab_tensor(&f, "attention_mask", ids, &d->mask);
	if (!status) status = read_slab_tensor(&f, "position_ids", ids, &d->positions);
	st_free(&f);
	return status;
}
