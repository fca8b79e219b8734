/* Making GGUF images byte by byte, right or wrong. For tests only. */
#ifndef TESTS_GGUF_IMAGE_H
#define TESTS_GGUF_IMAGE_H

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "format/gguf.h"

typedef struct image { uint8_t *p; size_t n, cap; int big; } image;

static inline void im_bytes(image *m, const void *b, size_t n)
{
	if (m->n + n > m->cap) m->p = realloc(m->p, m->cap = 2 * (m->n + n));
	if (n) memcpy(m->p + m->n, b, n);
	m->n += n;
}
static inline void im_u(image *m, uint64_t v, size_t bytes)
{
	uint8_t b[8];
	for (size_t i = 0; i < bytes; i++) b[i] = (uint8_t)(v >> (8 * (m->big ? bytes - 1 - i : i)));
	im_bytes(m, b, bytes);
}
static inline void im_s(image *m, const char *s) { im_u(m, strlen(s), 8), im_bytes(m, s, strlen(s)); }
static inline void im_head(image *m, uint64_t tensors, uint64_t keys) { im_bytes(m, "GGUF", 4), im_u(m, 3, 4), im_u(m, tensors, 8), im_u(m, keys, 8); }
static inline void im_key(image *m, const char *key, uint32_t type) { im_s(m, key), im_u(m, type, 4); }
static inline void im_int(image *m, const char *key, uint32_t v) { im_key(m, key, LORA__GGUF_U32), im_u(m, v, 4); }
static inline void im_text(image *m, const char *key, const char *s) { im_key(m, key, LORA__GGUF_STRING), im_s(m, s); }
static inline void im_f(image *m, const char *key, float v)
{
	uint32_t u;
	memcpy(&u, &v, 4);
	im_key(m, key, LORA__GGUF_F32), im_u(m, u, 4);
}
static inline void im_array(image *m, const char *key, uint32_t elem, uint64_t n) { im_key(m, key, LORA__GGUF_ARRAY), im_u(m, elem, 4), im_u(m, n, 8); }
static inline void im_tensor(image *m, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t offset)
{
	im_s(m, name), im_u(m, n_dims, 4);
	for (uint32_t i = 0; i < n_dims && i < 8; i++) im_u(m, ne[i], 8);
	im_u(m, type, 4), im_u(m, offset, 8);
}
static inline void im_matrix(image *m, const char *name, uint64_t cols, uint64_t rows, uint32_t type, uint64_t offset)
{
	uint64_t ne[2] = { cols, rows };
	im_tensor(m, name, 2, ne, type, offset);
}
static inline void im_pad(image *m, size_t to)
{
	while (m->n % to) im_bytes(m, "", 1);
}
static inline void im_data(image *m, size_t n)
{
	im_pad(m, 32);
	for (size_t i = 0; i < n; i++) im_u(m, i & 0xff, 1);
}

#endif
