/* BERT: the encoder alone (hidden states), or with pooler and classifier: logits = W tanh(P h_[CLS]).
 * Source: Devlin et al. 2018, arXiv:1810.04805; transformers' BertModel, BertForSequenceClassification. */
#include "model/encoder.h"

static const lora__param params[] = {
	KEYS_ENCODER("30522", "512", "2", "1e-12"),
	KEYS_TOKENS("initializer_range", "0.02", NULL, NULL, "0"),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora__encoder e = lora__b_encoder(b, "bert.");
	b->m->position_columns = 1;
	int32_t x = lora__b_encode(b, &e);
	if (!e.classifies) return;
	x = lora__b_encoder_linear(b, &e, x, "pooler.dense", e.hidden);
	lora__b_classifier(b, lora__b_gated(b, x, -1, LORA_ACT_TANH), "classifier");
}

static const char *const types[] = { "bert", NULL };
static const char *const targets[] = { "query", "value", NULL };

const lora__arch lora__arch_bert = { .m = { "bert", "BERT: an encoder, a classifier of sequences", "arXiv:1810.04805; transformers BertForSequenceClassification", params },
	.model_types = types, .targets = targets, .build = build, .hf_class = "BertForSequenceClassification", .prefix = "bert." };
