/* liblora: generation with a key-value cache. A generator holds a batch of sequences of one model. */
#ifndef LORA_GENERATE_H
#define LORA_GENERATE_H

#include "lora/adapter.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Create a generator.
 * settings max_length (tokens per sequence, default the model's max_positions), batch_size (sequences, default 1), temperature
 *          (0 = greedy, the default), top_k (0 = off), top_p (1 = off), repetition_penalty (1 = off), seed; NULL = defaults
 * out      returned owned; keeps the model alive
 * Errors   LORA_E_STATE the model has no graph; LORA_E_ARGUMENT a setting; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_generator_create(lora_model *m, const lora_settings *settings, lora_generator **out);

/* Append tokens to one sequence and compute them. The first tokens of an encoder-decoder model's sequence are its source, given as a whole; the
 * sequence itself (and max_length) counts decoder tokens and begins with the decoder's start token.
 * sequence 0 .. batch_size-1
 * adapter  adapter for this sequence, attached; NULL = every attached adapter (must be the same at every call). Virtual tokens of prefix and
 *          prompt tuning go in front with the first tokens; they stay in the cache and do not count towards max_length
 * tokens   n > 0 ids; borrowed for the call
 * Errors   LORA_E_LIMIT max_length reached; LORA_E_SHAPE a token out of range; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_generator_feed(lora_generator *g, int64_t sequence, lora_adapter *adapter, const int32_t *tokens, int64_t n);

/* Choose the next token of every fed sequence from its last logits, append it and compute it lazily at the next call.
 * tokens   [batch_size] the chosen ids; -1 for sequences that were never fed or are full
 * logprobs [batch_size] natural log of the chosen token's probability at temperature 1 (with the repetition penalty); may be NULL
 * Errors   LORA_E_STATE nothing was fed; LORA_E_NUMERIC logits not finite; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_generator_next(lora_generator *g, int32_t *tokens, float *logprobs);

/* Forget one sequence (or all with sequence -1) and start anew.
 * Errors   LORA_E_ARGUMENT
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_generator_reset(lora_generator *g, int64_t sequence);

/* Release a generator. NULL is a no-op.
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API void lora_generator_destroy(lora_generator *g);

#ifdef __cplusplus
}
#endif
#endif
