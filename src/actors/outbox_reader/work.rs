//! What a reader has done for it in tasks of their own: reading and rendering
//! rows, writing the position.

use std::collections::HashSet;
use std::sync::Arc;

use super::resend::Again;
use crate::actors::clock::Clock;
use crate::actors::reservation::NeedsRoom;
use crate::core::dead_letter::{DeadLetter, OnPoison};
use crate::core::intake::{Ready, StashOf, Wish};
use crate::core::page::{Cut, LargeRow, ReadBound, RowPage};
use crate::core::ports::{
    Epoch, Fenced, Letters, OutboxStore, PageRequest, StoreError, WindowRows,
};
use crate::core::position::{Position, RowId, Seq, WindowNumber};
use crate::core::render::{Poison, Renderer};
use crate::core::resend::{ReplayProgress, ReplayRequest, ReplayWrite};
use crate::core::skeleton::skeleton;
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
    /// Which server was behind the store when the reader began, see
    /// [`crate::core::ports::ServerInfo::generation`].
    pub(super) server: Option<u64>,
    pub(super) on_poison: OnPoison,
    /// No row above this id had a letter when the reader began.
    pub(super) highest_lettered: RowId,
}

/// A row that was read.
#[derive(Debug)]
pub(super) enum Item {
    /// It can be sent.
    Ready(Ready),
    /// It can not.
    Poison(Seq, Poison, usize),
    /// It has a letter: an earlier incarnation parked it.
    Lettered(Seq),
}

impl Item {
    /// Which row it is.
    pub(super) const fn row(&self) -> RowId {
        match self {
            Self::Ready(ready) => ready.envelope.seq.id,
            Self::Poison(seq, _, _) | Self::Lettered(seq) => seq.id,
        }
    }
}

/// Where a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With the last row that was asked for, or there was.
    All,
    /// Behind this row: what follows has not been looked at.
    Behind(RowId),
    /// Before this row, which comes with the next read.
    Before(RowId),
    /// Before a row that needs more room.
    BeforeLarge(NeedsRoom),
}

impl End {
    pub(super) const fn before_large(large: &LargeRow) -> Self {
        Self::BeforeLarge(NeedsRoom {
            row: large.row.id,
            bytes: large.memory,
        })
    }
}

/// Rows that were read and rendered, in order; under `halt` up to the first that
/// cannot be sent.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) items: Vec<Item>,
    /// How many rows were read, and the bytes of the rendered ones.
    pub(super) read: usize,
    pub(super) bytes: usize,
    /// What they take in memory.
    pub(super) memory: usize,
    pub(super) end: End,
}

/// A window's rows, rendered, or its bounds.
#[derive(Debug)]
pub(super) enum Fetched {
    Whole(Rendered),
    Bounds {
        read: Rendered,
        first: RowId,
        first_fresh: RowId,
        last: RowId,
    },
}

impl Fetched {
    /// The rows that were read.
    pub(super) const fn rows(&self) -> &Rendered {
        match self {
            Self::Whole(rows) => rows,
            Self::Bounds { read, .. } => read,
        }
    }
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
        lane: StashOf,
        asked: Vec<Seq>,
        rows: Rendered,
    },
    Saved(Fenced),
    /// Another server answers than when the reader began: what was read says
    /// nothing together with what it knows.
    ServerChanged,
    LookedForReplay(Option<ReplayRequest>),
    ReadAgain {
        after: RowId,
        ids: Vec<RowId>,
        is_last: bool,
        rows: Again,
        end: End,
    },
    ReplaySaved(ReplayProgress, ReplayWrite),
    /// Dead letters to be sent again, rendered.
    LettersToSend {
        any: bool,
        /// Behind which key the next ones are.
        go_on_behind: Option<String>,
        rows: Again,
        end: End,
    },
    /// What became of so many letters was written down.
    LettersSaved(usize, Fenced),
    /// What is known of the pipeline's letters.
    Letters(Letters),
}

impl Work {
    /// Does what the intake wishes to have read, as far as `bytes` go. `next_window`
    /// is the number a window opened now will get; rows have not been visible longer
    /// than since `floor`.
    pub(super) async fn read(
        self,
        wish: Wish,
        bytes: usize,
        next_window: WindowNumber,
        floor: Option<Moment>,
    ) -> Result<Option<Done>, StoreError> {
        let outbox = self.renderer.outbox.id;
        let bound = |page| ReadBound {
            rows: clamp(page),
            bytes,
        };
        let done = match wish {
            Wish::Open { seen, page } => {
                let taken_at = self.clock.now();
                let opened = self.store.open_window(outbox, &seen, bound(page)).await?;
                let fetched = self.fetched(opened.rows, next_window, floor).await?;
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
                    .reopen_window(outbox, &from, &to, bound(page))
                    .await?;
                Done::Reopened {
                    window,
                    fetched: self.fetched(rows, window, None).await?,
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
                    bound: bound(page),
                };
                let found = self.store.read_page(&request).await?;
                let is_last = found.rows.len() < page && found.cut.is_none();
                let rows = self.render(found, |_| window, floor).await?;
                Done::Page {
                    window,
                    rows,
                    is_last,
                }
            }
            Wish::Refill {
                lane,
                rows: mut asked,
            } => {
                let ids: Vec<RowId> = asked.iter().map(|seq| seq.id).collect();
                let found = self.store.read_rows(outbox, &ids, bytes).await?;
                let window_of = |id| {
                    let seq = asked.iter().find(|seq| seq.id == id);
                    seq.map_or(next_window, |seq| seq.window)
                };
                let rows = self.render(found, window_of, None).await?;
                asked.truncate(answered(&asked, rows.end));
                Done::Refilled { lane, asked, rows }
            }
            Wish::Save | Wish::Wait { .. } => return Ok(None),
        };
        let server = self.store.server().map(|server| server.generation);
        if server != self.server {
            return Ok(Some(Done::ServerChanged));
        }
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

    /// Looks up what a reader must know of its pipeline's letters.
    pub(super) async fn letters(self) -> Result<Option<Done>, StoreError> {
        let outbox = self.renderer.outbox.id;
        let letters = self.store.letters(&self.pipeline, outbox).await?;
        Ok(Some(Done::Letters(letters)))
    }

    async fn fetched(
        &self,
        rows: WindowRows,
        window: WindowNumber,
        floor: Option<Moment>,
    ) -> Result<Fetched, StoreError> {
        Ok(match rows {
            WindowRows::Whole(rows) => {
                Fetched::Whole(self.render(rows.into(), |_| window, floor).await?)
            }
            WindowRows::Bounds {
                read,
                first,
                first_fresh,
                last,
            } => Fetched::Bounds {
                read: self.render(read, |_| window, floor).await?,
                first,
                first_fresh,
                last,
            },
        })
    }

    /// Which of these rows have a letter. Rows that are new need no look: their
    /// ids are above those of all letters.
    async fn lettered(&self, page: &RowPage) -> Result<HashSet<RowId>, StoreError> {
        let next = page.cut.as_ref().map(Cut::next);
        let ids = page.rows.iter().map(|row| row.id).chain(next);
        let old: Vec<RowId> = ids.filter(|id| *id <= self.highest_lettered).collect();
        if old.is_empty() {
            return Ok(HashSet::new());
        }
        let outbox = self.renderer.outbox.id;
        let found = self.store.rows_with_letters(&self.pipeline, outbox, &old);
        Ok(found.await?.into_iter().collect())
    }

    async fn render(
        &self,
        page: RowPage,
        window_of: impl Fn(RowId) -> WindowNumber,
        floor: Option<Moment>,
    ) -> Result<Rendered, StoreError> {
        let lettered = self.lettered(&page).await?;
        let RowPage { rows, cut } = page;
        let now = self.clock.now();
        let mut rendered = Rendered {
            items: Vec::with_capacity(rows.len()),
            read: rows.len(),
            bytes: 0,
            memory: 0,
            end: End::All,
        };
        let seq_of = |id| Seq {
            window: window_of(id),
            id,
        };
        for row in rows {
            let seq = seq_of(row.id);
            if lettered.contains(&row.id) {
                rendered.items.push(Item::Lettered(seq));
                continue;
            }
            let inserted = Moment::from_origin(now.since_origin().saturating_sub(row.age));
            let visible_since = floor.map_or(inserted, |floor| inserted.max(floor)).min(now);
            let weight = row.payload.len() + row.headers.len();
            match self.envelope(row, seq.window).await {
                Ok(envelope) => {
                    rendered.bytes += envelope.weight();
                    rendered.memory += envelope.memory();
                    rendered.items.push(Item::Ready(Ready {
                        envelope,
                        visible_since,
                    }));
                }
                Err(poison) => {
                    rendered.items.push(Item::Poison(seq, poison, weight));
                    if self.on_poison == OnPoison::Halt {
                        return Ok(rendered);
                    }
                }
            }
        }
        rendered.end = match cut {
            None => End::All,
            Some(cut) if lettered.contains(&cut.next()) => {
                rendered.items.push(Item::Lettered(seq_of(cut.next())));
                End::Behind(cut.next())
            }
            Some(Cut::Before(row)) => End::Before(row),
            Some(Cut::Large(large)) if self.never_fits(&large) => {
                let (seq, weight) = (seq_of(large.row.id), large.payload_bytes);
                let poison = self.poison_of(*large).await?;
                rendered.items.push(Item::Poison(seq, poison, weight));
                End::Behind(seq.id)
            }
            Some(Cut::Large(large)) => End::before_large(&large),
        };
        Ok(rendered)
    }

    /// Whether a row is too large for its stream whatever is done: it need not be read.
    pub(super) fn never_fits(&self, large: &LargeRow) -> bool {
        large.payload_bytes > self.renderer.largest_payload()
    }

    /// What is wrong with such a row. Of its payload only what its key needs is read.
    pub(super) async fn poison_of(&self, large: LargeRow) -> Result<Poison, StoreError> {
        let LargeRow {
            mut row,
            payload_bytes,
            ..
        } = large;
        let paths = self.renderer.template.payload_paths();
        if !paths.is_empty() {
            let outbox = self.renderer.outbox.id;
            let fields = self.store.read_fields(outbox, row.id, &paths).await?;
            row.payload = skeleton(&paths, &fields);
        }
        Ok(self.renderer.too_large(&row, payload_bytes))
    }
}

/// Of how many of the rows that were asked for is it known what became of them.
fn answered(asked: &[Seq], end: End) -> usize {
    let place = |id| asked.iter().position(|seq| seq.id == id);
    match end {
        End::All => asked.len(),
        End::Behind(id) => place(id).map_or(0, |place| place + 1),
        End::Before(id) => place(id).unwrap_or(0),
        End::BeforeLarge(large) => place(large.row).unwrap_or(0),
    }
}

pub(super) fn clamp(page: usize) -> u32 {
    u32::try_from(page).unwrap_or(u32::MAX)
}
