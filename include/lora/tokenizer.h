/* liblora: tokenizers: text to ids and back. */
#ifndef LORA_TOKENIZER_H
#define LORA_TOKENIZER_H

#include "lora/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
	LORA_TOKENIZE_SPECIAL = 1, /* add what the post-processor adds (BOS, ...) */
	LORA_TOKENIZE_CONTROL = 2  /* find control tokens in the text also where a tokenizer.model or GGUF takes them as text */
};

/* Open a tokenizer: an HF directory, or one file of tokenizer.json, tokenizer.model (SentencePiece), vocab.json (merges.txt beside it) or
 * vocab.txt (BERT). In a directory the first of these that is there counts; tokenizer_config.json, special_tokens_map.json, added_tokens.json
 * and chat_template.jinja beside it say the rest.
 * out      returned owned; read-only afterwards: encode and decode may run on many threads
 * Errors   LORA_E_IO, LORA_E_NOTFOUND, LORA_E_FORMAT (line, column or index), LORA_E_LIMIT, LORA_E_UNSUPPORTED a part by name; LORA_E_MEMORY
 * Thread   exclusive(context)
 * Since    0.1 */
LORA_API lora_status lora_tokenizer_open(lora_context *ctx, const char *path, lora_tokenizer **out);

/* Text to ids.
 * text     UTF-8, n bytes, may hold NUL; borrowed for the call
 * flags    LORA_TOKENIZE_*
 * ids      room for capacity ids; may be NULL when capacity is 0
 * count    number of ids that the text has, also when they did not fit
 * Errors   LORA_E_LIMIT capacity too small (count is set, ids untouched), or a regular expression that takes too long; LORA_E_NOTFOUND no
 *          token for a character and no unknown token; LORA_E_ARGUMENT; LORA_E_MEMORY
 * Thread   any
 * Since    0.1 */
LORA_API lora_status lora_tokenizer_encode(const lora_tokenizer *t, const char *text, size_t n, uint32_t flags, int32_t *ids,
                                           size_t capacity, size_t *count);

/* Ids to text.
 * buf      room for size bytes, NUL included; may be NULL when size is 0
 * needed   bytes of the text without the NUL, also when it did not fit
 * Errors   LORA_E_LIMIT size too small (needed is set, buf untouched); LORA_E_ARGUMENT an id out of range; LORA_E_MEMORY
 * Thread   any
 * Since    0.1 */
LORA_API lora_status lora_tokenizer_decode(const lora_tokenizer *t, const int32_t *ids, size_t count, char *buf, size_t size,
                                           size_t *needed);

/* New text of a growing list of ids, as a stream: never a part of a character. Call it with the whole list each time, and at the end with last = 1.
 * state    two numbers, 0 at first; how far the stream is
 * ids      all ids so far: those of the last call and more
 * last     1: also what may still become a character
 * buf      room for size bytes, NUL included; may be NULL when size is 0
 * needed   bytes of the new text without the NUL, also when it did not fit; 0 while a character is not complete
 * Errors   as lora_tokenizer_decode(); state is as before then
 * Thread   any
 * Since    0.1 */
LORA_API lora_status lora_tokenizer_stream(const lora_tokenizer *t, uint64_t state[2], const int32_t *ids, size_t count, int32_t last, char *buf, size_t size,
                                           size_t *needed);

/* Number of ids (highest id + 1); 0 for NULL.
 * Thread   any
 * Since    0.1 */
LORA_API int64_t lora_tokenizer_size(const lora_tokenizer *t);

/* Id of a token by its text; -1 when there is none.
 * Thread   any
 * Since    0.1 */
LORA_API int32_t lora_tokenizer_id(const lora_tokenizer *t, const char *token);

/* One message of a conversation. content: UTF-8, n bytes, may hold NUL. */
typedef struct lora_chat_message { const char *role, *content; size_t n; } lora_chat_message;

enum {
	LORA_CHAT_GENERATE = 1 /* add the beginning of an answer */
};

/* A conversation as text, by a chat template. There is no template engine: a model's own template must be one that is known.
 * template name of family "chat_template" ("chatml", "llama3", ...); NULL = the one that the tokenizer's files hold
 * messages n of them, borrowed for the call; role is "system", "user", "assistant", ...
 * flags    LORA_CHAT_*
 * buf      room for size bytes, NUL included; may be NULL when size is 0
 * needed   bytes of the text without the NUL, also when it did not fit
 * Errors   LORA_E_UNSUPPORTED the model's template is not known (the message lists the names); LORA_E_NOTFOUND no such name, no template at all,
 *          or no text for BOS or EOS; LORA_E_ARGUMENT a message that the template has no place for; LORA_E_LIMIT size too small; LORA_E_MEMORY
 * Thread   any
 * Since    0.1 */
LORA_API lora_status lora_chat_render(const lora_tokenizer *t, const char *template_name, const lora_chat_message *messages, size_t n, uint32_t flags, char *buf,
                                      size_t size, size_t *needed);

/* A conversation as ids, and which of them an assistant wrote.
 * mask     [capacity] 1 = inside an assistant's answer, its end mark included: what to train on; may be NULL
 * Errors   as lora_chat_render() and lora_tokenizer_encode()
 * Thread   any
 * Since    0.1 */
LORA_API lora_status lora_chat_encode(const lora_tokenizer *t, const char *template_name, const lora_chat_message *messages, size_t n, uint32_t flags, int32_t *ids,
                                      uint8_t *mask, size_t capacity, size_t *count);

/* Release a tokenizer. NULL is a no-op.
 * Thread   exclusive(tokenizer)
 * Since    0.1 */
LORA_API void lora_tokenizer_destroy(lora_tokenizer *t);

#ifdef __cplusplus
}
#endif
#endif
