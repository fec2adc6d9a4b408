-- Dicts and queues, named and ephemeral. `number` stands for the id in the large tables.
CREATE TABLE objects (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    object_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL, -- 'dict' or 'queue'
    environment_id TEXT NOT NULL,
    name TEXT NOT NULL DEFAULT '', -- '' for an ephemeral one
    app_id TEXT NOT NULL DEFAULT '', -- of an ephemeral one: the app whose container made it
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL DEFAULT 0 -- of an ephemeral one: unless it is heard of before
);
CREATE UNIQUE INDEX objects_by_name ON objects (kind, environment_id, name) WHERE name != '';
CREATE INDEX objects_ephemeral ON objects (expires_at) WHERE name = '';

CREATE TABLE dict_entries (
    dict INTEGER NOT NULL,
    key BLOB NOT NULL, -- pickled
    value BLOB NOT NULL,
    blob TEXT NOT NULL DEFAULT '', -- of a large value: its file in values/
    size INTEGER NOT NULL,
    token BLOB NOT NULL, -- of the request that wrote it: one that is sent again is recognised
    used_at REAL NOT NULL, -- last write or read, the latter not to the minute
    PRIMARY KEY (dict, key)
) WITHOUT ROWID;
CREATE INDEX dict_blobs ON dict_entries (blob, dict) WHERE blob != '';

-- What was popped and has perhaps not arrived yet.
CREATE TABLE dict_popped (
    token BLOB PRIMARY KEY, -- of the request
    value BLOB NOT NULL,
    blob TEXT NOT NULL,
    size INTEGER NOT NULL,
    popped_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX popped_blobs ON dict_popped (blob) WHERE blob != '';

CREATE TABLE queue_partitions (
    number INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    key BLOB NOT NULL, -- x'' for the default partition
    expires_at REAL NOT NULL -- at the latest
);
CREATE UNIQUE INDEX queue_partitions_by_key ON queue_partitions (queue, key);
CREATE INDEX queue_partitions_by_expiry ON queue_partitions (expires_at);

-- `key` is the partition's number * 2^32 + the item's place in it.
CREATE TABLE queue_items (
    key INTEGER PRIMARY KEY,
    value BLOB NOT NULL,
    token BLOB NOT NULL DEFAULT x'' -- of the request, at its first item
);

-- Requests whose items, put before a restart, are consumed: their clients may still send them again.
CREATE TABLE queue_puts (
    token BLOB PRIMARY KEY,
    consumed_at REAL NOT NULL
) WITHOUT ROWID;

-- Items that were handed out and whose arrival was not confirmed yet: few at any time.
CREATE TABLE queue_taken (
    token BLOB PRIMARY KEY, -- of the request
    partition INTEGER NOT NULL,
    ranges TEXT NOT NULL -- [[first place, last place], ...]
) WITHOUT ROWID;
