-- A look by the schedule that shows what the newest one showed moves that
-- row's time on, and is counted: since is the first look, looks their number.
-- outcome is what two looks are compared by.
ALTER TABLE verifications ADD COLUMN since BIGINT NOT NULL DEFAULT 0;
ALTER TABLE verifications ADD COLUMN looks BIGINT NOT NULL DEFAULT 1;
ALTER TABLE verifications ADD COLUMN outcome TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE verifications ADD COLUMN negative BIGINT NOT NULL DEFAULT 0 CHECK (negative IN (0, 1));
ALTER TABLE verifications ADD COLUMN scheduled BIGINT NOT NULL DEFAULT 0 CHECK (scheduled IN (0, 1));
UPDATE verifications SET since = at;
CREATE INDEX verifications_negative ON verifications (broker, at, id) WHERE negative = 1;
CREATE INDEX verifications_old ON verifications (at);
