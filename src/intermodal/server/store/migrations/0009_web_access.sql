-- Who may call web functions that require proxy authorisation. Secrets are random, so that a plain hash keeps them.
CREATE TABLE proxy_tokens (
    token_id TEXT PRIMARY KEY,
    secret_hash BLOB NOT NULL,
    note TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    used_at REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- Ports of containers that are reachable from outside, as long as their container runs.
CREATE TABLE tunnels (
    tunnel_id TEXT PRIMARY KEY,
    container_id TEXT NOT NULL,
    port INTEGER NOT NULL,
    host TEXT NOT NULL,
    tls_port INTEGER NOT NULL, -- 0: not reachable with TLS
    tcp_port INTEGER NOT NULL -- 0: not reachable without
) WITHOUT ROWID;
CREATE INDEX tunnels_by_container ON tunnels (container_id);

-- Functions that run by themselves.
CREATE TABLE schedules (
    function_id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL,
    spec TEXT NOT NULL, -- FunctionSpec.schedule as JSON
    base REAL NOT NULL, -- what a period counts from
    due REAL NOT NULL -- the next run
) WITHOUT ROWID;
CREATE INDEX schedules_by_app ON schedules (app_id);
