#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Check with PEFT that the demo's model takes to a style: train LoRA on all linear layers, print losses and samples.

    pip install torch transformers peft
    python3 check_adapt.py [--model model] [--data pirate.txt] [--steps N] [--learning-rate R] ...

Nine tenths of the text are trained on, the last tenth is held out. No part of liblora is used here: this is the
reference that the library's own demo is compared with.
"""
import argparse
import random
import time

import peft
import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def held_out_loss(model, ids, length):
    model.eval()
    with torch.no_grad():
        x = ids[:len(ids) // length * length].view(-1, length)
        return model(input_ids=x, labels=x).loss.item()


def samples(model, tokenizer, prompts, seed, length):
    model.eval()
    for prompt in prompts:
        for temperature in (0, 0.8):
            torch.manual_seed(seed)
            x = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
            chance = dict(do_sample=True, temperature=temperature, top_k=40) if temperature else dict(do_sample=False)
            out = model.generate(**x, max_new_tokens=length, **chance)
            print("--- prompt %r, temperature %s\n%s" % (prompt, temperature, tokenizer.decode(out[0], skip_special_tokens=True)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="model")
    parser.add_argument("--data", default="pirate.txt")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", nargs="*", default=["", "One morning, Anna"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    dice = random.Random(args.seed)
    print("versions: torch %s transformers %s peft %s" % (torch.__version__, transformers.__version__, peft.__version__))

    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.model)
    model = LlamaForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    with open(args.data, encoding="utf-8") as file:
        ids = torch.tensor(tokenizer(file.read()).input_ids)
    cut = len(ids) * 9 // 10
    train, held = ids[:cut], ids[cut:]
    print("tokens: %d for training, %d held out" % (len(train), len(held)))
    print("held-out loss before: %.4f" % held_out_loss(model, held, args.length))
    samples(model, tokenizer, args.prompts, args.seed, args.length)

    model = peft.get_peft_model(model, peft.LoraConfig(r=args.rank, lora_alpha=args.alpha, target_modules=LINEARS,
                                                       lora_dropout=0.0, task_type="CAUSAL_LM"))
    trained = [p for p in model.parameters() if p.requires_grad]
    print("adapter: %d parameters" % sum(p.numel() for p in trained))
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.0)
    start, recent = time.time(), []
    model.train()
    for step in range(args.steps):
        for group in optimizer.param_groups:  # ten steps up, then straight down to zero
            group["lr"] = args.learning_rate * min(1.0, (step + 1) / 10) * (1 - step / args.steps)
        at = [int(dice.random() * (len(train) - args.length)) for _ in range(args.batch)]
        x = torch.stack([train[i:i + args.length] for i in at])
        loss = model(input_ids=x, labels=x).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        recent = (recent + [loss.item()])[-10:]
        if step % 25 == 0 or step == args.steps - 1:
            print("step %4d  loss %.4f" % (step + 1, loss.item()), flush=True)
    print("training: %d steps of %d x %d tokens, %.1f s, loss %.4f (last 10 steps)" % (
        args.steps, args.batch, args.length, time.time() - start, sum(recent) / len(recent)))
    print("held-out loss after: %.4f" % held_out_loss(model, held, args.length))
    samples(model, tokenizer, args.prompts, args.seed, args.length)


if __name__ == "__main__":
    main()
