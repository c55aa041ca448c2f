-- Devices of one generation of the trust bundle are in no order of their own:
-- each new one goes to the end of its generation, not to a page of its id.
DROP INDEX devices_trust;
CREATE INDEX devices_trust ON devices (status, trust_generation);
