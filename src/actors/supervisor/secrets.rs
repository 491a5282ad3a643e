//! Secrets that changed where they are kept.
//!
//! A definition in a database may name its keys by reference (`${file:/path}`,
//! `${env:NAME}`). The references are followed when the definition is read; the
//! definition itself does not change when the file does. So while the service
//! does not accept some credentials, or a definition is not acceptable (a file
//! may be missing), all definitions are read once more from time to time. A new
//! key makes a new stream client; its pipelines move over to it.

use std::time::Duration;

use actix::Context;

use super::Supervisor;

/// How often references are followed again while something waits for it.
const REREAD_EVERY: Duration = Duration::from_secs(5);

impl Supervisor {
    pub(super) fn reread_secrets(&mut self, context: &mut Context<Self>) {
        let now = self.clock.now();
        if now.since(self.reread_at) < REREAD_EVERY {
            return;
        }
        self.reread_at = now;
        let is_refused = self
            .streams
            .values()
            .any(|slot| slot.watch.wants_credentials());
        let is_invalid = self.pipelines.values().any(|slot| slot.invalid.is_some());
        if is_refused || is_invalid {
            self.reconcile(context);
        }
    }
}
