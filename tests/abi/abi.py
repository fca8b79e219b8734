#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The ABI gate: abi.py LIBDIR WORKDIR [--update]

names      functions of include/lora = tests/abi/symbols.txt = src/lora.map = what the library exports; names are never taken away
constants  every enumerator and ABI number, and the offset of every struct member, against tests/abi/constants.txt: lines are only added
link       a C program that takes the address of every public function links against the shared library and runs
abidw      the types as libabigail sees them, against tests/abi/liblora-<minor>.abi.xml; appended members and new functions are fine
old        tests/abi/old_program.c, built with the headers of each released version kept in tests/abi/old/, runs on today's library

--update records today's names, constants and types as the state to hold (it refuses when something was taken away or changed).
"""
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lint"))
import headers  # noqa: E402

ROOT = headers.ROOT
libdir, work = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
update = "--update" in sys.argv[3:]
CC = os.environ.get("CC", "cc").split()
passed = failed = skipped = 0
os.makedirs(work, exist_ok=True)


def verdict(name, problems):
    global passed, failed
    for problem in problems:
        print(f"abi {name}: {problem}")
    if problems:
        failed += 1
    else:
        passed += 1


def skip(text):
    global skipped
    skipped += 1
    print("SKIP", text)


def lines_of(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [line for line in file.read().splitlines() if line and not line.startswith("#")]


def record(path, head, lines):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("".join(f"# {line}\n" for line in head) + "".join(line + "\n" for line in lines))


def compile_and_run(name, source, *flags, run=True):
    path = os.path.join(work, name + ".c")
    with open(path, "w", encoding="utf-8") as file:
        file.write(source)
    return build_and_run(name, path, *flags, run=run)


def build_and_run(name, path, *flags, include=os.path.join(ROOT, "include"), run=True):
    program = os.path.join(work, name)
    built = subprocess.run([*CC, "-std=c99", "-Wall", "-Werror", "-I" + include, path, "-o", program, *flags], capture_output=True, text=True)
    if built.returncode:
        return None, built.stderr.strip()
    if not run:
        return "", ""
    done = subprocess.run([program], capture_output=True, text=True, env={**os.environ, "LD_LIBRARY_PATH": libdir})
    return (done.stdout, "") if done.returncode == 0 else (None, f"exit status {done.returncode}: {(done.stdout + done.stderr).strip()}")


link_flags = ["-L" + libdir, "-llora", "-Wl,-z,now"]
today = sorted(f.name for f in headers.functions() if f.name not in headers.PLUGIN_ONLY)

# ---- names
symbols_file = os.path.join(HERE, "symbols.txt")
kept = lines_of(symbols_file)
problems = [f"{name} was taken away" for name in kept if name not in today]
if update and not problems:
    record(symbols_file, ["Every function that liblora exports. `make abi UPDATE=1` adds new ones; none is ever taken away."], today)
    kept = today
problems += [f"{name} is new: record it with `make abi UPDATE=1`" for name in today if name not in kept]
with open(os.path.join(ROOT, "src", "lora.map"), encoding="utf-8") as file:
    mapped = sorted(re.findall(r"^\s*(lora_\w+);", file.read(), flags=re.M))
problems += [f"{name} is in a header, but not in src/lora.map" for name in today if name not in mapped]
problems += [f"{name} is in src/lora.map, but in no header" for name in mapped if name not in today]
dump = subprocess.run(["nm", "-D", "--defined-only", os.path.join(libdir, "liblora.so")], capture_output=True, text=True)
exported = sorted({line.split()[-1].split("@")[0] for line in dump.stdout.splitlines() if " A " not in line})
problems += [f"{name} is not exported by liblora.so" for name in today if name not in exported]
problems += [f"liblora.so exports {name}, which is in no header" for name in exported if name not in today]
verdict("names", problems)

# ---- constants and offsets
source = "#include <stdio.h>\n#include <stddef.h>\n#include <lora/lora.h>\n#include <lora/backend.h>\nint main(void)\n{\n"
for name in headers.constants():
    if name == "LORA_PRIM_COUNT":  # one past the last primitive: it grows with every new one
        continue
    source += f'\tprintf("{name} %lld\\n", (long long){name});\n'
for struct in headers.structs():
    for member in struct.members:
        source += f'\tprintf("{struct.name}.{member} %lld\\n", (long long)offsetof({struct.name}, {member}));\n'
output, error = compile_and_run("constants", source + "\treturn 0;\n}\n")
constants_file = os.path.join(HERE, "constants.txt")
if output is None:
    verdict("constants", [error])
else:
    now, then = output.splitlines(), lines_of(constants_file)
    problems = [f"'{line}' changed or went away" for line in then if line not in now]
    if update and not problems:
        record(constants_file, ["Value of every public constant, offset of every struct member (64-bit). Lines are only added: `make abi UPDATE=1`."], now)
        then = now
    problems += [f"'{line}' is new: record it with `make abi UPDATE=1`" for line in now if line not in then]
    verdict("constants", problems)

# ---- every function links
source = "#include <stdio.h>\n#include <lora/lora.h>\ntypedef void (*any_function)(void);\n"
source += "static const any_function all[] = {\n" + "".join(f"\t(any_function){name},\n" for name in today) + "};\n"
source += ("int main(void)\n{\n\tsize_t n = 0;\n\tfor (size_t i = 0; i < sizeof all / sizeof *all; i++) n += all[i] != 0;\n"
           "\tprintf(\"%lu\\n\", (unsigned long)n);\n\treturn lora_abi() != LORA_ABI;\n}\n")
output, error = compile_and_run("links", source, *link_flags)
verdict("link", [error] if output is None else [] if int(output) == len(today) else [f"{output} of {len(today)} functions linked"])

# ---- types
minor = re.search(r"^SOMAJOR := (\S+)", open(os.path.join(ROOT, "Makefile"), encoding="utf-8").read(), flags=re.M).group(1)
baseline = os.path.join(HERE, f"liblora-{minor}.abi.xml")
if not shutil.which("abidw") or not shutil.which("abidiff"):
    skip("abidw: libabigail is not here (package abigail-tools)")
else:
    # A library with the same functions and no insides: its debug information holds the public types and nothing else. That liblora
    # itself has these functions is what the compiler (it includes the headers) and the check of the names see to.
    shim = os.path.join(work, "liblora.so")
    with open(os.path.join(work, "shim.c"), "w", encoding="utf-8") as file:
        file.write("#include <lora/lora.h>\n" + "".join(f.text.rstrip(";") + " { __builtin_trap(); }\n" for f in headers.functions() if f.name in today))
    subprocess.run([*CC, "-std=c99", "-g", "-O0", "-w", "-shared", "-fPIC", f"-ffile-prefix-map={ROOT}=.", "-I" + os.path.join(ROOT, "include"),
                    os.path.join(work, "shim.c"), "-o", shim], check=True)
    if os.path.exists(baseline):
        done = subprocess.run(["abidiff", "--no-added-syms", "--suppressions", os.path.join(HERE, "appended.suppr"), baseline, shim], capture_output=True,
                              text=True)
        verdict("abidw", [done.stdout.strip() or done.stderr.strip()] if done.returncode else [])
    elif not update:
        skip(f"abidw: {os.path.basename(baseline)} is not recorded yet (make abi UPDATE=1)")
    if update and not failed:
        subprocess.run(["abidw", "--no-corpus-path", "--no-comp-dir-path", "--type-id-style", "hash", "--out-file", baseline, shim], check=True)

# ---- programs built with older headers
old = os.path.join(HERE, "old")
versions = sorted(os.listdir(old)) if os.path.isdir(old) else []
if not versions:
    skip("old headers: none kept yet in tests/abi/old")
for version in versions:
    output, error = build_and_run("old-" + version, os.path.join(HERE, "old_program.c"), *link_flags, include=os.path.join(old, version))
    verdict(f"old {version}", [error] if output is None else [])

print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
sys.exit(failed > 0)
