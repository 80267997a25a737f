-- Schema 2: what senders are to be told. This file is never edited once released (ST-13).

-- A recipient whose sender is to be told of it; written in the transaction that moves its state (Q-10). All rows of a message
-- and kind become one notification when the first of them is due (DSN-3), and go in the transaction that queues it.
CREATE TABLE notice (
    message INTEGER NOT NULL,
    kind    INTEGER NOT NULL,       -- 0 failed, 1 delayed, 2 success
    number  INTEGER NOT NULL,
    due     INTEGER NOT NULL,
    PRIMARY KEY (message, kind, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX notice_due ON notice (due);

-- How many notifications an address has had since a time, and how many were withheld from it (DSN-11).
CREATE TABLE notified (
    address  TEXT PRIMARY KEY,
    since    INTEGER NOT NULL,
    sent     INTEGER NOT NULL,
    withheld INTEGER NOT NULL,      -- not yet summed up to the postmaster
    first    INTEGER                -- when the first of them was
) STRICT, WITHOUT ROWID;
CREATE INDEX notified_since ON notified (since) WHERE withheld = 0;
CREATE INDEX notified_first ON notified (first) WHERE withheld > 0;

-- When the sender is to be told next that a recipient is still here (RT-8). Null for finished ones, and for those whose first
-- attempt began in the commit that accepted them, until it fails.
ALTER TABLE recipient ADD COLUMN delay_due INTEGER;
-- The age of the last delay notice in milliseconds: no age up to it is told (again), whatever the clock does.
ALTER TABLE recipient ADD COLUMN delay_told INTEGER NOT NULL DEFAULT 0;
CREATE INDEX recipient_delay ON recipient (delay_due) WHERE delay_due IS NOT NULL;
