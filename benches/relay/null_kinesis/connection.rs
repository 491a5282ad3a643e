//! As much of HTTP/1.1 as the SDK speaks: requests with a length, one after another.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::put::{Answer, Sink};
use crate::Failure;

/// What is read at once.
const CHUNK: usize = 256 * 1024;

/// What is before the name of an action in the header `x-amz-target`.
const TARGET_PREFIX: &str = "Kinesis_20131202.";

/// The head of a request.
struct Head {
    /// How long it is, blank line included.
    bytes: usize,
    path: String,
    action: String,
    content_length: usize,
}

/// Answers requests until the other side closes the connection.
pub(super) async fn serve(mut stream: TcpStream, sink: &Sink) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK);
    loop {
        let Some(head) = read_head(&mut stream, &mut buffer).await? else {
            return Ok(());
        };
        let end = head.bytes + head.content_length;
        while buffer.len() < end {
            buffer.reserve(end - buffer.len());
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let answer = match control(&head.path, sink) {
            Some(answer) => answer,
            None => sink.answer(&head.action, &buffer[head.bytes..end]).await,
        };
        buffer.drain(..end);
        let reason = if answer.status == 200 {
            "OK"
        } else {
            "Bad Request"
        };
        let mut response = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: application/x-amz-json-1.1\r\n\
             x-amzn-requestid: 0\r\ncontent-length: {}\r\n\r\n",
            answer.status,
            answer.body.len()
        );
        response.push_str(&answer.body);
        stream.write_all(response.as_bytes()).await?;
    }
}

/// What the benchmark asks.
fn control(path: &str, sink: &Sink) -> Option<Answer> {
    match path {
        "/records" => Some(Answer::ok(sink.tally().records.to_string())),
        "/counts" => {
            let counts = serde_json::to_string(&sink.tally().counts());
            Some(Answer::ok(counts.unwrap_or_default()))
        }
        "/reset" => {
            *sink.tally() = super::tally::Tally::default();
            Some(Answer::ok(String::new()))
        }
        _ => None,
    }
}

async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Head>> {
    let mut looked_at = 0;
    loop {
        let end = buffer[looked_at..]
            .windows(4)
            .position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let bytes = looked_at + end + 4;
            return Ok(Some(parse_head(&buffer[..bytes])));
        }
        looked_at = buffer.len().saturating_sub(3);
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

fn parse_head(head: &[u8]) -> Head {
    let text = String::from_utf8_lossy(head);
    let header = |name: &str| {
        text.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let target = header("x-amz-target").unwrap_or_default();
    Head {
        bytes: head.len(),
        path: text.split(' ').nth(1).unwrap_or_default().to_owned(),
        action: target.trim_start_matches(TARGET_PREFIX).to_owned(),
        content_length: header("content-length")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0),
    }
}

/// Asks a null Kinesis something, and gives the body of its answer.
pub(super) async fn get(port: u16, path: &str) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut buffer = Vec::new();
    let Some(head) = read_head(&mut stream, &mut buffer).await? else {
        return Err("the null Kinesis does not answer".into());
    };
    let end = head.bytes + head.content_length;
    while buffer.len() < end {
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err("the null Kinesis stopped in its answer".into());
        }
    }
    Ok(String::from_utf8_lossy(&buffer[head.bytes..end]).into_owned())
}
