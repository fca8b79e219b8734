#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Lines and branches that the tests reached, by folder of src/: coverage.py BUILD_FOLDER (after a run of FLAVOR=cov)."""
import collections
import json
import os
import subprocess
import sys

build = sys.argv[1]
lines = collections.Counter()
hit = collections.Counter()
branches = collections.Counter()
taken = collections.Counter()
for path, _, files in os.walk(build):
    notes = [os.path.join(path, name) for name in files if name.endswith(".gcda") and "/tests/" not in path + "/"]
    if not notes:
        continue
    done = subprocess.run(["gcov", "--json-format", "--stdout", "--branch-probabilities", *notes], capture_output=True, text=True)
    for text in done.stdout.splitlines():
        for entry in json.loads(text)["files"]:
            parts = entry["file"].removeprefix("./").split("/")
            if parts[0] != "src" or len(parts) < 3:
                continue
            for line in entry["lines"]:
                for folder in (parts[1], "all"):
                    lines[folder] += 1
                    hit[folder] += line["count"] > 0
                    branches[folder] += len(line["branches"])
                    taken[folder] += sum(branch["count"] > 0 for branch in line["branches"])
print(f"{'folder':12} {'lines':>7} {'hit':>7} {'%':>6}   {'branches':>8} {'taken':>7} {'%':>6}")
for folder in sorted(lines, key=lambda f: (f == "all", f)):
    share = 100 * hit[folder] / lines[folder]
    arms = 100 * taken[folder] / branches[folder] if branches[folder] else 100.0
    print(f"{folder:12} {lines[folder]:7} {hit[folder]:7} {share:6.1f}   {branches[folder]:8} {taken[folder]:7} {arms:6.1f}")
sys.exit(not lines)
