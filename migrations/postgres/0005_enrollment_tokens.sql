-- The enrollment tokens of a work order are listed, newest first.
CREATE INDEX enrollment_tokens_order ON enrollment_tokens (work_order, created_at, id);
