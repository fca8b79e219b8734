/* LORA__SMALL: a function compiled for size in a file that is compiled for speed: what runs once per call, or on hardly any processor. The
 * library is to stay under 1 MB. Without effect in clang, which has no such attribute. */
#ifndef LORA_BASE_SMALL_H
#define LORA_BASE_SMALL_H

#if defined(__GNUC__) && !defined(__clang__)
#define LORA__SMALL __attribute__((optimize("Os")))
#else
#define LORA__SMALL
#endif

#endif
