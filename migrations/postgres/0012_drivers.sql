-- Which server drives a broker, and when it last said so.
CREATE TABLE broker_drivers (
    broker  TEXT COLLATE "C" PRIMARY KEY REFERENCES brokers (id),
    server  TEXT COLLATE "C" NOT NULL,
    seen_at BIGINT NOT NULL
);
CREATE INDEX broker_drivers_server ON broker_drivers (server);
