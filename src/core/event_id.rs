//! The identity of an event: the same for a row each time it is sent, and
//! stored nowhere.
//!
//! A UUID of version 8 (RFC 9562, section 5.8), whose 122 free bits are filled
//! so: the 60 bits of `custom_a` and `custom_b` are those of the outbox's own
//! UUID, the 62 bits of `custom_c` are the row id. Ids of one outbox differ in
//! their row id, ids of two outboxes in what is random in the outboxes' UUIDs.

use uuid::Uuid;

use super::position::RowId;

/// The bits of the upper half that hold the version.
const VERSION_MASK: u64 = 0xf000;
/// Version 8 in its place.
const VERSION: u64 = 0x8000;
/// The bits of the lower half below the variant: more row ids than a sequence
/// hands out in 29,000 years at five million a second.
const ROW_ID_MASK: u64 = (1 << 62) - 1;
/// The variant of RFC 9562 in its place.
const VARIANT: u64 = 1 << 63;

/// The event id of the row `row` of the outbox whose UUID is `outbox`.
#[must_use]
pub fn event_id(outbox: Uuid, row: RowId) -> Uuid {
    let (upper, _) = outbox.as_u64_pair();
    Uuid::from_u64_pair(
        (upper & !VERSION_MASK) | VERSION,
        (row.cast_unsigned() & ROW_ID_MASK) | VARIANT,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn is_laid_out_as_documented() {
        let outbox = Uuid::from_u128(0x0123_4567_89ab_4def_8123_4567_89ab_cdef);
        assert_eq!(
            event_id(outbox, 0x2a).to_string(),
            "01234567-89ab-8def-8000-00000000002a"
        );
    }

    proptest! {
        #[test]
        fn is_a_valid_uuid_that_tells_rows_apart(
            outbox in any::<u128>(), a in 0i64..1 << 62, b in 0i64..1 << 62,
        ) {
            let outbox = Uuid::from_u128(outbox);
            let (first, second) = (event_id(outbox, a), event_id(outbox, b));
            prop_assert_eq!(first.get_version_num(), 8);
            prop_assert_eq!(first.get_variant(), uuid::Variant::RFC4122);
            prop_assert_eq!(first == second, a == b);
        }
    }
}
