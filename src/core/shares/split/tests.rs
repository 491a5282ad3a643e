use super::*;
use proptest::prelude::*;

#[test]
fn hungry_nodes_get_the_same_and_modest_ones_what_they_wish() {
    assert_eq!(split(&[WHOLE, WHOLE]), [5_000, 5_000]);
    assert_eq!(split(&[WHOLE, 1_000, WHOLE]), [4_500, 1_000, 4_500]);
    // An idle node keeps a little.
    assert_eq!(split(&[WHOLE, 0]), [9_900, 100]);
}

#[test]
fn what_nobody_wishes_for_is_spread() {
    assert_eq!(split(&[0]), [WHOLE]);
    assert_eq!(split(&[2_000, 0]), [5_950, 4_050]);
    assert_eq!(split(&[0, 0, 0]), [3_334, 3_333, 3_333]);
}

#[test]
fn nobody_writes_to_it() {
    assert_eq!(split(&[]), Vec::<Parts>::new());
}

proptest! {
    /// Work conserving, and never above the whole.
    #[test]
    fn all_of_it_is_given_out(wishes in prop::collection::vec(0..=WHOLE, 1..40)) {
        prop_assert_eq!(split(&wishes).iter().sum::<Parts>(), WHOLE);
    }

    /// Who gets less than it wishes gets as much as anybody, but for what is indivisible
    /// and for what others are given although they wish for less.
    #[test]
    fn it_is_max_min_fair(wishes in prop::collection::vec(0..=WHOLE, 1..40)) {
        let parts = split(&wishes);
        let least = FOR_IDLE / Parts::try_from(wishes.len()).expect("few");
        for (wish, part) in wishes.iter().zip(&parts) {
            prop_assert!(*part >= least);
            if part < wish {
                prop_assert!(parts.iter().all(|other| *other <= part + 1), "{:?}", parts);
            }
        }
    }

    /// Whoever wishes for no more than an equal part gets it.
    #[test]
    fn a_modest_wish_is_granted(wishes in prop::collection::vec(0..=WHOLE, 1..40)) {
        let equal = WHOLE / Parts::try_from(wishes.len()).expect("few");
        for (wish, part) in wishes.iter().zip(split(&wishes)) {
            prop_assert!(part >= (*wish).min(equal));
        }
    }

    /// A node that comes does not get others more.
    #[test]
    fn another_node_takes_from_nobody_less_than_an_equal_part(
        wishes in prop::collection::vec(1..=WHOLE, 1..20),
    ) {
        let hungry: Vec<Parts> = wishes.iter().map(|_| WHOLE).collect();
        let parts = split(&hungry);
        let spread = parts.iter().max().zip(parts.iter().min());
        prop_assert!(spread.is_some_and(|(most, least)| most - least <= 1));
    }
}
