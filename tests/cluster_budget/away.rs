//! The coordination database is away: what nodes hold of the shards they go on with as
//! far as others leave it to them, and pipelines of another database go on.
