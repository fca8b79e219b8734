"""PEFT loads what we save, and we load what PEFT saves: same logits, same loss, same gradients.
Needs torch, transformers and peft; without them it says so and exits 77 (skipped).
usage: peft_interop.py LORA_PROGRAM SCRATCH_FOLDER
"""
import json, os, subprocess, sys

try:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch, peft, transformers
    from safetensors.torch import load_file, save_file
except ImportError as e:
    print(f"skipped: {e} (pip install torch transformers peft)")
    sys.exit(77)

lora, scratch = sys.argv[1], sys.argv[2]
base = "tests/golden/models/llama/model"
os.makedirs(scratch, exist_ok=True)
torch.manual_seed(3)
torch.set_num_threads(2)


def run(*args):
    out = subprocess.run([lora, *args, "--json"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.splitlines()]


ids = torch.randint(3, 131, (3, 17), dtype=torch.int32)
save_file({"input_ids": ids.reshape(1, 3, 17).repeat(6, 1, 1).contiguous()}, f"{scratch}/train.safetensors")
save_file({"input_ids": ids, "labels": ids.clone()}, f"{scratch}/in.safetensors")


def theirs(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, folder, is_trainable=True).eval()
    out = model(input_ids=ids.long(), labels=ids.long())
    out.loss.backward()
    return model, out


def ours(folder):
    line = run("score", "-m", base, "-a", folder, "-i", f"{scratch}/in.safetensors", "-o", f"{scratch}/out.safetensors", "--grad")[-1]
    return line["loss"], load_file(f"{scratch}/out.safetensors")


def compare(folder, what):
    model, out = theirs(folder)
    loss, t = ours(folder)
    assert abs(loss - out.loss.item()) < 1e-5, (what, loss, out.loss.item())
    gap = (t["logits"] - out.logits).abs().max().item()
    assert gap < 5e-5, (what, gap)
    n = 0
    for name, p in model.named_parameters():
        if p.grad is None:
            continue
        key = "grad." + name.replace(".default", "")
        d = (t[key].reshape(p.shape) - p.grad).abs().max().item()
        assert d < 1e-4 * max(1e-3, p.grad.abs().max().item()) + 1e-6, (what, key, d)
        n += 1
    print(f"{what}: loss {loss:.6f}, largest logit difference {gap:.1e}, {n} gradients equal")


cases = {
    "qv": ["-s", "r=4"],
    "all-linear": ["-s", "target_modules=all-linear", "-s", "r=3", "-s", "use_rslora=true"],
    "patterns": ["-s", 'target_modules=["q_proj","up_proj"]', "-s", 'rank_pattern={"up_proj":6}', "-s", 'alpha_pattern={"q_proj":3}'],
    "layers": ["-s", 'target_modules=["v_proj"]', "-s", "layers_to_transform=[1]"],
}
for name, args in cases.items():
    folder = f"{scratch}/ours-{name}"
    subprocess.run(["rm", "-rf", folder])
    run("train", "-m", base, "-d", f"{scratch}/train.safetensors", "-o", folder, "-s", "max_steps=6", "-s", "learning_rate=0.01", *args)
    compare(folder, f"saved by us ({name})")
for name, config in {
    "default": dict(r=4, lora_alpha=9, target_modules=["q_proj", "v_proj"]),
    "all": dict(r=5, lora_alpha=3, target_modules="all-linear", use_rslora=True),
    "regex": dict(r=2, lora_alpha=8, target_modules=r".*\.(0|1)\.mlp\.(up|down)_proj", rank_pattern={"down_proj": 7}),
}.items():
    folder = f"{scratch}/theirs-{name}"
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **config))
    model.save_pretrained(folder)
    compare(folder, f"saved by PEFT ({name})")
print("PEFT", peft.__version__, "torch", torch.__version__, "transformers", transformers.__version__)
