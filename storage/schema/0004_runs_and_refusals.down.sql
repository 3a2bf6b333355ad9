ALTER TABLE pending_vectors DROP COLUMN refused_by;
DROP TABLE ingestion_runs;
