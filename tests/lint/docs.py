#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The documentation against the sources: `make docs-check`.

readme     shows examples/quickstart.c exactly
links      relative links lead to files that exist
names      every lora_function() named in the text exists, every `make target` too
errors     docs/errors.md has every LORA_E_ code
methods    docs/methods.md has every adapter kind, optimizer, schedule, strategy, combination and search that the library offers
reference  build/docs/reference.md has every public function
"""
import json
import os
import re
import subprocess
import sys

import headers

ROOT = headers.ROOT
passed = failed = skipped = 0


def text_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def report(rule, problems):
    global passed, failed
    failed += bool(problems)
    passed += not problems
    for problem in problems:
        print(f"docs {rule}: {problem}")


pages = ["README.md"] + sorted("docs/" + name for name in os.listdir(os.path.join(ROOT, "docs")) if name.endswith(".md"))
known = {f.name for f in headers.functions()} | {s.name for s in headers.structs()} | {c[1] for c in headers.callbacks()}
for header in headers.public_headers():
    known |= set(re.findall(r"\b(lora_\w+)\b", headers.read(header)))
makefile = text_of("Makefile") + "".join(text_of(os.path.join(path, "rules.mk")) for path in ("tests/fuzz", "examples/experiments") if os.path.exists(os.path.join(ROOT, path, "rules.mk")))
targets = set(re.findall(r"^([a-z][\w-]*)(?: [\w -]+)?:", makefile, flags=re.M)) | {w for line in re.findall(r"^\.PHONY:((?:.*\\\n)*.*)", makefile, flags=re.M) for w in line.split()}

links, names = [], []
for page in pages:
    text = text_of(page)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith(("http://", "https://", "#")) and not os.path.exists(os.path.join(ROOT, os.path.dirname(page), link.split("#")[0])):
            links.append(f"{page}: {link} leads nowhere")
    for name in sorted(set(re.findall(r"\b(lora_[a-z]+_\w*[a-z])\b", text))):
        if name not in known and not name.startswith(("lora_alpha", "lora_dropout", "lora_A", "lora_B")):
            names.append(f"{page}: {name} is in no header")
    for target in sorted(set(re.findall(r"`make ([a-z][\w-]*)", text) + re.findall(r"^make ([a-z][\w-]*)", text, flags=re.M))):
        if target not in targets:
            names.append(f"{page}: there is no target {target}")
report("links", links)
report("names", names)

readme = text_of("README.md")
report("readme", [] if "```c\n" + text_of("examples/quickstart.c") + "```" in readme else ["README.md does not show examples/quickstart.c as it is"])

codes = [name for name in headers.constants() if name.startswith("LORA_E_")]
report("errors", [f"{code} is not in docs/errors.md" for code in codes if f"`{code}`" not in text_of("docs/errors.md")])

program = os.path.join(ROOT, "build", "bin", "lora")
if os.path.exists(program):
    methods, missing = text_of("docs/methods.md"), []
    for family in ("adapter", "optimizer", "schedule", "strategy", "combination", "search"):
        done = subprocess.run([program, "methods", family, "--json"], capture_output=True, text=True, cwd=ROOT)
        members = [json.loads(line).get("name") for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not members:
            missing.append(f"`lora methods {family} --json` gave nothing: {done.stderr.strip()}")
        missing += [f"{family} {member} has no row in docs/methods.md" for member in members if f"**{member}**" not in methods]
    report("methods", missing)
else:
    print("SKIP methods: build/bin/lora is not built")
    skipped += 1

reference = text_of("build/docs/reference.md")
report("reference", [f"{f.name} is not in the reference" for f in headers.functions() if f"### {f.name}\n" not in reference])
print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
sys.exit(failed > 0)
