-- Issuers come to be step by step, and some stand between a root and those that
-- sign: other words in two columns, which are made anew for their checks.
ALTER TABLE issuers ADD COLUMN kind TEXT NOT NULL DEFAULT 'root' CHECK (kind IN ('root', 'intermediate', 'device', 'broker'));
ALTER TABLE issuers ADD COLUMN stage TEXT NOT NULL DEFAULT 'created' CHECK (stage IN ('created', 'published', 'active', 'retired'));
UPDATE issuers SET kind = purpose, stage = state;
ALTER TABLE issuers DROP COLUMN purpose;
ALTER TABLE issuers DROP COLUMN state;
ALTER TABLE issuers RENAME COLUMN kind TO purpose;
ALTER TABLE issuers RENAME COLUMN stage TO state;

-- What an issuer signs for (empty: all), and what chooses it.
ALTER TABLE issuers ADD COLUMN product TEXT NOT NULL DEFAULT '';
ALTER TABLE issuers ADD COLUMN site TEXT NOT NULL DEFAULT '';
ALTER TABLE issuers ADD COLUMN domain TEXT NOT NULL DEFAULT '';
ALTER TABLE work_orders ADD COLUMN site TEXT NOT NULL DEFAULT '';
ALTER TABLE brokers ADD COLUMN product TEXT NOT NULL DEFAULT '';
ALTER TABLE brokers ADD COLUMN site TEXT NOT NULL DEFAULT '';
