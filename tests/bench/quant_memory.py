"""Memory of training LoRA on a quantised base: a Llama of a given shape with random blocks is written as GGUF, two steps are trained on it, and the peak is
set against the file's size.
usage: quant_memory.py [--shape 1.1b] [--type q4_k] [--batch 1] [--length 256] [--bound 0.6] [--lora PROGRAM] [--folder DIR]

Prints a line for training as it is by default, with BF16 activations, and with gradient_checkpointing; ends with 1 when the last takes more than --bound GiB
beside the weights. Peak: what `lora train` reports as peak_memory_bytes (resident pages, of the mapped file too).
"""
import argparse, json, os, random, struct, subprocess, sys, tempfile

SHAPES = {  # hidden, inner, layers, heads, kv heads, vocabulary
    "tiny": (256, 768, 2, 4, 2, 512),
    "15m": (256, 768, 6, 4, 4, 32000),
    "1.1b": (2048, 5632, 22, 32, 4, 32000),
}
TYPES = {"q4_k": (12, 256, 144), "q4_0": (2, 32, 18), "q8_0": (8, 32, 34)}  # number in GGUF, elements and bytes of a block


def half(x):
    return struct.pack("<e", x)


def block(kind, rng):
    """A block whose values are about as large as those of a trained weight, around 0."""
    if kind == "q4_k":
        return half(4e-5) + half(3e-4) + rng.randbytes(12) + rng.randbytes(128)
    return half(4e-3 if kind == "q4_0" else 2.5e-4) + rng.randbytes(TYPES[kind][2] - 2)


def write(path, shape, kind):
    hidden, inner, layers, heads, kv, vocab = shape
    number, elements, size = TYPES[kind]
    rng = random.Random(1)
    some = b"".join(block(kind, rng) for _ in range(4096))
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama"), text("llama.rope.freq_base") + struct.pack("<If", 6, 10000.0),
            text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5)]
    for k, v in (("context_length", 2048), ("embedding_length", hidden), ("block_count", layers), ("feed_forward_length", inner), ("attention.head_count", heads),
                 ("attention.head_count_kv", kv), ("rope.dimension_count", hidden // heads), ("vocab_size", vocab)):
        keys.append(text(f"llama.{k}") + struct.pack("<II", 4, v))
    tensors = [("token_embd.weight", vocab, hidden), ("output_norm.weight", 0, hidden), ("output.weight", vocab, hidden)]
    for i in range(layers):
        w = hidden * kv // heads
        tensors += [(f"blk.{i}.{n}.weight", rows, cols) for n, rows, cols in (("attn_norm", 0, hidden), ("attn_q", hidden, hidden), ("attn_k", w, hidden), ("attn_v", w, hidden),
                    ("attn_output", hidden, hidden), ("ffn_norm", 0, hidden), ("ffn_gate", inner, hidden), ("ffn_up", inner, hidden), ("ffn_down", hidden, inner))]
    head, at = [], 0
    for name, rows, cols in tensors:
        bytes_ = rows * cols // elements * size if rows else 4 * cols
        head.append(text(name) + (struct.pack("<IQQ", 2, cols, rows) if rows else struct.pack("<IQ", 1, cols)) + struct.pack("<IQ", number if rows else 0, at))
        at += -(-bytes_ // 32) * 32
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(head))
        f.write(b"\0" * (-f.tell() % 32))
        for name, rows, cols in tensors:
            left = rows * cols // elements * size if rows else 4 * cols
            pad = -left % 32
            while rows and left > 0:
                f.write(some[:left])
                left -= min(left, len(some))
            f.write(struct.pack("<f", 1.0) * cols if not rows else b"")
            f.write(b"\0" * pad)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind, default in (("shape", str, "1.1b"), ("type", str, "q4_k"), ("batch", int, 1), ("length", int, 256), ("bound", float, 0.6), ("lora", str, "build/bin/lora"), ("folder", str, None)):
        p.add_argument(f"--{name}", type=kind, default=default)
    args = p.parse_args()
    if args.folder:
        os.makedirs(args.folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        model, data = f"{folder}/m.gguf", f"{folder}/data.safetensors"
        write(model, SHAPES[args.shape], args.type)
        n = 2 * args.batch * args.length
        ids = b"".join(struct.pack("<i", 5 + i * 37 % 400) for i in range(n))
        head = json.dumps({"input_ids": {"dtype": "I32", "shape": [2, args.batch, args.length], "data_offsets": [0, 4 * n]}}).encode()
        open(data, "wb").write(len(head).to_bytes(8, "little") + head + ids)
        for what, options in (("by default", []), ("BF16 activations", ["--dtype", "bf16"]), ("gradient_checkpointing", ["-s", "gradient_checkpointing=true"])):
            done = subprocess.run([args.lora, "train", "--json", "-q", "-m", model, "-d", data, "-o", f"{folder}/out", "-s", "max_steps=2", "-s", "r=16", "-s", "target_modules=all-linear", *options],
                                  capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            weights, peak = os.path.getsize(model), json.loads(done.stdout.splitlines()[-1])["peak_memory_bytes"]
            more = (peak - weights) / 2**30
            print(f"{args.shape}, {args.type}, {args.batch} x {args.length}, {what}: weights {weights / 2**30:.3f} GiB, peak {peak / 2**30:.3f} GiB, {more:.3f} GiB more", flush=True)
        return more > args.bound


sys.exit(main())
