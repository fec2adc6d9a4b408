-- Volumes and network file systems. Of the latter only the name is here: their files are a plain directory.
-- Paths and contents have no index but their order: what looks for contents looks at all of them, now and then.

CREATE TABLE volumes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    volume_id TEXT NOT NULL UNIQUE,
    environment_id TEXT NOT NULL,
    kind TEXT NOT NULL, -- 'volume' or 'network-file-system'
    name TEXT NOT NULL DEFAULT '', -- '' for an ephemeral one
    format INTEGER NOT NULL DEFAULT 0, -- what its maker gave as `version`
    version INTEGER NOT NULL DEFAULT 0, -- the newest
    inodes INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    used_at REAL NOT NULL
);
CREATE UNIQUE INDEX volumes_by_name ON volumes (environment_id, kind, name) WHERE name != '';

-- The newest version. Paths are bytes, as file systems have them: parent '' is the root.
CREATE TABLE volume_files (
    volume INTEGER NOT NULL,
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    kind INTEGER NOT NULL, -- 1 file, 2 directory, 3 symbolic link
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    mtime INTEGER NOT NULL, -- nanoseconds
    size INTEGER NOT NULL,
    content BLOB NOT NULL, -- a file's SHA-256 in hexadecimal, a link's target
    PRIMARY KEY (volume, parent, name)
) WITHOUT ROWID;

-- What stood at a path before a version changed it: older versions are the newest one with these put back.
CREATE TABLE volume_changes (
    volume INTEGER NOT NULL,
    version INTEGER NOT NULL, -- that made the change
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    kind INTEGER NOT NULL, -- 0: nothing was there
    mode INTEGER NOT NULL DEFAULT 0,
    uid INTEGER NOT NULL DEFAULT 0,
    gid INTEGER NOT NULL DEFAULT 0,
    mtime INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,
    content BLOB NOT NULL DEFAULT x'',
    PRIMARY KEY (volume, version, parent, name)
) WITHOUT ROWID;

CREATE TABLE volume_versions (
    volume INTEGER NOT NULL,
    version INTEGER NOT NULL,
    created_at REAL NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    token TEXT NOT NULL DEFAULT '', -- of the upload that made it
    changes INTEGER NOT NULL DEFAULT 0, -- paths
    inodes INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    superseded INTEGER NOT NULL DEFAULT 0, -- bytes of the files that it replaced or removed
    PRIMARY KEY (volume, version)
) WITHOUT ROWID;

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
