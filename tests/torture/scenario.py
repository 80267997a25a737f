"""One daemon, one receiver, one client, a little of everything that can happen to mail; and what must be true at the end."""

import os
import signal
import sys
import time

from daemon import Daemon, Died
from judge import FINAL, doubted_in_history, faults, open_read, recipients
from world import Client, Events, Operator, Receiver, body_hash

PATIENCE = 60  # seconds until a queue has to be empty


class Handed(dict):
    """The ledger: X-Id -> what was handed in, and the queue id if it was acknowledged."""

    def add(self, name, sender, to, text):
        self[name] = {"sender": sender, "to": to, "hash": body_hash(text), "id": None, "dropped": False}


class Stage:
    """The daemon and the world around it, and the play on it."""

    def __init__(self, program, template=None, **settings):
        self.events = Events()
        self.receiver = Receiver(self.events)
        self.daemon = Daemon(program, self.receiver.port, **settings)
        self.ledger = Handed()
        if template:
            self.daemon.take_queue(template.queue)
            self.ledger.update({name: dict(entry) for name, entry in template.ledger.items()})
            for key, times in template.copies.items():
                self.receiver.copies[key] = list(times)
            self.receiver.hashes.update({key: set(found) for key, found in template.hashes.items()})
            self.receiver.names.update(template.names)
            self.receiver.muted.update(template.copies)
        self.client = self.operator = None
        self.complaints = []  # what the daemon itself found

    def close(self):
        self.daemon.remove()
        self.receiver.close()
        for connection in (self.client, self.operator):
            if connection:
                connection.close()

    # --- what the play consists of

    def connect(self):
        """Client and operator, each with a thread of the daemon's from now on."""
        self.client = Client(self.daemon.port, self.events)
        self.operator = Operator(self.daemon.run + "/control")

    def hand_in(self, name, to, size=900, client=None):
        """Returns the queue id; the ledger has it then."""
        sender = "joe-%s@client.test" % name
        body = b"".join(b"%s line %06d %s\r\n" % (name.encode(), n, b"x" * 900) for n in range(size // 900))
        text = b"From: <%s>\r\nX-Id: %s\r\n\r\n%s" % (sender.encode(), name.encode(), body)
        self.ledger.add(name, sender, to, text)
        queue_id = (client or self.client).hand_in(sender, to, text)
        self.ledger[name]["id"] = queue_id
        return queue_id

    def until(self, what, condition):
        """Waits; a daemon that dies meanwhile ends the play."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if not self.daemon.alive():
                raise Died
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            time.sleep(0.002)

    def done(self, queue_id):
        mark = " done qid=%d " % queue_id
        self.until(mark, lambda: any(mark in line for line in self.daemon.log))

    def ask(self, what, line):
        self.events.add(what + " asked")
        self.operator.ask(line)
        self.events.add(what + " answered")

    def play(self):
        """One thing after the other, so that the same system call is the same instant each time."""
        self.done(self.hand_in("1", ["ok-1@world.test"]))
        first = self.hand_in("2", ["ok-2@world.test", "later-2@world.test", "never-2@world.test"])
        self.done(first)
        self.until("notice", lambda: any(to.startswith("joe-2@") for _, to in list(self.receiver.copies)))
        self.ask("pause", "pause")
        third = self.hand_in("3", ["ok-3@world.test", "ok-3b@world.test"])
        self.ask("resume", "resume")
        self.done(third)
        self.done(self.hand_in("4", ["mute-4@world.test"]))
        # Two chunks, staged ahead; their removal is a sweep's.
        self.done(self.hand_in("5", ["ok-5@world.test"], size=300_000))
        self.ask("pause", "pause")
        sixth = self.hand_in("6", ["ok-6@world.test", "ok-6b@world.test"])
        self.ask("hold", "hold id=%d/1" % sixth)
        self.ask("drop", "drop id=%d" % sixth)
        self.ledger["6"]["dropped"] = True
        self.ask("resume", "resume")

    # --- the end

    def finish(self):
        """Starts it once more, lets all mail end and stops it. How long the start took."""
        self.daemon.start()
        ready = self.daemon.wait_ready()
        deadline = time.monotonic() + PATIENCE
        # What the crash came across, the operator lets go.
        self.daemon.control("resume", "release all")
        while True:
            answer = self.daemon.control("kick all", "count")
            # What was a notice to be written at the first count may be mail when the notices are looked at.
            if empty(answer) and not self.notices() and empty(self.daemon.control("count")):
                break
            if time.monotonic() > deadline:
                raise TimeoutError("still in the queue: %s" % answer)
            time.sleep(0.02)
        self.complaints = self.daemon.check()
        if (status := self.daemon.stop()) != 0:
            raise RuntimeError("the daemon ended with %d" % status)
        return ready

    def notices(self):
        conn = open_read(self.daemon.database)
        try:
            return conn.execute("SELECT count(*) FROM notice").fetchone()[0]
        finally:
            conn.close()

    def verdict(self):
        """What is wrong, as sentences."""
        conn = open_read(self.daemon.database)
        try:
            wrong = self.complaints + faults(conn)
            rows = recipients(conn)
            doubted = doubted_in_history(conn)
            notices = dict(conn.execute("SELECT message_id, id FROM message WHERE caller = 'dsn'"))
            waiting = conn.execute("SELECT count(*) FROM notice").fetchone()[0]
        finally:
            conn.close()
        copies = {(notices.get(key, key), to): times for (key, to), times in self.receiver.copies.items()}
        wrong += self._acknowledged(rows)
        wrong += self._copies(rows, copies, doubted)
        for complaint in self._notices(rows, copies):
            of = {to: FINAL.get(row[1], row[1]) for (key, to), row in rows.items() if key in notices.values()}
            wrong.append("%s; the queue has these: %s, and %d to be written" % (complaint, of, waiting))
        return wrong

    def _acknowledged(self, rows):
        for name, entry in self.ledger.items():
            if entry["id"] is None:
                continue
            for address in entry["to"]:
                row = rows.get((entry["id"], address))
                expected = {"failed"} if address.startswith("never-") else {"delivered"}
                if entry["dropped"]:
                    expected = {"dropped"}
                elif name == "6":
                    expected = {"dropped", "delivered"}
                state = FINAL.get(row[1], "not final") if row else "lost"
                if state not in expected:
                    yield "%s to %s was acknowledged as %d and is %s" % (name, address, entry["id"], state)

    def _copies(self, rows, copies, doubted):
        ids = {}
        for queue_id, name in self.receiver.names.items():
            ids.setdefault(name, set()).add(queue_id)
            if self.receiver.hashes[queue_id] != {self.ledger[name]["hash"]}:
                yield "%s did not arrive as it was handed in" % name
        for name, found in ids.items():
            if len(found) > 1:
                yield "%s became several messages: %s" % (name, sorted(found))
        for key, times in copies.items():
            if key not in rows:
                yield "%s to %s arrived and is not in the history" % key
                continue
            number, state, _, _ = rows[key]
            if FINAL.get(state) in ("dropped", "failed") and key[1].startswith("never-"):
                yield "%d to %s arrived though it was refused" % key
            row = (key[0], number)
            for when in times[1:]:
                # The log's line may have died with the daemon; what it said is on record.
                if self.daemon.marked.get(row, when) >= when and row not in doubted:
                    yield "%d to %s came again without a mark" % key
        for key, (_, state, _, _) in rows.items():
            if FINAL.get(state) == "delivered" and key not in copies:
                yield "%d to %s is called delivered and never arrived" % key

    def _notices(self, rows, copies):
        """One for each sender of something that failed, no other."""
        failed = {"joe-%s@client.test" % address.partition("-")[2].partition("@")[0]
                  for (_, address), row in rows.items() if FINAL.get(row[1]) == "failed"}
        told = {}
        for queue_id, address in copies:
            if address.startswith("joe-"):
                told.setdefault(address, set()).add(queue_id)
        for sender in failed | told.keys():
            if len(told.get(sender, ())) != (sender in failed):
                yield "%s was sent %d notices" % (sender, len(told.get(sender, ())))


def empty(answer):
    """Whether the last of these answers, before that to quit, says that nothing is queued."""
    return answer.endswith("\nOK 0\nOK bye\n") or answer == "OK 0\nOK bye\n"


class Template:
    """A queue directory to begin with, and what is known of its mail."""

    def __init__(self, stage):
        self.stage = stage
        self.queue = stage.daemon.queue
        self.ledger = stage.ledger
        self.copies = stage.receiver.copies
        self.hashes = stage.receiver.hashes
        self.names = stage.receiver.names

    def close(self):
        self.stage.close()


def in_flight(program):
    """Killed in the middle: claims in doubt, content without its message, a log that was never copied."""
    stage = Stage(program, interval="300ms", workers=8)
    try:
        return leave_in_flight(stage)
    except BaseException:
        stage.close()
        raise


def leave_in_flight(stage):
    stage.daemon.start()
    stage.daemon.wait_ready()
    stage.connect()
    for n in range(6):
        stage.hand_in("t%d" % n, ["ok-t%d@world.test" % n, "later-t%d@world.test" % n])
    # As many as the window of connections has room for at first.
    for n in (6, 7):
        stage.hand_in("t%d" % n, ["hang-t%d%s@world.test" % (n, which) for which in "abc"])
    stage.until("hanging", lambda: sum(to.startswith("hang-") for _, to in list(stage.receiver.copies)) == 6)
    half = Client(stage.daemon.port, stage.events)
    half.begin("joe-half@client.test", ["ok-half@world.test"], b"X-Id: half\r\n\r\n" + b"a line of a large one\r\n" * 100_000)
    stage.until("staged", lambda: staged(stage) > 0)
    stage.daemon.kill()
    half.close()
    return Template(stage)


def staged(stage):
    conn = open_read(stage.daemon.database)
    try:
        return conn.execute("SELECT count(*) FROM unowned WHERE kind = 0").fetchone()[0]
    finally:
        conn.close()


def program():
    """The daemon under test, as the Makefile builds it."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target"))
    return os.environ.get("POSTHASTED", os.path.join(target, "release", "posthasted"))


def end_on_sigterm():
    """By an exception, so that daemons and directories go too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
