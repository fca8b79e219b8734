#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quickstart.c from Python, with ctypes alone: no package, no compiler. Run it from the top of the source tree:

    python3 examples/quickstart.py [STEPS [OUT]]        LORA_LIBRARY names liblora.so when it is not in lib/

Every structure says its own size first, so only the members that are used need to be known exactly.
"""
import ctypes as c
import os
import sys

lib = c.CDLL(os.environ.get("LORA_LIBRARY", "lib/liblora.so"))
lib.lora_context_last_error.restype = lib.lora_status_name.restype = c.c_char_p  # else ctypes takes a pointer for an int
ABI, SEQUENCES, LENGTH = 1, 8, 64
WINDOW = SEQUENCES * LENGTH
INTS = c.POINTER(c.c_int32)


class Batch(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("flags", c.c_uint32), ("n_sequences", c.c_int64), ("length", c.c_int64), ("input_ids", INTS),
                ("attention_mask", INTS), ("position_ids", INTS), ("token_type_ids", INTS), ("labels", INTS), ("decoder_input_ids", INTS),
                ("decoder_length", c.c_int64), ("adapter_rows", INTS), ("adapters", c.c_void_p), ("n_adapters", c.c_int64),
                ("reserved", c.c_uint64 * 4)]


class Metrics(c.Structure):
    _fields_ = [("struct_size", c.c_uint32), ("updated", c.c_int32), ("step", c.c_int64), ("micro_step", c.c_int64), ("loss", c.c_double),
                ("lr", c.c_double), ("grad_norm", c.c_double), ("tokens", c.c_int64), ("loss_tokens", c.c_int64), ("skipped", c.c_int64),
                ("seconds", c.c_double)]


ctx = c.c_void_p()


def must(status):
    if status:
        sys.exit(f"{lib.lora_status_name(status).decode()}: {lib.lora_context_last_error(ctx).decode()}")


def make(create, *args):
    handle = c.c_void_p()
    must(create(*args, c.byref(handle)))
    return handle


def settings(text):
    s = make(lib.lora_settings_create, ctx)
    must(lib.lora_settings_from_json(s, text.encode(), c.c_size_t(len(text.encode()))))
    return s


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
out = sys.argv[2] if len(sys.argv) > 2 else "pirate-adapter"
with open("examples/demo/pirate.txt", "rb") as file:
    text = file.read()

must(lib.lora_context_create(c.c_uint32(ABI), None, c.byref(ctx)))
model = make(lib.lora_model_open, ctx, b"examples/demo/model", None)
tokenizer = make(lib.lora_tokenizer_open, ctx, b"examples/demo/model")
ids, count = (c.c_int32 * (1 << 20))(), c.c_size_t()
must(lib.lora_tokenizer_encode(tokenizer, text, c.c_size_t(len(text)), c.c_uint32(0), ids, c.c_size_t(len(ids)), c.byref(count)))

adapter = make(lib.lora_adapter_create, model, b"lora", settings('{"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}'))
must(lib.lora_adapter_attach(adapter, c.c_double(1.0)))
optimizer = make(lib.lora_optimizer_create, adapter, b"adamw", settings('{"learning_rate": 0.005}'))
trainer = make(lib.lora_trainer_create, model, adapter, optimizer, settings('{"max_grad_norm": 1.0}'))

for i in range(steps):
    at = c.cast(c.byref(ids, i * WINDOW % (count.value - WINDOW) * 4), INTS)
    batch = Batch(struct_size=c.sizeof(Batch), n_sequences=SEQUENCES, length=LENGTH, input_ids=at, labels=at)
    now = Metrics(struct_size=c.sizeof(Metrics))
    must(lib.lora_trainer_step(trainer, c.byref(batch), c.byref(now)))
    if i % 10 == 0 or i == steps - 1:
        print(f"step {i + 1:3d}  loss {now.loss:.4f}")
must(lib.lora_adapter_save(adapter, out.encode(), None))
print("saved", out)
