#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Make the demo's model from nothing: generate the stories, train a tokenizer, train a small Llama, write model/.

    pip install torch transformers tokenizers safetensors
    python3 make_model.py [--out model] [--steps N] [--seed N] [--threads N]

The tokenizer sees all three texts of make_text.py, the model only the stories. Training is in float32; the weights
are rounded to bfloat16 once, at the end, and the losses and samples printed last are those of the rounded model.
"""
import argparse
import json
import math
import os
import random
import time

import numpy
import safetensors
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import make_text

VOCABULARY = 1024
CONTEXT = 256
HELD_OUT_SEED = 1001


def make_tokenizer(out, stories):
    """Byte-level BPE in the form that transformers loads: <s> and </s>, and <s> put before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    # Four parts stories, one part each of the other styles, so that their words are not cut into single letters.
    styles = make_text.pirate(), make_text.recipes()
    share, size = [], 0
    for text in stories:
        share.append(text)
        size += len(text)
        if size > 400_000:
            break
    tokenizer.train_from_iterator(share + styles[0] + styles[1] + ["\n\n"] * 2000, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                                   model_max_length=CONTEXT, clean_up_tokenization_spaces=False)
    fast.save_pretrained(out)
    path = os.path.join(out, "tokenizer_config.json")
    with open(path, "w", encoding="utf-8", newline="\n") as file:  # the class name that every version knows
        json.dump({"bos_token": "<s>", "clean_up_tokenization_spaces": False, "eos_token": "</s>",
                   "model_max_length": CONTEXT, "tokenizer_class": "PreTrainedTokenizerFast"}, file, indent=2)
        file.write("\n")
    return tokenizer


def encode(tokenizer, paragraphs, dice):
    """One stream of tokens. Documents of one to four paragraphs: <s> text [blank line, text]... </s>."""
    bos, eos = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    documents, at = [], 0
    while at < len(paragraphs):
        n = 1 + int(dice.random() * 4)
        documents.append("\n\n".join(paragraphs[at:at + n]))
        at += n
    stream = []
    for document in tokenizer.encode_batch(documents, add_special_tokens=False):
        stream += [bos] + document.ids + [eos]
    return torch.tensor(stream, dtype=torch.long)


def loss_over(model, stream, limit=64):
    """Mean loss per token over the first `limit` windows."""
    model.eval()
    total, windows = 0.0, min(limit, (len(stream) - 1) // CONTEXT)
    with torch.no_grad():
        for i in range(windows):
            x = stream[i * CONTEXT:(i + 1) * CONTEXT].unsqueeze(0)
            total += model(input_ids=x, labels=x).loss.item()
    model.train()
    return total / windows


def sample(model, tokenizer, prompt, temperature, seed, length=140):
    model.eval()
    torch.manual_seed(seed)
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    chance = dict(do_sample=True, temperature=temperature, top_k=0) if temperature else dict(do_sample=False)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, **chance)
    return tokenizer.decode(out[0].tolist())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="model")
    parser.add_argument("--steps", type=int, default=4600)
    parser.add_argument("--batch", type=int, default=8, help="windows of %d tokens in a step" % CONTEXT)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(args.seed)
    dice = random.Random(args.seed)
    os.makedirs(args.out, exist_ok=True)
    print("versions:", " ".join("%s %s" % (m.__name__, m.__version__)
                                for m in (torch, transformers, tokenizers, safetensors, numpy)))

    start = time.time()
    stories = make_text.stories()
    held_out = make_text.stories(seed=HELD_OUT_SEED, size=100_000)
    print("text: %d stories, %d bytes, %.1f s" % (len(stories), sum(map(len, stories)), time.time() - start))

    start = time.time()
    tokenizer = make_tokenizer(args.out, stories)
    stream, held = encode(tokenizer, stories, dice), encode(tokenizer, held_out, dice)
    print("tokenizer: %d entries, %d training tokens, %.1f s" % (tokenizer.get_vocab_size(), len(stream), time.time() - start))

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id("<s>"), eos_token_id=tokenizer.token_to_id("</s>"), pad_token_id=None)
    model = LlamaForCausalLM(config).float()
    parameters = sum(p.numel() for p in model.parameters())
    print("model: %d parameters" % parameters)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
                                  lr=args.learning_rate, betas=(0.9, 0.95), eps=1e-8)
    warmup = 200
    start, recent = time.time(), []
    model.train()
    for step in range(args.steps):
        done = max(0, step - warmup) / max(1, args.steps - warmup)
        rate = args.learning_rate * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        at = [int(dice.random() * (len(stream) - CONTEXT - 1)) for _ in range(args.batch)]
        x = torch.stack([stream[i:i + CONTEXT] for i in at])
        loss = model(input_ids=x, labels=x).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent = (recent + [loss.item()])[-200:]
        if step % 200 == 199 or step == args.steps - 1:
            print("step %5d  loss %.4f (mean of the last %d)  lr %.2e  %.0f tokens/s" % (
                step + 1, sum(recent) / len(recent), len(recent), rate,
                (step + 1) * args.batch * CONTEXT / (time.time() - start)), flush=True)
    seconds = time.time() - start

    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(args.out)
    # Plain keys that every reader of Llama configurations knows, whatever this version of transformers writes.
    path = os.path.join(args.out, "config.json")
    with open(path, encoding="utf-8") as file:
        written = json.load(file)
    for name in ("transformers_version", "dtype", "rope_parameters"):
        written.pop(name, None)
    written.update(torch_dtype="bfloat16", rope_theta=10000.0, rope_scaling=None)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        json.dump(dict(sorted(written.items())), file, indent=2)
        file.write("\n")

    model = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)  # what was written, not what was trained
    print("training: %d steps of %d x %d tokens, %.0f s" % (args.steps, args.batch, CONTEXT, seconds))
    print("train loss %.4f (last %d steps, float32)" % (sum(recent) / len(recent), len(recent)))
    print("held-out loss: stories %.4f" % loss_over(model, held), end="")
    for name, text in (("pirate", make_text.pirate()), ("recipe", make_text.recipes())):
        ids = torch.tensor(tokenizer.encode("\n\n".join(text)).ids)
        print(", %s %.4f" % (name, loss_over(model, ids)), end="")
    print()
    for prompt, temperature in (("", 0), ("One morning, Anna", 0), ("", 0.8), ("", 0.8), ("", 0.8), ("Tom had", 0.8)):
        seed = int(dice.random() * 1000)
        print("--- prompt %r, temperature %s, seed %d\n%s" % (prompt, temperature, seed, sample(model, tokenizer, prompt, temperature, seed)))


if __name__ == "__main__":
    main()
