//! What a change of each key does to a running relay: the rules of a reload.

/// What a change of a key does to a running relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// It names something. Another name is another thing: the old one is stopped,
    /// the new one is started.
    Names,
    /// It is changed while everything runs; no row waits for it.
    InPlace,
    /// The pipelines that use it finish what they have sent, and start again with
    /// the new value. Nothing else is touched.
    RestartsPipeline,
    /// The pipelines of the database finish what they have sent, its connections
    /// are closed, and all of it starts again. Other databases are not touched.
    RestartsDatabase,
    /// A running relay cannot take it: a reload that changes it is refused as a
    /// whole, and the process has to be started again.
    NeedsNewProcess,
    /// It has one possible value, or none of its values changes anything.
    NoEffect,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Names,
        Self::InPlace,
        Self::RestartsPipeline,
        Self::RestartsDatabase,
        Self::NeedsNewProcess,
        Self::NoEffect,
    ];

    /// What it is called in `docs/configuration-reload.md`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Names => "starts and stops",
            Self::InPlace => "in place",
            Self::RestartsPipeline => "restarts the pipeline",
            Self::RestartsDatabase => "restarts the database",
            Self::NeedsNewProcess => "refused",
            Self::NoEffect => "no effect",
        }
    }
}

/// Every key of the configuration and its class; `[]` stands for a place in a
/// list. A test compares this with the keys of `configs/tidegate.toml`, another
/// changes each key and compares what [`super::diff`] makes of it, a third
/// compares it with the table in `docs/configuration-reload.md`.
pub const CLASSES: &[(&str, Class)] = &[
    ("databases[].name", Class::Names),
    ("databases[].url", Class::RestartsDatabase),
    ("databases[].max_connections", Class::RestartsDatabase),
    ("databases[].statement_timeout", Class::RestartsDatabase),
    ("databases[].prepared_statements", Class::RestartsDatabase),
    // The port is bound once, before anything else: a relay that could not bind
    // the new one would have to live without.
    ("admin.listen", Class::NeedsNewProcess),
    // Leases are held under the name and for the time.
    ("cluster.node_id", Class::NeedsNewProcess),
    ("cluster.lease", Class::NeedsNewProcess),
    ("cluster.database", Class::NeedsNewProcess),
    ("limits.memory", Class::InPlace),
    ("limits.pipeline_rows", Class::InPlace),
    ("limits.pipeline_bytes", Class::InPlace),
    ("limits.drain_grace", Class::InPlace),
    // What collects the log reads one form for as long as the process lives.
    ("log.format", Class::NeedsNewProcess),
    ("log.filter", Class::InPlace),
    ("probe.min_interval", Class::InPlace),
    ("probe.max_interval", Class::InPlace),
    ("retention.interval", Class::InPlace),
    ("retention.batch_rows", Class::InPlace),
    ("retention.pause", Class::InPlace),
    ("kinesis.endpoint_url", Class::RestartsPipeline),
    ("kinesis.region", Class::RestartsPipeline),
    ("kinesis.operation_timeout", Class::InPlace),
    ("kinesis.connect_timeout", Class::InPlace),
    ("kinesis.shard_refresh", Class::InPlace),
    ("kinesis.shard_budget.records_per_second", Class::InPlace),
    ("kinesis.shard_budget.bytes_per_second", Class::InPlace),
    ("kinesis.shard_budget.fraction", Class::InPlace),
    // A stream is in the settings for what differs; under another name that
    // differs for another stream.
    ("streams[].name", Class::Names),
    ("streams[].endpoint_url", Class::RestartsPipeline),
    ("streams[].shard_budget.records_per_second", Class::InPlace),
    ("streams[].shard_budget.bytes_per_second", Class::InPlace),
    ("streams[].shard_budget.fraction", Class::InPlace),
    ("tenants[].name", Class::Names),
    ("tenants[].weight", Class::InPlace),
    ("tenants[].max_messages_per_second", Class::InPlace),
    ("tenants[].max_bytes_per_second", Class::InPlace),
    ("tenants[].burst", Class::InPlace),
    ("tenants[].max_in_flight_bytes", Class::InPlace),
    ("pipelines[].name", Class::Names),
    // With another outbox it reads other rows under the same name.
    ("pipelines[].outbox", Class::RestartsPipeline),
    ("pipelines[].database", Class::Names),
    ("pipelines[].consumer_group", Class::NoEffect),
    ("pipelines[].sink_type", Class::NoEffect),
    ("pipelines[].stream_name", Class::RestartsPipeline),
    ("pipelines[].stream_arn", Class::RestartsPipeline),
    ("pipelines[].region", Class::RestartsPipeline),
    // A key is sent to the shard that its hash names: rows sent by the old
    // template are settled before any is sent by the new one.
    ("pipelines[].partition_key", Class::RestartsPipeline),
    ("pipelines[].format", Class::RestartsPipeline),
    ("pipelines[].batch_size", Class::InPlace),
    // The tenant is part of keys ({tenant}), of metrics and of fairness.
    ("pipelines[].tenant", Class::RestartsPipeline),
    ("pipelines[].weight", Class::InPlace),
    ("pipelines[].access_key_id", Class::RestartsPipeline),
    ("pipelines[].secret_access_key", Class::RestartsPipeline),
    ("pipelines[].session_token", Class::RestartsPipeline),
    ("pipelines[].role_arn", Class::RestartsPipeline),
    ("pipelines[].external_id", Class::RestartsPipeline),
    ("pipelines[].endpoint_url", Class::RestartsPipeline),
    ("pipelines[].ordering", Class::NoEffect),
    // A flow's rows share records in one way: those of the old one are settled first.
    ("pipelines[].aggregation", Class::RestartsPipeline),
    ("pipelines[].aggregation_max_bytes", Class::RestartsPipeline),
    ("pipelines[].compression", Class::RestartsPipeline),
    // Which keys are held back by a letter, and whether the position may pass one,
    // must not change between two rows of the same key that are both in flight.
    ("pipelines[].on_poison", Class::RestartsPipeline),
    // It makes keys, as the template does.
    ("pipelines[].on_missing", Class::RestartsPipeline),
    ("pipelines[].rate_limit.enabled", Class::InPlace),
    (
        "pipelines[].rate_limit.max_messages_per_second",
        Class::InPlace,
    ),
    ("pipelines[].rate_limit.burst_size", Class::InPlace),
    (
        "pipelines[].rate_limit.max_bytes_per_second",
        Class::InPlace,
    ),
];

/// The class of a key; `None` for a key that there is not, and for a table.
#[must_use]
pub fn class_of(key: &str) -> Option<Class> {
    let known = CLASSES.iter().find(|(known, _)| *known == key);
    known.map(|(_, class)| *class)
}
