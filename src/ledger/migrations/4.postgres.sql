-- What exports ask for: refunds of a contract, and what was used of something that is prepaid. Both are few.
CREATE INDEX transfers_refund ON transfers (contract) WHERE substr(debit, 1, 6) = 'sales:';
CREATE INDEX spans_prepaid ON spans (sku, from_ms) WHERE substr(sku, 1, 9) = 'resident:';
