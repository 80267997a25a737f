-- Schema 1. This file is never edited once released: a change is a new file (ST-13).
--
-- Times are UTC milliseconds. A recipient's id is its message's id * 2^20 + its number, a chunk's likewise, so that both
-- tables are plain rowid tables clustered by message and every index entry carries one integer.
--
-- States of a recipient: 0 queued, 1 claimed, 2 held; final: 3 delivered, 4 failed, 5 expired, 6 dropped. Rows whose state
-- is final are the history: no index that the running daemon works with contains them, so finished mail costs nothing.

-- One row: what must survive with each commit, and counts that would otherwise need a scan.
CREATE TABLE queue (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    next_id     INTEGER NOT NULL,   -- every message id handed out is below this (Q-4)
    clean       INTEGER NOT NULL,   -- 1 after an orderly stop; 0 while running: the process died (Q-22)
    messages    INTEGER NOT NULL,   -- messages with a recipient that is not final
    queued      INTEGER NOT NULL,   -- recipients per state
    claimed     INTEGER NOT NULL,
    held        INTEGER NOT NULL,
    doubt       INTEGER NOT NULL    -- recipients not final that carry a doubt
) STRICT;
INSERT INTO queue VALUES (1, 1, 1, 0, 0, 0, 0, 0);

-- What all recipients of a message share (Q-5). Stays after the content is freed.
CREATE TABLE message (
    id            INTEGER PRIMARY KEY,
    arrived       INTEGER NOT NULL,
    caller        TEXT NOT NULL,
    client        TEXT NOT NULL,
    sender        TEXT NOT NULL,    -- reverse-path without brackets; '' is the null one
    sender_domain TEXT NOT NULL,
    header        BLOB NOT NULL,    -- the lines we put in front of the content
    message_id    TEXT NOT NULL,
    subject       TEXT NOT NULL,
    size          INTEGER NOT NULL, -- header and content
    eight_bit     INTEGER NOT NULL,
    utf8_headers  INTEGER NOT NULL,
    require_tls   INTEGER NOT NULL, -- 0 default, 1 yes, 2 no
    envid         TEXT,
    ret           TEXT,             -- 'full' or 'headers'
    priority      INTEGER NOT NULL,
    lifetime      INTEGER,
    max_attempts  INTEGER,
    extras        BLOB,             -- key NUL value NUL ..
    chunks        INTEGER NOT NULL, -- rows of content
    content_size  INTEGER NOT NULL,
    recipients    INTEGER NOT NULL,
    open          INTEGER NOT NULL, -- recipients not final; kept only where `alone` of its recipients is 0
    faults        INTEGER NOT NULL DEFAULT 0, -- panics and hangs of its workers (Q-22)
    deaths        INTEGER NOT NULL DEFAULT 0  -- deaths of the process while it was claimed (Q-22)
) STRICT;

-- Content, in order. A row may be there before its message is: see `unowned`.
CREATE TABLE chunk (
    id   INTEGER PRIMARY KEY,       -- message * 2^20 + position, from 0
    data BLOB NOT NULL
) STRICT;

-- Content that no message owns: staged ahead of its message (0), or of a finished one and not yet removed (1). Q-7, Q-27.
CREATE TABLE unowned (
    message INTEGER PRIMARY KEY,
    kind    INTEGER NOT NULL
) STRICT;

-- The groups that recipients wait in.
CREATE TABLE destination (
    id       INTEGER PRIMARY KEY,
    key      TEXT NOT NULL UNIQUE,
    next_due INTEGER                -- earliest next attempt of its queued recipients; null without any
) STRICT;
CREATE INDEX destination_due ON destination (next_due) WHERE next_due IS NOT NULL;

CREATE TABLE recipient (
    id           INTEGER PRIMARY KEY, -- message * 2^20 + number, from 1
    state        INTEGER NOT NULL,
    destination  INTEGER NOT NULL,    -- where it waits; an index, not a decision
    rank         INTEGER NOT NULL,    -- minus the priority: lower goes first
    next_attempt INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,    -- begun so far
    last_attempt INTEGER,             -- when the last one began; for a claimed row, the running one
    alone        INTEGER NOT NULL,    -- 1: the only recipient of a message of at most one chunk
    doubt        INTEGER NOT NULL,    -- 0 none, 1 in-doubt (Q-12), 2 may-be-sent-twice (Q-14)
    address      TEXT NOT NULL,       -- forward-path without brackets
    domain       TEXT NOT NULL,
    notify       INTEGER NOT NULL,    -- bits: 1 never, 2 success, 4 failure, 8 delay, 16 given
    orcpt        TEXT,
    blocker      TEXT NOT NULL,       -- why it waits: the last reply, or the reason of a hold
    transport    TEXT,                -- set by an operator
    used         TEXT,                -- transport of the last attempt
    dialled      TEXT,                -- addresses, blank between, latest last
    wish         INTEGER NOT NULL,    -- what an operator wants once the attempt ends undelivered: 1 drop, 2 fail, 3 hold
    wish_text    TEXT,
    wish_uid     INTEGER,
    finished     INTEGER              -- when it became final
) STRICT;
CREATE INDEX recipient_due ON recipient (destination, rank, next_attempt) WHERE state = 0;
CREATE INDEX recipient_state ON recipient (state) WHERE state < 3;
CREATE INDEX recipient_next ON recipient (next_attempt) WHERE state < 3;

-- Attempts that ended, or were cut off (OBS-8, Q-15), and operators' cancellations. The one that runs is the claimed row.
CREATE TABLE attempt (
    recipient INTEGER NOT NULL REFERENCES recipient (id),
    ordinal   INTEGER NOT NULL,       -- from 1; for a cancellation, the attempts before it
    kind      INTEGER NOT NULL,       -- 0 ended, 1 cut off by a crash, 2 cancelled by an operator
    started   INTEGER NOT NULL,
    duration  INTEGER NOT NULL DEFAULT 0, -- spans are milliseconds
    in_queue  INTEGER NOT NULL DEFAULT 0,
    in_connect INTEGER NOT NULL DEFAULT 0,
    in_session INTEGER NOT NULL DEFAULT 0,
    in_data   INTEGER NOT NULL DEFAULT 0,
    transport TEXT,
    host      TEXT,
    address   TEXT,                   -- with port
    dialled   TEXT,
    source    TEXT,
    tls       TEXT,
    stage     TEXT,
    code      INTEGER,
    status    TEXT,
    text      TEXT,
    cause     TEXT,                   -- null on success
    twice     INTEGER NOT NULL DEFAULT 0, -- Q-14
    worker    TEXT,
    reused    INTEGER NOT NULL DEFAULT 0,
    uid       INTEGER,                -- the operator
    PRIMARY KEY (recipient, ordinal, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE pause (
    scope  TEXT NOT NULL,             -- 'all', 'transport', 'domain'
    name   TEXT NOT NULL,
    since  INTEGER NOT NULL,
    until  INTEGER,
    reason TEXT NOT NULL,
    PRIMARY KEY (scope, name)
) STRICT, WITHOUT ROWID;
