-- Nodes: every relay process on this database has a row, which it renews with its
-- leases in one statement (its beat). From the rows of all nodes and the leases each
-- node works out by itself, and alike, which pipelines are whose.

CREATE TABLE tide.relay_node (
    -- As in tide.relay_lease.owner. Another process has another name, also when it
    -- takes the place of one that was configured alike: a row is of one incarnation.
    node text PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- How many beats it has had: a node is reckoned with from the second one on.
    beat bigint NOT NULL DEFAULT 1,
    beat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Since when it has not expired: a node that comes back after that (it slept, or
    -- this server's clock was set) must not go on with what others took it to have
    -- given up.
    runs_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Until then it may send; what it holds it has stopped by then.
    expires_at timestamptz NOT NULL,
    -- It gives its pipelines back and takes no more.
    draining boolean NOT NULL DEFAULT false,
    -- The pipelines of others it wants to be given.
    asks text[] NOT NULL DEFAULT '{}',
    -- What it would send to each shard if it could, and which part of the shards'
    -- budgets it goes by.
    demand jsonb NOT NULL DEFAULT '{}'::jsonb,
    shares jsonb NOT NULL DEFAULT '{}'::jsonb,
    CONSTRAINT relay_node_asks_bounded CHECK (cardinality(asks) <= 1000),
    CONSTRAINT relay_node_demand_bounded CHECK (octet_length(demand::text) <= 131072),
    CONSTRAINT relay_node_shares_bounded CHECK (octet_length(shares::text) <= 131072)
) WITH (
    fillfactor = 20,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);
COMMENT ON TABLE tide.relay_node IS 'relay processes, written by each of them; the view tide.relay_nodes shows them with what they hold';

-- Since when the owner has the pipeline. What a node took last it gives away first,
-- so that a node that comes back finds what it had.
ALTER TABLE tide.relay_lease ADD COLUMN taken_at timestamptz;

CREATE VIEW tide.relay_nodes AS
SELECT
    n.node,
    n.started_at,
    CASE WHEN n.expires_at <= clock_timestamp() THEN 'gone' WHEN n.draining THEN 'draining' ELSE 'live' END AS state,
    clock_timestamp() - n.beat_at AS silent_for,
    (SELECT count(*) FROM tide.relay_lease AS l
        WHERE l.owner = n.node AND l.expires_at > clock_timestamp()) AS pipelines,
    cardinality(n.asks) AS asks
FROM tide.relay_node AS n;
COMMENT ON VIEW tide.relay_nodes IS 'relay processes on this database: whether each lives, and how many pipelines it holds';
