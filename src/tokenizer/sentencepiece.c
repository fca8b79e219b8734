/* SentencePiece model files: a protocol buffer with the pieces, how they were trained and how text is normalised. Read by a walk over the bytes
 * that copies nothing but the table of pieces; every length is checked against what is left.
 * Source: sentencepiece, sentencepiece_model.proto; protobuf's encoding of version 3. */
#include "tokenizer/sentencepiece.h"

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

/* One message that is walked over. base: the file's first byte, for offsets. */
typedef struct message { const uint8_t *p, *end; } message;
typedef struct field { uint32_t number, wire; uint64_t value; message bytes; } field;
typedef struct reader { lora_context *ctx; const char *what; const uint8_t *base; lora__spm *out; } reader;

static lora_status bad(const reader *r, const uint8_t *at, const char *says)
{
	return lora__fail_at(r->ctx, LORA_E_FORMAT, "tokenizer", "tokenizer.model", at - r->base, "%s: byte %zu: %s", r->what, (size_t)(at - r->base), says);
}

static lora_status varint(const reader *r, message *m, uint64_t *out)
{
	const uint8_t *start = m->p;
	*out = 0;
	for (int shift = 0; shift < 70; shift += 7) {
		if (m->p == m->end) return bad(r, start, "a number is cut off");
		uint8_t c = *m->p++;
		if (shift == 63 && c > 1) return bad(r, start, "a number of more than 64 bits");
		*out |= (uint64_t)(c & 0x7f) << shift;
		if (!(c & 0x80)) return LORA_OK;
	}
	return bad(r, start, "a number of more than 10 bytes");
}

static lora_status next(const reader *r, message *m, field *f)
{
	const uint8_t *start = m->p;
	uint64_t tag, n;
	lora_status st = varint(r, m, &tag);
	if (st) return st;
	*f = (field){ .number = (uint32_t)(tag >> 3), .wire = (uint32_t)(tag & 7) };
	if (tag >> 3 == 0 || tag >> 32) return bad(r, start, "a field with an impossible number: this is no SentencePiece model");
	switch (f->wire) {
	case VARINT: return varint(r, m, &f->value);
	case FIXED32:
	case FIXED64: n = f->wire == FIXED32 ? 4 : 8; break;
	case BYTES:
		if ((st = varint(r, m, &n))) return st;
		break;
	default: return bad(r, start, "a field of an unknown kind: this is no SentencePiece model");
	}
	if (n > (uint64_t)(m->end - m->p)) return bad(r, start, "a field runs past the end");
	f->bytes = (message){ m->p, m->p + n };
	for (uint64_t i = 0; i < n && f->wire != BYTES; i++) f->value |= (uint64_t)m->p[i] << (8 * i);
	m->p += n;
	return LORA_OK;
}

static lora_status want(const reader *r, const field *f, const message *m, uint32_t wire)
{
	return f->wire == wire ? LORA_OK : bad(r, m->p, "a field is of another kind than it must be");
}

static lora_status read_piece(reader *r, message m)
{
	lora__spm *s = r->out;
	lora__tok_entry *e = &s->entries[s->source.n];
	field f;
	lora_status st = LORA_OK;
	*e = (lora__tok_entry){ .s = "", .type = LORA__TOK_NORMAL };
	while (m.p < m.end && !st) {
		if ((st = next(r, &m, &f))) break;
		switch (f.number) {
		case 1:
			if (!(st = want(r, &f, &m, BYTES))) e->s = (const char *)f.bytes.p, e->n = (size_t)(f.bytes.end - f.bytes.p);
			break;
		case 2:
			if ((st = want(r, &f, &m, FIXED32))) break;
			uint32_t bits = (uint32_t)f.value;
			memcpy(&e->score, &bits, 4);
			break;
		case 3:
			if (!(st = want(r, &f, &m, VARINT))) e->type = f.value > LORA__TOK_BYTE ? 0 : (uint8_t)f.value;
			break;
		default: break;
		}
	}
	s->source.n++;
	return st;
}

/* Which text in the vocabulary is BOS and so on. */
static void take_text(const field *f, lora__tok_slice *out) { *out = (lora__tok_slice){ (const char *)f->bytes.p, (size_t)(f->bytes.end - f->bytes.p) }; }

static lora_status read_trainer(reader *r, message m)
{
	lora__spm *s = r->out;
	field f;
	lora_status st = LORA_OK;
	while (m.p < m.end && !st) {
		if ((st = next(r, &m, &f))) break;
		switch (f.number) {
		case 3:
			if (!(st = want(r, &f, &m, VARINT))) s->model_type = f.value;
			break;
		case 24:
			if (!(st = want(r, &f, &m, VARINT))) s->source.space_behind = f.value != 0;
			break;
		case 35:
			if (!(st = want(r, &f, &m, VARINT))) s->source.byte_fallback = f.value != 0;
			break;
		case 44:
			if (!(st = want(r, &f, &m, BYTES))) take_text(&f, &s->unk_surface);
			break;
		case 46:
			if (!(st = want(r, &f, &m, BYTES))) take_text(&f, &s->bos);
			break;
		case 47:
			if (!(st = want(r, &f, &m, BYTES))) take_text(&f, &s->eos);
			break;
		default: break;
		}
	}
	return st;
}

static lora_status read_normalizer(reader *r, message m, int back)
{
	lora__tok_source *s = &r->out->source;
	int *flags[] = { &s->dummy_prefix, &s->remove_spaces, &s->escape_spaces };
	field f;
	lora_status st = LORA_OK;
	while (m.p < m.end && !st) {
		if ((st = next(r, &m, &f))) break;
		if (f.number == 2) {
			if ((st = want(r, &f, &m, BYTES))) break;
			size_t n = (size_t)(f.bytes.end - f.bytes.p);
			if (!back) s->charsmap = f.bytes.p, s->n_charsmap = n;
			else if (n) st = lora__fail_at(r->ctx, LORA_E_UNSUPPORTED, "tokenizer", "denormalizer_spec", -1, "%s: denormalizer_spec: a character map for decoding", r->what);
		} else if (f.number >= 3 && f.number <= 5 && !back) {
			if (!(st = want(r, &f, &m, VARINT))) *flags[f.number - 3] = f.value != 0;
		}
	}
	return st;
}

static lora_status walk(reader *r, message m, int counting, size_t *count)
{
	field f;
	lora_status st = LORA_OK;
	while (m.p < m.end && !st) {
		if ((st = next(r, &m, &f))) break;
		if (f.number >= 1 && f.number <= 5 && (st = want(r, &f, &m, BYTES))) break;
		if (counting) *count += f.number == 1;
		else if (f.number == 1) st = read_piece(r, f.bytes);
		else if (f.number == 2) st = read_trainer(r, f.bytes);
		else if (f.number == 3) st = read_normalizer(r, f.bytes, 0);
		else if (f.number == 5) st = read_normalizer(r, f.bytes, 1);
	}
	return st;
}

static int32_t control(const lora__spm *s, lora__tok_slice text)
{
	for (size_t i = 0; i < s->source.n; i++) {
		const lora__tok_entry *e = &s->entries[i];
		if (e->type == LORA__TOK_CONTROL && e->n == text.n && !memcmp(e->s, text.s, text.n)) return (int32_t)i;
	}
	return -1;
}

static lora_status check(reader *r)
{
	lora__spm *s = r->out;
	size_t unknown = 0;
	for (size_t i = 0; i < s->source.n; i++) unknown += s->entries[i].type == LORA__TOK_UNKNOWN;
	if (unknown != 1) return lora__fail_at(r->ctx, LORA_E_FORMAT, "tokenizer", "pieces", -1, "%s: %zu pieces are of the unknown type, one must be", r->what, unknown);
	if (s->model_type != 1 && s->model_type != 2)
		return lora__fail_at(r->ctx, s->model_type == 3 || s->model_type == 4 ? LORA_E_UNSUPPORTED : LORA_E_FORMAT, "tokenizer", "model_type", -1,
			"%s: model_type %llu, only Unigram (1) and BPE (2) are known", r->what, (unsigned long long)s->model_type);
	s->source.kind = s->model_type == 1 ? LORA__TOK_UNIGRAM : LORA__TOK_BPE_SCORES;
	s->source.bos = control(s, s->bos), s->source.eos = -1;
	s->eos_id = control(s, s->eos);
	s->unk_text = lora__strndup(r->ctx, s->unk_surface.s, s->unk_surface.n);
	s->source.unk_surface = s->unk_text;
	return s->unk_text ? LORA_OK : LORA_E_MEMORY;
}

lora_status lora__sentencepiece_read(lora_context *ctx, const uint8_t *data, size_t n, const char *what, lora__spm *out)
{
	reader r = { ctx, what, data, out };
	message m = { data, data + n };
	size_t count = 0;
	*out = (lora__spm){ .source = { .what = what, .dummy_prefix = 1, .remove_spaces = 1, .escape_spaces = 1, .bos = -1, .eos = -1 }, .model_type = 1,
		.unk_surface = { " \xe2\x81\x87 ", 5 }, .bos = { "<s>", 3 }, .eos = { "</s>", 4 } };
	if (!n) return lora__fail_at(ctx, LORA_E_FORMAT, "tokenizer", "tokenizer.model", 0, "%s: empty", what);
	/* lines of base64 and a number: the other thing that is called tokenizer.model */
	if (n > 8 && memchr(data, ' ', 64 < n ? 64 : n) && data[0] != '\n' && data[0] >= '+' && data[0] <= 'z')
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "tokenizer", "tokenizer.model", 0, "%s: looks like a tiktoken file, not SentencePiece; give tokenizer.json", what);
	lora_status st = walk(&r, m, 1, &count);
	if (!st && !count) st = bad(&r, data, "no pieces: this is no SentencePiece model");
	if (!st && !(out->entries = lora__calloc(ctx, count, sizeof *out->entries))) st = LORA_E_MEMORY;
	out->source.entries = out->entries;
	if (!st) st = walk(&r, m, 0, &count);
	if (!st) st = check(&r);
	if (st) lora__sentencepiece_free(ctx, out);
	return st;
}

void lora__sentencepiece_free(lora_context *ctx, lora__spm *s)
{
	lora__free(ctx, s->entries);
	lora__free(ctx, s->unk_text);
	*s = (lora__spm){ 0 };
}
