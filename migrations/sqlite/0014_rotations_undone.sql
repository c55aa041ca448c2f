-- A certificate that a rotation brought and did not keep is not its broker's.
CREATE INDEX rotations_undone ON rotations (new_serial) WHERE state IN ('rolled-back', 'failed');
