-- The single row says that the issuers were made.
CREATE TABLE authority (
    id         BIGINT PRIMARY KEY CHECK (id = 1),
    created_at BIGINT NOT NULL
);

CREATE TABLE issuers (
    id          TEXT COLLATE "C" PRIMARY KEY,
    ordinal     BIGINT NOT NULL,
    purpose     TEXT COLLATE "C" NOT NULL CHECK (purpose IN ('root', 'device', 'broker')),
    state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('active', 'retired')),
    der         BYTEA NOT NULL,
    parent      TEXT COLLATE "C" NOT NULL,
    key_uri     TEXT COLLATE "C" NOT NULL,
    status_urls TEXT COLLATE "C" NOT NULL
);

-- The highest CRL number that was ever reserved for an issuer.
CREATE TABLE crl_numbers (
    issuer_id TEXT COLLATE "C" PRIMARY KEY REFERENCES issuers (id),
    number    BIGINT NOT NULL CHECK (number >= 0)
);

CREATE TABLE crls (
    issuer_id   TEXT COLLATE "C" NOT NULL REFERENCES issuers (id),
    number      BIGINT NOT NULL,
    this_update BIGINT NOT NULL,
    next_update BIGINT NOT NULL,
    entries     BIGINT NOT NULL,
    scheduled   BIGINT NOT NULL CHECK (scheduled IN (0, 1)),
    der         BYTEA NOT NULL,
    PRIMARY KEY (issuer_id, number)
);
CREATE INDEX crls_scheduled ON crls (issuer_id, number) WHERE scheduled = 1;

CREATE TABLE certificates (
    serial      TEXT COLLATE "C" PRIMARY KEY,
    recorded_at BIGINT NOT NULL,
    sha256      TEXT COLLATE "C" NOT NULL,
    subject     TEXT COLLATE "C" NOT NULL,
    names       TEXT COLLATE "C" NOT NULL,
    issuer_id   TEXT COLLATE "C" NOT NULL,
    profile     TEXT COLLATE "C" NOT NULL,
    holder_kind TEXT COLLATE "C" NOT NULL CHECK (holder_kind IN ('device', 'broker', 'server', 'agent', 'canary')),
    holder_id   TEXT COLLATE "C" NOT NULL,
    status      TEXT COLLATE "C" NOT NULL CHECK (status IN ('good', 'held', 'revoked')),
    reason      TEXT COLLATE "C" NOT NULL,
    revoked_at  BIGINT NOT NULL,
    not_before  BIGINT NOT NULL,
    not_after   BIGINT NOT NULL,
    key_sha256  TEXT COLLATE "C" NOT NULL,
    cdp         TEXT COLLATE "C" NOT NULL,
    der         BYTEA NOT NULL,
    CHECK ((status = 'good') = (reason = '')),
    CHECK ((status = 'good') = (revoked_at = 0)),
    CHECK ((status = 'held') = (reason = 'certificateHold'))
);
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
    sha256      TEXT COLLATE "C" PRIMARY KEY,
    holder_kind TEXT COLLATE "C" NOT NULL,
    holder_id   TEXT COLLATE "C" NOT NULL
);

CREATE TABLE devices (
    id               TEXT COLLATE "C" PRIMARY KEY,
    status           TEXT COLLATE "C" NOT NULL CHECK (status IN ('registered', 'active', 'held', 'revoked', 'retired')),
    group_name       TEXT COLLATE "C" NOT NULL,
    attributes       TEXT COLLATE "C" NOT NULL,
    work_order       TEXT COLLATE "C" NOT NULL,
    trust_generation BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    last_seen_at     BIGINT NOT NULL
);
CREATE INDEX devices_status ON devices (status, id);
CREATE INDEX devices_group ON devices (group_name, id) WHERE group_name <> '';
CREATE INDEX devices_work_order ON devices (work_order, id) WHERE work_order <> '';

CREATE TABLE brokers (
    id         TEXT COLLATE "C" PRIMARY KEY,
    url        TEXT COLLATE "C" NOT NULL,
    names      TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    status     TEXT COLLATE "C" NOT NULL CHECK (status IN ('registered', 'verified', 'failing')),
    created_at BIGINT NOT NULL
);

CREATE TABLE verifications (
    id     TEXT COLLATE "C" PRIMARY KEY,
    broker TEXT COLLATE "C" NOT NULL REFERENCES brokers (id),
    at     BIGINT NOT NULL,
    report TEXT COLLATE "C" NOT NULL
);
CREATE INDEX verifications_newest ON verifications (broker, at, id);

CREATE TABLE work_orders (
    id         TEXT COLLATE "C" PRIMARY KEY,
    product    TEXT COLLATE "C" NOT NULL,
    quantity   BIGINT NOT NULL CHECK (quantity >= 0),
    issued     BIGINT NOT NULL CHECK (issued >= 0 AND issued <= quantity),
    profile    TEXT COLLATE "C" NOT NULL,
    state      TEXT COLLATE "C" NOT NULL CHECK (state IN ('open', 'closed')),
    created_at BIGINT NOT NULL
);
CREATE INDEX work_orders_newest ON work_orders (created_at, id);

CREATE TABLE enrollment_tokens (
    id         TEXT COLLATE "C" PRIMARY KEY,
    hash       BYTEA NOT NULL UNIQUE,
    work_order TEXT COLLATE "C" NOT NULL,
    device_id  TEXT COLLATE "C" NOT NULL,
    uses       BIGINT NOT NULL CHECK (uses > 0),
    used       BIGINT NOT NULL CHECK (used >= 0 AND used <= uses),
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

-- What a token was spent on, so that the same request gets the same answer.
CREATE TABLE token_uses (
    token_id     TEXT COLLATE "C" NOT NULL REFERENCES enrollment_tokens (id),
    request_hash BYTEA NOT NULL,
    serial       TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (token_id, request_hash)
);

CREATE TABLE api_tokens (
    id         TEXT COLLATE "C" PRIMARY KEY,
    name       TEXT COLLATE "C" NOT NULL,
    role       TEXT COLLATE "C" NOT NULL CHECK (role IN ('admin', 'operator', 'factory', 'security', 'auditor')),
    hash       BYTEA NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    disabled   BIGINT NOT NULL CHECK (disabled IN (0, 1))
);

CREATE TABLE idempotency (
    scope        TEXT COLLATE "C" NOT NULL,
    key_sha256   BYTEA NOT NULL,
    request_hash BYTEA NOT NULL,
    serial       TEXT COLLATE "C" NOT NULL,
    answer       BYTEA,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (scope, key_sha256)
);

CREATE TABLE revocations (
    id       TEXT COLLATE "C" PRIMARY KEY,
    device   TEXT COLLATE "C" NOT NULL,
    reason   TEXT COLLATE "C" NOT NULL,
    comment  TEXT COLLATE "C" NOT NULL,
    state    TEXT COLLATE "C" NOT NULL CHECK (state IN ('running', 'proven', 'unproven', 'recorded')),
    serials  TEXT COLLATE "C" NOT NULL,
    steps    TEXT COLLATE "C" NOT NULL,
    evidence TEXT COLLATE "C" NOT NULL,
    at       BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    version  BIGINT NOT NULL
);
CREATE INDEX revocations_newest ON revocations (at, id);
CREATE INDEX revocations_device ON revocations (device, at, id);

CREATE TABLE rotations (
    id               TEXT COLLATE "C" PRIMARY KEY,
    broker           TEXT COLLATE "C" NOT NULL REFERENCES brokers (id),
    state            TEXT COLLATE "C" NOT NULL CHECK (state IN ('planned', 'running', 'done', 'rolled-back', 'failed')),
    steps            TEXT COLLATE "C" NOT NULL,
    sessions_before  BIGINT NOT NULL,
    sessions_after   BIGINT NOT NULL,
    sessions_dropped BIGINT NOT NULL,
    old_serial       TEXT COLLATE "C" NOT NULL,
    new_serial       TEXT COLLATE "C" NOT NULL,
    at               BIGINT NOT NULL,
    csr              BYTEA,
    session_ids      TEXT COLLATE "C" NOT NULL,
    version          BIGINT NOT NULL
);
CREATE INDEX rotations_newest ON rotations (at, id);
CREATE INDEX rotations_broker ON rotations (broker, at, id);
CREATE UNIQUE INDEX rotations_running ON rotations (broker) WHERE state = 'running';

-- The audit trail: canonical bytes with their RFC 6962 leaf hash, and the
-- fields that they are looked up by.
CREATE TABLE events (
    id        TEXT COLLATE "C" PRIMARY KEY,
    at        BIGINT NOT NULL,
    actor     TEXT COLLATE "C" NOT NULL,
    action    TEXT COLLATE "C" NOT NULL,
    subject   TEXT COLLATE "C" NOT NULL,
    canonical BYTEA NOT NULL,
    leaf_hash BYTEA NOT NULL CHECK (length(leaf_hash) = 32)
);
CREATE INDEX events_newest ON events (at, id);
CREATE INDEX events_actor ON events (actor, at, id);
CREATE INDEX events_action ON events (action, at, id);
CREATE INDEX events_subject ON events (subject, at, id);
