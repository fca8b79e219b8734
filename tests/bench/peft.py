"""Our training step against PEFT's on the same machine, in turns: A B A B. Random Llama shapes, LoRA r=16 on all seven linears, AdamW, clipping.
usage: peft.py BENCH_TRAIN SHAPE DTYPE [rounds] [batch] [length] [--cases train,padded,long,threads,peak,start] [--threads 2] [--lora PROGRAM] [--models DIR]
Needs torch, transformers and peft from PyPI (make bench-peft makes a virtual environment for them). DTYPE: f32 or bf16, weights and activations.
  train    batch x length: tokens/s, processor seconds and peak memory
  padded   16 rows with lengths 32 .. 256 evenly spread, padded to 256; real tokens are counted
  long     ours: 1 x 2048 against 8 x 256
  threads  ours: all threads against one
  peak     ours: floating-point operations of a step per second, as a share of what the products of the model's shapes alone reach (bench_peak, packed or not)
  start    seconds from the start of the program to its first step: lora train on a model in DIR (of make bench), and PEFT's imports alone
Each round is printed; then for each case medians, the median of the rounds' ratios, and the ratio of the best rounds and of processor time.
"""
import argparse, json, os, resource, statistics, subprocess, sys, tempfile, time

BEGUN = time.time()
sys.path.pop(0)  # this folder: `import peft` must find the package, not this file

SHAPES = {  # hidden, inner, layers, heads, kv heads, vocabulary, tied
    "tiny": (64, 172, 2, 4, 2, 512, True),
    "15m": (288, 768, 6, 6, 6, 32000, True),
    "135m": (576, 1536, 30, 9, 3, 49152, True),
    "0.5b": (896, 4864, 24, 14, 2, 151936, True),
    "1.1b": (2048, 5632, 22, 32, 4, 32000, False),
}
SHORTEST, ROWS, LONGEST = 32, 16, 256  # of the padded case


def lengths(batch, length, shortest):
    return [shortest + i * (length - shortest) // max(batch - 1, 1) for i in range(batch)] if shortest else [length] * batch


def theirs(shape, dtype, batch, length, shortest, threads, steps=5):
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch, peft, transformers
    imported = time.time() - BEGUN
    torch.set_num_threads(threads)
    hidden, inner, layers, heads, kv, vocabulary, tied = SHAPES[shape]
    config = transformers.LlamaConfig(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                                      num_key_value_heads=kv, vocab_size=vocabulary, tie_word_embeddings=tied, max_position_embeddings=4096, use_cache=False)
    torch.manual_seed(0)
    torch.set_default_dtype({"f32": torch.float32, "bf16": torch.bfloat16}[dtype])
    model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=targets)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, seconds = torch.optim.AdamW(trained, lr=1e-4), []
    real = lengths(batch, length, shortest)
    mask = torch.tensor([[int(j < n) for j in range(length)] for n in real])
    for step in range(steps):
        ids = torch.randint(0, vocabulary, (batch, length))
        if step == 1:
            cpu = time.process_time()
        start = time.time()
        extra = {"attention_mask": mask} if shortest else {}
        model(input_ids=ids, labels=ids.masked_fill(mask == 0, -100), **extra).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.time() - start)
    print(json.dumps({"rate": sum(real) / statistics.median(seconds[1:]), "best": sum(real) / min(seconds[1:]), "cpu": (time.process_time() - cpu) / (steps - 1),
                      "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "import": imported,
                      "versions": f"torch {torch.__version__}, peft {peft.__version__}"}))


def run_ours(a, batch, length, shortest=0, threads=None):
    args = [a.program, a.shape, os.environ.get("BENCH_BACKEND", "auto"), threads or a.threads, batch, length, 5, a.dtype, a.weights, shortest]
    out = subprocess.run([str(x) for x in args], capture_output=True, text=True, check=True).stdout.split(",")
    return {"rate": float(out[6]), "mib": float(out[10]), "best": float(out[11]), "cpu": float(out[12]), "backend": out[1]}


def run_theirs(a, batch, length, shortest=0):
    args = [sys.executable, __file__, "--theirs", a.shape, a.dtype, str(batch), str(length), str(shortest), str(a.threads)]
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode:
        sys.exit("peft.py: " + (done.stderr.strip().splitlines() or ["failed"])[-1] + " (pip install torch transformers peft)")
    return json.loads(done.stdout.splitlines()[-1])


def middle(rows, of):
    return statistics.median(of(*r) for r in rows)


def against(a, name, batch, length, shortest=0):
    rows = []
    for i in range(a.rounds):
        rows.append((run_ours(a, batch, length, shortest), run_theirs(a, batch, length, shortest)))
        x, y = rows[-1]
        print(f"round {i + 1}: liblora ({x['backend']}) {x['rate']:.0f} tokens/s, PEFT {y['rate']:.0f} tokens/s", flush=True)
    best = max(x["best"] for x, _ in rows) / max(y["best"] for _, y in rows)
    stored = "" if a.weights.lower() == a.dtype else f" over {a.weights} weights"
    print(f"{name}: {a.shape} {a.dtype}{stored} {batch} x {length}{' padded' if shortest else ''}, {a.threads} threads, {a.rounds} rounds in turns, medians: "
          f"liblora {middle(rows, lambda x, y: x['rate']):.0f} tokens/s, {middle(rows, lambda x, y: x['mib']):.0f} MiB; "
          f"PEFT {middle(rows, lambda x, y: y['rate']):.0f} tokens/s, {middle(rows, lambda x, y: y['mib']):.0f} MiB; "
          f"speed {middle(rows, lambda x, y: x['rate'] / y['rate']):.2f}x (best rounds {best:.2f}x, processor time {middle(rows, lambda x, y: y['cpu'] / x['cpu']):.2f}x), "
          f"memory {middle(rows, lambda x, y: x['mib'] / y['mib']):.2f}x ({rows[0][1]['versions']})", flush=True)


def ourselves(a, name, one, other, what):
    """one, other: arguments of run_ours; the speed of one as a share of the other's."""
    rows = [(run_ours(a, **one), run_ours(a, **other)) for _ in range(a.rounds)]
    best = max(x["best"] for x, _ in rows) / max(y["best"] for _, y in rows)
    print(f"{name}: {a.shape} {a.dtype}, {what}: medians {middle(rows, lambda x, y: x['rate']):.0f} and {middle(rows, lambda x, y: y['rate']):.0f} tokens/s, "
          f"ratio {middle(rows, lambda x, y: x['rate'] / y['rate']):.2f} (best rounds {best:.2f}, processor time {middle(rows, lambda x, y: y['cpu'] / x['cpu']):.2f})", flush=True)


def flops(shape, length):
    """Of a step, a token: two products of each linear and of the head, forward and backward; attention's four forward and backward with half of the keys seen."""
    hidden, inner, layers, heads, kv, vocabulary, _ = SHAPES[shape]
    linears = layers * (hidden * hidden * 2 + 2 * hidden * (hidden // heads * kv) + 3 * hidden * inner)
    return 4 * (linears + hidden * vocabulary) + layers * (2 * 2 + 2 * 5) * hidden * length / 2


def run_peak(a):
    """GFLOP/s over the linears of a layer, forward and backward, by the backend and form of weights that is the fastest at all of them."""
    args = [os.path.join(os.path.dirname(a.program), "bench_peak"), "--dtype", a.dtype.upper(), "--shape", a.shape, "--rows", str(a.batch * a.length), "--threads", str(a.threads), "--rounds", "5"]
    times = {"q": 2, "k": 2, "up": 2, "down": 1}  # q and o, k and v, gate and up
    spent = {}
    for line in subprocess.run(args, capture_output=True, text=True, check=True).stdout.splitlines():
        x = line.split(",")
        if len(x) < 12 or x[0] == "backend":
            continue
        work, of = 2e-9 * int(x[6]) * int(x[7]) * int(x[8]) * times[x[5].removeprefix("d") if x[5] != "down" else "down"], spent.setdefault(x[0] + " " + x[1], [0, 0])
        of[0], of[1] = of[0] + work, of[1] + work / float(x[9])
    who = max(spent, key=lambda b: spent[b][0] / spent[b][1])
    return {"gflops": spent[who][0] / spent[who][1], "who": who}


def peak(a):
    rows = [(run_ours(a, a.batch, a.length), run_peak(a)) for _ in range(a.rounds)]
    each = flops(a.shape, a.length) * 1e-9
    print(f"peak: {a.shape} {a.dtype} {a.batch} x {a.length}, {a.threads} threads, {a.rounds} rounds in turns, medians: a step {middle(rows, lambda x, y: x['rate'] * each):.0f} GFLOP/s, "
          f"its products alone {middle(rows, lambda x, y: y['gflops']):.0f} GFLOP/s ({rows[0][1]['who']}), share {middle(rows, lambda x, y: x['rate'] * each / y['gflops']):.2f} "
          f"(best rounds {max(x['best'] for x, _ in rows) * each / max(y['gflops'] for _, y in rows):.2f})", flush=True)


def start(a):
    model = os.path.join(a.models, f"{a.shape}-{a.dtype}")
    if not a.lora or not os.path.exists(os.path.join(model, "config.json")):
        print(f"start: left out, there is no {model} (make bench BENCH_ARGS=\"--shapes {a.shape} --dtypes {a.dtype} --cases files\" makes it)")
        return
    rows = []
    for _ in range(a.rounds):
        with tempfile.TemporaryDirectory() as d:
            import struct
            ids = [i * 7919 % SHAPES[a.shape][5] for i in range(4 * 256)]
            header = json.dumps({"input_ids": {"dtype": "I32", "shape": [1, 4, 256], "data_offsets": [0, 4 * len(ids)]}}).encode()
            with open(d + "/data.safetensors", "wb") as f:
                f.write(struct.pack("<Q", len(header)) + header + struct.pack(f"<{len(ids)}i", *ids))
            args = [a.lora, "train", "--json", "-q", "-m", model, "-d", d + "/data.safetensors", "-o", d + "/out", "--dtype", a.dtype, "--threads", str(a.threads),
                    "-s", "max_steps=1", "-s", "r=16", "-s", "target_modules=all-linear"]
            out = subprocess.run(args, capture_output=True, text=True, check=True).stdout
            rows.append((json.loads(out.splitlines()[-1]), run_theirs(a, 1, 8)))
    print(f"start: {a.shape} {a.dtype}: lora train to its first step {middle(rows, lambda x, y: x['startup_seconds']):.3f} s (best {min(x['startup_seconds'] for x, _ in rows):.3f} s), "
          f"peak memory {middle(rows, lambda x, y: x['peak_memory_bytes']) / 2**20:.0f} MiB; PEFT's imports alone {middle(rows, lambda x, y: y['import']):.1f} s", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("program")
    p.add_argument("shape", choices=SHAPES)
    p.add_argument("dtype", choices=["f32", "bf16"])
    p.add_argument("rounds", nargs="?", type=int, default=5)
    p.add_argument("batch", nargs="?", type=int, default=0)
    p.add_argument("length", nargs="?", type=int, default=256)
    p.add_argument("--cases", default="train")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--weights", choices=["F32", "BF16"], help="how liblora's base is stored (the dtype's own); PEFT computes in the dtype that it stores")
    p.add_argument("--lora")
    p.add_argument("--models", default="build/bench")
    a = p.parse_intermixed_args()
    a.weights = a.weights or a.dtype.upper()
    a.batch = a.batch or (2 if a.shape in ("0.5b", "1.1b") else 4)
    for case in a.cases.split(","):
        if case == "train":
            against(a, case, a.batch, a.length)
        elif case == "padded":
            against(a, case, ROWS, LONGEST, SHORTEST)
        elif case == "long":
            ourselves(a, case, {"batch": 1, "length": 2048}, {"batch": 8, "length": 256}, "1 x 2048 and 8 x 256")
        elif case == "threads":
            ourselves(a, case, {"batch": a.batch, "length": a.length}, {"batch": a.batch, "length": a.length, "threads": 1}, f"{a.threads} threads and 1")
        elif case == "peak":
            peak(a)
        elif case == "start":
            start(a)
        else:
            sys.exit(f"peft.py: there is no case {case}")


if sys.argv[1:2] == ["--theirs"]:
    theirs(sys.argv[2], sys.argv[3], *(int(x) for x in sys.argv[4:8]))
else:
    main()
