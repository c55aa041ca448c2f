-- The second factor (RFC 6238): its secret, sealed with the user's password,
-- as a PHC string whose tag is the ciphertext; and the last time step that a
-- code was accepted for, so that no code is accepted twice.
ALTER TABLE users ADD COLUMN second_factor TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN second_factor_step BIGINT NOT NULL DEFAULT 0;

-- Sessions of the dashboard; hash is of the cookie's secret. seen_at is kept to
-- the minute.
CREATE TABLE sessions (
    id            TEXT COLLATE "C" PRIMARY KEY,
    hash          BYTEA NOT NULL UNIQUE,
    user_name     TEXT COLLATE "C" NOT NULL REFERENCES users (name),
    address       TEXT COLLATE "C" NOT NULL,
    agent         TEXT COLLATE "C" NOT NULL,
    second_factor BIGINT NOT NULL CHECK (second_factor IN (0, 1)),
    created_at    BIGINT NOT NULL,
    seen_at       BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_name, created_at, id);
CREATE INDEX sessions_newest ON sessions (created_at, id);
CREATE INDEX sessions_expiry ON sessions (expires_at);
