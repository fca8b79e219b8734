/* Prefix tuning: virtual keys and values in front of every sequence, in every block, trained directly or behind a small encoder. Real tokens'
 * positions begin behind the prefix; prefix keys are not turned by rotary embeddings.
 * Source: Li & Liang 2021, arXiv:2101.00190; names, sizes and inits: PEFT 0.21, PrefixTuningConfig, PrefixEncoder, _prepare_prompt_learning_config().
 * With subspace_vertices > 1 a simplex of prefixes is trained: weights drawn from Dirichlet(1, ..., 1) for every sequence and block in training, the
 * centre (or further draws) after it. Source: Falissard, Guigue & Soulier 2023, arXiv:2310.15793. */
#include <math.h>
#include <string.h>

#include "adapter/adapter.h"

static const lora__param params[] = {
	{ "num_virtual_tokens", LORA__INT, "20", 1, 65536, NULL, "length of the prefix" },
	{ "prefix_projection", LORA__BOOL, "false", 0, 0, NULL, "train an embedding and a two-layer encoder that makes the prefix of it" },
	{ "encoder_hidden_size", LORA__INT, NULL, 1, 1 << 20, NULL, "width of the encoder's hidden layer; default token_dim" },
	{ "init_weights", LORA__STRING, NULL, 0, 0, "zero", "\"zero\": a prefix of zeros; null: drawn from the normal distribution" },
	{ "subspace_vertices", LORA__INT, "1", 1, LORA__VERTICES_MAX, NULL, "train a simplex of so many prefixes (prefix subspaces); 1 = one prefix" },
	{ "subspace_inference", LORA__STRING, "centre", 0, 0, "centre|sampled", "outside of training use the centre of the simplex, or draw a point for every sequence, block and pass" },
	{ "num_layers", LORA__INT, NULL, 1, 65536, NULL, "blocks; taken from the model" },
	{ "token_dim", LORA__INT, NULL, 1, 1 << 24, NULL, "width of keys; taken from the model" },
	{ "num_attention_heads", LORA__INT, NULL, 1, 65536, NULL, "heads of keys; taken from the model" },
	{ "num_transformer_submodules", LORA__INT, "1", 1, 2, NULL, "only 1" },
	{ "modules_to_save", LORA__NAMES, NULL, 0, 0, NULL, "not supported here: must be null" },
	{ "task_type", LORA__STRING, NULL, 0, 0, NULL, "carried" },
	{ "base_model_name_or_path", LORA__STRING, NULL, 0, 0, NULL, "carried" },
	{ "revision", LORA__STRING, NULL, 0, 0, NULL, "carried" },
	{ "inference_mode", LORA__BOOL, "true", 0, 0, NULL, "carried" },
	{ "peft_version", LORA__STRING, NULL, 0, 0, NULL, "carried" },
	{ "name", LORA__STRING, "default", 0, 0, NULL, "name of the adapter" },
	{ "seed", LORA__INT, "0", 0, 9e15, NULL, "seed of fresh parameters, and of draws outside of training" },
	{ 0 }
};

static lora_status complete(lora_context *ctx, const lora__body *b, lora_settings *s)
{
	const struct { const char *key; int64_t value; } of_model[] = { { "num_layers", b->layers }, { "token_dim", b->kv_heads * b->head_dim },
		{ "num_attention_heads", b->kv_heads }, { "num_transformer_submodules", 1 } };
	lora_status st = LORA_OK;
	for (size_t i = 0; i < sizeof of_model / sizeof *of_model && st == LORA_OK; i++) {
		const json_t *v = lora__get_json(s, of_model[i].key);
		if (v && json_number_value(v) != (double)of_model[i].value)
			return lora__fail_at(ctx, LORA_E_SHAPE, "adapter", of_model[i].key, -1, "%s is %.0f, the model (%s) has %lld: the adapter is of another model", of_model[i].key,
				json_number_value(v), b->name, (long long)of_model[i].value);
		st = lora__set_int(ctx, s, of_model[i].key, of_model[i].value);
	}
	if (st == LORA_OK && !lora__get_json(s, "encoder_hidden_size")) st = lora__set_int(ctx, s, "encoder_hidden_size", b->kv_heads * b->head_dim);
	if (st == LORA_OK && lora__get_int(s, params, "subspace_vertices") > 1 && lora__get_bool(s, params, "prefix_projection"))
		st = lora__fail_at(ctx, LORA_E_UNSUPPORTED, "adapter", "subspace_vertices", -1, "subspace_vertices does not go with prefix_projection");
	return st;
}

static lora_status refuse(lora_context *ctx, const lora_settings *s, int opening)
{
	(void)opening;
	const json_t *v = lora__get_json(s, "modules_to_save");
	if (!v || (json_is_array(v) && !json_array_size(v))) return LORA_OK;
	return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "adapter", "modules_to_save", -1, "modules_to_save does not go with virtual tokens here");
}

static int64_t width(const lora_settings *s) { return 2 * lora__get_int(s, params, "num_layers") * lora__get_int(s, params, "token_dim"); }
static int64_t vertices(const lora_settings *s) { return lora__get_int(s, params, "subspace_vertices"); }
static int64_t hidden(const lora_settings *s) { return lora__get_bool(s, params, "prefix_projection") ? lora__get_int(s, params, "encoder_hidden_size") : 0; }

/* As torch's Embedding (normal) and Linear (uniform within 1 / sqrt(in), bias too). Vertices begin apart: equal ones would stay equal. */
static lora_status init(lora_adapter *a, lora__rng *r)
{
	int zero = lora__get_json(a->settings, "init_weights") != NULL, behind = a->n_tensors > 1;
	double bound = 1;
	if (zero && a->tokens->vertices > 1)
		return lora__fail_at(a->ctx, LORA_E_ARGUMENT, "adapter", "init_weights", -1, "init_weights \"zero\" would leave all subspace_vertices equal for ever");
	for (size_t i = 0; i < a->n_tensors; i++) {
		const lora__ptensor *t = &a->tensors[i];
		float *w = a->params + t->offset;
		if (zero && (!behind || i >= 3)) continue; /* the whole prefix, or the encoder's last layer */
		if (i && t->rank == 2) bound = 1.0 / sqrt((double)t->shape[1]);
		for (size_t k = 0; k < t->n; k++) w[k] = (float)(i ? (2.0 * lora__rng_uniform(r) - 1.0) * bound : lora__rng_normal(r));
	}
	return LORA_OK;
}

static const lora__virtual_kind tokens = { .where = LORA__VIRTUAL_KEYS, .complete = complete, .width = width, .vertices = vertices, .hidden = hidden, .init = init };

const lora__kind lora__kind_prefix_tuning = { .m = { "prefix_tuning", "prefix tuning: virtual keys and values in every block; a simplex of them with subspace_vertices",
	"arXiv:2101.00190; PEFT PrefixTuningConfig; arXiv:2310.15793", params }, .peft_type = "PREFIX_TUNING", .refuse = refuse, .virtual_tokens = &tokens };
