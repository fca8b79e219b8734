/* Members of the families "optimizer" and "schedule", in the order in which they are listed to users. */
#ifdef LORA__OPTIM
LORA__OPTIM(adamw)
LORA__OPTIM(adam)
LORA__OPTIM(sgd)
#endif
#ifdef LORA__SCHEDULE
LORA__SCHEDULE(linear)
LORA__SCHEDULE(cosine)
LORA__SCHEDULE(cosine_with_restarts)
LORA__SCHEDULE(polynomial)
LORA__SCHEDULE(constant)
LORA__SCHEDULE(constant_with_warmup)
LORA__SCHEDULE(inverse_sqrt)
LORA__SCHEDULE(cosine_with_min_lr)
LORA__SCHEDULE(cosine_warmup_with_min_lr)
LORA__SCHEDULE(warmup_stable_decay)
#endif
