/* GGUF: llama.cpp's container of metadata and tensors. Versions 2 and 3, both byte orders, split files; version 3 is written.
 * Source: ggml/docs/gguf.md and ggml/src/gguf.cpp. This layer knows the container, no model. */
#ifndef LORA_FORMAT_GGUF_H
#define LORA_FORMAT_GGUF_H

#include "format/safetensors.h"

/* Types of values. */
enum {
	LORA__GGUF_U8 = 0, LORA__GGUF_I8, LORA__GGUF_U16, LORA__GGUF_I16, LORA__GGUF_U32, LORA__GGUF_I32, LORA__GGUF_F32, LORA__GGUF_BOOL,
	LORA__GGUF_STRING, LORA__GGUF_ARRAY, LORA__GGUF_U64, LORA__GGUF_I64, LORA__GGUF_F64, LORA__GGUF_TYPES
};
enum {
	LORA__GGUF_NAME = 63,         /* longest name of a tensor, as llama.cpp */
	LORA__GGUF_ALIGNMENT = 4096,  /* largest alignment */
	LORA__GGUF_PARTS = 1000       /* files of a split model */
};

/* A value in the file: a scalar at p; a string of n bytes at p; an array of n elements of type elem at p. Checked when the file was opened. */
typedef struct lora__gguf_value { uint32_t type, elem; uint64_t n; const uint8_t *p; } lora__gguf_value;

/* An open file. set: its tensors under their GGUF names, shapes row-major (reversed: a matrix is [out,in]), dtype LORA_DTYPE_NONE and stored
 * set for types that this library can't decode. */
typedef struct lora__gguf {
	lora_context  *ctx;
	lora__tensors  set;
	char          *what;  /* path, quoted for messages */
	const uint8_t *p;     /* the (first) file */
	size_t         n;
	uint64_t      *keys;  /* where each key's record begins, sorted by name */
	size_t         n_keys;
	int            swap;  /* the file is big-endian */
	uint32_t       version, alignment;
	uint64_t       split_count, split_no; /* 1, 0 when it is not split */
} lora__gguf;

/* The reader's rules: counts, lengths and sizes are bounded by the bytes that are there before anything is allocated; header at most the
 * context's header_bytes; keys are UTF-8 without NUL, not empty, none twice; no arrays of arrays; bools are 0 or 1; alignment is a power of two
 * up to 4,096; 1 to 4 dimensions, zero-sized tensors are empty; tensors lie one after the other, each padded to the alignment, within the file.
 * A part of a split model: LORA_E_UNSUPPORTED unless it is the first and is opened by its path "...-00001-of-0000N.gguf", beside the others. */
lora_status lora__gguf_open(lora_context *ctx, const char *path, lora__gguf *out);  /* mapped */
lora_status lora__gguf_read(lora_context *ctx, const char *path, lora__gguf *out);  /* copied to the heap: for adapters */
lora_status lora__gguf_open_memory(lora_context *ctx, const void *bytes, size_t n, const char *what, lora__gguf *out);
void        lora__gguf_close(lora__gguf *g);
int         lora__gguf_is(const char *path); /* the file begins with GGUF's magic */

/* Metadata. A key of another type than asked for is LORA_E_FORMAT naming both types; integers of any width are integers, F32 and F64 floats.
 * Absent: the default, with LORA_OK. */
int         lora__gguf_find(const lora__gguf *g, const char *key, lora__gguf_value *out); /* 1 = there */
lora_status lora__gguf_int(const lora__gguf *g, const char *key, int64_t def, int64_t min, int64_t max, int64_t *out);
lora_status lora__gguf_float(const lora__gguf *g, const char *key, double def, double *out); /* finite */
lora_status lora__gguf_bool(const lora__gguf *g, const char *key, int def, int *out);
/* *s NULL when absent; points into the file, n bytes without NUL behind; valid UTF-8 without NUL inside. */
/* tokenizer.ggml.model says that there is no vocabulary. */
static inline int lora__gguf_no_vocab(const char *s, size_t n) { return (n == 4 && !memcmp(s, "none", 4)) || (n == 8 && !memcmp(s, "no_vocab", 8)); }
lora_status lora__gguf_string(const lora__gguf *g, const char *key, const char **s, size_t *n);
/* An array of elements of this type (LORA__GGUF_I32 also takes U32); out->p NULL when absent. */
lora_status lora__gguf_array(const lora__gguf *g, const char *key, uint32_t elem, lora__gguf_value *out);
/* The string at *p of an array of strings, and step to the next. */
void        lora__gguf_next(const lora__gguf *g, const uint8_t **p, const char **s, size_t *n);
uint32_t    lora__gguf_u32(const lora__gguf *g, const uint8_t *p); /* element of an array, in the file's byte order */
float       lora__gguf_f32(const lora__gguf *g, const uint8_t *p);
/* Keys one by one, sorted: name and value of number i. */
void        lora__gguf_key(const lora__gguf *g, size_t i, const char **name, size_t *n, lora__gguf_value *v);
const char *lora__gguf_type_name(uint32_t type);

/* Element types by ggml's number. */
typedef struct lora__gguf_type { const char *name; lora_dtype dtype; uint16_t n, bytes; } lora__gguf_type;
const lora__gguf_type *lora__gguf_type_of(uint32_t id);            /* NULL: unknown or retired */
int                    lora__gguf_type_id(lora_dtype d);           /* -1: GGUF has no such type */
uint64_t lora__gguf_record(const lora__gguf *g, size_t at, const char **name, size_t *n, lora__gguf_value *v); /* offset behind a key's record */

/* ---- writing ---- */

typedef struct lora__gguf_out {
	lora_context *ctx;
	lora__text    kv;   /* records so far; its status holds the first failure */
	uint64_t      n_kv;
} lora__gguf_out;

void lora__gguf_begin(lora__gguf_out *o, lora_context *ctx);
void lora__gguf_put_int(lora__gguf_out *o, const char *key, uint32_t type, int64_t v); /* U8 .. I64, BOOL */
void lora__gguf_put_float(lora__gguf_out *o, const char *key, double v);               /* F32 */
void lora__gguf_put_string(lora__gguf_out *o, const char *key, const char *s, size_t n);
/* An array of n elements: strings come one by one with lora__gguf_item_string(), numbers as U32, I32 or F32. */
void lora__gguf_put_array(lora__gguf_out *o, const char *key, uint32_t elem, uint64_t n);
void lora__gguf_item_string(lora__gguf_out *o, const char *s, size_t n);
void lora__gguf_item_u32(lora__gguf_out *o, uint32_t v);
void lora__gguf_item_f32(lora__gguf_out *o, float v);
/* A record of another file as it is. */
void lora__gguf_copy(lora__gguf_out *o, const lora__gguf *from, const char *key, size_t n, const lora__gguf_value *v);
/* Write the file atomically: tensors in the order of the list, shapes row-major. Ends o in any case. */
lora_status lora__gguf_write(lora__gguf_out *o, const char *path, const lora__tensor *list, size_t n);
void        lora__gguf_end(lora__gguf_out *o);

#endif
