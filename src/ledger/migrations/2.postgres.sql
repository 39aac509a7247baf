-- What is metered, as in 2.sqlite.sql: same tables, same columns; the comments are there.

CREATE TABLE spans (
    id           TEXT   NOT NULL PRIMARY KEY,
    contract     TEXT   NOT NULL REFERENCES contracts (id),
    account      TEXT   NOT NULL,
    currency     TEXT   NOT NULL,
    sku          TEXT   NOT NULL,
    units        BIGINT NOT NULL CHECK (units > 0),
    from_ms      BIGINT NOT NULL,
    until_ms     BIGINT CHECK (until_ms >= from_ms),
    confirmed_ms BIGINT NOT NULL CHECK (confirmed_ms >= from_ms),
    billed_ms    BIGINT NOT NULL CHECK (billed_ms >= from_ms),
    CHECK (billed_ms <= coalesce(until_ms, confirmed_ms))
);
CREATE INDEX spans_unbilled ON spans (contract) WHERE until_ms IS NULL OR billed_ms < until_ms;
CREATE INDEX spans_contract ON spans (contract, billed_ms);

CREATE TABLE prices (
    sku     TEXT   NOT NULL,
    from_ms BIGINT NOT NULL,
    price   TEXT   NOT NULL,
    PRIMARY KEY (sku, from_ms)
);

CREATE TRIGGER spans_keep BEFORE UPDATE ON spans FOR EACH ROW
WHEN (NEW.id <> OLD.id OR NEW.contract <> OLD.contract OR NEW.account <> OLD.account OR NEW.currency <> OLD.currency
  OR NEW.sku <> OLD.sku OR NEW.units <> OLD.units OR NEW.from_ms <> OLD.from_ms
  OR NEW.confirmed_ms < OLD.confirmed_ms OR NEW.billed_ms < OLD.billed_ms
  OR (OLD.until_ms IS NOT NULL AND NEW.until_ms IS DISTINCT FROM OLD.until_ms))
EXECUTE FUNCTION tenure_refuse('a span ends once, and only moves forward');
CREATE TRIGGER spans_stay BEFORE DELETE ON spans
FOR EACH ROW EXECUTE FUNCTION tenure_refuse('spans are never deleted');
CREATE TRIGGER spans_whole BEFORE TRUNCATE ON spans
FOR EACH STATEMENT EXECUTE FUNCTION tenure_refuse('spans are never deleted');
CREATE TRIGGER prices_keep BEFORE UPDATE ON prices
FOR EACH ROW EXECUTE FUNCTION tenure_refuse('prices are never changed');
CREATE TRIGGER prices_stay BEFORE DELETE ON prices
FOR EACH ROW EXECUTE FUNCTION tenure_refuse('prices are never deleted');
CREATE TRIGGER prices_whole BEFORE TRUNCATE ON prices
FOR EACH STATEMENT EXECUTE FUNCTION tenure_refuse('prices are never deleted');
