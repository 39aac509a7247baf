-- Since when accounts are in arrears. What is said here of PostgreSQL is said in 5.sqlite.sql of SQLite: same tables, same columns.

-- A time in which an account owed more than it may; it ends once.
CREATE TABLE arrears (
    account  TEXT   NOT NULL,
    since_ms BIGINT NOT NULL,
    until_ms BIGINT CHECK (until_ms >= since_ms),
    PRIMARY KEY (account, since_ms)
);
CREATE UNIQUE INDEX arrears_open ON arrears (account) WHERE until_ms IS NULL;

CREATE TRIGGER arrears_keep BEFORE UPDATE ON arrears FOR EACH ROW
WHEN (NEW.account <> OLD.account OR NEW.since_ms <> OLD.since_ms OR OLD.until_ms IS NOT NULL)
EXECUTE FUNCTION tenure_refuse('arrears end once');
CREATE TRIGGER arrears_stay BEFORE DELETE ON arrears
FOR EACH ROW EXECUTE FUNCTION tenure_refuse('arrears are never deleted');
CREATE TRIGGER arrears_whole BEFORE TRUNCATE ON arrears
FOR EACH STATEMENT EXECUTE FUNCTION tenure_refuse('arrears are never deleted');
