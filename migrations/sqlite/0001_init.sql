-- The single row says that the issuers were made.
CREATE TABLE authority (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE issuers (
    id          TEXT PRIMARY KEY,
    ordinal     INTEGER NOT NULL,
    purpose     TEXT NOT NULL CHECK (purpose IN ('root', 'device', 'broker')),
    state       TEXT NOT NULL CHECK (state IN ('active', 'retired')),
    der         BLOB NOT NULL,
    parent      TEXT NOT NULL,
    key_uri     TEXT NOT NULL,
    status_urls TEXT NOT NULL
) STRICT;

-- The highest CRL number that was ever reserved for an issuer.
CREATE TABLE crl_numbers (
    issuer_id TEXT PRIMARY KEY REFERENCES issuers (id),
    number    INTEGER NOT NULL CHECK (number >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE crls (
    issuer_id   TEXT NOT NULL REFERENCES issuers (id),
    number      INTEGER NOT NULL,
    this_update INTEGER NOT NULL,
    next_update INTEGER NOT NULL,
    entries     INTEGER NOT NULL,
    scheduled   INTEGER NOT NULL CHECK (scheduled IN (0, 1)),
    der         BLOB NOT NULL,
    PRIMARY KEY (issuer_id, number)
) STRICT;
CREATE INDEX crls_scheduled ON crls (issuer_id, number) WHERE scheduled = 1;

CREATE TABLE certificates (
    serial      TEXT PRIMARY KEY,
    recorded_at INTEGER NOT NULL,
    sha256      TEXT NOT NULL,
    subject     TEXT NOT NULL,
    names       TEXT NOT NULL,
    issuer_id   TEXT NOT NULL,
    profile     TEXT NOT NULL,
    holder_kind TEXT NOT NULL CHECK (holder_kind IN ('device', 'broker', 'server', 'agent', 'canary')),
    holder_id   TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('good', 'held', 'revoked')),
    reason      TEXT NOT NULL,
    revoked_at  INTEGER NOT NULL,
    not_before  INTEGER NOT NULL,
    not_after   INTEGER NOT NULL,
    key_sha256  TEXT NOT NULL,
    cdp         TEXT NOT NULL,
    der         BLOB NOT NULL,
    CHECK ((status = 'good') = (reason = '')),
    CHECK ((status = 'good') = (revoked_at = 0)),
    CHECK ((status = 'held') = (reason = 'certificateHold'))
) STRICT;
CREATE INDEX certificates_newest ON certificates (recorded_at, serial);
CREATE INDEX certificates_holder ON certificates (holder_kind, holder_id, recorded_at, serial);
CREATE INDEX certificates_profile ON certificates (profile, recorded_at, serial);
CREATE INDEX certificates_issuer ON certificates (issuer_id, recorded_at, serial);
CREATE INDEX certificates_not_good ON certificates (status, recorded_at, serial) WHERE status <> 'good';
-- Everything a CRL needs, in its order.
CREATE INDEX certificates_crl ON certificates (issuer_id, serial, not_after, revoked_at, reason) WHERE status <> 'good';
CREATE INDEX certificates_compromised ON certificates (key_sha256) WHERE reason = 'keyCompromise';

-- Who holds a key: makes duplicate keys impossible.
CREATE TABLE keys (
    sha256      TEXT PRIMARY KEY,
    holder_kind TEXT NOT NULL,
    holder_id   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
    id               TEXT PRIMARY KEY,
    status           TEXT NOT NULL CHECK (status IN ('registered', 'active', 'held', 'revoked', 'retired')),
    group_name       TEXT NOT NULL,
    attributes       TEXT NOT NULL,
    work_order       TEXT NOT NULL,
    trust_generation INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    last_seen_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX devices_status ON devices (status, id);
CREATE INDEX devices_group ON devices (group_name, id) WHERE group_name <> '';
CREATE INDEX devices_work_order ON devices (work_order, id) WHERE work_order <> '';

CREATE TABLE brokers (
    id         TEXT PRIMARY KEY,
    url        TEXT NOT NULL,
    names      TEXT NOT NULL,
    kind       TEXT NOT NULL,
    status     TEXT NOT NULL CHECK (status IN ('registered', 'verified', 'failing')),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE verifications (
    id     TEXT PRIMARY KEY,
    broker TEXT NOT NULL REFERENCES brokers (id),
    at     INTEGER NOT NULL,
    report TEXT NOT NULL
) STRICT;
CREATE INDEX verifications_newest ON verifications (broker, at, id);

CREATE TABLE work_orders (
    id         TEXT PRIMARY KEY,
    product    TEXT NOT NULL,
    quantity   INTEGER NOT NULL CHECK (quantity >= 0),
    issued     INTEGER NOT NULL CHECK (issued >= 0 AND issued <= quantity),
    profile    TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('open', 'closed')),
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX work_orders_newest ON work_orders (created_at, id);

CREATE TABLE enrollment_tokens (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,
    work_order TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    uses       INTEGER NOT NULL CHECK (uses > 0),
    used       INTEGER NOT NULL CHECK (used >= 0 AND used <= uses),
    expires_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- What a token was spent on, so that the same request gets the same answer.
CREATE TABLE token_uses (
    token_id     TEXT NOT NULL REFERENCES enrollment_tokens (id),
    request_hash BLOB NOT NULL,
    serial       TEXT NOT NULL,
    PRIMARY KEY (token_id, request_hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_tokens (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'factory', 'security', 'auditor')),
    hash       BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    disabled   INTEGER NOT NULL CHECK (disabled IN (0, 1))
) STRICT;

CREATE TABLE idempotency (
    scope        TEXT NOT NULL,
    key_sha256   BLOB NOT NULL,
    request_hash BLOB NOT NULL,
    serial       TEXT NOT NULL,
    answer       BLOB,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (scope, key_sha256)
) STRICT, WITHOUT ROWID;

CREATE TABLE revocations (
    id       TEXT PRIMARY KEY,
    device   TEXT NOT NULL,
    reason   TEXT NOT NULL,
    comment  TEXT NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('running', 'proven', 'unproven', 'recorded')),
    serials  TEXT NOT NULL,
    steps    TEXT NOT NULL,
    evidence TEXT NOT NULL,
    at       INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    version  INTEGER NOT NULL
) STRICT;
CREATE INDEX revocations_newest ON revocations (at, id);
CREATE INDEX revocations_device ON revocations (device, at, id);

CREATE TABLE rotations (
    id               TEXT PRIMARY KEY,
    broker           TEXT NOT NULL REFERENCES brokers (id),
    state            TEXT NOT NULL CHECK (state IN ('planned', 'running', 'done', 'rolled-back', 'failed')),
    steps            TEXT NOT NULL,
    sessions_before  INTEGER NOT NULL,
    sessions_after   INTEGER NOT NULL,
    sessions_dropped INTEGER NOT NULL,
    old_serial       TEXT NOT NULL,
    new_serial       TEXT NOT NULL,
    at               INTEGER NOT NULL,
    csr              BLOB,
    session_ids      TEXT NOT NULL,
    version          INTEGER NOT NULL
) STRICT;
CREATE INDEX rotations_newest ON rotations (at, id);
CREATE INDEX rotations_broker ON rotations (broker, at, id);
CREATE UNIQUE INDEX rotations_running ON rotations (broker) WHERE state = 'running';

-- The audit trail: canonical bytes with their RFC 6962 leaf hash, and the
-- fields that they are looked up by.
CREATE TABLE events (
    id        TEXT PRIMARY KEY,
    at        INTEGER NOT NULL,
    actor     TEXT NOT NULL,
    action    TEXT NOT NULL,
    subject   TEXT NOT NULL,
    canonical BLOB NOT NULL,
    leaf_hash BLOB NOT NULL CHECK (length(leaf_hash) = 32)
) STRICT;
CREATE INDEX events_newest ON events (at, id);
CREATE INDEX events_actor ON events (actor, at, id);
CREATE INDEX events_action ON events (action, at, id);
CREATE INDEX events_subject ON events (subject, at, id);
