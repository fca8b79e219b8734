"""llama.cpp loads what liblora writes and agrees on the logits: models converted to GGUF in every type that is written, and LoRA adapters (linear layers,
embedding) beside them. Not run by `make check`; needs numpy and llama-cpp-python, and says so and ends with 0 where they are not installed.

  python tests/peers/llamacpp.py [FOLDER WITH models/ AND gguf/hf/]...      default tests/golden

The difference is the root mean square over the logits, relative to theirs. The bounds are llama.cpp's own arithmetic: it reads GELU from a table in half
precision, rounds activations to the type of F16 and BF16 weights, and to 8 bits in front of quantised ones. Its extra buffer types are off: with them
some builds of llama-cpp-python crash on machines with AMX.
"""
import ctypes, json, os, shutil, subprocess, sys, tempfile
try:
    import numpy as np
    import llama_cpp as ll
except ImportError as e:
    print(f"skipped: {e.name} is not installed (pip install llama-cpp-python)")
    sys.exit(0)

LORA = os.environ.get("LORA", "build/bin/lora")
ROOTS = sys.argv[1:] or ["tests/golden"]
GELU = ("gemma", "gpt2")  # architectures with the table
BOUND = {"F32": 1e-5, "F16": 3e-3, "BF16": 2e-2}
QUANT_BOUND = 6e-2
SMALL = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]
BLOCKS = SMALL + ["Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def lora(*args):
    done = subprocess.run([LORA, *args], capture_output=True, text=True)
    return done if done.returncode else None


def must(*args):
    failed = lora(*args)
    if failed:
        sys.exit(f"lora {' '.join(args)}: {failed.stderr.strip()}")


def write_tensors(path, **arrays):
    head, data = {}, b""
    for k, a in arrays.items():
        head[k] = {"dtype": "I32", "shape": list(a.shape), "data_offsets": [len(data), len(data) + 4 * a.size]}
        data += a.astype("<i4").tobytes()
    text = json.dumps(head).encode()
    open(path, "wb").write(len(text).to_bytes(8, "little") + text + data)


def read_logits(path):
    raw = open(path, "rb").read()
    n = int.from_bytes(raw[:8], "little")
    t = json.loads(raw[8:8 + n])["logits"]
    a, b = t["data_offsets"]
    return np.frombuffer(raw[8 + n + a:8 + n + b], "<f4").reshape(t["shape"])[0]


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def silent(level, text, user):
    pass


def theirs(path, ids, adapter=None):
    """Logits of every position, or None when llama.cpp does not load the file."""
    mp = ll.llama_model_default_params()
    mp.use_extra_bufts, mp.n_gpu_layers = False, 0
    model = ll.llama_model_load_from_file(path.encode(), mp)
    if not model:
        return None
    cp = ll.llama_context_default_params()
    cp.n_ctx, cp.n_batch, cp.n_ubatch, cp.n_threads, cp.n_threads_batch, cp.type_k, cp.type_v = 256, 256, 256, 1, 1, 0, 0
    cp.flash_attn_type = 0  # its other attention rounds to half precision
    ctx = ll.llama_init_from_model(model, cp)
    if adapter:
        lo = ll.llama_adapter_lora_init(model, adapter.encode())
        if not lo:
            return None
        assert ll.llama_set_adapters_lora(ctx, (ll.llama_adapter_lora_p_ctypes * 1)(lo), 1, (ctypes.c_float * 1)(1.0)) == 0
    n = len(ids)
    batch = ll.llama_batch_init(n, 0, 1)
    batch.n_tokens = n
    for i, t in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = int(t), i, 1, 0, 1
    assert ll.llama_decode(ctx, batch) == 0
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    out = np.stack([np.ctypeslib.as_array(ll.llama_get_logits_ith(ctx, i), shape=(vocab,)).copy() for i in range(n)])
    ll.llama_batch_free(batch)
    ll.llama_free(ctx)
    ll.llama_model_free(model)
    return out


def gap(got, want):
    return float(np.sqrt(((got - want[:, :got.shape[1]]) ** 2).mean() / (want ** 2).mean()))


def check(name, got, want, bound):
    if got is None:
        print(f"{name}: llama.cpp does not load it")
        return False
    d = gap(got, want)
    print(f"{name}: {d:.1e} (bound {bound:.0e})" + ("" if d <= bound else "  TOO LARGE"))
    return d <= bound


def repeat_blocks(path, more):
    raw = open(path, "rb").read()
    n = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8:8 + n])
    for to, of in more.items():
        head.update({k.replace(f".layers.{of}.", f".layers.{to}."): dict(v) for k, v in head.items() if f".layers.{of}." in k})
    data = b""
    for k, v in head.items():
        if k != "__metadata__":
            a, b = v["data_offsets"]
            v["data_offsets"], data = [len(data), len(data) + b - a], data + raw[8 + n + a:8 + n + b]
    text = json.dumps(head).encode()
    open(path, "wb").write(len(text).to_bytes(8, "little") + text + data)


def models():
    seen = set()
    for root in ROOTS:
        for folder in (f"{root}/models", f"{root}/gguf/hf"):
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
                path = f"{folder}/{name}/model" if os.path.isdir(f"{folder}/{name}/model") else f"{folder}/{name}"
                if name not in seen and os.path.exists(f"{path}/config.json"):
                    seen.add(name)
                    yield name, path
    yield "the shipped model", "examples/demo/model"


def main():
    ll.llama_log_set(silent, None)
    ll.llama_backend_init()
    good, done = True, 0
    with tempfile.TemporaryDirectory() as tmp:
        for name, path in models():
            config = json.load(open(f"{path}/config.json"))
            if "query_pre_attn_scalar" in config and config["query_pre_attn_scalar"] != config["head_dim"]:  # GGUF has no place for another one
                shutil.copytree(path, f"{tmp}/{name}", copy_function=shutil.copyfile)
                path, config["query_pre_attn_scalar"] = f"{tmp}/{name}", config["head_dim"]
                if config["model_type"] == "gemma3_text":  # six blocks in the order that GGUF has a place for
                    config["num_hidden_layers"], config["layer_types"] = 6, ["sliding_attention"] * 5 + ["full_attention"]
                    repeat_blocks(f"{path}/model.safetensors", {4: 0, 5: 1})
                os.chmod(path, 0o755)
                json.dump(config, open(f"{path}/config.json", "w"))
            family = config["model_type"]
            count = 8 if family == "mistral" else 14  # its window, which GGUF's architecture does not have
            ids = 4 + np.arange(count) * 37 % (config["vocab_size"] - 4)
            write_tensors(f"{tmp}/in.safetensors", input_ids=ids[None])
            width = config.get("hidden_size", config.get("n_embd", 0))
            for kind in BLOCKS if width % 256 == 0 or path.startswith("examples") else SMALL:
                gguf = f"{tmp}/m.gguf"
                plain = kind in ("F32", "F16", "BF16")
                failed = lora("convert", "-q", "--force", path, gguf, "--dtype-out", kind.lower()) if plain else lora("quantize", "-q", "--force", "-m", path, "--to", kind.lower(), "-o", gguf)
                if failed:
                    if kind == "F32":
                        print(f"{name}: not written to GGUF: {failed.stderr.strip().splitlines()[-1]}")
                    break
                must("score", "-q", "--dtype", "f32", "-m", path if kind == "F32" else gguf, "-i", f"{tmp}/in.safetensors", "-o", f"{tmp}/out.safetensors")
                bound = BOUND.get(kind, QUANT_BOUND)
                bound = max(bound, 2e-3) if family.startswith(GELU) else bound
                good &= check(f"{name}, {kind}", theirs(gguf, ids), read_logits(f"{tmp}/out.safetensors"), bound)
                done += 1
                if kind != "F32":
                    continue
                slabs = np.stack([ids[None]] * 2)
                write_tensors(f"{tmp}/data.safetensors", input_ids=slabs, labels=slabs)
                tied = config.get("tie_word_embeddings", family.startswith(GELU))  # then llama.cpp's head takes the embedding's adapter for its own, and stops
                for targets in ["all-linear"] if tied else ["all-linear", '["embed_tokens","lm_head"]']:
                    must("train", "-q", "-m", gguf, "-d", f"{tmp}/data.safetensors", "-o", f"{tmp}/peft", "-s", f"target_modules={targets}", "-s", "init_lora_weights=false",
                         "-s", "learning_rate=0.01", "-s", "max_steps=2", "-s", "r=4", "--force")
                    must("convert", "-q", "--force", f"{tmp}/peft", f"{tmp}/a.gguf", "-m", gguf)
                    must("score", "-q", "--dtype", "f32", "-m", gguf, "-a", f"{tmp}/a.gguf", "-i", f"{tmp}/in.safetensors", "-o", f"{tmp}/out.safetensors")
                    what = "all linear layers" if targets == "all-linear" else "embedding and head"
                    good &= check(f"{name}, adapter on {what}", theirs(gguf, ids, f"{tmp}/a.gguf"), read_logits(f"{tmp}/out.safetensors"), bound)
                    done += 1
    print(f"{done} comparisons, {'all within their bounds' if good else 'NOT all within their bounds'}")
    return 0 if good and done else 1


sys.exit(main())
