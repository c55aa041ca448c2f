-- Which server drives a broker, and when it last said so.
CREATE TABLE broker_drivers (
    broker  TEXT PRIMARY KEY REFERENCES brokers (id),
    server  TEXT NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT;
CREATE INDEX broker_drivers_server ON broker_drivers (server);
