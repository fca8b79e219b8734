# SPDX-License-Identifier: MIT
"""Read the public headers: every function with its docstring, every struct with its members, every constant.

The headers keep to a plain style (one declaration after one comment, no conditional code but guards), so lines and regular expressions
are enough. Used by lint.py, docs.py, abi.py and docs/reference.py.
"""
import os
import re

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
FOLDER = os.path.join(ROOT, "include", "lora")
# A plug-in exports this one, the library does not.
PLUGIN_ONLY = {"lora_backend_entry"}


class Function:
    def __init__(self, header, line, name, text, doc):
        self.header, self.line, self.name, self.text, self.doc = header, line, name, text, doc

    @property
    def result(self):
        return self.text[len("LORA_API"):self.text.index(self.name)].strip()


class Struct:
    def __init__(self, header, line, name, text, doc):
        self.header, self.line, self.name, self.text, self.doc = header, line, name, text, doc

    @property
    def members(self):
        body = re.sub(r"/\*.*?\*/", "", self.text[self.text.index("{") + 1:self.text.rindex("}")], flags=re.S)
        names = []
        for part in body.split(";"):
            part = " ".join(part.split())
            if not part:
                continue
            pointer = re.search(r"\(\*(\w+)\)\s*\(", part)
            if pointer:
                names.append(pointer.group(1))
                continue
            for piece in part.split(","):
                names.append(re.search(r"(\w+)\s*(\[[^\]]*\])?$", piece.strip()).group(1))
        return names


def comment_before(text, at):
    """The comment that ends right before position at, as plain lines."""
    head = re.sub(r"typedef int32_t lora_\w+;$", "", text[:at].rstrip()).rstrip()  # the type of the constants that follow
    if not head.endswith("*/"):
        return []
    body = head[head.rindex("/*") + 2:-2]
    return [re.sub(r"^\s*\* ?", "", line).rstrip() if i else line.strip() for i, line in enumerate(body.rstrip().split("\n"))]


def public_headers():
    return sorted(name for name in os.listdir(FOLDER) if name.endswith(".h"))


def read(name, folder=FOLDER):
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return file.read()


def functions(folder=FOLDER):
    found = []
    for header in sorted(os.listdir(folder)):
        text = read(header, folder)
        for match in re.finditer(r"^LORA_API\b[^;{]*;", text, flags=re.M):
            name = re.search(r"\b(lora_\w+)\s*\(", match.group(0)).group(1)
            line = text.count("\n", 0, match.start()) + 1
            found.append(Function(header, line, name, " ".join(match.group(0).split()), comment_before(text, match.start())))
    return found


def structs(folder=FOLDER):
    found = []
    for header in sorted(os.listdir(folder)):
        text = read(header, folder)
        for match in re.finditer(r"^typedef struct (lora_\w+) \{.*?^\} \1;", text, flags=re.M | re.S):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Struct(header, line, match.group(1), match.group(0), comment_before(text, match.start())))
    return found


def callbacks(folder=FOLDER):
    found = []
    for header in sorted(os.listdir(folder)):
        text = read(header, folder)
        for match in re.finditer(r"^typedef [^;{]*\(\*(lora_\w+)\)\([^;]*;", text, flags=re.M):
            found.append((header, match.group(1), " ".join(match.group(0).split()), comment_before(text, match.start())))
    return found


def enumerations(folder=FOLDER):
    """(header, comment, [(constant, comment)]) of each enum."""
    found = []
    for header in sorted(os.listdir(folder)):
        text = read(header, folder)
        for match in re.finditer(r"^enum \{(.*?)\};", text, flags=re.M | re.S):
            items = re.findall(r"\b(LORA_\w+)\s*=", re.sub(r"/\*.*?\*/", "", match.group(1), flags=re.S))
            found.append((header, comment_before(text, match.start()), items, match.group(0)))
    return found


def constants(folder=FOLDER):
    names = [name for entry in enumerations(folder) for name in entry[2]]
    for header in sorted(os.listdir(folder)):
        names += re.findall(r"^#define (LORA_\w*ABI)\b", read(header, folder), flags=re.M)
    return names
