"""A queue as an earlier version left it: schema 1, with mail in it."""

import os
import shutil
import sqlite3
import tempfile
import time

from world import body_hash

SCHEMA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/store/schema/0001.sql")
APPLICATION_ID = 0x70687351
MESSAGES = 5


class Template:
    """The directory, and the ledger of what is in it."""

    def __init__(self, directory, ledger):
        self.directory = directory
        self.queue = directory
        self.ledger = ledger
        self.copies, self.hashes, self.names = {}, {}, {}

    def close(self):
        shutil.rmtree(self.directory, ignore_errors=True)


def template():
    directory = tempfile.mkdtemp(prefix="posthaste-torture.")
    conn = sqlite3.connect(os.path.join(directory, "queue.db"), isolation_level=None)
    conn.execute("PRAGMA application_id = %d" % APPLICATION_ID)
    conn.execute("PRAGMA journal_mode = wal")
    with open(SCHEMA) as file:
        conn.executescript(file.read())
    conn.execute("PRAGMA user_version = 1")
    due = int(time.time() * 1000)
    conn.execute("INSERT INTO destination VALUES (1, 'out', ?)", [due])
    ledger = {}
    for number in range(1, MESSAGES + 1):
        name = "o%d" % number
        ledger[name] = add(conn, number, name, due)
    conn.execute("UPDATE queue SET next_id = ?, messages = ?, queued = ?", [MESSAGES + 1, MESSAGES, 2 * MESSAGES])
    conn.close()
    return Template(directory, ledger)


def add(conn, number, name, due):
    sender = "joe-%s@client.test" % name
    header = b"Received: from client.test\r\n\tby torture.test (posthaste) with ESMTP id %d;\r\n" % number
    text = b"From: <%s>\r\nX-Id: %s\r\n\r\n%s\r\n" % (sender.encode(), name.encode(), b"from an earlier time " * 3)
    conn.execute(
        "INSERT INTO message (id, arrived, caller, client, sender, sender_domain, header, message_id, subject, size, eight_bit,"
        " utf8_headers, require_tls, priority, chunks, content_size, recipients, open)"
        " VALUES (?, ?, 'relay', '127.0.0.1', ?, 'client.test', ?, '', '', ?, 0, 0, 0, 0, 1, ?, 2, 2)",
        [number, due, sender, header, len(header) + len(text), len(text)])
    conn.execute("INSERT INTO chunk VALUES (?, ?)", [number << 20, text])
    to = ["ok-%s@world.test" % name, "never-%s@world.test" % name]
    for position, address in enumerate(to, 1):
        conn.execute(
            "INSERT INTO recipient (id, state, destination, rank, next_attempt, attempts, alone, doubt, address, domain, notify,"
            " blocker, wish) VALUES (?, 0, 1, 0, ?, 0, 0, 0, ?, 'world.test', 12, '', 0)",
            [number << 20 | position, due, address])
    return {"sender": sender, "to": to, "hash": body_hash(text), "id": number, "dropped": False}
