-- The book. What is said here of SQLite is said in 1.postgres.sql of PostgreSQL: same tables, same columns.

-- Every transfer, one row each, never changed. `seq` has no gaps; `chain` is the SHA-256 of the row and the chain before it.
CREATE TABLE transfers (
    seq      INTEGER PRIMARY KEY,
    id       TEXT    NOT NULL UNIQUE,
    kind     TEXT    NOT NULL CHECK (kind IN ('transfer', 'hold', 'post', 'void')),
    of       TEXT    REFERENCES transfers (id),
    order_id TEXT    NOT NULL,
    contract TEXT    REFERENCES contracts (id),
    debit    TEXT    NOT NULL,
    credit   TEXT    NOT NULL CHECK (credit <> debit),
    amount   INTEGER NOT NULL CHECK (amount >= 0),
    currency TEXT    NOT NULL,
    at_ms    INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    detail   TEXT    NOT NULL,
    chain    TEXT    NOT NULL,
    CHECK ((of IS NOT NULL) = (kind IN ('post', 'void')))
) STRICT;

-- A hold ends once.
CREATE UNIQUE INDEX transfers_of ON transfers (of) WHERE of IS NOT NULL;
-- Orders are few; usage is what there is much of, and it is found by its id.
CREATE INDEX transfers_order ON transfers (order_id) WHERE kind <> 'transfer';
CREATE INDEX transfers_contract ON transfers (contract) WHERE kind <> 'transfer';
-- Bills.
CREATE INDEX transfers_debit ON transfers (debit, at_ms);
CREATE INDEX transfers_credit ON transfers (credit, at_ms) WHERE substr(credit, 1, 6) <> 'sales:';

-- What the transfers add up to, kept with them in one transaction.
CREATE TABLE balances (
    account  TEXT    NOT NULL,
    currency TEXT    NOT NULL,
    posted   INTEGER NOT NULL,
    held     INTEGER NOT NULL,
    PRIMARY KEY (account, currency)
) STRICT, WITHOUT ROWID;

-- Contract ids, minted once. An object restored from a backup has another uid and adopts its contract.
CREATE TABLE contracts (
    id           TEXT    NOT NULL PRIMARY KEY,
    object       TEXT    NOT NULL,
    uid          TEXT    NOT NULL UNIQUE,
    opened_at_ms INTEGER NOT NULL,
    closed_at_ms INTEGER
) STRICT;

-- One row: whose term of leadership it is, and where the chain ends, so that a missing last row shows too.
CREATE TABLE fence (
    only_one INTEGER NOT NULL PRIMARY KEY CHECK (only_one = 1),
    epoch    INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    chain    TEXT    NOT NULL
) STRICT;
INSERT INTO fence (only_one, epoch, seq, chain) VALUES (1, 0, 0, '');

CREATE TRIGGER transfers_keep BEFORE UPDATE ON transfers
BEGIN SELECT RAISE(ABORT, 'transfers are never changed'); END;
CREATE TRIGGER transfers_stay BEFORE DELETE ON transfers
BEGIN SELECT RAISE(ABORT, 'transfers are never deleted'); END;
CREATE TRIGGER contracts_keep BEFORE UPDATE ON contracts
WHEN NEW.id <> OLD.id OR NEW.object <> OLD.object OR NEW.opened_at_ms <> OLD.opened_at_ms OR OLD.closed_at_ms IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a contract keeps its object, and stays closed'); END;
CREATE TRIGGER contracts_stay BEFORE DELETE ON contracts
BEGIN SELECT RAISE(ABORT, 'contracts are never deleted'); END;
CREATE TRIGGER fence_keep BEFORE UPDATE ON fence WHEN NEW.epoch < OLD.epoch OR NEW.seq < OLD.seq
BEGIN SELECT RAISE(ABORT, 'the fence only moves forward'); END;
CREATE TRIGGER fence_stay BEFORE DELETE ON fence
BEGIN SELECT RAISE(ABORT, 'the fence stays'); END;
