/* What BERT and RoBERTa share: rows of their schemas, and the encoder. */
#ifndef LORA_MODEL_ENCODER_H
#define LORA_MODEL_ENCODER_H

#include "model/decoder.h"

#define KEYS_ENCODER(vocab, positions, types, eps) \
	KEYS_SIZE(vocab, "768", "3072", "12", "12"), \
	KEY_ACT("hidden_act", "gelu"), \
	KEY_POSITIONS("max_position_embeddings", positions), \
	KEY_COUNT("type_vocab_size", types, 1, 1 << 20, "token types"), \
	KEY_EPS("layer_norm_eps", eps), \
	{ "position_embedding_type", LORA__STRING, "absolute", 0, 0, NULL, "only absolute" }, \
	{ "problem_type", LORA__STRING, NULL, 0, 0, NULL, "only single_label_classification" }, \
	KEY_BOOL("is_decoder", "false", "only false"), \
	KEY_COUNT("num_labels", NULL, 1, 1 << 20, "classes, where id2label is not given; 2 by default"), \
	KEY_ANY("id2label", "names of the classes")

typedef struct lora__encoder { const char *prefix; int64_t hidden, heads, layers, inter, act; double eps; int classifies; } lora__encoder;

/* Read the config; m->n_labels is set when the model is a classifier: by its class in architectures or the setting num_labels. In a classifier's
 * files and PEFT paths the encoder is called prefix ("bert."), without a head nothing. */
lora__encoder lora__b_encoder(lora__builder *b, const char *prefix);
/* Embeddings and blocks, over the rows of space 1: hidden states of all tokens. Of a classifier those of first tokens, in space 0, the last block
 * of these alone; weights from here on are fresh when the head is asked for by num_labels. */
int32_t lora__b_encode(lora__builder *b, const lora__encoder *e);
/* A linear layer of the encoder; name without its prefix. */
int32_t lora__b_encoder_linear(lora__builder *b, const lora__encoder *e, int32_t x, const char *name, int64_t out);
#endif
