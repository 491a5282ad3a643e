//! The rows of shares, as one process reaches them.

use std::sync::Arc;

use futures::future::BoxFuture;
use tidegate::core::ports::StoreError;
use tidegate::core::shares::{ShareStore, ShareWrite, Written};

use crate::store::SimStore;

impl ShareStore for SimStore {
    fn write_shares<'a>(
        &'a self,
        node: &'a str,
        number: i64,
        writes: &'a [ShareWrite],
    ) -> BoxFuture<'a, Result<Written, StoreError>> {
        let server = self.server();
        let (node, writes): (Arc<str>, _) = (node.into(), writes.to_vec());
        self.call("write_shares", move |world| {
            let now = world.now();
            Ok(world
                .server(server)
                .write_shares(&node, number, &writes, now))
        })
    }

    fn forget_shares<'a>(&'a self, nodes: &'a [Arc<str>]) -> BoxFuture<'a, Result<(), StoreError>> {
        let (server, nodes) = (self.server(), nodes.to_vec());
        self.call("forget_shares", move |world| {
            let now = world.now();
            world.server(server).forget_shares(&nodes, now);
            Ok(())
        })
    }
}
