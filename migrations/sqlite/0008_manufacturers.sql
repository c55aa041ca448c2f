-- Certification authorities of others, whose birth certificates (IEEE 802.1AR
-- IDevIDs) enroll devices. devices and enrolled count rows of idevids.
CREATE TABLE manufacturers (
    id         TEXT PRIMARY KEY,
    sha256     TEXT NOT NULL UNIQUE,
    der        BLOB NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('active', 'disabled')),
    reenroll   INTEGER NOT NULL CHECK (reenroll IN (0, 1)),
    devices    INTEGER NOT NULL CHECK (devices >= 0),
    enrolled   INTEGER NOT NULL CHECK (enrolled >= 0 AND enrolled <= devices),
    created_at INTEGER NOT NULL
) STRICT;

-- Their manifests: which certificate is which device's. What a certificate is
-- known by is empty where the manifest does not say it; serial is of the
-- certificate that it enrolled for last, empty while it has not.
CREATE TABLE idevids (
    device_id          TEXT PRIMARY KEY,
    manufacturer       TEXT NOT NULL REFERENCES manufacturers (id),
    subject_serial     TEXT NOT NULL,
    certificate_serial TEXT NOT NULL,
    sha256             TEXT NOT NULL,
    work_order         TEXT NOT NULL,
    added_at           INTEGER NOT NULL,
    serial             TEXT NOT NULL,
    request_hash       BLOB NOT NULL,
    enrolled_at        INTEGER NOT NULL,
    CHECK (subject_serial <> '' OR certificate_serial <> '' OR sha256 <> ''),
    CHECK ((serial = '') = (enrolled_at = 0))
) STRICT;
CREATE INDEX idevids_manufacturer ON idevids (manufacturer, device_id);
CREATE UNIQUE INDEX idevids_subject ON idevids (manufacturer, subject_serial) WHERE subject_serial <> '';
CREATE UNIQUE INDEX idevids_certificate ON idevids (manufacturer, certificate_serial) WHERE certificate_serial <> '';
CREATE UNIQUE INDEX idevids_sha256 ON idevids (manufacturer, sha256) WHERE sha256 <> '';
