/* Parts of the safetensors reader: walking the header, checking the layout. */
#ifndef LORA_FORMAT_SAFETENSORS_HEADER_H
#define LORA_FORMAT_SAFETENSORS_HEADER_H

#include "format/safetensors.h"
#include "format/safetensors_type.h"

/* One file while it is read. what is its path, quoted for messages. */
typedef struct lora__st_file {
	lora_context  *ctx;
	const char    *what;
	const char    *text; /* header */
	size_t         n;
	const uint8_t *data; /* data section */
	size_t         data_n;
	lora__tensors *set;  /* takes the tensors from index first on */
	size_t         first;
} lora__st_file;

/* Append the header's entries to set; each is checked alone. */
lora_status lora__st_header(lora__st_file *f);
/* Do the new tensors tile the data section? final: all entries were read; else only overlaps are looked for. */
lora_status lora__st_check_tiles(const lora__st_file *f, int final);
/* Sort by name into t->by_name; two equal names are an error. */
lora_status lora__st_sort_names(lora__tensors *t, const char *what);

#endif
