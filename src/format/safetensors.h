/* safetensors: reading (mapped or from memory) with the reference reader's checks and ours, writing in the reference writer's order.
 * Source: huggingface/safetensors, file format and reference reader; rules listed in docs/formats.md. */
#ifndef LORA_FORMAT_SAFETENSORS_H
#define LORA_FORMAT_SAFETENSORS_H

#include "base/json.h"
#include "base/map.h"
#include "format/file.h"
#include "tensor/dtype.h"

#define LORA__TENSOR_RANK 8

/* A named host tensor. name and data are borrowed from the file. data may be unaligned. */
typedef struct lora__tensor {
	const char    *name;
	lora_dtype     dtype;
	int32_t        rank;
	int64_t        shape[LORA__TENSOR_RANK];
	const uint8_t *data;
	uint64_t       bytes;
} lora__tensor;

/* A set of tensors: one file, or all shards of an index. */
typedef struct lora__tensors {
	lora_context *ctx;
	lora__tensor *list;
	size_t        n, cap;
	lora__map     by_name;
	lora__blob   *blobs;
	size_t        n_blobs, cap_blobs;
	char         *names;     /* arena of names */
	json_t       *metadata;  /* __metadata__ object or NULL */
} lora__tensors;

/* One file. path is mapped. */
lora_status lora__safetensors_open(lora_context *ctx, const char *path, lora__tensors *out);
/* From memory, borrowed until close. what names it in messages. */
lora_status lora__safetensors_open_memory(lora_context *ctx, const void *bytes, size_t n, const char *what, lora__tensors *out);
/* A model directory: model.safetensors, or model.safetensors.index.json with its shards (names without '/' and "..", each tensor exactly in
 * the shard that the index says). */
lora_status lora__safetensors_open_model(lora_context *ctx, const char *dir, lora__tensors *out);
void        lora__tensors_close(lora__tensors *t);
const lora__tensor *lora__tensors_find(const lora__tensors *t, const char *name); /* NULL when absent */

/* Image of a file: header + data pieces in the reference writer's order (dtype alignment descending, then name), header padded to 8.
 * metadata: object of strings or NULL. pieces: on the caller's heap array of n + 1 (header first); header text is kept in *header. */
lora_status lora__safetensors_layout(lora_context *ctx, const lora__tensor *list, size_t n, const json_t *metadata, lora__text *header,
                                     lora__piece *pieces);

#endif
