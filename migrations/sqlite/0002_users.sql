-- People who log in with a password. password_hash is a PHC string.
CREATE TABLE users (
    name          TEXT PRIMARY KEY,
    role          TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'factory', 'security', 'auditor')),
    password_hash TEXT NOT NULL,
    disabled      INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    created_at    INTEGER NOT NULL,
    changed_at    INTEGER NOT NULL,
    last_login_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- last_used_at is kept to the minute; work_order is the one that the token may
-- enroll for, owner the user whose login made it.
ALTER TABLE api_tokens ADD COLUMN last_used_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_tokens ADD COLUMN work_order TEXT NOT NULL DEFAULT '';
ALTER TABLE api_tokens ADD COLUMN owner TEXT NOT NULL DEFAULT '';
CREATE INDEX api_tokens_newest ON api_tokens (created_at, id);
CREATE INDEX api_tokens_owner ON api_tokens (owner, expires_at) WHERE owner <> '';

-- Attempts to log in since the last success, by user and by address, so that
-- replicas count together. Until then nothing more is tried; after forget_at
-- the row is as good as none.
CREATE TABLE login_failures (
    subject   TEXT PRIMARY KEY,
    failures  INTEGER NOT NULL CHECK (failures >= 0),
    until     INTEGER NOT NULL,
    forget_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX login_failures_forget ON login_failures (forget_at);
