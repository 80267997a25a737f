#!/usr/bin/env python3
"""Keeps tests/RULES.md honest.

    rules.py check    fails when a rule names no test and gives no reason, or names a test that does not exist
    rules.py update   writes into the table the tests whose comment names a rule; reasons by hand stay otherwise

A test is a Rust function with #[test] and, in the comment above it, the ids of the rules that it shows; or a script in
tests/peers, tests/faults or tests/demo with the ids in a comment line. A test is written `module::function` in the table, a script as its path.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "RULES.md"
ID = re.compile(r"\b[A-Z]{1,4}-\d+\b")
ROW = re.compile(r"^\| ([A-Z]+-\d+) \| (.*?) \| (.*) \|$")


def module(path: pathlib.Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] in ("mod", "lib", "main") and parts[0] == "src":
        parts.pop()
    # src/smtp/reply.rs is smtp::reply; tests/scenarios/retry.rs is scenarios::retry.
    return "::".join(parts[1:])


def rust_tests(path: pathlib.Path):
    """(name, ids) of every test in a file: a #[test] function, and the ids in the comment and attributes above it."""
    above: list[str] = []
    for line in path.read_text().splitlines():
        text = line.strip()
        if text.startswith("//") or text.startswith("#["):
            above.append(text)
            continue
        found = re.match(r"(?:pub )?fn (\w+)", text)
        if found and "#[test]" in above:
            comment = " ".join(t for t in above if t.startswith("//"))
            yield f"{module(path)}::{found[1]}", set(ID.findall(comment))
        # A string that spans lines or an attribute's continuation must not glue a comment to a later test.
        above = []


def scripts():
    for folder in ("tests/peers", "tests/faults", "tests/demo"):
        for path in sorted((ROOT / folder).glob("*.sh")):
            comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
            yield str(path.relative_to(ROOT)), set(ID.findall(" ".join(comments)))


def all_tests() -> dict[str, set[str]]:
    tests: dict[str, set[str]] = {}
    for folder in ("src", "tests"):
        for path in sorted((ROOT / folder).rglob("*.rs")):
            tests.update(rust_tests(path))
    tests.update(scripts())
    return tests


def check(lines: list[str], tests: dict[str, set[str]]) -> int:
    faults, ids, unproven, named = [], set(), [], set()
    for line in lines:
        row = ROW.match(line)
        if not row:
            continue
        rule, _, where = row.groups()
        if rule in ids:
            faults.append(f"{rule}: stands twice")
        ids.add(rule)
        names = re.findall(r"`([^`]+)`", where)
        for name in names:
            if name not in tests:
                faults.append(f"{rule}: no such test: {name}")
        named.update(names)
        if not names:
            if re.match(r"not yet: .{8,}|by design: .{8,}", where):
                unproven.append(rule)
            else:
                faults.append(f"{rule}: neither a test nor a reason (`not yet: ..` or `by design: ..`)")
    total = re.search(r"^(\d+) rules\b", "\n".join(lines), re.M)
    if not total or int(total[1]) != len(ids):
        faults.append(f"the text says {total[1] if total else 'no'} rules, the tables have {len(ids)}")
    for fault in faults:
        print(f"RULES.md: {fault}", file=sys.stderr)
    print(f"rules: {len(ids)}, of which {len(ids) - len(unproven)} have tests ({len(named)} tests named) "
          f"and {len(unproven)} only a reason; {len(faults)} faults")
    return 1 if faults else 0


def update(lines: list[str], tests: dict[str, set[str]]) -> list[str]:
    shown: dict[str, list[str]] = {}
    for name, ids in sorted(tests.items()):
        for rule in ids:
            shown.setdefault(rule, []).append(name)
    result = []
    for line in lines:
        row = ROW.match(line)
        if row:
            rule, summary, where = row.groups()
            by_hand = [n for n in re.findall(r"`([^`]+)`", where) if n in tests]
            names = sorted(set(by_hand) | set(shown.get(rule, [])))
            if names:
                where = ", ".join(f"`{name}`" for name in names)
            elif "`" in where or not where.strip():
                where = "none"
            line = f"| {rule} | {summary} | {where} |"
        result.append(line)
    return result


def main() -> int:
    lines, tests = TABLE.read_text().splitlines(), all_tests()
    if sys.argv[1:] == ["update"]:
        lines = update(lines, tests)
        TABLE.write_text("\n".join(lines) + "\n")
        return check(lines, tests)
    if sys.argv[1:] == ["check"]:
        return check(lines, tests)
    print(__doc__, file=sys.stderr)
    return 64


if __name__ == "__main__":
    sys.exit(main())
