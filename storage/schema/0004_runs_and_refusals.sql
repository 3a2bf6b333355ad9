-- What each run of ingestion did and how long its stages took; never a path or a word of a file.

-- project_id: NULL for a run over the queue of all projects. Times end in _s: seconds, summed over those who did the
-- same at the same time. bytes: of the files that were read.
CREATE TABLE ingestion_runs (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  project_id INTEGER REFERENCES projects (pk) ON DELETE CASCADE,
  kind TEXT NOT NULL CHECK (kind IN ('ingest', 'watch', 'work')),
  outcome TEXT NOT NULL CHECK (outcome IN ('done', 'stopped', 'failed')),
  error_code TEXT,
  started_at TEXT NOT NULL,
  ended_at TEXT NOT NULL,
  seconds REAL NOT NULL,
  discovered INTEGER NOT NULL,
  unchanged INTEGER NOT NULL,
  duplicates INTEGER NOT NULL,
  skipped INTEGER NOT NULL,
  removed INTEGER NOT NULL,
  ready INTEGER NOT NULL,
  failed INTEGER NOT NULL,
  parsed INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  embedded INTEGER NOT NULL,
  reused INTEGER NOT NULL,
  chunks INTEGER NOT NULL,
  scan_s REAL NOT NULL,
  parse_s REAL NOT NULL,
  embed_s REAL NOT NULL,
  write_s REAL NOT NULL
);
CREATE INDEX idx_ingestion_runs_project ON ingestion_runs (project_id, pk);

-- What made vectors and had no sound one for a memory or message: it is not asked again for the same text.
ALTER TABLE pending_vectors ADD COLUMN refused_by TEXT;
