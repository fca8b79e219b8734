/* What the files of the plug-in "onednn" share. */
#ifndef LORA_BACKEND_ONEDNN_ONEDNN_H
#define LORA_BACKEND_ONEDNN_ONEDNN_H

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "lora/backend.h"

enum {
	ONEDNN_ROWS = 32,     /* parts of C begin at multiples of this many rows: of two AMX tiles */
	ONEDNN_COLS = 64,     /* ... and of this many columns: of a block of packed weights */
	ONEDNN_PIECE = 512,   /* rows of one primitive at most, so that few sizes of primitive serve any number of rows */
	ONEDNN_ENTRIES = 512, /* primitives kept by an instance */
	ONEDNN_BUCKETS = 256,
	ONEDNN_KINDS = 32     /* sizes of primitive that one product can be made of */
};

/* What a primitive is made for. Cleared before it is filled, so that bytes can be compared. */
typedef struct onednn_key {
	int64_t m, n, k;
	int64_t ars, acs, brs, bcs, crs; /* packed: brs and bcs are the strides of blocks */
	int32_t type, c_type;            /* dnnl_data_type_t of A and B, and of C */
	int32_t packed, reserved;        /* columns of a block of packed B; 0: plain strides */
	float   alpha, beta;
} onednn_key;

/* Memory objects of one thread: their data pointers are set for each run. */
typedef struct onednn_slot { dnnl_memory_t a, b, c, scratch; } onednn_slot;

typedef struct onednn_entry {
	onednn_key       key;
	uint64_t         hash, used;
	int32_t          pins, next; /* runs going on; next of the bucket, -1 at its end */
	dnnl_primitive_t primitive;
	dnnl_memory_desc_t a, b, c, scratch;
	size_t           scratch_bytes;
	onednn_slot     *slots; /* one per thread of the host */
} onednn_entry;

typedef struct onednn {
	lora_host_services host;
	int32_t         threads, bf16; /* bf16: the processor multiplies it itself */
	dnnl_engine_t   engine;
	dnnl_stream_t  *streams; /* one per thread */
	pthread_mutex_t lock;    /* of the cache */
	uint64_t        clock;
	int32_t         n_entries, heads[ONEDNN_BUCKETS];
	onednn_entry    entries[ONEDNN_ENTRIES];
	atomic_flag     taken;   /* slots, streams and scratch serve one product at a time; one more makes its own */
	char           *scratch, *panel;
	size_t          scratch_bytes, panel_bytes;
	char            device[64], library[64];
} onednn;

/* B in the layout that the kernels want. One allocation for this, one for the data. A very deep B is packed in slices, one after another: with all of
 * it in one product, dense rows of A would be so long that they get in each other's way in the caches. */
typedef struct onednn_packed {
	uint32_t magic;
	int32_t  cols;  /* columns of a block, 0: plain */
	int64_t  n, k, depth; /* depth: of a slice */
	int32_t  type;  /* dnnl_data_type_t */
	dnnl_memory_desc_t md, last; /* of a slice, of the last one */
	uint64_t slice; /* bytes of one */
	char    *data;
	uint64_t bytes;
} onednn_packed;

enum { ONEDNN_MAGIC = 0x4b504e44 };

lora_status lora__onednn_fail(const onednn *self, lora_status status, const char *message);
lora_status lora__onednn_status(const onednn *self, dnnl_status_t status, const char *what);

/* One thread of OpenMP for the calling thread; returns what was set, for the way back. */
int  lora__onednn_enter(void);
void lora__onednn_leave(int before);

/* Part i of n_parts of total, at multiples of step. 0 when it is empty. */
int lora__onednn_part(int64_t total, int64_t step, int64_t i, int64_t n_parts, int64_t *from, int64_t *to);

/* Cache of primitives. get: pinned until put; b describes B, and the key tells all of it. */
lora_status lora__onednn_get(onednn *self, const onednn_key *key, const dnnl_memory_desc_t *b, onednn_entry **out);
void        lora__onednn_put(onednn *self, onednn_entry *e);
void        lora__onednn_clear(onednn *self);
dnnl_status_t lora__onednn_slot(const onednn *self, const onednn_entry *e, onednn_slot *s);
void        lora__onednn_slot_free(onednn_slot *s);

/* Weights. slice: of what begins at row at of B, a multiple of the depth. */
void        lora__onednn_slice(const onednn_packed *p, int64_t at, onednn_packed *one);
lora_status lora__onednn_pack(void *self, const lora_view *b, void **packed, uint64_t *bytes);
lora_status lora__onednn_pack_as(void *self, const lora_view *b, lora_dtype real, void **packed, uint64_t *bytes);
void        lora__onednn_unpack(void *self, void *packed);
/* The columns n0 .. n0 + n - 1 of packed weights: descriptor and start. n0 is at a block. */
void        lora__onednn_panel(const onednn_packed *p, int64_t n0, int64_t n, dnnl_memory_desc_t *md, char **data);
void        lora__onednn_plain(dnnl_memory_desc_t *md, int64_t rows, int64_t cols, int64_t rs, int64_t cs, int32_t type);

/* Convert n contiguous elements: F32, BF16 and F16 to F32; F32 to BF16. 0 when there is no such conversion. */
int lora__onednn_convert(void *d, lora_dtype to, const void *s, lora_dtype from, int64_t n);

#endif
