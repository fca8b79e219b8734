/* Models: the struct behind lora_model, the descriptor of an architecture, and passes over a batch. */
#ifndef LORA_MODEL_MODEL_H
#define LORA_MODEL_MODEL_H

#include "format/gguf_names.h"
#include "format/safetensors.h"
#include "graph/graph.h"

/* Rotary table recipe; angles are computed in double. */
typedef struct lora__rotary {
	int64_t rot;        /* rotated part of a head; 0 = none */
	double *inv_freq;   /* [rot/2] */
	double  factor;     /* multiplied into cos and sin (YaRN's attention factor) */
	char   *cos, *sin;  /* [n_positions, rot/2] in the wide type */
	int64_t n_positions;
} lora__rotary;

/* A tensor of the model's file, as it is saved again. */
typedef struct lora__weight {
	char        *name;
	lora_dtype   dtype;
	int32_t      rank;
	int64_t      shape[LORA__TENSOR_RANK];
	const void  *data;
	uint64_t     bytes;
	int32_t      site;  /* site that this weight belongs to, or -1 */
	int          owned; /* data is on our heap */
} lora__weight;

enum { LORA__PLAN_CACHE = 6 };

struct lora_model {
	lora__sites       s; /* must be first: adapters see this part */
	const struct lora__arch *arch; /* NULL for host-owned sites */
	lora__graph       graph;
	json_t           *config;
	char             *path, *dir;
	lora__tensors     file;
	int               has_file;
	lora__gguf       *gguf;       /* metadata of the GGUF file that the model came from, or NULL; its tensors are in file */
	lora__weight     *weights;
	size_t            n_weights, cap_weights;
	lora_dtype        dtype;
	int64_t           vocab, hidden, layers, max_positions, kv_width, n_parameters;
	int64_t           eos, bos, pad;
	int               tied;
	lora__rotary      rotary;
	lora__plan        plans[LORA__PLAN_CACHE];
	int               n_plans;
	char             *arena;
	size_t            arena_bytes;
	struct lora__batchmem *batch; /* row tables of the last batch, reused */
	uint64_t          digest;     /* of the base weights; 0 = not yet computed */
};

/* While an architecture lists its ops. The first failure sticks and later calls do nothing, so architecture files need no checks. */
typedef struct lora__builder {
	lora_model *m;
	lora_status status;
	int32_t     layer;    /* current block, -1 outside */
	int         fresh;    /* make random weights instead of looking them up */
	lora_dtype  fresh_dtype;
	uint64_t    seed;
	double      init_range;
} lora__builder;

/* Member of family "architecture". params is the schema of config.json keys it reads. */
typedef struct lora__arch {
	lora__member       m;
	const char *const *model_types; /* config.json model_type values, NULL-ended */
	const char *const *targets;     /* PEFT's default target_modules for it, NULL-ended */
	void (*build)(lora__builder *b); /* read the config, name the sites, list the ops */
} lora__arch;

#define LORA__ARCH(name) extern const lora__arch lora__arch_##name;
#include "model/list.h"
#undef LORA__ARCH
extern const lora__arch *const lora__archs[]; /* NULL-ended */
extern const lora__member lora__model_member; /* settings of lora_model_open */

/* config.json values: the default when absent or null; a wrong type or range sets b->status and names the key. */
int64_t     lora__cfg_int(lora__builder *b, const char *key, int64_t def, int64_t min, int64_t max);
double      lora__cfg_float(lora__builder *b, const char *key, double def, double min, double max);
int         lora__cfg_bool(lora__builder *b, const char *key, int def);
const char *lora__cfg_string(lora__builder *b, const char *key, const char *def);
void        lora__cfg_unsupported(lora__builder *b, const char *key, const char *why);
int64_t     lora__cfg_activation(lora__builder *b, const char *key);

/* Building blocks of a forward. Names are printf formats with the block number as only argument; values are ints, -1 after a failure. */
int32_t lora__b_embed(lora__builder *b, const char *name, double factor);
int32_t lora__b_rmsnorm(lora__builder *b, int32_t x, const char *name, double eps, double offset);
int32_t lora__b_linear(lora__builder *b, int32_t x, const char *name, int64_t out, int bias);
int32_t lora__b_rope(lora__builder *b, int32_t x, int64_t heads, int64_t head_dim);
int32_t lora__b_attention(lora__builder *b, int32_t q, int32_t k, int32_t v, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window,
                          double scale, double softcap);
int32_t lora__b_gated(lora__builder *b, int32_t gate, int32_t up, int64_t activation);
int32_t lora__b_add(lora__builder *b, int32_t x, int32_t y);
void    lora__b_head(lora__builder *b, int32_t h, const char *name, const char *tied_to, double softcap);
void    lora__b_rotary(lora__builder *b, int64_t head_dim); /* reads rope_parameters, or rope_theta and rope_scaling */

/* A GGUF file as if it were a Hugging Face directory: m->config and m->file with its tensors under Hugging Face's names (gguf_open.c). */
lora_status lora__model_open_gguf(lora_model *m, const char *path);
lora_status lora__gguf_config(const lora__gguf *g, const lora__gguf_arch *a, json_t **out); /* metadata to config.json (gguf_config.c) */
lora_status lora__model_save_gguf(lora_model *m, const char *path, lora_dtype want, int force); /* want NONE: keep (gguf_save.c) */
void        lora__model_gguf_names(lora_model *m); /* set m->s.gguf and heads from the config */

lora_status lora__model_new(lora_context *ctx, lora_model **out);
lora_status lora__model_add_weight(lora_model *m, const char *name, lora_dtype dtype, int32_t rank, const int64_t *shape, const void *data,
                                   int owned, lora__weight **out);
/* The weight of this name: found already, or taken from the file; NULL when there is none. */
lora_status lora__model_weight(lora_model *m, const char *name, lora__weight **out);
uint64_t    lora__model_digest(lora_model *m); /* over names, shapes and sampled pages of the base weights */

/* Rotary tables long enough for n positions. */
lora_status lora__rotary_reserve(lora_model *m, int64_t n);

/* One pass over a batch. */
typedef struct lora__pass {
	const lora_batch *batch;
	int       backward;
	int       checkpoint;   /* recompute blocks in backward */
	int       train;        /* dropout on */
	uint64_t  key;          /* dropout key of this step */
	double    grad_scale;   /* factor of the gradient of the summed token losses ... */
	int       mean;         /* ... divided by the number of labelled tokens when 1 */
	float    *logits;       /* [B,T,vocab] or NULL */
	double    loss_sum;     /* out: sum over labelled tokens */
	int64_t   n_labels;     /* out */
	int64_t   n_rows;       /* out: tokens computed */
} lora__pass;
lora_status lora__model_pass(lora_model *m, lora__pass *p);
/* Labelled tokens of a batch, as lora__model_pass() counts them. */
lora_status lora__batch_labels(lora_model *m, const lora_batch *batch, int64_t *n);

/* Decoding: one stretch of new tokens for one slot of the cache. */
typedef struct lora__feed { int64_t slot, past; const int32_t *tokens; int64_t n; const lora_adapter *adapter; } lora__feed;
/* Compute the new tokens of all feeds; logits of each feed's last token to logits[k*vocab] (real converted to F32). */
lora_status lora__model_decode(lora_model *m, lora__cache *cache, const lora__feed *feeds, int64_t n_feeds, float *logits);

/* Row tables of a batch (batch.c). */
struct lora__batchmem {
	int32_t *ids, *positions, *columns, *segments, *labels, *head_rows;
	int64_t *logit_row;
	double  *loss;
	lora__stretch *run;
	lora__runs runs;
	size_t   cap_rows, cap_segments;
	int64_t  n_rows, n_segments, n_labels, max_position;
};
lora_status lora__batch_reserve(lora_model *m, size_t rows, size_t segments);
lora_status lora__batch_prepare(lora_model *m, const lora_batch *batch);
void        lora__batch_free(lora_model *m);
/* A plan for at least rows rows (from the cache, or made), and an arena that is large enough. */
lora_status lora__model_plan(lora_model *m, lora__plan_mode mode, int64_t rows, const lora__plan **out);

#endif
