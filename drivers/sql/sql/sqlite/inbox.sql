-- The inbox. `Inbox::migrate` runs this, with the name you set in place of `streams_inbox`.
-- It may be run again.

CREATE TABLE IF NOT EXISTS streams_schema (
    name VARCHAR(128) NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS streams_inbox (
    group_name VARCHAR(512) NOT NULL,
    message_id VARCHAR(255) NOT NULL,
    claim VARCHAR(32) NULL,                        -- who handles it; NULL once it has been handled
    expires BIGINT NOT NULL,                       -- of the claim or of the memory; ms since 1970
    PRIMARY KEY (group_name, message_id)
);

CREATE INDEX IF NOT EXISTS streams_inbox_expires ON streams_inbox (expires);

INSERT INTO streams_schema (name, version) VALUES ('streams_inbox', 1)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version;
