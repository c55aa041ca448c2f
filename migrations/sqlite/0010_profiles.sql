-- Profiles as they were changed, a row a version, which never changes: what the
-- program has built in is version 1 of its name and stands in no row.
CREATE TABLE profiles (
    name    TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0),
    body    TEXT NOT NULL,
    widens  INTEGER NOT NULL CHECK (widens IN (0, 1)),
    actor   TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;
CREATE INDEX work_orders_profile ON work_orders (profile, state, id);

-- Under which version a certificate was issued, and when it wants it renewed;
-- 0: by the rule for all.
ALTER TABLE certificates ADD COLUMN profile_version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE certificates ADD COLUMN renew_from INTEGER NOT NULL DEFAULT 0;
