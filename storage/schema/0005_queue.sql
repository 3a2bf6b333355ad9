-- What a worker may take of a project, the oldest first: names that wait for another one are not in it, however many.
DROP INDEX idx_project_files_queue;
CREATE INDEX idx_project_files_due ON project_files (project_id, pk) WHERE status = 'pending' AND waiting_for IS NULL;
