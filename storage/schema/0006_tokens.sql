-- Who may use the server, and for what.

-- digest: SHA-256 of the token, which itself is kept nowhere. all_projects: said outright, so that a token whose
-- projects were all deleted is one for none. revoked_at: a revoked token stays, for who looks for its use.
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
