#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The reference manual, extracted from the public headers: `make docs` writes it to build/docs/reference.md.

The headers are the only source: what a function promises stands above its declaration and nowhere else."""
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "lint"))
import headers  # noqa: E402

ORDER = ["types.h", "status.h", "context.h", "settings.h", "model.h", "adapter.h", "linear.h", "optimizer.h", "trainer.h", "tokenizer.h",
         "generate.h", "combine.h", "backend.h"]


def declaration(text):
    return re.sub(r"^LORA_API ", "", text)


def prose(doc):
    """Purpose first; then the table of arguments and promises as it stands in the header."""
    plain = [line for line in doc]
    split = next((i for i, line in enumerate(plain) if i and re.match(r"\S.*?(\s{2,}|^(Errors|Thread|Since|Returns)\s)", line)), len(plain))
    head, rest = plain[:split], plain[split:]
    out = " ".join(head) + "\n"
    if rest:
        out += "\n```text\n" + "\n".join(rest) + "\n```\n"
    return out


def main():
    names = [h for h in ORDER if h in headers.public_headers()] + [h for h in headers.public_headers() if h not in ORDER + ["lora.h"]]
    functions, structs, enums, callbacks = headers.functions(), headers.structs(), headers.enumerations(), headers.callbacks()
    out = ["# liblora reference", "", "Extracted from `include/lora/*.h` by `make docs`; do not edit. How to read it: an argument that is not",
           "mentioned is borrowed for the call; outputs are untouched on failure; *Thread* names what no other thread may use meanwhile.", "",
           "| header | functions |", "|---|---|"]
    for name in names:
        listed = ", ".join(f"[`{f.name}`](#{f.name})" for f in functions if f.header == name)
        if listed:
            out.append(f"| [`{name}`](#{name.replace('.', '')}) | {listed} |")
    for name in names:
        text = headers.read(name)
        head = re.match(r"/\*(.*?)\*/", text, flags=re.S).group(1)
        out += ["", f"## {name}", "", " ".join(line.strip().lstrip("*").strip() for line in head.strip().splitlines())]
        for header, doc, _, source in enums:
            if header == name:
                out += ["", " ".join(doc), "", "```c", source, "```"]
        for struct in structs:
            if struct.header == name:
                out += ["", f"### struct {struct.name}", "", " ".join(struct.doc), "", "```c", struct.text, "```"]
        for header, called, source, doc in callbacks:
            if header == name:
                out += ["", f"### {called}", "", " ".join(doc), "", "```c", source, "```"]
        for function in functions:
            if function.header == name:
                out += ["", f"### {function.name}", "", "```c", declaration(function.text), "```", "", prose(function.doc).rstrip()]
    print("\n".join(out))


main()
