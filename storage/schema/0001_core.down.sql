DROP TABLE app_settings;
DROP TABLE project_memories;
DROP TABLE file_chunks;
DROP TABLE project_files;
DROP TABLE messages;
DROP TABLE conversations;
DROP TABLE projects;
