-- The book, as in 1.sqlite.sql: same tables, same columns; the comments are there.

CREATE TABLE contracts (
    id           TEXT   NOT NULL PRIMARY KEY,
    object       TEXT   NOT NULL,
    uid          TEXT   NOT NULL UNIQUE,
    opened_at_ms BIGINT NOT NULL,
    closed_at_ms BIGINT
);

CREATE TABLE transfers (
    seq      BIGINT PRIMARY KEY,
    id       TEXT   NOT NULL UNIQUE,
    kind     TEXT   NOT NULL CHECK (kind IN ('transfer', 'hold', 'post', 'void')),
    of       TEXT   REFERENCES transfers (id),
    order_id TEXT   NOT NULL,
    contract TEXT   REFERENCES contracts (id),
    debit    TEXT   NOT NULL,
    credit   TEXT   NOT NULL CHECK (credit <> debit),
    amount   BIGINT NOT NULL CHECK (amount >= 0),
    currency TEXT   NOT NULL,
    at_ms    BIGINT NOT NULL,
    epoch    BIGINT NOT NULL,
    detail   TEXT   NOT NULL,
    chain    TEXT   NOT NULL,
    CHECK ((of IS NOT NULL) = (kind IN ('post', 'void')))
);

CREATE UNIQUE INDEX transfers_of ON transfers (of) WHERE of IS NOT NULL;
CREATE INDEX transfers_order ON transfers (order_id) WHERE kind <> 'transfer';
CREATE INDEX transfers_contract ON transfers (contract) WHERE kind <> 'transfer';
CREATE INDEX transfers_debit ON transfers (debit, at_ms);
CREATE INDEX transfers_credit ON transfers (credit, at_ms) WHERE substr(credit, 1, 6) <> 'sales:';

CREATE TABLE balances (
    account  TEXT   NOT NULL,
    currency TEXT   NOT NULL,
    posted   BIGINT NOT NULL,
    held     BIGINT NOT NULL,
    PRIMARY KEY (account, currency)
);

CREATE TABLE fence (
    only_one BIGINT NOT NULL PRIMARY KEY CHECK (only_one = 1),
    epoch    BIGINT NOT NULL,
    seq      BIGINT NOT NULL,
    chain    TEXT   NOT NULL
);
INSERT INTO fence (only_one, epoch, seq, chain) VALUES (1, 0, 0, '');

CREATE FUNCTION tenure_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '%', TG_ARGV[0]; END $$;

CREATE TRIGGER transfers_keep BEFORE UPDATE ON transfers
FOR EACH ROW EXECUTE FUNCTION tenure_refuse('transfers are never changed');
CREATE TRIGGER transfers_stay BEFORE DELETE ON transfers
FOR EACH ROW EXECUTE FUNCTION tenure_refuse('transfers are never deleted');
CREATE TRIGGER transfers_whole BEFORE TRUNCATE ON transfers
FOR EACH STATEMENT EXECUTE FUNCTION tenure_refuse('transfers are never deleted');
CREATE TRIGGER contracts_keep BEFORE UPDATE ON contracts FOR EACH ROW
WHEN (NEW.id <> OLD.id OR NEW.object <> OLD.object OR NEW.opened_at_ms <> OLD.opened_at_ms OR OLD.closed_at_ms IS NOT NULL)
EXECUTE FUNCTION tenure_refuse('a contract keeps its object, and stays closed');
CREATE TRIGGER contracts_stay BEFORE DELETE ON contracts
FOR EACH ROW EXECUTE FUNCTION tenure_refuse('contracts are never deleted');
CREATE TRIGGER fence_keep BEFORE UPDATE ON fence FOR EACH ROW WHEN (NEW.epoch < OLD.epoch OR NEW.seq < OLD.seq)
EXECUTE FUNCTION tenure_refuse('the fence only moves forward');
CREATE TRIGGER fence_stay BEFORE DELETE ON fence
FOR EACH ROW EXECUTE FUNCTION tenure_refuse('the fence stays');
