/* lora score: one forward over a batch of token ids from a file, and with --grad one backward. */
#include "cli/commands.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct score {
	session s;
	st_file in;
	lora_batch batch;
	int32_t *ids, *mask, *positions, *types, *labels, *decoder_ids, *rows;
	float *logits, *hidden;
	size_t hidden_bytes;
	int64_t logits_shape[3];
	int logits_rank;
	size_t logits_bytes;
	double loss;
	int64_t tokens;   /* counted by the loss */
	int64_t computed; /* not padding */
	st_tensor *out;
	size_t n_out;
} score;

/* An optional tensor of integers, [B,T] or, with rank 1, [B]. */
static int read_ids(score *c, const char *name, int64_t b, int64_t t, int or_vector, int32_t **out)
{
	const st_tensor *x = st_find(&c->in, name);
	if (!x) return OK;
	int vector = or_vector && x->rank == 1 && x->shape[0] == b;
	if (!vector && (x->rank != 2 || x->shape[0] != b || (t >= 0 && x->shape[1] != t))) {
		if (t >= 0)
			return fail(FAILED, c->in.path, "tensor \"%s\": its shape is not [%lld, %lld], that of input_ids%s", name,
				(long long)b, (long long)t, or_vector ? ", nor [B]" : "");
		return fail(FAILED, c->in.path, "tensor \"%s\": its shape is not [%lld, T]", name, (long long)b);
	}
	return st_int32(&c->in, x, out);
}

static int check_rows(score *c)
{
	const st_tensor *x = st_find(&c->in, "adapter_rows");
	int64_t b = c->batch.n_sequences;
	if (!x) return OK;
	if (x->rank != 1 || x->shape[0] != b)
		return fail(FAILED, c->in.path, "tensor \"adapter_rows\": its shape is not [%lld]", (long long)b);
	if (st_int32(&c->in, x, &c->rows)) return FAILED;
	for (int64_t i = 0; i < b; i++)
		if (c->rows[i] < -1 || c->rows[i] >= (int64_t)c->s.n_adapters)
			return fail(FAILED, c->in.path, "tensor \"adapter_rows\": row %lld asks for adapter %d, but there are %zu (-a)",
				(long long)i, c->rows[i], c->s.n_adapters);
	c->batch.adapter_rows = c->rows;
	c->batch.adapters = c->s.adapters;
	c->batch.n_adapters = (int64_t)c->s.n_adapters;
	return OK;
}

static int read_input(score *c, const args *a)
{
	lora_batch *batch = &c->batch;
	if (st_read(a->input, 0, &c->in)) return FAILED;
	const st_tensor *ids = st_find(&c->in, "input_ids"), *decoder = st_find(&c->in, "decoder_input_ids"), *labels = st_find(&c->in, "labels");
	if (!ids) return fail(FAILED, a->input, "has no tensor \"input_ids\"");
	if (ids->rank != 2 || !ids->count)
		return fail(FAILED, a->input, "tensor \"input_ids\": its shape is not [B, T] with B and T above 0");
	int64_t b = ids->shape[0], t = ids->shape[1], label_t = t;
	if (st_int32(&c->in, ids, &c->ids)) return FAILED;
	if (decoder) {
		if (read_ids(c, "decoder_input_ids", b, -1, 0, &c->decoder_ids)) return FAILED;
		label_t = batch->decoder_length = decoder->shape[1];
	} else if (c->s.info.has_decoder && labels && labels->rank == 2) label_t = batch->decoder_length = labels->shape[1]; /* the decoder reads them, shifted */
	int labels_are_rows = c->s.info.n_labels > 0;
	if (read_ids(c, "attention_mask", b, t, 0, &c->mask) || read_ids(c, "position_ids", b, t, 0, &c->positions) ||
		read_ids(c, "token_type_ids", b, t, 0, &c->types) || read_ids(c, "labels", b, label_t, labels_are_rows, &c->labels))
		return FAILED;
	batch->struct_size = sizeof *batch;
	batch->n_sequences = b;
	batch->length = t;
	batch->input_ids = c->ids;
	batch->attention_mask = c->mask;
	batch->position_ids = c->positions;
	batch->token_type_ids = c->types;
	batch->labels = c->labels;
	batch->decoder_input_ids = c->decoder_ids;
	for (int64_t i = 0; i < b * t; i++) c->computed += !c->mask || c->mask[i];
	return check_rows(c);
}

static int make_logits(score *c)
{
	int64_t b = c->batch.n_sequences, t = c->batch.decoder_length ? c->batch.decoder_length : c->batch.length,
			v = c->s.info.vocab_size;
	uint64_t bytes = (uint64_t)b;
	c->logits_rank = 3;
	c->logits_shape[0] = b;
	c->logits_shape[1] = t;
	c->logits_shape[2] = v;
	if (c->s.info.n_labels) {
		c->logits_rank = 2;
		c->logits_shape[1] = c->s.info.n_labels;
	}
	for (int i = 1; i < c->logits_rank; i++)
		if (__builtin_mul_overflow(bytes, (uint64_t)c->logits_shape[i], &bytes)) return fail_memory();
	if (__builtin_mul_overflow(bytes, sizeof(float), &bytes) || bytes > SIZE_MAX / 2) return fail_memory();
	c->logits_bytes = (size_t)bytes;
	c->logits = new_array(c->logits_bytes, 1);
	return c->logits ? OK : FAILED;
}

static int make_hidden(score *c)
{
	uint64_t bytes = sizeof(float), t = (uint64_t)(c->s.info.has_decoder ? c->batch.decoder_length : c->batch.length);
	if (__builtin_mul_overflow(bytes, (uint64_t)c->batch.n_sequences, &bytes) || __builtin_mul_overflow(bytes, t, &bytes) ||
		__builtin_mul_overflow(bytes, (uint64_t)c->s.info.hidden_size, &bytes) || bytes > SIZE_MAX / 2)
		return fail_memory();
	c->hidden_bytes = (size_t)bytes;
	c->hidden = new_array(c->hidden_bytes, 1);
	return c->hidden ? OK : FAILED;
}

static int compute(score *c, const args *a)
{
	lora_model *m = c->s.model;
	lora_status status = LORA_OK;

	if ((a->hidden || !c->s.info.has_head) && make_hidden(c)) return FAILED;
	if (c->hidden && lora_model_hidden(m, &c->batch, c->hidden, c->hidden_bytes)) return fail_library(c->s.ctx, a->input);
	if (!c->s.info.has_head) return OK;
	if (a->output && make_logits(c)) return FAILED;
	if (a->grad) {
		status = lora_model_backward(m, &c->batch, c->logits, c->logits_bytes, &c->loss, &c->tokens);
	} else {
		/* without labels and without -o a forward is still worth its time and its checks */
		if (!c->logits && !c->labels && make_logits(c)) return FAILED;
		if (c->logits) status = lora_model_forward(m, &c->batch, c->logits, c->logits_bytes);
		if (!status && c->labels) status = lora_model_loss(m, &c->batch, &c->loss, &c->tokens);
	}
	return status ? fail_library(c->s.ctx, a->input) : OK;
}

static int add_gradients(score *c, size_t which)
{
	lora_adapter *adapter = c->s.adapters[which];
	int64_t n = lora_adapter_tensor_count(adapter);
	st_tensor *more = grow(c->out, c->n_out + (size_t)n, sizeof *more);
	if (!more) return FAILED;
	c->out = more;
	for (int64_t i = 0; i < n; i++) {
		lora_tensor_info info;
		memset(&info, 0, sizeof info);
		if (lora_adapter_tensor_info(adapter, i, &info)) return fail_library(c->s.ctx, "gradient");
		if (!info.trainable) continue;
		st_tensor *t = &c->out[c->n_out];
		memset(t, 0, sizeof *t);
		t->name = which ? new_format("grad.%zu.%s", which, info.name) : new_format("grad.%s", info.name);
		if (!t->name) return FAILED;
		c->n_out++;
		t->dtype = LORA_F32;
		t->rank = info.rank;
		t->count = 1;
		for (int d = 0; d < info.rank; d++) t->count *= t->shape[d] = info.shape[d];
		t->bytes = (uint64_t)t->count * sizeof(float);
		float *values = new_array((size_t)t->count, sizeof *values);
		t->data = values;
		if (!values) return FAILED;
		if (lora_adapter_gradient_read(adapter, i, values, (size_t)t->bytes)) return fail_library(c->s.ctx, info.name);
	}
	return OK;
}

static int write_output(score *c, const args *a)
{
	c->out = new_array(3, sizeof *c->out);
	if (!c->out) return FAILED;
	st_tensor *t;
	if (c->logits) {
		t = &c->out[c->n_out++];
		t->name = new_string("logits");
		t->dtype = LORA_F32;
		t->rank = c->logits_rank;
		for (int i = 0; i < t->rank; i++) t->shape[i] = c->logits_shape[i];
		t->bytes = c->logits_bytes;
		t->data = c->logits;
		if (!t->name) return FAILED;
	}
	if (c->hidden) {
		t = &c->out[c->n_out++];
		t->name = new_string("hidden");
		t->dtype = LORA_F32;
		t->rank = 3;
		t->shape[0] = c->batch.n_sequences;
		t->shape[1] = c->s.info.has_decoder ? c->batch.decoder_length : c->batch.length;
		t->shape[2] = c->s.info.hidden_size;
		t->bytes = c->hidden_bytes;
		t->data = c->hidden;
		if (!t->name) return FAILED;
	}
	if (c->labels && c->s.info.has_head) {
		t = &c->out[c->n_out++];
		t->name = new_string("loss");
		t->dtype = LORA_F64;
		t->bytes = sizeof c->loss;
		t->data = &c->loss;
		if (!t->name) return FAILED;
	}
	for (size_t i = 0; a->grad && i < c->s.n_adapters; i++)
		if (add_gradients(c, i)) return FAILED;
	return st_write(a->output, c->out, c->n_out, "format", "pt");
}

static int report(const score *c, const args *a, double seconds)
{
	char n[32];
	int64_t tokens = c->labels ? c->tokens : c->computed;
	if (a->json) {
		json_t *root = json_object();
		if (c->labels) json_object_set_new(root, "loss", json_number(c->loss));
		json_object_set_new(root, "tokens", json_integer(tokens));
		json_object_set_new(root, "computed_tokens", json_integer(c->computed));
		json_object_set_new(root, "seconds", json_number(seconds));
		return print_json(root);
	}
	if (c->labels) say("loss    %.9g\n", c->loss);
	say("tokens  %s\nseconds %.3g\n", format_count(tokens, n, sizeof n), seconds);
	if (a->output) say("wrote   %s\n", a->output);
	return OK;
}

static void release(score *c)
{
	for (size_t i = 0; i < c->n_out; i++) {
		free(c->out[i].name);
		const void *own[] = { c->logits, c->hidden, &c->loss };
		int mine = 1;
		for (int k = 0; k < 3; k++) mine &= c->out[i].data != own[k];
		if (mine) free((void *)(uintptr_t)c->out[i].data);
	}
	free(c->out);
	free(c->logits);
	free(c->hidden);
	free(c->ids);
	free(c->mask);
	free(c->positions);
	free(c->types);
	free(c->labels);
	free(c->decoder_ids);
	free(c->rows);
	st_free(&c->in);
	session_close(&c->s);
}

static int run(const args *a)
{
	score c;
	int status;

	memset(&c, 0, sizeof c);
	if (!a->input) return fail(USAGE, "-i", "a .safetensors file with input_ids is needed");
	if (a->grad && !a->n_adapters) return fail(USAGE, "--grad", "needs an adapter (-a): the base model has no trainable tensors");
	if (a->output && path_is_dir(a->output)) return fail(FAILED, a->output, "is a directory, expected a file name");
	status = session_context(&c.s, a);
	if (!status) status = session_model(&c.s, a);
	if (!status) status = session_adapters(&c.s, a, 1);
	if (!status) status = read_input(&c, a);
	if (!status && a->grad && !c.labels) status = fail(FAILED, a->input, "has no tensor \"labels\", which --grad needs");
	if (!status) {
		double start = seconds_now();
		status = compute(&c, a);
		double seconds = seconds_now() - start;
		if (!status && a->output) status = write_output(&c, a);
		if (!status) status = report(&c, a, seconds);
	}
	release(&c);
	return status;
}

const command command_score = { "score", "-m MODEL [-a ADAPTER[=SCALE]]... -i IN.safetensors [-o OUT.safetensors] [--grad] [--hidden]",
	"logits, loss and gradients of one batch",
	"IN    input_ids [B,T] (I32 or I64); optional attention_mask, position_ids, token_type_ids [B,T], labels [B,T] or [B]\n"
	"      (-100 = ignored), decoder_input_ids [B,D], adapter_rows [B] (number of the -a of each row, -1 = none; without it every\n"
	"      -a acts on every row). Other tensors are ignored.\n"
	"OUT   logits F32 (zero where the mask drops a row; [B,classes] of a classifier), with --hidden, and of a model without head,\n"
	"      hidden F32 [B,T,width], what the head reads (an encoder-decoder model: of the decoder), loss F64 [] when there are labels, with --grad one grad.<tensor> per\n"
	"      trainable tensor of the first -a under its PEFT name, and grad.<N>.<tensor> for the Nth further one (1, 2, ...).\n"
	"JSON  loss, tokens (labelled ones; without labels those computed), computed_tokens (without padding), seconds.\n",
	"model adapter input output grad hidden", 0, 0, run };
