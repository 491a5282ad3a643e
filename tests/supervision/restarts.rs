//! What a relay says of restarts.

use crate::relay::Relay;

/// Restarts of a kind of actor for a cause.
pub(crate) fn restarts(relay: &Relay, actor: &str, cause: &str) -> f64 {
    let labels = [("actor", actor), ("cause", cause)];
    relay.metric("tidegate_actor_restarts_total", &labels)
}

/// Restarts of all actors for all causes.
pub(crate) fn all_restarts(relay: &Relay) -> f64 {
    relay.metric("tidegate_actor_restarts_total", &[])
}

/// How often the log says that the reader of a pipeline was started again.
pub(crate) fn restarts_of_reader(relay: &Relay, pipeline: &str) -> usize {
    let reader = format!("reader of default/{pipeline}");
    let log = relay.log();
    let lines = log.lines().filter(|line| line.contains("started again"));
    lines.filter(|line| line.contains(&reader)).count()
}

/// For what, and for how many seconds, the reader of a pipeline waits.
pub(crate) fn reader_waits(relay: &Relay, pipeline: &str) -> (String, f64) {
    waits(&relay.pipeline(pipeline)["waits"])
}

/// The same for the writer that has waited longest.
pub(crate) fn writer_waits(relay: &Relay) -> (String, f64) {
    let status = relay.status();
    let streams = status["streams"].as_array().expect("streams");
    let shards = streams
        .iter()
        .filter_map(|stream| stream["shards"].as_array())
        .flatten();
    let all = shards.map(|shard| waits(&shard["waits"]));
    all.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default()
}

fn waits(status: &serde_json::Value) -> (String, f64) {
    let what = status["waits_for"].as_str().unwrap_or_default().to_owned();
    (what, status["seconds"].as_f64().unwrap_or_default())
}
