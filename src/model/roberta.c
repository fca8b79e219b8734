/* RoBERTa: BERT's encoder with positions from the padding id + 1 on; classifier of two layers: logits = W tanh(D h_<s>).
 * Source: Liu et al. 2019, arXiv:1907.11692; transformers' RobertaModel, RobertaForSequenceClassification (XLM-RoBERTa and CamemBERT are the same). */
#include "model/encoder.h"

static const lora__param params[] = {
	KEYS_ENCODER("50265", "512", "2", "1e-12"),
	KEYS_TOKENS("initializer_range", "0.02", "0", "2", "1"),
	{ 0 }
};

static void build(lora__builder *b)
{
	lora_model *m = b->m;
	lora__encoder e = lora__b_encoder(b, "roberta.");
	if (m->pad < 0) m->pad = 1;
	m->position_base = m->pad + 1;
	int32_t x = lora__b_encode(b, &e);
	if (!e.classifies) return;
	int32_t h = lora__b_linear(b, x, "classifier.dense", e.hidden, 1);
	if (b->status == LORA_OK) lora__sites_find(&m->s, "classifier.dense")->is_head = 1;
	lora__b_classifier(b, lora__b_gated(b, h, -1, LORA_ACT_TANH), "classifier.out_proj");
}

static const char *const types[] = { "roberta", "xlm-roberta", "camembert", NULL };
static const char *const targets[] = { "query", "value", NULL };

const lora__arch lora__arch_roberta = { .m = { "roberta", "RoBERTa: an encoder, a classifier of sequences",
	"arXiv:1907.11692; transformers RobertaForSequenceClassification", params }, .model_types = types, .targets = targets, .build = build,
	.hf_class = "RobertaForSequenceClassification", .prefix = "roberta." };
