//! `tidegate shards`: the shards of a relay's streams, how full they are, and on demand
//! which keys fill them.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::admin_port::{Relay, json_of};
use super::table::{Side, bytes, grouped, lines};
use super::watching::Watching;
use super::{Failure, Output};

/// The cells of a bar.
const BAR: usize = 10;

/// What is to be shown.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only the streams of this name, or the one with this key: REGION/ACCOUNT/NAME as
    /// far as its definition says them
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// The hottest keys of each shard, so many (1 to 20). Partition keys may be secrets
    /// of the application: they are asked for, and printed, with this alone
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "5",
        value_parser = clap::value_parser!(u8).range(1..=20))]
    keys: Option<u8>,
    #[command(flatten)]
    relay: Relay,
    #[command(flatten)]
    watching: Watching,
}

pub(super) fn run(
    file: Option<&Path>,
    arguments: &Arguments,
    output: Output,
) -> Result<ExitCode, Failure> {
    let address = arguments.relay.address(file)?;
    let path = match arguments.keys {
        Some(keys) => format!("/api/shards?keys={keys}"),
        None => "/api/shards".to_owned(),
    };
    arguments.watching.show(output, || {
        let mut answer = json_of(&address, &path)?;
        if let Some(wanted) = &arguments.stream {
            keep(&mut answer, wanted)?;
        }
        Ok((text(&answer), answer))
    })
}

/// The name of a stream; where `all` has another of that name, its key, which says region
/// and account too.
pub(super) fn title<'a>(stream: &'a Value, all: &[Value]) -> &'a str {
    let of_that_name = all.iter().filter(|other| other["name"] == stream["name"]);
    let field = if of_that_name.count() > 1 {
        "key"
    } else {
        "name"
    };
    stream[field].as_str().unwrap_or_default()
}

/// Leaves the wanted streams in the answer.
fn keep(answer: &mut Value, wanted: &str) -> Result<(), Failure> {
    let Some(streams) = answer["streams"].as_array_mut() else {
        return Ok(());
    };
    let titles = streams.iter().map(|stream| title(stream, streams));
    let names: Vec<String> = titles.map(str::to_owned).collect();
    streams.retain(|stream| stream["name"] == wanted || stream["key"] == wanted);
    if streams.is_empty() {
        return Err(Failure::Failed(format!(
            "the relay writes to no stream {wanted:?}; it writes to: {}",
            names.join(", ")
        )));
    }
    Ok(())
}

fn text(answer: &Value) -> String {
    const COLUMNS: [(&str, Side); 8] = [
        ("SHARD", Side::Left),
        ("KEYS", Side::Right),
        ("USED", Side::Left),
        ("RECORDS", Side::Right),
        ("BYTES", Side::Right),
        ("BUDGET", Side::Right),
        ("QUEUED", Side::Right),
        ("", Side::Left),
    ];
    let mut text = Vec::new();
    let streams = answer["streams"].as_array().map_or(&[][..], Vec::as_slice);
    for stream in streams {
        let name = title(stream, streams);
        let status = stream["status"].as_str().unwrap_or_default();
        let shards = stream["shards"].as_array().map_or(&[][..], Vec::as_slice);
        if !text.is_empty() {
            text.push(String::new());
        }
        text.push(format!(
            "stream {name}: {status}, {} open shard(s)",
            shards.len()
        ));
        if let Some(problem) = stream["problem"].as_str() {
            text.push(format!("  {problem}"));
        }
        let rows: Vec<Vec<String>> = shards.iter().map(row).collect();
        for (place, line) in lines(&COLUMNS, &rows).into_iter().enumerate() {
            text.push(format!("  {line}"));
            let shard = place.checked_sub(1).and_then(|place| shards.get(place));
            text.extend(shard.into_iter().flat_map(key_lines));
        }
    }
    if text.is_empty() {
        text.push("the relay writes to no stream".to_owned());
    }
    text.join("\n")
}

fn row(shard: &Value) -> Vec<String> {
    let part = |key: &str| shard[key].as_f64().unwrap_or(0.0);
    let count = |key: &str| shard[key].as_u64().unwrap_or(0);
    let (records, used_bytes) = (part("records_utilisation"), part("bytes_utilisation"));
    let queued = match count("queued_rows") {
        0 => "0".to_owned(),
        rows => format!("{} rows, {}", grouped(rows), bytes(count("queued_bytes"))),
    };
    vec![
        shard["id"].as_str().unwrap_or_default().to_owned(),
        shard["hash_range"]["part"]
            .as_f64()
            .map_or_else(String::new, percent),
        bar(records.max(used_bytes)),
        percent(records),
        percent(used_bytes),
        percent(part("budget_factor")),
        queued,
        shard["problem"].as_str().unwrap_or_default().to_owned(),
    ]
}

/// The hottest keys, indented below their shard. Control characters of a key must not
/// reach the terminal.
fn key_lines(shard: &Value) -> Vec<String> {
    let Some(keys) = shard["hot_keys"].as_array() else {
        return Vec::new();
    };
    if keys.is_empty() {
        return vec!["      no key has a hundredth of it".to_owned()];
    }
    let line = |key: &Value| {
        let part = |name: &str| percent(key[name].as_f64().unwrap_or(0.0));
        let name = key["key"].as_str().unwrap_or_default();
        let (least, most) = (part("share_at_least"), part("share"));
        let share = if least == most {
            most
        } else {
            format!("{least} to {most}")
        };
        format!("      {name:?}: {share} of what it took in the last minutes")
    };
    keys.iter().map(line).collect()
}

fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// A bar of ten cells, full at 1.
fn bar(part: f64) -> String {
    let cells = part.clamp(0.0, 1.0) * 10.0;
    let is_full = |place: usize| {
        let places = u8::try_from(place).unwrap_or(u8::MAX);
        f64::from(places) + 0.5 <= cells
    };
    let cell = |place| if is_full(place) { '#' } else { '.' };
    (0..BAR).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_shard_has_a_line_and_its_keys_theirs() {
        let answer = json!({"streams": [{
            "name": "s", "status": "ACTIVE", "problem": null,
            "shards": [{
                "id": "shardId-0", "records_utilisation": 0.96, "bytes_utilisation": 0.5, "budget_factor": 1.0,
                "queued_rows": 1200, "queued_bytes": 2048, "problem": null,
                "hash_range": {"first": "0", "last": "1", "part": 0.25},
                "hot_keys": [
                    {"key": "a\u{1b}", "share": 0.42, "share_at_least": 0.4},
                    {"key": "b", "share": 0.1, "share_at_least": 0.1}
                ]
            }]
        }]});
        let expected = "\
stream s: ACTIVE, 1 open shard(s)
  SHARD      KEYS  USED        RECORDS  BYTES  BUDGET               QUEUED
  shardId-0  25 %  ##########     96 %   50 %   100 %  1,200 rows, 2.0 KiB
      \"a\\u{1b}\": 40 % to 42 % of what it took in the last minutes
      \"b\": 10 % of what it took in the last minutes";
        assert_eq!(text(&answer), expected);
    }

    #[test]
    fn streams_of_one_name_are_told_apart_and_chosen() {
        let stream = |key: &str| json!({"name": "s", "key": key, "status": "ACTIVE"});
        let answer = json!({"streams": [stream("eu-west-1/s"), stream("us-east-1/s")]});
        let heads = |answer: &Value| {
            let text = text(answer);
            let heads = text.lines().filter(|line| line.starts_with("stream "));
            heads.map(str::to_owned).collect::<Vec<String>>()
        };
        assert_eq!(
            heads(&answer),
            [
                "stream eu-west-1/s: ACTIVE, 0 open shard(s)",
                "stream us-east-1/s: ACTIVE, 0 open shard(s)"
            ]
        );
        let kept = |wanted: &str| {
            let mut answer = answer.clone();
            keep(&mut answer, wanted).map(|()| heads(&answer))
        };
        assert_eq!(kept("s").expect("both").len(), 2);
        let one = kept("us-east-1/s").expect("one");
        assert_eq!(one, ["stream s: ACTIVE, 0 open shard(s)"]);
        let Err(Failure::Failed(reason)) = kept("t") else {
            panic!("there is no stream t");
        };
        assert!(reason.ends_with("eu-west-1/s, us-east-1/s"), "{reason}");
    }

    #[test]
    fn bars_round_to_the_nearest_cell() {
        let bars = [0.0, 0.04, 0.05, 0.5, 0.96, 7.0].map(bar);
        let expected = [
            "..........",
            "..........",
            "#.........",
            "#####.....",
            "##########",
            "##########",
        ];
        assert_eq!(bars, expected);
    }
}
