#!/usr/bin/env python3
"""How long a start takes, with nothing in the history and with very much of it (Q-16): every start is one after a crash.

    finished.py [--messages N] [--starts N]

The queue holds a few waiting messages and N finished ones with their attempts. Each start is killed when it is ready, every other
one anywhere before; ready has to be said within 2 s each time.
"""

import argparse
import random
import sqlite3
import statistics
import sys
import time

from daemon import Daemon
from scenario import end_on_sigterm, program

LIMIT = 2.0  # seconds, Q-16

WAITING = 20


def fill(daemon, messages):
    """Rows as they are once everything is over, and some that still wait for a receiver that is not there."""
    conn = sqlite3.connect(daemon.database, isolation_level=None)
    first = conn.execute("SELECT next_id FROM queue").fetchone()[0]
    due = int(time.time() * 1000) + 3_600_000
    conn.execute("BEGIN")
    conn.execute("INSERT INTO destination VALUES (1, 'out', ?)", [due])
    for number in range(first, first + messages + WAITING):
        waits = number >= first + messages
        conn.execute(
            "INSERT INTO message (id, arrived, caller, client, sender, sender_domain, header, message_id, subject, size, eight_bit,"
            " utf8_headers, require_tls, priority, chunks, content_size, recipients, open)"
            " VALUES (?, ?, 'relay', '127.0.0.1', 'joe@client.test', 'client.test', x'', ?, 'one of many', 300, 0, 0, 0, 0, 1, 4, 1, 1)",
            [number, due, "<%d@client.test>" % number])
        row = number << 20 | 1
        conn.execute(
            "INSERT INTO recipient (id, state, destination, rank, next_attempt, attempts, last_attempt, alone, doubt, address, domain,"
            " notify, blocker, wish, finished) VALUES (?, ?, 1, 0, ?, ?, ?, 1, 0, ?, 'world.test', 12, '', 0, ?)",
            [row, 0 if waits else 3, due, not waits, None if waits else due, "to-%d@world.test" % number, None if waits else due])
        if waits:
            conn.execute("INSERT INTO chunk VALUES (?, x'780d0a0a')", [number << 20])
        else:
            conn.execute(
                "INSERT INTO attempt (recipient, ordinal, kind, started, transport, host, address, stage, code, status, text)"
                " VALUES (?, 1, 0, ?, 'out', 'world.test', '127.0.0.1:25', 'final-dot', 250, '2.0.0', 'taken')", [row, due])
    conn.execute("UPDATE queue SET next_id = ?, messages = ?, queued = ?", [first + messages + WAITING, WAITING, WAITING])
    conn.execute("COMMIT")
    conn.close()
    daemon.own()


def starts(messages, count):
    """Seconds until it was ready, of each start."""
    dice = random.Random(1)
    daemon = Daemon(program(), world_port=9)
    try:
        daemon.start()
        daemon.wait_ready()
        if daemon.stop() != 0:
            raise RuntimeError("the daemon did not stop as it should")
        fill(daemon, messages)
        took = []
        for _ in range(count):
            daemon.start()
            time.sleep(dice.uniform(0, 0.05))
            daemon.kill()
            began = time.monotonic()
            daemon.start()
            daemon.wait_ready()
            took.append(time.monotonic() - began)
            wrong = daemon.check() if len(took) == count else []
            daemon.kill()
            if wrong:
                raise RuntimeError(wrong)
        return took
    finally:
        daemon.remove()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--starts", type=int, default=10)
    chosen = parser.parse_args()
    end_on_sigterm()
    few, many = starts(0, chosen.starts), starts(chosen.messages, chosen.starts)
    print("%d starts after a kill: ready in %d ms (slowest %d ms) with nothing finished, in %d ms (slowest %d ms) with %d "
          "finished messages" % (chosen.starts, statistics.median(few) * 1000, max(few) * 1000,
                                 statistics.median(many) * 1000, max(many) * 1000, chosen.messages))
    sys.exit(max(few + many) > LIMIT)


if __name__ == "__main__":
    main()
