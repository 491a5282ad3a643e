//! Compression of what a record carries.
//!
//! What is compressed: a row's data, one by one, where rows are records or share a
//! record of the Kinesis Producer Library (whose consumers want the container itself
//! as it is); the whole record where its rows are lines. Each compressed piece is
//! one gzip member or one zstd frame that names its size, so that every reader of
//! these formats takes it. The same data always compresses to the same bytes.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use bytes::Bytes;
use flate2::write::GzEncoder;

/// How data is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// As gzip (RFC 1952).
    Gzip,
    /// As Zstandard (RFC 8878).
    Zstd,
}

/// A text that names no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression {text:?} (allowed are none, gzip, zstd)")]
pub struct UnknownCompression {
    /// The text.
    pub text: String,
}

/// The usual level of zstd: about 3 us a kilobyte.
const ZSTD_LEVEL: i32 = 3;

// === impl Compression ===

impl Compression {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Gzip, Self::Zstd];

    /// Its name in a configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Compresses. Should the compressor have no memory, the data is wrapped as it
    /// is: every reader takes that as well.
    #[must_use]
    pub fn compress(self, data: Bytes) -> Bytes {
        match self {
            Self::None => data,
            Self::Gzip => gzip(&data).unwrap_or_else(|_| gzip_stored(&data)).into(),
            Self::Zstd => zstd::bulk::compress(&data, ZSTD_LEVEL)
                .unwrap_or_else(|_| zstd_stored(&data))
                .into(),
        }
    }

    /// The most bytes that so many bytes compress to: data that does not compress
    /// grows a little.
    #[must_use]
    pub const fn most_bytes(self, data: usize) -> usize {
        match self {
            Self::None => data,
            Self::Gzip | Self::Zstd => data + data / 128 + 96,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Self, UnknownCompression> {
        let named = Self::ALL.into_iter().find(|one| one.as_str() == text);
        named.ok_or_else(|| UnknownCompression {
            text: text.to_owned(),
        })
    }
}

fn gzip(data: &[u8]) -> io::Result<Vec<u8>> {
    let buffer = Vec::with_capacity(data.len() / 2 + 64);
    let mut encoder = GzEncoder::new(buffer, flate2::Compression::default());
    encoder.write_all(data)?;
    encoder.finish()
}

/// A gzip member of stored blocks (RFC 1951, section 3.2.4).
fn gzip_stored(data: &[u8]) -> Vec<u8> {
    let mut member = vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 0xFF];
    let mut rest = data;
    loop {
        let (block, after) = rest.split_at(rest.len().min(usize::from(u16::MAX)));
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        member.push(u8::from(after.is_empty()));
        member.extend_from_slice(&length.to_le_bytes());
        member.extend_from_slice(&(!length).to_le_bytes());
        member.extend_from_slice(block);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let mut crc = flate2::Crc::new();
    crc.update(data);
    member.extend_from_slice(&crc.sum().to_le_bytes());
    member.extend_from_slice(&crc.amount().to_le_bytes());
    member
}

/// A zstd frame of raw blocks (RFC 8878, section 3.1.1).
fn zstd_stored(data: &[u8]) -> Vec<u8> {
    const MOST_IN_A_BLOCK: usize = 1 << 17;
    // A single segment that names its size in 8 bytes.
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0b1110_0000];
    frame.extend_from_slice(&(data.len() as u64).to_le_bytes());
    let mut rest = data;
    loop {
        let (block, after) = rest.split_at(rest.len().min(MOST_IN_A_BLOCK));
        let header = (block.len() << 3) | usize::from(after.is_empty());
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
        rest = after;
        if rest.is_empty() {
            return frame;
        }
    }
}

/// Takes compressed data apart again, for consumers in tests and in the demo.
#[cfg(any(test, feature = "demo"))]
pub mod decode {
    use std::io::{self, Read};

    use super::Compression;

    /// The data that was compressed.
    ///
    /// # Errors
    /// When it is not of this compression, or something follows it.
    pub fn decompress(compression: Compression, data: &[u8]) -> io::Result<Vec<u8>> {
        match compression {
            Compression::None => Ok(data.to_vec()),
            Compression::Gzip => {
                let mut plain = Vec::new();
                let mut decoder = flate2::bufread::GzDecoder::new(data);
                decoder.read_to_end(&mut plain)?;
                if !decoder.into_inner().is_empty() {
                    return Err(io::Error::other("something follows the gzip member"));
                }
                Ok(plain)
            }
            Compression::Zstd => {
                let size = zstd::zstd_safe::get_frame_content_size(data);
                let size = size.ok().flatten();
                let size = size.and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or_else(|| io::Error::other("a frame without its size"))?;
                zstd::bulk::decompress(data, size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_parse_back() {
        for one in Compression::ALL {
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        let error = "lz4".parse::<Compression>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown compression \"lz4\" (allowed are none, gzip, zstd)"
        );
    }

    #[test]
    fn lines_of_json_become_a_fraction() {
        let lines: String = (0..200)
            .map(|id| format!("{{\"id\":{id},\"outbox\":\"events\",\"payload\":{{\"n\":{id}}}}}\n"))
            .collect();
        let plain = Bytes::from(lines);
        for one in [Compression::Gzip, Compression::Zstd] {
            let small = one.compress(plain.clone());
            assert!(small.len() * 5 < plain.len(), "{one}: {}", small.len());
        }
    }

    #[test]
    fn what_could_not_be_compressed_is_wrapped() {
        for length in [0, 1, 65_535, 65_536, 131_072, 300_000] {
            let data: Vec<u8> = (0..length)
                .map(|place: usize| place.to_le_bytes()[1])
                .collect();
            let plain = |compression, wrapped: &[u8]| {
                decode::decompress(compression, wrapped).expect("of the format")
            };
            assert_eq!(plain(Compression::Gzip, &gzip_stored(&data)), data);
            assert_eq!(plain(Compression::Zstd, &zstd_stored(&data)), data);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_compressed_comes_back_and_the_bound_holds(
            data in prop::collection::vec(any::<u8>(), 0..70_000), text in ".{0,300}",
        ) {
            for data in [data, text.into_bytes()] {
                for one in Compression::ALL {
                    let data = Bytes::from(data.clone());
                    let small = one.compress(data.clone());
                    prop_assert!(small.len() <= one.most_bytes(data.len()), "{one} {}", small.len());
                    prop_assert_eq!(&decode::decompress(one, &small).expect("of it"), &data);
                    prop_assert_eq!(one.compress(data), small, "the same again");
                }
            }
        }
    }
}
