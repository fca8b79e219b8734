/* liblora: status codes. Every call that can fail returns one; outputs are untouched on failure. */
#ifndef LORA_STATUS_H
#define LORA_STATUS_H

#include "lora/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t lora_status;
enum {
	LORA_OK            = 0,
	LORA_E_MEMORY      = -1,  /* allocator returned NULL or the context's byte limit is reached */
	LORA_E_ARGUMENT    = -2,  /* a bad argument or setting; the message names it */
	LORA_E_STATE       = -3,  /* wrong call order */
	LORA_E_VERSION     = -4,  /* header and library do not fit */
	LORA_E_UNSUPPORTED = -5,  /* known, but not done by this library or backend */
	LORA_E_FORMAT      = -6,  /* malformed file */
	LORA_E_LIMIT       = -7,  /* over a stated limit */
	LORA_E_SHAPE       = -8,  /* sizes do not fit each other */
	LORA_E_DTYPE       = -9,  /* element type not usable here */
	LORA_E_NUMERIC     = -10, /* not finite, or out of range for the type */
	LORA_E_NOTFOUND    = -11, /* no such name, file or member */
	LORA_E_EXISTS      = -12, /* already there */
	LORA_E_IO          = -13, /* the system said no; the message has its words */
	LORA_E_BACKEND     = -14, /* a backend is missing, broken or failed */
	LORA_E_CALLBACK    = -15, /* a callback of yours refused */
	LORA_E_CANCELLED   = -16, /* a callback of yours asked to stop; the state is whole */
	LORA_E_INTERNAL    = -17  /* a bug of ours */
};

/* Name of a status code, such as "LORA_E_SHAPE"; "LORA_E_?" for an unknown one.
 * Returns  returned borrowed from the library, for ever
 * Thread   any
 * Since    0.1 */
LORA_API const char *lora_status_name(lora_status status);

#ifdef __cplusplus
}
#endif
#endif
