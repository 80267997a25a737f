-- Schema 5: TLS reports (RFC 8460). This file is never edited once released (ST-13).

-- What sessions came to, per UTC day and recipient domain (RPT-1). Bounded per day, domain and policy; days are numbered
-- from 1970-01-01, and gone two days after their end. The report about a day and a domain is
--
--   SELECT p.kind, p.base, p.lines, p.successes, p.failures, f.*
--   FROM tls_report_policy p LEFT JOIN tls_report_failure f ON f.policy = p.id
--   WHERE p.day = ?1 AND p.domain = ?2 ORDER BY p.id;

-- The domains of a day, and how far their reports are.
CREATE TABLE tls_report (
    day     INTEGER NOT NULL,
    domain  TEXT NOT NULL,
    done    INTEGER NOT NULL,       -- 1: sent, not wanted, or given up
    tries   INTEGER NOT NULL,       -- begun so far
    next    INTEGER NOT NULL,       -- when the next one is due; at first the end of the day
    PRIMARY KEY (day, domain)
) STRICT, WITHOUT ROWID;
CREATE INDEX tls_report_next ON tls_report (next, day, domain) WHERE done = 0;

-- How many domains a day has, because counting them takes longer the more there are.
CREATE TABLE tls_report_day (day INTEGER PRIMARY KEY, domains INTEGER NOT NULL) STRICT;

-- The policies that sessions with a domain's hosts were held against.
CREATE TABLE tls_report_policy (
    id        INTEGER PRIMARY KEY,
    day       INTEGER NOT NULL,
    domain    TEXT NOT NULL,
    kind      INTEGER NOT NULL,     -- 0 none, 1 MTA-STS, 2 TLSA
    base      TEXT NOT NULL,        -- the domain that has it
    lines     TEXT NOT NULL,        -- its words, one a line
    successes INTEGER NOT NULL,
    failures  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX tls_report_policy_of ON tls_report_policy (day, domain, kind, base, lines);

-- What was wrong. Where there is no more room to tell them apart, all texts but the kind are empty.
CREATE TABLE tls_report_failure (
    policy   INTEGER NOT NULL,
    kind     TEXT NOT NULL,         -- RFC 8460 §4.3
    host     TEXT NOT NULL,
    address  TEXT NOT NULL,
    helo     TEXT NOT NULL,
    source   TEXT NOT NULL,         -- our own address
    reason   TEXT NOT NULL,         -- of the first of them
    sessions INTEGER NOT NULL,
    PRIMARY KEY (policy, kind, host, address, helo, source)
) STRICT, WITHOUT ROWID;
