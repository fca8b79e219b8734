/* Generation: sequences with a key-value cache, and the choice of the next token. */
#ifndef LORA_MODEL_GENERATE_H
#define LORA_MODEL_GENERATE_H

#include "lora/generate.h"
#include "model/model.h"

/* One sequence. Of its length tokens all but a pending one are in the cache. */
typedef struct lora__sequence {
	int64_t       length;  /* tokens appended */
	int64_t       past;    /* tokens computed */
	int32_t       pending; /* chosen and not computed yet; -1 = none */
	int64_t       keys, rows; /* virtual tokens before it, of the adapters that acted when it began */
	int64_t       source;  /* encoder tokens behind it, 0 = none (or not an encoder-decoder model) */
	lora_adapter *adapter; /* NULL = every attached one; held by the layer above */
} lora__sequence;

/* How the next token is chosen. */
typedef struct lora__sampling { double temperature, top_p; int64_t top_k; uint64_t seed; double penalty; } lora__sampling;

struct lora_generator {
	lora_context   *ctx;
	lora_model     *m;        /* holds a reference */
	lora__sampling  how;
	int64_t         slots, max_length;
	lora__sequence *seq;
	lora__cache     cache;    /* capacity grows up to max_length */
	char           *block;    /* memory of all keys and values */
	lora__cache     cross;    /* the same of the encoders' tokens; grows with the longest source */
	char           *cross_block;
	float          *logits;   /* [slots, vocab] after each sequence's last computed token */
	float          *fresh;    /* [slots, vocab] */
	lora__feed     *feeds;    /* [slots] */
	int32_t        *chosen;   /* [slots] */
	float          *logprob;  /* [slots] */
	int32_t        *order;    /* [vocab] scratch of sampling */
	uint8_t        *seen;     /* [slots, vocab] 1 = the sequence has this token; NULL without repetition penalty */
};

extern const lora__member lora__generator_member; /* family "generator" */

lora_status lora__generator_create(lora_model *m, const lora_settings *settings, lora_generator **out);
void        lora__generator_free(lora_generator *g);
/* Append n > 0 tokens to sequence s and compute them; on failure the sequence is as before. An encoder-decoder model reads the first tokens as its
 * source, and its sequence begins with the decoder's start token. */
lora_status lora__generator_feed(lora_generator *g, int64_t s, const int32_t *tokens, int64_t n);
/* Compute pending tokens, choose a next one for every sequence: g->chosen, g->logprob. */
lora_status lora__generator_next(lora_generator *g);
void        lora__generator_reset(lora_generator *g, int64_t s);

/* Repetition penalty p: logits of tokens that were seen, divided by p where positive, multiplied where negative. to may be logits. */
void lora__penalize(const uint8_t *seen, double p, const float *logits, int64_t n, float *to);
/* Choose from logits[n] (sample.c). position keys the draw; order is scratch of n. LORA_E_NUMERIC when a logit is not finite. */
lora_status lora__sample(lora_context *ctx, const lora__sampling *how, uint64_t sequence, uint64_t position, const float *logits, int64_t n,
                         int32_t *order, int32_t *token, float *logprob);

#endif
