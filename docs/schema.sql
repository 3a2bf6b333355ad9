-- The schema as all steps of storage/schema/ together make it; a test compares the two.

CREATE TABLE projects (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE,
  description TEXT NOT NULL DEFAULT '',
  settings TEXT NOT NULL DEFAULT '{}',
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL
);

CREATE TABLE conversations (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  project_id INTEGER REFERENCES projects (pk) ON DELETE SET NULL,
  title TEXT NOT NULL,
  settings TEXT NOT NULL DEFAULT '{}',
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL
);

CREATE INDEX idx_conversations_project ON conversations (project_id, updated_at DESC, pk DESC);

CREATE INDEX idx_conversations_updated ON conversations (updated_at DESC, pk DESC);

CREATE TABLE messages (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  conversation_id INTEGER NOT NULL REFERENCES conversations (pk) ON DELETE CASCADE,
  role TEXT NOT NULL CHECK (role IN ('user', 'assistant', 'system', 'tool')),
  content TEXT NOT NULL,
  parent_id INTEGER REFERENCES messages (pk) ON DELETE SET NULL,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL
);

CREATE INDEX idx_messages_conversation ON messages (conversation_id, created_at, pk);

CREATE INDEX idx_messages_created ON messages (created_at DESC, pk DESC);

CREATE INDEX idx_messages_parent ON messages (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE project_files (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  project_id INTEGER NOT NULL REFERENCES projects (pk) ON DELETE CASCADE,
  filename TEXT NOT NULL,
  original_path TEXT,
  path TEXT NOT NULL,
  path_bytes BLOB NOT NULL,
  content_hash TEXT,
  indexed_hash TEXT,
  size INTEGER,
  mtime_ns INTEGER,
  ctime_ns INTEGER,
  inode INTEGER,
  mime_type TEXT,
  status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'processing', 'ready', 'failed')),
  error_code TEXT,
  error_message TEXT,
  chunk_count INTEGER NOT NULL DEFAULT 0,
  page_count INTEGER,
  attempts INTEGER NOT NULL DEFAULT 0,
  lease_owner TEXT,
  lease_token TEXT,
  lease_expires_at INTEGER,
  next_attempt_at INTEGER,
  duplicate_of INTEGER REFERENCES project_files (pk),
  waiting_for INTEGER REFERENCES project_files (pk),
  parser TEXT,
  settings_fingerprint TEXT,
  metadata TEXT NOT NULL DEFAULT '{}',
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  UNIQUE (project_id, path_bytes),
  CHECK ((status = 'processing') = (lease_token IS NOT NULL)),
  CHECK (waiting_for IS NULL OR status = 'pending')
);

CREATE INDEX idx_project_files_status ON project_files (project_id, status, pk);

CREATE INDEX idx_project_files_hash ON project_files (project_id, content_hash);

CREATE INDEX idx_project_files_duplicate ON project_files (duplicate_of) WHERE duplicate_of IS NOT NULL;

CREATE INDEX idx_project_files_waiting ON project_files (waiting_for) WHERE waiting_for IS NOT NULL;

CREATE INDEX idx_project_files_leased ON project_files (lease_owner) WHERE status = 'processing';

CREATE UNIQUE INDEX idx_project_files_owner ON project_files (project_id, indexed_hash)
  WHERE indexed_hash IS NOT NULL AND duplicate_of IS NULL;

CREATE UNIQUE INDEX idx_project_files_job ON project_files (project_id, content_hash)
  WHERE content_hash IS NOT NULL AND waiting_for IS NULL AND status IN ('pending', 'processing');

CREATE TABLE file_chunks (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  project_id INTEGER NOT NULL REFERENCES projects (pk) ON DELETE CASCADE,
  file_id INTEGER NOT NULL REFERENCES project_files (pk) ON DELETE CASCADE,
  chunk_index INTEGER NOT NULL,
  content TEXT NOT NULL,
  content_hash BLOB NOT NULL,
  token_count INTEGER NOT NULL,
  char_start INTEGER NOT NULL,
  char_end INTEGER NOT NULL,
  page_start INTEGER,
  page_end INTEGER,
  heading TEXT NOT NULL DEFAULT '',
  metadata TEXT NOT NULL DEFAULT '{}',
  created_at TEXT NOT NULL,
  UNIQUE (file_id, chunk_index)
);

CREATE INDEX idx_file_chunks_project ON file_chunks (project_id);

CREATE TABLE project_memories (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  project_id INTEGER NOT NULL REFERENCES projects (pk) ON DELETE CASCADE,
  title TEXT NOT NULL,
  content TEXT NOT NULL,
  type TEXT NOT NULL DEFAULT 'memory' CHECK (type IN ('memory', 'note', 'insight')),
  importance INTEGER NOT NULL DEFAULT 5 CHECK (importance BETWEEN 1 AND 10),
  tags TEXT NOT NULL DEFAULT '[]',
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL
);

CREATE INDEX idx_project_memories_project ON project_memories (project_id, updated_at DESC, pk DESC);

CREATE INDEX idx_project_memories_importance ON project_memories (project_id, importance DESC, pk DESC);

CREATE TABLE app_settings (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  value TEXT NOT NULL,
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL
);

CREATE VIRTUAL TABLE chunk_fts USING fts5 (
  scope, heading, body, repeats, content = '', contentless_delete = 1, tokenize = 'ascii'
);

CREATE VIRTUAL TABLE memory_fts USING fts5 (
  scope, heading, body, repeats, content = '', contentless_delete = 1, tokenize = 'ascii'
);

CREATE VIRTUAL TABLE message_fts USING fts5 (
  scope, heading, body, repeats, content = '', contentless_delete = 1, tokenize = 'ascii'
);

CREATE VIRTUAL TABLE chunk_terms USING fts5vocab (chunk_fts, row);

CREATE VIRTUAL TABLE chunk_places USING fts5vocab (chunk_fts, instance);

CREATE VIRTUAL TABLE memory_terms USING fts5vocab (memory_fts, row);

CREATE VIRTUAL TABLE memory_places USING fts5vocab (memory_fts, instance);

CREATE VIRTUAL TABLE message_terms USING fts5vocab (message_fts, row);

CREATE VIRTUAL TABLE message_places USING fts5vocab (message_fts, instance);

CREATE TABLE text_rows (
  source TEXT NOT NULL CHECK (source IN ('file', 'memory', 'message')),
  pk INTEGER NOT NULL,
  project INTEGER NOT NULL,
  length INTEGER NOT NULL,
  PRIMARY KEY (source, pk)
) WITHOUT ROWID;

CREATE TABLE text_stats (
  source TEXT NOT NULL CHECK (source IN ('file', 'memory', 'message')),
  project INTEGER NOT NULL,
  passages INTEGER NOT NULL,
  length INTEGER NOT NULL,
  version INTEGER NOT NULL,
  PRIMARY KEY (source, project)
) WITHOUT ROWID;

CREATE TABLE embedding_models (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  hash TEXT NOT NULL,
  dim INTEGER NOT NULL,
  pooling TEXT NOT NULL,
  query_prompt TEXT NOT NULL DEFAULT '',
  document_prompt TEXT NOT NULL DEFAULT '',
  precision TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('building', 'live', 'retired')),
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  UNIQUE (hash, pooling, query_prompt, document_prompt)
);

CREATE UNIQUE INDEX idx_embedding_models_live ON embedding_models (status) WHERE status = 'live';

CREATE TABLE embeddings (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  model_id INTEGER NOT NULL REFERENCES embedding_models (pk) ON DELETE CASCADE,
  input_hash BLOB NOT NULL,
  vector BLOB NOT NULL,
  UNIQUE (model_id, input_hash)
);

CREATE TABLE vector_bits (
  model INTEGER NOT NULL,
  project INTEGER NOT NULL,
  source TEXT NOT NULL CHECK (source IN ('file', 'memory', 'message')),
  pk INTEGER NOT NULL,
  bits BLOB NOT NULL,
  embedding INTEGER NOT NULL REFERENCES embeddings (pk),
  PRIMARY KEY (model, project, source, pk)
) WITHOUT ROWID;

CREATE INDEX idx_vector_bits_embedding ON vector_bits (embedding);

CREATE TABLE pending_vectors (
  source TEXT NOT NULL CHECK (source IN ('memory', 'message')),
  pk INTEGER NOT NULL, refused_by TEXT,
  PRIMARY KEY (source, pk)
) WITHOUT ROWID;

CREATE TABLE generations (
  project INTEGER NOT NULL PRIMARY KEY,
  value INTEGER NOT NULL
);

CREATE TABLE change_log (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  model INTEGER NOT NULL,
  project INTEGER NOT NULL,
  source TEXT NOT NULL,
  pk INTEGER NOT NULL,
  op TEXT NOT NULL CHECK (op IN ('put', 'delete', 'clear'))
);

CREATE TABLE schema_migrations ( version INTEGER PRIMARY KEY, description TEXT NOT NULL, applied_at TEXT NOT NULL);

CREATE TABLE slow_queries (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  project INTEGER NOT NULL,
  took_ms REAL NOT NULL,
  created_at TEXT NOT NULL
);

CREATE TABLE text_versions (
  source TEXT NOT NULL PRIMARY KEY CHECK (source IN ('file', 'memory', 'message')),
  version INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE incarnation (
  pk INTEGER NOT NULL PRIMARY KEY CHECK (pk = 1),
  value TEXT NOT NULL
);

CREATE TABLE usage_counts (
  day TEXT NOT NULL,
  project INTEGER NOT NULL,
  kind TEXT NOT NULL,
  searches INTEGER NOT NULL,
  empty INTEGER NOT NULL,
  took_ms REAL NOT NULL,
  PRIMARY KEY (day, project, kind)
) WITHOUT ROWID;

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

CREATE TABLE maintenance (
  task TEXT NOT NULL PRIMARY KEY,
  ended_at TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX idx_projects_updated ON projects (updated_at DESC, pk DESC);

CREATE INDEX idx_project_files_project ON project_files (project_id, pk);

CREATE INDEX idx_project_memories_type ON project_memories (project_id, type, updated_at DESC, pk DESC);

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

CREATE INDEX idx_project_files_due ON project_files (project_id, pk) WHERE status = 'pending' AND waiting_for IS NULL;

CREATE TABLE access_tokens (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL DEFAULT '',
  digest BLOB NOT NULL UNIQUE,
  can_write INTEGER NOT NULL CHECK (can_write IN (0, 1)),
  all_projects INTEGER NOT NULL CHECK (all_projects IN (0, 1)),
  created_at TEXT NOT NULL,
  last_used_at TEXT,
  revoked_at TEXT
);

CREATE TABLE token_projects (
  token_id INTEGER NOT NULL REFERENCES access_tokens (pk) ON DELETE CASCADE,
  project_id INTEGER NOT NULL REFERENCES projects (pk) ON DELETE CASCADE,
  PRIMARY KEY (token_id, project_id)
) WITHOUT ROWID;

CREATE INDEX idx_token_projects_project ON token_projects (project_id);

