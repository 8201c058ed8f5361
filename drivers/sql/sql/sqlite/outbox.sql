-- The outbox. `Outbox::migrate` runs this, with the name you set in place of `streams_egress`.
-- It may be run again. The order of insertion is that of the rowid.

CREATE TABLE IF NOT EXISTS streams_schema (
    name VARCHAR(128) NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS streams_egress (
    batch_id VARCHAR(27) NOT NULL PRIMARY KEY,     -- a KSUID
    message_count INTEGER NOT NULL,
    raw_data BLOB NOT NULL,                        -- a protobuf TransportMessageBatch
    insert_time TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP,
    in_flight BOOLEAN NOT NULL DEFAULT FALSE,      -- the Go library's; not used here
    write_retries INTEGER NOT NULL DEFAULT 0,
    last_write_error VARCHAR(255) NULL,
    status SMALLINT NOT NULL DEFAULT 0,            -- 0 ready, 1 forwarded and kept, 2 set aside, 3 deferred
    due BIGINT NULL,                               -- when a deferred one is ready again; ms since 1970
    forwarded BIGINT NULL                          -- when it was; ms since 1970
);

-- Each entry of an index ends with the rowid.
CREATE INDEX IF NOT EXISTS streams_egress_ready ON streams_egress (status);

-- Which relay is the active one.
CREATE TABLE IF NOT EXISTS streams_relay (
    name VARCHAR(255) NOT NULL PRIMARY KEY,
    owner VARCHAR(64) NOT NULL,
    expires BIGINT NOT NULL
);

INSERT INTO streams_schema (name, version) VALUES ('streams_egress', 1)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version;
