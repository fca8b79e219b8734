/* Packed weights of the plug-in "onednn": B reordered once to the blocked layout that oneDNN's matmul chooses for itself (format_tag::any), with
 * its dtype changed on the way where the activations need that. Blocks of columns follow each other, so a range of columns that begins at a block
 * is a packed matrix in itself: parts of C take their part of B without a copy. */
#include "backend/onednn/onednn.h"

void lora__onednn_panel(const onednn_packed *p, int64_t n0, int64_t n, dnnl_memory_desc_t *md, char **data)
{
	int64_t blocks = p->cols ? n0 / p->cols : n0, size = p->type == dnnl_f32 ? 4 : 2;
	*md = p->md;
	md->dims[1] = n;
	md->padded_dims[1] = p->cols ? (n + p->cols - 1) / p->cols * p->cols : n;
	*data = p->data + blocks * p->md.format_desc.blocking.strides[1] * size;
}

/* Blocks of columns must follow each other and fill ONEDNN_COLS evenly. Returns the columns of a block, 0 for another layout. */
static int32_t block_columns(const dnnl_memory_desc_t *md)
{
	const dnnl_blocking_desc_t *b = &md->format_desc.blocking;
	int64_t cols = 1;
	if (md->format_kind != dnnl_blocked || md->offset0 || md->extra.flags || !b->inner_nblks) return 0;
	for (int i = 0; i < b->inner_nblks; i++)
		if (b->inner_idxs[i] == 1) cols *= b->inner_blks[i];
	return b->strides[1] >= b->strides[0] && ONEDNN_COLS % cols == 0 ? (int32_t)cols : 0;
}

void lora__onednn_slice(const onednn_packed *p, int64_t at, onednn_packed *one)
{
	*one = *p;
	one->k = p->k - at < p->depth ? p->k - at : p->depth;
	one->data += (uint64_t)(at / p->depth) * p->slice;
	if (at + p->depth >= p->k) one->md = p->last;
}

/* The layout of k rows; *cols as block_columns(). */
static dnnl_status_t choose_layout(const onednn *self, const onednn_packed *p, int64_t k, dnnl_memory_desc_t *md, int32_t *cols)
{
	dnnl_memory_desc_t a, b, c;
	dnnl_dims_t dims = { k, p->n };
	dnnl_matmul_desc_t d;
	dnnl_primitive_desc_t pd = NULL;
	int before = lora__onednn_enter();
	lora__onednn_plain(&a, ONEDNN_PIECE, k, k, 1, p->type);
	lora__onednn_plain(&c, ONEDNN_PIECE, p->n, p->n, 1, p->type);
	dnnl_status_t s = dnnl_memory_desc_init_by_tag(&b, 2, dims, (dnnl_data_type_t)p->type, dnnl_format_tag_any);
	if (!s) s = dnnl_matmul_desc_init(&d, &a, &b, NULL, &c);
	if (!s) s = dnnl_primitive_desc_create(&pd, &d, NULL, self->engine, NULL);
	if (!s) *md = *dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
	if (pd) dnnl_primitive_desc_destroy(pd);
	lora__onednn_leave(before);
	if (s) return s;
	*cols = block_columns(md);
	if (!*cols) lora__onednn_plain(md, k, p->n, 1, k, p->type); /* kernels without blocks: columns one after another */
	return dnnl_success;
}

/* Sums in F32 can be continued slice by slice. A depth that is no multiple of 2 KiB keeps rows of A off the same cache sets. */
static dnnl_status_t choose_layouts(const onednn *self, onednn_packed *p)
{
	enum { DEEP = 8192, SLICE = 1984, UNIT = 64 };
	int64_t n = (p->k + SLICE - 1) / SLICE;
	int32_t cols = 0;
	p->depth = p->k;
	if (p->type == dnnl_f32 && p->k >= DEEP) p->depth = ((p->k + n - 1) / n + UNIT - 1) / UNIT * UNIT; /* 1,664 to 1,984 */
	dnnl_status_t s = choose_layout(self, p, p->depth, &p->md, &p->cols);
	if (!s) s = choose_layout(self, p, p->k - (p->k - 1) / p->depth * p->depth, &p->last, &cols);
	if (!s && cols != p->cols) {
		p->depth = p->k;
		s = choose_layout(self, p, p->k, &p->md, &p->cols);
		p->last = p->md;
	}
	if (s) return s;
	p->slice = dnnl_memory_desc_get_size(&p->md);
	p->bytes = (uint64_t)((p->k - 1) / p->depth) * p->slice + dnnl_memory_desc_get_size(&p->last);
	return dnnl_success;
}

typedef struct job { const onednn *self; const lora_view *b; onednn_packed *p; int64_t parts; atomic_int status; } job;

static dnnl_data_type_t type_of(lora_dtype t) { return t == LORA_F32 ? dnnl_f32 : dnnl_bf16; }

/* Reorder columns n0 .. n0 + n - 1 from a plain source. */
static dnnl_status_t reorder(const job *j, dnnl_stream_t stream, const void *src, int64_t rs, int64_t cs, dnnl_data_type_t type, int64_t n0, int64_t n)
{
	dnnl_memory_desc_t from, to;
	dnnl_primitive_desc_t pd = NULL;
	dnnl_primitive_t primitive = NULL;
	dnnl_memory_t m[2] = { 0 };
	char *data;
	lora__onednn_plain(&from, j->p->k, n, rs, cs, type);
	lora__onednn_panel(j->p, n0, n, &to, &data);
	dnnl_status_t s = dnnl_reorder_primitive_desc_create(&pd, &from, j->self->engine, &to, j->self->engine, NULL);
	if (!s) s = dnnl_primitive_create(&primitive, pd);
	if (!s) s = dnnl_memory_create(&m[0], &from, j->self->engine, (void *)(uintptr_t)src);
	if (!s) s = dnnl_memory_create(&m[1], &to, j->self->engine, data);
	if (!s) {
		dnnl_exec_arg_t args[] = { { DNNL_ARG_FROM, m[0] }, { DNNL_ARG_TO, m[1] } };
		s = dnnl_primitive_execute(primitive, stream, 2, args);
	}
	if (!s) s = dnnl_stream_wait(stream);
	for (int i = 0; i < 2; i++)
		if (m[i]) dnnl_memory_destroy(m[i]);
	if (primitive) dnnl_primitive_destroy(primitive);
	if (pd) dnnl_primitive_desc_destroy(pd);
	return s;
}

/* F16 is nothing that oneDNN 2 reads fast: some columns at a time become F32 first. */
static dnnl_status_t reorder_half(const job *j, dnnl_stream_t stream, int64_t from, int64_t to)
{
	int64_t step = 4 * ONEDNN_COLS, k = j->p->k, rs = j->b->stride[0], cs = j->b->stride[1];
	float *block = j->self->host.alloc(j->self->host.host, (size_t)(step * k) * sizeof *block);
	dnnl_status_t s = block ? dnnl_success : dnnl_out_of_memory;
	for (int64_t n0 = from; n0 < to && !s; n0 += step) {
		int64_t n = to - n0 < step ? to - n0 : step, by_k = rs == 1, lines = by_k ? n : k, length = by_k ? k : n;
		const uint16_t *src = (const uint16_t *)j->b->data + n0 * cs;
		for (int64_t i = 0; i < lines; i++)
			lora__onednn_convert(block + i * length, LORA_F32, src + i * (by_k ? cs : rs), LORA_F16, length);
		s = reorder(j, stream, block, by_k ? 1 : n, by_k ? k : 1, dnnl_f32, n0, n);
	}
	if (block) j->self->host.free(j->self->host.host, block);
	return s;
}

static void pack_part(void *arg, int64_t task, int32_t thread)
{
	job *j = arg;
	dnnl_stream_t stream = NULL;
	int64_t from, to, size = j->b->dtype == LORA_F32 ? 4 : 2;
	int before = lora__onednn_enter();
	(void)thread;
	if (lora__onednn_part(j->p->n, ONEDNN_COLS, task, j->parts, &from, &to)) {
		const char *src = (const char *)j->b->data + from * j->b->stride[1] * size;
		dnnl_status_t s = dnnl_stream_create(&stream, j->self->engine, dnnl_stream_default_flags);
		if (!s && j->b->dtype == LORA_F16) s = reorder_half(j, stream, from, to);
		else if (!s) s = reorder(j, stream, src, j->b->stride[0], j->b->stride[1], type_of(j->b->dtype), from, to - from);
		if (stream) dnnl_stream_destroy(stream);
		if (s) atomic_store(&j->status, (int)s);
	}
	lora__onednn_leave(before);
}

lora_status lora__onednn_pack_as(void *s, const lora_view *b, lora_dtype real, void **packed, uint64_t *bytes)
{
	onednn *self = s;
	if (!b || !packed || !b->data) return lora__onednn_fail(self, LORA_E_ARGUMENT, "weights to pack are NULL");
	if (b->rank < 1 || b->rank > 2 || b->size[0] < 1 || b->size[1] < 1 || b->size[0] > 1 << 30 || b->size[1] > 1 << 30)
		return lora__onednn_fail(self, LORA_E_SHAPE, "weights to pack must be a matrix");
	if (b->dtype != LORA_F32 && b->dtype != LORA_BF16 && b->dtype != LORA_F16)
		return lora__onednn_fail(self, LORA_E_UNSUPPORTED, "only F32, BF16 and F16 weights are packed");
	if (real != LORA_F32 && (real != LORA_BF16 || !self->bf16)) return lora__onednn_fail(self, LORA_E_UNSUPPORTED, "no packed form for these activations");
	if ((uintptr_t)b->data % (b->dtype == LORA_F32 ? 4 : 2)) return lora__onednn_fail(self, LORA_E_ARGUMENT, "the weights are not aligned to their dtype");
	lora_view v = *b;
	if (v.size[1] == 1) v.stride[1] = v.stride[0] == 1 ? v.size[0] : 1;
	if (v.size[0] == 1) v.stride[0] = v.stride[1] == 1 ? v.size[1] : 1;
	if (!((v.stride[1] == 1 && v.stride[0] >= v.size[1]) || (v.stride[0] == 1 && v.stride[1] >= v.size[0])))
		return lora__onednn_fail(self, LORA_E_UNSUPPORTED, "weights to pack must have one stride of 1");
	onednn_packed *p = self->host.alloc(self->host.host, sizeof *p);
	if (!p) return lora__onednn_fail(self, LORA_E_MEMORY, "no memory for packed weights");
	*p = (onednn_packed){ .magic = ONEDNN_MAGIC, .n = v.size[1], .k = v.size[0], .type = real == LORA_BF16 ? dnnl_bf16 : dnnl_f32 };
	lora_status st = lora__onednn_status(self, choose_layouts(self, p), "choosing the layout of packed weights");
	if (!st) {
		p->data = self->host.alloc(self->host.host, p->bytes);
		if (!p->data) st = lora__onednn_fail(self, LORA_E_MEMORY, "no memory for packed weights");
	}
	for (int64_t at = 0; at < p->k && !st; at += p->depth) {
		onednn_packed one;
		lora_view from = v;
		lora__onednn_slice(p, at, &one);
		from.data = (char *)v.data + at * v.stride[0] * (v.dtype == LORA_F32 ? 4 : 2), from.size[0] = one.k;
		job j = { .self = self, .b = &from, .p = &one, .parts = self->threads };
		self->host.parallel(self->host.host, j.parts, pack_part, &j);
		st = lora__onednn_status(self, (dnnl_status_t)atomic_load(&j.status), "packing weights");
	}
	if (st) {
		lora__onednn_unpack(self, p);
		return st;
	}
	*packed = p;
	if (bytes) *bytes = p->bytes + sizeof *p;
	return LORA_OK;
}

lora_status lora__onednn_pack(void *s, const lora_view *b, void **packed, uint64_t *bytes)
{
	return lora__onednn_pack_as(s, b, b && b->dtype == LORA_BF16 && ((onednn *)s)->bf16 ? LORA_BF16 : LORA_F32, packed, bytes);
}

void lora__onednn_unpack(void *s, void *packed)
{
	onednn *self = s;
	onednn_packed *p = packed;
	if (!p || p->magic != ONEDNN_MAGIC) return;
	p->magic = 0;
	if (p->data) self->host.free(self->host.host, p->data);
	self->host.free(self->host.host, p);
}
