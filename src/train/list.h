/* Members of family "strategy", in the order in which they are listed to users. */
LORA__STRATEGY(none)
LORA__STRATEGY(coto)
LORA__STRATEGY(copra)
