-- The tables of tidegate. Plain SQL for PostgreSQL 13 and later: no extension,
-- no superuser. Schema "tide" is made by `tidegate migrate` beforehand, since
-- the record of applied migrations lives in it too.

-- Outboxes: what publishers name and pipelines read.
CREATE TABLE tide.outbox (
    outbox_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    -- Event ids are made from this and a row's id, so that an outbox that is
    -- dropped and created again never repeats one.
    uuid uuid NOT NULL DEFAULT gen_random_uuid(),
    enabled boolean NOT NULL DEFAULT true,
    retention_hours int,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT outbox_name_length CHECK (length(name) BETWEEN 1 AND 128),
    CONSTRAINT outbox_retention_hours_positive CHECK (retention_hours > 0)
);

-- The messages of all outboxes.
--
-- No foreign key to tide.outbox: it would lock the outbox's row in every
-- publish. No trigger and no NOTIFY: a publish costs one insert.
--
-- Identity with CACHE 1: rows of a window are delivered in id order, and that is
-- the application's order only if a transaction that begins to insert after
-- another one has committed draws a higher id. With a larger cache a session
-- would hand out old numbers late.
--
-- xact stands before id: defaults are evaluated in column order, so a row's
-- transaction id is assigned before its row id is drawn.
CREATE TABLE tide.outbox_message (
    outbox_id int NOT NULL,
    xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
    dedup_key text,
    payload jsonb NOT NULL,
    headers jsonb NOT NULL DEFAULT '{}'::jsonb,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT outbox_message_headers_object CHECK (jsonb_typeof(headers) = 'object'),
    CONSTRAINT outbox_message_created_at_finite CHECK (isfinite(created_at)),
    PRIMARY KEY (outbox_id, id)
) WITH (
    -- Append-mostly: vacuum by the number of inserts, not by a share of a table
    -- that only grows, so that index-only scans find pages marked all-visible.
    autovacuum_vacuum_insert_threshold = 200000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_threshold = 50000,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_threshold = 50000,
    autovacuum_analyze_scale_factor = 0.05
);

-- Windows are found through this one, large ones paged through the primary key.
CREATE INDEX outbox_message_by_transaction ON tide.outbox_message (outbox_id, xact, id);

-- Every change of a pipeline takes a number from here: count and sum of the
-- versions then tell any two states of the catalog apart.
CREATE SEQUENCE tide.relay_pipeline_version;

-- Pipelines that are defined in the database. (Others are in the relay's file.)
CREATE TABLE tide.relay_pipeline (
    name text PRIMARY KEY,
    outbox text NOT NULL,
    consumer_group text NOT NULL,
    config jsonb NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    version bigint NOT NULL DEFAULT nextval('tide.relay_pipeline_version'),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT relay_pipeline_name_length CHECK (length(name) BETWEEN 1 AND 128)
);

-- Who owns a pipeline. Rows also stand for pipelines of a file, so there is no
-- foreign key. A row is never deleted: its epoch must never be handed out twice.
CREATE TABLE tide.relay_lease (
    pipeline text PRIMARY KEY,
    owner text NOT NULL,
    epoch bigint NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);

-- Where a pipeline stands. A row is never deleted: the numbers of its windows
-- must never be used twice, since consumers drop what is not above the last
-- number they saw. outbox_id NULL: the pipeline begins anew, in any outbox.
--
-- Written many times a second, so no index covers a changing column and pages
-- keep room for the next versions: updates are then heap-only.
CREATE TABLE tide.relay_position (
    pipeline text PRIMARY KEY,
    outbox_id int,
    epoch bigint NOT NULL,
    base pg_snapshot NOT NULL DEFAULT '1:1:',
    last_number bigint NOT NULL DEFAULT 0,
    open_windows jsonb NOT NULL DEFAULT '[]'::jsonb,
    settled_id bigint NOT NULL DEFAULT 0,
    marks jsonb NOT NULL DEFAULT '[]'::jsonb,
    -- In which life of the server it was taken, see tide.relay_server_life.
    server_started timestamptz,
    server_life uuid,
    -- Rises with every write of an owner: a write that was held up on its way
    -- must not undo a later one.
    save_number bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (
    fillfactor = 20,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);

-- One row, made by the first relay after a crash of the server. Unlogged on
-- purpose: recovery from a crash empties it, also when just a backend crashed
-- and the postmaster lives on; it is empty after a promotion too. What a relay
-- knows of transactions does not outlive a crash: ids of transactions whose log
-- was not flushed are handed out again. A clean restart keeps it, and loses none.
CREATE UNLOGGED TABLE tide.relay_server_life (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    life uuid NOT NULL DEFAULT gen_random_uuid()
);

COMMENT ON TABLE tide.relay_server_life IS 'emptied by a crash of the server; written by relays';
COMMENT ON TABLE tide.outbox IS 'outboxes, made by tide.outbox_create()';
COMMENT ON TABLE tide.outbox_message IS 'messages of all outboxes, written by tide.outbox_publish()';
COMMENT ON TABLE tide.relay_pipeline IS 'pipelines, written by tide.relay_set_outbox()';
COMMENT ON TABLE tide.relay_lease IS 'which relay owns a pipeline; written by relays';
COMMENT ON TABLE tide.relay_position IS 'what of an outbox a pipeline has delivered; written by relays';
