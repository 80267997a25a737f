-- Schema 8: who waits because of a clock that was wrong. This file is never edited once released (ST-13).

-- When a claim was given back to be tried later, and that was no attempt; null: it was not, or an operator has set a time since.
ALTER TABLE recipient ADD COLUMN put_off INTEGER;
