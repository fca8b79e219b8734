/* Out of memory at every allocation of every public call: see torture/torture.h.
 *
 * LORA_TORTURE=all (make torture) sweeps every n; otherwise a random choice of n, a smaller one with LORA_QUICK. LORA_SEED repeats a choice. */
#include <check.h>

#include "torture/torture.h"

static const torture_call *const tables[] = { calls_base, calls_model, calls_adapter, calls_train, calls_text };
enum { N_TABLES = sizeof tables / sizeof *tables, MOST = 200000 };

static const torture_call *nth_call(int i)
{
	for (int t = 0; t < N_TABLES; t++)
		for (const torture_call *c = tables[t]; c->name; c++)
			if (i-- == 0) return c;
	return NULL;
}

static void start(world *w, const torture_call *c)
{
	lora_status st = world_make(w, c->needs);
	if (st == LORA_OK && c->prepare) st = c->prepare(w);
	ck_assert_msg(st == LORA_OK, "%s: the world could not be built: %s: %s", c->name, lora_status_name(st), lora_context_last_error(w->ctx));
}

static void finish(world *w, const torture_call *c, long n)
{
	world_free(w);
	ck_assert_msg(w->ca.live == 0, "%s: %ld blocks leaked after failing allocation %ld", c->name, w->ca.live, n);
	ck_assert_msg(!w->ca.broken, "%s: a block was damaged after failing allocation %ld (see stderr)", c->name, n);
}

/* What the call gives when nothing fails, and how many allocations it makes. */
static uint64_t clean_run(const torture_call *c, long *allocations)
{
	static world w;
	start(&w, c);
	check_alloc_arm(&w.ca, 0, 0);
	lora_status st = c->call(&w);
	*allocations = w.ca.calls;
	ck_assert_msg(st == LORA_OK, "%s: %s: %s", c->name, lora_status_name(st), lora_context_last_error(w.ctx));
	uint64_t digest = world_digest(&w);
	finish(&w, c, 0);
	return digest;
}

/* The call with its n-th allocation failing, then once more undisturbed. */
static void failing_run(const torture_call *c, long n, int forever, uint64_t want)
{
	static world w;
	start(&w, c);
	void    *made_before = w.made;
	uint64_t before = world_digest(&w);
	check_alloc_arm(&w.ca, n, forever);
	lora_status st = c->call(&w);
	long        refused = w.ca.failures;
	check_alloc_arm(&w.ca, 0, 0);
	if (st != LORA_OK) {
		ck_assert_msg(st == LORA_E_MEMORY, "%s, allocation %ld%s: %s (%s) instead of LORA_E_MEMORY", c->name, n, forever ? " and later" : "",
			lora_status_name(st), lora_context_last_error(w.ctx));
		ck_assert_msg(refused > 0, "%s: LORA_E_MEMORY although nothing was refused", c->name);
		ck_assert_msg(!w.made || w.made == made_before, "%s, allocation %ld: an object came out of a failed call", c->name, n);
		ck_assert_msg(!w.ctx || (c->needs & NO_CONTEXT) || *lora_context_last_error(w.ctx), "%s: no message", c->name);
		ck_assert_msg(world_digest(&w) == before, "%s, allocation %ld%s: the failed call changed an object", c->name, n, forever ? " and later" : "");
		w.made = made_before;
		st = c->call(&w);
		ck_assert_msg(st == LORA_OK, "%s, after failing allocation %ld: does not work again: %s: %s", c->name, n, lora_status_name(st),
			lora_context_last_error(w.ctx));
	}
	ck_assert_msg(world_digest(&w) == want, "%s, after failing allocation %ld%s: another result than without", c->name, n, forever ? " and later" : "");
	finish(&w, c, n);
}

START_TEST(sweep)
{
	const torture_call *c = nth_call(_i);
	const char         *mode = getenv("LORA_TORTURE");
	int                 all = mode && !strcmp(mode, "all"), most = check_quick() ? 3 : 12;
	uint64_t            seed = check_seed(2026) + (uint64_t)_i;
	long                n_allocations;
	uint64_t            want = clean_run(c, &n_allocations);
	ck_assert_msg(n_allocations < MOST, "%s: %ld allocations", c->name, n_allocations);
	if (all || n_allocations <= most) {
		for (long n = 1; n <= n_allocations; n++) failing_run(c, n, 0, want), failing_run(c, n, 1, want);
		return;
	}
	for (int k = 0; k < most; k++) { /* the first, the last and some between */
		long n = k == 0 ? 1 : k == 1 ? n_allocations : 1 + (long)(check_random(&seed) % (uint64_t)n_allocations);
		failing_run(c, n, k & 1, want);
	}
}
END_TEST

/* The same with a limit in bytes instead of a count: whatever the limit, the answer is LORA_OK or LORA_E_MEMORY, and nothing leaks. */
START_TEST(byte_limit)
{
	const torture_call *c = nth_call(_i);
	uint64_t            seed = check_seed(2027) + (uint64_t)_i;
	static world        w;
	for (int k = 0; k < (check_quick() ? 2 : 6); k++) {
		start(&w, c);
		void *made_before = w.made;
		w.ca.byte_limit = w.ca.live_bytes + 1 + (size_t)(check_random(&seed) % (k & 1 ? 200000 : 4000));
		lora_status st = c->call(&w);
		w.ca.byte_limit = 0;
		ck_assert_msg(st == LORA_OK || st == LORA_E_MEMORY, "%s: %s (%s)", c->name, lora_status_name(st), lora_context_last_error(w.ctx));
		if (st) w.made = made_before;
		finish(&w, c, -1);
	}
}
END_TEST

int main(void)
{
	int n_calls = 0;
	while (nth_call(n_calls)) n_calls++;
	Suite *s = suite_create("torture");
	TCase *a = tcase_create("allocations"), *b = tcase_create("bytes");
	tcase_set_timeout(a, 600), tcase_set_timeout(b, 120);
	tcase_add_loop_test(a, sweep, 0, n_calls);
	tcase_add_loop_test(b, byte_limit, 0, n_calls);
	suite_add_tcase(s, a), suite_add_tcase(s, b);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
