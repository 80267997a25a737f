"""What the daemon has promised up to a moment of its trace, and whether a queue keeps it.

A promise is made when the call that says it begins: a 250 to a client, an OK to the operator. Toward the receiver every
contact promises that its claim is on disk, every final dot that the recipient is at least in doubt, and the next MAIL of the
same session that the outcomes of the transaction before are on disk (Q-1, Q-8, Q-11, Q-12).
"""

import collections
import re

from judge import FINAL
from world import body_hash

Promise = collections.namedtuple("Promise", "time kind what count")

LOCAL = re.compile(r"127\.0\.0\.1:(\d+)->127\.0\.0\.1:(\d+)")


class Session:
    """One SMTP session of ours with the receiver, seen from our side."""

    def __init__(self, promises, counts):
        self.promises = promises
        self.counts = counts  # address -> contacts
        self.expected = ["greeting"]
        self.content = False
        self.tail = b""
        self.accepted, self.delivered = [], []

    def promise(self, time, kind, addresses):
        for address in addresses:
            self.promises.append(Promise(time, kind, address, self.counts[address]))

    def said(self, time, data):
        if self.content:
            self.tail = (self.tail + data)[-5:]
            if self.tail.endswith(b"\r\n.\r\n"):
                self.content = False
                self.expected.append("dot")
                self.promise(time, "dot", self.accepted)
            return
        for line in data.split(b"\r\n"):
            verb = line[:4].upper()
            if verb == b"MAIL":
                self.promise(time, "settled", self.delivered)
                self.accepted, self.delivered = [], []
            elif verb == b"RCPT":
                address = line.partition(b"<")[2].partition(b">")[0].decode()
                self.counts[address] += 1
                self.promise(time, "contact", [address])
                self.expected.append(address)
                continue
            if verb.strip():
                self.expected.append(verb.decode())

    def heard(self, data):
        for line in data.split(b"\r\n"):
            if not re.match(rb"\d{3} ", line) or not self.expected:
                continue
            what = self.expected.pop(0)
            if "@" in what and line.startswith(b"2"):
                self.accepted.append(what)
            elif what == "DATA" and line.startswith(b"354"):
                self.content, self.tail = True, b"\r\n"
            elif what == "dot" and line.startswith(b"2"):
                self.delivered = list(self.accepted)


def of(talks, ports, world):
    """All promises of a recording, in order."""
    promises, counts, sessions, asked = [], collections.Counter(), {}, {}
    for talk in talks:
        if between := LOCAL.search(talk.connection):
            here, there = int(between[1]), int(between[2])
            if there == world:
                session = sessions.setdefault(talk.connection, Session(promises, counts))
                if talk.kind == "said":
                    session.said(talk.time, talk.data)
                else:
                    session.heard(talk.data)
            elif here in ports and talk.kind == "said":
                for queue_id in re.findall(rb"250 \S+ queued as (\d+)", talk.data):
                    promises.append(Promise(talk.time, "accepted", int(queue_id), 0))
        elif talk.kind == "heard" and (order := re.match(rb"drop id=(\d+)\n", talk.data)):
            asked[talk.connection] = int(order[1])
        elif talk.kind == "said" and talk.connection in asked and re.search(rb"(?m)^OK", talk.data):
            promises.append(Promise(talk.time, "dropped", asked.pop(talk.connection), 0))
    return sorted(promises)


def broken(promises, ledger, conn):
    """What of the promises a recovered queue does not keep, as sentences."""
    rows = {}
    for row, address, state, doubt, attempts in conn.execute("SELECT id, address, state, doubt, attempts FROM recipient"):
        rows[address] = (row >> 20, FINAL.get(state), doubt, attempts)
    known = {entry["id"]: entry for entry in ledger.values() if entry["id"] is not None}
    next_id = conn.execute("SELECT next_id FROM queue").fetchone()[0]
    for promise in promises:
        if promise.kind == "accepted":
            if next_id <= promise.what:
                yield "id %d will be handed out again" % promise.what
            yield from missing(known[promise.what], rows, conn)
        elif promise.kind == "dropped":
            for address in known[promise.what]["to"]:
                if rows.get(address, (0, "lost"))[1] != "dropped":
                    yield "%s was dropped by the operator and is not" % address
        else:
            _, final, doubt, attempts = rows.get(promise.what, (0, None, 0, 0))
            if attempts < promise.count:
                yield "%s was contacted, and the claim is lost" % promise.what
            elif promise.kind == "dot" and not final and not doubt:
                yield "%s was sent, is queued, and no doubt is on it: its outcome is lost" % promise.what
            elif promise.kind == "settled" and final != "delivered":
                yield "%s was delivered and settled: that is lost" % promise.what
    # all or none.
    for address, (queue_id, final, _, _) in rows.items():
        if final == "failed" and address.startswith("never-"):
            sender = "joe-%s@client.test" % address.partition("-")[2].partition("@")[0]
            waiting = conn.execute("SELECT 1 FROM notice WHERE message = ? AND kind = 0", [queue_id]).fetchone()
            if not waiting and sender not in rows:
                yield "%s failed and its notice is lost" % address


def missing(entry, rows, conn):
    for address in entry["to"]:
        if rows.get(address, (0,))[0] != entry["id"]:
            yield "%d to %s was acknowledged and is lost" % (entry["id"], address)
            return
    if any(rows[address][1] is None for address in entry["to"]):
        first = entry["id"] << 20
        content = b"".join(data for data, in conn.execute("SELECT data FROM chunk WHERE id BETWEEN ? AND ? ORDER BY id",
                                                          [first, first + 0xfffff]))
        if body_hash(content) != entry["hash"]:
            yield "%d was acknowledged and its content is lost" % entry["id"]
