/* Small random nets for the tests of posteriors: classifiers and causal models with adapters here and there, and their batches. */
#ifndef TESTS_POSTERIOR_RANDOM_NET_H
#define TESTS_POSTERIOR_RANDOM_NET_H

#include <check.h>

#include "check_alloc.h"
#include "golden.h"
#include "posterior/posterior.h"

enum { CASES = 6 };

typedef struct net {
	lora_model *m;
	lora_adapter *a;
	int64_t classes, n, length; /* sequences */
	int32_t ids[40 * 12], mask[40 * 12], labels[40 * 12];
	int64_t batch; /* sequences in a batch of get() */
	lora_settings *s;
	uint64_t seed;
} net;

static double uniform(uint64_t *seed) { return (double)(check_random(seed) >> 11) / 9007199254740992.0; }

static lora_settings *settings(const char *json)
{
	lora_settings *s;
	ck_ok(lora_settings_create(golden_ctx, &s));
	ck_ok(lora_settings_from_json(s, json, strlen(json)));
	return s;
}

static void scramble(lora_adapter *a, uint64_t *seed, double size)
{
	for (int64_t i = 0; i < lora_adapter_tensor_count(a); i++) {
		lora_tensor_info t;
		ck_ok(lora_adapter_tensor_info(a, i, &t));
		size_t n = (size_t)t.bytes / sizeof(float);
		float *v = malloc(t.bytes);
		for (size_t j = 0; j < n; j++) v[j] = (float)((2 * uniform(seed) - 1) * size);
		ck_ok(lora_adapter_tensor_write(a, i, v, t.bytes));
		free(v);
	}
}

/* Kind k of net: classifiers and causal models, with adapters here and there. */
static void net_open(net *t, int k, const char *dtype)
{
	static const char *const bert = "{\"hidden_size\":8,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"intermediate_size\":12,\"vocab_size\":30,"
		"\"max_position_embeddings\":16,\"type_vocab_size\":2,\"num_labels\":%d,\"initializer_range\":0.3,\"seed\":%d,\"dtype\":\"%s\"}";
	static const char *const llama = "{\"hidden_size\":8,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"intermediate_size\":12,\"vocab_size\":30,"
		"\"max_position_embeddings\":16,\"initializer_range\":%g,\"seed\":%d,\"dtype\":\"%s\"}";
	static const char *const gemma = "{\"hidden_size\":8,\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,\"intermediate_size\":12,\"vocab_size\":30,"
		"\"max_position_embeddings\":16,\"initializer_range\":%g,\"seed\":%d,\"dtype\":\"%s\",\"final_logit_softcapping\":3.0,\"attn_logit_softcapping\":null}";
	static const struct { const char *arch; int classes; const char *adapter; int64_t length; } kinds[CASES] = {
		{ "bert", 3, "{\"r\":2,\"lora_alpha\":5,\"target_modules\":[\"query\",\"value\"],\"modules_to_save\":[\"classifier\"],\"lora_dropout\":0.5}", 5 },
		{ "roberta", 2, "{\"r\":3,\"target_modules\":\"all-linear\",\"modules_to_save\":[\"classifier\"]}", 4 },
		{ "bert", 4, "{\"r\":2,\"use_rslora\":true,\"target_modules\":[\"intermediate.dense\",\"value\"]}", 1 },
		{ "llama", 3, "{\"r\":2,\"target_modules\":[\"q_proj\",\"down_proj\"]}", 6 },
		{ "llama", 2, "{\"r\":2,\"target_modules\":[\"v_proj\",\"lm_head\"]}", 3 },
		{ "gemma2", 3, "{\"r\":2,\"target_modules\":[\"v_proj\",\"o_proj\"]}", 4 },
	};
	char text[700];
	uint64_t seed = t->seed = check_seed(7) + (uint64_t)k;
	const char *arch = kinds[k].arch;
	t->classes = kinds[k].classes, t->length = kinds[k].length, t->n = 12, t->batch = 5;
	if (k < 3) snprintf(text, sizeof text, bert, (int)t->classes, 3 + k, dtype);
	else snprintf(text, sizeof text, k == 5 ? gemma : llama, 0.3, 3 + k, dtype);
	lora_settings *s = settings(text);
	ck_ok(lora_model_build(golden_ctx, arch, s, &t->m));
	lora_settings_destroy(s);
	s = settings(kinds[k].adapter);
	ck_ok(lora_adapter_create(t->m, "lora", s, &t->a));
	lora_settings_destroy(s);
	scramble(t->a, &seed, 0.5);
	ck_ok(lora_adapter_attach(t->a, 1.5));
	for (int64_t i = 0; i < t->n; i++)
		for (int64_t j = 0; j < t->length; j++) {
			int64_t at = i * t->length + j;
			t->ids[at] = (int32_t)(check_random(&seed) % 30);
			t->mask[at] = j < 1 || j < t->length - i % 3;
			t->labels[at] = -100;
			if (k < 3 && !j) t->labels[i] = (int32_t)(check_random(&seed) % (uint64_t)t->classes);
		}
	if (k < 3) for (int64_t i = 0; i < t->n; i++) t->labels[i] = (int32_t)(check_random(&seed) % (uint64_t)t->classes);
	else /* the answer is the last kept token, one of 4, 9, 11 */
		for (int64_t i = 0; i < t->n; i++) {
			int64_t last = t->length - 1 - i % 3 > 0 ? t->length - 1 - i % 3 : 1;
			for (int64_t j = 0; j < t->length; j++) t->mask[i * t->length + j] = j <= last;
			t->labels[i * t->length + last] = t->ids[i * t->length + last] = (int32_t[]){ 4, 9, 11 }[check_random(&seed) % (uint64_t)t->classes];
		}
}

static const char *class_setting(const net *t) { return t->m->n_labels ? "" : t->classes == 2 ? ",\"classes\":[4,9]" : ",\"classes\":[4,9,11]"; }

static void net_close(net *t)
{
	lora_adapter_destroy(t->a);
	lora_model_destroy(t->m);
}

static int32_t get(void *user, int64_t index, lora_batch *b)
{
	net *t = user;
	int64_t first = index * t->batch, width = t->m->n_labels ? 1 : t->length;
	b->n_sequences = t->n - first < t->batch ? t->n - first : t->batch, b->length = t->length;
	b->input_ids = t->ids + first * t->length, b->attention_mask = t->mask + first * t->length, b->labels = t->labels + first * width;
	return first >= t->n;
}

static lora_posterior *fit(net *t, const char *more)
{
	char text[400];
	lora_posterior *p;
	snprintf(text, sizeof text, "{\"fisher\":\"%s\"%s%s}", strstr(more, "seed") ? "sampled" : "exact", class_setting(t), more);
	lora_settings *s = settings(text);
	ck_ok(lora_posterior_fit(t->m, t->a, (t->n + t->batch - 1) / t->batch, get, t, s, &p));
	lora_settings_destroy(s);
	return p;
}

/* Predict all examples of the net at once. */
static void predict(lora_posterior *p, net *t, const char *json, double *prob, double *logits, double *cov)
{
	lora_settings *s = settings(json);
	lora_batch b = { .struct_size = sizeof b };
	t->batch = t->n;
	get(t, 0, &b);
	ck_ok(lora_posterior_predict(p, &b, s, prob, logits, cov, t->n * t->classes));
	lora_settings_destroy(s);
	t->batch = 5;
}

#endif
