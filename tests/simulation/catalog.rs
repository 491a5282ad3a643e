//! The pipelines, as the database defines them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use tidegate::core::ports::{Catalog, CatalogContent, PipelineRow, StoreError, TenantRow};

use crate::store::{Server, call};
use crate::world::{Process, Shared, World};

/// The pipelines, as one process reads them.
pub(crate) struct SimCatalog {
    pub(crate) world: Shared,
    pub(crate) process: Process,
    pub(crate) seen: Arc<AtomicU64>,
}

impl Catalog for SimCatalog {
    fn read(&self) -> BoxFuture<'_, Result<Option<CatalogContent>, StoreError>> {
        let seen = self.seen.load(Ordering::Relaxed);
        Box::pin(async move {
            let (world, process) = (self.world.clone(), self.process.clone());
            let (generation, rows) =
                call(world, process, Server::Outboxes, "catalog", move |world| {
                    let is_news = seen != world.catalog_generation;
                    Ok((
                        world.catalog_generation,
                        is_news.then(|| CatalogContent {
                            pipelines: definitions(world),
                            tenants: tenants(world),
                            ..CatalogContent::default()
                        }),
                    ))
                })
                .await?;
            self.seen.store(generation, Ordering::Relaxed);
            Ok(rows)
        })
    }
}

/// A tenant of weight 1 without a rate need not be defined.
fn tenants(world: &World) -> Vec<TenantRow> {
    let rate = world.plan.rate;
    let weights = world.plan.weights.iter().enumerate();
    let defined = weights.filter(|(_, weight)| **weight > 1 || rate.is_some());
    let define = |(place, weight): (usize, &u32)| {
        let mut config = serde_json::json!({ "weight": weight });
        if let Some(rate) = rate {
            config["max_messages_per_second"] = serde_json::json!(rate);
            config["burst"] = serde_json::json!(1);
        }
        TenantRow {
            name: format!("t{place}"),
            config: Ok(config),
            version: 1,
        }
    };
    defined.map(define).collect()
}

fn definitions(world: &World) -> Vec<PipelineRow> {
    let routes = world.ledger.routes.iter().enumerate();
    let define = |(place, route): (usize, &crate::ledger::Route)| {
        let name = format!("p{place}");
        let version = world.database.versions[&name];
        let outbox = world
            .database
            .outboxes
            .iter()
            .find(|outbox| outbox.id == route.outbox);
        // Something harmless changes with each version.
        let batch_size = (i64::from(world.plan.batch_size) + version - 1).min(500);
        let mut config = serde_json::json!({
            "sink_type": "kinesis",
            "stream_name": &*world.streams[route.stream].name,
            "region": "us-east-1",
            "partition_key": "{dedup_key}",
            "batch_size": batch_size,
            "tenant": format!("t{}", place % world.plan.weights.len()),
            "on_poison": route.on_poison.name(),
        });
        let packed = world.plan.packed.config();
        if let (Some(config), Some(packed)) = (config.as_object_mut(), packed.as_object()) {
            config.extend(packed.clone());
        }
        PipelineRow {
            outbox: outbox.expect("a route's outbox").name.to_string(),
            consumer_group: "simulation".to_owned(),
            config: Ok(config),
            enabled: true,
            version,
            name,
        }
    };
    routes.map(define).collect()
}

/// Of a database that defines none.
pub(crate) struct EmptyCatalog;

impl Catalog for EmptyCatalog {
    fn read(&self) -> BoxFuture<'_, Result<Option<CatalogContent>, StoreError>> {
        Box::pin(async { Ok(Some(CatalogContent::default())) })
    }
}
