-- Full text, vectors, and what keeps copies of them in other processes fresh.
-- The full-text tables hold tokens only (contentless), made in Python before the transaction, so that
-- a delete needs no old values and any SQLite can read the file. `scope` is the project's own token;
-- `repeats` says which tokens a passage holds more than once, and about how often.

CREATE VIRTUAL TABLE chunk_fts USING fts5 (
  scope, heading, body, repeats, content = '', contentless_delete = 1, tokenize = 'ascii'
);
CREATE VIRTUAL TABLE memory_fts USING fts5 (
  scope, heading, body, repeats, content = '', contentless_delete = 1, tokenize = 'ascii'
);
CREATE VIRTUAL TABLE message_fts USING fts5 (
  scope, heading, body, repeats, content = '', contentless_delete = 1, tokenize = 'ascii'
);

-- FTS5's own ranking serves questions in its own language alone; see storage/text_index.py.
INSERT INTO chunk_fts (chunk_fts, rank) VALUES ('rank', 'bm25(0.0, 1.5, 1.0, 0.0)');
INSERT INTO memory_fts (memory_fts, rank) VALUES ('rank', 'bm25(0.0, 1.5, 1.0, 0.0)');
INSERT INTO message_fts (message_fts, rank) VALUES ('rank', 'bm25(0.0, 1.5, 1.0, 0.0)');

-- How many rows hold a term, and where each one stands.
CREATE VIRTUAL TABLE chunk_terms USING fts5vocab (chunk_fts, row);
CREATE VIRTUAL TABLE chunk_places USING fts5vocab (chunk_fts, instance);
CREATE VIRTUAL TABLE memory_terms USING fts5vocab (memory_fts, row);
CREATE VIRTUAL TABLE memory_places USING fts5vocab (memory_fts, instance);
CREATE VIRTUAL TABLE message_terms USING fts5vocab (message_fts, row);
CREATE VIRTUAL TABLE message_places USING fts5vocab (message_fts, instance);

-- What BM25 needs to know of each indexed passage, and of each project's passages together, so that
-- no project shifts the ranking of another. length: in tokens; project 0: of no project.
-- version: changes with every change of the project's passages.
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

-- One row for each distinct model input: vector is dim little-endian float16, unit length.
CREATE TABLE embeddings (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  model_id INTEGER NOT NULL REFERENCES embedding_models (pk) ON DELETE CASCADE,
  input_hash BLOB NOT NULL,
  vector BLOB NOT NULL,
  UNIQUE (model_id, input_hash)
);

-- One row for each vector in use, clustered by what a search reads. project 0: of no project.
-- bits holds the signs of the vector, dim / 8 bytes, numpy.packbits order.
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

-- Memories and messages whose vector is still to be made.
CREATE TABLE pending_vectors (
  source TEXT NOT NULL CHECK (source IN ('memory', 'message')),
  pk INTEGER NOT NULL,
  PRIMARY KEY (source, pk)
) WITHOUT ROWID;

CREATE TABLE generations (
  project INTEGER NOT NULL PRIMARY KEY,
  value INTEGER NOT NULL
);

-- Which vectors changed; 'clear' (model 0, source '', pk 0): all of a project.
CREATE TABLE change_log (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  model INTEGER NOT NULL,
  project INTEGER NOT NULL,
  source TEXT NOT NULL,
  pk INTEGER NOT NULL,
  op TEXT NOT NULL CHECK (op IN ('put', 'delete', 'clear'))
);

CREATE TABLE slow_queries (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  project INTEGER NOT NULL,
  took_ms REAL NOT NULL,
  created_at TEXT NOT NULL
);
