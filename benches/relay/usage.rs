//! What processes have used of the machine, as `/proc` says.

use std::fs;
use std::io;

/// Ticks a second of the times in `/proc/PID/stat`: `USER_HZ`, 100 on every
/// architecture that Linux shows to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processor time of one process so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ProcessorTime {
    /// Its own, in seconds.
    pub(crate) own: f64,
    /// That of its children which have ended, in seconds.
    pub(crate) of_ended_children: f64,
    parent: u32,
}

/// The processor time of a process.
///
/// # Errors
/// There is no such process.
pub(crate) fn processor_time(pid: u32) -> io::Result<ProcessorTime> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat reads {text:?}")))
}

/// The processor time of a process and of all its children, ended ones included, in
/// seconds: a PostgreSQL server's.
///
/// # Errors
/// There is no such process.
pub(crate) fn processor_time_with_children(pid: u32) -> io::Result<f64> {
    let server = processor_time(pid)?;
    let mut seconds = server.own + server.of_ended_children;
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(child) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end while it is looked at.
        if let Ok(time) = processor_time(child)
            && time.parent == pid
        {
            seconds += time.own + time.of_ended_children;
        }
    }
    Ok(seconds)
}

/// The most resident memory a process has had, in MiB.
///
/// # Errors
/// There is no such process.
pub(crate) fn most_resident_mib(pid: u32) -> io::Result<f64> {
    status_mib(pid, "VmHWM:")
}

/// The resident memory of a process, in MiB.
///
/// # Errors
/// There is no such process.
pub(crate) fn resident_mib(pid: u32) -> io::Result<f64> {
    status_mib(pid, "VmRSS:")
}

fn status_mib(pid: u32, field: &str) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = text.lines().find_map(|line| {
        let value = line.strip_prefix(field)?.trim().strip_suffix("kB")?;
        value.trim().parse::<f64>().ok()
    });
    kib.map(|kib| kib / 1024.0)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/status has no {field}")))
}

/// The fields behind the name, which may itself hold blanks and brackets.
fn parse_stat(text: &str) -> Option<ProcessorTime> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(ProcessorTime {
        own: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND,
        of_ended_children: (ticks(13)? + ticks(14)?) / TICKS_PER_SECOND,
        parent: fields.get(1)?.parse().ok()?,
    })
}
