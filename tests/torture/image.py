"""Disks as a loss of power may leave them: what was synced, and some of what was not.

A write that no sync has covered may be there, or not, or in part: sectors of 512 octets or blocks of 4 KiB of it are kept or
lost each by itself. Octets outside of what was written are never harmed. New sizes may be there without their data. Changes
of names are kept in their order up to some point: no journalling filesystem mixes them up.
"""

import os

VARIANTS = ("none", "all", "prefix-512", "prefix-4096", "some-512", "some-4096", "one-lost", "last-only", "sizes", "stale")

# Of a file; the other operations are those on names.
CHANGES = ("write", "size")


class Disk:
    """Replays operations up to a time; time only goes on."""

    def __init__(self, ops, present=()):
        """`present`: name -> content of what was there before, synced, in the order of the recording."""
        moments = []
        for op in ops:
            moments.append((op.end, 0, op) if op.kind == "sync" else (op.begin, 1, op))
        self.moments = sorted(moments, key=lambda moment: moment[:2])
        self.next = 0
        self.files = {}  # number -> what is on the disk for certain
        self.names = {}
        for number, name in enumerate(present):
            self.files[number] = bytearray(present[name])
            self.names[name] = number
        self.pending = []

    def advance(self, time):
        """All that began before `time`; syncs count when they ended before it."""
        while self.next < len(self.moments) and self.moments[self.next][0] < time:
            op = self.moments[self.next][2]
            self.next += 1
            if op.kind != "sync":
                self.pending.append(op)
                continue
            left = []
            for other in self.pending:
                if self._covers(op, other):
                    apply(other, self.files, self.names)
                else:
                    left.append(other)
            self.pending = left

    @staticmethod
    def _covers(sync, op):
        if op.end > sync.begin:
            return False
        return op.kind not in CHANGES if sync.what is None else op.kind in CHANGES and op.what == sync.what

    def image(self, variant, dice):
        """name -> content."""
        files = {number: bytearray(data) for number, data in self.files.items()}
        names = dict(self.names)
        changes = [op for op in self.pending if op.kind in CHANGES]
        renames = [op for op in self.pending if op.kind not in CHANGES]
        for op in renames[:{"none": 0, "all": len(renames)}.get(variant, dice.randint(0, len(renames)))]:
            apply(op, files, names)
        for op in pieces(changes, variant, dice, files):
            apply(op, files, names)
        return {name: bytes(files.get(number, b"")) for name, number in names.items()}


def apply(op, files, names):
    if op.kind == "link":
        names[op.what] = op.more
    elif op.kind == "unlink":
        names.pop(op.what, None)
    elif op.kind == "rename":
        if op.what in names:
            names[op.more] = names.pop(op.what)
    elif op.kind == "size":
        grow(files.setdefault(op.what, bytearray()), op.more)
        del files[op.what][op.more:]
    else:
        offset, data = op.more
        file = files.setdefault(op.what, bytearray())
        grow(file, offset)
        file[offset:offset + len(data)] = data


def grow(file, size):
    if len(file) < size:
        file.extend(bytes(size - len(file)))


def sectors(op, size):
    """A write in pieces that end where sectors end."""
    offset, data = op.more
    start = 0
    while start < len(data):
        end = min(len(data), (offset + start) // size * size + size - offset)
        yield op._replace(more=(offset + start, data[start:end]))
        start = end


def torn(changes, size):
    for op in changes:
        yield from sectors(op, size) if op.kind == "write" else [op]


def pieces(changes, variant, dice, files):
    """What of the changes that no sync covers is there."""
    if variant == "none" or not changes:
        return []
    if variant == "all":
        return changes
    if variant.startswith("prefix-"):
        found = list(torn(changes, int(variant[7:])))
        return found[:dice.randint(0, len(found))]
    if variant.startswith("some-"):
        share = dice.random()
        return [op for op in torn(changes, int(variant[5:])) if dice.random() < share]
    if variant == "one-lost":
        found = list(torn(changes, dice.choice([512, 4096])))
        del found[dice.randrange(len(found))]
        return found
    if variant == "last-only":
        return changes[-dice.randint(1, min(4, len(changes))):]
    # The new size, and behind the old one zeros or what lay on the disk before; some of the data all the same.
    kept = [op for op in torn(changes, 4096) if dice.random() < 0.5]
    ends = {}
    for op in changes:
        if op.kind == "write":
            ends[op.what] = max(ends.get(op.what, 0), op.more[0] + len(op.more[1]))
    for number, end in ends.items():
        file = files.setdefault(number, bytearray())
        more = end - len(file)
        if more > 0:
            file.extend(dice.randbytes(more) if variant == "stale" else bytes(more))
    return [op for op in kept if op.kind == "write"]


def write(image, directory):
    """Puts an image into an empty directory."""
    os.mkdir(directory, 0o700)
    for name, content in image.items():
        with open(os.path.join(directory, name), "wb") as file:
            file.write(content)
