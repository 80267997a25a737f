-- Schema 7: how many messages an address gets in a day. This file is never edited once released (ST-13).

-- Messages that were or may have been delivered to an address in a UTC day, and those under way (SC-8), where that is limited.
-- Days are numbered from 1970-01-01, addresses in lower case; those of days that are over go with what is counted later, a few
-- rows at a time.
CREATE TABLE address_day (
    day     INTEGER NOT NULL,
    address TEXT NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (day, address)
) STRICT, WITHOUT ROWID;

-- The day at which the running attempt is counted; null: it is not.
ALTER TABLE recipient ADD COLUMN counted INTEGER;
-- So many messages a day may go to its address, and it waits for the next day; null: it does not.
ALTER TABLE recipient ADD COLUMN parked INTEGER;
