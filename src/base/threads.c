/* The thread pool: threads - 1 workers that sleep until lora__parallel() has work. Every thread begins with an equal run of tasks, so that rows stay near
 * the core that had them last, and helps the others out when it is done: cores of shared machines differ by factors. What a task computes must not
 * depend on who runs it. The caller works too, and waits by spinning a short while before it sleeps: training steps have thousands of short loops. */
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "base/context.h"

enum { SPINS = 4000 };

/* Tasks next .. last - 1 are still to be taken. A cache line each. */
typedef struct share { _Alignas(64) atomic_int_fast64_t next; int64_t last; } share;
typedef struct worker { struct lora__pool *pool; pthread_t thread; int32_t index; } worker;

struct lora__pool {
	pthread_mutex_t      lock;
	pthread_cond_t       wake, done;
	atomic_uint_fast64_t round;   /* number of the loop being run; workers wait for it to change */
	atomic_int           pending; /* workers still busy with this round */
	atomic_int           stop;
	int                  busy;    /* a loop is running: nested ones go serially; only touched by the calling thread */
	share               *shares;  /* one for each thread */
	lora_task_fn         fn;
	void                *arg;
	int32_t              n_threads;
	worker              *workers;
};

static _Thread_local int inside; /* this thread is running a task: nested loops go serially */

int lora__nested(void) { return inside > 0; }

static void run_share(struct lora__pool *p, int32_t t)
{
	inside++;
	for (int32_t k = 0; k < p->n_threads; k++) {
		share *s = &p->shares[(t + k) % p->n_threads];
		for (int64_t i; (i = (int64_t)atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed)) < s->last;) p->fn(p->arg, i, t);
	}
	inside--;
}

static void *work(void *arg)
{
	worker *w = arg;
	struct lora__pool *p = w->pool;
	uint64_t seen = 0;
	for (;;) {
		for (int spin = 0; spin < SPINS && atomic_load_explicit(&p->round, memory_order_acquire) == seen; spin++) {
#if defined(__x86_64__) || defined(__i386__)
			__builtin_ia32_pause();
#endif
		}
		if (atomic_load(&p->round) == seen) {
			pthread_mutex_lock(&p->lock);
			while (atomic_load(&p->round) == seen) pthread_cond_wait(&p->wake, &p->lock);
			pthread_mutex_unlock(&p->lock);
		}
		seen = atomic_load(&p->round);
		if (atomic_load(&p->stop)) return NULL;
		run_share(p, w->index);
		if (atomic_fetch_sub(&p->pending, 1) == 1) {
			pthread_mutex_lock(&p->lock);
			pthread_cond_signal(&p->done);
			pthread_mutex_unlock(&p->lock);
		}
	}
}

static void start_round(struct lora__pool *p)
{
	pthread_mutex_lock(&p->lock);
	atomic_store(&p->pending, p->n_threads - 1);
	atomic_fetch_add(&p->round, 1);
	pthread_cond_broadcast(&p->wake);
	pthread_mutex_unlock(&p->lock);
}

void lora__parallel(lora_context *ctx, int64_t n_tasks, lora_task_fn fn, void *arg)
{
	struct lora__pool *p = ctx->pool;
	if (n_tasks <= 0) return;
	if (!p || inside || n_tasks == 1) {
		inside++;
		for (int64_t i = 0; i < n_tasks; i++) fn(arg, i, 0);
		inside--;
		return;
	}
	for (int32_t t = 0; t < p->n_threads; t++) {
		atomic_store_explicit(&p->shares[t].next, n_tasks * t / p->n_threads, memory_order_relaxed);
		p->shares[t].last = n_tasks * (t + 1) / p->n_threads;
	}
	p->fn = fn, p->arg = arg;
	start_round(p);
	run_share(p, 0);
	for (int spin = 0; spin < SPINS * 4 && atomic_load_explicit(&p->pending, memory_order_acquire); spin++) {
#if defined(__x86_64__) || defined(__i386__)
		__builtin_ia32_pause();
#endif
	}
	if (atomic_load(&p->pending)) {
		pthread_mutex_lock(&p->lock);
		while (atomic_load(&p->pending)) pthread_cond_wait(&p->done, &p->lock);
		pthread_mutex_unlock(&p->lock);
	}
}

lora_status lora__pool_create(lora_context *ctx, int32_t threads)
{
	if (threads <= 1) return LORA_OK;
	struct lora__pool *p = lora__zalloc(ctx, sizeof *p);
	if (!p) return LORA_E_MEMORY;
	p->workers = lora__calloc(ctx, (size_t)threads - 1, sizeof *p->workers);
	p->shares = p->workers ? lora__calloc(ctx, (size_t)threads, sizeof *p->shares) : NULL;
	if (!p->shares) {
		lora__free(ctx, p->workers);
		lora__free(ctx, p);
		return LORA_E_MEMORY;
	}
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->wake, NULL);
	pthread_cond_init(&p->done, NULL);
	p->n_threads = 1;
	ctx->pool = p;
	for (int32_t t = 1; t < threads; t++) {
		worker *w = &p->workers[t - 1];
		w->pool = p, w->index = t;
		if (pthread_create(&w->thread, NULL, work, w)) {
			lora__pool_destroy(ctx);
			return lora__fail(ctx, LORA_E_MEMORY, "base", "the system refused to start thread %d of %d", (int)t + 1, (int)threads);
		}
		p->n_threads = t + 1;
	}
	return LORA_OK;
}

void lora__pool_destroy(lora_context *ctx)
{
	struct lora__pool *p = ctx->pool;
	if (!p) return;
	atomic_store(&p->stop, 1);
	start_round(p);
	for (int32_t t = 1; t < p->n_threads; t++) pthread_join(p->workers[t - 1].thread, NULL);
	pthread_cond_destroy(&p->wake);
	pthread_cond_destroy(&p->done);
	pthread_mutex_destroy(&p->lock);
	lora__free(ctx, p->workers);
	lora__free(ctx, p->shares);
	lora__free(ctx, p);
	ctx->pool = NULL;
}

double lora__now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
