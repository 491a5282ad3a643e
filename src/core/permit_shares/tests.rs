//! The shares of the pool.

use super::*;

fn tenant(name: &str, weight: u32, pipelines: usize) -> TenantPart {
    TenantPart {
        weight,
        pipelines,
        ..TenantPart::unexpected(name.into())
    }
}

fn expecting(total: usize, pipelines: usize) -> PermitShares {
    let mut shares = PermitShares::new(total);
    shares.expect(&[tenant("t", 1, pipelines)]);
    shares
}

fn join(shares: &mut PermitShares) -> PartyId {
    shares.join(&"t".into())
}

/// Takes all somebody may.
fn fill(shares: &mut PermitShares, id: PartyId) -> usize {
    let free = shares.free(id);
    shares.take(id, free);
    free
}

#[test]
fn one_row_at_a_time_goes_alone_and_takes_nothing_from_the_others() {
    let mut shares = PermitShares::new(8_000);
    let id = join(&mut shares);
    let free = shares.free(id);
    assert!(shares.go_alone(50_000));
    assert!(!shares.go_alone(1), "one at a time");
    assert_eq!((shares.free(id), shares.used()), (free, 0));
    assert_eq!(shares.alone(), 50_000);
    shares.alone_is_over();
    assert!(shares.go_alone(1));
}

#[test]
fn seven_that_are_stuck_leave_the_eighth_its_part() {
    let mut shares = expecting(1_800, 8);
    let parties: Vec<PartyId> = (0..8).map(|_| join(&mut shares)).collect();
    assert_eq!(shares.own_part(parties[0]), 100);
    let taken: Vec<usize> = parties[..7]
        .iter()
        .map(|id| fill(&mut shares, *id))
        .collect();
    // The first takes all that is common besides its own part.
    assert_eq!(taken, [775, 100, 100, 100, 100, 100, 100]);
    assert_eq!(shares.free(parties[7]), 100);
    shares.take(parties[7], 60);
    assert_eq!(shares.free(parties[7]), 40);
    shares.give_back(parties[7], 60);
    assert_eq!(shares.free(parties[7]), 100);
    // What one gives back beyond its part is common again.
    shares.give_back(parties[0], 500);
    assert_eq!(shares.free(parties[7]), 600);
}

#[test]
fn overdrafts_of_the_stuck_do_not_take_the_part_of_others() {
    let mut shares = expecting(1_800, 8);
    let parties: Vec<PartyId> = (0..8).map(|_| join(&mut shares)).collect();
    for id in &parties[..7] {
        fill(&mut shares, *id);
        shares.take(*id, 40);
        assert_eq!(shares.free(*id), 0);
    }
    assert_eq!(shares.free(parties[7]), 100);
}

#[test]
fn those_who_start_late_find_their_seat_kept() {
    let mut shares = expecting(1_800, 8);
    let first = join(&mut shares);
    assert_eq!(fill(&mut shares, first), 775);
    let second = join(&mut shares);
    assert_eq!(shares.free(second), 100);
    // One that nobody expected sits on the seat that was kept free.
    let more: Vec<PartyId> = (0..7).map(|_| join(&mut shares)).collect();
    assert_eq!(shares.own_part(first), 90);
    for id in more {
        assert_eq!(fill(&mut shares, id), 90);
    }
    assert!(shares.used() <= 1_800);
}

#[test]
fn an_ended_incarnation_holds_only_what_it_has() {
    let mut shares = expecting(400, 1);
    let old = join(&mut shares);
    assert_eq!(shares.free(old), 250);
    shares.take(old, 150);
    shares.leave(old);
    assert_eq!(shares.free(old), 0);
    let new = join(&mut shares);
    assert_eq!(shares.own_part(new), 100);
    assert_eq!(shares.free(new), 100);
    shares.give_back(old, 150);
    shares.remove(old);
    assert_eq!(shares.free(new), 250);
}

#[test]
fn tenants_get_their_parts_by_weight_whatever_the_number_of_their_pipelines() {
    let mut shares = PermitShares::new(8_000);
    shares.expect(&[tenant("many", 1, 99), tenant("one", 3, 1)]);
    let many: Vec<PartyId> = (0..99).map(|_| shares.join(&"many".into())).collect();
    let one = shares.join(&"one".into());
    assert_eq!(shares.own_part(many[0]), 1_000 / 100);
    assert_eq!(shares.own_part(one), 3_000 / 2);
    for id in &many {
        fill(&mut shares, *id);
    }
    assert!(shares.free(one) >= 1_500, "{}", shares.free(one));
    assert!(shares.used() <= 8_000);
    // Whoever is gone has no part.
    shares.expect(&[tenant("one", 3, 1)]);
    for id in many {
        shares.remove(id);
    }
    assert_eq!(shares.own_part(one), 4_000 / 2);
}

#[test]
fn a_tenant_takes_no_more_than_its_most() {
    let mut shares = PermitShares::new(8_000);
    let limited = TenantPart {
        most: Some(500),
        ..tenant("limited", 1, 2)
    };
    shares.expect(&[limited, tenant("other", 1, 1)]);
    let (one, two) = (
        shares.join(&"limited".into()),
        shares.join(&"limited".into()),
    );
    let other = shares.join(&"other".into());
    // A quarter of it is the other one's.
    assert_eq!(shares.free(one), 375);
    shares.take(one, 370);
    assert_eq!((shares.free(one), shares.free(two)), (5, 130));
    assert!(shares.free_of_pool(two) > 500);
    shares.take(two, 130);
    assert_eq!((shares.free(one), shares.free_of_tenant(two)), (0, 0));
    assert_eq!(shares.used_by("limited"), 500);
    assert!(shares.free(other) > 4_000);
    // What an ended incarnation has left counts for its tenant.
    shares.take(one, 130);
    shares.leave(one);
    let again = shares.join(&"limited".into());
    assert_eq!(shares.free(again), 0);
    shares.give_back(one, 500);
    shares.remove(one);
    assert_eq!(shares.free(again), 370);
}

#[test]
fn one_that_is_stuck_leaves_the_others_of_its_tenant_their_parts() {
    let mut shares = PermitShares::new(80_000);
    let limited = TenantPart {
        most: Some(900),
        ..tenant("limited", 1, 3)
    };
    shares.expect(&[limited]);
    let stuck = shares.join(&"limited".into());
    assert_eq!(fill(&mut shares, stuck), 600, "two seats are kept");
    // It may exceed that by a row; so may another one.
    shares.take(stuck, 200);
    let second = shares.join(&"limited".into());
    assert_eq!(fill(&mut shares, second), 150);
    shares.take(second, 200);
    let third = shares.join(&"limited".into());
    assert_eq!(shares.free(third), 150);
    // Alone it may take all of it.
    let mut shares = PermitShares::new(80_000);
    let limited = TenantPart {
        most: Some(900),
        ..tenant("limited", 1, 1)
    };
    shares.expect(&[limited]);
    let alone = shares.join(&"limited".into());
    assert_eq!(fill(&mut shares, alone), 900);
}

#[test]
fn tenants_that_are_gone_leave_nothing_behind() {
    let mut shares = PermitShares::new(8_000);
    for round in 0..100 {
        let name: Arc<str> = format!("tenant {round}").into();
        shares.expect(&[tenant(&name, 1, 1)]);
        let id = shares.join(&name);
        shares.take(id, 70);
        shares.leave(id);
        // Rows of it are on their way when the next one comes.
        shares.expect(&[]);
        assert_eq!(shares.used_by(&name), 70);
        shares.give_back(id, 70);
        shares.remove(id);
    }
    assert!(shares.tenants.len() <= 2, "{}", shares.tenants.len());
}

#[test]
fn a_smaller_pool_takes_nothing_away_and_grants_nothing_more() {
    let mut shares = expecting(1_000, 1);
    let one = join(&mut shares);
    assert_eq!(fill(&mut shares, one), 625);
    shares.resize(400);
    assert_eq!((shares.free(one), shares.used()), (0, 625));
    shares.give_back(one, 500);
    assert_eq!(shares.free(one), 125);
    shares.resize(1_000);
    assert_eq!(shares.free(one), 500);
    assert_eq!((shares.total(), shares.most_in_use()), (1_000, 1_000));
}

#[test]
fn the_total_and_the_own_parts_hold_whatever_happens() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let total = random.usize(1..10_000);
        let pipelines = random.usize(1..20);
        let mut shares = expecting(total, pipelines);
        let parties: Vec<PartyId> = (0..pipelines).map(|_| join(&mut shares)).collect();
        let own_part = shares.own_part(parties[0]);
        let mut used = vec![0_usize; pipelines];
        for _ in 0..500 {
            let place = random.usize(0..pipelines);
            if random.bool() {
                let free = shares.free(parties[place]);
                assert!(free >= own_part.saturating_sub(used[place]), "own part");
                let bytes = random.usize(0..=free);
                shares.take(parties[place], bytes);
                used[place] += bytes;
            } else {
                let bytes = random.usize(0..=used[place]);
                shares.give_back(parties[place], bytes);
                used[place] -= bytes;
            }
            assert_eq!(shares.used(), used.iter().sum::<usize>());
            assert!(shares.used() <= total);
        }
    }
}
