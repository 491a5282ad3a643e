//! The quota in simulated time.

use super::*;

fn at(millis: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(millis))
}

fn limits(rows: f64, burst: u32) -> RateLimits {
    RateLimits {
        rows_per_second: Some(rows),
        burst_rows: Some(burst),
        bytes_per_second: None,
    }
}

/// A pipeline that reads: how long a read takes, its weight, and when it has work.
struct Reader {
    weight: u32,
    read: Duration,
    page: usize,
    has_work: fn(u64) -> bool,
    wakes_at: Moment,
    reading: usize,
    sent: usize,
}

impl Reader {
    fn new(weight: u32, read: u64, page: usize, has_work: fn(u64) -> bool) -> Self {
        Self {
            weight,
            read: Duration::from_millis(read),
            page,
            has_work,
            wakes_at: at(0),
            reading: 0,
            sent: 0,
        }
    }
}

/// Lets readers share a quota for so many seconds; gives what each of them sent.
fn share(quota: &mut TenantQuota, mut readers: Vec<Reader>, seconds: u64) -> Vec<usize> {
    let seats: Vec<SeatId> = readers.iter().map(|one| quota.join(one.weight)).collect();
    for millis in 0..seconds * 1000 {
        let now = at(millis);
        for (reader, seat) in readers.iter_mut().zip(&seats) {
            if reader.wakes_at > now {
                continue;
            }
            if reader.reading > 0 {
                quota.release(*seat);
                quota.charge(*seat, reader.reading, reader.reading * 100);
                reader.sent += std::mem::take(&mut reader.reading);
            }
            if !(reader.has_work)(millis) {
                quota.rest(*seat);
                reader.wakes_at = now + Duration::from_millis(5);
                continue;
            }
            match quota.rows(*seat, 100, now).min(reader.page) {
                0 => reader.wakes_at = quota.next_at(*seat, now),
                rows => {
                    quota.reserve(*seat, rows, rows * 100, now);
                    reader.reading = rows;
                    reader.wakes_at = now + reader.read;
                }
            }
        }
    }
    readers.iter().map(|reader| reader.sent).collect()
}

#[track_caller]
fn assert_near(sent: usize, expected: f64, within: f64) {
    let ratio = sent as f64 / expected;
    assert!(
        (1.0 - within..=1.0 + within).contains(&ratio),
        "{sent}, expected {expected}"
    );
}

#[test]
fn pipelines_together_get_the_rate_and_share_it_by_weight() {
    for rate in [20.0, 500.0, 8_000.0] {
        let mut quota = TenantQuota::new(limits(rate, 10), at(0));
        let readers = vec![
            Reader::new(1, 4, 500, |_| true),
            Reader::new(2, 11, 500, |_| true),
            Reader::new(4, 30, 500, |_| true),
        ];
        let sent = share(&mut quota, readers, 400);
        let all: usize = sent.iter().sum();
        assert_near(all, rate * 400.0, 0.01);
        for (sent, part) in sent.iter().zip([1.0, 2.0, 4.0]) {
            assert_near(*sent, rate * 400.0 * part / 7.0, 0.05);
        }
    }
}

#[test]
fn nothing_is_kept_for_those_without_work() {
    let mut quota = TenantQuota::new(limits(1_000.0, 50), at(0));
    let readers = vec![
        Reader::new(1, 5, 500, |_| true),
        Reader::new(1000, 5, 500, |_| false),
        // A tenth of the time.
        Reader::new(1, 5, 500, |millis| millis % 10_000 < 1_000),
    ];
    let sent = share(&mut quota, readers, 300);
    assert_near(sent.iter().sum(), 300_000.0, 0.01);
    assert_eq!(sent[1], 0);
    // Half of the rate while it has work; what it did not ask for before is gone.
    assert_near(sent[2], 15_000.0, 0.15);
}

#[test]
fn whoever_contends_and_is_slow_holds_nobody_back() {
    let mut quota = TenantQuota::new(limits(1_000.0, 50), at(0));
    let readers = vec![
        Reader::new(1, 5, 500, |_| true),
        // A row at a time, and slow at it.
        Reader::new(1000, 300, 1, |_| true),
        Reader::new(1, 200, 60, |_| true),
    ];
    let sent = share(&mut quota, readers, 100);
    assert_near(sent.iter().sum(), 100_000.0, 0.01);
    assert!(sent[1] > 200 && sent[2] > 3_000, "{sent:?}");
}

#[test]
fn the_burst_is_of_all_together() {
    let mut quota = TenantQuota::new(limits(10.0, 100), at(0));
    let seats = [quota.join(1), quota.join(1), quota.join(1)];
    let now = at(60_000);
    let mut taken = 0;
    for seat in seats {
        let rows = quota.rows(seat, 100, now).min(60);
        quota.reserve(seat, rows, rows * 100, now);
        taken += rows;
    }
    assert_eq!(taken, 100);
    assert_eq!(quota.rows(seats[0], 100, now), 0);
    for seat in seats {
        quota.rest(seat);
    }
    // What was reserved and not used is there for the others.
    quota.release(seats[1]);
    assert_eq!(quota.rows(seats[2], 100, now), 40);
    quota.leave(seats[0]);
    assert_eq!(quota.rows(seats[2], 100, now), 100);
}

#[test]
fn a_node_uses_its_fraction_of_the_rate() {
    let mut quota = TenantQuota::new(limits(1_000.0, 100), at(0));
    quota.set_fraction(0.25, at(0));
    let sent = share(&mut quota, vec![Reader::new(1, 5, 500, |_| true)], 100);
    assert_near(sent[0], 25_000.0, 0.01);
    assert!((quota.fraction() - 0.25).abs() < 1e-9);
    quota.set_fraction(0.0, at(100_000));
    assert!(
        quota.fraction() > 0.0,
        "a rate of nothing never ends a wait"
    );
}

#[test]
fn a_change_holds_from_then_on_and_none_is_none() {
    let mut quota = TenantQuota::new(RateLimits::default(), at(0));
    let seat = quota.join(1);
    assert_eq!(quota.rows(seat, 1 << 30, at(0)), usize::MAX);
    quota.reserve(seat, 1_000_000, 1 << 40, at(0));
    quota.charge(seat, 1_000_000, 1 << 40);
    quota.change(limits(100.0, 100), at(0));
    assert_eq!(quota.rows(seat, 100, at(0)), 0, "nothing is saved up");
    assert_eq!(quota.rows(seat, 100, at(500)), 50);
    quota.change(RateLimits::default(), at(500));
    assert_eq!(quota.rows(seat, 100, at(500)), usize::MAX);
}

/// A node that stood by for the only pipeline of a tenant has no part of the rate. It
/// takes the pipeline over, reads the row that is left in the bucket, and sleeps.
#[test]
fn a_part_that_comes_while_a_reader_sleeps_is_used_soon() {
    let mut quota = TenantQuota::new(limits(100.0, 10), at(0));
    quota.set_fraction(0.0, at(0));
    let seat = quota.join(1);
    assert_eq!(quota.rows(seat, 100, at(1_000)), 1);
    quota.charge(seat, 1, 100);
    assert_eq!(quota.rows(seat, 100, at(1_000)), 0);
    let again = quota.next_at(seat, at(1_000));
    assert!(again <= at(1_250), "it sleeps until {again:?}");
    quota.set_fraction(1.0, at(1_100));
    assert_eq!(quota.rows(seat, 100, at(1_200)), 10);
}
