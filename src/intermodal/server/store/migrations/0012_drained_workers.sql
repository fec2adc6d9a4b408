-- Workers on which the operator wants no containers.
CREATE TABLE drained_workers (
    worker_id TEXT PRIMARY KEY,
    drained_at REAL NOT NULL
) WITHOUT ROWID;
