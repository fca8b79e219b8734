/* Weights in four bits as bitsandbytes' checkpoints have them (NF4, FP4; Dettmers et al. 2023, arXiv:2305.14314), decoded when the model is opened,
 * to the type that they had before, as bitsandbytes 0.50 decodes them:
 *   w[i] = quant_map[code i] * absmax[i / blocksize] in F32, rounded to that type; code 2i in the high half of byte i
 *   nested: absmax[b] = nested_quant_map[byte b] * nested_absmax[b / nested_blocksize] + nested_offset, each rounded to F32 */
#include <stdio.h>
#include <string.h>

#include "model/model.h"

enum { NAME = 512, PIECE = 4096 }; /* elements of a task */

typedef struct four {
	lora_model *m;
	const char *name;
	lora_status st;
	const uint8_t *codes, *map, *absmax, *nested, *nested_map;
	uint64_t n, block, nested_block;
	float offset;
	lora_dtype dtype;
	uint8_t *out;
} four;

/* Data of tensor name.part, which is of count numbers of a type. */
static const uint8_t *part(four *f, const char *name, lora_dtype type, uint64_t count)
{
	char full[NAME];
	snprintf(full, sizeof full, "%s.%s", f->name, name);
	const lora__tensor *t = lora__tensors_find(&f->m->file, full);
	if (t && t->dtype == type && t->bytes == count * lora__dtype_size(type)) return t->data;
	f->st = lora__fail_at(f->m->s.ctx, LORA_E_FORMAT, "model", name, -1, "tensor %s: %llu numbers of type %s are expected", lora__quote(full).text,
		(unsigned long long)count, lora__dtype_name(type));
	return NULL;
}

static float number(const uint8_t *list, uint64_t i)
{
	float x;
	memcpy(&x, list + 4 * i, sizeof x); /* the file may not align its data */
	return x;
}

static void decode(void *arg, int64_t task, int32_t thread)
{
	const four *f = arg;
	float w[PIECE], most = 0;
	uint64_t first = (uint64_t)task * PIECE, n = f->n - first < PIECE ? f->n - first : PIECE;
	(void)thread;
	for (uint64_t i = first, end = first; i < first + n; i++) {
		if (i == end) {
			uint64_t b = i / f->block;
			most = f->nested ? number(f->nested_map, f->absmax[b]) * number(f->nested, b / f->nested_block) + f->offset : number(f->absmax, b);
			end = i - i % f->block + f->block;
		}
		w[i - first] = number(f->map, f->codes[i / 2] >> (i % 2 ? 0 : 4) & 15) * most;
	}
	lora__convert(f->out + first * lora__dtype_size(f->dtype), f->dtype, w, LORA_F32, (size_t)n);
}

static uint64_t count_of(const json_t *v) { return json_is_integer(v) && json_integer_value(v) > 0 ? (uint64_t)json_integer_value(v) : 0; }

/* The state is JSON in a tensor of bytes. */
static lora_status read_state(four *f, const lora__tensor *t, const lora__tensor *state, int64_t shape[2])
{
	static const struct { const char *name; lora_dtype dtype; } types[] = { { "bfloat16", LORA_BF16 }, { "float16", LORA_F16 }, { "float32", LORA_F32 } };
	json_t *s = NULL;
	uint64_t most = f->m->s.ctx->limits.json_bytes; /* what is longer is cut off, and no JSON then */
	f->st = lora__json_parse(f->m->s.ctx, (const char *)state->data, state->bytes < most ? state->bytes : most, state->name, &s);
	if (f->st) return f->st;
	const char *type = json_string_value(json_object_get(s, "dtype"));
	for (size_t i = 0; i < 3 && type; i++)
		if (strcmp(type, types[i].name) == 0) f->dtype = types[i].dtype;
	for (size_t i = 0; i < 2; i++) shape[i] = (int64_t)count_of(json_array_get(json_object_get(s, "shape"), i));
	f->block = count_of(json_object_get(s, "blocksize"));
	const json_t *offset = json_object_get(s, "nested_offset");
	if ((offset && !json_is_number(offset)) || !f->dtype || !f->block || !lora__mul_u64((uint64_t)shape[0], (uint64_t)shape[1], &f->n) || !f->n || t->bytes != f->n / 2 + f->n % 2) {
		f->st = lora__fail_at(f->m->s.ctx, LORA_E_FORMAT, "model", state->name, -1, "%s: dtype, shape, blocksize or nested_offset is not that of the weight", lora__quote(state->name).text);
		goto done;
	}
	uint64_t blocks = (f->n - 1) / f->block + 1;
	f->map = part(f, "quant_map", LORA_F32, 16);
	if (offset && f->map) {
		f->offset = (float)json_number_value(offset);
		f->nested_block = count_of(json_object_get(s, "nested_blocksize"));
		f->nested = part(f, "nested_absmax", LORA_F32, f->nested_block ? (blocks - 1) / f->nested_block + 1 : 0);
		f->nested_map = f->nested ? part(f, "nested_quant_map", LORA_F32, 256) : NULL;
	}
	if (f->st == LORA_OK) f->absmax = part(f, "absmax", offset ? LORA_U8 : LORA_F32, blocks);
done:
	json_decref(s);
	return f->st;
}

lora_status lora__model_four_bits(lora_model *m, const lora__tensor *t, lora__weight **out)
{
	static const char *const kinds[] = { "nf4", "fp4" };
	const lora__tensor *state = NULL;
	char full[NAME];
	int64_t shape[2];
	for (int i = 0; i < 2 && !state; i++) {
		snprintf(full, sizeof full, "%s.quant_state.bitsandbytes__%s", t->name, kinds[i]);
		state = lora__tensors_find(&m->file, full);
	}
	*out = NULL;
	if (!state) return LORA_OK;
	four f = { .m = m, .name = t->name, .codes = t->data };
	lora_status st = read_state(&f, t, state, shape);
	if (st == LORA_OK && !(f.out = lora__alloc(m->s.ctx, f.n * lora__dtype_size(f.dtype)))) st = LORA_E_MEMORY;
	if (st == LORA_OK) {
		lora__parallel(m->s.ctx, (int64_t)((f.n - 1) / PIECE + 1), decode, &f);
		st = lora__model_add_weight(m, t->name, f.dtype, 2, shape, f.out, 1, out);
	}
	if (st) lora__free(m->s.ctx, f.out);
	return st;
}
