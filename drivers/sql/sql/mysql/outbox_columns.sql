-- What a table of the Go library lacks: a column a line. Run the lines of those your table has not,
-- then `outbox.sql`. `Outbox::migrate` does so.

ALTER TABLE streams_egress ADD COLUMN insert_time TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6);
ALTER TABLE streams_egress ADD COLUMN in_flight BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE streams_egress ADD COLUMN write_retries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE streams_egress ADD COLUMN last_write_error VARCHAR(255) NULL;
ALTER TABLE streams_egress ADD COLUMN sequence BIGINT NOT NULL AUTO_INCREMENT, ADD UNIQUE KEY streams_egress_sequence (sequence);
ALTER TABLE streams_egress ADD COLUMN status SMALLINT NOT NULL DEFAULT 0, ADD KEY streams_egress_ready (status, sequence);
ALTER TABLE streams_egress ADD COLUMN due BIGINT NULL;
ALTER TABLE streams_egress ADD COLUMN forwarded BIGINT NULL;
