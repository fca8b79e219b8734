/* lora: a model directory with its linear layers in four bits, in the layout of bitsandbytes' checkpoints, as transformers loads them. Of a weight P:
 *
 *   P                  U8 [ceil(n / 2), 1]                    P.quant_map          F32 [16]
 *   P.absmax           F32 [ceil(n / 64)], or nested U8       P.nested_absmax      F32 [ceil(blocks / 256)]
 *   P.nested_quant_map F32 [256]                              P.quant_state.bitsandbytes__nf4   JSON as U8 */
#include "cli/fourbit.h"

#include <stdlib.h>
#include <string.h>

typedef struct piece {
	st_tensor t; /* first: pieces are sorted as tensors */
	int own;     /* name and data */
} piece;

typedef struct rewriter {
	const session *s;
	fourbit_type type;
	int nested;
	st_file file;
	piece *list;      /* what is written */
	size_t n;
	json_t *skipped;  /* modules with a matrix that stays as it is */
	float map[256];
	lora_dtype dtype; /* of the matrices before */
} rewriter;

static const char *type_text(fourbit_type t) { return t == FOURBIT_FP4 ? "fp4" : "nf4"; }

static float value_at(const st_tensor *t, size_t i)
{
	uint32_t bits = 0;
	float f;
	if (t->dtype == LORA_F32) return memcpy(&f, (const char *)t->data + 4 * i, 4), f;
	memcpy(&bits, (const char *)t->data + 2 * i, 2);
	if (t->dtype == LORA_BF16) {
		bits <<= 16;
		return memcpy(&f, &bits, 4), f;
	}
	/* F16: exponent and fraction into place, and the bias by a product, which does subnormal numbers too; what is beyond is infinity or NaN */
	uint32_t sign = (bits & 0x8000) << 16, rest = (bits & 0x7fff) << 13;
	int special = (bits & 0x7c00) == 0x7c00;
	memcpy(&f, &rest, 4);
	f *= 0x1p112f;
	memcpy(&rest, &f, 4);
	rest |= sign | (special ? 0x7f800000u : 0);
	return memcpy(&f, &rest, 4), f;
}

/* Takes data over. */
static int put(rewriter *r, const char *base, const char *rest, lora_dtype dtype, int64_t rows, int64_t cols, void *data)
{
	st_tensor *t = &r->list[r->n].t;
	t->name = data ? new_format("%s%s", base, rest) : NULL;
	if (!t->name) {
		free(data);
		return FAILED;
	}
	t->dtype = dtype;
	t->rank = cols ? 2 : 1;
	t->shape[0] = rows;
	t->shape[1] = cols;
	t->count = rows * (cols ? cols : 1);
	t->bytes = (uint64_t)t->count * dtype_size(dtype);
	t->data = data;
	r->list[r->n++].own = 1;
	return OK;
}

static void *copy_of(const void *p, size_t n)
{
	void *c = new_bytes(n);
	return c ? memcpy(c, p, n) : NULL;
}

static int put_state(rewriter *r, const st_tensor *t, float offset)
{
	char number[32] = "", key[64];
	for (int digits = 9; digits <= 17; digits++) {
		snprintf(number, sizeof number, "%.*g", digits, (double)offset);
		if (strtod(number, NULL) == (double)offset) break;
	}
	const char *dtype = t->dtype == LORA_F32 ? "float32" : t->dtype == LORA_F16 ? "float16" : "bfloat16";
	char *more = r->nested ? new_format(", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", \"nested_offset\": %s", FOURBIT_GROUP, number) : new_string("");
	char *text = more ? new_format("{\"quant_type\": \"%s\", \"blocksize\": %d, \"dtype\": \"%s\", \"shape\": [%lld, %lld]%s}", type_text(r->type), FOURBIT_BLOCK, dtype,
		(long long)t->shape[0], (long long)t->shape[1], more) : NULL;
	free(more);
	snprintf(key, sizeof key, ".quant_state.bitsandbytes__%s", type_text(r->type));
	return text ? put(r, t->name, key, LORA_U8, (int64_t)strlen(text), 0, text) : FAILED;
}

static int quantise(rewriter *r, const st_tensor *t)
{
	size_t n = (size_t)t->count, blocks = (n + FOURBIT_BLOCK - 1) / FOURBIT_BLOCK, groups = (blocks + FOURBIT_GROUP - 1) / FOURBIT_GROUP;
	float *w = new_array(n, sizeof *w), *absmax = new_array(blocks, sizeof *absmax), offset = 0;
	unsigned char *packed = new_bytes((n + 1) / 2);
	int status = w && absmax && packed ? OK : FAILED;
	for (size_t i = 0; i < n && !status; i++) {
		w[i] = value_at(t, i);
		if (!(w[i] - w[i] == 0)) status = fail(FAILED, r->file.path, "tensor \"%.80s\": element %zu is not finite", t->name, i);
	}
	if (!status) {
		fourbit_encode(r->type, w, n, packed, absmax);
		status = put(r, t->name, "", LORA_U8, (int64_t)(n + 1) / 2, 1, packed);
		packed = NULL;
	}
	if (!status) status = put(r, t->name, ".quant_map", LORA_F32, 16, 0, copy_of(fourbit_codes[r->type], sizeof fourbit_codes[0]));
	if (!status && r->nested) {
		unsigned char *codes = new_bytes(blocks);
		float *nested = new_array(groups, sizeof *nested);
		if (codes && nested) fourbit_nest(absmax, blocks, r->map, codes, nested, &offset);
		status = put(r, t->name, ".absmax", LORA_U8, (int64_t)blocks, 0, codes);
		if (!status) status = put(r, t->name, ".nested_absmax", LORA_F32, (int64_t)groups, 0, nested);
		else free(nested);
		if (!status) status = put(r, t->name, ".nested_quant_map", LORA_F32, 256, 0, copy_of(r->map, sizeof r->map));
	} else if (!status) {
		status = put(r, t->name, ".absmax", LORA_F32, (int64_t)blocks, 0, absmax);
		absmax = NULL;
	}
	if (!status) status = put_state(r, t, offset);
	free(w);
	free(absmax);
	free(packed);
	return status;
}

/* What transformers leaves as it is: the layer that gives the answer. */
static int is_head(const char *module)
{
	static const char *const heads[] = { "lm_head", "embed_out", "score", "classifier" };
	const char *dot = strrchr(module, '.'), *last = dot ? dot + 1 : module;
	for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
		if (!strcmp(last, heads[i]) || (!strncmp(module, heads[i], strlen(heads[i])) && module[strlen(heads[i])] == '.')) return 1;
	return 0;
}

static int is_linear(const rewriter *r, const st_tensor *t, const char *module)
{
	lora_site_info site = { .struct_size = sizeof site };
	int64_t at;
	if (t->rank != 2 || (t->dtype != LORA_F32 && t->dtype != LORA_F16 && t->dtype != LORA_BF16) || is_head(module)) return 0;
	if (lora_model_find_site(r->s->model, module, &at) || lora_model_site_info(r->s->model, at, &site)) return 0;
	return !(site.flags & LORA_SITE_EMBEDDING) && site.out == t->shape[0] && site.in == t->shape[1];
}

/* Larger elements first, as transformers needs them aligned; then by name. */
static int in_order(const void *a, const void *b)
{
	const st_tensor *x = a, *y = b;
	size_t n = dtype_size(x->dtype), m = dtype_size(y->dtype);
	return n != m ? (n < m ? 1 : -1) : strcmp(x->name, y->name);
}

static int rewrite_weights(rewriter *r, const char *path)
{
	int status = st_read(path, 0, &r->file);
	if (status) return status;
	if (!(r->list = new_array(r->file.n * 6, sizeof *r->list))) return FAILED; /* all zero */
	int64_t changed = 0;
	for (size_t i = 0; i < r->file.n && !status; i++) {
		const st_tensor *t = &r->file.tensors[i];
		size_t n = strlen(t->name);
		char *module = new_string(t->name);
		if (!module) return FAILED;
		int weight = n > 7 && !strcmp(module + n - 7, ".weight");
		if (weight) module[n - 7] = 0;
		if (weight && is_linear(r, t, module)) {
			status = quantise(r, t);
			r->dtype = t->dtype;
			changed++;
		} else {
			if (weight && t->rank == 2) json_array_append_new(r->skipped, json_string(module));
			r->list[r->n++].t = *t;
		}
		free(module);
	}
	if (!status && !changed) status = fail(FAILED, r->s->info.path, "has no linear layer that can be written in four bits");
	st_tensor *plain = status ? NULL : new_array(r->n, sizeof *plain);
	if (!plain) return FAILED;
	qsort(r->list, r->n, sizeof *r->list, in_order);
	for (size_t i = 0; i < r->n; i++) plain[i] = r->list[i].t;
	status = st_write(path, plain, r->n, "format", "pt");
	free(plain);
	return status;
}

static int rewrite_config(const rewriter *r, const char *path)
{
	const char *compute = r->dtype == LORA_F32 ? "float32" : r->dtype == LORA_F16 ? "float16" : "bfloat16";
	char *text = NULL;
	size_t n;
	outfile o;
	if (read_file(path, 1 << 24, &text, &n)) return FAILED;
	json_t *config = json_loadb(text, n, 0, NULL);
	free(text);
	json_array_append_new(r->skipped, json_string("lm_head")); /* a tied one is in no file */
	json_t *q = json_pack("{s:s, s:b, s:b, s:s, s:b, s:s, s:s, s:O, s:f, s:b, s:b}", "quant_method", "bitsandbytes", "load_in_4bit", 1, "load_in_8bit", 0,
		"bnb_4bit_quant_type", type_text(r->type), "bnb_4bit_use_double_quant", r->nested, "bnb_4bit_compute_dtype", compute, "bnb_4bit_quant_storage", "uint8",
		"llm_int8_skip_modules", r->skipped, "llm_int8_threshold", 6.0, "llm_int8_has_fp16_weight", 0, "llm_int8_enable_fp32_cpu_offload", 0);
	if (!config || !q || json_object_set_new(config, "quantization_config", q)) {
		json_decref(config);
		return fail(FAILED, path, "cannot be taken over");
	}
	text = json_dumps(config, JSON_INDENT(2));
	json_decref(config);
	if (!text) return fail_memory();
	int status = outfile_open(&o, path);
	if (!status && (fputs(text, o.f) == EOF || fputc('\n', o.f) == EOF)) {
		status = fail_system(path, "cannot write");
		outfile_abort(&o);
	} else if (!status) {
		status = outfile_commit(&o);
	}
	free(text);
	return status;
}

/* Models whose layers bitsandbytes' checkpoints have in another form: matrices the other way round, experts in one tensor, layers kept in F32. */
static int other_layout(const session *s)
{
	static const char *const names[] = { "gpt2", "mixtral", "qwen3_moe", "t5" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (!strcmp(s->info.architecture, names[i])) return 1;
	return 0;
}

int fourbit_rewrite(const session *s, const char *dir, fourbit_type type, int nested)
{
	rewriter r = { .s = s, .type = type, .nested = nested, .skipped = json_array() };
	char *weights = path_join(dir, "model.safetensors"), *config = path_join(dir, "config.json");
	int status = weights && config && r.skipped ? OK : FAILED;

	if (nested) fourbit_map(r.map);
	if (other_layout(s)) status = fail(FAILED, s->info.path, "the layers of \"%s\" have another form in bitsandbytes' files: not supported", s->info.architecture);
	if (!status) status = rewrite_weights(&r, weights);
	if (!status) status = rewrite_config(&r, config);
	for (size_t i = 0; i < r.n; i++) {
		if (!r.list[i].own) continue;
		free(r.list[i].t.name);
		free((void *)(uintptr_t)r.list[i].t.data);
	}
	st_free(&r.file);
	free(r.list);
	json_decref(r.skipped);
	free(weights);
	free(config);
	return status;
}
