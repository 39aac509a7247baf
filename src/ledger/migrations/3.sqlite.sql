-- What owners are told. What is said here of SQLite is said in 3.postgres.sql of PostgreSQL: same tables, same columns.

-- A fact, once per id. It is not addressed until it is known who is to be told.
CREATE TABLE notices (
    id        TEXT    NOT NULL PRIMARY KEY,
    account   TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    detail    TEXT    NOT NULL,
    at_ms     INTEGER NOT NULL,
    addressed INTEGER NOT NULL CHECK (addressed IN (0, 1))
) STRICT;
CREATE INDEX notices_unaddressed ON notices (id) WHERE addressed = 0;

-- To whom a notice goes, and how it went: waiting, then sent, failed (given up) or dropped (nobody wants it there any more).
CREATE TABLE deliveries (
    notice   TEXT    NOT NULL REFERENCES notices (id),
    target   TEXT    NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('waiting', 'sent', 'failed', 'dropped')),
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    error    TEXT,
    at_ms    INTEGER NOT NULL,
    PRIMARY KEY (notice, target)
) STRICT;
CREATE INDEX deliveries_waiting ON deliveries (notice) WHERE state = 'waiting';

CREATE TRIGGER notices_keep BEFORE UPDATE ON notices
WHEN NEW.id <> OLD.id OR NEW.account <> OLD.account OR NEW.kind <> OLD.kind OR NEW.detail <> OLD.detail OR NEW.at_ms <> OLD.at_ms
  OR NEW.addressed < OLD.addressed
BEGIN SELECT RAISE(ABORT, 'a notice is never changed'); END;
CREATE TRIGGER deliveries_keep BEFORE UPDATE ON deliveries
WHEN NEW.notice <> OLD.notice OR NEW.target <> OLD.target OR OLD.state <> 'waiting' OR NEW.attempts < OLD.attempts
BEGIN SELECT RAISE(ABORT, 'a delivery ends once'); END;
