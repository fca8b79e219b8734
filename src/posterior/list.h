/* Members of families "factor" and "predictive": one file (or entry) plus one line each. */
#ifdef LORA__FACTOR
LORA__FACTOR(full)
LORA__FACTOR(sketch)
LORA__FACTOR(lowrank)
#endif
#ifdef LORA__PREDICTIVE
LORA__PREDICTIVE(sampled)
LORA__PREDICTIVE(probit)
LORA__PREDICTIVE(bridge)
#endif
