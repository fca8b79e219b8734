/* Members of family "adapter": one file plus one line. */
LORA__KIND(lora)
