-- Every trust bundle that there ever was: the ids of its roots, oldest first, as
-- JSON. Certificates of issuers never change.
CREATE TABLE trust_bundles (
    generation INTEGER PRIMARY KEY CHECK (generation > 0),
    created_at INTEGER NOT NULL,
    roots      TEXT NOT NULL
) STRICT;
INSERT INTO trust_bundles (generation, created_at, roots)
    SELECT max(1, (SELECT count(*) FROM issuers WHERE purpose = 'root' AND state <> 'created')), created_at,
        (SELECT json_group_array(id) FROM (SELECT id FROM issuers WHERE purpose = 'root' AND state <> 'created' ORDER BY ordinal))
    FROM authority;

-- A root's name and key, signed by another root.
CREATE TABLE cross_certificates (
    issuer_id  TEXT NOT NULL REFERENCES issuers (id),
    signer_id  TEXT NOT NULL REFERENCES issuers (id),
    der        BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (issuer_id, signer_id)
) STRICT, WITHOUT ROWID;

-- Who allowed a step of a root's roll-over in spite of stragglers.
CREATE TABLE rollover_approvals (
    root   TEXT NOT NULL,
    step   TEXT NOT NULL CHECK (step IN ('switch', 'drop')),
    actor  TEXT NOT NULL,
    reason TEXT NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (root, step)
) STRICT, WITHOUT ROWID;

-- The newest trust bundle that a broker confirmed; 0 for none.
ALTER TABLE brokers ADD COLUMN trust_generation INTEGER NOT NULL DEFAULT 0;
CREATE INDEX devices_trust ON devices (status, trust_generation, id);
