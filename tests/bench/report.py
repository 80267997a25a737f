"""report.py RESULTS.TSV: medians of all rounds, and posthaste against each peer, as a Markdown table.

Lines are row, system, metric, round, value. What issue and README want stands beside it; a row that misses it says so.
"""

import collections
import statistics
import sys

rounds = collections.defaultdict(list)
systems = []
for line in open(sys.argv[1]):
    row, system, metric, _, value = line.rstrip("\n").split("\t")
    rounds[row, metric, system].append(float(value))
    if system not in systems:
        systems.append(system)
peers = [system for system in systems if system not in ("posthaste", "generators")]

# Row, metric, what it is, whether more is better, against Postfix: at least so many times (at most, where less is better).
ROWS = [
    ("connect", "rate", "relay 4 KiB, a message per connection, /s", True, 5),
    ("keep", "rate", "relay 4 KiB, connections kept, /s", True, 8),
    ("large", "rate", "relay 64 KiB, /s", True, 3.5),
    ("accept", "rate", "accept only, receiver down, /s", True, 5),
    ("drain", "rate", "drain that backlog, /s", True, 5),
    ("connect", "cpu", "CPU s per 1000, connect", False, 1 / 8),
    ("keep", "cpu", "CPU s per 1000, keep", False, 1 / 8),
    ("large", "cpu", "CPU s per 1000, 64 KiB", False, None),
    ("accept", "cpu", "CPU s per 1000, accept only", False, None),
    ("drain", "cpu", "CPU s per 1000, drain", False, None),
    ("latency", "median", "one message alone, dot to dot, ms", False, 1),
    ("connect", "pss", "PSS MiB, connect", False, None),
    ("keep", "pss", "PSS MiB, keep", False, None),
    ("large", "pss", "PSS MiB, 64 KiB", False, None),
    ("drain", "pss", "PSS MiB, drain", False, None),
]
PSS_MOST = 40


def median(row, metric, system):
    values = rounds.get((row, metric, system))
    return statistics.median(values) if values else None


def shown(value):
    if value is None:
        return "-"
    return "%.0f" % value if value >= 100 else "%.1f" % value if value >= 10 else "%.2f" % value


def spread(row, metric, system):
    values = rounds.get((row, metric, system), [])
    return " (%s..%s)" % (shown(min(values)), shown(max(values))) if len(values) > 1 else ""


def judged(row, metric, more, times):
    ours, theirs = median(row, metric, "posthaste"), median(row, metric, "postfix")
    wanted = []
    if times and theirs:
        ratio = ours / theirs
        good = ratio >= times if more else ratio <= times
        wanted.append("%s %.3g times Postfix%s" % (">=" if more else "<=", times, "" if good else ": MISSED"))
    if (row, metric) == ("keep", "rate"):
        alone = median("connect", "rate", "generators")
        if alone:
            wanted.append(">= half of the generators in the first row%s" % ("" if ours >= alone / 2 else ": MISSED"))
    if metric == "pss":
        wanted.append("<= %d%s" % (PSS_MOST, "" if ours <= PSS_MOST else ": MISSED"))
    if times and any(
        (other := median(row, metric, peer)) is not None and (other > ours if more else other < ours)
        for peer in peers
        if peer != "other"
    ):
        wanted.append("a peer is ahead: MISSED")
    return ", ".join(wanted)


heads = ["work", "posthaste (least..most)"]
for peer in peers:
    heads += [peer, "ratio"]
heads += ["generators", "wanted"]
print("| " + " | ".join(heads) + " |")
print("|---" * len(heads) + "|")
for row, metric, name, more, times in ROWS:
    ours = median(row, metric, "posthaste")
    if ours is None:
        continue
    cells = [name, shown(ours) + spread(row, metric, "posthaste")]
    for peer in peers:
        theirs = median(row, metric, peer)
        cells += [shown(theirs), "%.2f" % (ours / theirs) if theirs else "-"]
    cells += [shown(median(row, metric, "generators")), judged(row, metric, more, times)]
    print("| " + " | ".join(cells) + " |")
