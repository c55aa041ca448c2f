-- The enrollment tokens of a work order are listed, newest first.
CREATE INDEX enrollment_tokens_order ON enrollment_tokens (work_order, created_at, id);

-- A history of verifications shows verdicts and failed steps: nobody reads
-- thirty reports for that. failed_step is empty when no step failed.
ALTER TABLE verifications ADD COLUMN verdict TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE verifications ADD COLUMN failed_step TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE verifications SET
    verdict = coalesce(report::json ->> 'verdict', ''),
    failed_step = coalesce((SELECT step.value ->> 'name'
        FROM json_array_elements(CASE WHEN json_typeof(report::json -> 'steps') = 'array' THEN report::json -> 'steps' ELSE '[]' END) WITH ORDINALITY AS step
        WHERE step.value ->> 'result' = 'fail' ORDER BY step.ordinality LIMIT 1), '');
