-- The enrollment tokens of a work order are listed, newest first.
CREATE INDEX enrollment_tokens_order ON enrollment_tokens (work_order, created_at, id);

-- A history of verifications shows verdicts and failed steps: nobody reads
-- thirty reports for that. failed_step is empty when no step failed.
ALTER TABLE verifications ADD COLUMN verdict TEXT NOT NULL DEFAULT '';
ALTER TABLE verifications ADD COLUMN failed_step TEXT NOT NULL DEFAULT '';
UPDATE verifications SET
    verdict = coalesce(json_extract(report, '$.verdict'), ''),
    failed_step = coalesce((SELECT json_extract(value, '$.name') FROM json_each(report, '$.steps')
        WHERE json_extract(value, '$.result') = 'fail' ORDER BY key LIMIT 1), '');
