//! Records that were stored, counted together.

/// What AWS bills a provisioned stream by, a record at least one: "25 KB", here by
/// the smaller reading (`aws.amazon.com/kinesis/data-streams/pricing`).
const PUT_UNIT_BYTES: usize = 25_000;

/// Records of a pipeline's rows that were stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoredRecords {
    /// How many.
    pub records: usize,
    /// Their data and keys as they were sent, in bytes.
    pub bytes: usize,
    /// Their PUT units.
    pub put_units: usize,
}

impl StoredRecords {
    /// One more, of so many bytes of data and key.
    pub const fn add(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += bytes;
        self.put_units += bytes.div_ceil(PUT_UNIT_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_those_of_each_record() {
        let mut stored = StoredRecords::default();
        for bytes in [1, 25_000, 25_001] {
            stored.add(bytes);
        }
        let all = StoredRecords {
            records: 3,
            bytes: 50_002,
            put_units: 4,
        };
        assert_eq!(stored, all);
    }
}
