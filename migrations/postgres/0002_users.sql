-- People who log in with a password. password_hash is a PHC string.
CREATE TABLE users (
    name          TEXT COLLATE "C" PRIMARY KEY,
    role          TEXT COLLATE "C" NOT NULL CHECK (role IN ('admin', 'operator', 'factory', 'security', 'auditor')),
    password_hash TEXT COLLATE "C" NOT NULL,
    disabled      BIGINT NOT NULL CHECK (disabled IN (0, 1)),
    created_at    BIGINT NOT NULL,
    changed_at    BIGINT NOT NULL,
    last_login_at BIGINT NOT NULL
);

-- last_used_at is kept to the minute; work_order is the one that the token may
-- enroll for, owner the user whose login made it.
ALTER TABLE api_tokens ADD COLUMN last_used_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE api_tokens ADD COLUMN work_order TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE api_tokens ADD COLUMN owner TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX api_tokens_newest ON api_tokens (created_at, id);
CREATE INDEX api_tokens_owner ON api_tokens (owner, expires_at) WHERE owner <> '';

-- Attempts to log in since the last success, by user and by address, so that
-- replicas count together. Until then nothing more is tried; after forget_at
-- the row is as good as none.
CREATE TABLE login_failures (
    subject   TEXT COLLATE "C" PRIMARY KEY,
    failures  BIGINT NOT NULL CHECK (failures >= 0),
    until     BIGINT NOT NULL,
    forget_at BIGINT NOT NULL
);
CREATE INDEX login_failures_forget ON login_failures (forget_at);
