/* Adapters: the struct behind lora_adapter, and the descriptor of an adapter kind. A kind is one file plus one line in list.h. */
#ifndef LORA_ADAPTER_ADAPTER_H
#define LORA_ADAPTER_ADAPTER_H

#include "base/rng.h"
#include "format/peft.h"
#include "lora/adapter.h"
#include "site/virtual.h"

enum { LORA__MAX_ROLES = 4 };

/* How a site was chosen: by target_modules; by target_parameters, as a part of a bare parameter; by modules_to_save, to be trained as a whole. */
enum { LORA__CHOSEN = 1, LORA__PARAMETER = 2, LORA__WHOLE = 3 };

/* Sizes that a role's shape is made of. */
enum { LORA__DIM_RANK = 1, LORA__DIM_IN = 2, LORA__DIM_OUT = 3 };

/* One tensor that a kind keeps per site. leaf is PEFT's name behind the module path. */
typedef struct lora__role { const char *leaf; int8_t rank; int8_t dim[2]; } lora__role;

/* One adapter on one site. slot must be first: the site sees that part. Sites that are parts of one parameter share its tensors: param and grad
 * point to the first element of this site's share, stride says how it lies there. */
typedef struct lora__part {
	lora__slot slot;
	int        how;      /* LORA__CHOSEN, ... */
	int64_t    rank;
	double     scaling;  /* the adapter's own scale at this site: lora_alpha / r, or lora_alpha / sqrt(r) */
	double     dropout;
	float     *param[LORA__MAX_ROLES]; /* into the adapter's flat params */
	char      *grad[LORA__MAX_ROLES];  /* into the adapter's flat grads; wide type */
	int64_t    stride[LORA__MAX_ROLES][2];
	int32_t    tensor[LORA__MAX_ROLES]; /* numbers in the adapter's tensors, -1 = none */
	size_t     at[LORA__MAX_ROLES];     /* offset of the share in params */
} lora__part;

enum {
	LORA__KIND_LINEAR = 1, LORA__KIND_MERGEABLE = 2, LORA__KIND_IDENTITY_AT_INIT = 4,
	LORA__KIND_PRODUCTS = 8 /* its tensors are matrices whose gradients all go through lora__site_gradient() */
};

/* What a kind of virtual tokens (virtual_tokens.c) says of itself instead of roles per site. */
typedef struct lora__virtual_kind {
	int where; /* LORA__VIRTUAL_* */
	/* Fill in what PEFT takes from the model (num_layers, token_dim, ...), and refuse what does not fit it; from a file, every number is checked. */
	lora_status (*complete)(lora_context *ctx, const lora__body *body, lora_settings *s);
	int64_t (*width)(const lora_settings *s);    /* elements of a virtual token */
	int64_t (*vertices)(const lora_settings *s); /* NULL = 1 */
	int64_t (*hidden)(const lora_settings *s);   /* width of the encoder's hidden layer, 0 = the values are the parameters; NULL = 0 */
	lora_status (*init)(lora_adapter *a, lora__rng *r); /* fresh parameters */
} lora__virtual_kind;

/* Member of family "adapter". */
typedef struct lora__kind {
	lora__member         m;         /* params: every PEFT key that it reads or carries */
	const char          *peft_type; /* "LORA" */
	uint32_t             flags;
	const lora__role    *roles;     /* NULL leaf ends */
	const lora__slot_ops *ops;
	const lora__role     *table_roles; /* the same for embeddings, in the same order; NULL = the kind does not go there */
	const lora__slot_ops *table_ops;
	/* Set rank, scaling and dropout of one site from the settings. */
	lora_status (*configure)(lora_context *ctx, const lora_settings *s, lora__part *p);
	/* Fresh parameters from the site's own stream. */
	lora_status (*init)(lora_context *ctx, const lora_settings *s, lora__part *p, lora__rng *r);
	/* Settings that PEFT has and this library does not do yet, when set to something: LORA_E_UNSUPPORTED naming the key.
	 * opening: the adapter comes from a file, so how it was initialised matters only where it changed the base. */
	lora_status (*refuse)(lora_context *ctx, const lora_settings *s, int opening);
	const lora__virtual_kind *virtual_tokens; /* NULL = the kind works site by site; else the members about sites are NULL */
} lora__kind;

#define LORA__KIND(name) extern const lora__kind lora__kind_##name;
#include "adapter/list.h"
#undef LORA__KIND
extern const lora__kind *const lora__kinds[]; /* NULL-ended */
const lora__kind *lora__kind_find(const char *name);
const lora__kind *lora__kind_of_peft(const char *peft_type);

/* A parameter tensor of an adapter, in saving order; part: the first that uses it. */
typedef struct lora__ptensor { char *name; int64_t part; int32_t role, rank; int64_t shape[2]; size_t offset, n; } lora__ptensor;

struct lora_adapter {
	lora_context     *ctx;
	atomic_int        refs;
	lora__sites      *sites; /* holds a reference */
	const lora__kind *kind;
	lora_settings    *settings; /* all PEFT keys, as given or opened; unknown keys of a file are carried in extra */
	json_t           *extra;
	char             *name;
	uint64_t          id;
	lora__part       *parts;
	size_t            n_parts;
	lora__ptensor    *tensors;
	size_t            n_tensors;
	float            *params;  /* all parameters in one block, tensor after tensor */
	char             *grads;   /* gradients in the same order, NULL until something trains; dtype lora__wide(sites->real) */
	size_t            n_params;
	uint16_t         *halves;   /* params in F16, see halves.c; NULL = not made */
	double           *unhalve;  /* by tensor: the factor that makes them params again */
	int               no_halves; /* there was no memory for them */
	int               attached, merged, trainable;
	double            scale;       /* of the attachment */
	lora__virtual    *tokens;      /* kinds of virtual tokens; else NULL */
	char             *encoder;     /* memory of their encoder's pass */
	lora_status (*unmerge)(lora_adapter *a); /* set by the merge layer while merged: the last release calls it */
};

/* Sites that target_modules, exclude_modules, layers_to_transform, layers_pattern, target_parameters and modules_to_save choose, as PEFT does.
 * chosen[n sites] is filled with 0 or LORA__CHOSEN and its like. LORA_E_NOTFOUND with near names when nothing matches. */
lora_status lora__target_sites(lora_context *ctx, const lora__sites *sites, const lora_settings *s, char *chosen, size_t *n_chosen);
/* Module path by which PEFT names the tensors of site i, of which the caller knows how it is chosen. */
lora_status lora__target_module(const lora__sites *sites, const char *chosen, size_t i, lora__text *out);
/* What rank_pattern and alpha_pattern are held against. */
static inline const char *lora__part_key(const lora__part *p) { return p->how == LORA__PARAMETER ? p->slot.site->param : p->slot.site->name; }
/* What PEFT makes of settings before it uses them: with task_type SEQ_CLS the classifier's usual names join modules_to_save; "all-linear" on a
 * mixture of experts becomes names and, where the kind has target_parameters, the experts and the router, gate and up together with twice the rank. */
lora_status lora__target_complete(lora_context *ctx, const lora__sites *sites, const lora__kind *kind, lora_settings *s);
/* PEFT's pattern lookup for rank_pattern and alpha_pattern: the first key k with name ~ (.*\.)?(k)$; NULL when none. */
lora_status lora__pattern_value(lora_context *ctx, const json_t *map, const char *name, const json_t **out);
/* Full match of a regular expression (PCRE2, with limits against exponential patterns). */
lora_status lora__regex_match(lora_context *ctx, const char *pattern, const char *what, const char *text, int *yes);

/* Parts, tensors, parameter and gradient memory for the chosen sites; parameters zero. Takes settings over on success. */
lora_status lora__adapter_new(lora__sites *sites, const lora__kind *kind, lora_settings *settings, const char *name, const char *chosen,
                              lora_adapter **out);
void        lora__adapter_retain(lora_adapter *a);
/* The last release unmerges and detaches first. When even unmerging has no memory, the adapter stays alive with its model. */
void        lora__adapter_release(lora_adapter *a);
static inline int lora__part_is_table(const lora__part *p) { return p->how == LORA__CHOSEN && (p->slot.site->flags & LORA_SITE_EMBEDDING) != 0; }
extern const lora__slot_ops lora__whole_ops; /* of parts with LORA__WHOLE */
/* Put on the chain of every site, or none; and off again. */
lora_status lora__adapter_attach(lora_adapter *a, double scale);
void        lora__adapter_detach(lora_adapter *a);
void        lora__adapter_set_scale(lora_adapter *a, double scale);
/* Make the gradients (zero) when there are none yet: an adapter that only serves has none. */
lora_status lora__adapter_need_grads(lora_adapter *a);
/* To be called by whoever wrote to params of an adapter that may have been used already: what was made from them is dropped. */
void        lora__adapter_changed(lora_adapter *a);
/* Of a product of roles 1 and 0: let a pair be those in F16, role 1 turned, made when they are first asked for; left alone where there is no memory. */
void        lora__adapter_halves(lora__part *p, lora__pair *pair);
/* The layer of every part, -1 = trained as a whole; how many there are. Parts of one block of the model (the name up to its first number) are one layer. */
int32_t     lora__adapter_layers(const lora_adapter *a, int32_t *layer);
lora_status lora__adapter_set_layers(lora_adapter *a, const uint8_t *active); /* by layer; NULL = all act */
lora_status lora__adapter_prune(const lora_adapter *a, const uint8_t *keep, lora_adapter **out);
int64_t     lora__adapter_part_of(const lora_adapter *a, const lora__site *site); /* -1 = none */

/* An adapter without parts and parameters yet. */
lora_status lora__adapter_blank(lora__sites *sites, const lora__kind *kind, const char *name, lora_adapter **out);
/* The same for a kind of virtual tokens, whose settings are complete; encoded: with its encoder's tensors, where the settings ask for one. */
lora_status lora__virtual_new(lora__sites *sites, const lora__kind *kind, lora_settings *settings, const char *name, int encoded, lora_adapter **out);
lora_status lora__virtual_create(lora__sites *sites, const lora__kind *kind, lora_settings *settings, lora_adapter **out);
lora_status lora__virtual_load(lora__sites *sites, const lora__kind *kind, lora_settings *settings, const lora__tensors *tensors, const char *name,
                               int ignore_extra, lora_adapter **out);
/* prompt_embeddings as PEFT reads them, [tokens, width], where the adapter's own parameters are others: returned owned, else NULL. */
lora_status lora__virtual_flat(lora_adapter *a, lora_dtype dtype, char **out);
#define LORA__PROMPT_TENSOR "prompt_embeddings"
#define LORA__PROMPT_IDS "prompt_tuning_init_ids" /* between api and kind: tokens of prompt_tuning_init_text */
lora_status lora__set_int(lora_context *ctx, lora_settings *s, const char *key, int64_t value);

/* Opening a PEFT directory or its two files in memory, and saving one (adapter_open.c, adapter_save.c). */
lora_status lora__adapter_load(lora__sites *sites, const lora__peft_config *config, const lora__tensors *tensors, const lora_settings *options,
                               lora_adapter **out);
lora_status lora__adapter_store(lora_adapter *a, const char *path, const lora_settings *options);
/* llama.cpp's form, one GGUF file (adapter_gguf.c). */
lora_status lora__adapter_open_gguf(lora__sites *sites, const char *path, const lora_settings *options, lora_adapter **out);
lora_status lora__adapter_save_gguf(lora_adapter *a, const char *path, lora_dtype dtype);
extern const lora__member lora__adapter_open_member, lora__adapter_save_member;

#endif
