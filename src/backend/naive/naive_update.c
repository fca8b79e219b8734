/* ADAMW (Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2; with i0 = 1 Adam with L2 decay, arXiv:1412.6980) and SGD with momentum.
 * The order of operations is that of torch.optim's single-tensor form: decay, lerp of m, addcmul of v, sqrt(v) / sqrt(1 - beta2^t) + eps,
 * addcdiv with -lr / (1 - beta1^t). Elementwise, so any split gives the same bits. */
#include "backend/naive/naive.h"

typedef struct update_job { const lora_call *c; lora__naive_grid g; int momentum; } update_job;

static inline float  root_f32(float x) { return sqrtf(x); }
static inline double root_f64(double x) { return sqrt(x); }
#define root_avx2 root_f32
#define root_avx512 root_f32

#define NAIVE_NO_BF16
#define NAIVE_TEMPLATE "backend/naive/naive_update.inc"
#include "backend/naive/naive_each.h"

static lora__naive_grid flat(const lora_call *c)
{
	enum { PIECE = 8192 };
	int64_t n = c->v[0].size[0];
	lora__naive_grid g = { 1, n, 1, PIECE, 1, (n + PIECE - 1) / PIECE };
	return g;
}

lora_status lora__naive_adamw(lora__naive *self, const lora_call *c, lora_dtype real)
{
	update_job j = { c, flat(c), 0 };
	lora__naive_parallel(self, j.g.col_blocks, 4.0 * (double)j.g.d, PICK_WIDE(self, real, adamw), &j);
	return LORA_OK;
}

lora_status lora__naive_sgd(lora__naive *self, const lora_call *c, lora_dtype real)
{
	update_job j = { c, flat(c), c->n_views > 2 && c->v[2].data && c->f[1] != 0 };
	lora__naive_parallel(self, j.g.col_blocks, 2.0 * (double)j.g.d, PICK_WIDE(self, real, sgd), &j);
	return LORA_OK;
}
