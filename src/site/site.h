/* Sites: adaptable weights W[out,in], y = x W^T + b, with the adapters attached to each. The narrow waist of the house: architectures make
 * sites, adapter kinds fill them, merges rewrite them, backends compute them; none of these knows another. */
#ifndef LORA_SITE_SITE_H
#define LORA_SITE_SITE_H

#include "backend/backend.h"
#include "base/map.h"
#include "lora/model.h"
#include "site/order.h"

struct lora__site;
struct lora__merged;

/* One call on one site or one of its slots. x, dx are [n,in]; y, dy are [n,out]; activations are of dtype real. */
typedef struct lora__site_call {
	lora_context *ctx;
	lora_dtype    real;
	int64_t       n;
	lora_view     x, y;       /* forward: y is overwritten (base) or added to (slots) */
	lora_view     dy, dx;     /* backward: dx.data NULL = not wanted */
	double        dx_beta;    /* base only: 0 overwrites dx, 1 adds to it; slots always add */
	char         *saved;      /* forward to backward, lora__site_saved_bytes(); NULL = nothing is kept and backward recomputes */
	int64_t       saved_rows; /* rows that saved was laid out for */
	char         *scratch;    /* lora__site_scratch_bytes() */
	int           train;      /* dropout is on */
	int           decode;     /* a step of generation: adapters may be taken in half precision where the weight is no better */
	uint64_t      key;        /* dropout key of this step */
	int64_t       first_row;  /* number of row 0 in the batch: dropout masks do not depend on how rows are cut */
	const int32_t *ids;       /* embeddings: the table's row for each row of y; there is no x */
	double        factor;     /* embeddings: of the rows (Gemma) */
	struct lora__few_jobs *few; /* where a product may wait for ... */
	int           later;      /* ... the next call, which reads the same x; few.h */
} lora__site_call;

/* A product of low rank: f a[n,r] b[r,columns]. */
typedef struct lora__pair { lora_view a, b; double f; } lora__pair;

enum { LORA__IDLE_MASKED = 1 /* lora_adapter_set_layers() */, LORA__IDLE_STRATEGY = 2 };

/* One adapter on one site. The adapter layer embeds this as the first member of its own struct. */
typedef struct lora__slot {
	const struct lora__slot_ops *ops;
	lora_adapter                *adapter;
	struct lora__site           *site;
	double                       attach_scale; /* of lora_adapter_attach() */
	int                          trainable;
	int                          merged; /* the delta is in the weight: the slot does not act */
	int                          idle;   /* LORA__IDLE_*: it does not act now, and gets no gradient; plans are made as if it did */
	int                          whole;  /* it stands for the base's product (and bias) instead of adding to it */
} lora__slot;

typedef struct lora__slot_ops {
	size_t (*saved_bytes)(const lora__slot *s, lora_dtype real, int64_t n);
	size_t (*scratch_bytes)(const lora__slot *s, lora_dtype real, int64_t n);
	lora_status (*forward)(lora__slot *s, const lora__site_call *c);  /* y += ... */
	lora_status (*prepare)(lora__slot *s); /* make what backward adds to, before anything is computed; NULL = nothing */
	lora_status (*backward)(lora__slot *s, const lora__site_call *c); /* gradients += ..., dx += ... */
	/* Rank of a share that is s B A and takes x as it is, so that W + s B A may stand for both; 0 = not so (dropout). NULL = never. */
	int64_t (*rank)(const lora__slot *s, int train);
	/* The part of forward (back 0) or backward (1) that comes before its last product: what is left is y, or dx, += f a b, which the site adds in the
	 * same pass as the base product. out->a.data NULL and nothing done: not for this call. NULL = never. */
	lora_status (*pair)(lora__slot *s, const lora__site_call *c, int back, lora__pair *out);
	lora_status (*gradients)(lora__slot *s, const lora__site_call *c); /* after a pair of backward, whose scratch is still there: gradients += ... */
	/* a slot that stands for the base overwrites y, and dx as dx_beta says */
	/* The whole delta as f a b with b's rows dense, for one pass over a weight; 0 = it is not such a product. NULL = never.
	 * half: in F16 rather than F32, a's rows in tiles (few.h), where there is memory for that. */
	int (*factors)(const lora__slot *s, int half, lora__pair *out);
	/* D[out,in] (F32 rows first .. first+n of it) += scale * own delta */
	lora_status (*delta)(const lora__slot *s, lora_context *ctx, double scale, int64_t first, int64_t n, float *d);
} lora__slot_ops;

/* Someone who takes the gradients of matrices in place of their adapters: of every product f * left^T right that a slot would add up, with
 * left[n,rows of the matrix] and right[n,its columns] for the rows first_row .. of the batch. bias: of a matrix with a bias, sums of left's columns. */
typedef struct lora__tap {
	lora_status (*take)(struct lora__tap *t, lora__slot *slot, int role, double f, lora_view left, lora_view right, int64_t first_row);
} lora__tap;

typedef struct lora__site {
	char        *name;
	int32_t      layer;
	int32_t      index;
	int64_t      out, in;
	lora_dtype   dtype;
	uint32_t     flags;       /* LORA_SITE_* */
	int          is_head;     /* output embedding or classifier: not part of all-linear */
	/* Where this weight is (part of) a bare parameter in transformers 5: target_parameters reaches it, all-linear does not. param NULL = it is
	 * the weight of a linear module. */
	char        *param;       /* "model.layers.0.mlp.experts.gate_up_proj", [param_n, param_out, in] */
	int32_t      param_at, param_n; /* which of the stacked experts */
	int64_t      param_row, param_out; /* rows param_row .. param_row + out of param_out */
	const void  *base;        /* the weight as opened, or the host's pointer */
	void        *data;        /* the weight as it is now: base, or own memory while something is merged */
	lora_view    bias;        /* data NULL = none */
	lora_view    base_bias;   /* the same as opened; they differ while a module trained as a whole is merged */
	lora__slot **chain;       /* attached slots in order of attachment */
	size_t       n_chain, cap_chain;
	struct lora__sites *all;
	void        *packed[2];   /* the backend's forms of W^T (forward) and W (backward), or NULL; see pack.c */
	const void  *packed_of;   /* data that they were made from */
	uint64_t     packed_bytes[2];
	int          pack_refused;
	int          pack_wanted; /* bits 1 << which of the forms that a trainer will ask for: they are made together */
	void        *spare;       /* memory of an undone merge, kept warm for the next one; as large as the weight */
	struct lora__merged *merged; /* merge layer: undo record and set of merged slots; NULL = nothing merged */
} lora__site;

/* What an adapter of virtual tokens must know of the model's graph. */
typedef struct lora__body {
	const char *name;               /* of the architecture; NULL = the host's own */
	int64_t     layers, heads, kv_heads, head_dim; /* of every block's attention; layers 0: the graph takes no virtual tokens */
	int64_t     width;              /* of the embedding */
	lora_view   table;              /* [vocabulary, width], dtype maybe in blocks */
	double      factor;             /* of the embedding */
} lora__body;

/* All sites of a model: the part of a model that adapters see. First member of struct lora_model. */
typedef struct lora__sites {
	lora_context *ctx;
	atomic_int    refs;
	lora__site  **list;
	size_t        n, cap;
	size_t        n_tables;   /* the last so many are embeddings: an adapter may be asked for there, nothing else sees them */
	lora__map     by_name;
	uint64_t      pack_limit, pack_bytes; /* memory that packed weights may take, and take now */
	lora_dtype    real;       /* dtype of activations and of adapter gradients */
	lora__tap    *tap;        /* NULL = gradients go to the adapters */
	int           rounded;    /* products of backward passes may be of numbers rounded to BF16 */
	uint64_t      generation; /* counts changes that make plans stale */
	void (*destroy)(struct lora__sites *s); /* frees the whole model */
	lora_status (*merged_rows)(struct lora__site *s, int64_t first, int64_t n, float *out); /* base and deltas before they are rounded (merge layer) */
	const struct lora__gguf_arch *gguf; /* names of the same model in GGUF, or NULL; heads for the order of its q and k rows */
	int64_t    heads, kv_heads;
	struct lora__virtual **virtuals; /* attached virtual tokens in order of attachment (site/virtual.h) */
	size_t     n_virtuals, cap_virtuals;
	lora__body body;
	const char *const *default_targets; /* PEFT's target_modules when none are given, NULL-ended; NULL = every site but the head */
} lora__sites;

lora_status lora__sites_add(lora__sites *s, const lora_site_info *d, lora__site **out);
void        lora__sites_free(lora__sites *s); /* sites and tables, not s itself */
void        lora__sites_retain(lora__sites *s);
void        lora__sites_release(lora__sites *s);
lora__site *lora__sites_find(const lora__sites *s, const char *name);
int32_t     lora__site_layer_of(const char *name); /* first number between dots, or -1 */

/* The backend's packed form of the weight for products with rows rows; which: 0 = W^T, 1 = W. NULL: use the weight as it is. */
const void *lora__site_packed(lora__site *s, lora_context *ctx, lora_dtype real, int which, int64_t rows);
/* Bytes of that form: those it takes, or those it would take beside taken bytes of other forms; 0 = none is or will be made. The backend is
 * asked by lora__pack_takes(), once for all sites of a dtype. */
uint64_t    lora__site_pack_bytes(const lora__site *s, const lora_context *ctx, lora_dtype real, int which, int64_t rows, uint64_t taken);
int         lora__site_packable(const lora__site *s, const lora_context *ctx, lora_dtype real, int64_t rows);
int         lora__pack_takes(lora_context *ctx, lora_dtype weight, lora_dtype real); /* 1 when the backend packs such weights */
void        lora__site_rest(const lora__site *s); /* give the pages of a mapped weight back; they return from the page cache when read */
void        lora__site_unpack(lora__site *s, lora_context *ctx); /* forget both forms: the weight has changed or goes away */

size_t    lora__site_bytes(const lora__site *s);
lora_view lora__site_weight(const lora__site *s); /* [out,in], strides say how it is stored */

/* Weights in blocks (site_quant.c): always [out,in]. Rows first .. first+n of the weight at data (s->data or s->base) as floats of type want. */
int         lora__site_is_quant(const lora__site *s);
void        lora__site_rows(const lora__site *s, const void *data, int64_t first, int64_t n, lora_dtype want, void *to);
size_t      lora__site_quant_scratch(const lora__site *s, lora_dtype real, int64_t n); /* 0 for other sites */
/* which 0: y = x W^T. which 1: dx = dx_beta dx + dy W. */
lora_status lora__site_quant_product(const lora__site *s, const lora__site_call *c, int which);

/* The gradient of a slot's matrix: grad += f left^T right; or the tap gets the three instead. */
lora_status lora__site_gradient(lora__slot *slot, const lora__site_call *c, int role, double f, lora_view left, lora_view right, lora_view grad);
lora_status lora__site_attach(lora__sites *all, lora__site *s, lora__slot *slot);
void        lora__site_detach(lora__sites *all, lora__site *s, lora__slot *slot);
lora_status lora__site_prepare(lora__site *s); /* memory for the gradients of all slots that train, so that a backward pass cannot fail half-way */
int         lora__site_trains(const lora__site *s); /* an attached slot wants gradients */

/* A stretch of rows and who acts on it. */
typedef struct lora__stretch { int64_t first, n; const lora_adapter *adapter; int all; } lora__stretch;
typedef struct lora__runs { const lora__stretch *run; int64_t n; } lora__runs; /* n = 0: every slot on every row */

/* The order of multiplications of a training step here, for one adapter of that rank on every row (order.c). */
lora__order lora__site_order(const lora__site *s, const lora_context *ctx, lora_dtype real, int64_t rows, int64_t rank, int *fixed);
size_t lora__site_saved_bytes(const lora__site *s, lora_dtype real, int64_t n);
size_t lora__site_scratch_bytes(const lora__site *s, lora_dtype real, int64_t n);
/* base: 1 = also the base product and bias (overwrites y); 0 = only add the adapters' share. Where a slot stands for the base, it overwrites y;
 * of several that do, the last attached. */
lora_status lora__site_forward(lora__site *s, const lora__site_call *c, lora__runs runs, int base);
lora_status lora__site_backward(lora__site *s, const lora__site_call *c, lora__runs runs, int base);

#endif
