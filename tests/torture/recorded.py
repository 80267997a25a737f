"""A recording, read and ready to be cut."""

import json
import os
import random

import image
import promise
import trace
from record import RUNS


def read_all(directory):
    """name -> content; nothing where there is no directory."""
    found = {}
    if os.path.isdir(directory):
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), "rb") as file:
                found[name] = file.read()
    return found


class Recorded:
    """What the daemon did and promised, and the moments worth a cut."""

    def __init__(self, directory):
        with open(os.path.join(directory, "facts")) as file:
            facts = json.load(file)
        self.ledger = facts["ledger"]
        lines = []
        for run in RUNS:
            path = os.path.join(directory, run)
            if os.path.exists(path):
                with open(path) as file:
                    lines += file
        self.present = read_all(os.path.join(directory, "present"))
        recording = trace.Recording(lines, facts["queue"], self.present)
        self.ops = recording.ops
        self.end = len(lines)
        self.promises = promise.of(recording.talks, facts["ports"], facts["world"])
        if self.present:
            # What an earlier version took counts from the beginning.
            self.promises[:0] = [promise.Promise(-1, "accepted", entry["id"], 0) for entry in self.ledger.values()]

    def cuts(self):
        """Moments worth a cut: before and after each sync, each promise just made, each change of a name."""
        found = {self.end}
        for op in self.ops:
            if op.kind != "write":
                found |= {op.begin, op.end + 1}
        found |= {made.time + 1 for made in self.promises}
        return sorted(found)

    def work(self, images, seed):
        """(time, variant) of so many images: every cut if there is room, and some more anywhere."""
        dice = random.Random(seed)
        cuts = self.cuts()
        writes = [op.begin + 1 for op in self.ops if op.kind == "write"]
        chosen = set()
        while len(chosen) < min(images, len(cuts) * len(image.VARIANTS)):
            cut = dice.choice(writes) if dice.random() < 0.15 else cuts[len(chosen) % len(cuts)] if images >= len(cuts) \
                else dice.choice(cuts)
            chosen.add((cut, dice.choice(image.VARIANTS)))
        return sorted(chosen)
