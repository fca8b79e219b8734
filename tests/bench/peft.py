"""Our training step against PEFT's on the same machine, in turns: A B A B. Random Llama shapes, LoRA r=16 on all seven linears, AdamW, clipping.
usage: peft.py BENCH_TRAIN SHAPE DTYPE [rounds] [batch] [length]      (make bench-peft)
DTYPE: f32 or bf16, weights and activations. Needs torch, transformers and peft from PyPI. Prints one line a round, then medians and the ratio.
"""
import json, os, resource, statistics, subprocess, sys, time

sys.path.pop(0)  # this folder: `import peft` must find the package, not this file

SHAPES = {  # hidden, inner, layers, heads, kv heads, vocabulary, tied
    "15m": (288, 768, 6, 6, 6, 32000, True),
    "135m": (576, 1536, 30, 9, 3, 49152, True),
    "0.5b": (896, 4864, 24, 14, 2, 151936, True),
    "1.1b": (2048, 5632, 22, 32, 4, 32000, False),
}


def theirs(shape, dtype, batch, length, steps=5):
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch, peft, transformers
    torch.set_num_threads(2)
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
    for _ in range(steps):
        ids = torch.randint(0, vocabulary, (batch, length))
        start = time.time()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.time() - start)
    rate = batch * length / statistics.median(seconds[1:])
    print(json.dumps({"rate": rate, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "versions": f"torch {torch.__version__}, peft {peft.__version__}"}))


def main():
    program, shape, dtype = sys.argv[1:4]
    rounds, batch, length = (int(x) for x in (sys.argv[4:] + ["5", "4", "256"][len(sys.argv[4:]):]))
    rows = []
    for i in range(rounds):
        weights = {"f32": "F32", "bf16": "BF16"}[dtype]
        ours = subprocess.run([program, shape, os.environ.get("BENCH_BACKEND", "auto"), "2", str(batch), str(length), "5", dtype, weights], capture_output=True, text=True, check=True).stdout.split(",")
        other = subprocess.run([sys.executable, __file__, "--theirs", shape, dtype, str(batch), str(length)], capture_output=True, text=True)
        if other.returncode:
            sys.exit("peft.py: " + (other.stderr.strip().splitlines() or ["failed"])[-1] + " (pip install torch transformers peft)")
        other = json.loads(other.stdout.splitlines()[-1])
        rows.append((float(ours[6]), other["rate"], float(ours[10]), other["mib"]))
        print(f"round {i + 1}: liblora ({ours[1]}) {rows[-1][0]:.0f} tokens/s, PEFT {rows[-1][1]:.0f} tokens/s", flush=True)
    a, b, c, d = (statistics.median(r[k] for r in rows) for k in range(4))
    ratio = statistics.median(r[0] / r[1] for r in rows)
    print(f"{shape} {dtype} {batch} x {length}, 2 threads, {rounds} rounds in turns, medians: liblora {a:.0f} tokens/s, {c:.0f} MiB; PEFT {b:.0f} tokens/s, {d:.0f} MiB; "
          f"speed {ratio:.2f}x, memory {c / d:.2f}x ({other['versions']})")


if sys.argv[1] == "--theirs":
    theirs(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
else:
    main()
