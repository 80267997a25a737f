#!/usr/bin/env python3
"""kill -9 at chosen instants: on entry of each system call that changes a file or says something to somebody.

    sweep.py [--share N] [--seed N] [--jobs N] [--only KIND:THREAD:CALL:NUMBER]

What a kill leaves behind differs only by the calls made before it, so a short play (scenario.py) is run once for every one of
them, in each thread that makes any: written frames, syncs, replies, log lines. --share N takes one of N of each instead.
After the kill the daemon is started again, everything has to come to an end, and the judge speaks.

    run      mail comes in and goes out, is put off, refused, reported, held and dropped
    stop     an orderly stop with mail still there
    copy     a large log is copied into the database (checkpoint)
    create   the first start
    migrate  a start with a queue of schema 1
    recover  a start after a crash, killed ten times in a row (PRC-6)
"""

import argparse
import collections
import concurrent.futures
import os
import random
import re
import sqlite3
import sys
import tempfile
import threading
import time

import old
import tracer
from daemon import Died
from scenario import Stage, end_on_sigterm, in_flight, program
from world import Gone

CALLS = ("pwrite64", "pwritev", "write", "writev", "sendto", "sendmsg", "fsync", "fdatasync", "ftruncate", "fallocate",
         "unlink", "rename")

# Threads that change files or talk, by the first word of their name, and the kinds they are killed in.
THREADS = {"run": ("store-writer", "worker-1", "smtp-1", "control-1", "log"), "stop": ("posthasted", "store-writer"),
           "copy": ("store-checkpoin",)}
STARTS = ("create", "migrate", "recover")
KINDS = ("run", "stop", "copy", *STARTS)

RECOVERIES = 10

# Messages of 1 MB each; the log is copied when it has 8 MiB.
COPIED = 12

Instant = collections.namedtuple("Instant", "kind thread call number")


def remove_log(daemon):
    os.remove(daemon.database + "-wal")


def forget_claims(daemon):
    conn = sqlite3.connect(daemon.database)
    with conn:
        conn.execute("UPDATE recipient SET state = 0 WHERE state = 1")
    conn.close()
    daemon.own()


SABOTAGE = [("a log that was removed", remove_log, " is lost"),
            ("claims that were not written down", forget_claims, "came again without a mark")]


class Sweep:
    """Templates, made once, and what was seen."""

    def __init__(self, seed):
        self.program = program()
        self.seed = seed
        self.lock = threading.Lock()
        self.killed = collections.Counter()  # (kind, what had happened last, call)
        self.survived = 0
        self.slowest = 0
        self.kills = 0
        self.templates = {}

    def prepare(self):
        self.templates["migrate"] = old.template()
        self.templates["recover"] = in_flight(self.program)

    def close(self):
        for template in self.templates.values():
            template.close()

    # --- one instant

    def stage(self, kind):
        return Stage(self.program, self.templates.get(kind))

    def perform(self, kind, stage, at_work):
        """The play of this kind; `at_work()` is called when there is something to be killed."""
        if kind == "stop":
            self._make_mail_wait(stage)
            at_work()
            stage.events.add("stop asked")
            stage.daemon.stop()
        elif kind == "copy":
            at_work()
            for n in range(COPIED):
                stage.done(stage.hand_in("c%d" % n, ["ok-c%d@world.test" % n], size=1_000_000))
        else:
            at_work()
            stage.play()

    def _make_mail_wait(self, stage):
        stage.done(stage.hand_in("s1", ["ok-s1@world.test"]))
        stage.ask("pause", "pause")
        stage.hand_in("s2", ["ok-s2@world.test", "never-s2@world.test"])

    def round(self, instant):
        """Kills, starts again, judges; what is wrong."""
        stage = self.stage(instant.kind)
        try:
            if instant.kind in STARTS:
                dead = self._kill_starts(stage, instant)
            else:
                dead = self._kill(stage, instant)
            if stage.daemon.alive():
                stage.daemon.kill()
            ready = stage.finish()
            with self.lock:
                self.slowest = max(self.slowest, ready)
                self.survived += not dead
            return stage.verdict()
        except Exception as error:
            return ["%s: %s" % (type(error).__name__, error), *stage.daemon.log[-8:]]
        finally:
            stage.close()

    def _killed(self, kind, stage, call):
        with self.lock:
            self.kills += 1
            self.killed[kind, stage.events.last, call] += 1

    def _kill(self, stage, instant):
        stage.daemon.start()
        stage.daemon.wait_ready()
        stage.connect()
        tracers = []

        def at_work():
            threads = stage.daemon.threads(instant.thread)[instant.thread]
            tracers.append(tracer.attach(threads, instant.call, instant.number))

        try:
            self.perform(instant.kind, stage, at_work)
        except (Gone, Died, OSError):
            pass
        # A play that ended by itself may be dead in the next moment: the log comes last.
        if stage.daemon.alive():
            time.sleep(0.05)
        dead = not stage.daemon.alive() and stage.daemon.process.returncode == -9
        if dead:
            stage.daemon.reap()
            self._killed(instant.kind, stage, instant.call)
        for one in tracers:
            tracer.detach(one)
        return dead

    def _kill_starts(self, stage, instant):
        dice = random.Random("%d %s" % (self.seed, instant))
        dead = 0
        rounds = RECOVERIES if instant.kind == "recover" else 1
        for n in range(rounds):
            # The first at the instant itself, the others anywhere before it.
            number = instant.number if n == 0 else dice.randint(1, instant.number)
            stage.events.last = "start %d" % (n + 1)
            stage.daemon.start(tracer.launching(instant.call, number))
            try:
                stage.daemon.wait_ready()
                stage.daemon.kill()
            except Died:
                dead += 1
                self._killed(instant.kind, stage, instant.call)
        return dead == rounds

    def controls(self):
        """Broken on purpose after a crash: the judge has to see it. What he did not see."""
        unseen = []
        for name, sabotage, sentence in SABOTAGE:
            stage = self.stage("recover")
            try:
                sabotage(stage.daemon)
                stage.finish()
                if not any(sentence in wrong for wrong in stage.verdict()):
                    unseen.append("nobody noticed: " + name)
            finally:
                stage.close()
        return unseen

    # --- all instants

    def instants(self):
        """Every one, found by counting the calls of a play that nobody kills."""
        for kind in KINDS:
            stage = self.stage(kind)
            try:
                with tempfile.NamedTemporaryFile("r") as record:
                    names = self._count(kind, stage, record.name)
                    counted = collections.Counter()
                    for line in record:
                        found = re.match(r"(?:(\d+) +)?(\w+)\(", line)
                        if found and (thread := names.get(int(found[1] or 0))):
                            counted[thread, found[2]] += 1
                for (thread, call), number in sorted(counted.items()):
                    yield from (Instant(kind, thread, call, n + 1) for n in range(number))
            finally:
                stage.close()

    def _count(self, kind, stage, record):
        """Thread ids and their names."""
        trace = ["-o", record, "-e", "trace=" + ",".join(CALLS)]
        if kind in STARTS:
            stage.daemon.start(["strace", "-D", "-q", *trace])
            stage.daemon.wait_ready()
            stage.daemon.kill()
            return {0: "posthasted"}
        names = {}
        tracers = []
        stage.daemon.start()
        stage.daemon.wait_ready()
        stage.connect()

        def at_work():
            # The watchdog does nothing; but of a single thread strace would not say which it is.
            wanted = (*THREADS[kind], "watchdog")
            known = stage.daemon.threads(*wanted)
            names.update({thread: name for name in wanted for thread in known[name]})
            tracers.append(tracer.trace(names, trace))

        self.perform(kind, stage, at_work)
        stage.daemon.kill()
        tracer.detach(tracers[0])
        return names


def sample(instants, share, seed):
    """Of each call of each thread one in so many, but at least one; in any order."""
    groups = collections.defaultdict(list)
    for instant in instants:
        groups[instant[:3]].append(instant)
    dice = random.Random(seed)
    chosen = [instant for group in groups.values() for instant in dice.sample(group, -(-len(group) // share))]
    dice.shuffle(chosen)
    return chosen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--only")
    chosen = parser.parse_args()
    end_on_sigterm()
    if why := tracer.usable():
        print("skipped: " + why)
        sys.exit(77)
    began = time.monotonic()
    sweep = Sweep(chosen.seed)
    try:
        sweep.prepare()
        if chosen.only:
            kind, thread, call, number = chosen.only.rsplit(":", 3)
            all_of_them = instants = [Instant(kind, thread, call, int(number))]
        else:
            all_of_them = list(sweep.instants())
            instants = sample(all_of_them, chosen.share, chosen.seed)
        failed = 0
        pool = concurrent.futures.ThreadPoolExecutor(chosen.jobs)
        try:
            for instant, wrong in zip(instants, pool.map(sweep.round, instants)):
                if wrong:
                    failed += 1
                    print("--only %s:%s:%s:%d" % instant, *wrong, sep="\n    ")
        finally:
            # Interrupted, it ends after the rounds that run.
            pool.shutdown(cancel_futures=True)
        unseen = sweep.controls()
        for line in unseen:
            print(line)
    finally:
        sweep.close()
    for (kind, last, call), count in sorted(sweep.killed.items()):
        print("%-8s after %-18s on entry of %-10s %4d" % (kind, last, call, count))
    print("killed %d times at %d of %d instants, %d of them wrong; %d plays ended before their kill came; %d kinds of sabotage "
          "seen; slowest start %d ms; seed %d, %d s"
          % (sweep.kills, len(instants), len(all_of_them), failed, sweep.survived, len(SABOTAGE) - len(unseen),
             sweep.slowest * 1000, chosen.seed, time.monotonic() - began))
    sys.exit(failed > 0 or bool(unseen) or sweep.kills == 0)


if __name__ == "__main__":
    main()
