-- Ten events a second, of a hundred orders, each in a transaction of its own as an
-- application would do it. psql repeats it until it is stopped.
\set QUIET on
\pset tuples_only on
SELECT tide.outbox_publish('events',
  jsonb_build_object('order', entity, 'status', 'paid', 'at', clock_timestamp()),
  '{"type": "order.paid"}', 'order-' || entity)
FROM (SELECT (random() * 99)::int AS entity) AS chance
\watch 0.1
