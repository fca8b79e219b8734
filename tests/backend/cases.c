/* Arrays of a test case: layouts, guards, comparing. */
#include "backend/cases.h"

enum { GUARD = 64 };

static size_t offset(const lora_view *v, int64_t r, int64_t c) { return (size_t)(r * v->stride[0] + c * v->stride[1]) * lora__dtype_size(v->dtype); }

static double load(const unsigned char *p, lora_dtype type)
{
	double d;
	int32_t i;
	if (type == LORA_I32) return memcpy(&i, p, 4), i;
	lora__convert(&d, LORA_F64, p, type, 1);
	return d;
}

void case_view(test_case *t, int i, lora_dtype type, int64_t rows, int64_t cols, int layout, double size, int is_out)
{
	array *a = &t->a[i];
	int64_t rs = cols, cs = 1, es = (int64_t)lora__dtype_size(type);
	if (layout == LAYOUT_PADDED) rs = cols + 3;
	if (layout == LAYOUT_COLUMNS) rs = 1, cs = rows + 1;
	if (layout == LAYOUT_STRIDED) rs = 2 * cols + 1, cs = 2;
	int64_t n = rows && cols ? (rows - 1) * rs + (cols - 1) * cs + 1 : 0;
	a->bytes = (size_t)(n * es) + 2 * GUARD;
	a->mem = aligned_alloc(64, (a->bytes + 63) / 64 * 64), a->init = malloc(a->bytes), a->mask = calloc(a->bytes, 1);
	a->is_out = is_out;
	memset(a->init, 0xC3, a->bytes);
	t->call.v[i] = (lora_view){ a->mem + GUARD, type, cols == 1 && layout == LAYOUT_ROWS ? 1 : 2, { rows, cols, 1, 1 }, { rs, cs, 0, 0 } };
	if (t->call.n_views <= i) t->call.n_views = i + 1;
	for (int64_t r = 0; r < rows; r++)
		for (int64_t c = 0; c < cols; c++) {
			double x = size * case_random(t);
			size_t at = GUARD + offset(&t->call.v[i], r, c);
			if (type != LORA_I32) lora__convert(a->init + at, type, &x, LORA_F64, 1);
			memset(a->mask + at, 1, (size_t)es);
		}
	if (is_out) a->want = calloc((size_t)(rows * cols + 1), sizeof(double)), a->mag = calloc((size_t)(rows * cols + 1), sizeof(double));
}

void case_ids(test_case *t, int i, int64_t n, int64_t limit, int negative)
{
	case_view(t, i, LORA_I32, n, 1, LAYOUT_ROWS, 1, 0);
	for (int64_t r = 0; r < n; r++) {
		int32_t id = (int32_t)(check_random(&t->seed) % (uint64_t)limit);
		if (negative && r % 3 == 1) id = r % 2 ? -100 : -1;
		memcpy(t->a[i].init + GUARD + 4 * r, &id, 4);
	}
}

void case_free(test_case *t)
{
	for (int i = 0; i < 12; i++) free(t->a[i].mem), free(t->a[i].init), free(t->a[i].mask), free(t->a[i].want), free(t->a[i].mag);
	memset(t, 0, sizeof *t);
}

void case_reset(test_case *t)
{
	for (int i = 0; i < 12; i++)
		if (t->a[i].mem) memcpy(t->a[i].mem, t->a[i].init, t->a[i].bytes);
}

void case_poison(test_case *t, int i)
{
	const lora_view *v = &t->call.v[i];
	double nan = NAN;
	for (int64_t r = 0; r < v->size[0]; r++)
		for (int64_t c = 0; c < v->size[1]; c++) lora__convert(t->a[i].init + GUARD + offset(v, r, c), v->dtype, &nan, LORA_F64, 1);
}

double case_get(const test_case *t, int i, int64_t r, int64_t c) { return load(t->a[i].init + GUARD + offset(&t->call.v[i], r, c), t->call.v[i].dtype); }
double case_now(const test_case *t, int i, int64_t r, int64_t c) { return load(t->a[i].mem + GUARD + offset(&t->call.v[i], r, c), t->call.v[i].dtype); }

void case_want(test_case *t, int i, int64_t r, int64_t c, double want, double mag)
{
	int64_t cols = t->call.v[i].size[1];
	t->a[i].want[r * cols + c] = want, t->a[i].mag[r * cols + c] = mag;
}

static double epsilon(lora_dtype type) { return type == LORA_F64 ? 0x1p-52 : type == LORA_F32 ? 0x1p-23 : type == LORA_F16 ? 0x1p-10 : 0x1p-7; }
static double tiny(lora_dtype type) { return type == LORA_F16 ? 0x1p-24 : type == LORA_F64 ? 1e-300 : 0x1p-126; }

int case_verify(const test_case *t, lora_dtype real, char *why, size_t size)
{
	for (int i = 0; i < t->call.n_views; i++) {
		const array *a = &t->a[i];
		const lora_view *v = &t->call.v[i];
		if (!a->mem) continue;
		for (size_t b = 0; b < a->bytes; b++)
			if ((!a->mask[b] || !a->is_out) && a->mem[b] != a->init[b])
				return snprintf(why, size, "view %d: byte %ld, which is not of the output, was written", i, (long)b - GUARD), 0;
		for (int64_t r = 0; a->is_out && r < v->size[0]; r++)
			for (int64_t c = 0; c < v->size[1]; c++) {
				double got = case_now(t, i, r, c), want = a->want[r * v->size[1] + c], mag = a->mag[r * v->size[1] + c];
				double bound = epsilon(lora__wide(real)) * mag + 0.5 * epsilon(v->dtype) * fabs(want) + tiny(v->dtype);
				if (got == want || (isnan(got) && isnan(want))) continue;
				if (!(fabs(got - want) <= bound))
					return snprintf(why, size, "view %d [%lld,%lld]: %.9g, wanted %.9g: off by %.3g, bound %.3g", i, (long long)r, (long long)c, got,
					                want, fabs(got - want), bound), 0;
			}
	}
	return 1;
}

int case_make(test_case *t, lora_prim prim, lora_dtype real, int v)
{
	memset(t, 0, sizeof *t);
	t->call.struct_size = sizeof t->call, t->call.prim = prim;
	t->seed = check_seed(7) + (uint64_t)prim * 1000003 + (uint64_t)v;
	int made = prim == LORA_PRIM_ATTENTION || prim == LORA_PRIM_ATTENTION_BWD ? case_attention(t, prim, real, v)
	                                                                          : case_linear(t, prim, real, v) || case_neural(t, prim, real, v) ||
	                                                                                case_route(t, prim, real, v);
	if (!made) case_free(t);
	return made;
}
