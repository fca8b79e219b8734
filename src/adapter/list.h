/* Members of family "adapter": one file plus one line. */
LORA__KIND(lora)
LORA__KIND(prefix_tuning)
LORA__KIND(prompt_tuning)
