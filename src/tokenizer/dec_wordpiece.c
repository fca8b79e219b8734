/* WordPiece decoder: pieces with the prefix join the one before, others get a space; then English punctuation is tidied.
 * Source: huggingface/tokenizers, decoders/wordpiece.rs. */
#include "tokenizer/tok.h"

typedef struct piece_self { char *prefix; size_t n; int cleanup; } piece_self;

static lora_status build(lora__tok_build *b, const json_t *j, void **self)
{
	const char *s;
	piece_self *p = *self = lora__zalloc(b->ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	lora_status st = lora__tok_string(b, j, "prefix", "##", &s, &p->n);
	if (!st) st = lora__tok_bool(b, j, "cleanup", 1, &p->cleanup);
	if (st) return st;
	p->prefix = lora__tok_copy(b, s, p->n);
	return p->prefix ? LORA_OK : LORA_E_MEMORY;
}

static void drop(lora_context *ctx, void *self)
{
	if (self) lora__free(ctx, ((piece_self *)self)->prefix);
	lora__free(ctx, self);
}

/* Replace all of one text by a shorter one, in place. */
static void shorten(char *s, size_t *n, const char *what, const char *with)
{
	size_t w = strlen(what), m = strlen(with), to = 0;
	for (size_t i = 0; i < *n; ) {
		if (*n - i >= w && !memcmp(s + i, what, w)) {
			memcpy(s + to, with, m);
			to += m, i += w;
		} else s[to++] = s[i++];
	}
	*n = to;
}

static const char *const tidy[][2] = { { " .", "." }, { " ?", "?" }, { " !", "!" }, { " ,", "," }, { " ' ", "'" }, { " n't", "n't" },
	{ " 'm", "'m" }, { " do not", " don't" }, { " 's", "'s" }, { " 've", "'ve" }, { " 're", "'re" } };

static lora_status run(const void *self, lora__tok_call *c, const lora__tok_texts *in, lora__tok_texts *out)
{
	const piece_self *p = self;
	lora_status st = LORA_OK;
	for (size_t i = 0, n; i < in->n && !st; i++) {
		const char *s = lora__tok_text(in, i, &n);
		size_t from = out->bytes.n;
		if (i && n >= p->n && !memcmp(s, p->prefix, p->n)) s += p->n, n -= p->n;
		else if (i) st = lora__tok_put(c->ctx, &out->bytes, " ", 1);
		if (!st) st = lora__tok_put(c->ctx, &out->bytes, s, n);
		if (st) break;
		n = out->bytes.n - from;
		for (size_t k = 0; p->cleanup && k < sizeof tidy / sizeof *tidy; k++) shorten(out->bytes.p + from, &n, tidy[k][0], tidy[k][1]);
		out->bytes.n = from + n;
		st = lora__tok_text_end(c->ctx, out);
	}
	return st;
}

const lora__tok_dec lora__decs_wordpiece[] = { { "WordPiece", build, run, drop }, { 0 } };
