-- What Knowlex keeps of its own running, and indexes for the lists that had none.

-- Which tokenizer made the full text of a source; made by another than today's, it is made anew.
-- Every index before this table was made by the first.
CREATE TABLE text_versions (
  source TEXT NOT NULL PRIMARY KEY CHECK (source IN ('file', 'memory', 'message')),
  version INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO text_versions (source, version) VALUES ('file', 1), ('memory', 1), ('message', 1);

-- Which content this is: a restore puts another value in, so that a process that has keys of rows in
-- its memory notices that they may now be those of others.
CREATE TABLE incarnation (
  pk INTEGER NOT NULL PRIMARY KEY CHECK (pk = 1),
  value TEXT NOT NULL
);
INSERT INTO incarnation (pk, value) VALUES (1, lower(hex(randomblob(16))));

-- How often a project (0: all) was searched on a day (UTC), how, and how long that took together;
-- never what was asked.
CREATE TABLE usage_counts (
  day TEXT NOT NULL,
  project INTEGER NOT NULL,
  kind TEXT NOT NULL,
  searches INTEGER NOT NULL,
  empty INTEGER NOT NULL,
  took_ms REAL NOT NULL,
  PRIMARY KEY (day, project, kind)
) WITHOUT ROWID;

-- How large the database was at the end of each day (UTC) on which it was looked at.
CREATE TABLE growth_samples (
  day TEXT NOT NULL PRIMARY KEY,
  bytes INTEGER NOT NULL,
  files INTEGER NOT NULL,
  chunks INTEGER NOT NULL,
  memories INTEGER NOT NULL,
  conversations INTEGER NOT NULL,
  messages INTEGER NOT NULL,
  vectors INTEGER NOT NULL
) WITHOUT ROWID;

-- When each task of maintenance ended last, so that several processes share the work.
CREATE TABLE maintenance (
  task TEXT NOT NULL PRIMARY KEY,
  ended_at TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX idx_projects_updated ON projects (updated_at DESC, pk DESC);
CREATE INDEX idx_project_files_project ON project_files (project_id, pk);
CREATE INDEX idx_project_memories_type ON project_memories (project_id, type, updated_at DESC, pk DESC);
