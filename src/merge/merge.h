/* Merging: weights as a function of the base and the set of merged adapters, and back, bit for bit.
 * The library's own weights (mapped or built): the sum goes to memory of its own and the site is switched over; unmerge switches back.
 * The host's weights: in place, with an undo record (XOR of old and new bytes, deflated) kept until unmerge. Never subtraction. */
#ifndef LORA_MERGE_MERGE_H
#define LORA_MERGE_MERGE_H

#include "adapter/adapter.h"

/* Give each site of a its merged set plus a (add = 1) or without it (add = 0). All sites change or none.
 * scale: of the merge, on top of the adapter's own. */
lora_status lora__merge_change(lora_adapter *a, int add, double scale);

#endif
