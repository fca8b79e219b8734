/* Members of family "op". linear and head live in graph/, because they use sites. */
LORA__OP(embed)
LORA__OP(rmsnorm)
LORA__OP(rope)
LORA__OP(attention)
LORA__OP(gated)
LORA__OP(add)
LORA__OP(linear)
LORA__OP(head)
