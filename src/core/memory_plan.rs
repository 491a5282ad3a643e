//! What of the process's memory its rows may take.
//!
//! `limits.memory` is what the process as a whole is to stay under, as the operating
//! system counts it (resident memory). Of that
//! - a part is taken by the process whatever it does ([`PROCESS_MEMORY`]);
//! - what is left is divided by what a budgeted byte costs (5 bytes): a
//!   row on its way is held once by its writer, and while a call carries it again as
//!   the request's records and as base64 text; and the allocator keeps some of what
//!   was freed.
//!
//! The numbers are measured, see docs/memory.md.

/// What the process takes without rows, in bytes: its code, the runtime, connections,
/// clients, and a hundred pipelines.
pub const PROCESS_MEMORY: usize = 60 * 1024 * 1024;

/// What is left beside that of the least ceiling that is kept, 72 MiB.
const LEAST_LEFT: usize = 12 * 1024 * 1024;

/// What a budgeted byte costs in resident memory at worst.
const COST_OF_A_BYTE: usize = 5;

/// Rows that wait for a stuck shard are remembered by id: an eighth of what is left is
/// for that.
const STASH_PART: usize = 8;

/// What an id takes, in bytes: 8, in queues that double when they are full.
const BYTES_OF_AN_ID: usize = 16;

/// How the memory is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes that rows may take, those about to be read included.
    pub rows: usize,
    /// Row ids that may be remembered beside them.
    pub stashed_ids: usize,
}

impl MemoryPlan {
    /// The plan for a process that is to stay under `ceiling` bytes.
    #[must_use]
    pub fn under(ceiling: usize) -> Self {
        // A ceiling below what the process needs cannot be kept; it gets by with
        // little.
        let most = (ceiling / 4 * 3).max(ceiling.saturating_sub(LEAST_LEFT));
        let process = PROCESS_MEMORY.min(most);
        let left = ceiling - process;
        let stash = left / STASH_PART;
        Self {
            rows: (left - stash) / COST_OF_A_BYTE,
            stashed_ids: stash / BYTES_OF_AN_ID,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn all_parts_together_are_the_ceiling() {
        for ceiling in [72 * MIB, 256 * MIB, 4096 * MIB] {
            let plan = MemoryPlan::under(ceiling);
            let rows = plan.rows * COST_OF_A_BYTE;
            let all = PROCESS_MEMORY + rows + plan.stashed_ids * BYTES_OF_AN_ID;
            assert!(all <= ceiling && all + 64 > ceiling, "{all} of {ceiling}");
        }
        assert_eq!(
            MemoryPlan::under(72 * MIB).rows,
            (12 * MIB - 12 * MIB / 8) / 5
        );
    }

    #[test]
    fn a_ceiling_that_cannot_be_kept_leaves_something() {
        let plan = MemoryPlan::under(MIB);
        assert!(plan.rows > 40_000 && plan.stashed_ids > 1000, "{plan:?}");
    }
}
