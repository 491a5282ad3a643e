//! The de-aggregation library of AWS, in a process of its own.

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use tidegate::demo::consumer::Arrived;

/// A row that the library found in a record.
#[derive(Debug, Deserialize)]
pub(crate) struct Row {
    /// Its key.
    pub(crate) key: String,
    /// Its place in a record of several.
    pub(crate) place: Option<usize>,
    /// Its data.
    pub(crate) body: String,
}

/// The rows of these records, in order.
pub(crate) fn rows_of(records: &[Arrived]) -> Vec<Row> {
    let root = env!("CARGO_MANIFEST_DIR");
    let python = Command::new(format!("{root}/scripts/python-tools"))
        .arg("deaggregator")
        .stderr(Stdio::inherit())
        .output()
        .expect("scripts/python-tools");
    assert!(python.status.success(), "no Python with aws-kinesis-agg");
    let python = String::from_utf8(python.stdout).expect("a path");
    let mut library = Command::new(format!("{root}/{}", python.trim()))
        .arg(format!("{root}/tests/aggregation/deaggregate.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let mut lines = String::new();
    for record in records {
        let line = json!({
            "key": record.partition_key,
            "sequence": record.sequence,
            "data": STANDARD.encode(&record.data),
        });
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    let mut input = library.stdin.take().expect("a pipe");
    let writing = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let answer = library.wait_with_output().expect("an end");
    writing.join().expect("no panic").expect("written");
    assert!(answer.status.success(), "the library failed");
    let text = String::from_utf8(answer.stdout).expect("text");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a row"))
        .collect()
}
