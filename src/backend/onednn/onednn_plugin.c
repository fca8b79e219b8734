/* Plug-in "onednn": GEMM through oneDNN 2 (https://github.com/oneapi-src/oneDNN), the matmul primitive: F32; BF16 with F32 sums where the processor
 * multiplies BF16 itself (AVX-512 BF16, AMX); frozen weights packed once. All else is left to naive.
 *
 * Threads are the host's. C is cut into parts, a few rows or columns of it for every thread, and each part is a call of oneDNN with OpenMP set to
 * one thread for the thread that makes it; what was set before is put back. The cut depends on sizes and the number of threads alone, and so do the bits.
 * A part's rows are run in pieces of ONEDNN_PIECE rows, then one piece of a multiple of ONEDNN_ROWS: any number of rows needs few primitives.
 * oneDNN 2.6 has its fast kernels for dense A and C only, and nothing but reference code for packed B otherwise: with packed B, a piece of A or C
 * that is not dense is copied.
 *
 * Dtypes: A and B are brought to the type that is multiplied in: that of A. B of another type is converted block by block (F32 to BF16 rounds it). */
#include "backend/onednn/onednn.h"

#include <stdio.h>

#if DNNL_CPU_RUNTIME == DNNL_RUNTIME_OMP
int  omp_get_max_threads(void);
void omp_set_num_threads(int n);
int  lora__onednn_enter(void)
{
	int before = omp_get_max_threads();
	if (before != 1) omp_set_num_threads(1);
	return before;
}
void lora__onednn_leave(int before)
{
	if (before != 1) omp_set_num_threads(before);
}
#else
int  lora__onednn_enter(void) { return 1; }
void lora__onednn_leave(int before) { (void)before; }
#endif

enum {
	FEW = 2,                     /* F32 products with this many rows or columns, or fewer, are bound by memory: naive reads less of it */
	MIN_WORK = 32 * 1024,        /* multiply-adds below which the overhead of a call shows */
	LEAST_ROWS = 128, MOST_PARTS = 4, /* rows of a part, and parts for a thread, when there are more parts than threads */
	SPLIT_WORK = 256 * 1024,     /* ... and below which one thread does it alone */
	PANEL = 4 * 1024 * 1024,     /* elements of B that are converted at once */
	PANEL_ROWS = 8               /* fewer rows than this do not pay for converting B */
};

/* One product of A, and B of one type, cut into rows x cols parts. */
typedef struct job {
	onednn          *self;
	const lora_view *c, *a, *b;
	const onednn_packed *packed;
	int64_t          m, n, k;
	int64_t          rows, cols;
	float            alpha, beta;
	int              copy_a;        /* A's rows are apart: pieces of it are copied; and so are those of C where C's are */
	size_t           a_bytes, c_bytes;
	int              own;           /* slots, streams and scratch of the instance are ours */
	char            *scratch;
	size_t           scratch_bytes; /* of one thread */
	int              n_kinds;
	onednn_entry    *kinds[ONEDNN_KINDS];
	atomic_int       status;
} job;

lora_status lora__onednn_fail(const onednn *self, lora_status status, const char *message)
{
	if (self->host.error) self->host.error(self->host.host, status, message);
	return status;
}

lora_status lora__onednn_status(const onednn *self, dnnl_status_t status, const char *what)
{
	static const char *const names[] = { "success", "out of memory", "invalid arguments", "unimplemented", "iterator ends", "runtime error", "not required" };
	char text[128];
	if (status == dnnl_success) return LORA_OK;
	snprintf(text, sizeof text, "%s: oneDNN says: %s", what, (unsigned)status < sizeof names / sizeof *names ? names[status] : "unknown status");
	return lora__onednn_fail(self, status == dnnl_out_of_memory ? LORA_E_MEMORY : LORA_E_BACKEND, text);
}

int lora__onednn_part(int64_t total, int64_t step, int64_t i, int64_t n_parts, int64_t *from, int64_t *to)
{
	int64_t blocks = (total + step - 1) / step;
	*from = blocks * i / n_parts * step, *to = blocks * (i + 1) / n_parts * step;
	if (*to > total) *to = total;
	return *from < *to;
}

static int64_t largest(int64_t total, int64_t step, int64_t n_parts)
{
	int64_t blocks = (total + step - 1) / step, size = (blocks + n_parts - 1) / n_parts * step;
	return size < total ? size : total;
}

/* Must pieces of n columns of C be copied? */
static int copies_c(const job *j, int64_t rows, int64_t n) { return j->packed && rows > 1 && j->c->stride[0] != n; }

/* Rows x columns of parts: the largest part should be small, and so should what it reads and copies. */
static void cut(job *j)
{
	double best = 0;
	int64_t threads = (double)j->m * (double)j->n * (double)j->k < SPLIT_WORK ? 1 : j->self->threads;
	for (int64_t rows = 1; rows <= threads; rows++) {
		double pm = (double)largest(j->m, ONEDNN_ROWS, rows), pn = (double)largest(j->n, ONEDNN_COLS, threads / rows);
		double cost = pm * pn * (threads / rows > 1 && j->m > 1 ? 1.15 : 1) + 16 * (pm + pn);
		if (rows == 1 || cost < best) best = cost, j->rows = rows, j->cols = threads / rows;
	}
	/* more parts than threads where rows are many: the quicker core takes some of the slower one's */
	for (int64_t more = 2 * j->rows; threads > 1 && j->m / more >= LEAST_ROWS && more <= MOST_PARTS * threads; more *= 2) j->rows = more;
}

/* The next piece of the rows at .. to - 1 of a part that begins at from. The last one may go back over rows that are done: with beta 0 that changes
 * nothing, and it needs no primitive for an odd number of rows. */
static int64_t next_piece(int64_t from, int64_t *at, int64_t to, int again)
{
	int64_t left = to - *at, whole = left / ONEDNN_ROWS * ONEDNN_ROWS;
	if (left >= ONEDNN_PIECE) return ONEDNN_PIECE;
	if (whole == left) return left;
	if (again && to - from >= whole + ONEDNN_ROWS) {
		*at = to - whole - ONEDNN_ROWS;
		return whole + ONEDNN_ROWS;
	}
	return whole ? whole : left;
}

static onednn_entry *kind(const job *j, int64_t m, int64_t n)
{
	for (int i = 0; i < j->n_kinds; i++)
		if (j->kinds[i]->key.m == m && j->kinds[i]->key.n == n) return j->kinds[i];
	return NULL;
}

static dnnl_data_type_t type_of(lora_dtype t) { return t == LORA_F32 ? dnnl_f32 : dnnl_bf16; }
static int64_t size_of(lora_dtype t) { return t == LORA_F32 ? 4 : 2; }

static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

static lora_status need(job *j, int64_t m, int64_t n)
{
	onednn_key key;
	dnnl_memory_desc_t b;
	char *data;
	if (kind(j, m, n)) return LORA_OK;
	if (j->n_kinds == ONEDNN_KINDS) return lora__onednn_fail(j->self, LORA_E_BACKEND, "a product is cut into too many kinds of parts");
	memset(&key, 0, sizeof key);
	key.m = m, key.n = n, key.k = j->k, key.type = (int32_t)type_of(j->a->dtype), key.c_type = (int32_t)type_of(j->c->dtype);
	key.ars = j->copy_a || m == 1 ? j->k : j->a->stride[0], key.acs = j->a->stride[1], key.alpha = j->alpha, key.beta = j->beta;
	key.crs = copies_c(j, m, n) || m == 1 ? n : j->c->stride[0];
	if (m == 1 && key.acs != 1) key.ars = 1;
	if (j->packed) {
		lora__onednn_panel(j->packed, 0, n, &b, &data);
		key.brs = b.format_desc.blocking.strides[0], key.bcs = b.format_desc.blocking.strides[1], key.packed = 1 + j->packed->cols;
	} else {
		key.brs = j->b->stride[0], key.bcs = j->b->stride[1];
		lora__onednn_plain(&b, j->k, n, key.brs, key.bcs, key.type);
	}
	lora_status st = lora__onednn_get(j->self, &key, &b, &j->kinds[j->n_kinds]);
	if (st) return st;
	size_t bytes = j->kinds[j->n_kinds++]->scratch_bytes;
	if (bytes > j->scratch_bytes) j->scratch_bytes = bytes;
	if (j->copy_a && (size_t)(m * j->k * size_of(j->a->dtype)) > j->a_bytes) j->a_bytes = (size_t)(m * j->k * size_of(j->a->dtype));
	if (copies_c(j, m, n) && (size_t)(m * n * size_of(j->c->dtype)) > j->c_bytes) j->c_bytes = (size_t)(m * n * size_of(j->c->dtype));
	return LORA_OK;
}

/* Find or make the primitives of all parts. */
static lora_status gather(job *j)
{
	int64_t m0, m1, n0, n1;
	lora_status st = LORA_OK;
	for (int64_t r = 0; r < j->rows && !st; r++) {
		if (!lora__onednn_part(j->m, ONEDNN_ROWS, r, j->rows, &m0, &m1)) continue;
		for (int64_t at = m0, rows; at < m1 && !st; at += rows) {
			rows = next_piece(m0, &at, m1, j->beta == 0);
			for (int64_t c = 0; c < j->cols && !st; c++)
				if (lora__onednn_part(j->n, ONEDNN_COLS, c, j->cols, &n0, &n1)) st = need(j, rows, n1 - n0);
		}
	}
	return st;
}

static void copy_rows(char *d, int64_t d_step, const char *s, int64_t s_step, int64_t rows, int64_t bytes)
{
	for (int64_t i = 0; i < rows; i++) memcpy(d + i * d_step, s + i * s_step, (size_t)bytes);
}

static dnnl_status_t run_piece(const job *j, onednn_entry *e, dnnl_stream_t stream, int64_t m0, int64_t n0, char *scratch, int32_t thread)
{
	const lora_view *c = j->c, *a = j->a, *b = j->b;
	onednn_slot local = { 0 }, *s = j->own ? &e->slots[thread] : &local;
	int64_t m = e->key.m, a_size = size_of(a->dtype), c_size = size_of(c->dtype), c_step = c->stride[0] * c_size, c_row = e->key.n * c_size;
	char *ap = (char *)a->data + m0 * a->stride[0] * a_size, *cp = (char *)c->data + m0 * c_step + n0 * c_size, *c_from = cp, *bp;
	dnnl_memory_desc_t md;
	dnnl_status_t st = s->a ? dnnl_success : lora__onednn_slot(j->self, e, s);
	if (st) return st;
	if (j->packed) lora__onednn_panel(j->packed, n0, e->key.n, &md, &bp);
	else bp = (char *)b->data + n0 * b->stride[1] * size_of(b->dtype);
	if (j->copy_a) {
		char *dense = scratch + e->scratch_bytes;
		copy_rows(dense, j->k * a_size, ap, a->stride[0] * a_size, m, j->k * a_size);
		ap = dense;
	}
	int copy_c = copies_c(j, m, e->key.n);
	if (copy_c) {
		c_from = scratch + j->scratch_bytes - round_up(j->c_bytes);
		if (j->beta != 0) copy_rows(c_from, c_row, cp, c_step, m, c_row);
	}
	st = dnnl_memory_set_data_handle(s->a, ap);
	if (!st) st = dnnl_memory_set_data_handle(s->b, bp); /* writes 0 where the padding's 0 is */
	if (!st) st = dnnl_memory_set_data_handle(s->c, c_from);
	if (!st) st = dnnl_memory_set_data_handle(s->scratch, scratch);
	if (!st) {
		dnnl_exec_arg_t args[] = { { DNNL_ARG_SRC, s->a }, { DNNL_ARG_WEIGHTS, s->b }, { DNNL_ARG_DST, s->c }, { DNNL_ARG_SCRATCHPAD, s->scratch } };
		st = dnnl_primitive_execute(e->primitive, stream, 4, args);
	}
	if (!st) st = dnnl_stream_wait(stream);
	if (copy_c && !st) copy_rows(cp, c_step, c_from, c_row, m, c_row);
	if (s == &local) lora__onednn_slot_free(s);
	return st;
}

static void run_part(void *arg, int64_t task, int32_t thread)
{
	job *j = arg;
	int64_t m0, m1, n0, n1;
	if (!lora__onednn_part(j->m, ONEDNN_ROWS, task / j->cols, j->rows, &m0, &m1)) return;
	if (!lora__onednn_part(j->n, ONEDNN_COLS, task % j->cols, j->cols, &n0, &n1)) return;
	int before = lora__onednn_enter();
	dnnl_stream_t stream = j->own ? j->self->streams[thread] : NULL;
	dnnl_status_t st = stream ? dnnl_success : dnnl_stream_create(&stream, j->self->engine, dnnl_stream_default_flags);
	for (int64_t at = m0, rows; at < m1 && !st; at += rows) {
		rows = next_piece(m0, &at, m1, j->beta == 0);
		st = run_piece(j, kind(j, rows, n1 - n0), stream, at, n0, j->scratch + (size_t)thread * j->scratch_bytes, thread);
	}
	if (j->own) j->self->streams[thread] = stream;
	else if (stream) dnnl_stream_destroy(stream);
	lora__onednn_leave(before);
	if (st) atomic_store(&j->status, (int)st);
}

/* A buffer of the instance that grows, or one for this product alone. */
static char *buffer(onednn *self, int own, char **kept, size_t *kept_bytes, size_t bytes)
{
	if (!own) return self->host.alloc(self->host.host, bytes);
	if (*kept_bytes < bytes) {
		if (*kept) self->host.free(self->host.host, *kept);
		*kept = self->host.alloc(self->host.host, bytes);
		*kept_bytes = *kept ? bytes : 0;
	}
	return *kept;
}

static lora_status multiply(job *j)
{
	onednn *self = j->self;
	atomic_store(&j->status, (int)dnnl_success);
	j->n_kinds = 0, j->scratch_bytes = 64, j->a_bytes = j->c_bytes = 0, j->scratch = NULL;
	j->copy_a = j->packed && j->m > 1 && j->a->stride[0] != j->k;
	cut(j);
	lora_status st = gather(j);
	if (!st) {
		j->scratch_bytes += round_up(j->a_bytes) + round_up(j->c_bytes);
		j->scratch = buffer(self, j->own, &self->scratch, &self->scratch_bytes, j->scratch_bytes * (size_t)self->threads);
		if (!j->scratch) st = lora__onednn_fail(self, LORA_E_MEMORY, "no memory for scratch");
	}
	if (!st) {
		self->host.parallel(self->host.host, j->rows * j->cols, run_part, j);
		st = lora__onednn_status(self, (dnnl_status_t)atomic_load(&j->status), "matmul");
	}
	if (j->scratch && !j->own) self->host.free(self->host.host, j->scratch);
	for (int i = 0; i < j->n_kinds; i++) lora__onednn_put(self, j->kinds[i]);
	return st;
}

/* Packed in slices: one after another is added up in C. */
static lora_status multiply_slices(job *j)
{
	const onednn_packed *packed = j->packed;
	const lora_view *whole = j->a;
	lora_status st = LORA_OK;
	for (int64_t at = 0; at < packed->k && !st; at += packed->depth) {
		onednn_packed one;
		lora_view a = *whole;
		lora__onednn_slice(packed, at, &one);
		a.data = (char *)a.data + at * size_of(a.dtype), a.size[1] = one.k;
		j->packed = &one, j->a = &a, j->k = one.k;
		if (at) j->beta = 1;
		st = multiply(j);
	}
	return st;
}

/* Converting a block of B. */
typedef struct panel_job { const lora_view *from, *to; int64_t parts; } panel_job;

static void convert_part(void *arg, int64_t task, int32_t thread)
{
	const panel_job *p = arg;
	int by_rows = p->from->stride[1] == 1;
	int64_t from, to, length = p->from->size[by_rows], across = !by_rows;
	(void)thread;
	if (!lora__onednn_part(p->from->size[across], 1, task, p->parts, &from, &to)) return;
	for (int64_t i = from; i < to; i++)
		lora__onednn_convert((char *)p->to->data + i * p->to->stride[across] * size_of(p->to->dtype), p->to->dtype,
		                     (const char *)p->from->data + i * p->from->stride[across] * size_of(p->from->dtype), p->from->dtype, length);
}

/* B has another type than A: convert some columns at a time. */
static lora_status multiply_panels(job *j, const lora_view *c, const lora_view *b)
{
	onednn *self = j->self;
	int64_t step = PANEL / j->k / ONEDNN_COLS * ONEDNN_COLS;
	if (step < ONEDNN_COLS) step = ONEDNN_COLS;
	if (step > j->n) step = j->n;
	lora_status st = LORA_OK;
	char *data = buffer(self, j->own, &self->panel, &self->panel_bytes, (size_t)(step * j->k * size_of(j->a->dtype)));
	if (!data) return lora__onednn_fail(self, LORA_E_MEMORY, "no memory for a block of converted weights");
	for (int64_t n0 = 0, total = j->n; n0 < total && !st; n0 += step) {
		int by_rows = b->stride[1] == 1;
		lora_view from = *b, to = *b, out = *c;
		j->n = total - n0 < step ? total - n0 : step;
		from.data = (char *)b->data + n0 * b->stride[1] * size_of(b->dtype), from.size[1] = j->n;
		to.data = data, to.dtype = j->a->dtype, to.size[1] = j->n;
		to.stride[0] = by_rows ? j->n : 1, to.stride[1] = by_rows ? 1 : j->k;
		out.data = (char *)c->data + n0 * size_of(c->dtype), out.size[1] = j->n;
		panel_job p = { &from, &to, j->n * j->k < 16384 ? 1 : self->threads };
		self->host.parallel(self->host.host, p.parts, convert_part, &p);
		j->b = &to, j->c = &out;
		st = multiply(j);
	}
	if (!j->own) self->host.free(self->host.host, data);
	return st;
}

static int32_t refuse(const char **reason, const char *why)
{
	if (reason) *reason = why;
	return 0;
}

/* A stride that is never used may be anything: give it the value that a plain layout has. 0 when neither stride is 1. */
static int plain(lora_view *v)
{
	int64_t *s = v->stride;
	if (v->size[1] == 1) s[1] = s[0] == 1 && v->size[0] > 1 ? v->size[0] : 1;
	if (v->size[0] == 1) s[0] = s[1] == 1 ? v->size[1] : 1;
	return (s[1] == 1 && s[0] >= v->size[1]) || (s[0] == 1 && s[1] >= v->size[0]);
}

static const onednn_packed *usable(const lora_call *call)
{
	const onednn_packed *p = call->packed;
	const lora_view *b = &call->v[2];
	if (!p || p->magic != ONEDNN_MAGIC || p->k != b->size[0] || p->n != b->size[1]) return NULL;
	if (call->v[1].stride[1] != 1 && call->v[1].size[1] > 1) return NULL;
	return p->type == (int32_t)type_of(call->v[1].dtype) ? p : NULL;
}

static int sizes_fit(const lora_call *call, const char **reason)
{
	const lora_view *c = &call->v[0], *a = &call->v[1], *b = &call->v[2];
	for (int i = 0; i < 3; i++) {
		const lora_view *v = &call->v[i];
		if (v->rank < 1 || v->rank > 2 || v->size[0] < 1 || v->size[1] < 1) return refuse(reason, "sizes must be above 0");
		if (v->size[0] > 1 << 30 || v->size[1] > 1 << 30) return refuse(reason, "sizes must be below 2^30");
	}
	if (a->size[0] != c->size[0] || b->size[1] != c->size[1] || a->size[1] != b->size[0]) return refuse(reason, "the sizes do not fit each other");
	return 1;
}

/* Look at a call and bring its views into the form that run() wants. */
static int accept(const onednn *self, const lora_call *call, lora_view v[3], const char **reason)
{
	if (!call || call->struct_size < sizeof *call || call->prim != LORA_PRIM_GEMM || call->n_views < 3) return refuse(reason, "only GEMM");
	if (call->n_views > 3 && call->v[3].data) return refuse(reason, "one product at a time");
	const lora_dtype c = call->v[0].dtype, a = call->v[1].dtype, b = call->v[2].dtype;
	if (a != LORA_F32 && a != LORA_BF16) return refuse(reason, "A must be F32 or BF16");
	if (a == LORA_BF16 && !self->bf16) return refuse(reason, "this processor does not multiply BF16");
	if (c != LORA_F32 && (c != LORA_BF16 || a != LORA_BF16)) return refuse(reason, "C must be F32, or BF16 when A is");
	if (b != LORA_F32 && b != LORA_BF16 && (b != LORA_F16 || a != LORA_F32)) return refuse(reason, "B must be F32, BF16, or F16 when A is F32");
	if (!sizes_fit(call, reason)) return 0;
	const onednn_packed *packed = usable(call);
	for (int i = 0; i < 3; i++) {
		v[i] = call->v[i];
		if (i == 2 && packed) continue;
		if (i && !plain(&v[i])) return refuse(reason, "one stride must be 1 and the other must not overlap");
	}
	if (v[0].size[1] == 1) v[0].stride[1] = 1;
	if (v[0].size[0] == 1) v[0].stride[0] = v[0].size[1];
	if (v[0].stride[1] != 1 || v[0].stride[0] < v[0].size[1]) return refuse(reason, "C's last stride must be 1, and its rows must not overlap");
	int64_t m = v[0].size[0], n = v[0].size[1], k = v[1].size[1];
	if (packed && (a == LORA_BF16 || b != LORA_F32 || m > 1 || !v[2].data)) return 1;
	if (call->packed && !v[2].data) return refuse(reason, "the weights were packed for activations of another dtype or layout");
	if (a == LORA_F32 && (m <= FEW || n <= FEW)) return refuse(reason, "too narrow to be worth it");
	if (a != b && m < PANEL_ROWS) return refuse(reason, "too few rows to convert the weights for");
	if ((double)m * (double)n * (double)k < MIN_WORK) return refuse(reason, "too small to be worth it");
	return 1;
}

static int32_t onednn_supports(void *s, const lora_call *call, const char **reason)
{
	lora_view v[3];
	return accept(s, call, v, reason);
}

static lora_status onednn_run(void *s, void *stream, const lora_call *call)
{
	onednn *self = s;
	const char *why = "";
	lora_view v[3];
	(void)stream;
	if (!accept(self, call, v, &why)) return lora__onednn_fail(self, LORA_E_UNSUPPORTED, why);
	job j = { .self = self, .c = &v[0], .a = &v[1], .b = &v[2], .packed = usable(call), .m = v[0].size[0], .n = v[0].size[1], .k = v[1].size[1],
		.alpha = (float)call->f[0], .beta = (float)call->f[1] };
	for (int i = 0; i < (j.packed ? 2 : 3); i++) {
		if (!v[i].data) return lora__onednn_fail(self, LORA_E_ARGUMENT, "a view's data is NULL");
		if ((uintptr_t)v[i].data % (uintptr_t)size_of(v[i].dtype)) return lora__onednn_fail(self, LORA_E_ARGUMENT, "a view's data is not aligned to its dtype");
	}
	j.own = !atomic_flag_test_and_set(&self->taken);
	lora_status st = j.packed ? multiply_slices(&j) : v[2].dtype == v[1].dtype ? multiply(&j) : multiply_panels(&j, &v[0], &v[2]);
	if (j.own) atomic_flag_clear(&self->taken);
	return st;
}

static void onednn_close(void *s)
{
	onednn *self = s;
	if (!self) return;
	lora_host_services host = self->host;
	lora__onednn_clear(self);
	for (int32_t t = 0; self->streams && t < self->threads; t++)
		if (self->streams[t]) dnnl_stream_destroy(self->streams[t]);
	if (self->engine) dnnl_engine_destroy(self->engine);
	pthread_mutex_destroy(&self->lock);
	if (self->streams) host.free(host.host, self->streams);
	if (self->scratch) host.free(host.host, self->scratch);
	if (self->panel) host.free(host.host, self->panel);
	host.free(host.host, self);
}

static lora_status onednn_open(const lora_host_services *host, void **out)
{
	if (!host || host->struct_size < sizeof *host || !host->alloc || !host->free || !host->parallel) return LORA_E_ARGUMENT;
	onednn *self = host->alloc(host->host, sizeof *self);
	if (!self) return LORA_E_MEMORY;
	memset(self, 0, sizeof *self);
	self->host = *host, self->threads = host->threads > 0 ? host->threads : 1;
	pthread_mutex_init(&self->lock, NULL);
	atomic_flag_clear(&self->taken);
	for (int i = 0; i < ONEDNN_BUCKETS; i++) self->heads[i] = -1;
	int before = lora__onednn_enter();
	lora_status st = lora__onednn_status(self, dnnl_engine_create(&self->engine, dnnl_cpu, 0), "making an engine");
	dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
	lora__onednn_leave(before);
	self->streams = host->alloc(host->host, (size_t)self->threads * sizeof *self->streams);
	if (!self->streams && !st) st = LORA_E_MEMORY;
	if (self->streams) memset(self->streams, 0, (size_t)self->threads * sizeof *self->streams);
	if (st) {
		onednn_close(self);
		return st;
	}
	const dnnl_version_t *v = dnnl_version();
	self->bf16 = (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16 && !(host->features & LORA_HOST_BF16_GEMM);
	snprintf(self->device, sizeof self->device, "CPU, %s", (isa & dnnl_cpu_isa_avx512_core_amx) == dnnl_cpu_isa_avx512_core_amx ? "AMX" :
	         self->bf16 ? "AVX-512 BF16" : (isa & dnnl_cpu_isa_avx512_core) == dnnl_cpu_isa_avx512_core ? "AVX-512" : "AVX2 or less");
	snprintf(self->library, sizeof self->library, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
	*out = self;
	return LORA_OK;
}

static int32_t onednn_score(void *s)
{
	(void)s;
#if defined(__x86_64__)
	return __builtin_cpu_supports("avx2") ? 20 : -1; /* below AVX2 it has reference code for much */
#else
	return 5;
#endif
}

static lora_status onednn_info(void *s, lora_device_info *out)
{
	const onednn *self = s;
	if (!out || out->struct_size < sizeof *out) return LORA_E_ARGUMENT;
	out->host_memory = 1;
	out->device = self->device, out->library = self->library, out->memory_bytes = 0;
	return LORA_OK;
}

/* Its code and tables, as measured; and for each thread some rows that are copied for products with a vocabulary. */
static uint64_t onednn_working_bytes(void *s, lora_dtype real, int64_t widest)
{
	const onednn *self = s;
	if (real == LORA_BF16 && !self->bf16) return (uint64_t)6 << 20;
	return ((uint64_t)10 << 20) + (uint64_t)self->threads * 128 * (real == LORA_F32 ? 4 : 2) * (uint64_t)widest;
}

lora_status lora_backend_entry(uint32_t host_min, uint32_t host_max, const lora_backend_v1 **out)
{
	static const lora_backend_v1 table = {
		.struct_size = sizeof table, .abi = LORA_BACKEND_ABI, .name = "onednn", .help = "F32 and BF16 GEMM by oneDNN, with packed weights",
		.open = onednn_open, .close = onednn_close, .score = onednn_score, .info = onednn_info, .supports = onednn_supports, .run = onednn_run,
		.weight_pack = lora__onednn_pack, .weight_free = lora__onednn_unpack, .weight_pack_as = lora__onednn_pack_as,
		.working_bytes = onednn_working_bytes,
	};
	if (!out) return LORA_E_ARGUMENT;
	if (host_min > LORA_BACKEND_ABI || host_max < LORA_BACKEND_ABI) return LORA_E_VERSION;
	*out = &table;
	return LORA_OK;
}
