//! Limits on the memory of shared reads, and on the time that bytes are kept.

use std::time::Duration;

/// Limits on what a store keeps for several consumers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum memory for kept bytes. `None`: as much as the budget has.
    pub bytes_max: Option<u64>,
    /// How many bytes of an object are kept while only one consumer has requested it, for others that follow soon.
    pub first_bytes: u64,
    /// How long bytes are kept after they were last used.
    pub linger: Duration,
    /// How long after the last read a store that keeps what is read is read again, even if all bytes are in memory.
    pub read_again_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes_max: None,
            // A relay that reads ahead for a single consumer uses more (8 MiB in each of three requests), but not yet
            // when it has read this much.
            first_bytes: 16 << 20,
            // A fleet whose members start within some seconds of one another finds what the first ones have read.
            linger: Duration::from_secs(10),
            // Longer than a cache folder that has failed is left alone.
            read_again_after: Duration::from_secs(60),
        }
    }
}
