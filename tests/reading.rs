//! Reads of rows are bounded in bytes, whatever the rows weigh.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test says what it expects"
)]
#![cfg(feature = "demo")]

#[path = "common/database.rs"]
mod database;
#[path = "common/outbox.rs"]
mod outbox;

use tidegate::core::page::{Cut, ReadBound, RowPage};
use tidegate::core::ports::{Opened, OutboxStore, PageRequest, WindowRows};
use tidegate::core::position::RowId;
use tidegate::core::resend::{AgainRequest, ResendStore};
use tidegate::core::row::OutboxRow;
use tidegate::core::snapshot::Snapshot;

use crate::outbox::{Fixture, ids};

const MIB: usize = 1024 * 1024;

impl Fixture {
    /// Publishes rows whose texts have so many bytes; they compress well.
    async fn publish_sized(&self, sizes: &[usize]) -> Vec<RowId> {
        let mut rows = Vec::new();
        for bytes in sizes {
            let row: RowId = sqlx::query_scalar(
                "SELECT tide.outbox_publish('events', jsonb_build_object('a', jsonb_build_object('b', 1.50),
                    'text', repeat('x', $1)))",
            )
            .bind(i32::try_from(*bytes).expect("few"))
            .fetch_one(&self.pool)
            .await
            .expect("published");
            rows.push(row);
        }
        rows
    }

    async fn page(&self, to: &Snapshot, after: RowId, last: RowId, bytes: usize) -> RowPage {
        let request = PageRequest {
            outbox: self.outbox,
            from: Snapshot::nothing(),
            to: to.clone(),
            after,
            first_fresh: 0,
            last,
            bound: ReadBound { rows: 1000, bytes },
        };
        self.store.read_page(&request).await.expect("a page")
    }

    fn connections(&self) -> u32 {
        self.pool.size()
    }
}

fn memory(rows: &[OutboxRow]) -> usize {
    rows.iter().map(OutboxRow::memory).sum()
}

#[tokio::test]
async fn a_page_brings_no_more_bytes_than_it_may() {
    let fixture = Fixture::new().await;
    let sizes: Vec<usize> = (0..60)
        .map(|n| if n % 7 == 0 { 9_000 } else { 100 * n })
        .collect();
    let rows = fixture.publish_sized(&sizes).await;
    let (to, _) = fixture.open(&Snapshot::nothing()).await;
    let last = rows[59];
    let (mut after, mut read, mut pages) = (0, Vec::new(), 0);
    loop {
        let page = fixture.page(&to, after, last, 20_000).await;
        assert!(memory(&page.rows) <= 20_000, "{} bytes", memory(&page.rows));
        read.extend(ids(&page.rows));
        pages += 1;
        let Some(cut) = page.cut else {
            break;
        };
        assert_eq!(cut, Cut::Before(rows[read.len()]));
        after = read[read.len() - 1];
    }
    assert_eq!(read, rows, "each once, in order");
    assert!(pages > 8, "{pages} pages");
}

#[tokio::test]
async fn a_row_that_is_too_large_is_named_and_not_sent() {
    let fixture = Fixture::new().await;
    let rows = fixture.publish_sized(&[10, 20 * MIB, 10]).await;
    let opened = fixture
        .store
        .open_window(
            fixture.outbox,
            &Snapshot::nothing(),
            ReadBound {
                rows: 100,
                bytes: MIB,
            },
        )
        .await
        .expect("a window");
    let Opened {
        snapshot,
        rows: window,
    } = opened;
    let WindowRows::Bounds {
        read, first, last, ..
    } = window
    else {
        panic!("read as a whole");
    };
    assert_eq!((first, last), (rows[0], rows[2]));
    let check = |page: &RowPage, before: usize| {
        assert_eq!(ids(&page.rows), rows[..before]);
        let Some(Cut::Large(large)) = &page.cut else {
            panic!("not cut by a large row: {:?}", page.cut);
        };
        assert_eq!(large.row.id, rows[1]);
        assert!(large.row.payload.is_empty());
        let text = large.payload_bytes;
        assert!(text > 20 * MIB && text < 20 * MIB + 100, "{text}");
        assert_eq!(large.memory, text + "{}".len() + 512);
        large.memory
    };
    let needs = check(&read, 1);
    check(&fixture.page(&snapshot, 0, last, MIB).await, 1);
    let by_id = fixture.store.read_rows(fixture.outbox, &rows, MIB);
    check(&by_id.await.expect("rows"), 1);
    let again = AgainRequest {
        pipeline: "p".into(),
        outbox: fixture.outbox,
        seen: snapshot.clone(),
        after: 0,
        to: last,
        bound: ReadBound {
            rows: 100,
            bytes: MIB,
        },
    };
    check(&fixture.store.read_again(&again).await.expect("rows"), 1);
    let nothing = Snapshot::nothing();
    let reopened = fixture
        .store
        .reopen_window(fixture.outbox, &nothing, &snapshot, again.bound);
    assert!(
        matches!(reopened.await.expect("a window"), WindowRows::Bounds { read, .. } if check(&read, 1) == needs)
    );
    // With room for it, it comes, and nothing else.
    let page = fixture.page(&snapshot, rows[0], last, needs).await;
    assert_eq!(ids(&page.rows), rows[1..2]);
    assert_eq!(page.cut, Some(Cut::Before(rows[2])));
    // Of a row that does not come its key's fields can be had.
    let path = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let paths: [Vec<String>; 4] = [
        path(&["a", "b"]),
        path(&["a"]),
        path(&["gone", "x"]),
        path(&["text"]),
    ];
    let fields = fixture.store.read_fields(fixture.outbox, rows[1], &paths);
    let fields = fields.await.expect("fields");
    assert_eq!(
        fields[..3],
        [Some("1.50".to_owned()), Some("{}".to_owned()), None]
    );
    assert_eq!(fields[3], Some(format!("{:?}", "x".repeat(300))));
}

/// What the server has still to send is not waited for when it is much.
#[tokio::test]
async fn the_rest_of_a_page_is_thrown_away() {
    let fixture = Fixture::new().await;
    let rows = fixture.publish_sized(&[MIB; 40]).await;
    let (to, last) = (fixture.open(&Snapshot::nothing()).await.0, rows[39]);
    let before = fixture.connections();
    let page = fixture.page(&to, 0, last, 3 * MIB).await;
    assert_eq!(ids(&page.rows), rows[..2]);
    assert_eq!(page.cut, Some(Cut::Before(rows[2])));
    assert_eq!(
        fixture.connections(),
        before - 1,
        "its connection is closed"
    );
    // A little is read to its end.
    let before = fixture.connections();
    let page = fixture.page(&to, rows[37], last, MIB + 1024).await;
    assert_eq!(ids(&page.rows), rows[38..39]);
    assert_eq!(page.cut, Some(Cut::Before(last)));
    assert_eq!(fixture.connections(), before, "its connection is kept");
}
