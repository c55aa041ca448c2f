-- The second factor (RFC 6238): its secret, sealed with the user's password,
-- as a PHC string whose tag is the ciphertext; and the last time step that a
-- code was accepted for, so that no code is accepted twice.
ALTER TABLE users ADD COLUMN second_factor TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN second_factor_step INTEGER NOT NULL DEFAULT 0;

-- Sessions of the dashboard; hash is of the cookie's secret. seen_at is kept to
-- the minute.
CREATE TABLE sessions (
    id            TEXT PRIMARY KEY,
    hash          BLOB NOT NULL UNIQUE,
    user_name     TEXT NOT NULL REFERENCES users (name),
    address       TEXT NOT NULL,
    agent         TEXT NOT NULL,
    second_factor INTEGER NOT NULL CHECK (second_factor IN (0, 1)),
    created_at    INTEGER NOT NULL,
    seen_at       INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_user ON sessions (user_name, created_at, id);
CREATE INDEX sessions_newest ON sessions (created_at, id);
CREATE INDEX sessions_expiry ON sessions (expires_at);
