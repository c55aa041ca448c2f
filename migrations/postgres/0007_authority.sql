-- The order in which statuses changed, so that whoever keeps statuses in
-- memory reads what is new alone: the id of the transaction, in whose order
-- nothing need be locked. 0: not since the certificate was issued, or since
-- before this column.
ALTER TABLE certificates ADD COLUMN change BIGINT NOT NULL DEFAULT 0;
CREATE INDEX certificates_changed ON certificates (change) WHERE change > 0;
CREATE FUNCTION certificate_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.change := pg_current_xact_id()::text::bigint;
    RETURN NEW;
END $$;
CREATE TRIGGER certificates_change BEFORE UPDATE OF status, reason, revoked_at ON certificates FOR EACH ROW
WHEN (OLD.status <> NEW.status OR OLD.reason <> NEW.reason OR OLD.revoked_at <> NEW.revoked_at)
EXECUTE FUNCTION certificate_changed();

-- Partitioned CRLs: the partition that a certificate was issued for, the one
-- that a CRL is of, and how many an issuer has now and ever had.
ALTER TABLE certificates ADD COLUMN crl_shard BIGINT NOT NULL DEFAULT 0;
ALTER TABLE crls ADD COLUMN shard BIGINT NOT NULL DEFAULT 0;
ALTER TABLE issuers ADD COLUMN crl_shards BIGINT NOT NULL DEFAULT 1;
ALTER TABLE issuers ADD COLUMN crl_shards_ever BIGINT NOT NULL DEFAULT 1;
DROP INDEX crls_scheduled;
CREATE INDEX crls_scheduled ON crls (issuer_id, shard, number) WHERE scheduled = 1;
CREATE INDEX crls_newest ON crls (issuer_id, shard, number);
-- Everything a CRL needs, in its order.
DROP INDEX certificates_crl;
CREATE INDEX certificates_crl ON certificates (issuer_id, crl_shard, serial, not_after, revoked_at, reason) WHERE status <> 'good';
CREATE INDEX certificates_crl_changed ON certificates (issuer_id, crl_shard, change) WHERE change > 0;
