//! From the rows of a call to the records that are sent. What costs time, gathering
//! rows in one record, is done in the call's own task.

use std::sync::Arc;

use crate::actors::heavy;
use crate::actors::messages::RoutedRow;
use crate::core::aggregation::{self, Packing, SubRecord};
use crate::core::compression::Compression;
use crate::core::ports::{CallFailure, PutRecord, RecordOutcome, StreamService};
use crate::core::send_queue::Parcel;

/// A record that is still to be made. The rows stay where they are: these share
/// their keys and bodies.
pub(super) enum Making {
    /// A row as it is.
    One(PutRecord),
    /// Rows that share a record.
    Many(Packing, Vec<SubRecord>),
}

impl Making {
    pub(super) fn of(parcel: &Parcel<RoutedRow>) -> Self {
        let sub_record = |row: &RoutedRow| SubRecord {
            key: Arc::clone(&row.envelope.key),
            hash: row.envelope.hash,
            body: row.envelope.body.clone(),
        };
        match parcel.packing() {
            Some(packing) => Self::Many(packing, parcel.rows().map(sub_record).collect()),
            None => {
                let envelope = &parcel.first().envelope;
                Self::One(PutRecord {
                    key: Arc::clone(&envelope.key),
                    explicit_hash_key: None,
                    data: envelope.body.clone(),
                })
            }
        }
    }
}

/// Makes a record.
async fn make(record: Making) -> PutRecord {
    let (packing, rows) = match record {
        Making::One(record) => return record,
        Making::Many(packing, rows) => (packing, rows),
    };
    let packed = match packing.compression {
        Compression::None => aggregation::pack(packing, &rows),
        Compression::Gzip | Compression::Zstd => {
            let bytes = rows.iter().map(|row| row.body.len()).sum();
            heavy::compress(bytes, move || aggregation::pack(packing, &rows)).await
        }
    };
    PutRecord {
        key: packed.key,
        explicit_hash_key: packed.explicit_hash_key,
        data: packed.data,
    }
}

/// A call, from the making of its records to its answer.
pub(super) async fn put(service: Arc<dyn StreamService>, making: Vec<Making>) -> Made {
    let mut records = Vec::with_capacity(making.len());
    for record in making {
        records.push(make(record).await);
    }
    let weight = |record: &PutRecord| record.data.len() + record.key.len();
    Made {
        weights: records.iter().map(weight).collect(),
        answer: service.put(records).await,
    }
}

/// A call that has come back.
pub(super) struct Made {
    /// What its records weighed.
    pub(super) weights: Vec<usize>,
    /// Its answer.
    pub(super) answer: Result<Vec<RecordOutcome>, CallFailure>,
}
