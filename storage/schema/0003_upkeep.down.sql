DROP INDEX idx_project_memories_type;
DROP INDEX idx_project_files_project;
DROP INDEX idx_projects_updated;
DROP TABLE maintenance;
DROP TABLE growth_samples;
DROP TABLE usage_counts;
DROP TABLE incarnation;
DROP TABLE text_versions;
