/* Prompt tuning: trained rows in front of the embedded tokens, [P; E(x)]; the frozen model sees a longer sequence.
 * Source: Lester, Al-Rfou & Constant 2021, arXiv:2104.08691; names and inits: PEFT 0.21, PromptTuningConfig, PromptEmbedding. */
#include <string.h>

#include "adapter/adapter.h"
#include "quant/quant.h"

static const lora__param params[] = {
	{ "num_virtual_tokens", LORA__INT, "20", 1, 65536, NULL, "length of the prompt" },
	{ "prompt_tuning_init", LORA__STRING, "RANDOM", 0, 0, "RANDOM|SAMPLE_VOCAB|TEXT", "normal draws; embeddings of random tokens; embeddings of prompt_tuning_init_text" },
	{ "prompt_tuning_init_text", LORA__STRING, NULL, 0, 0, NULL, "text whose tokens' embeddings the prompt begins with, repeated or cut" },
	{ "tokenizer_name_or_path", LORA__STRING, NULL, 0, 0, NULL, "folder of the text's tokenizer; default the model's. Never opened because a file says so" },
	{ "tokenizer_kwargs", LORA__ANY, NULL, 0, 0, NULL, "carried" },
	{ "subspace_vertices", LORA__INT, "1", 1, LORA__VERTICES_MAX, NULL, "train a simplex of so many prompts; 1 = one prompt" },
	{ "subspace_inference", LORA__STRING, "centre", 0, 0, "centre|sampled", "outside of training use the centre of the simplex, or draw a point for every sequence and pass" },
	{ "num_layers", LORA__INT, NULL, 1, 65536, NULL, "carried; taken from the model" },
	{ "token_dim", LORA__INT, NULL, 1, 1 << 24, NULL, "width of the embedding; taken from the model" },
	{ "num_attention_heads", LORA__INT, NULL, 1, 65536, NULL, "carried; taken from the model" },
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
	const json_t *dim = lora__get_json(s, "token_dim"), *more = lora__get_json(s, "num_transformer_submodules");
	if (dim && json_number_value(dim) != (double)b->width)
		return lora__fail_at(ctx, LORA_E_SHAPE, "adapter", "token_dim", -1, "token_dim is %.0f, the model's (%s) embedding has %lld: the adapter is of another model",
			json_number_value(dim), b->name, (long long)b->width);
	if (more && json_number_value(more) != 1)
		return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "adapter", "num_transformer_submodules", -1, "num_transformer_submodules: only 1 (decoders) is supported");
	lora_status st = lora__set_int(ctx, s, "token_dim", b->width);
	if (st == LORA_OK && !more) st = lora__set_int(ctx, s, "num_transformer_submodules", 1);
	if (st == LORA_OK && !lora__get_json(s, "num_layers")) st = lora__set_int(ctx, s, "num_layers", b->layers);
	if (st == LORA_OK && !lora__get_json(s, "num_attention_heads")) st = lora__set_int(ctx, s, "num_attention_heads", b->heads);
	return st;
}

static lora_status refuse(lora_context *ctx, const lora_settings *s, int opening)
{
	(void)opening;
	const json_t *v = lora__get_json(s, "modules_to_save");
	if (!v || (json_is_array(v) && !json_array_size(v))) return LORA_OK;
	return lora__fail_at(ctx, LORA_E_UNSUPPORTED, "adapter", "modules_to_save", -1, "modules_to_save does not go with virtual tokens here");
}

static int64_t width(const lora_settings *s) { return lora__get_int(s, params, "token_dim"); }
static int64_t vertices(const lora_settings *s) { return lora__get_int(s, params, "subspace_vertices"); }

/* Row of the model's embedding as its forward makes it. */
static void embed(const lora__body *b, int64_t id, float *to)
{
	const char *row = (const char *)b->table.data + (size_t)id * lora__dtype_row(b->table.dtype, b->width);
	if (lora__dtype_block(b->table.dtype, NULL, NULL)) lora__dequant(to, LORA_F32, row, b->table.dtype, b->width);
	else lora__convert(to, LORA_F32, row, b->table.dtype, (size_t)b->width);
	for (int64_t i = 0; i < b->width; i++) to[i] *= (float)b->factor;
}

static lora_status init(lora_adapter *a, lora__rng *r)
{
	const char *how = lora__get_string(a->settings, params, "prompt_tuning_init");
	const lora__body *b = &a->sites->body;
	const json_t *ids = lora__get_json(a->settings, LORA__PROMPT_IDS);
	int64_t rows = a->tokens->tokens * a->tokens->vertices, n = (int64_t)json_array_size(ids), vocab = b->table.size[0];
	if (strcmp(how, "TEXT") == 0 && !n)
		return lora__fail_at(a->ctx, LORA_E_ARGUMENT, "adapter", "prompt_tuning_init_text", -1, "prompt_tuning_init \"TEXT\" needs prompt_tuning_init_text with a token in it");
	if (strcmp(how, "TEXT") == 0 && a->tokens->vertices > 1)
		return lora__fail_at(a->ctx, LORA_E_ARGUMENT, "adapter", "prompt_tuning_init", -1, "prompt_tuning_init \"TEXT\" would leave all subspace_vertices equal for ever");
	for (int64_t t = 0; t < rows; t++) {
		float *w = a->params + t * b->width;
		int64_t id = *how == 'T' ? json_integer_value(json_array_get(ids, (size_t)(t % n))) : (int64_t)lora__rng_below(r, (uint64_t)vocab);
		if (id < 0 || id >= vocab) return lora__fail(a->ctx, LORA_E_SHAPE, "adapter", "prompt_tuning_init_text: token %lld, the vocabulary has %lld", (long long)id, (long long)vocab);
		if (*how != 'R') embed(b, id, w);
		for (int64_t i = 0; *how == 'R' && i < b->width; i++) w[i] = (float)lora__rng_normal(r);
	}
	json_object_del(a->settings->object, LORA__PROMPT_IDS);
	return LORA_OK;
}

static const lora__virtual_kind tokens = { .where = LORA__VIRTUAL_ROWS, .complete = complete, .width = width, .vertices = vertices, .init = init };

const lora__kind lora__kind_prompt_tuning = { .m = { "prompt_tuning", "prompt tuning: trained rows before the embedded tokens", "arXiv:2104.08691; PEFT PromptTuningConfig", params },
	.peft_type = "PROMPT_TUNING", .refuse = refuse, .virtual_tokens = &tokens };
