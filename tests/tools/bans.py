#!/usr/bin/env python3
"""Checks the dependency tree against deny.toml, and the source for async code.

cargo-deny does the first part too and reads the same file (`make deny`), but building it takes longer than building
posthaste. This needs only cargo and Python: licences, banned crates, sources and unexplained duplicates.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
CARGO = os.environ.get("CARGO", "cargo").split()
# What makes a program asynchronous; design: no async runtime in the default tree.
ASYNC_SOURCE = re.compile(r"\basync\s+(fn|move\b|\{)|\.await\b|\bblock_on\s*\(")


def cargo(*args: str) -> str:
    return subprocess.run([*CARGO, *args], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def tree(*args: str) -> list[tuple[str, str]]:
    """(name, version) of every crate in the tree of this machine's platform."""
    out = cargo("tree", "--locked", "--prefix", "none", "--format", "{p}", *args)
    rows = {tuple(line.split()[:2]) for line in out.splitlines() if line.strip()}
    return sorted((name, version.removeprefix("v")) for name, version in rows)


def allowed(expression: str, allow: set[str]) -> bool:
    """An SPDX expression: AND binds tighter than OR, the old `/` means OR; parentheses as written."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def either() -> bool:
        result = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            result = both() or result
        return result

    def both() -> bool:
        result = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            result = one() and result
        return result

    def one() -> bool:
        token = tokens.pop(0)
        if token == "(":
            result = either()
            tokens.pop(0)
            return result
        if tokens and tokens[0] == "WITH":
            tokens.pop(0)
            token += " WITH " + tokens.pop(0)
        return token in allow

    return either()


def main() -> int:
    faults = []
    deny = tomllib.loads((ROOT / "deny.toml").read_text())
    everything, shipped = tree("-e", "normal,build,dev"), tree("-e", "normal")

    allow = set(deny["licenses"]["allow"])
    # Only this machine's platform, so that nothing is downloaded for others.
    host = re.search(r"^host: (.*)$", cargo("-vV"), re.M)[1]
    metadata = json.loads(cargo("metadata", "--locked", "--format-version", "1", "--filter-platform", host))
    packages = {(p["name"], p["version"]): p for p in metadata["packages"]}
    for key in everything:
        package = packages[key]
        if not allowed(package["license"] or "none", allow):
            faults.append(f"{key[0]} {key[1]}: licence {package['license']} is not allowed in deny.toml")
        if package["source"] and not package["source"].startswith("registry+"):
            faults.append(f"{key[0]} {key[1]}: comes from {package['source']}, not from the registry")

    banned = {entry["crate"]: entry["reason"] for entry in deny["bans"]["deny"]}
    for name, version in shipped:
        if name in banned:
            faults.append(f"{name} {version}: banned: {banned[name]}")

    explained = {entry["crate"] for entry in deny["bans"]["skip"]}
    versions: dict[str, list[str]] = {}
    for name, version in shipped:
        versions.setdefault(name, []).append(version)
    for name, found in versions.items():
        odd = [v for v in found if f"{name}@{v}" not in explained]
        if len(odd) > 1:
            faults.append(f"{name}: {', '.join(found)}: a duplicate that deny.toml does not explain")
    for entry in sorted(explained):
        name, _, version = entry.partition("@")
        if version not in versions.get(name, []):
            faults.append(f"{entry}: explained in deny.toml as a duplicate, but no longer there")

    for path in sorted((ROOT / "src").rglob("*.rs")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.lstrip().startswith("//") and ASYNC_SOURCE.search(line):
                faults.append(f"{path.relative_to(ROOT)}:{number}: async code: {line.strip()}")

    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"bans: {len(shipped)} crates in the programs, {len(everything)} with build and tests, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
