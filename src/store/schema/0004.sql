-- Schema 4: MTA-STS policies (RFC 8461). This file is never edited once released (ST-13).

-- The policies of domains (STS-10). Protects mail: one that has not expired makes room for none.
CREATE TABLE sts_policy (
    domain  TEXT PRIMARY KEY,
    id      TEXT NOT NULL,          -- of the TXT record that led to it
    mode    INTEGER NOT NULL,       -- 0 none, 1 testing, 2 enforce
    max_age INTEGER NOT NULL,       -- seconds
    mx      TEXT NOT NULL,          -- patterns, one a line
    fetched INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    used    INTEGER NOT NULL,       -- by an attempt, to the day
    anew    INTEGER NOT NULL        -- 1: all hosts failed it, so the next attempt fetches it whatever its id (STS-8)
) STRICT, WITHOUT ROWID;
CREATE INDEX sts_policy_fetched ON sts_policy (fetched);
CREATE INDEX sts_policy_expires ON sts_policy (expires);
CREATE INDEX sts_policy_used ON sts_policy (used);

-- How many there are, because counting them takes longer the more there are.
CREATE TABLE sts_count (one INTEGER PRIMARY KEY CHECK (one = 1), policies INTEGER NOT NULL) STRICT;
INSERT INTO sts_count VALUES (1, 0);
CREATE TRIGGER sts_policy_more AFTER INSERT ON sts_policy BEGIN
    UPDATE sts_count SET policies = policies + 1 WHERE one = 1;
END;
CREATE TRIGGER sts_policy_less AFTER DELETE ON sts_policy BEGIN
    UPDATE sts_count SET policies = policies - 1 WHERE one = 1;
END;
