//! What a reader has done for it in tasks of their own: reading and rendering
//! rows, writing the position.

use std::sync::Arc;

use crate::actors::clock::Clock;
use crate::core::dead_letter::DeadLetter;
use crate::core::intake::{Ready, Wish};
use crate::core::ports::{Epoch, Fenced, OutboxStore, PageRequest, StoreError, WindowRows};
use crate::core::position::{Position, RowId, Seq, WindowNumber};
use crate::core::render::{Poison, Renderer};
use crate::core::row::OutboxRow;
use crate::core::snapshot::Snapshot;
use crate::core::time::Moment;

/// What the tasks of one reader share.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) store: Arc<dyn OutboxStore>,
    pub(super) renderer: Arc<Renderer>,
    pub(super) pipeline: Arc<str>,
    pub(super) epoch: Epoch,
    pub(super) clock: Clock,
}

/// Rows that were read and rendered, up to the first that cannot be.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) ready: Vec<Ready>,
    pub(super) poison: Option<(Seq, Poison)>,
    /// How many rows were read, and the bytes of the rendered ones.
    pub(super) read: usize,
    pub(super) bytes: usize,
}

/// A window's rows, rendered, or its bounds.
#[derive(Debug)]
pub(super) enum Fetched {
    Whole(Rendered),
    Bounds {
        first: RowId,
        first_fresh: RowId,
        last: RowId,
    },
}

/// What came of a task.
#[derive(Debug)]
pub(super) enum Done {
    /// A fresh window; its rows are rendered under the number it will get.
    Opened {
        snapshot: Snapshot,
        taken_at: Moment,
        fetched: Fetched,
    },
    Reopened {
        window: WindowNumber,
        fetched: Fetched,
    },
    Page {
        window: WindowNumber,
        rows: Rendered,
        is_last: bool,
    },
    Refilled {
        lane: usize,
        asked: Vec<Seq>,
        rows: Rendered,
    },
    Saved(Fenced),
}

impl Work {
    /// Does what the intake wishes to have read. `next_window` is the number a
    /// window opened now will get; rows have not been visible longer than since
    /// `floor`.
    pub(super) async fn read(
        self,
        wish: Wish,
        next_window: WindowNumber,
        floor: Option<Moment>,
    ) -> Result<Option<Done>, StoreError> {
        let outbox = self.renderer.outbox.id;
        let done = match wish {
            Wish::Open { seen, page } => {
                let taken_at = self.clock.now();
                let opened = self.store.open_window(outbox, &seen, clamp(page)).await?;
                let fetched = self.fetched(opened.rows, next_window, floor);
                Done::Opened {
                    snapshot: opened.snapshot,
                    taken_at,
                    fetched,
                }
            }
            Wish::Reopen {
                window,
                from,
                to,
                page,
            } => {
                let rows = self
                    .store
                    .reopen_window(outbox, &from, &to, clamp(page))
                    .await?;
                Done::Reopened {
                    window,
                    fetched: self.fetched(rows, window, None),
                }
            }
            Wish::Page {
                window,
                from,
                to,
                after,
                first_fresh,
                last,
                page,
            } => {
                let request = PageRequest {
                    outbox,
                    from,
                    to,
                    after,
                    first_fresh,
                    last,
                    limit: clamp(page),
                };
                let rows = self.store.read_page(&request).await?;
                let is_last = rows.len() < page;
                let rows = self.render(rows, |_| window, floor);
                Done::Page {
                    window,
                    rows,
                    is_last,
                }
            }
            Wish::Refill { lane, rows: asked } => {
                let ids: Vec<RowId> = asked.iter().map(|seq| seq.id).collect();
                let found = self.store.read_rows(outbox, &ids).await?;
                let window_of = |id| {
                    let seq = asked.iter().find(|seq| seq.id == id);
                    seq.map_or(next_window, |seq| seq.window)
                };
                let rows = self.render(found, window_of, None);
                Done::Refilled { lane, asked, rows }
            }
            Wish::Save | Wish::Wait { .. } => return Ok(None),
        };
        Ok(Some(done))
    }

    /// Writes the position down.
    pub(super) async fn save(
        self,
        position: Position,
        letters: Vec<DeadLetter>,
    ) -> Result<Option<Done>, StoreError> {
        let fenced = self
            .store
            .save_position(&self.pipeline, self.epoch, &position, &letters)
            .await?;
        Ok(Some(Done::Saved(fenced)))
    }

    fn fetched(&self, rows: WindowRows, window: WindowNumber, floor: Option<Moment>) -> Fetched {
        match rows {
            WindowRows::Whole(rows) => Fetched::Whole(self.render(rows, |_| window, floor)),
            WindowRows::Bounds {
                first,
                first_fresh,
                last,
            } => Fetched::Bounds {
                first,
                first_fresh,
                last,
            },
        }
    }

    fn render(
        &self,
        rows: Vec<OutboxRow>,
        window_of: impl Fn(RowId) -> WindowNumber,
        floor: Option<Moment>,
    ) -> Rendered {
        let now = self.clock.now();
        let mut rendered = Rendered {
            ready: Vec::with_capacity(rows.len()),
            poison: None,
            read: rows.len(),
            bytes: 0,
        };
        for row in rows {
            let seq = Seq {
                window: window_of(row.id),
                id: row.id,
            };
            let inserted = Moment::from_origin(now.since_origin().saturating_sub(row.age));
            let visible_since = floor.map_or(inserted, |floor| inserted.max(floor)).min(now);
            match self.renderer.render(row, seq.window) {
                Ok(envelope) => {
                    rendered.bytes += envelope.weight();
                    rendered.ready.push(Ready {
                        envelope,
                        visible_since,
                    });
                }
                Err(poison) => {
                    rendered.poison = Some((seq, poison));
                    break;
                }
            }
        }
        rendered
    }
}

fn clamp(page: usize) -> u32 {
    u32::try_from(page).unwrap_or(u32::MAX)
}
