//! Texts that fit into a few bytes, without an allocation.

use std::fmt::{self, Display, Write};

/// The longest of them: a sequence text has at most 41 bytes, a time 31.
const MOST: usize = 48;

/// What a value displays as.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShortText {
    bytes: [u8; MOST],
    len: usize,
}

impl ShortText {
    /// The text of a value that has no more than 48 bytes of it.
    pub(super) fn of(value: impl Display) -> Self {
        let mut text = Self {
            bytes: [0; MOST],
            len: 0,
        };
        let written = write!(text, "{value}");
        debug_assert_eq!(written, Ok(()), "longer than {MOST} bytes");
        text
    }

    pub(super) fn as_str(&self) -> &str {
        // Only whole texts are written.
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl Write for ShortText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::position::{Seq, WindowNumber};
    use crate::core::timestamp::Timestamp;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_a_body_has_fits(window in any::<u64>(), id in any::<i64>()) {
            let seq = Seq { window: WindowNumber(window), id };
            let time = Timestamp::from_unix_micros(id);
            let short = (ShortText::of(seq), ShortText::of(time), ShortText::of(id));
            prop_assert_eq!(short.0.as_str(), seq.to_string());
            prop_assert_eq!(short.1.as_str(), time.to_string());
            prop_assert_eq!(short.2.as_str(), id.to_string());
        }
    }
}
