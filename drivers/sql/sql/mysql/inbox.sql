-- The inbox, for MariaDB and MySQL. Names are bytes, so that nothing is taken
-- for equal that is not. `Inbox::migrate` runs this, with the name you set in place of `streams_inbox`.
-- It may be run again.

CREATE TABLE IF NOT EXISTS streams_schema (
    name VARCHAR(128) NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS streams_inbox (
    group_name VARBINARY(512) NOT NULL,
    message_id VARBINARY(255) NOT NULL,
    claim VARCHAR(32) NULL,                        -- who handles it; NULL once it has been handled
    expires BIGINT NOT NULL,                       -- of the claim or of the memory; ms since 1970
    PRIMARY KEY (group_name, message_id),
    KEY streams_inbox_expires (expires)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

REPLACE INTO streams_schema (name, version) VALUES ('streams_inbox', 1);
