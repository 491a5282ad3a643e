-- Dead letters: rows that a pipeline did not deliver and does not hold for
-- either, each with a reason, until a person decides.
--
-- Rules:
-- - a letter is written together with the position that steps over its row, in
--   one transaction under the epoch of the pipeline's owner;
-- - whoever changes states of letters locks the pipeline's row of
--   tide.relay_position first, so relay and person see each other's work;
-- - a row that has a letter, whatever its state, is settled: a relay that reads
--   it again (a restart, a pipeline that was deleted and defined again) skips it;
-- - under on_poison = block_key a letter in state 'parked' blocks its key, and
--   later rows of the key become letters in state 'waiting' behind it. When no
--   letter of the key is 'parked' any more, the waiting ones, and those still to
--   come, are in state 'retry', until the last of them is delivered;
-- - the order of a key's letters is (window_number, row_id), not letter_id.

CREATE TABLE tide.relay_dead_letter (
    letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL,
    outbox_id int NOT NULL,
    row_id bigint NOT NULL,
    -- The window its row was read in: the first half of its seq.
    window_number bigint NOT NULL,
    -- NULL when the row has none that the stream takes.
    partition_key text,
    dedup_key text,
    payload jsonb NOT NULL,
    headers jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    reason text NOT NULL,
    message text NOT NULL,
    first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts int NOT NULL DEFAULT 1,
    state text NOT NULL,
    -- Whether it was written under on_poison = block_key.
    blocks_key boolean NOT NULL DEFAULT false,
    note text,
    CONSTRAINT relay_dead_letter_row UNIQUE (pipeline, outbox_id, row_id),
    CONSTRAINT relay_dead_letter_state CHECK (state IN ('parked', 'waiting', 'retry', 'delivered', 'discarded'))
);

-- Listing, counting, and what is to be sent again.
CREATE INDEX relay_dead_letter_by_state ON tide.relay_dead_letter (pipeline, state, letter_id);

-- The blocked keys of a pipeline, and what waits behind one.
CREATE INDEX relay_dead_letter_blocked
    ON tide.relay_dead_letter (pipeline, outbox_id, partition_key, window_number, row_id)
    WHERE blocks_key AND state IN ('parked', 'waiting', 'retry');

-- Letters to be sent again: asked for once a second by every relay, and read key
-- by key.
CREATE INDEX relay_dead_letter_retry
    ON tide.relay_dead_letter (pipeline, outbox_id, partition_key, window_number, row_id)
    WHERE state = 'retry';

COMMENT ON TABLE tide.relay_dead_letter IS 'rows that pipelines parked instead of delivering; written by relays and tide.relay_dlq_...()';

-- === Lists ===

CREATE FUNCTION tide.relay_dlq_list(
    pipeline text DEFAULT NULL, "limit" int DEFAULT 100, states text[] DEFAULT '{parked,waiting,retry}'
) RETURNS TABLE (
    letter_id bigint, pipeline_name text, outbox text, row_id bigint, partition_key text, dedup_key text, state text,
    reason text, message text, attempts int, created_at timestamptz, first_at timestamptz, last_at timestamptz, note text
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    wrong text;
BEGIN
    IF "limit" IS NULL OR "limit" < 1 THEN
        RAISE EXCEPTION 'limit % is not allowed', coalesce("limit"::text, 'NULL')
            USING ERRCODE = '22023', HINT = 'Give at least 1.';
    END IF;
    SELECT s INTO wrong FROM unnest(states) AS s
    WHERE s IS NULL OR s NOT IN ('parked', 'waiting', 'retry', 'delivered', 'discarded') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'state % is not known', coalesce(quote_literal(wrong), 'NULL')
            USING ERRCODE = '22023', HINT = 'States are parked, waiting, retry, delivered, discarded.';
    END IF;
    -- From index to index: the pipelines, then of each and of each state so many.
    RETURN QUERY
    WITH RECURSIVE named AS (
        SELECT coalesce(relay_dlq_list.pipeline, (SELECT min(d.pipeline) FROM tide.relay_dead_letter AS d)) AS name
        UNION ALL
        SELECT (SELECT min(d.pipeline) FROM tide.relay_dead_letter AS d WHERE d.pipeline > n.name)
        FROM named AS n WHERE n.name IS NOT NULL AND relay_dlq_list.pipeline IS NULL
    )
    SELECT l.letter_id, l.pipeline, o.name, l.row_id, l.partition_key, l.dedup_key, l.state, l.reason, l.message,
        l.attempts, l.created_at, l.first_at, l.last_at, l.note
    FROM (
        SELECT of_state.* FROM named AS n CROSS JOIN unnest(states) AS wanted (state) CROSS JOIN LATERAL (
            SELECT d.* FROM tide.relay_dead_letter AS d
            -- A range and this order are what no other index can give: with rare states
            -- the primary key looks good to the planner, and walks over all closed ones.
            WHERE d.pipeline = n.name AND d.state >= wanted.state AND d.state <= wanted.state
            ORDER BY d.state, d.letter_id LIMIT "limit"
        ) AS of_state
        ORDER BY of_state.letter_id LIMIT "limit"
    ) AS l LEFT JOIN tide.outbox AS o ON o.outbox_id = l.outbox_id
    ORDER BY l.letter_id;
END
$$;
COMMENT ON FUNCTION tide.relay_dlq_list(text, int, text[]) IS
    'lists the dead letters of a pipeline (NULL: of all) that are not closed, oldest first, without their payloads';

-- === Decisions ===

-- Locks a letter behind its pipeline's position; gives it as it then is.
CREATE FUNCTION tide.lock_letter(id bigint) RETURNS tide.relay_dead_letter
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    letter tide.relay_dead_letter;
BEGIN
    SELECT d.* INTO letter FROM tide.relay_dead_letter AS d WHERE d.letter_id = lock_letter.id;
    IF letter.letter_id IS NOT NULL THEN
        PERFORM FROM tide.relay_position AS p WHERE p.pipeline = letter.pipeline FOR UPDATE;
        SELECT d.* INTO letter FROM tide.relay_dead_letter AS d WHERE d.letter_id = lock_letter.id FOR UPDATE;
    END IF;
    IF letter.letter_id IS NULL THEN
        RAISE EXCEPTION 'there is no dead letter %', coalesce(id::text, 'NULL')
            USING ERRCODE = '42704', HINT = 'SELECT letter_id FROM tide.relay_dlq_list() lists them.';
    END IF;
    RETURN letter;
END
$$;

-- What waits behind a key that no letter blocks any more is sent again; gives
-- how many that are.
CREATE FUNCTION tide.release_key(pipeline text, outbox_id int, partition_key text) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released int := 0;
BEGIN
    IF NOT EXISTS (
        SELECT FROM tide.relay_dead_letter AS d
        WHERE d.pipeline = release_key.pipeline AND d.outbox_id = release_key.outbox_id
            AND d.partition_key = release_key.partition_key
            AND d.blocks_key AND d.state IN ('parked', 'waiting', 'retry') AND d.state = 'parked'
    ) THEN
        UPDATE tide.relay_dead_letter AS d SET state = 'retry'
        WHERE d.pipeline = release_key.pipeline AND d.outbox_id = release_key.outbox_id
            AND d.partition_key = release_key.partition_key
            AND d.blocks_key AND d.state IN ('parked', 'waiting', 'retry') AND d.state = 'waiting';
        GET DIAGNOSTICS released = ROW_COUNT;
    END IF;
    RETURN released;
END
$$;

CREATE FUNCTION tide.relay_dlq_retry(id bigint) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    letter tide.relay_dead_letter := tide.lock_letter(id);
    before_it bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM tide.outbox AS o WHERE o.outbox_id = letter.outbox_id) THEN
        RAISE EXCEPTION 'dead letter % is of an outbox that was dropped', id
            USING ERRCODE = '55000', HINT = format('SELECT tide.relay_dlq_discard(%s, ''why'') closes it; its payload stays readable.', id);
    END IF;
    IF letter.state = 'waiting' THEN
        SELECT d.letter_id INTO before_it FROM tide.relay_dead_letter AS d
        WHERE d.pipeline = letter.pipeline AND d.outbox_id = letter.outbox_id
            AND d.partition_key = letter.partition_key
            AND d.blocks_key AND d.state IN ('parked', 'waiting', 'retry') AND d.state = 'parked'
        ORDER BY d.window_number, d.row_id LIMIT 1;
        RAISE EXCEPTION 'dead letter % waits behind letter % of its key', id, before_it
            USING ERRCODE = '55000', HINT = format('Retry or discard letter %s: those behind it then follow in order.', before_it);
    ELSIF letter.state <> 'parked' THEN
        RAISE EXCEPTION 'dead letter % is in state %', id, quote_literal(letter.state)
            USING ERRCODE = '55000', HINT = 'Only a letter in state ''parked'' can be sent again.';
    END IF;
    UPDATE tide.relay_dead_letter AS d SET state = 'retry' WHERE d.letter_id = letter.letter_id;
    IF letter.blocks_key THEN
        RETURN 1 + tide.release_key(letter.pipeline, letter.outbox_id, letter.partition_key);
    END IF;
    RETURN 1;
END
$$;
COMMENT ON FUNCTION tide.relay_dlq_retry(bigint) IS
    'has a parked letter sent again, under block_key with those that wait behind it, in order; gives how many';

CREATE FUNCTION tide.relay_dlq_retry_all(pipeline text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed bigint;
BEGIN
    PERFORM FROM tide.relay_position AS p WHERE p.pipeline = relay_dlq_retry_all.pipeline FOR UPDATE;
    IF NOT FOUND
        AND NOT EXISTS (SELECT FROM tide.relay_pipeline AS r WHERE r.name = relay_dlq_retry_all.pipeline)
        AND NOT EXISTS (SELECT FROM tide.relay_dead_letter AS d WHERE d.pipeline = relay_dlq_retry_all.pipeline) THEN
        RAISE EXCEPTION 'pipeline % does not exist and has no dead letters', coalesce(quote_literal(pipeline), 'NULL')
            USING ERRCODE = '42704', HINT = 'SELECT DISTINCT pipeline FROM tide.relay_dead_letter lists those with letters.';
    END IF;
    -- Letters of an outbox that was dropped stay: nothing can send them.
    UPDATE tide.relay_dead_letter AS d SET state = 'retry'
    WHERE d.pipeline = relay_dlq_retry_all.pipeline AND d.state IN ('parked', 'waiting')
        AND EXISTS (SELECT FROM tide.outbox AS o WHERE o.outbox_id = d.outbox_id);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$;
COMMENT ON FUNCTION tide.relay_dlq_retry_all(text) IS
    'has all parked and waiting letters of a pipeline sent again, in order; gives how many';

CREATE FUNCTION tide.relay_dlq_discard(id bigint, why text) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    letter tide.relay_dead_letter;
BEGIN
    IF coalesce(btrim(why), '') = '' THEN
        RAISE EXCEPTION 'a letter is not discarded without a reason'
            USING ERRCODE = '22023', HINT = 'For example tide.relay_dlq_discard(7, ''test data''): it is kept as the letter''s note.';
    END IF;
    letter := tide.lock_letter(id);
    -- Only an owner that reads the letter's outbox can be sending it.
    IF letter.state = 'retry' AND EXISTS (
        SELECT FROM tide.relay_lease AS l JOIN tide.relay_position AS p ON p.pipeline = l.pipeline
        WHERE l.pipeline = letter.pipeline AND l.expires_at > clock_timestamp() AND p.outbox_id = letter.outbox_id
    ) THEN
        RAISE EXCEPTION 'dead letter % is being sent again', id USING ERRCODE = '55000',
            HINT = 'Wait until it is ''delivered'' or ''parked'' again, or stop its pipeline first.';
    ELSIF letter.state IN ('delivered', 'discarded') THEN
        RAISE EXCEPTION 'dead letter % is in state %', id, quote_literal(letter.state)
            USING ERRCODE = '55000', HINT = 'It is closed already.';
    END IF;
    UPDATE tide.relay_dead_letter AS d SET state = 'discarded', note = why WHERE d.letter_id = letter.letter_id;
    IF letter.blocks_key AND letter.state = 'parked' THEN
        RETURN tide.release_key(letter.pipeline, letter.outbox_id, letter.partition_key);
    END IF;
    RETURN 0;
END
$$;
COMMENT ON FUNCTION tide.relay_dlq_discard(bigint, text) IS
    'closes a letter undelivered and notes why; gives how many letters that waited behind it are now sent';

-- === Configuration ===

CREATE FUNCTION tide.check_on_missing(on_missing jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    expected CONSTANT text := '"park", or a text to take in its place such as {"default": "unknown"}: 1 to 256 characters';
    item record;
BEGIN
    IF on_missing = '"park"' THEN
        RETURN;
    ELSIF jsonb_typeof(on_missing) <> 'object' THEN
        PERFORM tide.refuse_value('on_missing', left(on_missing::text, 100), expected);
    END IF;
    FOR item IN SELECT e.key, e.value FROM jsonb_each(on_missing) AS e LOOP
        IF item.key <> 'default' THEN
            RAISE EXCEPTION 'config key "on_missing.%" is not known', item.key
                USING ERRCODE = '22023', HINT = 'The key of on_missing is default.';
        ELSIF jsonb_typeof(item.value) <> 'string' OR length(item.value #>> '{}') NOT BETWEEN 1 AND 256 THEN
            PERFORM tide.refuse_value('on_missing.default', left(item.value::text, 100), 'a text of 1 to 256 characters');
        END IF;
    END LOOP;
    IF NOT on_missing ? 'default' THEN
        PERFORM tide.refuse_value('on_missing', left(on_missing::text, 100), expected);
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION tide.check_config(config jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    item record;
BEGIN
    IF config IS NULL OR jsonb_typeof(config) <> 'object' THEN
        RAISE EXCEPTION 'config must be a JSON object, not %',
            coalesce('a JSON ' || jsonb_typeof(config), 'NULL')
            USING ERRCODE = '22023', HINT = 'For example {"sink_type": "kinesis", "stream_name": "events"}.';
    END IF;
    FOR item IN SELECT e.key, e.value FROM jsonb_each(config) AS e LOOP
        CASE item.key
            WHEN 'sink_type' THEN
                PERFORM tide.check_choice(item.key, item.value, '{kinesis}', '"kinesis"');
            WHEN 'stream_name' THEN
                PERFORM tide.check_pattern(item.key, item.value, '^[a-zA-Z0-9_.-]{1,128}$',
                    'a stream''s name: 1 to 128 of the characters a-z A-Z 0-9 _ . -');
            WHEN 'stream_arn' THEN
                PERFORM tide.check_pattern(item.key, item.value, '^arn:[^:]+:kinesis:[^:]+:[0-9]{12}:stream/[a-zA-Z0-9_.-]{1,128}$',
                    'an ARN such as arn:aws:kinesis:us-east-1:123456789012:stream/events');
            WHEN 'role_arn' THEN
                PERFORM tide.check_pattern(item.key, item.value, '^arn:[^:]+:iam::[0-9]{12}:role/.+$',
                    'an ARN such as arn:aws:iam::123456789012:role/relay');
            WHEN 'region' THEN
                PERFORM tide.check_pattern(item.key, item.value, '^[a-z0-9-]{1,63}$', 'a region such as us-east-1');
            WHEN 'partition_key' THEN
                IF jsonb_typeof(item.value) <> 'string' OR item.value = '""' THEN
                    PERFORM tide.refuse_value(item.key, left(item.value::text, 100),
                        'a template such as {dedup_key}');
                END IF;
                PERFORM tide.check_template(item.value #>> '{}');
            WHEN 'external_id' THEN
                -- It is sent to whoever owns the role, so it must not be able to
                -- name one of the relay's own secrets.
                IF jsonb_typeof(item.value) <> 'string' OR item.value = '""' OR item.value::text LIKE '%${%' THEN
                    PERFORM tide.refuse_value(item.key, 'a JSON ' || jsonb_typeof(item.value),
                        'a string that is not empty; ${env:NAME} and ${file:/path} work only in the relay''s file');
                END IF;
            WHEN 'access_key_id', 'secret_access_key', 'session_token' THEN
                -- Never shown, not even when it is wrong.
                IF jsonb_typeof(item.value) <> 'string' OR item.value = '""' THEN
                    PERFORM tide.refuse_value(item.key,
                        CASE WHEN item.value = '""' THEN 'an empty string' ELSE 'a JSON ' || jsonb_typeof(item.value) END,
                        'a string that is not empty, ${env:NAME} or ${file:/path}');
                END IF;
            WHEN 'tenant' THEN
                PERFORM tide.check_pattern(item.key, item.value, '^[^[:cntrl:]]{1,128}$',
                    'a name of 1 to 128 characters, none of them a control character');
            WHEN 'batch_size' THEN
                PERFORM tide.check_integer(item.key, item.value, 1, 500, 'an integer from 1 to 500');
            WHEN 'weight' THEN
                PERFORM tide.check_integer(item.key, item.value, 1, 1000, 'an integer from 1 to 1000');
            WHEN 'rate_limit' THEN
                PERFORM tide.check_rate_limit(item.value);
            WHEN 'format' THEN
                PERFORM tide.check_choice(item.key, item.value, '{native,payload,cloudevents}',
                    '"native", "payload" or "cloudevents"');
            WHEN 'ordering' THEN
                PERFORM tide.check_choice(item.key, item.value, '{key}', '"key"; this version supports no other');
            WHEN 'on_poison' THEN
                PERFORM tide.check_choice(item.key, item.value, '{park,block_key,halt}',
                    '"park", "block_key" or "halt"');
            WHEN 'on_missing' THEN
                PERFORM tide.check_on_missing(item.value);
            WHEN 'aggregation' THEN
                PERFORM tide.check_choice(item.key, item.value, '{none}', '"none"; this version supports no other');
            WHEN 'compression' THEN
                PERFORM tide.check_choice(item.key, item.value, '{none}', '"none"; this version supports no other');
            WHEN 'endpoint_url' THEN
                RAISE EXCEPTION 'config key "endpoint_url" is not allowed here' USING ERRCODE = '22023',
                    DETAIL = 'Whoever may write a pipeline could send the relay''s credentials elsewhere with it.',
                    HINT = 'The operator sets the endpoint in the relay''s file or with AWS_ENDPOINT_URL.';
            ELSE
                RAISE EXCEPTION 'config key "%" is not known', item.key USING ERRCODE = '22023',
                    HINT = 'Keys are sink_type, stream_name, stream_arn, region, partition_key, access_key_id, '
                        'secret_access_key, session_token, role_arn, external_id, batch_size, rate_limit, ordering, '
                        'aggregation, format, compression, on_poison, on_missing, tenant, weight.';
        END CASE;
    END LOOP;
    IF NOT config ? 'sink_type' THEN
        RAISE EXCEPTION 'config key "sink_type" is missing' USING ERRCODE = '22023', HINT = 'Expected "kinesis".';
    END IF;
    IF NOT config ? 'stream_name' AND NOT config ? 'stream_arn' THEN
        RAISE EXCEPTION 'config key "stream_name" is missing' USING ERRCODE = '22023',
            HINT = 'Give the stream''s name, or its ARN as "stream_arn".';
    END IF;
    IF (config ? 'access_key_id') <> (config ? 'secret_access_key') THEN
        RAISE EXCEPTION 'config key "%" is missing',
            CASE WHEN config ? 'access_key_id' THEN 'secret_access_key' ELSE 'access_key_id' END
            USING ERRCODE = '22023',
                  HINT = 'access_key_id and secret_access_key go together; without both the AWS default chain applies.';
    END IF;
    IF config ? 'session_token' AND NOT config ? 'access_key_id' THEN
        RAISE EXCEPTION 'config key "session_token" needs access_key_id and secret_access_key' USING ERRCODE = '22023',
            HINT = 'Give all three, or none: the AWS default chain then applies.';
    END IF;
    IF config ? 'stream_arn' AND config ? 'stream_name'
        AND split_part(config ->> 'stream_arn', '/', 2) <> config ->> 'stream_name' THEN
        PERFORM tide.refuse_value('stream_name', config ->> 'stream_name', 'the name of the stream in stream_arn');
    END IF;
    IF config ? 'stream_arn' AND config ? 'region'
        AND split_part(config ->> 'stream_arn', ':', 4) <> config ->> 'region' THEN
        PERFORM tide.refuse_value('region', config ->> 'region', 'the region in stream_arn');
    END IF;
    IF config ? 'external_id' AND NOT config ? 'role_arn' THEN
        RAISE EXCEPTION 'config key "external_id" needs role_arn' USING ERRCODE = '22023',
            HINT = 'The external id is sent when the role is assumed.';
    END IF;
END
$$;

-- Makes a pipeline begin anew under numbers it has not used, and fences off the
-- relay that runs it.
CREATE OR REPLACE FUNCTION tide.forget_position(pipeline text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    next_epoch bigint;
BEGIN
    -- Lease first, then position: the order in which relays lock them.
    PERFORM FROM tide.relay_lease AS l WHERE l.pipeline = forget_position.pipeline FOR UPDATE;
    PERFORM FROM tide.relay_position AS p WHERE p.pipeline = forget_position.pipeline FOR UPDATE;
    SELECT 1 + greatest(
        (SELECT l.epoch FROM tide.relay_lease AS l WHERE l.pipeline = forget_position.pipeline),
        (SELECT p.epoch FROM tide.relay_position AS p WHERE p.pipeline = forget_position.pipeline)
    ) INTO next_epoch;
    UPDATE tide.relay_lease AS l
    SET owner = '', epoch = next_epoch, expires_at = '-infinity'
    WHERE l.pipeline = forget_position.pipeline;
    UPDATE tide.relay_position AS p
    SET outbox_id = NULL, epoch = next_epoch, base = '1:1:', open_windows = '[]', settled_id = 0, marks = '[]',
        updated_at = clock_timestamp(),
        last_number = greatest(p.last_number, (
            SELECT max((w.value ->> 'number')::bigint) FROM jsonb_array_elements(p.open_windows) AS w))
    WHERE p.pipeline = forget_position.pipeline;
    -- What was to be sent again was of the position that is forgotten.
    UPDATE tide.relay_replay AS q SET state = 'cancelled', finished_at = clock_timestamp(), updated_at = clock_timestamp()
    WHERE q.pipeline = forget_position.pipeline AND q.state IN ('queued', 'running');
    -- Letters that wait for a decision stay, and their rows are not delivered by
    -- the way; what is closed is history, and would keep rows from a pipeline that
    -- begins anew.
    DELETE FROM tide.relay_dead_letter AS d
    WHERE d.pipeline = forget_position.pipeline AND d.state IN ('delivered', 'discarded');
END
$$;
