//! How often a part file's bytes are recorded.

use std::time::Duration;

use super::sidecar;

/// How often the bytes are recorded, and during which boot of the machine.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub boot: Option<String>,
    /// The minimum distance between marks of the trail.
    pub trail_bytes: u64,
    pub note_bytes: u64,
    pub note_interval: Duration,
    pub checkpoint_bytes: u64,
    pub checkpoint_interval: Duration,
}

impl Policy {
    /// The trail of a small object gets a mark after each chunk, because chunks have up to 508 KiB.
    ///
    /// A fast disk writes 128 MiB in a second or two, and on a slow link little is lost in 10 s. With both limits, the
    /// cost of a checkpoint (one more flush) is negligible. A note is a write of 128 bytes to the page cache.
    pub(super) fn of_this_machine() -> Self {
        Self {
            boot: sidecar::boot_id(),
            trail_bytes: 256 * 1024,
            note_bytes: 1024 * 1024,
            note_interval: Duration::from_millis(250),
            checkpoint_bytes: 128 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(10),
        }
    }
}
