-- Projects, conversations, files, chunks, memories and settings.
-- Foreign keys use pk, which AUTOINCREMENT never gives twice; the doors show id (UUIDv7).
-- Times are UTC text (ISO 8601, milliseconds); *_at columns of a lease are milliseconds since 1970.

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

-- content_hash: SHA-256 of the bytes that status speaks of; indexed_hash: of those that are searchable.
-- They differ while an edited file waits, and when its new version failed.
-- duplicate_of: the file whose chunks serve this name. waiting_for: the equal file now in the queue.
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
CREATE INDEX idx_project_files_queue ON project_files (pk) WHERE status = 'pending' AND waiting_for IS NULL;
CREATE INDEX idx_project_files_leased ON project_files (lease_owner) WHERE status = 'processing';
-- The same content has one set of chunks, and is processed by one worker at a time.
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
