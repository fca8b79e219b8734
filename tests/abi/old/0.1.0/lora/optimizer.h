/* liblora: optimizers over one adapter's parameters. State and parameters are F32. */
#ifndef LORA_OPTIMIZER_H
#define LORA_OPTIMIZER_H

#include "lora/adapter.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Create an optimizer.
 * name     member of family "optimizer": "adamw", "adam", "sgd"
 * settings learning_rate, weight_decay, adam_beta1, adam_beta2, adam_epsilon, momentum, ...; NULL = defaults
 * out      returned owned; keeps the adapter alive
 * Errors   LORA_E_NOTFOUND; LORA_E_ARGUMENT a setting, by name; LORA_E_MEMORY
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_optimizer_create(lora_adapter *a, const char *name, const lora_settings *settings, lora_optimizer **out);

/* One update from the accumulated gradients.
 * lr_scale multiplies the learning rate (a schedule's factor); 1 for none
 * Errors   LORA_E_NUMERIC a gradient is not finite (nothing changed); LORA_E_STATE the adapter is merged; LORA_E_ARGUMENT
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_optimizer_step(lora_optimizer *o, double lr_scale);

/* Set the adapter's accumulated gradients to zero.
 * Errors   LORA_E_ARGUMENT
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_optimizer_zero_grad(lora_optimizer *o);

/* Write the state (moments, step count) as safetensors; written beside, synced, renamed.
 * Errors   LORA_E_IO; LORA_E_MEMORY; what was at path is still there on error
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_optimizer_save(lora_optimizer *o, const char *path);

/* Read the state back, bit for bit.
 * Errors   LORA_E_IO, LORA_E_FORMAT; LORA_E_SHAPE of another adapter; LORA_E_UNSUPPORTED of another optimizer; unchanged on error
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API lora_status lora_optimizer_load(lora_optimizer *o, const char *path);

/* Release an optimizer. NULL is a no-op.
 * Thread   exclusive(model)
 * Since    0.1 */
LORA_API void lora_optimizer_destroy(lora_optimizer *o);

#ifdef __cplusplus
}
#endif
#endif
