-- Profiles as they were changed, a row a version, which never changes: what the
-- program has built in is version 1 of its name and stands in no row.
CREATE TABLE profiles (
    name    TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL CHECK (version > 0),
    body    TEXT COLLATE "C" NOT NULL,
    widens  BIGINT NOT NULL CHECK (widens IN (0, 1)),
    actor   TEXT COLLATE "C" NOT NULL,
    at      BIGINT NOT NULL,
    PRIMARY KEY (name, version)
);
CREATE INDEX work_orders_profile ON work_orders (profile, state, id);

-- Under which version a certificate was issued, and when it wants it renewed;
-- 0: by the rule for all.
ALTER TABLE certificates ADD COLUMN profile_version BIGINT NOT NULL DEFAULT 1;
ALTER TABLE certificates ADD COLUMN renew_from BIGINT NOT NULL DEFAULT 0;
