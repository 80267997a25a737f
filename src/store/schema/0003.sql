-- Schema 3: whom did we speak to. This file is never edited once released (ST-13).

-- What the hosts of a domain reached, and when it was last seen (TLS-5, TLS-6). Protects mail, so that no number of domains
-- pushes a row out; what was not seen for tls.memory_age is removed a few rows at a time.
CREATE TABLE tls_memory (
    domain     TEXT PRIMARY KEY,
    since      INTEGER NOT NULL,    -- when TLS was seen first
    encrypted  INTEGER NOT NULL,    -- when TLS was seen last
    verified   INTEGER,             -- when a host was last verified, by name or by DANE
    requiretls INTEGER              -- when a host last announced REQUIRETLS (RFC 8689): a hint
) STRICT, WITHOUT ROWID;
CREATE INDEX tls_memory_seen ON tls_memory (encrypted);

-- What was required of the session and by whom: LEVEL:SOURCE+SOURCE (OBS-8).
ALTER TABLE attempt ADD COLUMN tls_policy TEXT;
