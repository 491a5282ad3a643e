//! Decimal digits of a fixed width. They are written twice for every row that is sent,
//! and the padding of the standard library goes character by character.

/// Writes a number into `place`, with zeros before it; of a number that has more digits
/// the last ones.
pub(super) fn write_padded(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_are_padded_as_by_the_standard_library(number in any::<u64>()) {
            let mut place = [b' '; 20];
            write_padded(&mut place, number);
            prop_assert_eq!(String::from_utf8_lossy(&place), format!("{number:020}"));
        }
    }
}
