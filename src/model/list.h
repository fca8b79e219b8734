/* Members of family "architecture": one file plus one line. */
LORA__ARCH(llama)
LORA__ARCH(mixtral)
