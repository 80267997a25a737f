-- Schema 6: what destinations taught us. This file is never edited once released (ST-13).

-- Windows below their limit (SC-6): written when a refusal makes one smaller or an operator sets it, gone when it is at its limit
-- again. Bounded by what dispatch remembers.
CREATE TABLE learned_window (
    destination TEXT PRIMARY KEY,
    size        INTEGER NOT NULL,   -- connections at once
    ceiling     INTEGER,            -- so many were let in when one more was refused
    cause       TEXT NOT NULL,      -- the reply or the error
    at          INTEGER NOT NULL,   -- when it came
    pinned      INTEGER NOT NULL    -- 1: an operator has fixed it
) STRICT, WITHOUT ROWID;
