-- The outbox, for MariaDB and MySQL. `Outbox::migrate` runs this, with the name you set in place of
-- `streams_egress`. It may be run again.

CREATE TABLE IF NOT EXISTS streams_schema (
    name VARCHAR(128) PRIMARY KEY,
    version BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS streams_egress (
    batch_id VARCHAR(27) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,  -- a KSUID
    message_count INTEGER NOT NULL,
    raw_data LONGBLOB NOT NULL,                    -- a protobuf TransportMessageBatch
    insert_time TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    in_flight BOOLEAN NOT NULL DEFAULT FALSE,      -- the Go library's; not used here
    write_retries INTEGER NOT NULL DEFAULT 0,
    last_write_error VARCHAR(255) NULL,
    sequence BIGINT NOT NULL AUTO_INCREMENT,
    status SMALLINT NOT NULL DEFAULT 0,            -- 0 ready, 1 forwarded and kept, 2 set aside, 3 deferred
    due BIGINT NULL,                               -- when a deferred one is ready again; ms since 1970
    forwarded BIGINT NULL,                         -- when it was; ms since 1970
    UNIQUE KEY streams_egress_sequence (sequence),
    KEY streams_egress_ready (status, sequence)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which relay is the active one.
CREATE TABLE IF NOT EXISTS streams_relay (
    name VARCHAR(255) PRIMARY KEY,
    owner VARCHAR(64) NOT NULL,
    expires BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

REPLACE INTO streams_schema (name, version) VALUES ('streams_egress', 1);
