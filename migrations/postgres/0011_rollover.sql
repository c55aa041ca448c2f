-- Every trust bundle that there ever was: the ids of its roots, oldest first, as
-- JSON. Certificates of issuers never change.
CREATE TABLE trust_bundles (
    generation BIGINT PRIMARY KEY CHECK (generation > 0),
    created_at BIGINT NOT NULL,
    roots      TEXT NOT NULL
);
INSERT INTO trust_bundles (generation, created_at, roots)
    SELECT GREATEST(1, (SELECT count(*) FROM issuers WHERE purpose = 'root' AND state <> 'created')), created_at,
        (SELECT CAST(COALESCE(json_agg(id ORDER BY ordinal), '[]') AS TEXT) FROM issuers WHERE purpose = 'root' AND state <> 'created')
    FROM authority;

-- A root's name and key, signed by another root.
CREATE TABLE cross_certificates (
    issuer_id  TEXT NOT NULL REFERENCES issuers (id),
    signer_id  TEXT NOT NULL REFERENCES issuers (id),
    der        BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (issuer_id, signer_id)
);

-- Who allowed a step of a root's roll-over in spite of stragglers.
CREATE TABLE rollover_approvals (
    root   TEXT NOT NULL,
    step   TEXT NOT NULL CHECK (step IN ('switch', 'drop')),
    actor  TEXT NOT NULL,
    reason TEXT NOT NULL,
    at     BIGINT NOT NULL,
    PRIMARY KEY (root, step)
);

-- The newest trust bundle that a broker confirmed; 0 for none.
ALTER TABLE brokers ADD COLUMN trust_generation BIGINT NOT NULL DEFAULT 0;
CREATE INDEX devices_trust ON devices (status, trust_generation, id);
