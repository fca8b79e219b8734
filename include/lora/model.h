/* liblora: models: an ordered set of sites (adaptable weights), and, when the architecture is known, the graph that joins them.
 * Weights mapped from a file are never written. */
#ifndef LORA_MODEL_H
#define LORA_MODEL_H

#include "lora/settings.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One adaptable weight W[out,in], y = x W^T. Fields of a description given by the host, or read back by lora_model_site_info(). */
typedef struct lora_site_info {
	uint32_t    struct_size;
	lora_dtype  dtype;  /* LORA_F32, LORA_F16 or LORA_BF16; out: also the block types of GGUF, data is then rows of blocks */
	const char *name;   /* module path as PEFT knows it, e.g. "model.layers.0.self_attn.q_proj"; copied on add */
	int64_t     out;
	int64_t     in;
	void       *data;   /* the host's weight, row-major [out,in] (or [in,out] with LORA_SITE_TRANSPOSED) */
	uint32_t    flags;  /* LORA_SITE_* */
	int32_t     layer;  /* layer index, or -1; on add: -1 = find it in the name */
	int32_t     merged; /* out: number of merged adapters */
	int32_t     attached; /* out: number of attached adapters */
} lora_site_info;

enum {
	LORA_SITE_READONLY   = 1, /* data must not be written: merge gives LORA_E_UNSUPPORTED */
	LORA_SITE_TRANSPOSED = 2, /* stored [in,out], as GPT-2's Conv1D */
	LORA_SITE_HOST       = 4, /* out: data belongs to the host */
	LORA_SITE_MAPPED     = 8, /* out: data is mapped from a file */
	LORA_SITE_EMBEDDING  = 16 /* out: a table of rows that token ids choose, stored [in,out] = [vocabulary, width]; no linear layer */
};

/* One batch of token sequences, [B,T] row-major. Unused pointers are NULL. All memory is borrowed for the call. */
typedef struct lora_batch {
	uint32_t       struct_size;
	uint32_t       flags;             /* zero */
	int64_t        n_sequences;       /* B */
	int64_t        length;            /* T */
	const int32_t *input_ids;         /* [B,T] */
	const int32_t *attention_mask;    /* [B,T] 0 or 1; NULL = all 1. Left and right padding; padded rows are never computed */
	const int32_t *position_ids;      /* [B,T]; NULL = 0..T-1 within the unpadded row, as transformers' generate does (BERT: columns 0..T-1;
	                                   * RoBERTa: from the padding id + 1; both as transformers). Behind virtual tokens (prefix
	                                   * and prompt tuning) positions count on from them over all columns and this is not looked at, as in PEFT */
	const int32_t *token_type_ids;    /* [B,T]; NULL = 0. Models without token types ignore them */
	const int32_t *labels;            /* [B,T] not shifted (-100 = ignored); [B] for classifiers; [B,decoder_length] for encoder-decoder models, label t
	                                   * against decoder position t */
	const int32_t *decoder_input_ids; /* [B,decoder_length]; NULL = the labels shifted right by one, behind the decoder's start token */
	int64_t        decoder_length;
	const int32_t *adapter_rows;      /* [B] index into adapters for each sequence, -1 = none; NULL = every attached adapter on every row */
	lora_adapter *const *adapters;    /* the adapters that adapter_rows counts */
	int64_t        n_adapters;
	uint64_t       reserved[4];       /* zero */
} lora_batch;

/* Facts about a model; text is borrowed from the model. */
typedef struct lora_model_info {
	uint32_t    struct_size;
	lora_dtype  dtype;            /* of most weights in the file */
	lora_dtype  compute_dtype;    /* of activations */
	int32_t     n_layers;
	const char *architecture;     /* "llama", ...; "" when unknown (host-owned sites) */
	const char *format;           /* "safetensors", "gguf", "built", "host" */
	const char *path;
	int64_t     n_parameters;
	int64_t     vocab_size;
	int64_t     hidden_size;
	int64_t     max_positions;
	int64_t     n_sites;
	int64_t     eos_token_id;     /* -1 = none; the first of a list (lora_model_is_end) */
	int64_t     bos_token_id;     /* -1 = none */
	int64_t     pad_token_id;     /* -1 = none */
	int64_t     n_labels;         /* classes of a classifier; 0 = tokens are predicted */
	int32_t     has_head;         /* 0: hidden states only (lora_model_hidden) */
	int32_t     has_decoder;      /* 1: encoder-decoder; lora_batch has decoder_input_ids */
	int64_t     decoder_start_token_id; /* -1 = none */
} lora_model_info;

/* Name of an element type: "F32", "Q4_K"; "?" for unknown ones.
 * Thread   any
 * Since    0.1 */
LORA_API const char *lora_dtype_name(lora_dtype d);

/* Create a model without graph, for hosts that own their weights.
 * out      returned owned
 * Errors   LORA_E_ARGUMENT; LORA_E_MEMORY
 * Thread   exclusive(context)
 * Since    0.1 */
LORA_API lora_status lora_model_create(lora_context *ctx, lora_model **out);

/* Register one weight of the host.
 * desc     borrowed for the call; desc->data borrowed until the model is destroyed
 * index    number of the new site; may be NULL
 * Errors   LORA_E_EXISTS name taken; LORA_E_ARGUMENT, LORA_E_DTYPE, LORA_E_SHAPE (zero or wrapping sizes); LORA_E_STATE the model has a
 *          graph of its own; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_model_add_site(lora_model *m, const lora_site_info *desc, int64_t *index);

/* Open a model: an HF directory (config.json with model.safetensors or a sharded index), a .safetensors file with config.json beside it, or a
 * .gguf file (of a split model the first part). Weights are mapped, not copied; quantised ones stay quantised in memory (those in
 * four bits of bitsandbytes' checkpoints are decoded to the type they had before).
 * path     UTF-8, borrowed for the call
 * settings of family "model": dtype ("auto", "f32", "bf16", "f64"); num_labels (a classifier on top of an encoder that has none); may be NULL
 * out      returned owned
 * Errors   LORA_E_IO, LORA_E_NOTFOUND, LORA_E_FORMAT, LORA_E_LIMIT, LORA_E_SHAPE, LORA_E_DTYPE; LORA_E_UNSUPPORTED an architecture or a
 *          key of the config, by name; LORA_E_MEMORY
 * Thread   exclusive(context)
 * Since    0.1 */
LORA_API lora_status lora_model_open(lora_context *ctx, const char *path, const lora_settings *settings, lora_model **out);

/* Build a model with fresh random weights N(0, initializer_range) from a seed.
 * architecture  "llama", ... (family "architecture")
 * settings the keys of the architecture's config.json (hidden_size, ...), and seed, weight_dtype ("F32", "BF16", "F16"), dtype
 * out      returned owned
 * Errors   LORA_E_NOTFOUND architecture; LORA_E_ARGUMENT a setting; LORA_E_MEMORY
 * Thread   exclusive(context)
 * Since    0.1 */
LORA_API lora_status lora_model_build(lora_context *ctx, const char *architecture, const lora_settings *settings, lora_model **out);

/* Save the model as it is now (with merged adapters) as an HF directory, or as a GGUF file when path ends in .gguf; written beside, synced,
 * renamed. Tokenizer and other small files are carried over from where the model was opened, byte for byte; between the two forms they are
 * translated. In a directory weights in blocks become F32 (or weight_dtype).
 * settings max_shard_bytes (0 = one file), weight_dtype ("keep", "F32", "F16", "BF16"; in GGUF also "Q8_0", "Q4_K", ...), format ("auto", "hf",
 *          "gguf"), force (replace an existing model); may be NULL
 * Errors   LORA_E_EXISTS path is there and is no model, or force is not set; LORA_E_IO; LORA_E_NUMERIC out of range for F16;
 *          LORA_E_UNSUPPORTED a host-owned model; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_model_save(lora_model *m, const char *path, const lora_settings *settings);

/* What a GGUF file holds, as JSON: kind ("model", "adapter"), format, version, architecture, parameters, dtype (of most bytes), metadata (all
 * keys with one value; of an array its type and length), tensors (name, dtype, shape); of an adapter also method and alpha. The file is read and
 * checked, whatever its architecture; vocabulary files without tensors are models with none.
 * path     UTF-8, borrowed for the call
 * buf      room for size bytes with the NUL; may be NULL when size is 0
 * needed   bytes with the NUL
 * Errors   LORA_E_IO, LORA_E_NOTFOUND, LORA_E_FORMAT, LORA_E_LIMIT (also size too small), LORA_E_UNSUPPORTED, LORA_E_SHAPE; LORA_E_MEMORY
 * Thread   exclusive(context)
 * Since    0.1 */
LORA_API lora_status lora_gguf_describe(lora_context *ctx, const char *path, char *buf, size_t size, size_t *needed);

/* Tell GGUF files from others: 1 when path ends in .gguf, or is a regular file that begins with GGUF's magic; 0 for folders and all else.
 * path     UTF-8, borrowed for the call; may be NULL
 * Thread   any
 * Since    0.1 */
LORA_API int32_t lora_gguf_is(const char *path);

/* Facts about a model.
 * out      caller's memory with struct_size set
 * Errors   LORA_E_ARGUMENT
 * Thread   any while nobody changes the model
 * Since    0.1 */
LORA_API lora_status lora_model_get_info(const lora_model *m, lora_model_info *out);

/* Number of sites; 0 for NULL.
 * Thread   any while nobody changes the model
 * Since    0.1 */
LORA_API int64_t lora_model_site_count(const lora_model *m);

/* Facts about one site. data is the weight as it is now; valid until the next merge, unmerge or destroy.
 * out      caller's memory with struct_size set
 * Errors   LORA_E_ARGUMENT index out of range
 * Thread   any while nobody changes the model
 * Since    0.1 */
LORA_API lora_status lora_model_site_info(const lora_model *m, int64_t index, lora_site_info *out);

/* Order of multiplications at a site in a training step, M = W + s B A: forward 1: y = x W^T + s (x A^T) B^T, 2: y = x M^T;
 * backward 1: dx = dy W + s dy B A, 5: dx = dy M (numbers of RunLoRA, arXiv:2312.03415). */
typedef struct lora_site_order {
	uint32_t struct_size;
	int32_t  forward;           /* 1 or 2 */
	int32_t  backward;          /* 1 or 5 */
	int32_t  fixed;             /* LORA_ORDER_*: why forms with M do not come into question; 0 = the cheaper one was taken */
	double   flops_forward[2];  /* of forms 1 and 2 */
	double   flops_backward[2]; /* of forms 1 and 5, with the gradients of A and B */
} lora_site_order;

enum {
	LORA_ORDER_DROPOUT   = 1, /* the adapter sees another x */
	LORA_ORDER_PACKED    = 2, /* the backend keeps W packed */
	LORA_ORDER_PRECISION = 3, /* M would be rounded to halves, or W is of halves and M is not */
	LORA_ORDER_HEAD      = 4,
	LORA_ORDER_HOST      = 5, /* the host owns W */
	LORA_ORDER_QUANT     = 6  /* W is quantised: it is never there as a whole */
};

/* The order that a training step on so many rows takes at a site, for one low-rank adapter.
 * rows, rank  at least 1
 * dropout  1 = the adapter has dropout
 * out      caller's memory; out->struct_size must be set by the caller
 * Errors   LORA_E_ARGUMENT
 * Thread   any while nobody changes the model
 * Since    0.1 */
LORA_API lora_status lora_model_site_order(const lora_model *m, int64_t site, int64_t rows, int64_t rank, int32_t dropout, lora_site_order *out);

/* Number of the site with this name. The token embedding, which only adapters use, has one too, not below lora_model_site_count().
 * Errors   LORA_E_NOTFOUND; LORA_E_ARGUMENT
 * Thread   any while nobody changes the model
 * Since    0.1 */
LORA_API lora_status lora_model_find_site(const lora_model *m, const char *name, int64_t *index);

/* Whether generation ends at this token: 1 = eos_token_id of generation_config.json (of config.json where that does not say) is it or has it in its
 * list; in GGUF the eos, eot or eom token. 0 = it does not, or m is NULL.
 * Thread   any
 * Since    0.1 */
LORA_API int32_t lora_model_is_end(const lora_model *m, int32_t token);

/* Tokens to logits, with the attached adapters.
 * batch    borrowed for the call
 * logits   F32 [B,T,vocab] ([B,n_labels] for classifiers); rows that the mask drops are zero
 * bytes    size of logits
 * Errors   LORA_E_SHAPE bytes too small, a token or position out of range; LORA_E_STATE no graph; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_model_forward(lora_model *m, const lora_batch *batch, float *logits, size_t bytes);

/* The same with the adapters' dropout on, as in training (MC dropout): logits of one draw. Frozen adapters have none.
 * seed     of the draw; the same seed and batch give the same logits
 * Errors   as lora_model_forward
 * Thread   exclusive(model)
 * Source   Gal and Ghahramani 2016, arXiv:1506.02142
 * Since    0.1 */
LORA_API lora_status lora_model_forward_dropout(lora_model *m, const lora_batch *batch, uint64_t seed, float *logits, size_t bytes);

/* Hidden states: what the head reads, after the final norm (of an encoder: the last block's output; of an encoder-decoder model: the decoder's).
 * hidden   F32 [B,T,hidden_size], [B,decoder_length,hidden_size] of an encoder-decoder model; rows that the mask drops are zero
 * bytes    size of hidden
 * Errors   as lora_model_forward
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_model_hidden(lora_model *m, const lora_batch *batch, float *hidden, size_t bytes);

/* Mean cross-entropy in nat over the labelled tokens (label t+1 against position t, as transformers shifts them).
 * loss     mean over counted tokens; 0 when there are none
 * tokens   number of counted tokens; may be NULL
 * Errors   as lora_model_forward; LORA_E_ARGUMENT no labels; LORA_E_NUMERIC the loss is not finite
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_model_loss(lora_model *m, const lora_batch *batch, double *loss, int64_t *tokens);

/* Loss and its gradient by every trainable tensor of the attached adapters, added to what lora_adapter_gradient_read() gives.
 * Dropout is off. Padding costs nothing.
 * logits   optional F32 [B,T,vocab] output as lora_model_forward(); NULL = not wanted
 * Errors   as lora_model_loss; LORA_E_STATE an adapter is merged
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_model_backward(lora_model *m, const lora_batch *batch, float *logits, size_t bytes, double *loss, int64_t *tokens);

/* Release a model. NULL is a no-op. Adapters still open keep it alive.
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API void lora_model_destroy(lora_model *m);

#ifdef __cplusplus
}
#endif
#endif
