/* Members of family "search", the default first. */
LORA__SEARCH(cmaes)
LORA__SEARCH(one_plus_one)
LORA__SEARCH(random)
