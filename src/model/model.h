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
	double *long_freq;  /* [rot/2] in place of inv_freq for passes with more than long_after positions (LongRoPE); NULL = none */
	int64_t long_after;
	double  factor;     /* multiplied into cos and sin (YaRN's attention factor) */
	char   *cos, *sin;  /* [n_positions, rot/2] in the wide type */
	int64_t n_positions;
	int     is_long;    /* the tables were made from long_freq */
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
	int          is_bias; /* ... as its bias */
	int          owned; /* data is on our heap */
} lora__weight;

/* What the head sees (space 0 of the graph) and what is behind it (space 1): tokens alone; one row per sequence and its tokens; decoder tokens and
 * encoder tokens. */
typedef enum { LORA__FORM_CAUSAL = 0, LORA__FORM_ENCODER, LORA__FORM_SEQ2SEQ } lora__form;

enum { LORA__PLAN_CACHE = 6 };

struct lora_model {
	lora__sites       s; /* must be first: adapters see this part */
	const struct lora__arch *arch; /* NULL for host-owned sites */
	lora__graph       graph;      /* as the architecture lists it */
	lora__graph       woven;      /* with the ops of attached virtual tokens, see lora__model_graph() */
	int               woven_is;   /* 0: there is none; 2: of keys, 1: of rows */
	json_t           *config;
	char             *path, *dir;
	lora__tensors     file;
	int               has_file;
	int               four_bits; /* a checkpoint of bitsandbytes: some weights are decoded when they are looked up */
	lora__gguf       *gguf;       /* metadata of the GGUF file that the model came from, or NULL; its tensors are in file */
	lora__weight     *weights;
	size_t            n_weights, cap_weights;
	lora__map         weight_names; /* to numbers in weights */
	lora_dtype        dtype;
	int64_t           vocab, hidden, layers, max_positions, kv_width, n_parameters;
	int64_t           eos, bos, pad;
	json_t           *ends;       /* eos_token_id of generation_config.json, or of config.json: a number or a list; may be NULL */
	int               tied;
	lora__rotary      rotary[LORA__ROTARIES];
	int64_t           table_positions; /* size of the learned position table; 0 = none */
	lora__plan        plans[LORA__PLAN_CACHE];
	int               n_plans;
	char             *arena;
	size_t            arena_bytes;
	struct lora__batchmem *batch, *source_batch; /* row tables of the last batch by space, reused */
	lora__form        form;
	int               has_head;      /* 0: hidden states only */
	int64_t           n_labels;      /* classes of a classifier, 0 = tokens are predicted */
	int64_t           n_types;       /* token types, 0 = the model has none */
	int64_t           position_base; /* added to positions that are not given */
	int               position_kept; /* behind virtual tokens positions count kept tokens only, not columns (OPT) */
	int               position_columns; /* such positions are columns, padding counted */
	int64_t           want_labels;   /* setting num_labels: make a classifier of an encoder; 0 = as config.json says */
	int64_t           decoder_start; /* first decoder token */
	void             *tables[2];     /* relative position biases of encoder and decoder */
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
	int         has_hidden;
	struct { char name[512]; size_t node, weight; } tables[2]; /* module, node and weight of each embedding, for lora__b_finish() */
	size_t      n_tables;
	int32_t     layer_base; /* added to layer for the unit of recomputation: a decoder's blocks are not its encoder's */
} lora__builder;

/* Member of family "architecture". params is the schema of config.json keys it reads. */
typedef struct lora__arch {
	lora__member       m;
	const char *const *model_types; /* config.json model_type values, NULL-ended */
	const char *const *targets;     /* PEFT's default target_modules for it, NULL-ended; empty where PEFT has none */
	void (*build)(lora__builder *b); /* read the config, name the sites, list the ops */
	const char *hf_class;            /* config.json architectures of a fresh model */
	const char *prefix;              /* of names in files that were saved with a head, "bert."; NULL = none to try */
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
void        lora__cfg_unknown(lora__builder *b, const char *key, const char *value); /* of a key that names one of several things */
int64_t     lora__cfg_activation(lora__builder *b, const char *key);
/* The same with default and range from the row of the architecture's schema. */
int64_t     lora__key_int(lora__builder *b, const char *key);
int64_t     lora__key_int_or(lora__builder *b, const char *key, int64_t fallback); /* fallback for null, and when absent without a default */
double      lora__key_float(lora__builder *b, const char *key);
double      lora__key_float_or_none(lora__builder *b, const char *key); /* 0 for null */
int         lora__key_bool(lora__builder *b, const char *key);
void        lora__key_only(lora__builder *b, const char *key, int wanted); /* a boolean of which one value is supported */
int64_t     lora__key_window(lora__builder *b);                   /* sliding_window; 0 for null */
/* Whether block n is "sliding_attention" by the list layer_types; def where there is no list. Any other type is refused. */
int         lora__key_sliding(lora__builder *b, int64_t n, int def);

/* Building blocks of a forward. Names are printf formats with the block number as only argument; values are ints, -1 after a failure. */
int32_t lora__b_embed(lora__builder *b, const char *name, double factor);
void    lora__b_finish(lora__builder *b); /* after the architecture's build */
int32_t lora__b_embed_of(lora__builder *b, const char *name, int64_t width, double factor); /* width other than hidden */
int32_t lora__b_rmsnorm(lora__builder *b, int32_t x, const char *name, double eps, double offset);
/* x is heads vectors of head_dim: a norm over each, with one weight[head_dim]. */
int32_t lora__b_headnorm(lora__builder *b, int32_t x, const char *name, int64_t heads, double eps, double offset);
/* Weight name.weight and, when bias is set, name.bias. */
int32_t lora__b_layernorm(lora__builder *b, int32_t x, const char *name, double eps, int bias);
int32_t lora__b_linear(lora__builder *b, int32_t x, const char *name, int64_t out, int bias);
int32_t lora__b_linear_turned(lora__builder *b, int32_t x, const char *name, int64_t out); /* Conv1D: stored [in,out], with bias */
int32_t lora__b_position(lora__builder *b, const char *name, int64_t positions, int64_t offset); /* table [positions + offset, hidden] */
/* Cut x into n_out pieces of these widths, group by group. */
void    lora__b_split(lora__builder *b, int32_t x, int64_t groups, int32_t n_out, const int64_t *widths, int32_t *out);
int32_t lora__b_rope(lora__builder *b, int32_t x, int64_t heads, int64_t head_dim);
int32_t lora__b_rope_of(lora__builder *b, int32_t x, int64_t heads, int64_t head_dim, int table);
int32_t lora__b_attention(lora__builder *b, int32_t q, int32_t k, int32_t v, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t window,
                          double scale, double softcap);
int32_t lora__b_gated(lora__builder *b, int32_t gate, int32_t up, int64_t activation);
int32_t lora__b_add(lora__builder *b, int32_t x, int32_t y);
void    lora__b_head(lora__builder *b, int32_t h, const char *name, const char *tied_to, double softcap);

/* What the blocks are made of (builder.c), for files that add some. suffix is put behind the name. */
lora__weight *lora__b_weight(lora__builder *b, const char *format, const char *suffix, int64_t d0, int64_t d1, double mean);
lora__site   *lora__b_site(lora__builder *b, const char *name, int64_t out, int64_t in, int bias);
lora__node   *lora__b_append(lora__builder *b, const lora__op *op, int32_t n_in, const int32_t *in, int32_t n_out, int64_t cols);
lora_view     lora__b_view(const lora__weight *w);
int64_t       lora__b_cols(const lora__builder *b, int32_t v);
void          lora__b_hidden(lora__builder *b, int32_t x); /* x is what lora_model_hidden() gives; the head's input unless said here */
void          lora__b_classifier(lora__builder *b, int32_t h, const char *name); /* head over m->n_labels classes, with bias */

/* Mixture of experts (build_moe.c). Names of files and, as fused, the module and parameters by which transformers 5 and PEFT call the same weights. */
typedef struct lora__moe {
	const char *router, *gate, *up, *down;         /* the last three with a second number, that of the expert */
	const char *router_module, *module;            /* parameters: router_module.weight, module.gate_up_proj, module.down_proj */
	int64_t     experts, chosen, normalise, activation, width;
} lora__moe;
int32_t lora__b_moe(lora__builder *b, int32_t x, const lora__moe *e);

void    lora__b_rotary(lora__builder *b, int64_t head_dim); /* reads rope_parameters, or rope_theta and rope_scaling */
/* The same where the architecture has its own keys. */
typedef struct lora__rope_keys {
	int         table;      /* number of the table */
	const char *layer_type; /* member of rope_parameters when that is one object per kind of layer; NULL = it is not */
	const char *theta, *partial; /* keys of the older spelling */
	double      theta_default, partial_default;
	int         plain;      /* rope_scaling is not for this table */
	int         yarn_is_long; /* "yarn" is an old name of longrope (Phi-3) */
} lora__rope_keys;
void    lora__b_rotary_as(lora__builder *b, int64_t head_dim, const lora__rope_keys *keys);

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
/* Tensor t decoded, if it is in four bits, as an owned weight (four_bits.c); *out NULL if it is not. */
lora_status lora__model_four_bits(lora_model *m, const lora__tensor *t, lora__weight **out);
int         lora__model_unties(const lora_model *m); /* the head is the embedding's, and something is merged into one of them: they are two weights now */
uint64_t    lora__model_digest(lora_model *m); /* over names, shapes and sampled pages of the base weights */

/* Rotary tables long enough for n positions. */
lora_status lora__rotary_reserve(lora_model *m, int64_t n);
void        lora__rotary_tables(const lora_model *m, lora__angles *out); /* of all tables */

/* One pass over a batch. */
typedef struct lora__pass {
	const lora_batch *batch;
	int       backward;
	int       checkpoint;   /* recompute blocks in backward */
	int       train;        /* dropout on */
	uint64_t  key;          /* dropout key of this step */
	double    grad_scale;   /* factor of the gradient of the summed token losses ... */
	int       mean;         /* ... divided by the number of labelled tokens when 1 */
	float    *logits;       /* [B,T,vocab], [B,n_labels] or [B,decoder T,vocab], or NULL */
	float    *hidden;       /* [B,T,hidden] or [B,decoder T,hidden]: what the head (an encoder's pooler) reads; or NULL */
	double    loss_sum;     /* out: sum over labelled tokens */
	int64_t   n_labels;     /* out */
	int64_t   n_rows;       /* out: tokens computed */
} lora__pass;
lora_status lora__model_pass(lora_model *m, lora__pass *p);
lora__rowinfo lora__model_rowinfo(const lora_model *m, const struct lora__batchmem *b, const lora__pass *p); /* what is known about the rows of one table */
/* Labelled tokens of a batch, as lora__model_pass() counts them. */
lora_status lora__batch_labels(lora_model *m, const lora_batch *batch, int64_t *n);

/* Decoding: one stretch of new tokens for one slot of the cache. */
typedef struct lora__feed {
	int64_t             slot, past;
	const int32_t      *tokens;
	int64_t             n;
	const lora_adapter *adapter;
	const int32_t      *source;   /* encoder tokens to be read in this pass, NULL = they are in the cache */
	int64_t             n_source; /* how many the slot has */
	int64_t             keys, rows; /* virtual tokens before it: keys, rows; computed with its first tokens (past 0) */
} lora__feed;
/* Compute the new tokens of all feeds; logits of each feed's last token to logits[k*vocab] (real converted to F32). */
lora_status lora__model_decode(lora_model *m, lora__cache *cache, const lora__feed *feeds, int64_t n_feeds, float *logits);

/* Virtual tokens (virtual_rows.c). */
void        lora__model_body(lora_model *m);                                   /* set m->s.body from the graph */
lora_status lora__model_graph(lora_model *m, const lora__graph **out);         /* the list that runs with what is attached now */
int64_t     lora__model_virtual(const lora_model *m, int where);               /* most virtual tokens that a sequence may have there */
/* The keys of space 1 for the rows of m->batch, into m->source_batch, and the cross tables of both. fresh[segment] 0: its virtual keys are in the
 * cache already; NULL = all are fresh. */
lora_status lora__model_keys(lora_model *m, const lora__runs *runs, const int64_t *fresh);

/* Row tables of a batch (batch.c). */
struct lora__batchmem {
	int32_t *ids, *positions, *columns, *types, *segments, *cross, *lead, *labels, *head_rows; /* lead: virtual rows at a segment's head */
	int64_t *logit_row; /* row of the caller's logits and hidden states */
	double  *loss;
	lora__stretch *run;
	lora__runs runs;
	size_t   cap_rows, cap_segments;
	int64_t  n_rows, n_segments, n_labels, max_position;
};
lora_status lora__batch_reserve(lora_model *m, struct lora__batchmem **which, size_t rows, size_t segments);
lora_status lora__batch_prepare(lora_model *m, const lora_batch *batch);
void        lora__batch_free(lora_model *m);
/* Rows and columns of the caller's logits and hidden states for a batch. */
lora_status lora__batch_logits(const lora_model *m, const lora_batch *a, int64_t *rows, int64_t *cols);
lora_status lora__batch_hidden(const lora_model *m, const lora_batch *a, int64_t *rows);
/* A plan for at least rows rows and source_rows of space 1 (from the cache, or made), and an arena that is large enough. */
lora_status lora__model_find_plan(lora_model *m, lora__plan_mode mode, int64_t rows, int64_t source_rows, const lora__plan **out); /* the plan alone */
lora_status lora__model_plan(lora_model *m, lora__plan_mode mode, int64_t rows, int64_t source_rows, const lora__plan **out);

#endif
