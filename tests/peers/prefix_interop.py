"""Prefix tuning and prompt tuning against PEFT: train a few steps with `lora train`, load the saved adapter with PEFT, and compare logits, loss and
greedy continuations, on every causal decoder of the golden models. Not run by `make check`; needs torch, transformers, peft, safetensors.

  python tests/peers/prefix_interop.py [FOLDER WITH models/]      default tests/golden
"""
import json, os, subprocess, sys, tempfile, warnings
import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
import transformers as tf

warnings.filterwarnings("ignore")
tf.logging.set_verbosity_error()
LORA = os.environ.get("LORA", "build/bin/lora")
ROOT = sys.argv[1] if len(sys.argv) > 1 else "tests/golden"
METHODS = {
    "prefix": (["method=prefix_tuning"], 0),
    "prefix-projection": (["method=prefix_tuning", "prefix_projection=true", "encoder_hidden_size=20"], 0),
    "prefix-subspace": (["method=prefix_tuning", "subspace_vertices=3"], 0),
    "prompt": (["method=prompt_tuning"], 1),
}


def lora(*args):
    done = subprocess.run([LORA, *args, "--json"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"lora {' '.join(args)}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def compare(folder, name, method, settings, rows):
    base, out, adapter = f"{ROOT}/models/{name}", f"{folder}/o.safetensors", f"{folder}/{name}-{method}"
    io, p = load_file(f"{base}/io.safetensors"), 5
    if method != "prefix" and name != "llama":
        return  # the graph is the same
    data = f"{folder}/d.safetensors"
    save_file({k: np.stack([io[k]] * 3) for k in ("input_ids", "attention_mask", "labels")}, data)
    options = [x for s in settings + [f"num_virtual_tokens={p}", "learning_rate=0.05", "max_steps=3", "seed=4"] for x in ("-s", s)]
    lora("train", "-m", f"{base}/model", "-d", data, "-o", adapter, "--quiet", *options)
    loss = lora("score", "-m", f"{base}/model", "-a", adapter, "-i", f"{base}/io.safetensors", "-o", out)[0]["loss"]
    model = tf.AutoModelForCausalLM.from_pretrained(f"{base}/model", attn_implementation="eager", dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    with torch.no_grad():
        theirs = model(**{k: torch.tensor(io[k]) for k in ("input_ids", "attention_mask", "labels")})
        prompt = torch.tensor(io["input_ids"][:1, :6])
        tokens = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False, eos_token_id=None)
    want, keep = theirs.logits.numpy()[:, p * rows:], io["attention_mask"] == 1
    worst = np.abs(load_file(out)["logits"] - want)[keep].max() / np.abs(want[keep]).max()
    mine = lora("generate", "-m", f"{base}/model", "-a", adapter, "--tokens", ",".join(map(str, prompt[0].tolist())), "-n", "8")[0]["tokens"]
    theirs_new = tokens[0].tolist()[-8:]
    same = mine == theirs_new[:len(mine)] and (len(mine) == 8 or mine[-1] == model.config.eos_token_id)  # ours stop at the end of the sequence
    print(f"{name} {method}: logits differ by {worst:.1e} of the largest, loss by {abs(loss - theirs.loss.item()):.1e}, continuations "
          f"{'equal' if same else f'{mine} {theirs_new}'}")
    assert same and worst < 1e-5 and abs(loss - theirs.loss.item()) < 1e-4


with tempfile.TemporaryDirectory() as folder:
    for name in sorted(os.listdir(f"{ROOT}/models")):
        if name in ("bert", "roberta", "t5", "flan-t5"):
            continue
        for method, (settings, rows) in METHODS.items():
            compare(folder, name, method, settings, rows)
    compare(folder, "gemma2", "prefix", METHODS["prompt"][0], 1)
    compare(folder, "gpt2", "prefix", METHODS["prompt"][0], 1)
    compare(folder, "mistral" if os.path.isdir(f"{ROOT}/models/mistral") else "starcoder2", "prefix", METHODS["prompt"][0], 1)
