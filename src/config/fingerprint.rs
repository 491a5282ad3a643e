//! A hash of a configuration: whether two nodes run the same one.
//!
//! It is shown to whoever may read metrics, so no secret goes into it: a hash of a
//! weak password could be found by trying. Two configurations that differ only in
//! secrets have the same hash. `cluster.node_id` is left out as well: it is what
//! differs among nodes of one configuration.

use std::fmt::Write;

use md5::{Digest, Md5};

use super::environment::Environment;
use super::settings::Settings;

/// Half of an MD5: enough to tell configurations apart.
const BYTES: usize = 8;

impl Settings {
    /// A hash of these settings, secrets and `cluster.node_id` left out: 16
    /// hexadecimal digits. The same settings have the same hash in every process of
    /// one version of this program.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut public = self.clone();
        public.environment = Environment::default();
        public.cluster.node_id = None;
        for pipeline in &mut public.pipelines {
            pipeline.stream.client.external_id = None;
        }
        let mut hash = Md5::new();
        // Secrets are shown as asterisks here.
        hash.update(format!("{public:?}"));
        for database in &self.databases {
            hash.update(without_password(database.url.expose()));
            hash.update([0]);
        }
        let digest = hash.finalize();
        digest
            .iter()
            .take(BYTES)
            .fold(String::new(), |mut text, byte| {
                // Writing to a text cannot fail.
                write!(text, "{byte:02x}").ok();
                text
            })
    }
}

/// A connection URL without its password and its parameters, which may hold one.
fn without_password(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        // Not a URL: it may be anything.
        return String::new();
    };
    let (login, place) = rest.rsplit_once('@').unwrap_or(("", rest));
    let user = login.split(':').next().unwrap_or_default();
    format!("{scheme}://{user}@{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(variables: &[(&str, &str)]) -> String {
        let variables = variables.iter().copied();
        let settings = Settings::load(None, Environment::from_iter(variables));
        settings.expect("settings").fingerprint()
    }

    #[test]
    fn tells_configurations_apart_and_no_secret() {
        let one = [("DATABASE_URL", "postgres://me:hunter2@db:5432/x")];
        let hash = hash_of(&one);
        assert_eq!(hash.len(), 16);
        assert_eq!(hash, hash_of(&one));
        let other_secret = [
            ("DATABASE_URL", "postgres://me:h@nter3@db:5432/x?password=p"),
            ("TIDEGATE__CLUSTER__NODE_ID", "b"),
            ("HOME", "/"),
        ];
        assert_eq!(hash, hash_of(&other_secret));
        let other_host = [("DATABASE_URL", "postgres://me:hunter2@other:5432/x")];
        assert_ne!(hash, hash_of(&other_host));
        let other_limit = [one[0], ("TIDEGATE__LIMITS__MEMORY", "300MiB")];
        assert_ne!(hash, hash_of(&other_limit));
    }
}
