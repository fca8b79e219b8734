/* Merging of byte pairs: the short and the long way give what the definition gives, and the long way is near linear. */
#include "tokenizer/bpe.h"
#include "work.h"

/* The definition: find the lowest rank, of its places the leftmost, join, begin again. */
static size_t by_definition(const lora__bpe_rules *r, int32_t *ids, size_t n)
{
	for (;;) {
		const lora__bpe_rule *best = NULL;
		size_t at = 0;
		for (size_t i = 0; i + 1 < n; i++) {
			const lora__bpe_rule *c = lora__bpe_rules_find(r, ids[i], ids[i + 1]);
			if (c && (!best || c->rank < best->rank)) best = c, at = i;
		}
		if (!best) return n;
		ids[at] = best->id;
		memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
		n--;
	}
}

START_TEST(equal_to_the_definition)
{
	lora_context *ctx = check_context(NULL);
	uint64_t seed = check_seed(7);
	int32_t a[400], b[400];
	lora__bpe_work w = { 0 };
	for (int round = 0; round < (check_quick() ? 40 : 300); round++) {
		lora__bpe_rules r = { 0 };
		int letters = 1 + (int)(check_random(&seed) % 4), tokens = letters, n_rules = (int)(check_random(&seed) % 40);
		check_ok(ctx, lora__bpe_rules_init(ctx, &r, 64, seed));
		for (int k = 0; k < n_rules; k++) { /* in any order, also rules of low rank for what is made late */
			int32_t x = (int32_t)(check_random(&seed) % (uint64_t)tokens), y = (int32_t)(check_random(&seed) % (uint64_t)tokens);
			if (lora__bpe_rules_find(&r, x, y)) continue;
			lora__bpe_rules_set(&r, x, y, (uint32_t)(check_random(&seed) % 1000 * 64 + (uint64_t)k), tokens++);
		}
		for (int word = 0; word < 20; word++) {
			size_t n = check_random(&seed) % (word & 1 ? 60 : 400), m;
			for (size_t i = 0; i < n; i++) a[i] = b[i] = (int32_t)(check_random(&seed) % (uint64_t)letters);
			m = by_definition(&r, a, n);
			check_ok(ctx, lora__bpe_merge(ctx, &r, &w, b, &n));
			ck_assert_msg(m == n && !memcmp(a, b, n * sizeof *a), "round %d, word %d: %zu ids, wanted %zu (seed %llu)", round, word, n, m,
				(unsigned long long)check_seed(7));
		}
		lora__free(ctx, r.cells);
	}
	lora__bpe_work_free(ctx, &w);
	lora_context_destroy(ctx);
}
END_TEST

static void one_letter(const char *json, size_t n, const char *letter, int64_t want)
{
	lora_context *ctx = check_context(NULL);
	lora_tokenizer *t = tok_from(ctx, json);
	size_t m = strlen(letter), count;
	char *text = malloc(n * m + 1);
	for (size_t i = 0; i < n; i++) memcpy(text + i * m, letter, m);
	lora_status st = lora_tokenizer_encode(t, text, n * m, 0, NULL, 0, &count);
	ck_assert_msg(st == LORA_E_LIMIT, "%s", lora_context_last_error(ctx));
	ck_assert_int_eq((int64_t)count, want);
	free(text);
	lora_tokenizer_destroy(t);
	lora_context_destroy(ctx);
}

/* T16: a text of one letter. A quadratic merge would need hours. */
START_TEST(t16_one_letter)
{
	size_t n = check_quick() ? 1u << 18 : 1u << 21;
	one_letter("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1,\"aaaa\":2,\"aaaaaaaa\":3},\"merges\":[\"a a\",\"aa aa\",\"aaaa aaaa\"]}}", n, "a",
		(int64_t)n / 8);
	one_letter("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}}", n, "a", (int64_t)n);
	one_letter("{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"<u>\",0],[\"a\",-1],[\"aaa\",-2]],\"unk_id\":0}}", n / 3 * 3, "a", (int64_t)n / 3);
	one_letter("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":0},\"unk_token\":\"[UNK]\"}}", n, "a", 1);
	/* a letter with 2^20 marks: canonical ordering must not be quadratic either */
	one_letter("{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"u\":0},\"unk_token\":\"u\"},\"normalizer\":{\"type\":\"NFC\"}}", n / 4, "\xcc\x81\xcc\xa3", 1);
	one_letter("{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"u\":0},\"unk_token\":\"u\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}", n, " ", 1);
}
END_TEST

TCase *tok_merge_case(void)
{
	TCase *c = tcase_create("merging");
	tcase_set_timeout(c, 120);
	tcase_add_test(c, equal_to_the_definition);
	tcase_add_test(c, t16_one_letter);
	return c;
}
