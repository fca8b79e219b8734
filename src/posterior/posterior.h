/* Laplace approximations of adapters: a Gaussian around the trained parameters, with one Kronecker product per matrix as curvature.
 * Conventions, kept everywhere in this folder: sums are raw (over rows, that is tokens, and over examples); of a matrix W[out,in] that saw R rows with
 * inputs a and output gradients g (of the summed loss) the curvature is H = (1/R) (sum g g^T) (x) (sum a a^T).
 * Source: Yang et al. 2024, arXiv:2308.13111; Martens and Grosse 2015, arXiv:1503.05671 (KFAC). */
#ifndef LORA_POSTERIOR_POSTERIOR_H
#define LORA_POSTERIOR_POSTERIOR_H

#include "adapter/adapter.h"
#include "lora/posterior.h"
#include "model/model.h"

/* ---- one Kronecker factor: sum x x^T over the rows x[d] that it is given (factor.c) ---- */

typedef struct lora__factor {
	const struct lora__factor_kind *kind;
	int64_t d, width;       /* size; columns of sum */
	double *sum;            /* [d,width] while it is summed up */
	char   *probe;          /* [d,width] of the wide type, when the kind wants random vectors */
	int64_t k;              /* the result: sum = basis diag(values) basis^T, largest first, values > 0 unless k = d */
	double *basis, *values; /* [d,k], [k] */
	char   *narrow;         /* the basis in the wide type of the model */
} lora__factor;

/* Member of family "factor". */
typedef struct lora__factor_kind {
	lora__member m;
	int          probes;
	int64_t (*width)(int64_t d, int64_t rank);
	lora_status (*add)(lora_context *ctx, lora__factor *f, lora_view x, double weight, lora_dtype wide); /* += weight x^T x, x[n,d] */
	lora_status (*finish)(lora_context *ctx, lora__factor *f, int64_t rank, lora_dtype wide); /* sum to basis and values */
} lora__factor_kind;

#define LORA__FACTOR(name) extern const lora__factor_kind lora__factor_##name;
#include "posterior/list.h"
#undef LORA__FACTOR
extern const lora__factor_kind *const lora__factors[]; /* NULL-ended */
lora_status lora__factor_find(lora_context *ctx, const char *name, const lora__factor_kind **out);
lora_status lora__factor_start(lora_context *ctx, lora__factor *f, const lora__factor_kind *kind, int64_t d, int64_t rank, uint64_t key, lora_dtype wide);
lora_status lora__factor_finish(lora_context *ctx, lora__factor *f, int64_t rank, lora_dtype wide);
lora_status lora__factor_narrow(lora_context *ctx, lora__factor *f, lora_dtype wide); /* make narrow */
void        lora__factor_free(lora_context *ctx, lora__factor *f);
/* Bytes while it is summed up, and of the result. */
void        lora__factor_bytes(const lora__factor_kind *kind, int64_t d, int64_t rank, lora_dtype wide, uint64_t *summing, uint64_t *kept);

/* ---- from logits to probabilities (predictive.c) ---- */

/* Of one example: logits f[n]; cov[dirs,dirs] of the coordinates in basis[n,dirs], f ~ N(f, basis cov basis^T); noise[samples,dirs] standard normal. */
typedef struct lora__gauss { int64_t n, dirs; const double *basis, *f, *noise; int64_t samples; double *cov, *scratch; /* [4 n] */ } lora__gauss;

/* Member of family "predictive". */
typedef struct lora__predictive {
	lora__member m;
	int          every; /* 1: wants the whole covariance, basis = I; 0: differences of logits do */
	int          draws; /* with an error of sampling, far above what rounded Jacobians bring in */
	void (*run)(const lora__gauss *g, double *p);
} lora__predictive;

#define LORA__PREDICTIVE(name) extern const lora__predictive lora__predictive_##name;
#include "posterior/list.h"
#undef LORA__PREDICTIVE
extern const lora__predictive *const lora__predictives[]; /* NULL-ended */
lora_status lora__predictive_find(lora_context *ctx, const char *name, const lora__predictive **out);
void        lora__softmax(const double *f, int64_t n, double *p);

/* ---- passes over a batch: one forward, then backward passes with gradients of our own (probe.c) ----
 * Several directions go back in one pass when the batch is small: row r of copy c is row c * stride + r. */

typedef struct lora__probe {
	lora_context  *ctx;
	lora_model    *m;
	int64_t        classes;
	const int32_t *ids;      /* tokens that stand for the classes; NULL: the model is a classifier */
	lora__tap     *tap;
	int            rounded;  /* the backward passes' products may be of numbers rounded to BF16 */
	int64_t        directions, copies; /* in all (0: as many as come); in a pass (0: one), from lora__probe_copies() */
	/* turn the logits f[classes] of an example into their gradient g */
	void         (*direction)(void *self, int64_t example, int64_t pass, const double *f, double *g);
	void          *self;
	/* of the batch */
	int64_t        n;                   /* examples: sequences that have tokens (and, where wanted, labels) */
	int32_t       *sequence, *label;    /* [n] number in the batch; class, -1 = none */
	int32_t       *first[2], *rows[2];  /* [n] rows of an example, by space */
	double        *logits;              /* [n,classes], after the first backward pass */
	int64_t        pass;     /* direction of the first copy */
	int64_t        stride[2]; /* rows of a copy, by space */
	/* its own */
	size_t         cap, cap_mask;
	int32_t       *mask;
	double        *grad; /* [classes] */
	const lora__plan *plan;
	lora__rowinfo  info, source, one, under; /* of all copies; of the first */
	lora__ownloss  own;
	lora_status    trouble;
} lora__probe;

/* m, classes, ids, tap, direction and self are set by the caller, all else zero. */
lora_status lora__probe_forward(lora__probe *p, const lora_batch *batch, int need_labels);
/* How many of the directions fill a pass over such a batch; what predicting with them needs memory for. */
int64_t     lora__probe_copies(const lora_model *m, int64_t cells, int64_t directions);
/* Backward pass for directions p->pass and on, down to and with the site that comes last in it. */
lora_status lora__probe_backward(lora__probe *p, const lora__site *last);
void        lora__probe_free(lora__probe *p);

/* ---- the posterior ---- */

typedef struct lora__matrix {
	lora__part  *part;
	const char  *name;    /* of the adapter's tensor */
	int32_t      role;
	int8_t       bias;    /* the last column of W[out,in] is the bias, its input is 1 */
	int8_t       head;    /* rows are examples */
	int8_t       space;
	int64_t      out, in, seen; /* rows */
	lora__factor side[2]; /* of output gradients, of inputs */
	double       norm2;   /* |W|^2 */
	double       prior;   /* precision */
} lora__matrix;

struct lora_posterior {
	lora_context *ctx;
	lora_model   *m;
	lora_adapter *a;      /* holds a reference */
	lora_settings *settings; /* of the fit */
	lora__matrix *list;
	size_t        n;
	int32_t      *index;  /* [n_parts * LORA__MAX_ROLES] of a matrix, -1 = none */
	const lora__site *last; /* where backward passes may end */
	int64_t       classes, examples;
	int32_t      *ids;    /* [classes], NULL of a classifier */
	double        log_likelihood, evidence, scale; /* scale: of the attachment when it was fitted */
	lora__probe   probe;
	lora__tap     tap;
	struct lora__variance *kept; /* of predictions, with its memory; NULL = none yet */
};

extern const lora__member lora__posterior_fit_member, lora__posterior_predict_member;

lora_status lora__posterior_new(lora_model *m, lora_adapter *a, const lora_settings *settings, lora_posterior **out); /* settings are checked and copied */
void        lora__posterior_free(lora_posterior *p);
lora_status lora__posterior_usable(const lora_posterior *p); /* the adapter is attached, alone in training, not merged */
lora_status lora__posterior_fit(lora_posterior *p, int64_t n, lora_batch_fn get, void *user);
lora_status lora__posterior_get(const lora_posterior *p, lora_batch_fn get, void *user, int64_t i, lora_batch *out);
lora_status lora__posterior_predict(lora_posterior *p, const lora_batch *batch, const lora_settings *settings, double *probability, double *logits, double *covariance);
lora_status lora__posterior_estimate(lora_posterior *p, int64_t n_sequences, int64_t length, lora_posterior_memory *out);
lora_status lora__posterior_save(const lora_posterior *p, const char *path);
lora_status lora__posterior_load(lora_model *m, lora_adapter *a, const char *path, lora_posterior **out);
/* View of the inputs of a matrix with the column of ones behind; *own is new memory or NULL. */
lora_status lora__posterior_inputs(lora_context *ctx, const lora__matrix *w, lora_view right, lora_view *out, char **own);
static inline lora__matrix *lora__posterior_matrix(lora_posterior *p, const lora__slot *s, int role)
{
	if (s->adapter != p->a) return NULL;
	int32_t i = p->index[((const lora__part *)(const void *)s - p->a->parts) * LORA__MAX_ROLES + role];
	return i < 0 ? NULL : &p->list[i];
}

/* ---- prior precision (prior.c) ---- */
/* sum_ij log(1 + h_ij / prior) and sum_ij h_ij / (h_ij + prior) of a matrix. */
void        lora__prior_sums(const lora__matrix *w, double prior, double *logdet, double *used);
double      lora__prior_evidence(const lora_posterior *p); /* with the matrices' priors; without log_likelihood */
void        lora__prior_by_evidence(lora_posterior *p, int per_matrix);
lora_status lora__prior_by_validation(lora_posterior *p, int64_t first, int64_t n, lora_batch_fn get, void *user);

/* ---- variances of logits (variance.c) ---- */
typedef struct lora__variance {
	lora_posterior *p;
	int64_t dirs;        /* directions in the space of logits */
	int     one;         /* a single one, of each example its own: towards its most likely class. basis is not for it */
	int     rounded;     /* as of probe */
	double *basis;       /* [classes,dirs] */
	int64_t n, cap;      /* examples */
	char   *taken;       /* by matrix: in this batch */
	char  **jac;         /* by matrix: [n,dirs,small,big] of the wide type */
	char   *shared;      /* the same of one matrix after another, when a single pass has all directions; those of heads come in pieces and have their own */
	double **t, **rest;  /* by matrix: [n,dirs,k_small k_big], [n,dirs,dirs] */
	lora__tap tap;
} lora__variance;
lora_status lora__variance_open(lora__variance *v, lora_posterior *p, int every);
/* p->kept for predictions, as it is if it was for such. */
lora_status lora__variance_keep(lora_posterior *p, int every, int one);
void        lora__variance_drop(lora_posterior *p);
lora_status lora__variance_run(lora__variance *v, const lora_batch *batch, int need_labels); /* p->probe holds the examples then */
void        lora__variance_at(const lora__variance *v, int64_t example, const double *prior, double *cov); /* prior NULL = the matrices' own, else one for all */
void        lora__variance_free(lora__variance *v);

#endif
