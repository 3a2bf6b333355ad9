DROP INDEX idx_project_files_due;
CREATE INDEX idx_project_files_queue ON project_files (pk) WHERE status = 'pending' AND waiting_for IS NULL;
