-- Certification authorities of others, whose birth certificates (IEEE 802.1AR
-- IDevIDs) enroll devices. devices and enrolled count rows of idevids.
CREATE TABLE manufacturers (
    id         TEXT COLLATE "C" PRIMARY KEY,
    sha256     TEXT COLLATE "C" NOT NULL UNIQUE,
    der        BYTEA NOT NULL,
    state      TEXT COLLATE "C" NOT NULL CHECK (state IN ('active', 'disabled')),
    reenroll   BIGINT NOT NULL CHECK (reenroll IN (0, 1)),
    devices    BIGINT NOT NULL CHECK (devices >= 0),
    enrolled   BIGINT NOT NULL CHECK (enrolled >= 0 AND enrolled <= devices),
    created_at BIGINT NOT NULL
);

-- Their manifests: which certificate is which device's. What a certificate is
-- known by is empty where the manifest does not say it; serial is of the
-- certificate that it enrolled for last, empty while it has not.
CREATE TABLE idevids (
    device_id          TEXT COLLATE "C" PRIMARY KEY,
    manufacturer       TEXT COLLATE "C" NOT NULL REFERENCES manufacturers (id),
    subject_serial     TEXT COLLATE "C" NOT NULL,
    certificate_serial TEXT COLLATE "C" NOT NULL,
    sha256             TEXT COLLATE "C" NOT NULL,
    work_order         TEXT COLLATE "C" NOT NULL,
    added_at           BIGINT NOT NULL,
    serial             TEXT COLLATE "C" NOT NULL,
    request_hash       BYTEA NOT NULL,
    enrolled_at        BIGINT NOT NULL,
    CHECK (subject_serial <> '' OR certificate_serial <> '' OR sha256 <> ''),
    CHECK ((serial = '') = (enrolled_at = 0))
);
CREATE INDEX idevids_manufacturer ON idevids (manufacturer, device_id);
CREATE UNIQUE INDEX idevids_subject ON idevids (manufacturer, subject_serial) WHERE subject_serial <> '';
CREATE UNIQUE INDEX idevids_certificate ON idevids (manufacturer, certificate_serial) WHERE certificate_serial <> '';
CREATE UNIQUE INDEX idevids_sha256 ON idevids (manufacturer, sha256) WHERE sha256 <> '';
