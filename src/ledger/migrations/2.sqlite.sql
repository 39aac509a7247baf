-- What is metered. What is said here of SQLite is said in 2.postgres.sql of PostgreSQL: same tables, same columns.

-- A time in which so many units were used; times are milliseconds since 1970. It ends once (`until_ms`); until then it is known to
-- have lasted to `confirmed_ms`. What is before `billed_ms` is in transfers.
CREATE TABLE spans (
    id           TEXT    NOT NULL PRIMARY KEY,
    contract     TEXT    NOT NULL REFERENCES contracts (id),
    account      TEXT    NOT NULL,
    currency     TEXT    NOT NULL,
    sku          TEXT    NOT NULL,
    units        INTEGER NOT NULL CHECK (units > 0),
    from_ms      INTEGER NOT NULL,
    until_ms     INTEGER CHECK (until_ms >= from_ms),
    confirmed_ms INTEGER NOT NULL CHECK (confirmed_ms >= from_ms),
    billed_ms    INTEGER NOT NULL CHECK (billed_ms >= from_ms),
    CHECK (billed_ms <= coalesce(until_ms, confirmed_ms))
) STRICT;
-- What is still to be looked at is few; the spans of a contract may be many.
CREATE INDEX spans_unbilled ON spans (contract) WHERE until_ms IS NULL OR billed_ms < until_ms;
CREATE INDEX spans_contract ON spans (contract, billed_ms);

-- What a unit of something costs from a moment on, until its next price.
CREATE TABLE prices (
    sku     TEXT    NOT NULL,
    from_ms INTEGER NOT NULL,
    price   TEXT    NOT NULL,
    PRIMARY KEY (sku, from_ms)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER spans_keep BEFORE UPDATE ON spans
WHEN NEW.id <> OLD.id OR NEW.contract <> OLD.contract OR NEW.account <> OLD.account OR NEW.currency <> OLD.currency
  OR NEW.sku <> OLD.sku OR NEW.units <> OLD.units OR NEW.from_ms <> OLD.from_ms
  OR NEW.confirmed_ms < OLD.confirmed_ms OR NEW.billed_ms < OLD.billed_ms
  OR (OLD.until_ms IS NOT NULL AND NEW.until_ms IS NOT OLD.until_ms)
BEGIN SELECT RAISE(ABORT, 'a span ends once, and only moves forward'); END;
CREATE TRIGGER spans_stay BEFORE DELETE ON spans
BEGIN SELECT RAISE(ABORT, 'spans are never deleted'); END;
CREATE TRIGGER prices_keep BEFORE UPDATE ON prices
BEGIN SELECT RAISE(ABORT, 'prices are never changed'); END;
CREATE TRIGGER prices_stay BEFORE DELETE ON prices
BEGIN SELECT RAISE(ABORT, 'prices are never deleted'); END;
