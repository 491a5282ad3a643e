//! From a row to its envelope, where that may take long.

use std::sync::Arc;

use super::work::Work;
use crate::actors::heavy;
use crate::core::compression::Compression;
use crate::core::position::WindowNumber;
use crate::core::render::Poison;
use crate::core::row::{Envelope, OutboxRow};

impl Work {
    pub(super) async fn envelope(
        &self,
        row: OutboxRow,
        window: WindowNumber,
    ) -> Result<Envelope, Poison> {
        match self.renderer.compression {
            Compression::None => self.renderer.render(row, window),
            Compression::Gzip | Compression::Zstd => {
                let renderer = Arc::clone(&self.renderer);
                let bytes = row.payload.len();
                heavy::compress(bytes, move || renderer.render(row, window)).await
            }
        }
    }
}
