"""Decoding one sequence, token by token: with one adapter against none, and against llama.cpp on the same GGUF file, in turns: A B C A B C.
usage: decode.py MODEL [--types bf16,q8_0] [--rounds 5] [--tokens 64] [--threads 2] [--adapter PEFT] [--lora PROGRAM]

MODEL is a directory or a .gguf file (then --types is what it has). Without --adapter one of rank 16 on all linear layers is made by a training step.
Each round is printed; then medians, the medians of the rounds' ratios (which a busy machine disturbs least), and the ratio of processor times per token.
llama.cpp runs through llama-cpp-python (pip install llama-cpp-python) and is left out, with a line that says so, where that is not installed. Its extra
buffer types are off: with them some builds crash on machines with AMX.
"""
import argparse, json, os, resource, statistics, subprocess, sys, tempfile, time


def theirs(path, tokens, threads):
    import llama_cpp as ll
    import ctypes
    import numpy as np
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *a: None)
    ll.llama_log_set(silent, None)
    mp = ll.llama_model_default_params()
    mp.use_extra_bufts, mp.n_gpu_layers = False, 0
    model = ll.llama_model_load_from_file(path.encode(), mp)
    cp = ll.llama_context_default_params()
    cp.n_ctx, cp.n_batch, cp.n_threads, cp.n_threads_batch = 512, 64, threads, threads
    ctx = ll.llama_init_from_model(model, cp)
    n_vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    token = (ll.llama_token * 1)(5)

    def run(n):
        for _ in range(n):
            assert ll.llama_decode(ctx, ll.llama_batch_get_one(token, 1)) == 0
            token[0] = int(np.argmax(np.ctypeslib.as_array(ll.llama_get_logits_ith(ctx, -1), shape=(n_vocab,))))

    run(4)
    wall, cpu = time.perf_counter(), time.process_time()
    run(tokens)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"rate": tokens / wall, "cpu": cpu / tokens}))


def child(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()[-400:]}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ours(args, path, adapter):
    """Rate of the program, and processor time per token as the difference of a long and a short run."""
    command = [args.lora, "generate", "--json", "-q", "--threads", str(args.threads), "-m", path, "--tokens", "5", "--ignore-eos"] + (["-a", adapter] if adapter else [])
    _, short = child(command + ["-n", "4"])
    out, long = child(command + ["-n", str(args.tokens + 4)])
    return {"rate": json.loads(out)["tokens_per_second"], "cpu": (long - short) / args.tokens}


def make_adapter(args, path, folder):
    ids = [list(range(5, 13))]
    head = json.dumps({k: {"dtype": "I32", "shape": [1, 1, 8], "data_offsets": [32 * i, 32 * i + 32]} for i, k in enumerate(("input_ids", "labels"))}).encode()
    with open(f"{folder}/data.safetensors", "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head + b"".join(t.to_bytes(4, "little") for t in ids[0]) * 2)
    child([args.lora, "train", "-q", "-m", path, "-d", f"{folder}/data.safetensors", "-o", f"{folder}/adapter", "-s", "max_steps=1", "-s", "r=16", "-s", "target_modules=all-linear"])
    return f"{folder}/adapter"


def report(name, runs):
    median = lambda which, key: statistics.median(r[which][key] for r in runs)
    with_, without = [r["adapter"]["rate"] for r in runs], [r["none"]["rate"] for r in runs]
    print(f"{name}: {median('none', 'rate'):.1f} tokens/s, with an adapter {median('adapter', 'rate'):.1f}; time with it {statistics.median(b / a for a, b in zip(with_, without)):.3f}x"
          f" (processor time {median('adapter', 'cpu') / median('none', 'cpu'):.3f}x)")
    if "llama.cpp" in runs[0]:
        them = [r["llama.cpp"]["rate"] for r in runs]
        print(f"{name}: llama.cpp {median('llama.cpp', 'rate'):.1f} tokens/s; ours / theirs {statistics.median(a / b for a, b in zip(without, them)):.3f}"
              f" (processor time per token, theirs / ours {median('llama.cpp', 'cpu') / median('none', 'cpu'):.3f})")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    for name, kind, default in (("types", str, "bf16,q8_0"), ("rounds", int, 5), ("tokens", int, 64), ("threads", int, 2), ("adapter", str, None), ("lora", str, "build/bin/lora")):
        p.add_argument(f"--{name}", type=kind, default=default)
    p.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.worker:
        return theirs(args.model, args.tokens, args.threads)
    try:
        import llama_cpp
        peer = True
    except ImportError:
        print("llama.cpp: skipped, llama-cpp-python is not installed")
        peer = False
    with tempfile.TemporaryDirectory() as folder:
        adapter = args.adapter or make_adapter(args, args.model, folder)
        given = args.model.endswith(".gguf")
        for kind in ["as it is"] if given else args.types.split(","):
            path = args.model if given else f"{folder}/{kind}.gguf"
            if not given:
                child([args.lora, "convert", "-q", args.model, path, "--dtype-out", kind] if kind in ("f32", "f16", "bf16") else [args.lora, "quantize", "-q", "-m", args.model, "--to", kind, "-o", path])
            runs = []
            for k in range(args.rounds):
                r = {"none": ours(args, path, None), "adapter": ours(args, path, adapter)}
                if peer:
                    r["llama.cpp"] = json.loads(child([sys.executable, __file__, path, "--worker", "--tokens", str(args.tokens), "--threads", str(args.threads)])[0].splitlines()[-1])
                print(f"{kind}, round {k + 1}: " + ", ".join(f"{n} {v['rate']:.1f}/s" for n, v in r.items()), flush=True)
                runs.append(r)
            report(kind, runs)


main()
