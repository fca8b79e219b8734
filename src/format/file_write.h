/* Parts of durable writing that file_write.c and file_dir.c share. */
#ifndef LORA_FORMAT_FILE_WRITE_H
#define LORA_FORMAT_FILE_WRITE_H

#include "format/file.h"

#define LORA__SUFFIX 64 /* bytes of ".tmp.<pid>.<serial>.<time>" with terminator, at most */

void        lora__unique_suffix(char out[LORA__SUFFIX]);
lora_status lora__write_failed(lora_context *ctx, const char *path, const char *what, int error);
/* Create path, which must not exist (LORA_E_EXISTS, no error recorded), write, fsync, close; on error it is removed again. */
lora_status lora__write_new(lora_context *ctx, const char *path, const lora__piece *pieces, size_t n);
/* Descriptor of the folder that path is in. */
lora_status lora__parent_open(lora_context *ctx, const char *path, int *fd);
int         lora__folder_sync(int fd);
int         lora__rename_retry(const char *from, const char *to);

#endif
