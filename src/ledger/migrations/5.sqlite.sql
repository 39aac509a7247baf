-- Since when accounts are in arrears. What is said here of SQLite is said in 5.postgres.sql of PostgreSQL: same tables, same columns.

-- A time in which an account owed more than it may; it ends once.
CREATE TABLE arrears (
    account  TEXT    NOT NULL,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER CHECK (until_ms >= since_ms),
    PRIMARY KEY (account, since_ms)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX arrears_open ON arrears (account) WHERE until_ms IS NULL;

CREATE TRIGGER arrears_keep BEFORE UPDATE ON arrears
WHEN NEW.account <> OLD.account OR NEW.since_ms <> OLD.since_ms OR OLD.until_ms IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'arrears end once'); END;
CREATE TRIGGER arrears_stay BEFORE DELETE ON arrears
BEGIN SELECT RAISE(ABORT, 'arrears are never deleted'); END;
