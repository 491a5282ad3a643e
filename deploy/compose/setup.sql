-- What the example relays: one outbox, and a pipeline from it to the stream. It may
-- run any number of times.
SELECT tide.outbox_create_if_not_exists('events');

SELECT tide.relay_set_outbox('events-to-kinesis', 'events', 'kinesis-relay',
  '{"sink_type": "kinesis", "stream_name": "pg-tide-events", "partition_key": "{dedup_key}"}'::jsonb);
