-- The first schema. A released migration is never edited: a change is a new file with the next number.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE environments (
    environment_id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    web_suffix TEXT NOT NULL DEFAULT '',
    is_default INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE apps (
    app_id TEXT PRIMARY KEY,
    environment_id TEXT NOT NULL,
    name TEXT NOT NULL DEFAULT '',
    description TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL,
    detached INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    stopped_at REAL NOT NULL DEFAULT 0,
    stop_reason TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE UNIQUE INDEX apps_deployed ON apps (environment_id, name) WHERE state = 'deployed';
CREATE INDEX apps_by_environment ON apps (environment_id, stopped_at);

-- What functions carry with them (cloudpickled code), once for each content.
CREATE TABLE function_code (
    hash TEXT PRIMARY KEY,
    content BLOB NOT NULL
);

CREATE TABLE functions (
    function_id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL,
    name TEXT NOT NULL,
    spec TEXT NOT NULL, -- FunctionSpec as JSON, without the code
    code_hash TEXT NOT NULL DEFAULT '',
    version INTEGER NOT NULL DEFAULT 0,
    active INTEGER NOT NULL DEFAULT 1,
    base_id TEXT NOT NULL DEFAULT '', -- of a variant: the function that it is a variant of
    variant TEXT NOT NULL DEFAULT '', -- of a variant: what differs, as JSON
    parameters BLOB NOT NULL DEFAULT x'',
    updated_at REAL NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX functions_by_name ON functions (app_id, name) WHERE base_id = '';
CREATE INDEX functions_by_base ON functions (base_id) WHERE base_id != '';
CREATE INDEX functions_by_app ON functions (app_id);

CREATE TABLE app_versions (
    app_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    deployed_at REAL NOT NULL,
    deployed_by TEXT NOT NULL DEFAULT '',
    software TEXT NOT NULL DEFAULT '',
    tag TEXT NOT NULL DEFAULT '',
    commit_info TEXT NOT NULL DEFAULT '{}',
    rolled_back_from INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (app_id, version)
) WITHOUT ROWID;

CREATE TABLE app_version_functions (
    app_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    function_id TEXT NOT NULL,
    spec TEXT NOT NULL,
    code_hash TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (app_id, version, function_id)
) WITHOUT ROWID;

CREATE TABLE images (
    image_id TEXT PRIMARY KEY,
    recipe TEXT NOT NULL,
    config TEXT NOT NULL, -- ImageConfig as JSON
    seconds REAL NOT NULL DEFAULT 0,
    built_at REAL NOT NULL,
    used_at REAL NOT NULL
);

CREATE TABLE mounts (
    mount_id TEXT PRIMARY KEY,
    entries TEXT NOT NULL, -- file.FileEntry as JSON
    created_at REAL NOT NULL
);

CREATE TABLE secrets (
    secret_id TEXT PRIMARY KEY,
    environment_id TEXT NOT NULL,
    name TEXT NOT NULL DEFAULT '', -- '' for an inline secret
    content BLOB NOT NULL, -- encrypted
    created_at REAL NOT NULL,
    used_at REAL NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX secrets_by_name ON secrets (environment_id, name) WHERE name != '';

CREATE TABLE tokens (
    token_id TEXT PRIMARY KEY,
    secret_hash BLOB NOT NULL, -- SHA-256 of the secret, which is random
    role TEXT NOT NULL DEFAULT 'client',
    note TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    used_at REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE workers (
    worker_id TEXT PRIMARY KEY,
    info TEXT NOT NULL, -- JSON
    registered_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE containers (
    container_id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL,
    function_id TEXT NOT NULL,
    worker_id TEXT NOT NULL DEFAULT '',
    started_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX containers_by_app ON containers (app_id);

-- Spawned calls. Numbers stand for ids in the large tables: 1,000,000 waiting inputs take 8 bytes
-- each where an id would take 29.
CREATE TABLE called_functions (
    number INTEGER PRIMARY KEY,
    function_id TEXT NOT NULL UNIQUE
);

CREATE TABLE calls (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    call_id TEXT NOT NULL UNIQUE,
    function INTEGER NOT NULL,
    parent_input_id TEXT NOT NULL DEFAULT '',
    parent_call_id TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    changed_at REAL NOT NULL, -- when an input was added or finished
    closed INTEGER NOT NULL DEFAULT 0, -- all inputs are here
    state INTEGER NOT NULL DEFAULT 0 -- 0 open, 1 cancelled, 2 expired
);
CREATE INDEX calls_by_parent ON calls (parent_call_id) WHERE parent_call_id != '';
CREATE INDEX calls_by_change ON calls (changed_at);

-- Inputs without a final output. `key` is the call's number * 2^32 + the input's index; `seq` grows
-- in the order of arrival, so that a cursor over it misses nothing that comes later.
CREATE TABLE inputs (
    key INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    function INTEGER NOT NULL,
    args BLOB NOT NULL,
    blob TEXT NOT NULL DEFAULT '',
    method TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX inputs_waiting ON inputs (function, seq);
CREATE INDEX inputs_blobs ON inputs (blob) WHERE blob != '';

CREATE TABLE outputs (
    key INTEGER PRIMARY KEY, -- as in inputs
    status INTEGER NOT NULL,
    value BLOB NOT NULL,
    blob TEXT NOT NULL DEFAULT '',
    container_id TEXT NOT NULL DEFAULT '',
    finished_at REAL NOT NULL
);
CREATE INDEX outputs_blobs ON outputs (blob) WHERE blob != '';
