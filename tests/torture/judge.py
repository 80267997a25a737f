"""What must be true of any queue, whatever happened to the daemon: queries that return no row."""

import sqlite3

FINAL = {3: "delivered", 4: "failed", 5: "expired", 6: "dropped"}

INVARIANTS = {
    "the counts kept are the counts": """
        SELECT * FROM queue WHERE (messages, queued, claimed, held, doubt) IS NOT (
            SELECT (SELECT count(DISTINCT id >> 20) FROM recipient WHERE state < 3), count(*) FILTER (WHERE state = 0),
                count(*) FILTER (WHERE state = 1), count(*) FILTER (WHERE state = 2),
                count(*) FILTER (WHERE state < 3 AND doubt <> 0) FROM recipient)""",
    "every recipient has its message": "SELECT id FROM recipient WHERE id >> 20 NOT IN (SELECT id FROM message)",
    "every message has all its recipients": """
        SELECT id FROM message WHERE recipients <> (SELECT count(*) FROM recipient r WHERE r.id >> 20 = message.id)""",
    "no recipient stands twice": """
        SELECT id >> 20, address FROM recipient GROUP BY id >> 20, address HAVING count(*) > 1""",
    "states are states": "SELECT id FROM recipient WHERE state NOT BETWEEN 0 AND 6",
    "what is final has a time of its end": "SELECT id FROM recipient WHERE (state >= 3) <> (finished IS NOT NULL)",
    "the open recipients are counted": """
        SELECT m.id FROM message m WHERE m.open <> (SELECT count(*) FROM recipient r WHERE r.id >> 20 = m.id AND r.state < 3)
            AND NOT EXISTS (SELECT 1 FROM recipient r WHERE r.id >> 20 = m.id AND r.alone)""",
    "a message that is not finished has its content": """
        SELECT m.id FROM message m WHERE EXISTS (SELECT 1 FROM recipient r WHERE r.id >> 20 = m.id AND r.state < 3)
            AND (m.chunks, m.content_size) IS NOT (SELECT count(*), coalesce(sum(length(c.data)), 0) FROM chunk c
                WHERE c.id >> 20 = m.id)""",
    "content has an owner, or is marked for removal": """
        SELECT c.id FROM chunk c WHERE c.id >> 20 NOT IN (SELECT message FROM unowned)
            AND NOT EXISTS (SELECT 1 FROM recipient r WHERE r.id >> 20 = c.id >> 20 AND r.state < 3)
            AND NOT EXISTS (SELECT 1 FROM notice n WHERE n.message = c.id >> 20)""",
    "no content of a queued message is marked for removal": """
        SELECT u.message FROM unowned u JOIN recipient r ON r.id >> 20 = u.message WHERE r.state < 3""",
    "destinations know when their next recipient is due": """
        SELECT d.id FROM destination d WHERE d.next_due IS NOT
            (SELECT min(next_attempt) FROM recipient r WHERE r.destination = d.id AND r.state = 0)""",
    "every recipient has a destination": "SELECT id FROM recipient WHERE destination NOT IN (SELECT id FROM destination)",
    "no id is handed out twice": """
        SELECT next_id FROM queue WHERE next_id <= max((SELECT coalesce(max(id), 0) FROM message),
            (SELECT coalesce(max(id >> 20), 0) FROM chunk), (SELECT coalesce(max(message), 0) FROM unowned))""",
    "each attempt has its record": """
        SELECT r.id FROM recipient r WHERE r.attempts - (r.state = 1) <>
            (SELECT count(*) FROM attempt a WHERE a.recipient = r.id AND a.kind < 2)""",
    "what is to be told is about somebody": """
        SELECT n.message FROM notice n WHERE (n.message << 20 | n.number) NOT IN (SELECT id FROM recipient)""",
}


def faults(conn):
    """Names of what is broken; an empty list is the verdict hoped for."""
    found = []
    if (said := conn.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
        return ["integrity_check: " + said]
    if rows := conn.execute("PRAGMA foreign_key_check").fetchall():
        found.append("foreign_key_check: %s" % rows[:3])
    for name, query in INVARIANTS.items():
        if rows := conn.execute(query).fetchmany(3):
            found.append("not true: %s: %s" % (name, rows))
    return found


def recipients(conn):
    """(queue id, address) -> (number, state, doubt, attempts)."""
    return {(row >> 20, address): (row & 0xfffff, state, doubt, attempts) for row, address, state, doubt, attempts in
            conn.execute("SELECT id, address, state, doubt, attempts FROM recipient")}


def doubted_in_history(conn):
    """(queue id, number) of recipients one of whose attempts is on record as cut off, or as perhaps sent."""
    return {(row >> 20, row & 0xfffff) for row, in
            conn.execute("SELECT recipient FROM attempt WHERE kind = 1 OR twice <> 0")}


def open_read(path):
    """A connection that changes no row."""
    conn = sqlite3.connect("file:%s?mode=rw" % path, uri=True)
    conn.execute("PRAGMA query_only = 1")
    return conn
