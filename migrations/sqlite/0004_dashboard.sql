-- What lists and pages look devices up by. not_after is of the last good
-- certificate to expire, so it is 0 for every device that is not active;
-- enrolled_at is of the first enrollment.
ALTER TABLE devices ADD COLUMN not_after INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN enrolled_at INTEGER NOT NULL DEFAULT 0;
UPDATE devices SET
    not_after = COALESCE((SELECT max(c.not_after) FROM certificates c WHERE c.holder_kind = 'device' AND c.holder_id = devices.id AND c.status = 'good'), 0),
    enrolled_at = COALESCE((SELECT min(c.recorded_at) FROM certificates c WHERE c.holder_kind = 'device' AND c.holder_id = devices.id), 0);
CREATE INDEX devices_expiry ON devices (not_after, id) WHERE not_after > 0;
CREATE INDEX devices_group_expiry ON devices (group_name, not_after, id) WHERE group_name <> '' AND not_after > 0;
-- Most devices are active: of the few others of a group or an order, each
-- status is found by itself.
CREATE INDEX devices_group_status ON devices (group_name, status, id) WHERE group_name <> '' AND status <> 'active';
CREATE INDEX devices_order_status ON devices (work_order, status, id) WHERE work_order <> '' AND status <> 'active';
CREATE INDEX devices_enrolled ON devices (work_order, enrolled_at, id) WHERE work_order <> '' AND enrolled_at > 0;

-- When a work order's last unit was issued; 0 while there are some left.
ALTER TABLE work_orders ADD COLUMN full_at INTEGER NOT NULL DEFAULT 0;
UPDATE work_orders SET full_at = created_at WHERE issued >= quantity;
CREATE INDEX work_orders_full ON work_orders (full_at, id) WHERE full_at > 0 AND state = 'open';

-- Enrollments that were refused: how many, and the last of each work order.
CREATE TABLE order_refusals (
    work_order TEXT NOT NULL,
    kind       TEXT NOT NULL,
    count      INTEGER NOT NULL CHECK (count > 0),
    last_at    INTEGER NOT NULL,
    PRIMARY KEY (work_order, kind)
) STRICT, WITHOUT ROWID;
CREATE TABLE order_refused (
    work_order TEXT NOT NULL,
    id         TEXT NOT NULL,
    at         INTEGER NOT NULL,
    device     TEXT NOT NULL,
    kind       TEXT NOT NULL,
    message    TEXT NOT NULL,
    PRIMARY KEY (work_order, id)
) STRICT, WITHOUT ROWID;

-- A token that renews lets one active device enroll again under a new key.
ALTER TABLE enrollment_tokens ADD COLUMN renews INTEGER NOT NULL DEFAULT 0;

-- What the last look at a broker saw: since when the status is what it is, and
-- the certificate that was served.
ALTER TABLE brokers ADD COLUMN status_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE brokers ADD COLUMN served_sha256 TEXT NOT NULL DEFAULT '';
ALTER TABLE brokers ADD COLUMN served_at INTEGER NOT NULL DEFAULT 0;
UPDATE brokers SET
    status_at = COALESCE((SELECT v.at FROM verifications v WHERE v.broker = brokers.id ORDER BY v.at DESC, v.id DESC LIMIT 1), created_at),
    served_at = COALESCE((SELECT v.at FROM verifications v WHERE v.broker = brokers.id ORDER BY v.at DESC, v.id DESC LIMIT 1), 0),
    served_sha256 = COALESCE((SELECT json_extract(v.report, '$.serverCertificate.sha256') FROM verifications v
        WHERE v.broker = brokers.id ORDER BY v.at DESC, v.id DESC LIMIT 1), '');

CREATE INDEX revocations_open ON revocations (at, id) WHERE state IN ('running', 'unproven');

-- What is counted in the background, by name; took is in microseconds.
CREATE TABLE aggregates (
    name  TEXT PRIMARY KEY,
    as_of INTEGER NOT NULL,
    took  INTEGER NOT NULL,
    data  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Changes of many devices at once, with the devices each is about.
CREATE TABLE bulks (
    id       TEXT PRIMARY KEY,
    action   TEXT NOT NULL CHECK (action IN ('hold', 'release', 'revoke', 'retire')),
    reason   TEXT NOT NULL,
    comment  TEXT NOT NULL,
    query    TEXT NOT NULL,
    actor    TEXT NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('running', 'done')),
    total    INTEGER NOT NULL,
    done     INTEGER NOT NULL,
    failed   INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    version  INTEGER NOT NULL,
    CHECK (done + failed <= total)
) STRICT;
CREATE INDEX bulks_newest ON bulks (at, id);
CREATE TABLE bulk_items (
    bulk    TEXT NOT NULL,
    device  TEXT NOT NULL,
    state   TEXT NOT NULL CHECK (state IN ('waiting', 'done', 'failed')),
    message TEXT NOT NULL,
    PRIMARY KEY (bulk, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX bulk_items_waiting ON bulk_items (bulk, device) WHERE state = 'waiting';
CREATE INDEX bulk_items_failed ON bulk_items (bulk, device) WHERE state = 'failed';

-- The single row says that this is no real fleet: fleetca seed made it.
CREATE TABLE test_data (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    created_at INTEGER NOT NULL
) STRICT;
