-- What is kept for whoever runs Knowlex; losing it loses no content.

CREATE TABLE slow_queries (
  pk INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  project INTEGER NOT NULL,
  took_ms REAL NOT NULL,
  created_at TEXT NOT NULL
);
