//! What a queue must know of a row.

/// A row on its way.
pub trait Sendable {
    /// The hash key of its partition key. Two keys with one hash are treated as
    /// one key, which only makes them wait for each other.
    fn hash(&self) -> u128;
    /// Data plus partition key, in bytes.
    fn weight(&self) -> usize;
    /// The partition key, in bytes.
    fn key_bytes(&self) -> usize;
    /// Whether both have the same partition key, not only the same hash key.
    fn is_of_key_of(&self, other: &Self) -> bool;
    /// It was in a call of which nobody knows what it did: it may be in the stream.
    fn doubt(&mut self);
    /// Whether it may be in the stream.
    fn is_in_doubt(&self) -> bool;
}
