"""PEFT loads what liblora makes on mixtures, classifiers and encoder-decoder models: train a few steps with `lora train`, then compare the logits of
`lora score` with those of PEFT on the saved adapter. Not run by `make check`; needs torch, transformers, peft, safetensors.

  python tests/peers/more_interop.py [FOLDER WITH models/]      default tests/golden
"""
import json, os, subprocess, sys, tempfile
import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file
import transformers as tf

LORA = os.environ.get("LORA", "build/bin/lora")
ROOT = sys.argv[1] if len(sys.argv) > 1 else "tests/golden"
CASES = {
    "mixtral": (tf.AutoModelForCausalLM, ["target_parameters=mlp.experts.gate_up_proj,mlp.experts.down_proj,gate.weight", "target_modules=q_proj,v_proj"]),
    "qwen3_moe": (tf.AutoModelForCausalLM, ["target_modules=all-linear"]),
    "bert": (tf.AutoModelForSequenceClassification, ["target_modules=query,value"]),
    "roberta": (tf.AutoModelForSequenceClassification, ["target_modules=query,value"]),
    "t5": (tf.AutoModelForSeq2SeqLM, ["target_modules=all-linear"]),
    "flan-t5": (tf.AutoModelForSeq2SeqLM, ["target_modules=q,v", "modules_to_save=lm_head"]),
}


def lora(*args):
    done = subprocess.run([LORA, *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"lora {' '.join(args)}: {done.stderr}")


with tempfile.TemporaryDirectory() as folder:
    for name, (auto, settings) in CASES.items():
        base = f"{ROOT}/models/{name}"
        if not os.path.isdir(base):
            print(f"{name}: skipped, no {base}")
            continue
        io, data, out, adapter = load_file(f"{base}/io.safetensors"), f"{folder}/d.safetensors", f"{folder}/o.safetensors", f"{folder}/{name}"
        save_file({k: np.stack([io[k]] * 3) for k in ("input_ids", "attention_mask", "labels")}, data)
        options = [x for s in settings + ["init_lora_weights=false", "learning_rate=0.01", "max_steps=3"] for x in ("-s", s)]
        lora("train", "-m", f"{base}/model", "-d", data, "-o", adapter, "--quiet", *options)
        lora("score", "-m", f"{base}/model", "-a", adapter, "-i", f"{base}/io.safetensors", "-o", out)
        model = PeftModel.from_pretrained(auto.from_pretrained(f"{base}/model", attn_implementation="eager"), adapter).eval()
        names = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "decoder_input_ids")
        with torch.no_grad():
            want = model(**{k: torch.tensor(io[k]) for k in names if k in io}).logits.numpy()
        got = load_file(out)["logits"]
        keep = np.ones(len(got), bool) if got.ndim == 2 else io["labels"] != -100 if name.endswith("t5") else io["attention_mask"] == 1
        worst = np.abs(got - want)[keep].max() / np.abs(want[keep]).max()
        print(f"{name}: logits differ by {worst:.1e} of the largest")
        assert worst < 1e-5
