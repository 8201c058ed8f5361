-- The queue. `SqlQueue::migrate` runs this, with the name you set in place of `streams_queue`.
-- It may be run again.

CREATE TABLE IF NOT EXISTS streams_schema (
    name VARCHAR(128) PRIMARY KEY,
    version BIGINT NOT NULL
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS streams_queue_streams (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL UNIQUE,
    retention BIGINT NULL               -- how long each message is kept for groups to come; ms
) ENGINE = InnoDB;

CREATE TABLE IF NOT EXISTS streams_queue_groups (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    stream_id BIGINT NOT NULL,
    name VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    UNIQUE (stream_id, name)
) ENGINE = InnoDB;

-- A row for each message and group. It goes when the group is done with it.
CREATE TABLE IF NOT EXISTS streams_queue_messages (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    group_id BIGINT NOT NULL,           -- or the stream, negative: kept for groups to come
    ready_at BIGINT NOT NULL,           -- not before; while leased, the end of the lease; ms since 1970
    owner BIGINT NULL,                  -- the reader that has it
    attempts BIGINT NOT NULL DEFAULT 0,
    key_hash BIGINT NULL,
    behind BIGINT NULL,                 -- the hash of its key, while it waits for earlier ones of it
    message_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    time BIGINT NOT NULL,               -- of the message; ms since 1970
    raw_data LONGBLOB NOT NULL,         -- a protobuf TransportMessageBatch of one message
    KEY streams_queue_ready (group_id, ready_at, id),
    KEY streams_queue_key (group_id, key_hash, id),
    KEY streams_queue_behind (group_id, behind, id)
) ENGINE = InnoDB;

-- Messages whose time has not come. Groups get them when it does.
CREATE TABLE IF NOT EXISTS streams_queue_scheduled (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    stream_id BIGINT NOT NULL,
    deliver_at BIGINT NOT NULL,         -- ms since 1970
    message_id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    raw_data LONGBLOB NOT NULL,
    KEY streams_queue_due (stream_id, deliver_at, id),
    KEY streams_queue_cancel (stream_id, message_id)
) ENGINE = InnoDB;

INSERT INTO streams_schema (name, version) VALUES ('streams_queue', 1)
    ON DUPLICATE KEY UPDATE version = VALUES(version);
