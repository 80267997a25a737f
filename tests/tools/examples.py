"""The examples of a manual page or of the README, as they would be pasted.

    examples.py FILE SECTION        each literal block of the section, one after the other, ended by a line `--`
"""

import re
import sys

path, section = sys.argv[1:]
lines = open(path).read().splitlines()


def manual():
    inside, block = False, None
    for line in lines:
        if line.startswith(".Sh "):
            inside = line[4:].strip('"') == section
        elif inside and line.startswith(".Bd -literal"):
            block = []
        elif block is not None and line == ".Ed":
            yield block
            block = None
        elif block is not None:
            # mdoc's own escapes: \e is a backslash, \& is nothing.
            block.append(line.replace("\\&", "").replace("\\e", "\\"))


def readme():
    inside, block = False, []
    for line in lines + ["## "]:
        if line.startswith("    ") or (not line and block):
            if inside:
                block.append(line[4:])
            continue
        if block:
            yield block
            block = []
        if line.startswith("## "):
            inside = line[3:] == section


for block in readme() if path.endswith(".md") else manual():
    print(re.sub(r"\n+$", "", "\n".join(block)))
    print("--")
