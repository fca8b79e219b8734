/* Saving and loading: one safetensors file with the bases and values of all factors, the prior precisions and row counts; what was fitted, of which base and which
 * adapter, as JSON in its metadata; and a digest over all. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "posterior/posterior.h"

#define FORMAT "liblora-posterior"
enum { PER_MATRIX = 4 };
static const char *const ends[PER_MATRIX] = { "output.basis", "output.values", "input.basis", "input.values" };

static void hex(uint64_t v, char out[17]) { snprintf(out, 17, "%016llx", (unsigned long long)v); }

/* Digest of an adapter's parameters. */
static lora_status adapter_digest(const lora_adapter *a, char out[17])
{
	lora__tensor *list = lora__calloc(a->ctx, a->n_tensors + 1, sizeof *list);
	if (!list) return LORA_E_MEMORY;
	for (size_t i = 0; i < a->n_tensors; i++) {
		const lora__ptensor *t = &a->tensors[i];
		list[i] = (lora__tensor){ .name = t->name, .dtype = LORA_F32, .rank = t->rank, .data = (const uint8_t *)(a->params + t->offset), .bytes = t->n * sizeof(float) };
		memcpy(list[i].shape, t->shape, sizeof t->shape);
	}
	hex(lora__tensors_digest(list, a->n_tensors), out);
	lora__free(a->ctx, list);
	return LORA_OK;
}

typedef struct image { lora__tensor *list; size_t n; char *names; double *numbers; } image;

static void image_free(lora_context *ctx, image *m)
{
	lora__free(ctx, m->list);
	lora__free(ctx, m->names);
	lora__free(ctx, m->numbers);
}

/* Names of all tensors in a posterior's file, behind each other in their order: of matrix i the four, then prior and rows. */
static lora_status make_image(const lora_posterior *p, image *m)
{
	size_t room = 16;
	for (size_t i = 0; i < p->n; i++) room += PER_MATRIX * (strlen(p->list[i].name) + 24);
	*m = (image){ .n = PER_MATRIX * p->n + 2, .names = lora__alloc(p->ctx, room), .numbers = lora__calloc(p->ctx, 2 * p->n, sizeof(double)) };
	m->list = lora__calloc(p->ctx, m->n, sizeof *m->list);
	if (!m->list || !m->names || !m->numbers) return LORA_E_MEMORY;
	char *at = m->names;
	for (size_t i = 0; i < p->n; i++) {
		const lora__matrix *w = &p->list[i];
		for (int k = 0; k < PER_MATRIX; k++) {
			const lora__factor *f = &w->side[k / 2];
			lora__tensor *t = &m->list[PER_MATRIX * i + (size_t)k];
			t->name = at;
			at += snprintf(at, strlen(w->name) + 24, "%s.%s", w->name, ends[k]) + 1;
			t->dtype = LORA_F64, t->rank = k % 2 ? 1 : 2;
			t->shape[0] = k % 2 ? f->k : f->d, t->shape[1] = k % 2 ? 0 : f->k;
			t->data = (const uint8_t *)(k % 2 ? f->values : f->basis), t->bytes = sizeof(double) * (uint64_t)(k % 2 ? f->k : f->d * f->k);
		}
		m->numbers[i] = w->prior, m->numbers[p->n + i] = (double)w->seen;
	}
	for (int k = 0; k < 2; k++)
		m->list[PER_MATRIX * p->n + (size_t)k] = (lora__tensor){ .name = k ? "rows" : "prior_precision", .dtype = LORA_F64, .rank = 1, .shape = { (int64_t)p->n },
			.data = (const uint8_t *)(m->numbers + (size_t)k * p->n), .bytes = sizeof(double) * p->n };
	return LORA_OK;
}

static lora_status state_text(const lora_posterior *p, lora__text *out)
{
	char base[17], adapter[17];
	hex(lora__model_digest(p->m), base);
	lora_status st = adapter_digest(p->a, adapter);
	if (st) return st;
	json_t *v = json_pack("{s:O, s:I, s:f, s:f, s:f, s:s, s:s}", "settings", p->settings->object, "examples", (json_int_t)p->examples, "log_likelihood", p->log_likelihood,
		"evidence", p->evidence, "scale", p->scale, "base", base, "adapter", adapter);
	if (!v) return lora__fail(p->ctx, LORA_E_MEMORY, "posterior", "out of memory");
	st = lora__json_dump(p->ctx, v, 0, out);
	json_decref(v);
	return st ? st : out->status;
}

static void digest_of(const lora__tensor *list, size_t n, const char *text, char out[17]) { hex(lora__hash64(text, strlen(text), lora__tensors_digest(list, n)), out); }

lora_status lora__posterior_save(const lora_posterior *p, const char *path)
{
	image m = { 0 };
	lora__text text;
	json_t *metadata = NULL;
	char digest[17];
	lora__text_init(&text, p->ctx);
	lora_status st = state_text(p, &text);
	if (st == LORA_OK) st = make_image(p, &m);
	if (st) goto done;
	digest_of(m.list, m.n, text.data, digest);
	if (!(metadata = json_pack("{s:s, s:s, s:s, s:s}", "format", FORMAT, "version", "1", "state", text.data, "digest", digest)))
		st = lora__fail(p->ctx, LORA_E_MEMORY, "posterior", "out of memory");
	else st = lora__safetensors_write(p->ctx, path, m.list, m.n, metadata);
done:
	json_decref(metadata);
	image_free(p->ctx, &m);
	lora__text_free(&text);
	return st;
}

/* ---- loading ---- */

static const char *meta(const lora__tensors *t, const char *key)
{
	const char *v = json_string_value(json_object_get(t->metadata, key));
	return v ? v : "";
}

static lora_status check_origin(lora_context *ctx, lora_model *m, const lora_adapter *a, const json_t *v)
{
	const char *base = json_string_value(json_object_get(v, "base")), *adapter = json_string_value(json_object_get(v, "adapter"));
	char here[17];
	hex(lora__model_digest(m), here);
	if (!base || strcmp(base, here)) return lora__fail(ctx, LORA_E_STATE, "posterior", "the posterior is of another base model");
	lora_status st = adapter_digest(a, here);
	if (st) return st;
	return adapter && !strcmp(adapter, here) ? LORA_OK : lora__fail(ctx, LORA_E_STATE, "posterior", "the posterior is of another adapter, or this one was trained further");
}

static lora_status read_state(lora_context *ctx, const lora__tensors *file, json_t **out)
{
	const char *text = meta(file, "state");
	char digest[17];
	if (strcmp(meta(file, "format"), FORMAT)) return lora__fail(ctx, LORA_E_FORMAT, "posterior", "this is no posterior of liblora");
	if (strcmp(meta(file, "version"), "1"))
		return lora__fail(ctx, LORA_E_UNSUPPORTED, "posterior", "version %s of the posterior is not known to this library", lora__quote(meta(file, "version")).text);
	digest_of(file->list, file->n, text, digest);
	if (strcmp(digest, meta(file, "digest"))) return lora__fail(ctx, LORA_E_FORMAT, "posterior", "the digest is wrong: the file was damaged");
	lora_status st = lora__json_parse(ctx, text, strlen(text), "state", out);
	if (st) return st;
	const json_t *v = *out, *examples = json_object_get(v, "examples");
	if (json_is_object(json_object_get(v, "settings")) && json_is_integer(examples) && json_integer_value(examples) > 0 && json_is_number(json_object_get(v, "log_likelihood")) &&
		json_is_number(json_object_get(v, "evidence")) && json_is_number(json_object_get(v, "scale")))
		return LORA_OK;
	return lora__fail(ctx, LORA_E_FORMAT, "posterior", "settings, examples, log_likelihood, evidence or scale is missing or out of range");
}

/* n numbers of a tensor, each in low .. high, to new memory. */
static lora_status take_numbers(lora_context *ctx, const lora__tensors *file, const char *name, int32_t rank, int64_t d0, int64_t d1, double low, double high, double **out)
{
	const lora__tensor *t = lora__tensors_find(file, name);
	if (!t) return lora__fail_at(ctx, LORA_E_FORMAT, "posterior", name, -1, "the posterior has no tensor %s", lora__quote(name).text);
	if (t->dtype != LORA_F64 || t->rank != rank || t->shape[0] != d0 || (rank == 2 && t->shape[1] != d1))
		return lora__fail_at(ctx, LORA_E_SHAPE, "posterior", name, -1, "%s is not F64 of the size that belongs here", lora__quote(name).text);
	if (!(*out = lora__calloc(ctx, (size_t)t->bytes + 1, 1))) return LORA_E_MEMORY;
	memcpy(*out, t->data, t->bytes);
	for (size_t i = 0; i < t->bytes / sizeof(double); i++)
		if (!((*out)[i] >= low && (*out)[i] <= high)) return lora__fail_at(ctx, LORA_E_FORMAT, "posterior", name, -1, "%s has values out of range", lora__quote(name).text);
	return LORA_OK;
}

static lora_status take_factor(lora_posterior *p, const lora__tensors *file, const lora__matrix *w, int side, lora__factor *f)
{
	lora__text name;
	lora__text_init(&name, p->ctx);
	lora__text_printf(&name, "%s.%s", w->name, ends[2 * side]);
	size_t stem = name.n - strlen(ends[2 * side]);
	f->d = side ? w->in : w->out;
	const lora__tensor *t = name.status ? NULL : lora__tensors_find(file, name.data);
	f->k = t && t->rank == 2 && t->shape[1] <= f->d ? t->shape[1] : 0;
	lora_status st = name.status ? name.status : take_numbers(p->ctx, file, name.data, 2, f->d, f->k, -1 - 1e-9, 1 + 1e-9, &f->basis);
	if (st == LORA_OK) {
		name.n = stem;
		lora__text_puts(&name, ends[2 * side + 1]);
		st = name.status ? name.status : take_numbers(p->ctx, file, name.data, 1, f->k, 0, 0, 1e300, &f->values);
	}
	lora__text_free(&name);
	return st ? st : lora__factor_narrow(p->ctx, f, lora__wide(p->m->s.real));
}

static lora_status take_all(lora_posterior *p, const lora__tensors *file, const json_t *v)
{
	double *prior = NULL, *rows = NULL;
	int64_t n = (int64_t)p->n;
	lora_status st = file->n == PER_MATRIX * p->n + 2 ? LORA_OK
		: lora__fail(p->ctx, LORA_E_SHAPE, "posterior", "the posterior has %zu tensors, %zu belong here", file->n, PER_MATRIX * p->n + 2);
	if (st == LORA_OK) st = take_numbers(p->ctx, file, "prior_precision", 1, n, 0, 1e-300, 1e300, &prior);
	if (st == LORA_OK) st = take_numbers(p->ctx, file, "rows", 1, n, 0, 0, 1e18, &rows);
	for (size_t i = 0; i < p->n && st == LORA_OK; i++) {
		lora__matrix *w = &p->list[i];
		w->prior = prior[i], w->seen = (int64_t)rows[i];
		for (int k = 0; k < 2 && st == LORA_OK; k++) st = take_factor(p, file, w, k, &w->side[k]);
	}
	lora__free(p->ctx, prior);
	lora__free(p->ctx, rows);
	p->examples = json_integer_value(json_object_get(v, "examples"));
	p->log_likelihood = json_number_value(json_object_get(v, "log_likelihood"));
	p->evidence = json_number_value(json_object_get(v, "evidence"));
	p->scale = json_number_value(json_object_get(v, "scale"));
	return st;
}

lora_status lora__posterior_load(lora_model *m, lora_adapter *a, const char *path, lora_posterior **out)
{
	lora_context *ctx = m->s.ctx;
	lora__tensors file;
	json_t *v = NULL;
	lora_posterior *p = NULL;
	lora_settings settings = { .ctx = ctx };
	lora_status st = lora__safetensors_read(ctx, path, &file);
	if (st) return st;
	st = read_state(ctx, &file, &v);
	if (st == LORA_OK) st = check_origin(ctx, m, a, v);
	if (st == LORA_OK) {
		settings.object = json_object_get(v, "settings");
		st = lora__posterior_new(m, a, &settings, &p);
	}
	if (st == LORA_OK) st = take_all(p, &file, v);
	if (st) {
		st = lora__fail_prefix(ctx, st, "%s: ", lora__quote(path).text);
		if (p) lora__posterior_free(p);
	} else *out = p;
	json_decref(v);
	lora__tensors_close(&file);
	return st;
}
