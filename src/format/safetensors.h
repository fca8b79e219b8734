/* safetensors: reading (mapped or from memory) with the reference reader's checks and ours, writing in the reference writer's order.
 * Source: huggingface/safetensors, file format and reference reader; rules listed in docs/formats.md. */
#ifndef LORA_FORMAT_SAFETENSORS_H
#define LORA_FORMAT_SAFETENSORS_H

#include "base/json.h"
#include "format/file.h"
#include "tensor/dtype.h"

#define LORA__TENSOR_RANK 8

/* A named host tensor. name and data are borrowed from the file. data may be unaligned; it is in the host's byte order. */
typedef struct lora__tensor {
	const char    *name;
	lora_dtype     dtype;   /* LORA_DTYPE_NONE for types that the format knows and this library has no name for (F8_E4M3, F4, C64, ...) */
	int32_t        rank;
	int64_t        shape[LORA__TENSOR_RANK];
	const uint8_t *data;
	uint64_t       bytes;
	const char    *stored;  /* the type's name in the file, static; a writer looks at it only when dtype is LORA_DTYPE_NONE */
} lora__tensor;

/* A set of tensors: one file, or all shards of an index. The list is in the order of the header (of the shards' headers). */
typedef struct lora__tensors {
	lora_context *ctx;
	lora__tensor *list;
	size_t        n, cap;
	uint32_t     *by_name;   /* indices into list, sorted by name */
	lora__blob   *blobs;
	size_t        n_blobs, cap_blobs;
	char        **names;     /* one arena of names per file */
	size_t        n_names, cap_names;
	json_t       *metadata;  /* __metadata__ object of the first file that has one, or NULL */
} lora__tensors;

/* The reader's rules, beyond those of the reference reader: no duplicate names, also after unescaping; no NUL in names; no fields but dtype,
 * shape and data_offsets; rank at most 8; an entry at most 16 KiB; metadata at most 4,096 entries and 16 MiB; header and tensor count within
 * the context's limits. White space before and after the header's object is accepted, as the reference reader does. Numbers in the header are
 * integers up to 2^63 - 1. Before a file is accepted the reader holds at most three times the header's size. */

/* One file, mapped. For models; see lora__blob_map() for what mapping asks of others. */
lora_status lora__safetensors_open(lora_context *ctx, const char *path, lora__tensors *out);
/* One file, copied to the heap: what happens to the file afterwards does not matter. For adapters and checkpoints. */
lora_status lora__safetensors_read(lora_context *ctx, const char *path, lora__tensors *out);
/* From memory, borrowed until close. what names it in messages. */
lora_status lora__safetensors_open_memory(lora_context *ctx, const void *bytes, size_t n, const char *what, lora__tensors *out);
/* A model directory: model.safetensors, or model.safetensors.index.json with its shards (names without '/' and "..", each tensor exactly in
 * the shard that the index says). */
lora_status lora__safetensors_open_model(lora_context *ctx, const char *dir, lora__tensors *out);
void        lora__tensors_close(lora__tensors *t);
const lora__tensor *lora__tensors_find(const lora__tensors *t, const char *name); /* NULL when absent */

/* 64-bit digest over names, types, shapes and data of a list, whatever its order; the same on every host. Not cryptographic. */
uint64_t lora__tensors_digest(const lora__tensor *list, size_t n);

/* Image of a file: header + data pieces in the reference writer's order (dtype alignment descending, then name), header padded to 8.
 * metadata: object of strings or NULL, written with sorted keys. pieces: the caller's array of n + 1 (header first); the header's bytes are
 * kept in *header, which the caller inits and frees. On a big-endian host *header also holds the swapped data.
 * Errors: LORA_E_EXISTS two tensors of one name, LORA_E_SHAPE bytes do not fit shape and type, LORA_E_DTYPE, LORA_E_LIMIT, LORA_E_MEMORY. */
lora_status lora__safetensors_layout(lora_context *ctx, const lora__tensor *list, size_t n, const json_t *metadata, lora__text *header,
                                     lora__piece *pieces);
/* Layout and write as one file, atomically (lora__file_replace). */
lora_status lora__safetensors_write(lora_context *ctx, const char *path, const lora__tensor *list, size_t n, const json_t *metadata);
/* The same as one file of a directory that is being written. */
lora_status lora__safetensors_write_dir(lora__dir *d, const char *name, const lora__tensor *list, size_t n, const json_t *metadata);

#endif
