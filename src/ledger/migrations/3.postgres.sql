-- What owners are told, as in 3.sqlite.sql: same tables, same columns; the comments are there.

CREATE TABLE notices (
    id        TEXT   NOT NULL PRIMARY KEY,
    account   TEXT   NOT NULL,
    kind      TEXT   NOT NULL,
    detail    TEXT   NOT NULL,
    at_ms     BIGINT NOT NULL,
    addressed BIGINT NOT NULL CHECK (addressed IN (0, 1))
);
CREATE INDEX notices_unaddressed ON notices (id) WHERE addressed = 0;

CREATE TABLE deliveries (
    notice   TEXT   NOT NULL REFERENCES notices (id),
    target   TEXT   NOT NULL,
    state    TEXT   NOT NULL CHECK (state IN ('waiting', 'sent', 'failed', 'dropped')),
    attempts BIGINT NOT NULL CHECK (attempts >= 0),
    error    TEXT,
    at_ms    BIGINT NOT NULL,
    PRIMARY KEY (notice, target)
);
CREATE INDEX deliveries_waiting ON deliveries (notice) WHERE state = 'waiting';

CREATE TRIGGER notices_keep BEFORE UPDATE ON notices FOR EACH ROW
WHEN (NEW.id <> OLD.id OR NEW.account <> OLD.account OR NEW.kind <> OLD.kind OR NEW.detail <> OLD.detail OR NEW.at_ms <> OLD.at_ms
  OR NEW.addressed < OLD.addressed)
EXECUTE FUNCTION tenure_refuse('a notice is never changed');
CREATE TRIGGER deliveries_keep BEFORE UPDATE ON deliveries FOR EACH ROW
WHEN (NEW.notice <> OLD.notice OR NEW.target <> OLD.target OR OLD.state <> 'waiting' OR NEW.attempts < OLD.attempts)
EXECUTE FUNCTION tenure_refuse('a delivery ends once');
