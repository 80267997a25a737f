#!/usr/bin/env python3
"""Loss of power: the daemon's writes, syncs and words are recorded, disks rebuilt as a cut may leave them, each opened and judged.

    power.py [--images N] [--load N] [--seed N] [--jobs N] [--keep DIRECTORY]
    power.py --from DIRECTORY [--only TIME:VARIANT]

One recording covers a first start, mail in and out with several clients at once, checkpoints, kill -9 with attempts running,
recovery, more mail and an orderly stop; another the start with a queue of schema 1. They are cut around every sync, at every
word that promises something, and anywhere in between. Then come the controls: the same without the syncs that
`synchronous=NORMAL` or OFF would leave out, and one that really ran with syncs that do nothing. They have to lose mail, or
nothing has been shown.
"""

import argparse
import collections
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

import image
import promise
import tracer
from daemon import Daemon, Died
from judge import faults, open_read
from record import record
from recorded import Recorded
from scenario import end_on_sigterm, program

# The share of disks that the daemon itself is started with as well.
BY_THE_DAEMON = 0.02

# Controls are judged by this many disks at least; a handful would do.
CONTROL_IMAGES = 40


# --- what weaker syncs would leave

CONTROLS = {
    "synchronous=NORMAL": lambda ops: without_commits(ops),
    "synchronous=OFF": lambda ops: [op for op in ops if op.kind != "sync" or op.what is None],
}


def without_commits(ops):
    """NORMAL syncs the log before it is copied and when it begins anew, the database after it was copied; no commit."""
    logs = {op.more for op in ops if op.kind == "link" and op.what.endswith("-wal")}
    kept = []
    for op in ops:
        if op.kind == "sync" and op.what in logs:
            before = next((other for other in reversed(kept) if other.kind in ("write", "size")), None)
            after = next((other for other in ops if other.begin > op.end and other.kind == "write"), None)
            head = before and before.kind == "write" and before.what == op.what and before.more[0] == 0
            copied = after and after.what not in logs
            if not head and not copied:
                continue
        kept.append(op)
    return kept


class Judge:
    """Opens images with the program's own code and compares them with the promises."""

    def __init__(self, recorded, seed):
        self.recorded = recorded
        self.seed = seed
        self.directory = tempfile.mkdtemp(prefix="power.")
        self.opener = subprocess.Popen([os.path.join(os.path.dirname(program()), "examples", "reopen")], text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def close(self):
        self.opener.stdin.close()
        self.opener.wait()
        self.opener.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def wrong(self, disk, cut, variant):
        """What is wrong with this image."""
        dice = random.Random("%d %d %s" % (self.seed, cut, variant))
        queue = os.path.join(self.directory, "queue")
        image.write(disk.image(variant, dice), queue)
        try:
            found = self._by_the_daemon(queue) if dice.random() < BY_THE_DAEMON else []
            self.opener.stdin.write(queue + "\n")
            self.opener.stdin.flush()
            said = self.opener.stdout.readline().strip()
            if said.startswith("refused") or not said:
                return [*found, said or "the opener died"]
            found += [] if said == "open" else [said]
            conn = open_read(os.path.join(queue, "queue.db"))
            try:
                found += faults(conn)
                made = [one for one in self.recorded.promises if one.time < cut]
                return found + list(promise.broken(made, self.recorded.ledger, conn))
            except sqlite3.DatabaseError as error:
                return [*found, "lost in damage: %s" % error]
            finally:
                conn.close()
        finally:
            shutil.rmtree(queue)


    def _by_the_daemon(self, queue):
        """The whole program, not only its way to open; it may try to deliver, to nobody. What it came to is judged next."""
        daemon = Daemon(program(), world_port=9)
        try:
            daemon.take_queue(queue)
            daemon.start()
            daemon.wait_ready()
            wrong = daemon.check()
            daemon.kill()
            shutil.rmtree(queue)
            shutil.copytree(daemon.queue, queue)
            return wrong
        except Died as died:
            return ["the daemon refused it: %s" % died]
        finally:
            daemon.remove()


def judge_some(job):
    """A share of the work, in a process of its own: (time, variant, what is wrong) of each image that is not well."""
    recorded, ops, work, seed, most = job
    disk = image.Disk(ops, recorded.present)
    judge = Judge(recorded, seed)
    found = []
    try:
        for cut, variant in work:
            disk.advance(cut)
            if wrong := judge.wrong(disk, cut, variant):
                found.append((cut, variant, wrong[:most]))
    finally:
        judge.close()
    return found


def judge_all(recorded, ops, work, seed, jobs, most=6):
    share = -(-len(work) // jobs)
    parts = [(recorded, ops, work[n:n + share], seed, most) for n in range(0, len(work), share)]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        return [one for part in pool.map(judge_some, parts, 1) for one in part]


# --- the whole


LOSSES = ("was acknowledged", "the claim is lost", "its outcome is lost", "settled: that is lost", "notice is lost", "was dropped",
          "damage", "refused")


def control(name, recorded, ops, chosen):
    """False if it lost nothing."""
    work = recorded.work(max(chosen.images // 30, CONTROL_IMAGES), chosen.seed)
    lost = collections.Counter()
    found = judge_all(recorded, ops, work, chosen.seed, chosen.jobs, most=1000)
    for _, _, wrong in found:
        lost.update({loss for loss in LOSSES for sentence in wrong if loss in sentence})
    print("control %-20s %d of %d disks are bad: %s" % (name, len(found), len(work), ", ".join(
        '%d "%s"' % (number, loss) for loss, number in lost.most_common()) or "AND THAT PROVES NOTHING"))
    return lost["was acknowledged"] > 0


def judge_recording(directory, chosen):
    """Whether all is well, and the recording."""
    recorded = Recorded(directory)
    if chosen.only:
        cut, _, variant = chosen.only.partition(":")
        work = [(int(cut), variant)]
    else:
        work = recorded.work(chosen.images if not recorded.present else chosen.images // 8, chosen.seed)
    found = judge_all(recorded, recorded.ops, work, chosen.seed, chosen.jobs, 100 if chosen.only else 6)
    for cut, variant, wrong in found[:20]:
        print("--only %d:%s" % (cut, variant), *wrong, sep="\n    ")
    if found and chosen.keep:
        kept = os.path.join(chosen.keep, os.path.basename(directory))
        shutil.copytree(directory, kept, dirs_exist_ok=True)
        print("kept: --seed %d --from %s" % (chosen.seed, kept))
    kinds = collections.Counter(op.kind for op in recorded.ops)
    # Each time the log begins anew it gets a head of 32 octets.
    heads = sum(op.kind == "write" and op.more[0] == 0 and len(op.more[1]) == 32 for op in recorded.ops)
    print("%s: %d disks, %d cuts, %d writes, %d syncs, %d beginnings of a log, %d promises: %d wrong"
          % (os.path.basename(directory), len(work), len(recorded.cuts()), kinds["write"], kinds["sync"], heads,
             len(recorded.promises), len(found)))
    return recorded, len(work), len(found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--load", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--keep")
    parser.add_argument("--from", dest="source")
    parser.add_argument("--only")
    chosen = parser.parse_args()
    end_on_sigterm()
    if why := tracer.usable():
        print("skipped: " + why)
        sys.exit(77)
    if chosen.source:
        sys.exit(judge_recording(chosen.source, chosen)[2] > 0)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="power.") as parent:
        recorded, disks, wrong = judge_recording(record(parent, "mail", chosen.load), chosen)
        _, more, bad = judge_recording(record(parent, "migration"), chosen)
        proven = [control(name, recorded, weaken(recorded.ops), chosen) for name, weaken in CONTROLS.items()]
        # This one really runs: every sync is answered without being made.
        idle = Recorded(record(parent, "idle", max(3, chosen.load // 4), ["-e", "inject=fsync,fdatasync:retval=0"]))
        proven.append(control("syncs disabled", idle, idle.ops, chosen))
    print("%d disks after a loss of power, %d wrong; %d of %d controls lose mail as they must; seed %d, %d s"
          % (disks + more, wrong + bad, sum(proven), len(proven), chosen.seed, time.monotonic() - began))
    sys.exit(wrong + bad > 0 or not all(proven))


if __name__ == "__main__":
    main()
