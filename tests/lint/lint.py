#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""House rules that a compiler does not know. `make lint` runs it; exit status 1 when a rule is broken.

layers      src/<folder>/ includes only what docs/layers.txt allows; cli includes public headers only
docstrings  every LORA_API function: a purpose line, Thread, Since, and Errors when it returns lora_status
banned      calls that a library must not make (abort, printf, strtod, ...); src/cli is a program and is free
length      files over 1,000 lines fail, over 600 and functions over 60 lines are warned about
names       C files of the library have unique names, and so have those of src/cli; every family has a registry.c, and a file of
            src/api is named after the header that it implements
paths       no file names a folder of the machine that it was written on
format      lines clang-format would change, as a figure only
"""
import os
import re
import shutil
import subprocess
import sys

import headers

ROOT = headers.ROOT
BANNED = ("abort exit _exit quick_exit atexit printf vprintf puts putchar perror sprintf vsprintf strcpy strcat strtod strtof atof atoi atol "
          "strtok gets rand srand setlocale assert signal sigaction system popen longjmp").split()
# Where a banned or restricted call is right, and why.
ALLOWED = {
    ("src/api/context.c", "getenv"),  # the one place that reads the environment, at context creation
}
OWN_CODE = ("src", "include", "tests", "examples")
MAX_LINES, WARN_LINES, WARN_FUNCTION = 1000, 600, 60

passed = failed = 0
warnings = []


def report(rule, problems):
    global passed, failed
    if problems:
        failed += 1
        for problem in problems:
            print(f"{rule}: {problem}")
    else:
        passed += 1


def walk(*folders, ends=(".c", ".h")):
    for folder in folders:
        for path, names, files in os.walk(os.path.join(ROOT, folder)):
            names[:] = sorted(n for n in names if n not in ("__pycache__", "golden", "old", "corpus"))
            for name in sorted(files):
                if name.endswith(ends):
                    yield os.path.relpath(os.path.join(path, name), ROOT)


def text_of(path):
    with open(os.path.join(ROOT, path), encoding="utf-8", errors="replace") as file:
        return file.read()


def code_of(text):
    """The text with comments and string contents blanked, lines kept."""
    def blank(match):
        piece = match.group(0)
        return piece if piece[0] not in "/\"'" else re.sub(r"[^\n]", " ", piece)
    return re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", blank, text, flags=re.S)


def layers():
    allowed = {}
    for line in text_of("docs/layers.txt").splitlines():
        if line.strip() and not line.startswith("#"):
            folder, _, rest = line.partition(":")
            allowed[folder.strip()] = set(rest.split())
    problems = []
    for path in walk("src"):
        parts = path.split(os.sep)
        folder = parts[1]
        if len(parts) < 3:
            continue
        if folder not in allowed:
            problems.append(f"{path}: folder {folder} is not in docs/layers.txt")
            continue
        for number, line in enumerate(text_of(path).splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not match:
                continue
            target = match.group(1).split("/")[0] if "/" in match.group(1) else folder
            if target in ("lora", folder) or target in allowed[folder] or os.path.exists(os.path.join(ROOT, os.path.dirname(path), match.group(1))):
                continue
            problems.append(f"{path}:{number}: {folder} may not include {match.group(1)}")
    report("layers", problems)


def docstrings():
    problems = []
    for function in headers.functions():
        where = f"include/lora/{function.header}:{function.line}: {function.name}"
        keys = {line.split(" ")[0] for line in function.doc}
        if not function.doc or not function.doc[0] or not function.doc[0][0].isupper():
            problems.append(f"{where}: no purpose line")
        if function.result == "lora_status" and "Errors" not in keys:
            problems.append(f"{where}: returns lora_status, but has no Errors line")
        for key in ("Thread", "Since"):
            if key not in keys:
                problems.append(f"{where}: no {key} line")
        for line in function.doc:
            if re.match(r"Thread\s", line) and not re.match(r"Thread\s+(any|exclusive\(\w+\)|setup|callback)", line):
                problems.append(f"{where}: Thread must be any, exclusive(<object>), setup or callback")
    for struct in headers.structs():
        if not struct.doc:
            problems.append(f"include/lora/{struct.header}:{struct.line}: struct {struct.name} has no comment")
    report("docstrings", problems)


def banned():
    problems = []
    pattern = re.compile(r"(?<![\w.>])(" + "|".join(BANNED + ["getenv", "secure_getenv"]) + r")\s*\(")
    for path in walk("src"):
        if path.startswith(os.path.join("src", "cli")):
            continue
        for number, line in enumerate(code_of(text_of(path)).splitlines(), 1):
            for match in pattern.finditer(line):
                if (path.replace(os.sep, "/"), match.group(1)) not in ALLOWED:
                    problems.append(f"{path}:{number}: {match.group(1)}() is banned in the library")
    report("banned", problems)


def lengths():
    problems = []
    for path in walk(*OWN_CODE, ends=(".c", ".h", ".cpp")):
        text = text_of(path)
        lines = text.count("\n")
        if lines > MAX_LINES:
            problems.append(f"{path}: {lines} lines (over {MAX_LINES})")
        elif lines > WARN_LINES:
            warnings.append(f"{path}: {lines} lines (over {WARN_LINES})")
        if not path.endswith(".c") or not path.startswith("src"):
            continue
        start = name = None
        source = code_of(text).splitlines()
        for number, line in enumerate(source, 1):
            if line.startswith("{"):
                start = number
                for back in range(number - 2, max(number - 8, -1), -1):
                    match = re.search(r"\b(\w+)\s*\(", source[back])
                    if match and not source[back].startswith(("\t", " ")):
                        name = match.group(1)
                        break
            elif line.startswith("}") and start:
                if number - start - 1 > WARN_FUNCTION:
                    warnings.append(f"{path}:{start}: {name}() has {number - start - 1} lines (over {WARN_FUNCTION})")
                start = None
    report("length", problems)


def names():
    seen, problems = {}, []
    for path in walk("src"):
        name = os.path.basename(path)
        if not name.endswith(".c") or name == "registry.c" or path.startswith(os.path.join("src", "api")):
            continue
        key = (path.startswith(os.path.join("src", "cli")), name)
        if key in seen:
            problems.append(f"{path} and {seen[key]} have the same name")
        seen[key] = path
    report("names", problems)


def paths():
    problems = []
    # Spelled in two parts, so that this file does not contain what it looks for.
    words = [a + b for a, b in (("/wo", "rk/"), ("/ho", "me/"), ("/opt/", "peers"), ("/tmp/", "brief"), ("/ro", "ot/"))]
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True).stdout.splitlines()
    for path in listed or list(walk(*OWN_CODE, "docs", ends=("",))):
        full = os.path.join(ROOT, path)
        if not os.path.isfile(full) or os.path.islink(full):
            continue
        with open(full, "rb") as file:
            data = file.read()
        if b"\0" in data[:8192]:
            continue
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            for word in words:
                if word in line:
                    problems.append(f"{path}:{number}: names a folder of one machine ({word})")
    report("paths", problems)


def formatting():
    if not shutil.which("clang-format"):
        print("SKIP format: no clang-format here")
        return
    changed = total = 0
    for path in walk("src", "include"):
        before = text_of(path)
        after = subprocess.run(["clang-format", path], cwd=ROOT, capture_output=True, text=True)
        if after.returncode:
            warnings.append(f"clang-format: {after.stderr.strip().splitlines()[0]}")
            return
        total += 1
        changed += before != after.stdout
    print(f"format: clang-format would change {changed} of {total} files (advice only)")


for rule in (layers, docstrings, banned, lengths, names, paths, formatting):
    rule()
for warning in warnings:
    print("warning:", warning)
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
