"""CPU seconds of the package tokenizers for a text, on one thread, in the form of bench_tokenizer's line.
usage: tokenizers.py TOKENIZER.JSON TEXT [rounds]        Needs tokenizers from PyPI.
"""
import os, sys, time

sys.path.pop(0)  # this folder: `import tokenizers` must find the package, not this file
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer  # noqa: E402

path, text, rounds = sys.argv[1], open(sys.argv[2], encoding="utf-8", newline="").read(), int(sys.argv[3]) if len(sys.argv) > 3 else 5
start = time.process_time()
t = Tokenizer.from_file(path)
opened, encode, decode = time.process_time() - start, 1e9, 1e9
for _ in range(rounds):
    start = time.process_time()
    ids = t.encode(text, add_special_tokens=False).ids
    middle = time.process_time()
    t.decode(ids, skip_special_tokens=False)
    encode, decode = min(encode, middle - start), min(decode, time.process_time() - middle)
n = len(text.encode())
print(f"tokenizers,{path},{n},{len(ids)},{opened:.3f},{encode:.3f},{decode:.3f},{n / encode / 1e6:.1f}")
