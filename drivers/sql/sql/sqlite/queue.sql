-- The queue. `SqlQueue::migrate` runs this, with the name you set in place of `streams_queue`.
-- It may be run again.

CREATE TABLE IF NOT EXISTS streams_schema (
    name VARCHAR(128) PRIMARY KEY,
    version BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS streams_queue_streams (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name VARCHAR(512) NOT NULL UNIQUE,
    retention BIGINT                    -- how long each message is kept for groups to come; ms
);

CREATE TABLE IF NOT EXISTS streams_queue_groups (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_id BIGINT NOT NULL,
    name VARCHAR(512) NOT NULL,
    UNIQUE (stream_id, name)
);

-- A row for each message and group. It goes when the group is done with it.
CREATE TABLE IF NOT EXISTS streams_queue_messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BIGINT NOT NULL,           -- or the stream, negative: kept for groups to come
    ready_at BIGINT NOT NULL,           -- not before; while leased, the end of the lease; ms since 1970
    owner BIGINT,                       -- the reader that has it
    attempts BIGINT NOT NULL DEFAULT 0,
    key_hash BIGINT,
    behind BIGINT,                      -- the hash of its key, while it waits for earlier ones of it
    message_id VARCHAR(255) NOT NULL,
    time BIGINT NOT NULL,               -- of the message; ms since 1970
    raw_data BLOB NOT NULL              -- a protobuf TransportMessageBatch of one message
);

CREATE INDEX IF NOT EXISTS streams_queue_ready
    ON streams_queue_messages (group_id, ready_at, id);
CREATE INDEX IF NOT EXISTS streams_queue_key
    ON streams_queue_messages (group_id, key_hash, id) WHERE key_hash IS NOT NULL;
CREATE INDEX IF NOT EXISTS streams_queue_behind
    ON streams_queue_messages (group_id, behind, id) WHERE behind IS NOT NULL;

-- Messages whose time has not come. Groups get them when it does.
CREATE TABLE IF NOT EXISTS streams_queue_scheduled (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream_id BIGINT NOT NULL,
    deliver_at BIGINT NOT NULL,         -- ms since 1970
    message_id VARCHAR(255) NOT NULL,
    raw_data BLOB NOT NULL
);

CREATE INDEX IF NOT EXISTS streams_queue_due
    ON streams_queue_scheduled (stream_id, deliver_at, id);
CREATE INDEX IF NOT EXISTS streams_queue_cancel
    ON streams_queue_scheduled (stream_id, message_id);

INSERT INTO streams_schema (name, version) VALUES ('streams_queue', 1)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version;
