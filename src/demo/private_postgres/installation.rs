//! The server's programs on this machine, and the user who may run them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::{PrivatePostgresError, system};

/// Names the directory of the server binaries to use.
pub const BINARIES_VARIABLE: &str = "TIDEGATE_PG_BIN";

/// Who runs the server in place of root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The directory of the server binaries: what the variable names, else the newest
/// version that Debian's packages have installed.
pub(super) fn find_binaries() -> Result<PathBuf, PrivatePostgresError> {
    let complete = |path: &Path| path.join("initdb").is_file() && path.join("postgres").is_file();
    if let Some(value) = std::env::var_os(BINARIES_VARIABLE) {
        let path = PathBuf::from(value);
        return if complete(&path) {
            Ok(path)
        } else {
            Err(PrivatePostgresError::BadDirectory(path))
        };
    }
    let Ok(entries) = fs::read_dir("/usr/lib/postgresql") else {
        return Err(PrivatePostgresError::NoBinaries);
    };
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for entry in entries.flatten() {
        let version = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let path = entry.path().join("bin");
        if let Some(version) = version
            && complete(&path)
        {
            found.push((version, path));
        }
    }
    found.sort();
    found
        .pop()
        .map(|(_, path)| path)
        .ok_or(PrivatePostgresError::NoBinaries)
}

/// Who is to run the server: nobody special (`None`) unless the caller, who owns
/// the directory it has just made, is root.
pub(super) fn server_user(
    made_by_caller: &Path,
) -> Result<Option<ServerUser>, PrivatePostgresError> {
    let owner = fs::metadata(made_by_caller).map_err(system("look at the temporary directory"))?;
    if owner.uid() != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").map_err(system("read /etc/passwd"))?;
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| find_user(&passwd, name))
        .map(Some)
        .ok_or(PrivatePostgresError::NoUser)
}

fn find_user(passwd: &str, name: &str) -> Option<ServerUser> {
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect())
        .find(|fields: &Vec<&str>| fields.first() == Some(&name))?;
    Some(ServerUser {
        uid: fields.get(2)?.parse().ok()?,
        gid: fields.get(3)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_users_by_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres:x:101:104::/var/lib:/bin/sh\n";
        assert_eq!(
            find_user(passwd, "postgres"),
            Some(ServerUser { uid: 101, gid: 104 })
        );
        assert_eq!(find_user(passwd, "nobody"), None);
    }
}
