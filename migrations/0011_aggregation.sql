-- Pipelines whose rows share records, and compression: the values of aggregation and
-- compression that a relay of this version knows, and aggregation_max_bytes.

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
                PERFORM tide.check_choice(item.key, item.value, '{none,kpl,ndjson}', '"none", "kpl" or "ndjson"');
            WHEN 'aggregation_max_bytes' THEN
                PERFORM tide.check_integer(item.key, item.value, 1000, 1048576, 'an integer from 1000 to 1048576');
            WHEN 'compression' THEN
                PERFORM tide.check_choice(item.key, item.value, '{none,gzip,zstd}', '"none", "gzip" or "zstd"');
            WHEN 'endpoint_url' THEN
                RAISE EXCEPTION 'config key "endpoint_url" is not allowed here' USING ERRCODE = '22023',
                    DETAIL = 'Whoever may write a pipeline could send the relay''s credentials elsewhere with it.',
                    HINT = 'The operator sets the endpoint in the relay''s file or with AWS_ENDPOINT_URL.';
            ELSE
                RAISE EXCEPTION 'config key "%" is not known', item.key USING ERRCODE = '22023',
                    HINT = 'Keys are sink_type, stream_name, stream_arn, region, partition_key, access_key_id, '
                        'secret_access_key, session_token, role_arn, external_id, batch_size, rate_limit, ordering, '
                        'aggregation, aggregation_max_bytes, format, compression, on_poison, on_missing, tenant, weight.';
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
    IF config ? 'aggregation_max_bytes' AND NOT config ? 'aggregation' THEN
        RAISE EXCEPTION 'config key "aggregation_max_bytes" needs aggregation' USING ERRCODE = '22023',
            HINT = 'It is the size of aggregated records: give "aggregation": "kpl" or "ndjson" beside it.';
    END IF;
    IF config ? 'external_id' AND NOT config ? 'role_arn' THEN
        RAISE EXCEPTION 'config key "external_id" needs role_arn' USING ERRCODE = '22023',
            HINT = 'The external id is sent when the role is assumed.';
    END IF;
END
$$;
