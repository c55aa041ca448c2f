-- The order in which statuses changed, so that whoever keeps statuses in
-- memory reads what is new alone. 0: not since the certificate was issued, or
-- since before this column.
ALTER TABLE certificates ADD COLUMN change INTEGER NOT NULL DEFAULT 0;
CREATE INDEX certificates_changed ON certificates (change) WHERE change > 0;
CREATE TRIGGER certificates_change AFTER UPDATE OF status, reason, revoked_at ON certificates
WHEN OLD.status <> NEW.status OR OLD.reason <> NEW.reason OR OLD.revoked_at <> NEW.revoked_at
BEGIN
    UPDATE certificates SET change = (SELECT COALESCE(MAX(change), 0) + 1 FROM certificates WHERE change > 0) WHERE rowid = NEW.rowid;
END;

-- Partitioned CRLs: the partition that a certificate was issued for, the one
-- that a CRL is of, and how many an issuer has now and ever had.
ALTER TABLE certificates ADD COLUMN crl_shard INTEGER NOT NULL DEFAULT 0;
ALTER TABLE crls ADD COLUMN shard INTEGER NOT NULL DEFAULT 0;
ALTER TABLE issuers ADD COLUMN crl_shards INTEGER NOT NULL DEFAULT 1;
ALTER TABLE issuers ADD COLUMN crl_shards_ever INTEGER NOT NULL DEFAULT 1;
DROP INDEX crls_scheduled;
CREATE INDEX crls_scheduled ON crls (issuer_id, shard, number) WHERE scheduled = 1;
CREATE INDEX crls_newest ON crls (issuer_id, shard, number);
-- Everything a CRL needs, in its order.
DROP INDEX certificates_crl;
CREATE INDEX certificates_crl ON certificates (issuer_id, crl_shard, serial, not_after, revoked_at, reason) WHERE status <> 'good';
CREATE INDEX certificates_crl_changed ON certificates (issuer_id, crl_shard, change) WHERE change > 0;
