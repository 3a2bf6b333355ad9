ALTER TABLE pending_vectors DROP COLUMN refused_by;
